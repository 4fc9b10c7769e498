//! A token bucket: so much per second, and so much at once.

use std::time::Duration;

use crate::time::Instant;

/// Tokens are counted in billionths, so that a rate per second loses nothing between two looks a microsecond apart.
const PARTS: i128 = 1_000_000_000;

/// Earns `per_s` tokens a second, up to `burst`.
///
/// What is larger than the burst is let through once the bucket is full, and paid for afterwards: nothing that is legal by
/// itself waits for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    per_s: u64,
    burst: u64,
    /// Below zero: a debt.
    level: i128,
    seen: Instant,
}

impl Bucket {
    /// A full bucket. A rate or burst of zero counts as one.
    #[must_use]
    pub fn new(now: Instant, per_s: u64, burst: u64) -> Self {
        let burst = burst.max(1);
        Self {
            per_s: per_s.max(1),
            burst,
            level: i128::from(burst) * PARTS,
            seen: now,
        }
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_since(self.seen).as_nanos();
        let elapsed = i128::try_from(elapsed).unwrap_or(i128::MAX);
        let earned = elapsed.saturating_mul(i128::from(self.per_s));
        let full = i128::from(self.burst) * PARTS;
        self.level = self.level.saturating_add(earned).min(full);
        self.seen = self.seen.max(now);
    }

    /// How long it takes until `level` parts are there.
    fn until(&self, level: i128) -> Duration {
        let missing = level.saturating_sub(self.level).max(0);
        let per_s = i128::from(self.per_s);
        let nanos = missing.saturating_add(per_s - 1) / per_s;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Takes `count` tokens, or says how long to wait for them.
    ///
    /// # Errors
    /// With the wait, when there are too few. Nothing is taken then.
    pub fn take(&mut self, now: Instant, count: u64) -> Result<(), Duration> {
        self.refill(now);
        let needed = i128::from(count.min(self.burst)) * PARTS;
        if self.level < needed {
            return Err(self.until(needed));
        }
        self.level -= i128::from(count) * PARTS;
        Ok(())
    }

    /// Gives back what was taken and not used.
    pub fn give_back(&mut self, count: u64) {
        let full = i128::from(self.burst) * PARTS;
        let given = i128::from(count) * PARTS;
        self.level = self.level.saturating_add(given).min(full);
    }

    /// Charges what has been used already, be it a debt. Says how long it takes to pay.
    pub fn charge(&mut self, now: Instant, count: u64) -> Duration {
        self.refill(now);
        self.level = self.level.saturating_sub(i128::from(count) * PARTS);
        self.until(0)
    }

    /// How long a debt takes to pay; zero without one.
    #[must_use]
    pub fn debt(&mut self, now: Instant) -> Duration {
        self.refill(now);
        self.until(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_start(Duration::from_millis(ms))
    }

    #[test]
    fn a_burst_passes_and_then_the_rate_counts() {
        let mut bucket = Bucket::new(at(0), 10, 5);
        assert_eq!(bucket.take(at(0), 5), Ok(()));
        assert_eq!(bucket.take(at(0), 1), Err(Duration::from_millis(100)));
        assert_eq!(bucket.take(at(100), 1), Ok(()));
        assert_eq!(bucket.take(at(150), 2), Err(Duration::from_millis(150)));
        bucket.give_back(2);
        assert_eq!(bucket.take(at(150), 2), Ok(()));
    }

    #[test]
    fn what_is_larger_than_the_burst_passes_when_full_and_is_paid_for() {
        let mut bucket = Bucket::new(at(0), 10, 5);
        assert_eq!(bucket.take(at(0), 1), Ok(()));
        assert_eq!(bucket.take(at(0), 100), Err(Duration::from_millis(100)));
        assert_eq!(bucket.take(at(100), 100), Ok(()));
        assert_eq!(bucket.debt(at(100)), Duration::from_millis(9_500));
        assert_eq!(bucket.take(at(9_600), 1), Err(Duration::from_millis(100)));
    }

    #[test]
    fn a_clock_that_steps_back_and_the_largest_numbers_do_no_harm() {
        let mut bucket = Bucket::new(at(1_000), u64::MAX, u64::MAX);
        assert_eq!(bucket.take(at(0), u64::MAX), Ok(()));
        assert!(bucket.take(at(0), 1).is_err());
        let end = Instant::from_start(Duration::MAX);
        assert_eq!(bucket.take(end, u64::MAX), Ok(()));
        assert_eq!(bucket.charge(end, 0), Duration::ZERO);
        let mut slow = Bucket::new(at(0), 0, 0);
        assert_eq!(slow.take(at(0), 1), Ok(()));
        assert_eq!(slow.take(at(0), 1), Err(Duration::from_secs(1)));
    }

    proptest! {
        #[test]
        fn never_more_than_the_burst_and_what_was_earned(
            per_s in 1_u64..1_000,
            burst in 1_u64..1_000,
            steps in prop::collection::vec((0_u64..500, 0_u64..50), 1..200),
        ) {
            let mut bucket = Bucket::new(at(0), per_s, burst);
            let (mut now, mut taken) = (0, 0);
            for (pause, count) in steps {
                now += pause;
                match bucket.take(at(now), count) {
                    Ok(()) => taken += count,
                    Err(wait) => {
                        // The wait is neither too short nor longer than the burst takes to earn.
                        let then = at(now) + wait;
                        let mut later = bucket;
                        prop_assert_eq!(later.take(then, count), Ok(()));
                        prop_assert!(wait <= Duration::from_secs(burst.div_ceil(per_s) + 50));
                    }
                }
                // One item may be larger than the burst; it is paid for before the next.
                prop_assert!(taken <= burst + per_s * now / 1_000 + 50);
            }
        }
    }
}
