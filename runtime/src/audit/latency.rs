//! How long readings took, in a table of fixed size.

use serde::Serialize;

/// Steps to each doubling: percentiles are right to an eighth.
const STEPS: u64 = 8;
const STEPS_LOG2: u32 = 3;
/// Doublings: up to 2^34 ms, half a year.
const DOUBLINGS: usize = 34;
const PLACES: usize = DOUBLINGS * STEPS as usize;

/// How often each latency occurred.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latencies {
    /// Grows to [`PLACES`] as slow ones come.
    counts: Vec<u32>,
    total: u64,
    max_ms: u64,
}

/// What they come to, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) p50_ms: u64,
    pub(crate) p99_ms: u64,
    pub(crate) max_ms: u64,
}

impl Latencies {
    pub(crate) fn add(&mut self, ms: u64) {
        let place = place(ms);
        if self.counts.len() <= place {
            self.counts.resize(place + 1, 0);
        }
        if let Some(count) = self.counts.get_mut(place) {
            *count = count.saturating_add(1);
        }
        self.total += 1;
        self.max_ms = self.max_ms.max(ms);
    }

    /// None before the first.
    pub(crate) fn percentiles(&self) -> Option<Percentiles> {
        (self.total > 0).then(|| Percentiles {
            p50_ms: self.at(50),
            p99_ms: self.at(99),
            max_ms: self.max_ms,
        })
    }

    /// The latency that so many of a hundred do not exceed.
    fn at(&self, percent: u64) -> u64 {
        let wanted = (self.total * percent).div_ceil(100).max(1);
        let mut seen = 0;
        for (place, count) in self.counts.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= wanted {
                return greatest(place).min(self.max_ms);
            }
        }
        self.max_ms
    }
}

/// Small ones have a place each; from there on every doubling has [`STEPS`].
fn place(ms: u64) -> usize {
    let place = match ms.checked_ilog2() {
        Some(log) if log >= STEPS_LOG2 => {
            let shift = log - STEPS_LOG2;
            u64::from(shift + 1) * STEPS + (ms >> shift) - STEPS
        }
        Some(_) | None => ms,
    };
    usize::try_from(place).unwrap_or(PLACES).min(PLACES - 1)
}

/// The greatest latency of a place.
fn greatest(place: usize) -> u64 {
    let place = place as u64;
    let (doubling, step) = (place / STEPS, place % STEPS);
    match doubling.checked_sub(1) {
        None => place,
        Some(shift) => ((STEPS + step + 1) << shift) - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_is_in_its_place() {
        for ms in (0..10_000).chain([1 << 20, (1 << 33) + 5, u64::MAX]) {
            let here = place(ms);
            assert!(here < PLACES);
            assert!(ms > 1 << 34 || greatest(here) >= ms, "{ms}");
            assert!(here == 0 || greatest(here - 1) < ms, "{ms}");
        }
    }

    #[test]
    fn percentiles_are_right_to_an_eighth() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentiles(), None);
        for ms in 1..=1_000 {
            latencies.add(ms);
        }
        let found = latencies.percentiles().unwrap();
        assert!((500..=563).contains(&found.p50_ms), "{found:?}");
        assert!((990..=1_000).contains(&found.p99_ms), "{found:?}");
        assert_eq!(found.max_ms, 1_000);
    }
}
