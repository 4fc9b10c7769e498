//! Chance that can be had again: the same `MOORLINE_SEED` draws the same numbers.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::ops::Range;
use std::time::Duration;

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Seeded by `MOORLINE_SEED`, else anew each time; says the seed.
    ///
    /// # Panics
    /// When `MOORLINE_SEED` is no number.
    #[must_use]
    pub fn seeded(what: &str) -> Self {
        let seed = std::env::var("MOORLINE_SEED").map_or_else(
            |_unset| RandomState::new().build_hasher().finish() % 1_000_000,
            |text| text.parse().unwrap(),
        );
        println!("SEED {what}: MOORLINE_SEED={seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One of `range`, which is not empty.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start).max(1)
    }

    /// A time of `range` milliseconds.
    pub fn pause_ms(&mut self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.within(range))
    }

    /// One of `choices`.
    ///
    /// # Panics
    /// When there is none.
    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        let index = self.next() as usize % choices.len();
        choices[index]
    }
}
