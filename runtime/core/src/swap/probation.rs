//! Whether a new generation does what the one before did: faults, silence, and when it has proved itself.
//!
//! ```text
//!   the old one serves          cut-over       the new one serves
//!  ───────────────────────────────┼─────────────────────────────────────────────►
//!   └──── what it did in the last ┤  calls ≥ `calls`, `duration` over, no alarm ► proved
//!         `duration`: its Pace    │  faults, nothing for long, much less        ► rolled back
//! ```
//!
//! Both sides are read from the same counters, looked at now and then. An alarm compares: what the old one did, too, is not
//! held against the new one. A generation that the host itself turned back is not called silent.

use std::collections::VecDeque;
use std::time::Duration;

use crate::time::Instant;

use super::state::{Build, Failure, Reason};

/// What a new generation must do before the one before it is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Calls it must have ended well.
    pub calls: u64,
    /// How long it must have served.
    pub duration: Duration,
    /// After so long it has proved itself even with fewer calls.
    pub duration_max: Duration,
    /// So many calls of a hundred more than of the old one's may end in a fault; 100 = any number.
    pub fault_percent: u8,
    /// It must emit so many readings of a hundred that the old one did in the same time, if that one emitted
    /// regularly; 0 = none.
    pub silence_percent: u8,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            calls: 20,
            duration: Duration::from_secs(30),
            duration_max: Duration::from_secs(3600),
            fault_percent: 25,
            silence_percent: 20,
        }
    }
}

/// What a generation has done since it took over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Calls that ended well.
    pub calls: u64,
    /// Calls that ended with a fault the guest reported.
    pub faults: u64,
    /// Readings it emitted, whether or not they were worth a message.
    pub emitted: u64,
    /// Batches that the host turned back.
    pub turned_back: u64,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    served: Served,
}

/// Looks kept of one probation's length.
const LOOKS: u32 = 32;
/// A pause this many times as long as any of the old generation's is silence. An old one whose pauses are longer than
/// this part of the probation did not emit regularly.
const PAUSE_FACTOR: u32 = 3;

/// What the serving generation did lately.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace(VecDeque<Sample>);

/// What the old generation did in about one probation's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Before {
    over: Duration,
    answered: u64,
    faults: u64,
    emitted: u64,
    longest_pause: Duration,
}

impl Pace {
    pub(super) fn note(&mut self, at: Instant, served: Served, window: Duration) {
        if let Some(last) = self.0.back() {
            let back = served.calls < last.served.calls || served.emitted < last.served.emitted;
            if back {
                self.0.clear();
            } else if at - last.at < window / LOOKS {
                return;
            }
        }
        self.0.push_back(Sample { at, served });
        let start = at.since_start().saturating_sub(window);
        while self
            .0
            .get(1)
            .is_some_and(|second| second.at.since_start() <= start)
        {
            self.0.pop_front();
        }
    }

    fn before(&self, window: Duration) -> Option<Before> {
        let (first, last) = (self.0.front()?, self.0.back()?);
        let over = last.at - first.at;
        if over < window / 2 || over.is_zero() {
            return None;
        }
        let (mut spoke, mut emitted) = (first.at, first.served.emitted);
        let mut longest_pause = Duration::ZERO;
        for sample in &self.0 {
            longest_pause = longest_pause.max(sample.at - spoke);
            if sample.served.emitted > emitted {
                (spoke, emitted) = (sample.at, sample.served.emitted);
            }
        }
        let faults = last.served.faults.saturating_sub(first.served.faults);
        Some(Before {
            over,
            answered: last.served.calls - first.served.calls + faults,
            faults,
            emitted: last.served.emitted - first.served.emitted,
            longest_pause,
        })
    }
}

/// One generation on probation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probation {
    /// What is kept meanwhile.
    pub(super) old: Build,
    terms: Terms,
    since: Instant,
    before: Option<Before>,
    served: Served,
    looked: Instant,
    spoke: Instant,
}

impl Probation {
    pub(super) fn new(old: Build, now: Instant, pace: &Pace, terms: Terms) -> Self {
        Self {
            old,
            terms,
            since: now,
            before: pace.before(terms.duration),
            served: Served::default(),
            looked: now,
            spoke: now,
        }
    }

    /// When it is over if nothing happens.
    pub(super) fn end(&self) -> Instant {
        if self.served.calls >= self.terms.calls {
            self.since + self.terms.duration
        } else {
            self.latest()
        }
    }

    /// When it is over at the latest.
    pub(super) fn latest(&self) -> Instant {
        self.since + self.terms.duration.max(self.terms.duration_max)
    }

    /// Takes a look, and says what is wrong.
    pub(super) fn note(&mut self, now: Instant, served: Served) -> Option<Failure> {
        self.looked = now;
        if served.emitted > self.served.emitted {
            self.spoke = now;
        }
        self.served = Served {
            calls: served.calls.max(self.served.calls),
            ..served
        };
        self.too_many_faults().or_else(|| self.says_nothing())
    }

    /// At its end: what is wrong even so.
    pub(super) fn verdict(&self) -> Option<Failure> {
        self.says_little()
    }

    fn too_many_faults(&self) -> Option<Failure> {
        let answered = self.served.calls + self.served.faults;
        if answered == 0 || answered < self.terms.calls {
            return None;
        }
        let (before, answered_before) = self.before.map_or((0, 0), |b| (b.faults, b.answered));
        let percent =
            |faults: u64, answered: u64| u128::from(faults) * 100 / u128::from(answered).max(1);
        let most = percent(before, answered_before) + u128::from(self.terms.fault_percent);
        if percent(self.served.faults, answered) <= most {
            return None;
        }
        let faults = self.served.faults;
        Some(Failure::new(
            Reason::Faulty,
            format!(
                "{faults} of {answered} calls ended with a fault; of the generation before, {before} of {answered_before}"
            ),
        ))
    }

    /// The old generation's figures, if it emitted regularly and the new one is to do likewise.
    fn regular(&self) -> Option<Before> {
        let asked = self.terms.silence_percent > 0 && self.served.turned_back == 0;
        self.before.filter(|before| {
            asked
                && before.emitted > 0
                && before.longest_pause.saturating_mul(PAUSE_FACTOR) <= self.terms.duration
        })
    }

    fn says_nothing(&self) -> Option<Failure> {
        let before = self.regular()?;
        let most = (before.longest_pause.saturating_mul(PAUSE_FACTOR))
            .max(self.terms.duration / PAUSE_FACTOR);
        let pause = self.looked - self.spoke;
        (pause > most).then(|| {
            Failure::new(
                Reason::Silent,
                format!(
                    "nothing was emitted for {:.1} s; the generation before paused for at most {:.1} s",
                    pause.as_secs_f64(),
                    before.longest_pause.as_secs_f64()
                ),
            )
        })
    }

    fn says_little(&self) -> Option<Failure> {
        let before = self.regular()?;
        let over = self.looked - self.since;
        // What would be expected of so short a look is not worth a judgement.
        if over < self.terms.duration / 2 {
            return None;
        }
        let least =
            u128::from(before.emitted) * over.as_millis() * u128::from(self.terms.silence_percent);
        let emitted = u128::from(self.served.emitted) * before.over.as_millis() * 100;
        (emitted < least).then(|| {
            Failure::new(
                Reason::Silent,
                format!(
                    "{} readings were emitted in {:.1} s; the generation before emitted {} in {:.1} s",
                    self.served.emitted,
                    over.as_secs_f64(),
                    before.emitted,
                    before.over.as_secs_f64()
                ),
            )
        })
    }
}
