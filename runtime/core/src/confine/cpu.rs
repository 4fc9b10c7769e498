//! The share of one core that a guest may use.

use std::time::Duration;

use super::Bucket;
use crate::time::Instant;

/// What it earns in this time it may use at once. Over it, the guest waits until it has earned what it used.
pub const WINDOW: Duration = Duration::from_secs(10);

const NANOS_PER_PERCENT: u64 = 10_000_000;

/// CPU time of one instance, earned by time passing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuShare(Bucket);

impl CpuShare {
    /// `percent` of one core.
    #[must_use]
    pub fn new(now: Instant, percent: u64) -> Self {
        let per_s = percent.saturating_mul(NANOS_PER_PERCENT);
        Self(Bucket::new(
            now,
            per_s,
            per_s.saturating_mul(WINDOW.as_secs()),
        ))
    }

    /// A call has used `cpu`. Says how long the next one must wait, zero within the share.
    pub fn charge(&mut self, now: Instant, cpu: Duration) -> Duration {
        let nanos = u64::try_from(cpu.as_nanos()).unwrap_or(u64::MAX);
        self.0.charge(now, nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_never_rests_gets_its_share_in_the_long_run() {
        let mut share = CpuShare::new(Instant::ZERO, 20);
        let call = Duration::from_millis(100);
        let (mut now, mut used) = (Instant::ZERO, Duration::ZERO);
        let hour = Instant::from_start(Duration::from_secs(3_600));
        while now < hour {
            now = now + call;
            used += call;
            now = now + share.charge(now, call);
        }
        // A fifth of an hour, and what it may use at once.
        let most = Duration::from_secs(720 + 2) + call;
        assert!(used <= most, "{used:?}");
        assert!(used >= Duration::from_secs(720), "{used:?}");
    }

    #[test]
    fn a_burst_within_the_window_waits_for_nothing() {
        let mut share = CpuShare::new(Instant::ZERO, 50);
        let second = Duration::from_secs(1);
        for s in 1..=9 {
            let now = Instant::from_start(Duration::from_secs(s));
            assert_eq!(share.charge(now, second), Duration::ZERO, "{s}");
        }
        // 5 s at once, and half a second for each that passed since.
        let now = Instant::from_start(Duration::from_secs(10));
        assert_eq!(share.charge(now, second), second);
    }
}
