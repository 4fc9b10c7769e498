//! When a publish that is being filled is closed.
//!
//! ```text
//!  full ─────────────────────────────────► closed at once: it cannot grow
//!  not full ── older than age_max ──┬─────► closed, where publishes may go as they come
//!                                   └─────► closed once asked for, where they may have to wait for a limit
//! ```
//!
//! A publish that has to wait anyway is filled meanwhile: under a limit on messages that is what carries the readings.

use std::time::Duration;

use crate::time::Instant;

/// Whether the link asks for each publish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Asks {
    /// It takes them as they come.
    #[default]
    Never,
    /// It does, and waits for one.
    Waiting,
    /// It does, and none may go yet.
    NotYet,
}

/// What to do with a publish that is being filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filling {
    /// Close it.
    Close,
    /// Fill it until then.
    Until(Instant),
    /// Fill it until it is asked for.
    UntilAsked,
}

/// What becomes at `now` of a publish whose first reading was taken in at `begun_at`.
#[must_use]
pub fn judge(asks: Asks, age_max: Duration, begun_at: Instant, now: Instant) -> Filling {
    match asks {
        Asks::NotYet => Filling::UntilAsked,
        Asks::Never | Asks::Waiting => {
            let until = begun_at + age_max;
            if until <= now {
                Filling::Close
            } else {
                Filling::Until(until)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_start(Duration::from_millis(ms))
    }

    #[test]
    fn a_publish_is_closed_by_its_age_but_not_before_it_may_go() {
        let age = Duration::from_millis(100);
        let begun = at(1000);
        for asks in [Asks::Never, Asks::Waiting] {
            let zero = judge(asks, Duration::ZERO, begun, begun);
            assert_eq!(zero, Filling::Close, "no age means at once");
            assert_eq!(judge(asks, age, begun, at(1099)), Filling::Until(at(1100)));
            assert_eq!(judge(asks, age, begun, at(1100)), Filling::Close);
        }
        for now in [1000, 1100, 9_000_000] {
            let held = judge(Asks::NotYet, age, begun, at(now));
            assert_eq!(held, Filling::UntilAsked);
        }
    }
}
