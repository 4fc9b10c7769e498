//! The canary: a message of our own through the broker and back, for brokers and bridges that acknowledge and do not
//! deliver.
//!
//! ```text
//!             due                      back, in time or late
//!  resting ─────────► flying ────────────────────────────────► resting, every `interval`
//!     ▲                 │ not back within `deadline`
//!     │                 ▼
//!     └── due again ── lost, one more in a row ── LOST_MAX in a row ──► dead: end the session
//!                                             └─ none ever came back ──► silent: say so, once
//! ```
//!
//! A canary that has never come back proves nothing: the topic may not lead back to us at all. Then the session is left
//! alone and an operator is told. Once one has come back in the life of the process, the topic is known to work.
//!
//! A payload is `<tag>-<number>`: the tag tells canaries of this process from another gateway's on the same topic and from
//! one that a broker kept.

use std::time::Duration;

use crate::time::Instant;

/// So many lost in a row end the session: QoS 0 may lose one.
pub const LOST_MAX: u32 = 3;

/// How often, and how long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// From one to the next.
    pub interval: Duration,
    /// It must be back within this.
    pub deadline: Duration,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing before this time.
    Wait(Instant),
    /// Publish [`Canary::payload`], then call [`Canary::sent`].
    Send,
    /// Tell the operator: canaries do not come back, and none ever has.
    NeverBack,
    /// The broker takes messages and does not deliver them: end the session.
    Dead,
}

/// What the canaries of this process have shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Canaries that came back.
    pub back: u64,
    /// Canaries that did not come back in time.
    pub lost: u64,
    /// How long the last one took.
    pub round_trip: Option<Duration>,
    /// When the last one came back.
    pub back_at: Option<Instant>,
}

/// The machine, over sessions.
#[derive(Clone, Debug)]
pub struct Canary {
    settings: Settings,
    tag: u64,
    /// Of the last one sent.
    number: u64,
    state: State,
    lost_in_a_row: u32,
    told: bool,
    seen: Seen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No session, or the broker does not let us have the topic.
    Off,
    Resting {
        due: Instant,
    },
    Flying {
        since: Instant,
    },
    /// Too many were lost. Only the end of the session follows, or one that comes back after all.
    Dead,
}

impl Canary {
    /// Of a process that is told apart from others by `tag`, a random number.
    #[must_use]
    pub const fn new(settings: Settings, tag: u64) -> Self {
        Self {
            settings,
            tag,
            number: 0,
            state: State::Off,
            lost_in_a_row: 0,
            told: false,
            seen: Seen {
                back: 0,
                lost: 0,
                round_trip: None,
                back_at: None,
            },
        }
    }

    /// The topic is subscribed to on a new session: the first one goes at once.
    pub const fn begin(&mut self, now: Instant) {
        self.state = State::Resting { due: now };
        self.lost_in_a_row = 0;
    }

    /// The session is over, or the broker refuses the topic.
    pub const fn end(&mut self) {
        self.state = State::Off;
    }

    /// What to do now; none: nothing until something happens. `excused` is the time until which silence was not the
    /// peer's: no deadline counts from before it.
    pub fn poll(&mut self, now: Instant, excused: Option<Instant>) -> Option<Step> {
        loop {
            match self.state {
                State::Off => return None,
                State::Dead => return Some(Step::Dead),
                State::Resting { due } if due > now => return Some(Step::Wait(due)),
                State::Resting { .. } => return Some(Step::Send),
                State::Flying { since } => {
                    let until = excused.map_or(since, |at| at.max(since)) + self.settings.deadline;
                    if until > now {
                        return Some(Step::Wait(until));
                    }
                    if let Some(step) = self.lost(now) {
                        return Some(step);
                    }
                }
            }
        }
    }

    fn lost(&mut self, now: Instant) -> Option<Step> {
        self.seen.lost += 1;
        self.lost_in_a_row = self.lost_in_a_row.saturating_add(1);
        self.state = State::Resting { due: now };
        if self.lost_in_a_row < LOST_MAX {
            return None;
        }
        if self.seen.back > 0 {
            self.state = State::Dead;
            return Some(Step::Dead);
        }
        self.state = State::Resting {
            due: now + self.settings.interval,
        };
        let first = !self.told;
        self.told = true;
        first.then_some(Step::NeverBack)
    }

    /// What to publish on [`Step::Send`].
    #[must_use]
    pub fn payload(&self) -> String {
        format!("{:016x}-{}", self.tag, self.number + 1)
    }

    /// It is on its way.
    pub const fn sent(&mut self, now: Instant) {
        self.number += 1;
        self.state = State::Flying { since: now };
    }

    /// A message came on the topic; whether it was a canary of ours.
    pub fn heard(&mut self, now: Instant, payload: &[u8]) -> bool {
        let Some(number) = self.number_of(payload) else {
            return false;
        };
        self.seen.back += 1;
        self.seen.back_at = Some(now);
        self.lost_in_a_row = 0;
        match self.state {
            State::Flying { since } if number == self.number => {
                self.seen.round_trip = Some(now.saturating_since(since));
                self.state = State::Resting {
                    due: since + self.settings.interval,
                };
            }
            State::Dead => self.state = State::Resting { due: now },
            State::Off | State::Resting { .. } | State::Flying { .. } => {}
        }
        true
    }

    fn number_of(&self, payload: &[u8]) -> Option<u64> {
        let text = std::str::from_utf8(payload).ok()?;
        let (tag, number) = text.split_once('-')?;
        let number = number.parse().ok().filter(|&it| it <= self.number)?;
        (u64::from_str_radix(tag, 16) == Ok(self.tag)).then_some(number)
    }

    /// What has been seen so far.
    #[must_use]
    pub const fn seen(&self) -> Seen {
        self.seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings {
        interval: Duration::from_secs(60),
        deadline: Duration::from_secs(10),
    };

    fn at(seconds: u64) -> Instant {
        Instant::from_start(Duration::from_secs(seconds))
    }

    fn sent(canary: &mut Canary, seconds: u64) -> String {
        assert_eq!(canary.poll(at(seconds), None), Some(Step::Send));
        let payload = canary.payload();
        canary.sent(at(seconds));
        payload
    }

    fn begun() -> Canary {
        let mut canary = Canary::new(SETTINGS, 0xfeed);
        assert_eq!(canary.poll(at(0), None), None, "no session");
        canary.begin(at(0));
        canary
    }

    /// One that has come back once, and rests.
    fn proven() -> Canary {
        let mut canary = begun();
        let payload = sent(&mut canary, 0);
        assert_eq!(payload, "000000000000feed-1");
        assert_eq!(canary.poll(at(0), None), Some(Step::Wait(at(10))));
        assert!(canary.heard(at(1), payload.as_bytes()));
        canary
    }

    #[test]
    fn one_that_comes_back_goes_again_after_the_interval() {
        let mut canary = proven();
        assert_eq!(canary.poll(at(1), None), Some(Step::Wait(at(60))));
        let payload = sent(&mut canary, 60);
        assert!(canary.heard(at(63), payload.as_bytes()));
        let seen = canary.seen();
        assert_eq!((seen.back, seen.lost), (2, 0));
        assert_eq!(seen.round_trip, Some(Duration::from_secs(3)));
        assert_eq!(seen.back_at, Some(at(63)));
    }

    #[test]
    fn three_lost_in_a_row_end_the_session() {
        let mut canary = proven();
        sent(&mut canary, 60);
        sent(&mut canary, 70);
        let last = sent(&mut canary, 80);
        assert_eq!(canary.poll(at(89), None), Some(Step::Wait(at(90))));
        assert_eq!(canary.poll(at(90), None), Some(Step::Dead));
        assert_eq!(canary.poll(at(90), None), Some(Step::Dead));
        assert_eq!(canary.seen().lost, 3);
        let mut spared = canary.clone();
        assert!(spared.heard(at(90), last.as_bytes()));
        assert_eq!(spared.poll(at(90), None), Some(Step::Send));
        canary.begin(at(100));
        assert_eq!(canary.poll(at(100), None), Some(Step::Send));
    }

    #[test]
    fn a_late_one_proves_as_much() {
        let mut canary = proven();
        let late = sent(&mut canary, 60);
        sent(&mut canary, 70);
        assert!(canary.heard(at(75), late.as_bytes()));
        assert_eq!(canary.poll(at(75), None), Some(Step::Wait(at(80))));
        sent(&mut canary, 80);
        sent(&mut canary, 90);
        assert_eq!(canary.poll(at(99), None), Some(Step::Wait(at(100))));
    }

    #[test]
    fn a_topic_that_never_led_back_ends_nothing() {
        let mut canary = begun();
        sent(&mut canary, 0);
        sent(&mut canary, 10);
        sent(&mut canary, 20);
        assert_eq!(canary.poll(at(30), None), Some(Step::NeverBack));
        assert_eq!(canary.poll(at(30), None), Some(Step::Wait(at(90))));
        sent(&mut canary, 90);
        assert_eq!(
            canary.poll(at(100), None),
            Some(Step::Wait(at(160))),
            "told once, and no more often than the interval"
        );
    }

    #[test]
    fn what_others_say_is_no_canary() {
        let mut canary = begun();
        sent(&mut canary, 0);
        for other in [
            "000000000000beef-1",
            "000000000000feed-2",
            "000000000000feed-",
            "-1",
            "feed",
            "",
            "\u{fffd}-1",
        ] {
            assert!(!canary.heard(at(1), other.as_bytes()), "{other}");
        }
        assert!(!canary.heard(at(1), &[0xff, b'-', b'1']));
        assert_eq!(canary.seen(), Seen::default());
    }

    #[test]
    fn silence_that_was_ours_is_not_held_against_the_broker() {
        let mut canary = proven();
        sent(&mut canary, 60);
        assert_eq!(
            canary.poll(at(300), Some(at(300))),
            Some(Step::Wait(at(310)))
        );
    }

    #[test]
    fn a_session_that_ends_takes_its_canary_along() {
        let mut canary = proven();
        let payload = sent(&mut canary, 60);
        canary.end();
        assert_eq!(canary.poll(at(500), None), None);
        canary.begin(at(500));
        assert!(canary.heard(at(500), payload.as_bytes()));
        assert_eq!(canary.poll(at(500), None), Some(Step::Send));
    }
}
