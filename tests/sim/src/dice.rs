//! Seeded choices.

use std::time::Duration;

use moorline_core::link::backoff::Random;

/// A die of its own for each part of the model, so that a change in one does not shuffle the others.
#[derive(Debug)]
pub(crate) struct Dice(Random);

impl Dice {
    pub(crate) fn new(seed: u64, part: u64) -> Self {
        let mut random = Random::seeded(seed ^ part.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        random.next_u64();
        Self(random)
    }

    /// A number less than `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0.next_u64() % limit.max(1)
    }

    /// True so many times in a hundred.
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of these.
    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        let index = usize::try_from(self.below(choices.len() as u64)).unwrap_or(0);
        choices[index]
    }

    /// Between two numbers of milliseconds.
    pub(crate) fn ms(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(low + self.below(high - low + 1))
    }

    pub(crate) fn random(&mut self) -> &mut Random {
        &mut self.0
    }
}
