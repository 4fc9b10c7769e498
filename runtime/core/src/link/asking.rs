//! Whether a session asks the platform for its limits, and whether data waits for the answer.
//!
//! ```text
//!  a broker never heard of ── session up: asks, and holds data ──┬── answer ──► known: no session waits any more
//!                                                                └── silence ─► asked again by each session, none waits
//!  a session that ends right after the question ── the next one does not ask ── that again: nobody asks any more
//! ```
//!
//! Data goes at once in every session but the first: what was learnt is remembered, also that there is nothing to learn.
//! The hold is short: the platform answers before anything else, and who does not answer has no limits to keep.

use std::sync::Arc;
use std::time::Duration;

use crate::time::Instant;

/// So long the data of the first session waits for the answer.
pub const HOLD: Duration = Duration::from_millis(250);
/// A session that ended so soon after the question may have ended over it. Two such in a row would look like another client
/// with our id, and cost minutes ([`Classifier`](super::classify::Classifier)): so the next one does not ask.
const SOON: Duration = Duration::from_secs(5);
/// So many that asked, without one in between that ended as soon without asking, have.
const ENDS_MAX: u32 = 2;

/// The machine. It outlives sessions.
#[derive(Clone, Debug)]
pub struct Asking {
    wanted: bool,
    /// The broker that what is known is known of.
    broker: Option<Arc<str>>,
    settled: bool,
    /// It has answered once: sessions do not end over the question.
    answers: bool,
    /// Since when there is a session.
    up_at: Option<Instant>,
    /// It has asked and has no answer.
    awaits: bool,
    hold_until: Option<Instant>,
    ends: u32,
    /// This session or the next does not ask.
    skips: bool,
}

impl Asking {
    /// One that asks, if it is `wanted`.
    #[must_use]
    pub const fn new(wanted: bool) -> Self {
        Self {
            wanted,
            broker: None,
            settled: false,
            answers: false,
            up_at: None,
            awaits: false,
            hold_until: None,
            ends: 0,
            skips: false,
        }
    }

    /// Whether the next session asks.
    #[must_use]
    pub const fn asks(&self) -> bool {
        self.wanted && !self.skips && self.ends < ENDS_MAX
    }

    /// A session with `broker` is up and has asked, if it [`asks`](Self::asks). True when what was learnt before was of
    /// another broker.
    pub fn up(&mut self, now: Instant, broker: &Arc<str>) -> bool {
        let another = self.broker.as_ref().is_some_and(|known| known != broker);
        if self.broker.as_ref() != Some(broker) {
            self.broker = Some(Arc::clone(broker));
            self.settled = false;
            self.answers = false;
        }
        self.up_at = Some(now);
        self.awaits = self.asks();
        self.hold_until = (self.asks() && !self.settled).then(|| now + HOLD);
        another
    }

    /// Until when data waits for the answer.
    #[must_use]
    pub const fn hold_until(&self) -> Option<Instant> {
        self.hold_until
    }

    /// The platform has answered, in whatever words. True if data waited for that.
    pub fn answered(&mut self) -> bool {
        self.awaits = false;
        self.settled = true;
        self.answers = true;
        self.ends = 0;
        self.hold_until.take().is_some()
    }

    /// Time has passed. True when data need wait no longer.
    pub fn poll(&mut self, now: Instant) -> bool {
        if self.hold_until.is_some_and(|until| until <= now) {
            self.settled = true;
            self.hold_until = None;
            return true;
        }
        false
    }

    /// We have ended the session, or an attempt at one: that says nothing of the question.
    pub fn ended_by_us(&mut self) {
        (self.hold_until, self.up_at, self.awaits) = (None, None, false);
    }

    /// The session is over, or an attempt at one. True when it may have ended over the question.
    pub fn over(&mut self, now: Instant) -> bool {
        self.hold_until = None;
        let Some(up_at) = self.up_at.take() else {
            return false;
        };
        let soon = now.saturating_since(up_at) < SOON;
        if !std::mem::take(&mut self.awaits) {
            // It was not the question.
            if self.skips && soon {
                self.ends = 0;
            }
            self.skips = false;
            return false;
        }
        if self.answers || !soon {
            self.ends = 0;
            return false;
        }
        self.ends += 1;
        self.skips = true;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_start(Duration::from_millis(ms))
    }

    #[test]
    fn only_the_first_session_waits_whether_there_is_an_answer_or_not() {
        let (here, there) = (Arc::from("a:1883"), Arc::from("b:1883"));
        for answers in [true, false] {
            let mut asking = Asking::new(true);
            assert!(asking.asks());
            assert!(!asking.up(at(0), &here));
            assert_eq!(asking.hold_until(), Some(at(250)));
            if answers {
                assert!(!asking.poll(at(20)));
                assert!(asking.answered());
            } else {
                assert!(asking.poll(at(250)));
            }
            assert!(!asking.poll(at(300)));
            assert!(!asking.over(at(9_000)));
            assert!(!asking.up(at(10_000), &here));
            assert_eq!(asking.hold_until(), None);
            assert!(asking.asks(), "limits change");
            assert!(asking.up(at(20_000), &there), "nothing is known of that");
            assert_eq!(asking.hold_until(), Some(at(20_250)));
        }
    }

    #[test]
    fn a_session_that_we_end_says_nothing_of_the_question() {
        let mut asking = Asking::new(true);
        let here = Arc::from("a:1883");
        for session in 0..4 {
            asking.up(at(session * 1_000), &here);
            asking.ended_by_us();
            assert!(asking.asks());
            assert!(!asking.over(at(session * 1_000 + 20)), "it is over already");
        }
    }

    #[test]
    fn a_broker_that_ends_sessions_over_the_question_is_not_asked_again() {
        let mut asking = Asking::new(true);
        let here = Arc::from("a:1883");
        asking.up(at(0), &here);
        assert!(asking.over(at(20)));
        assert!(!asking.over(at(500)), "an attempt in between failed");
        assert!(!asking.asks(), "the next session is to live");
        asking.up(at(1_000), &here);
        assert_eq!(asking.hold_until(), None);
        assert!(!asking.over(at(900_000)));
        assert!(asking.asks(), "once may be chance");
        asking.up(at(901_000), &here);
        assert!(asking.over(at(901_020)));
        for session in 1..5 {
            assert!(!asking.asks());
            asking.up(at(1_000_000 * session), &here);
            assert!(!asking.over(at(1_000_000 * session + 500_000)));
        }
    }

    #[test]
    fn a_broker_that_ends_sessions_anyhow_is_asked_again() {
        let mut asking = Asking::new(true);
        let here = Arc::from("a:1883");
        for session in 0..10 {
            asking.up(at(1_000 * session), &here);
            assert_eq!(asking.over(at(1_000 * session + 20)), session % 2 == 0);
        }
        assert!(asking.asks());
    }

    #[test]
    fn one_that_has_answered_is_asked_for_ever() {
        let mut asking = Asking::new(true);
        let here = Arc::from("a:1883");
        asking.up(at(0), &here);
        asking.answered();
        for session in 1..10 {
            asking.up(at(session * 1_000), &here);
            assert!(!asking.over(at(session * 1_000 + 20)));
        }
        assert!(asking.asks());
    }

    #[test]
    fn who_need_not_ask_waits_for_nothing() {
        let mut asking = Asking::new(false);
        assert!(!asking.asks());
        asking.up(at(0), &Arc::from("a:1883"));
        assert_eq!(asking.hold_until(), None);
    }
}
