//! The journal: what is in memory only, on a storage that outlives the process but not the power, such as a tmpfs.
//!
//! ```text
//! files `window.a`, `window.b`:  laid out as a segment, see the header of `spool`; the one with the higher epoch counts
//!
//!        0 ─ header ─ 60 ─ zero ─ 4096 ─ cursor frame ─ record frames … ─ zero word
//! ```
//!
//! Accepted records are appended to one file. When the commit window closes, what is settled by then is not written
//! anywhere, what is not goes to a segment, and the journal is turned: what still has time is written to the other file,
//! its header last. A journal is of use only with the cursor's identity in its first frame.

use super::cursor::{Cursor, SlotRead};
use super::pending::Pending;
use super::record::{self, FrameRead, KIND_CURSOR, KIND_UPLINK, TERMINATOR, u64_at};
use super::segment::{DATA_START, Frames, HEADER_BYTES, Header, HeaderRead};
use super::storage::{Storage, StorageError};
use super::{Position, Spool};
use crate::message::Sequence;
use crate::time::TimestampMs;

pub(super) const NAMES: [&str; 2] = ["window.a", "window.b"];

/// Beyond this a journal is turned although no window closes: acknowledgements alone make it grow.
const NOTES_BYTES_MAX: u64 = 1024 * 1024;

/// The most a journal takes while `memory_bytes` of records may wait: twice as much, and room for what is noted beside.
pub(super) fn bytes_max(memory_bytes: usize) -> u64 {
    DATA_START + 2 * (memory_bytes as u64 + NOTES_BYTES_MAX)
}

/// A file of the two, and where it ends.
#[derive(Debug)]
pub(super) struct Journal<S: Storage> {
    storage: S,
    file: Option<S::File>,
    slot: usize,
    header: Header,
    seed: u32,
    offset: u64,
    bytes_max: u64,
    /// More came than it may hold: what follows is in memory only, until the next turn.
    overflowed: bool,
    buffer: Vec<u8>,
}

/// What a journal held.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) cursor: Option<(u64, Cursor)>,
    /// In order.
    pub(super) records: Vec<(Position, Vec<u8>)>,
}

impl Found {
    /// The records after those in segments. Segments are written in order: what comes before their end is in them, if it
    /// still waits, and a journal that was given up, or not turned after the last commit, ends before it.
    pub(super) fn records_beyond(
        mut self,
        in_segments: Sequence,
        ours: bool,
    ) -> Vec<(Position, Vec<u8>)> {
        self.records
            .retain(|(position, _)| ours && position.sequence > in_segments);
        self.records
    }
}

impl<S: Storage> Journal<S> {
    /// The journal in `storage`, whatever is there, for at most `bytes_max` bytes.
    pub(super) fn recover(mut storage: S, bytes_max: u64) -> (Self, Found) {
        let newest = NAMES
            .iter()
            .enumerate()
            .filter_map(|(slot, name)| {
                let mut file = storage.open_read(name).ok()?;
                let mut bytes = [0; HEADER_BYTES];
                let read = storage.read_at(&mut file, 0, &mut bytes).ok()?;
                let bytes = bytes.get(..read)?;
                match Header::decode(bytes, u64_at(bytes, 8)) {
                    HeaderRead::Whole(header) => Some((header, slot, file)),
                    HeaderRead::Unused | HeaderRead::Damaged => None,
                }
            })
            .max_by_key(|(header, ..)| header.epoch);
        let mut found = Found::default();
        let mut slot = 0;
        let mut epoch = 0;
        if let Some((header, at, file)) = newest {
            slot = at;
            epoch = header.epoch;
            found = read(&mut storage, file, header);
        }
        let journal = Self {
            storage,
            file: None,
            slot,
            header: Header {
                epoch,
                capacity: bytes_max,
                start: Position::default(),
                begun: TimestampMs::default(),
            },
            seed: 0,
            offset: 0,
            bytes_max,
            overflowed: false,
            buffer: Vec::new(),
        };
        (journal, found)
    }

    /// Whether it holds everything that is in memory only.
    pub(super) fn is_whole(&self) -> bool {
        !self.overflowed
    }

    /// Begins the other file with the cursor and the records of `pending`, which all come after `start`.
    fn turn(
        &mut self,
        start: Position,
        cursor: &[u8],
        pending: &Pending,
    ) -> Result<(), StorageError> {
        self.slot = 1 - self.slot;
        self.header.epoch = self.header.epoch.saturating_add(1);
        self.header.start = start;
        self.seed = record::seed(self.header.epoch);
        self.buffer.clear();
        let counted = self.header.counted(start.totals);
        record::put(
            &mut self.buffer,
            self.seed,
            KIND_CURSOR,
            start.sequence,
            counted,
            cursor,
        );
        self.overflowed = false;
        self.offset = DATA_START;
        self.put(pending, start.sequence);
        let mut file = self.storage.create(NAMES[self.slot])?;
        let frames = self.buffer.len() as u64;
        self.buffer.extend_from_slice(&TERMINATOR);
        self.storage
            .write_at(&mut file, DATA_START, &self.buffer)
            .and_then(|()| self.storage.write_at(&mut file, 0, &self.header.encode()))?;
        self.offset += frames;
        self.file = Some(file);
        Ok(())
    }

    /// Adds frames for the records of `pending` after `after`, as far as they fit.
    fn put(&mut self, pending: &Pending, after: Sequence) {
        for entry in pending.after(after) {
            let end = self.offset + (self.buffer.len() + record::span(entry.bytes())) as u64;
            if self.overflowed || end > self.bytes_max {
                self.overflowed = true;
                return;
            }
            record::put(
                &mut self.buffer,
                self.seed,
                KIND_UPLINK,
                entry.position.sequence,
                self.header.counted(entry.position.totals),
                pending.payload(entry),
            );
        }
    }

    fn write(&mut self) -> Result<(), StorageError> {
        let Some(file) = self.file.as_mut() else {
            return Ok(());
        };
        let frames = self.buffer.len() as u64;
        self.buffer.extend_from_slice(&TERMINATOR);
        self.storage.write_at(file, self.offset, &self.buffer)?;
        self.offset += frames;
        Ok(())
    }

    fn append(&mut self, pending: &Pending, after: Sequence) -> Result<(), StorageError> {
        self.buffer.clear();
        self.put(pending, after);
        self.write()
    }

    fn note(&mut self, cursor: &[u8], last: Position) -> Result<(), StorageError> {
        self.buffer.clear();
        let counted = self.header.counted(last.totals);
        record::put(
            &mut self.buffer,
            self.seed,
            KIND_CURSOR,
            last.sequence,
            counted,
            cursor,
        );
        self.write()
    }
}

fn read<S: Storage>(storage: &mut S, file: S::File, header: Header) -> Found {
    let mut found = Found::default();
    let mut frames = Frames::new(file, header.epoch, DATA_START, header.capacity);
    // Cut off where the process ended in a write: everything before it is whole.
    while let Ok(FrameRead::Frame(frame)) = frames.peek(storage) {
        let span = frame.span();
        let position = header.position(&frame);
        match frame.kind {
            KIND_CURSOR => {
                if let SlotRead::Whole(generation, cursor) = Cursor::decode(frame.payload) {
                    found.cursor = Some((generation, cursor));
                }
            }
            KIND_UPLINK => found.records.push((position, frame.payload.to_vec())),
            _of_a_later_version => {}
        }
        frames.advance(span);
    }
    found
}

impl<S: Storage> Spool<S> {
    /// Whether the journal holds everything that is in memory only.
    pub(super) fn in_journal(&self) -> bool {
        self.journal.as_ref().is_some_and(Journal::is_whole)
    }

    /// Puts the records after `before` into the journal. A journal that fails is given up: from then on records are
    /// written to segments at once. So they are while a journal is full of records that wait; what else is in it goes.
    pub(super) fn note_in_journal(&mut self, before: Sequence) {
        let Some(journal) = self.journal.as_mut() else {
            return;
        };
        let was_whole = journal.is_whole();
        if journal.append(&self.pending, before).is_err() {
            self.give_up_journal();
        } else if was_whole && !self.in_journal() {
            self.turn_journal();
        }
    }

    /// Writes down in the journal what is settled. `false` without one.
    pub(super) fn note_cursor_in_journal(&mut self) -> bool {
        let Some(journal) = self.journal.as_mut() else {
            return false;
        };
        if self.cursor.is_kept() {
            return true;
        }
        if journal.offset > NOTES_BYTES_MAX.max(2 * self.pending.bytes() as u64) {
            self.turn_journal();
            return self.journal.is_some();
        }
        let state = self.cursor.encode_next();
        if journal.note(&state, self.last).is_err() {
            self.give_up_journal();
            return false;
        }
        self.cursor.carried();
        true
    }

    /// What is left in memory begins the journal's other file.
    pub(super) fn turn_journal(&mut self) {
        let Some(journal) = self.journal.as_mut() else {
            return;
        };
        let start = self
            .pending
            .front()
            .map_or(self.last, |entry| entry.before());
        let state = self.cursor.encode_next();
        if journal.turn(start, &state, &self.pending).is_err() {
            self.give_up_journal();
        } else {
            self.cursor.carried();
        }
    }

    fn give_up_journal(&mut self) {
        self.journal = None;
        self.journal_failed = true;
        self.cursor.forget_carried();
    }
}
