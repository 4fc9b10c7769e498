//! The newest records, decoded and in memory: a link that keeps up never waits for a disk read or a decoder.

use std::collections::VecDeque;

use super::Position;
use crate::message::{Sequence, Uplink};

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) position: Position,
    pub(super) uplink: Uplink,
    /// Encoded length.
    pub(super) bytes: usize,
}

/// Records leave when they are handed out (a link that asks again gets them from the disk) or when newer ones need the
/// room.
#[derive(Debug)]
pub(super) struct Tail {
    entries: VecDeque<Entry>,
    bytes: usize,
    bytes_max: usize,
    /// The record before the first entry.
    previous: Sequence,
}

impl Tail {
    pub(super) fn new(previous: Sequence, bytes_max: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            bytes: 0,
            bytes_max,
            previous,
        }
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.bytes += entry.bytes;
        self.entries.push_back(entry);
        while self.bytes > self.bytes_max {
            self.pop();
        }
    }

    /// The record after `after`, when it is here.
    pub(super) fn peek(&mut self, after: Sequence) -> Option<&Entry> {
        while self
            .entries
            .front()
            .is_some_and(|entry| entry.position.sequence <= after)
        {
            self.pop();
        }
        self.entries.front().filter(|_| self.previous <= after)
    }

    pub(super) fn pop(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.bytes -= entry.bytes;
        self.previous = entry.position.sequence;
        Some(entry)
    }
}
