//! What was promised, and what the broker got: the oracle for messages.
//!
//! Every item (a reading, an attribute, an RPC reply) carries a number of its own that rises per device. Telemetry,
//! attributes and replies of one device must be delivered in that order, each at least once; where a session sends what
//! waited beside what comes, each of the two in that order. A device's announcement is repeated by the gateway after each
//! reconnect, so only its arrival is promised.

use std::collections::{BTreeMap, BTreeSet};

/// One thing that was handed to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Item {
    /// Which device.
    pub device: usize,
    /// Its number.
    pub number: u64,
    /// Whether its place among the others is promised.
    pub ordered: bool,
}

/// Where an item waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    sequence: u64,
    /// Counts the times a process began without its medium: nothing is in order across that.
    blind_start: u64,
}

#[derive(Debug, Default)]
struct Device {
    offered: BTreeSet<u64>,
    /// Accepted, not delivered, and not given up in a way that was counted; and the record of each.
    owed: BTreeMap<u64, Record>,
    /// Owed without a promise of order.
    owed_unordered: BTreeSet<u64>,
}

#[derive(Debug)]
struct Accepted {
    items: Vec<Item>,
    readings: u64,
}

/// The ledger of one stream in one run.
#[derive(Debug, Default)]
pub struct Ledger {
    devices: Vec<Device>,
    accepted: BTreeMap<u64, Accepted>,
    /// The newest record of this life. What an earlier one had settled in memory alone is known to nobody.
    newest: Option<u64>,
    blind_starts: u64,
    is_blind: bool,
    /// Records of this life, which began without its medium.
    blind: BTreeSet<u64>,
    /// First and last record that survived the end of a process and would not survive that of the power. Once a life sees
    /// the medium, that one's own account tells.
    unsynced: Option<(u64, u64)>,
    /// Numbers ever given out, those among them that ended with a process.
    used: BTreeSet<u64>,
    /// Records through one of these may be overtaken by those after it.
    divided_at: BTreeSet<u64>,
    /// What was handed out is in order; else only its arrival is promised.
    keeps_order: bool,
    /// Given up while they were in flight.
    in_flight: BTreeSet<u64>,
    /// Records and readings given up, each of them counted.
    evicted: (u64, u64),
    /// Records and readings of lives that ended before they were written down.
    forgotten: (u64, u64),
    /// Items the broker got, each time counted.
    pub delivered: u64,
    /// Those among them it had already.
    pub repeated: u64,
}

impl Ledger {
    /// A ledger for so many devices.
    #[must_use]
    pub fn new(devices: usize, keeps_order: bool) -> Self {
        Self {
            devices: (0..devices).map(|_| Device::default()).collect(),
            keeps_order,
            ..Self::default()
        }
    }

    /// Whether this was handed over here.
    #[must_use]
    pub fn knows(&self, device: usize, number: u64) -> bool {
        self.devices
            .get(device)
            .is_some_and(|device| device.offered.contains(&number))
    }

    /// These are about to be handed over: from now on they may arrive.
    pub fn offer(&mut self, items: &[Item]) {
        for item in items {
            self.devices[item.device].offered.insert(item.number);
        }
    }

    /// They were accepted as this record: from now on they are owed.
    ///
    /// # Errors
    /// When the sequence was given out before, or is lower than one that was.
    pub fn accept(&mut self, sequence: u64, items: Vec<Item>, readings: u64) -> Result<(), String> {
        let owed = self.devices.iter().flat_map(|device| device.owed.values());
        let owed = owed.filter(|record| record.blind_start == self.blind_starts);
        let highest = owed.map(|record| record.sequence).max().max(self.newest);
        if let Some(highest) = highest.filter(|highest| *highest >= sequence) {
            return Err(format!("sequence {sequence} comes after {highest}"));
        }
        self.newest = Some(sequence);
        if self.is_blind {
            self.blind.insert(sequence);
        }
        if !self.used.insert(sequence) {
            return Err(format!("sequence {sequence} was given out before"));
        }
        for item in &items {
            let device = &mut self.devices[item.device];
            if item.ordered {
                let record = Record {
                    sequence,
                    blind_start: self.blind_starts,
                };
                device.owed.insert(item.number, record);
            } else {
                device.owed_unordered.insert(item.number);
            }
        }
        self.accepted.insert(sequence, Accepted { items, readings });
        Ok(())
    }

    /// They were given up before they became a record: they must not arrive.
    pub fn drop_at_once(&mut self, items: &[Item], readings: u64) {
        for item in items {
            self.devices[item.device].offered.remove(&item.number);
        }
        self.evicted.0 += 1;
        self.evicted.1 += readings;
    }

    /// A session begins, and where the stream is told so it sends records through `divided` beside those after it. `replays`:
    /// what an earlier session had sent goes again, in the order it had.
    pub fn begin(&mut self, divided: Option<u64>, replays: bool) {
        if let Some(divided) = divided {
            if !replays {
                self.divided_at.clear();
            }
            self.divided_at.insert(divided);
        }
    }

    /// The records of this life, given out without a medium, have come behind others, and their numbers are `shift` higher.
    pub fn see_medium(&mut self, shift: u64) {
        self.is_blind = false;
        self.unsynced = None;
        let memory: Vec<_> = std::mem::take(&mut self.blind)
            .into_iter()
            .filter_map(|sequence| Some((sequence, self.accepted.remove(&sequence)?)))
            .collect();
        for (sequence, accepted) in memory {
            for item in &accepted.items {
                if let Some(owed) = self.devices[item.device].owed.get_mut(&item.number) {
                    owed.sequence += shift;
                }
            }
            self.used.insert(sequence + shift);
            self.accepted.insert(sequence + shift, accepted);
        }
        self.newest = self.newest.map(|newest| newest + shift);
        let in_flight = std::mem::take(&mut self.in_flight);
        self.in_flight = in_flight.into_iter().map(|s| s + shift).collect();
    }

    /// The broker has it.
    ///
    /// # Errors
    /// When nobody handed it over, or something of the same device that is owed should have come first.
    pub fn deliver(&mut self, device: usize, number: u64) -> Result<(), String> {
        let Some(state) = self.devices.get_mut(device) else {
            return Err(format!("device {device} is invented"));
        };
        if !state.offered.contains(&number) {
            return Err(format!("item {number} of device {device} is invented"));
        }
        self.delivered += 1;
        if self.keeps_order
            && let Some(own) = state.owed.get(&number)
        {
            let divided = self.divided_at.range(..own.sequence).next_back();
            let after = divided.copied().unwrap_or(0);
            let beside =
                |record: &Record| record.blind_start == own.blind_start && record.sequence > after;
            if let Some((first, _)) = state.owed.iter().find(|(_, record)| beside(record))
                && *first < number
            {
                return Err(format!(
                    "item {number} of device {device} overtakes {first}: {own:?} {:?}, divided at {:?}",
                    state.owed.get(first),
                    self.divided_at
                ));
            }
        }
        if state.owed.remove(&number).is_none() && !state.owed_unordered.remove(&number) {
            self.repeated += 1;
        }
        Ok(())
    }

    /// It is not owed any more, although it did not arrive: the broker refused it, or no packet can carry it.
    pub fn set_aside(&mut self, device: usize, number: u64) {
        if let Some(state) = self.devices.get_mut(device) {
            state.owed.remove(&number);
            state.owed_unordered.remove(&number);
        }
    }

    /// The record with this sequence is not owed any more.
    pub fn set_record_aside(&mut self, sequence: u64) {
        self.release(sequence, sequence);
    }

    /// Of the records after `acked`, those for which `gone` holds were given up. How many records and readings that is,
    /// without those `in_flight`, whose fate is not known yet.
    pub fn evict(
        &mut self,
        acked: u64,
        gone: impl Fn(u64) -> bool,
        in_flight: impl Fn(u64) -> bool,
    ) -> (u64, u64) {
        let gone = self.accepted.range(acked + 1..).filter(|(s, _)| gone(**s));
        let gone: Vec<u64> = gone.map(|(sequence, _)| *sequence).collect();
        let (mut records, mut readings) = (0, 0);
        for sequence in gone {
            let released = self.release(sequence, sequence);
            if in_flight(sequence) {
                self.in_flight.insert(sequence);
                continue;
            }
            records += released.0;
            readings += released.1;
        }
        self.evicted.0 += records;
        self.evicted.1 += readings;
        (records, readings)
    }

    /// An acknowledgement of this record came. `true`: it had been given up.
    pub fn settle_in_flight(&mut self, sequence: u64) -> bool {
        self.in_flight.remove(&sequence)
    }

    /// What was given up in flight will not be acknowledged any more. How many records and readings that is.
    pub fn give_up_in_flight(&mut self) -> (u64, u64) {
        let (mut records, mut readings) = (0, 0);
        for sequence in std::mem::take(&mut self.in_flight) {
            records += 1;
            readings += self.accepted.get(&sequence).map_or(0, |a| a.readings);
        }
        self.evicted.0 += records;
        self.evicted.1 += readings;
        (records, readings)
    }

    /// Another process begins.
    pub fn begin_life(&mut self) {
        self.newest = None;
        self.is_blind = false;
        self.blind.clear();
    }

    /// It does so without its medium: what waits there comes later than what is accepted now.
    pub fn begin_blind(&mut self) {
        self.blind_starts += 1;
        self.is_blind = true;
    }

    /// The process ends, and the power does not: records after `synced` lie where only the power keeps them.
    pub fn leave_unsynced(&mut self, synced: u64, kept: u64) {
        if !self.is_blind {
            self.unsynced = (synced < kept).then_some((synced + 1, kept));
        }
    }

    /// The power ends. A life that never saw the medium cannot have synced what an earlier one left.
    pub fn lose_unsynced(&mut self) {
        let Some((first, last)) = self.unsynced.take().filter(|_| self.is_blind) else {
            return;
        };
        self.release(first, last);
        let lost: Vec<_> = self
            .accepted
            .extract_if(first..=last, |_, _| true)
            .collect();
        self.forget(lost.iter().map(|(_, lost)| lost));
    }

    /// The process ended, with or without the power: what came after `kept` was never promised to survive that, and is not
    /// known to whoever comes next.
    pub fn lose_after(&mut self, kept: u64) {
        self.release(kept + 1, u64::MAX);
        let lost = self.accepted.split_off(&(kept + 1));
        self.forget(lost.values());
    }

    fn forget<'a>(&mut self, lost: impl Iterator<Item = &'a Accepted>) {
        for lost in lost {
            self.forgotten.0 += 1;
            self.forgotten.1 += lost.readings;
        }
    }

    fn release(&mut self, first: u64, last: u64) -> (u64, u64) {
        let (mut records, mut readings) = (0, 0);
        if first > last {
            return (0, 0);
        }
        for (_, accepted) in self.accepted.range(first..=last) {
            records += 1;
            readings += accepted.readings;
            for item in &accepted.items {
                let device = &mut self.devices[item.device];
                device.owed.remove(&item.number);
                device.owed_unordered.remove(&item.number);
            }
        }
        (records, readings)
    }

    /// Records given up so far, and readings in them.
    #[must_use]
    pub fn evicted(&self) -> (u64, u64) {
        self.evicted
    }

    /// Records accepted so far, and readings in them.
    #[must_use]
    pub fn accepted(&self) -> (u64, u64) {
        let readings = self.accepted.values().map(|accepted| accepted.readings);
        let (records, readings) = (self.accepted.len() as u64, readings.sum::<u64>());
        (records + self.forgotten.0, readings + self.forgotten.1)
    }

    /// What is still owed, as device and number.
    #[must_use]
    pub fn owed(&self) -> Vec<(usize, u64)> {
        let all = self.devices.iter().enumerate();
        all.flat_map(|(index, device)| {
            let numbers = device.owed.keys().chain(&device.owed_unordered);
            numbers.map(move |number| (index, *number))
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(number: u64) -> Item {
        Item {
            device: 0,
            number,
            ordered: true,
        }
    }

    fn ledger() -> Ledger {
        let mut ledger = Ledger::new(1, true);
        for number in 1..=3 {
            ledger.offer(&[item(number)]);
            ledger.accept(number, vec![item(number)], 1).unwrap();
        }
        ledger
    }

    #[test]
    fn what_arrives_out_of_order_or_from_nowhere_is_found() {
        assert!(ledger().deliver(0, 2).unwrap_err().contains("overtakes 1"));
        assert!(ledger().deliver(0, 4).unwrap_err().contains("invented"));
        assert!(ledger().deliver(1, 1).unwrap_err().contains("invented"));
        assert!(ledger().accept(3, Vec::new(), 0).is_err());
    }

    #[test]
    fn a_repetition_is_no_fault_and_what_did_not_arrive_is_owed() {
        let mut ledger = ledger();
        ledger.deliver(0, 1).unwrap();
        ledger.deliver(0, 2).unwrap();
        ledger.deliver(0, 1).unwrap();
        assert_eq!((ledger.delivered, ledger.repeated), (3, 1));
        assert_eq!(ledger.owed(), [(0, 3)]);
        assert_eq!(ledger.evict(2, |s| s != 4, |_| false), (1, 1));
        assert!(ledger.owed().is_empty());
        assert_eq!(ledger.evicted(), (1, 1));
    }

    #[test]
    fn what_comes_may_overtake_what_waited_and_nothing_else() {
        let mut ledger = ledger();
        ledger.begin(Some(1), false);
        assert!(ledger.deliver(0, 3).unwrap_err().contains("overtakes 2"));
        ledger.deliver(0, 2).unwrap();
        ledger.deliver(0, 1).unwrap();
        ledger.deliver(0, 3).unwrap();
        let mut ledger = self::ledger();
        ledger.begin(Some(2), false);
        assert!(ledger.deliver(0, 2).unwrap_err().contains("overtakes 1"));
    }

    #[test]
    fn what_is_given_up_in_flight_is_counted_when_its_fate_is_known() {
        let mut ledger = ledger();
        assert_eq!(ledger.evict(0, |s| s < 3, |s| s < 3), (0, 0));
        assert!(ledger.settle_in_flight(1) && !ledger.settle_in_flight(1));
        assert_eq!(ledger.give_up_in_flight(), (1, 1));
        assert_eq!((ledger.evicted(), ledger.owed()), ((1, 1), vec![(0, 3)]));
    }

    #[test]
    fn what_only_the_power_kept_is_owed_until_a_life_without_the_medium_loses_it() {
        let mut ledger = ledger();
        ledger.leave_unsynced(1, 3);
        ledger.begin_life();
        ledger.lose_unsynced();
        assert_eq!(ledger.owed().len(), 3, "this life saw the medium");
        ledger.leave_unsynced(1, 3);
        ledger.begin_life();
        ledger.begin_blind();
        ledger.lose_unsynced();
        assert_eq!((ledger.owed(), ledger.accepted()), (vec![(0, 1)], (3, 3)));
    }

    #[test]
    fn what_was_dropped_at_once_must_not_arrive() {
        let mut ledger = Ledger::new(1, true);
        ledger.offer(&[item(1)]);
        ledger.drop_at_once(&[item(1)], 1);
        assert!(ledger.deliver(0, 1).unwrap_err().contains("invented"));
        assert_eq!(ledger.evicted(), (1, 1));
    }
}
