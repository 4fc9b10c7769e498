//! Holds back log lines that outsiders could make us write without end.

use std::time::Duration;

use moorline_core::time::Instant;

/// A token bucket of lines. What it holds back is counted and told with the next line that passes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogGate {
    burst: u32,
    interval: Duration,
    lines: u32,
    refilled: Instant,
    suppressed: u64,
}

impl LogGate {
    /// `burst` lines in a row; after that, one per `interval`, which is not zero.
    pub(crate) fn new(now: Instant, burst: u32, interval: Duration) -> Self {
        Self {
            burst,
            interval,
            lines: burst,
            refilled: now,
            suppressed: 0,
        }
    }

    /// Whether a line may pass, and how many were held back before it.
    pub(crate) fn admit(&mut self, now: Instant) -> Option<u64> {
        let earned = now.saturating_since(self.refilled).as_nanos() / self.interval.as_nanos();
        if let Ok(earned) = u32::try_from(earned) {
            self.refilled = self.refilled + self.interval * earned;
            self.lines = self.lines.saturating_add(earned).min(self.burst);
        } else {
            self.refilled = now;
            self.lines = self.burst;
        }
        if self.lines == 0 {
            self.suppressed += 1;
            return None;
        }
        self.lines -= 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_held_back_counted_and_forgiven() {
        let at = |ms| Instant::from_start(Duration::from_millis(ms));
        let mut gate = LogGate::new(at(0), 50, Duration::from_millis(50));
        let passed = (0..1_000).filter(|_| gate.admit(at(0)).is_some()).count();
        assert_eq!(passed, 50);
        assert_eq!(gate.admit(at(50)), Some(950));
        assert_eq!(gate.admit(at(50)), None);
        let passed = (0..1_000)
            .filter(|_| gate.admit(at(3_600_000)).is_some())
            .count();
        assert_eq!(passed, 50);
    }
}
