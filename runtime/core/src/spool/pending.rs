//! What was accepted and is not on the medium for good: in memory, until it is settled or synced.

use std::collections::VecDeque;

use super::{Position, Totals};
use crate::message::{Sequence, Uplink};

/// One record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) position: Position,
    pub(super) readings: u32,
    at: u64,
    length: usize,
}

impl Entry {
    /// The place right before it.
    pub(super) fn before(&self) -> Position {
        let totals = self.position.totals;
        Position {
            sequence: Sequence(self.position.sequence.0.saturating_sub(1)),
            totals: Totals {
                records: totals.records.saturating_sub(1),
                readings: totals.readings.saturating_sub(self.readings.into()),
            },
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.length
    }
}

/// Encoded records in order, in one buffer.
#[derive(Debug, Default)]
pub(super) struct Pending {
    entries: VecDeque<Entry>,
    payloads: Vec<u8>,
    /// How many bytes went before the first of `payloads`.
    base: u64,
    bytes: usize,
}

impl Pending {
    pub(super) fn push(&mut self, position: Position, readings: u64, payload: &[u8]) {
        self.entries.push_back(Entry {
            position,
            readings: u32::try_from(readings).unwrap_or(u32::MAX),
            at: self.base + self.payloads.len() as u64,
            length: payload.len(),
        });
        self.payloads.extend_from_slice(payload);
        self.bytes += payload.len();
    }

    /// Puts those of `other` behind these, at the places where `moved` says they are.
    pub(super) fn extend(&mut self, other: &Self, moved: impl Fn(Position) -> Position) {
        for entry in &other.entries {
            let (position, readings) = (moved(entry.position), entry.readings.into());
            self.push(position, readings, other.payload(entry));
        }
    }

    /// Encoded bytes of all records here.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn count(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn front(&self) -> Option<&Entry> {
        self.entries.front()
    }

    /// The entries after this record, in order.
    pub(super) fn after(&self, sequence: Sequence) -> impl Iterator<Item = &Entry> {
        let first = self
            .entries
            .partition_point(|entry| entry.position.sequence <= sequence);
        self.entries.range(first..)
    }

    /// The newest place here at or before `sequence`.
    pub(super) fn through(&self, sequence: Sequence) -> Option<Position> {
        let count = self
            .entries
            .partition_point(|entry| entry.position.sequence <= sequence);
        self.entries
            .get(count.checked_sub(1)?)
            .map(|entry| entry.position)
    }

    pub(super) fn payload(&self, entry: &Entry) -> &[u8] {
        let start = usize::try_from(entry.at - self.base).unwrap_or(usize::MAX);
        self.payloads
            .get(start..start.saturating_add(entry.length))
            .unwrap_or_default()
    }

    pub(super) fn decode(&self, entry: &Entry) -> Option<Uplink> {
        postcard::from_bytes(self.payload(entry)).ok()
    }

    pub(super) fn pop(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.bytes -= entry.length;
        self.compact();
        Some(entry)
    }

    /// Forgets everything through this record.
    pub(super) fn forget(&mut self, through: Sequence) {
        while let Some(entry) = self.front().filter(|e| e.position.sequence <= through) {
            self.bytes -= entry.length;
            self.entries.pop_front();
        }
        self.compact();
    }

    /// Gives the room of forgotten payloads back once it is the larger part.
    fn compact(&mut self) {
        let end = self.base + self.payloads.len() as u64;
        let used_from = self.entries.front().map_or(end, |entry| entry.at);
        let unused = usize::try_from(used_from - self.base).unwrap_or(usize::MAX);
        if unused > self.payloads.len() / 2 {
            self.payloads.drain(..unused);
            self.base = used_from;
            if self.payloads.capacity() > 4 * self.payloads.len().max(64 * 1024) {
                self.payloads.shrink_to(self.payloads.len().max(64 * 1024));
            }
        }
    }
}
