//! The accounts of an audit that came later and knows only what it hears: per device, which serials were delivered, which
//! are missing between them, and how long they took. Pure, and bounded whatever is heard.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::Serialize;

use super::Serials;
use super::latency::{Latencies, Percentiles};
use super::telemetry::Reading;

/// Devices that are followed; readings of more are counted together.
const DEVICES_MAX: usize = 10_000;
/// Ranges of one device that are kept apart: so many holes may still be filled by late deliveries.
const RANGES_MAX: usize = 256;
/// Holes of one device that are named; the rest is counted.
pub(crate) const HOLES_NAMED: usize = 16;

/// All accounts.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    devices: BTreeMap<String, Account>,
    latencies: Latencies,
    /// Readings of devices beyond [`DEVICES_MAX`].
    pub(crate) not_followed: u64,
    /// Readings whose value is no serial number although their key is the one that counts.
    pub(crate) no_serial: u64,
    /// Readings from the future: one of the clocks is wrong.
    pub(crate) from_the_future: u64,
}

/// The account of one device.
#[derive(Debug, Default)]
struct Account {
    seen: Serials,
    front: u64,
    newest_ms: u64,
    delivered: u64,
    duplicates: u64,
    out_of_order: u64,
    restarts: u64,
    /// Missing before the counter began again, or in holes that were given up waiting for.
    settled_missing: u64,
    settled_holes: Vec<Hole>,
    latencies: Latencies,
}

/// Serials that are missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Hole {
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl From<RangeInclusive<u64>> for Hole {
    fn from(range: RangeInclusive<u64>) -> Self {
        Self {
            first: *range.start(),
            last: *range.end(),
        }
    }
}

impl Hole {
    const fn serials(&self) -> u64 {
        self.last - self.first + 1
    }
}

/// What one account comes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct DeviceReport {
    pub(crate) device: String,
    /// The least serial since the counter last began.
    pub(crate) first: Option<u64>,
    /// The greatest.
    pub(crate) newest: Option<u64>,
    /// When that was measured, milliseconds since the Unix epoch.
    pub(crate) newest_ms: u64,
    /// Different serials.
    pub(crate) delivered: u64,
    /// Deliveries of serials that were delivered before.
    pub(crate) duplicates: u64,
    pub(crate) missing: u64,
    /// Where, as far as they are named.
    pub(crate) holes: Vec<Hole>,
    /// First deliveries after a later serial.
    pub(crate) out_of_order: u64,
    /// Times the counter began again.
    pub(crate) restarts: u64,
    pub(crate) latency: Option<Percentiles>,
}

/// What all come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Sums {
    pub(crate) devices: u64,
    pub(crate) delivered: u64,
    pub(crate) duplicates: u64,
    pub(crate) missing: u64,
    pub(crate) out_of_order: u64,
    pub(crate) restarts: u64,
    pub(crate) latency: Option<Percentiles>,
}

impl Accounts {
    /// Books a reading of the counting key that arrived at `now_ms`.
    pub(crate) fn book(&mut self, reading: &Reading<'_>, now_ms: u64) {
        let Some(serial) = reading.serial() else {
            self.no_serial += 1;
            return;
        };
        if !self.devices.contains_key(reading.device) {
            if self.devices.len() >= DEVICES_MAX {
                self.not_followed += 1;
                return;
            }
            let account = Account::default();
            self.devices.insert(reading.device.to_owned(), account);
        }
        let Some(account) = self.devices.get_mut(reading.device) else {
            return;
        };
        if account.book(serial, reading.ts_ms) {
            match now_ms.checked_sub(reading.ts_ms) {
                Some(took_ms) => {
                    account.latencies.add(took_ms);
                    self.latencies.add(took_ms);
                }
                None => self.from_the_future += 1,
            }
        }
    }

    /// What it comes to so far.
    pub(crate) fn sums(&self) -> Sums {
        let mut sums = Sums {
            devices: self.devices.len() as u64,
            latency: self.latencies.percentiles(),
            ..Sums::default()
        };
        for account in self.devices.values() {
            sums.delivered += account.delivered;
            sums.duplicates += account.duplicates;
            sums.missing += account.missing();
            sums.out_of_order += account.out_of_order;
            sums.restarts += account.restarts;
        }
        sums
    }

    /// By device.
    pub(crate) fn reports(&self) -> impl Iterator<Item = DeviceReport> + '_ {
        self.devices
            .iter()
            .map(|(device, account)| account.report(device))
    }
}

impl Account {
    /// Whether it was delivered for the first time.
    fn book(&mut self, serial: u64, ts_ms: u64) -> bool {
        // A counter goes up with time. One that is measured later and is no higher began again.
        if !self.seen.is_empty() && serial <= self.front && ts_ms > self.newest_ms {
            self.settle();
            self.restarts += 1;
        }
        if !self.seen.insert(serial) {
            self.duplicates += 1;
            return false;
        }
        self.delivered += 1;
        if serial < self.front {
            self.out_of_order += 1;
        } else {
            self.front = serial;
            self.newest_ms = ts_ms;
        }
        while self.seen.ranges() > RANGES_MAX {
            // Not a hole where a new run begins.
            let hole = self.seen.holes_between().into_iter().next();
            let filled = self.seen.fill_lowest();
            if let (Some(hole), Some(filled)) = (hole, filled)
                && filled.contains(hole.start())
            {
                self.settle_hole(hole.into());
            }
        }
        true
    }

    fn settle(&mut self) {
        for hole in std::mem::take(&mut self.seen).holes_between() {
            self.settle_hole(hole.into());
        }
        self.front = 0;
    }

    fn settle_hole(&mut self, hole: Hole) {
        self.settled_missing += hole.serials();
        if self.settled_holes.len() < HOLES_NAMED {
            self.settled_holes.push(hole);
        }
    }

    fn missing(&self) -> u64 {
        let open = self.seen.holes_between().into_iter();
        self.settled_missing + open.map(|hole| Hole::from(hole).serials()).sum::<u64>()
    }

    fn report(&self, device: &str) -> DeviceReport {
        let open = self.seen.holes_between().into_iter().map(Hole::from);
        let holes = self.settled_holes.iter().cloned().chain(open);
        DeviceReport {
            device: device.to_owned(),
            first: self.seen.first(),
            newest: self.seen.last(),
            newest_ms: self.newest_ms,
            delivered: self.delivered,
            duplicates: self.duplicates,
            missing: self.missing(),
            holes: holes.take(HOLES_NAMED).collect(),
            out_of_order: self.out_of_order,
            restarts: self.restarts,
            latency: self.latencies.percentiles(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::telemetry;
    use super::*;

    fn hear(accounts: &mut Accounts, device: &str, serials: impl IntoIterator<Item = (u64, u64)>) {
        for (ts, serial) in serials {
            let payload =
                format!(r#"{{"{device}":[{{"ts":{ts},"values":{{"seq":{serial},"t":1.5}}}}]}}"#);
            let readings = telemetry::parse(payload.as_bytes()).unwrap();
            for reading in readings.iter().filter(|reading| reading.key == "seq") {
                accounts.book(&reading, ts + 7);
            }
        }
    }

    fn only(accounts: &Accounts) -> DeviceReport {
        let mut reports = accounts.reports();
        reports.next().unwrap()
    }

    #[test]
    fn a_hole_a_repeat_and_a_late_one_are_told_apart() {
        let mut accounts = Accounts::default();
        let counted = [40, 41, 41, 45, 43].map(|serial| (1_000 + serial, serial));
        hear(&mut accounts, "a", counted);
        let report = only(&accounts);
        assert_eq!((report.first, report.newest), (Some(40), Some(45)));
        assert_eq!((report.delivered, report.duplicates), (4, 1));
        assert_eq!((report.missing, report.out_of_order), (2, 1));
        let holes = [(42, 42), (44, 44)].map(|(first, last)| Hole { first, last });
        assert_eq!(report.holes, holes);
        assert_eq!(report.latency.unwrap().max_ms, 7);
        hear(&mut accounts, "a", [(1_042, 42), (1_044, 44)]);
        assert_eq!(accounts.sums().missing, 0, "what comes late is not missing");
    }

    #[test]
    fn newest_first_ends_without_a_hole() {
        let mut accounts = Accounts::default();
        let backlog = (1..=1_000).rev().map(|serial| (1_000 + serial, serial));
        hear(&mut accounts, "a", backlog);
        let sums = accounts.sums();
        assert_eq!((sums.missing, sums.restarts, sums.delivered), (0, 0, 1_000));
    }

    #[test]
    fn a_counter_that_begins_again_is_no_hole_and_forgives_none() {
        let mut accounts = Accounts::default();
        hear(&mut accounts, "a", [(1, 500), (2, 501), (3, 503)]);
        hear(&mut accounts, "a", [(4, 1), (5, 2), (5, 2)]);
        let report = only(&accounts);
        assert_eq!((report.restarts, report.missing), (1, 1));
        assert_eq!((report.first, report.newest), (Some(1), Some(2)));
        assert_eq!((report.delivered, report.duplicates), (5, 1));
    }

    #[test]
    fn more_holes_than_are_kept_are_counted_all_the_same() {
        let mut accounts = Accounts::default();
        hear(&mut accounts, "a", (1..=2_000).map(|n| (n, 2 * n)));
        let report = only(&accounts);
        assert_eq!(report.missing, 1_999);
        assert_eq!(report.holes.len(), HOLES_NAMED);
        assert!(accounts.devices["a"].seen.ranges() <= RANGES_MAX);
    }

    #[test]
    fn devices_beyond_the_bound_are_counted_together() {
        let mut accounts = Accounts::default();
        for device in 0..DEVICES_MAX + 5 {
            hear(&mut accounts, &device.to_string(), [(1, 1)]);
        }
        assert_eq!(accounts.sums().devices, DEVICES_MAX as u64);
        assert_eq!(accounts.not_followed, 5);
    }
}
