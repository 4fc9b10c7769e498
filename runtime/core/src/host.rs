//! Tells a host that did not run us from a network that did not carry us.
//!
//! ```text
//!  expect(due) ─► … ─► look(now, clocks)
//!                        ├─ now is long past due            → the gateway was starved (or stopped)
//!                        ├─ boot time outran monotonic time → the machine was suspended
//!                        └─ wall time left boot time        → somebody set the clock
//! ```
//!
//! Monotonic time stands still while a machine is suspended and boot time does not (clock_gettime(2)): no deadline of ours
//! passes meanwhile, but those of the peer do. A pause of a whole virtual machine moves both clocks alike or neither, and
//! counts as no stolen time (proc_stat(5): only of a processor that wanted to run): nothing tells it from starvation.

use std::time::Duration;

use crate::time::Instant;

/// Less than this is what busy machines do.
pub const STALL_MIN: Duration = Duration::from_secs(1);
/// A wall clock that leaves boot time by less is being steered, not set.
pub const CLOCK_STEP_MIN: Duration = Duration::from_secs(1);
/// Network time is steered by at most 500 ppm (adjtimex(2)); twice that is allowed between two looks.
const STEERED_AT_MOST: u32 = 1_000;
/// How long a stall or a step may explain what happens.
const EXPLAINS_FOR: Duration = Duration::from_secs(60);

/// The host's clocks at one moment. Only differences between two readings mean something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// Stands still during suspend.
    pub monotonic: Duration,
    /// Runs on during suspend.
    pub boot: Duration,
    /// What people set.
    pub wall: Duration,
}

/// Why we did not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StallKind {
    /// The machine was awake and gave us no time: overload, a stopped process, a debugger. A virtual machine that was paused and
    /// whose clocks all jump afterwards looks the same.
    Starved,
    /// The machine slept.
    Suspended,
}

/// A time we did not run in. Durations as seen at the moment it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// Why.
    pub kind: StallKind,
    /// How long.
    pub lasted: Duration,
    /// Since it ended.
    pub ago: Duration,
}

/// The wall clock was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockStep {
    /// By how many milliseconds, back if negative.
    pub by_ms: i64,
    /// Since then.
    pub ago: Duration,
}

/// Notices stalls and steps between two looks.
#[derive(Clone, Debug, Default)]
pub struct HostWatch {
    due: Option<Instant>,
    last: Option<Clocks>,
    stall: Option<(Instant, StallKind, Duration)>,
    step: Option<(Instant, i64)>,
}

impl HostWatch {
    /// We mean to look again at `due` or sooner.
    pub const fn expect(&mut self, due: Instant) {
        self.due = Some(due);
    }

    /// We look. True when a stall has just ended.
    pub fn look(&mut self, now: Instant, clocks: Clocks) -> bool {
        let late = self
            .due
            .take()
            .map_or(Duration::ZERO, |due| now.saturating_since(due));
        let mut suspended = Duration::ZERO;
        if let Some(last) = self.last.replace(clocks) {
            let passed = clocks.boot.saturating_sub(last.boot);
            suspended = passed.saturating_sub(clocks.monotonic.saturating_sub(last.monotonic));
            let by_ms = millis(clocks.wall) - millis(last.wall) - millis(passed);
            let least = CLOCK_STEP_MIN + passed / STEERED_AT_MOST;
            if i128::from(by_ms.unsigned_abs()) >= i128::from(millis(least)) {
                self.step = Some((now, by_ms));
            }
        }
        let (kind, lasted) = if suspended >= STALL_MIN {
            (StallKind::Suspended, suspended)
        } else {
            (StallKind::Starved, late)
        };
        let stalled = lasted >= STALL_MIN;
        if stalled {
            self.stall = Some((now, kind, lasted));
        }
        stalled
    }

    /// The last stall, while it may explain something.
    #[must_use]
    pub fn stall(&self, now: Instant) -> Option<Stall> {
        let (at, kind, lasted) = self.stall?;
        let ago = now.saturating_since(at);
        (ago <= EXPLAINS_FOR).then_some(Stall { kind, lasted, ago })
    }

    /// The last time the wall clock was set, while that may explain something.
    #[must_use]
    pub fn clock_step(&self, now: Instant) -> Option<ClockStep> {
        let (at, by_ms) = self.step?;
        let ago = now.saturating_since(at);
        (ago <= EXPLAINS_FOR).then_some(ClockStep { by_ms, ago })
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_start(Duration::from_millis(ms))
    }

    /// The clocks of a machine that has been suspended for `slept_ms` and whose wall clock was set by `set_ms`.
    fn clocks(now_ms: u64, slept_ms: u64, set_ms: i64) -> Clocks {
        let ms = Duration::from_millis;
        Clocks {
            monotonic: ms(5_000 + now_ms),
            boot: ms(5_000 + now_ms + slept_ms),
            wall: ms((1_700_000_000_000 + now_ms + slept_ms)
                .checked_add_signed(set_ms)
                .unwrap()),
        }
    }

    /// As documented: what nobody can tell apart must not be told apart.
    #[test]
    fn a_machine_whose_clocks_all_jumped_was_starved_for_all_we_know() {
        let mut watch = looking();
        watch.expect(at(500));
        assert!(watch.look(at(300_000), clocks(300_000, 0, 0)));
        let stall = watch.stall(at(300_000)).unwrap();
        assert_eq!(stall.kind, StallKind::Starved);
        assert_eq!(watch.clock_step(at(300_000)), None);
    }

    fn looking() -> HostWatch {
        let mut host = HostWatch::default();
        assert!(!host.look(at(0), clocks(0, 0, 0)));
        host.expect(at(500));
        host
    }

    #[test]
    fn a_look_in_time_is_no_stall() {
        let mut host = looking();
        assert!(!host.look(at(1_400), clocks(1_400, 0, 0)));
        assert_eq!(host.stall(at(1_400)), None);
        assert_eq!(host.clock_step(at(1_400)), None);
    }

    #[test]
    fn a_late_look_tells_how_long_nobody_looked() {
        let mut host = looking();
        assert!(host.look(at(20_500), clocks(20_500, 0, 0)));
        let stall = Stall {
            kind: StallKind::Starved,
            lasted: Duration::from_secs(20),
            ago: Duration::from_secs(2),
        };
        assert_eq!(host.stall(at(22_500)), Some(stall));
        assert_eq!(host.stall(at(90_000)), None, "long ago");
        assert_eq!(host.clock_step(at(22_500)), None, "the wall clock went on");
        // Nothing was expected since: whoever waits for something else is not late.
        assert!(!host.look(at(80_000), clocks(80_000, 0, 0)));
    }

    #[test]
    fn a_machine_that_slept_is_not_said_to_be_overloaded() {
        let mut host = looking();
        assert!(host.look(at(700), clocks(700, 3_600_000, 0)));
        let stall = Stall {
            kind: StallKind::Suspended,
            lasted: Duration::from_secs(3_600),
            ago: Duration::ZERO,
        };
        assert_eq!(host.stall(at(700)), Some(stall));
        assert_eq!(host.clock_step(at(700)), None, "wall time slept with it");
    }

    #[test]
    fn a_clock_that_is_set_is_no_stall() {
        for by_ms in [3_600_000, -3_600_000, 1_500] {
            let mut host = looking();
            assert!(!host.look(at(400), clocks(400, 0, by_ms)));
            let step = ClockStep {
                by_ms,
                ago: Duration::from_secs(1),
            };
            assert_eq!(host.clock_step(at(1_400)), Some(step));
            assert_eq!(host.stall(at(1_400)), None);
        }
    }

    #[test]
    fn a_clock_that_is_steered_is_not_set() {
        let mut host = looking();
        // A day between two looks, at the most that network time is steered by.
        let day_ms = 86_400_000;
        assert!(!host.look(at(400), clocks(400, 0, 0)));
        assert!(!host.look(at(day_ms), clocks(day_ms, 0, 43_200)));
        assert_eq!(host.clock_step(at(day_ms)), None);
    }
}
