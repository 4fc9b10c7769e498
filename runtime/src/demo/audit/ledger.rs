//! The accounts: what was accepted, what the broker acknowledged, what the subscriber saw, per device. Pure.
//!
//! A *series* is one key of one device that counts up by one with every reading. Its values are the serial numbers of
//! the audit. A source that restarts from nothing (a gateway killed with -9) begins a new *run* [`RUN`] further on, so
//! that a hole inside a run is never excusable, while the step between runs is none.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::audit::{RUN, Serials};

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

/// When a reading was taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: u64,
    /// The serial number that was read with it: a device may be asked twice in a millisecond, before and after a swap.
    pub serial: Option<u64>,
}

/// The account of one key that does not count: readings are told apart by when they were taken.
#[derive(Clone, Debug, Default)]
struct Plain {
    seen: BTreeSet<Moment>,
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

    /// Whether the readings of this key are serial numbers.
    #[must_use]
    pub fn counts(&self, key: &str) -> bool {
        self.counting_keys.contains(key)
    }

    /// The subscriber saw a reading.
    pub fn saw(&mut self, device: &str, key: &str, moment: Moment, serial: Option<u64>) {
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
                if !plain.seen.insert(moment) {
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

    #[test]
    fn a_loss_a_duplicate_and_a_late_one_are_told_apart() {
        let mut ledger = Ledger::new(["seq"]);
        for serial in [1, 2, 2, 5, 4] {
            ledger.saw("d", "seq", Moment::default(), Some(serial));
        }
        let moment = Moment {
            timestamp_ms: 7,
            serial: None,
        };
        ledger.saw("d", "temperature", moment, None);
        ledger.saw("d", "temperature", moment, None);
        let balance = ledger.balance();
        assert_eq!(balance.delivered, 5);
        assert_eq!(balance.duplicates, 2);
        assert_eq!(balance.missing, 1);
        assert_eq!(balance.out_of_order, 1);
        assert_eq!(balance.holes, ["d 3..=3"]);
    }

    #[test]
    fn two_readings_of_one_millisecond_are_two() {
        let mut ledger = Ledger::new(["counter"]);
        for serial in [1, 2, 2] {
            let moment = Moment {
                timestamp_ms: 7,
                serial: Some(serial),
            };
            ledger.saw("d", "counter", moment, Some(serial));
            ledger.saw("d", "fixed", moment, Some(1_234));
        }
        let balance = ledger.balance();
        assert_eq!((balance.delivered, balance.duplicates), (4, 2));
    }

    #[test]
    fn what_died_with_its_taker_is_excused_and_nothing_else() {
        let mut ledger = Ledger::new(["seq"]);
        for serial in [1, 2, 5] {
            ledger.saw("d", "seq", Moment::default(), Some(serial));
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
        ledger.saw("d", "seq", Moment::default(), Some(1));
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
