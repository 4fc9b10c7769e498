//! The accounts: what was accepted, what the broker acknowledged, what the subscriber saw, per device. Pure.
//!
//! A *series* is one key of one device that counts up by one with every reading. Its values are the serial numbers of
//! the audit. A source that restarts from nothing (a gateway killed with -9) begins a new *run* [`RUN`] further on, so
//! that a hole inside a run is never excusable, while the step between runs is none.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

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

    /// The greatest.
    #[must_use]
    pub fn last(&self) -> Option<u64> {
        self.ranges.last_key_value().map(|(_first, &last)| last)
    }

    /// Missing serials: before the first of each run that has any, and between those that are in.
    #[must_use]
    pub fn holes(&self) -> Vec<std::ops::RangeInclusive<u64>> {
        let mut holes = Vec::new();
        let mut expected = None;
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

/// The account of one series.
#[derive(Clone, Debug, Default)]
struct Series {
    seen: Serials,
    acknowledged: Serials,
    /// The greatest serial of each run that an independent witness says was accepted.
    witnessed: BTreeMap<u64, u64>,
    /// Serials that were handed out but never accepted: their taker was killed in between.
    excused: Serials,
    /// The greatest serial seen so far, to tell order on first delivery.
    front: u64,
    duplicates: u64,
    out_of_order: u64,
}

/// The account of one key that does not count: readings are told apart by their time.
#[derive(Clone, Debug, Default)]
struct Plain {
    seen: BTreeSet<u64>,
    duplicates: u64,
}

/// All accounts.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    counting_keys: BTreeSet<String>,
    series: BTreeMap<String, Series>,
    plain: BTreeMap<(String, String), Plain>,
}

/// The bottom line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Balance {
    /// Different readings the subscriber saw.
    pub delivered: u64,
    /// Readings it saw again.
    pub duplicates: u64,
    /// Serials that must have been accepted (a later one was, or the witness says so), but were not seen.
    pub missing: u64,
    /// Those of `missing` that the broker had acknowledged: the gateway did its part.
    pub missing_after_ack: u64,
    /// Serials handed out to a gateway that was killed before it accepted them, and not seen.
    pub excused: u64,
    /// First deliveries that came after a later serial of the same device.
    pub out_of_order: u64,
    /// Devices with a series.
    pub devices: u64,
    /// The first holes, for people: `device first..=last`.
    pub holes: Vec<String>,
}

/// Holes named in a balance.
const HOLES_NAMED: usize = 8;

impl Ledger {
    /// A ledger in which the readings of `counting_keys` are serial numbers.
    #[must_use]
    pub fn new<'a>(counting_keys: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            counting_keys: counting_keys.into_iter().map(str::to_owned).collect(),
            ..Self::default()
        }
    }

    /// The subscriber saw a reading.
    pub fn saw(&mut self, device: &str, key: &str, timestamp_ms: u64, serial: Option<u64>) {
        match serial.filter(|_serial| self.counting_keys.contains(key)) {
            Some(serial) => {
                let series = entry(&mut self.series, device);
                if series.seen.insert(serial) {
                    series.out_of_order += u64::from(serial < series.front);
                    series.front = series.front.max(serial);
                } else {
                    series.duplicates += 1;
                }
            }
            None => {
                let plain = self
                    .plain
                    .entry((device.to_owned(), key.to_owned()))
                    .or_default();
                if !plain.seen.insert(timestamp_ms) {
                    plain.duplicates += 1;
                }
            }
        }
    }

    /// The broker acknowledged a publish with this reading.
    pub fn acknowledged(&mut self, device: &str, key: &str, serial: Option<u64>) {
        if let Some(serial) = serial.filter(|_serial| self.counting_keys.contains(key)) {
            entry(&mut self.series, device).acknowledged.insert(serial);
        }
    }

    /// A witness outside the gateway says that the gateway accepted everything of this run up to `serial`.
    pub fn witnessed(&mut self, device: &str, serial: u64) {
        let greatest = entry(&mut self.series, device)
            .witnessed
            .entry(serial / RUN)
            .or_default();
        *greatest = serial.max(*greatest);
    }

    /// This serial was handed out, but its taker was killed before anybody could say that it was accepted.
    pub fn excuse(&mut self, device: &str, serial: u64) {
        entry(&mut self.series, device).excused.insert(serial);
    }

    /// Different readings seen so far.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        let series: u64 = self.series.values().map(|series| series.seen.len()).sum();
        series
            + self
                .plain
                .values()
                .map(|plain| plain.seen.len() as u64)
                .sum::<u64>()
    }

    /// Counts everything.
    #[must_use]
    pub fn balance(&self) -> Balance {
        let mut balance = Balance {
            delivered: self.delivered(),
            duplicates: self.plain.values().map(|plain| plain.duplicates).sum(),
            devices: self.series.len() as u64,
            ..Balance::default()
        };
        for (device, series) in &self.series {
            balance.duplicates += series.duplicates;
            balance.out_of_order += series.out_of_order;
            // What should have been seen: up to the greatest serial of each run that anybody vouches for.
            let mut due = series.seen.clone();
            for serial in series
                .witnessed
                .values()
                .copied()
                .chain(series.acknowledged.last())
            {
                due.insert(serial);
            }
            let unseen_excuses = series.excused.missing_from(&series.seen);
            balance.excused += unseen_excuses;
            for serial in series.excused.iter() {
                due.insert(serial);
            }
            let holes = due.holes();
            let between: u64 = holes.iter().map(|hole| hole.end() - hole.start() + 1).sum();
            balance.missing += between + due.missing_from(&series.seen) - unseen_excuses;
            balance.missing_after_ack += series.acknowledged.missing_from(&series.seen);
            for hole in holes {
                if balance.holes.len() < HOLES_NAMED {
                    balance
                        .holes
                        .push(format!("{device} {}..={}", hole.start(), hole.end()));
                }
            }
        }
        balance
    }
}

fn entry<'a>(series: &'a mut BTreeMap<String, Series>, device: &str) -> &'a mut Series {
    if !series.contains_key(device) {
        series.insert(device.to_owned(), Series::default());
    }
    series.entry(device.to_owned()).or_default()
}

#[cfg(test)]
mod tests {
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
    fn a_loss_a_duplicate_and_a_late_one_are_told_apart() {
        let mut ledger = Ledger::new(["seq"]);
        for serial in [1, 2, 2, 5, 4] {
            ledger.saw("d", "seq", 0, Some(serial));
        }
        ledger.saw("d", "temperature", 7, None);
        ledger.saw("d", "temperature", 7, None);
        let balance = ledger.balance();
        assert_eq!(balance.delivered, 5);
        assert_eq!(balance.duplicates, 2);
        assert_eq!(balance.missing, 1);
        assert_eq!(balance.out_of_order, 1);
        assert_eq!(balance.holes, ["d 3..=3"]);
    }

    #[test]
    fn what_died_with_its_taker_is_excused_and_nothing_else() {
        let mut ledger = Ledger::new(["seq"]);
        for serial in [1, 2, 5] {
            ledger.saw("d", "seq", 0, Some(serial));
        }
        ledger.excuse("d", 3);
        ledger.excuse("d", 2);
        let balance = ledger.balance();
        assert_eq!(
            (balance.missing, balance.excused),
            (1, 1),
            "4 is lost, 3 is excused, 2 was seen"
        );
    }

    #[test]
    fn a_lost_tail_shows_by_the_witness_and_the_brokers_by_its_acknowledgement() {
        let mut ledger = Ledger::new(["seq"]);
        ledger.saw("d", "seq", 0, Some(1));
        for serial in 1..=3 {
            ledger.acknowledged("d", "seq", Some(serial));
        }
        ledger.witnessed("d", 5);
        ledger.witnessed("d", RUN + 2);
        let balance = ledger.balance();
        assert_eq!(
            balance.missing,
            4 + 2,
            "2 to 5 of the first run, 1 and 2 of the second"
        );
        assert_eq!(balance.missing_after_ack, 2);
    }
}
