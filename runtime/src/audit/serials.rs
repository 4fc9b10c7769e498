//! Serial numbers, kept as ranges, and the holes between them. Pure.
//!
//! A *series* is one key of one device that counts up by one with every reading. A source that restarts from nothing may
//! begin a new *run* [`RUN`] further on: a hole inside a run is never excusable, while the step between runs is none.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Serial numbers of one run: run r counts from `r * RUN + 1`.
pub const RUN: u64 = 1_000_000_000;

/// A set of serial numbers, kept as ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Serials {
    /// First of a range to its last.
    ranges: BTreeMap<u64, u64>,
}

impl Serials {
    /// Adds `serial`; false when it was in already.
    pub fn insert(&mut self, serial: u64) -> bool {
        if self.contains(serial) {
            return false;
        }
        let mut first = serial;
        let mut last = serial;
        if let Some((&before, &end)) = self.ranges.range(..serial).next_back()
            && end + 1 == serial
        {
            first = before;
        }
        if let Some(end) = self.ranges.remove(&(serial + 1)) {
            last = end;
        }
        self.ranges.insert(first, last);
        true
    }

    /// Whether `serial` is in.
    #[must_use]
    pub fn contains(&self, serial: u64) -> bool {
        self.ranges
            .range(..=serial)
            .next_back()
            .is_some_and(|(_first, &last)| last >= serial)
    }

    /// How many are in.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.ranges
            .iter()
            .map(|(first, last)| last - first + 1)
            .sum()
    }

    /// Whether none is in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// All of them, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.ranges.iter().flat_map(|(&first, &last)| first..=last)
    }

    /// Ranges that are kept.
    #[must_use]
    pub fn ranges(&self) -> usize {
        self.ranges.len()
    }

    /// Fills the lowest hole, and says which it was.
    pub fn fill_lowest(&mut self) -> Option<RangeInclusive<u64>> {
        let (first, end) = self.ranges.pop_first()?;
        let Some((next, last)) = self.ranges.pop_first() else {
            self.ranges.insert(first, end);
            return None;
        };
        self.ranges.insert(first, last);
        Some(end + 1..=next - 1)
    }

    /// The least.
    #[must_use]
    pub fn first(&self) -> Option<u64> {
        self.ranges.keys().next().copied()
    }

    /// The greatest.
    #[must_use]
    pub fn last(&self) -> Option<u64> {
        self.ranges.last_key_value().map(|(_first, &last)| last)
    }

    /// Missing serials: before the first of each run that has any, and between those that are in.
    #[must_use]
    pub fn holes(&self) -> Vec<RangeInclusive<u64>> {
        self.holes_after(None)
    }

    /// The same for who came later: what is before the first of all is no hole.
    #[must_use]
    pub fn holes_between(&self) -> Vec<RangeInclusive<u64>> {
        self.holes_after(self.ranges.keys().next().copied())
    }

    fn holes_after(&self, mut expected: Option<u64>) -> Vec<RangeInclusive<u64>> {
        let mut holes = Vec::new();
        for (&first, &last) in &self.ranges {
            let run_start = first / RUN * RUN + 1;
            let from = expected.map_or(run_start, |next: u64| next.max(run_start));
            if from < first {
                holes.push(from..=first - 1);
            }
            expected = Some(last + 1);
        }
        holes
    }

    /// How many of `self` are not in `other`.
    #[must_use]
    pub fn missing_from(&self, other: &Self) -> u64 {
        let held: u64 = self
            .ranges
            .iter()
            .flat_map(|(&first, &last)| {
                other.ranges.range(..=last).map(move |(&begin, &end)| {
                    let (low, high) = (begin.max(first), end.min(last));
                    if low <= high { high - low + 1 } else { 0 }
                })
            })
            .sum();
        self.len() - held
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn serials(values: impl IntoIterator<Item = u64>) -> Serials {
        let mut serials = Serials::default();
        for value in values {
            serials.insert(value);
        }
        serials
    }

    #[test]
    fn serials_agree_with_a_plain_set() {
        // A fixed scramble of 1..1000 with repeats: every operation against the obvious model.
        let mut model = BTreeSet::new();
        let mut ranges = Serials::default();
        for step in 0_u64..2_000 {
            let value = step.wrapping_mul(7_919) % 1_000 + 1;
            assert_eq!(ranges.insert(value), model.insert(value), "{value}");
            assert_eq!(ranges.len(), model.len() as u64);
        }
        for value in 0..=1_001 {
            assert_eq!(ranges.contains(value), model.contains(&value), "{value}");
        }
        assert_eq!(ranges.last(), model.last().copied());
    }

    #[test]
    fn holes_are_found_inside_runs_and_not_between_them() {
        let seen = serials([2, 3, 6, RUN + 1, RUN + 2, 2 * RUN + 3]);
        assert_eq!(seen.holes(), [1..=1, 4..=5, 2 * RUN + 1..=2 * RUN + 2]);
    }

    #[test]
    fn missing_counts_what_the_other_lacks() {
        let all = serials(1..=10);
        assert_eq!(all.missing_from(&serials([2, 3, 9, 10, 11])), 6);
        assert_eq!(all.missing_from(&all), 0);
        assert_eq!(serials([]).missing_from(&all), 0);
    }

    #[test]
    fn who_came_later_misses_nothing_before() {
        let seen = serials([5, 6, 9, RUN + 2]);
        assert_eq!(seen.holes_between(), [7..=8, RUN + 1..=RUN + 1]);
        assert_eq!(seen.first(), Some(5));
        assert!(serials([]).holes_between().is_empty());
    }

    #[test]
    fn the_lowest_hole_is_filled_first() {
        let mut seen = serials([1, 4, 6]);
        assert_eq!(seen.fill_lowest(), Some(2..=3));
        assert_eq!(seen, serials([1, 2, 3, 4, 6]));
        assert_eq!(seen.fill_lowest(), Some(5..=5));
        assert_eq!(seen.fill_lowest(), None);
        assert_eq!(seen, serials(1..=6));
    }
}
