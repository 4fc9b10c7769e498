//! The built-in policy: exponential back-off with full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter"),
//! and the small generator that feeds it and the policies.

use std::time::Duration;

/// SplitMix64 (Steele, Lea, Flood 2014): seeded, so that a simulation replays; not for secrets.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator that always gives the same numbers for the same seed.
    #[must_use]
    pub const fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next 32 bits.
    pub const fn next_u32(&mut self) -> u32 {
        (self.next_u64() >> 32) as u32
    }

    /// A duration between `low` and `high`, both included.
    pub fn between(&mut self, low: Duration, high: Duration) -> Duration {
        let span = u64::try_from(high.saturating_sub(low).as_nanos()).unwrap_or(u64::MAX - 1);
        low + Duration::from_nanos(self.next_u64() % (span + 1))
    }
}

/// How long to wait before attempt number `attempt` (from 1): between `floor` and `floor * 2^attempt`, at most `ceiling`.
pub fn full_jitter(
    attempt: u32,
    floor: Duration,
    ceiling: Duration,
    random: &mut Random,
) -> Duration {
    let doubled = floor.saturating_mul(1 << attempt.min(20));
    random.between(
        floor.min(ceiling),
        doubled.min(ceiling).max(floor.min(ceiling)),
    )
}
