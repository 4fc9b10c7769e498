//! What was given up while it was in flight: whether it was delivered, the link will tell.
//!
//! ```text
//!  handed out ──given up──► here ──acknowledged──► delivered
//!                             └────session lost──► evicted: there is nothing left to send again
//! ```
//!
//! The cursor counts it as evicted from the start, so that a crash meets no figure that is too low; the figures that are
//! shown leave it out until it is decided, and show it as waiting.

use std::collections::VecDeque;

use super::storage::Storage;
use super::{Spool, Totals};
use crate::message::{DeviceName, Sequence};

/// A record that nobody can send again.
#[derive(Clone, Debug)]
struct Entry {
    sequence: Sequence,
    readings: u64,
    /// Readings by device, for the table of what was given up.
    devices: Vec<(DeviceName, u64)>,
}

/// In order of sequences; never longer than what the link has in its hands.
#[derive(Clone, Debug, Default)]
pub(super) struct InFlight {
    entries: VecDeque<Entry>,
    totals: Totals,
}

impl InFlight {
    pub(super) fn totals(&self) -> Totals {
        self.totals
    }

    /// This record, which is handed out, is given up.
    pub(super) fn add(&mut self, sequence: Sequence, readings: u64) {
        let at = self
            .entries
            .partition_point(|entry| entry.sequence < sequence);
        let entry = Entry {
            sequence,
            readings,
            devices: Vec::new(),
        };
        self.entries.insert(at, entry);
        self.totals = self.totals.plus(one(readings));
    }

    /// Notes whose readings these are; false where the record is not here.
    pub(super) fn name(&mut self, sequence: Sequence, devices: &[(DeviceName, u64)]) -> bool {
        let found = self
            .entries
            .binary_search_by_key(&sequence, |entry| entry.sequence);
        let entry = found.ok().and_then(|index| self.entries.get_mut(index));
        if let Some(entry) = entry {
            entry.devices = devices.to_vec();
            return true;
        }
        false
    }

    fn take(&mut self, sequence: Sequence) -> Option<u64> {
        let index = self
            .entries
            .binary_search_by_key(&sequence, |entry| entry.sequence)
            .ok()?;
        let entry = self.entries.remove(index)?;
        self.totals = self.totals.since(one(entry.readings));
        Some(entry.readings)
    }

    /// Takes in those of `other`, whose sequences are `shift` higher here.
    pub(super) fn extend(&mut self, other: Self, shift: u64) {
        for entry in other.entries {
            let sequence = Sequence(entry.sequence.0.saturating_add(shift));
            self.add(sequence, entry.readings);
            self.name(sequence, &entry.devices);
        }
    }
}

const fn one(readings: u64) -> Totals {
    Totals {
        records: 1,
        readings,
    }
}

impl<S: Storage> Spool<S> {
    /// The platform has a record that was given up after it was handed out: it counts as delivered.
    pub(super) fn ack_given_up(&mut self, sequence: Sequence) {
        if let Some(readings) = self.in_flight.take(sequence) {
            let evicted = &mut self.cursor.state.evicted;
            *evicted = evicted.since(one(readings));
        }
    }

    /// What was in flight when its session ended will not be acknowledged any more.
    pub(super) fn give_up_in_flight(&mut self) {
        for entry in std::mem::take(&mut self.in_flight).entries {
            for (device, readings) in entry.devices {
                self.evictions.add(&device, readings);
            }
        }
    }
}
