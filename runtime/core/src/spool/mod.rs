//! Store-and-forward: what was accepted is kept until the platform acknowledged it, or counted as evicted.
//!
//! # On disk, version 2 (little endian)
//!
//! ```text
//! directory:   cursor                     what is settled and counted, see `cursor`
//!              evicted                    what was given up, by device, see `evict`
//!              0000000000000007.segment   named by its epoch; in order of epochs they are the spool
//!              0000000000000003.spare     zero-filled or used up, becomes the next segment by renaming
//!              0000000000000004.filling   a spare being zero-filled; thrown away at start
//!              0000000000000002.quarantine  held damage; the last two are kept for a look
//!              cursor.new, evicted.new    being written; they become the file without `.new` by renaming
//!              *.letter, *.replay         refused by the platform for good, see `dead_letter`
//!
//! journal's    window.a, window.b         what is in memory only, see `journal`; on a storage that outlives the process
//! directory:                              but not the power
//!
//! segment:     0 ─ header ─ 60 ─ zero ─ 4096 ─ frame ─ frame ─ … ─ frame ─ zero word ─ old bytes ─ capacity
//!
//! header:      magic u32 "MLSG" | version u32 | epoch u64 | capacity u64
//!              start: sequence u64, records u64, readings u64   through the last record before this segment
//!              begun u64   milliseconds since 1970, by a clock that may not have been set
//!              crc32c u32 over all before it
//!
//! frame:       payload length u24 | kind u8 | crc32c u32
//! (8-aligned)  sequence u64
//!              records u32 | readings u32   of this segment, through this frame
//!              payload | zero to a multiple of 8
//!
//! kind 1:      a record: `Uplink` in postcard 1
//! kind 2:      the cursor as it was before the next record: the bytes of a slot; sequence and counts of the record before
//!
//! crc32c over: epoch u64, length and kind, sequence, records, readings, payload
//! ```
//!
//! Segments are zero-filled before use and recycled by renaming, so that a commit writes data and no file system
//! metadata. The epoch in the checksum, a number never used twice, is what makes the old bytes of a recycled file
//! invalid. All counts are cumulative: from the headers alone a start knows what each sealed segment holds, and from
//! the next good frame a reader knows how much it could not read. What was settled before it was written is missing in
//! between; the ranges of the cursor tell it from damage.
//!
//! # Promises
//!
//! * A sequence is given out once, in order, across restarts and power cuts: numbers are reserved in the cursor before
//!   they are used. After a crash the rest of the reservation is skipped, so sequences may jump; they never go back.
//! * What waits is one or more ranges of sequences (see `range`), each read and acknowledged in order, beside the others.
//! * Accepted means in memory and in the journal, or without one in a segment: it survives the end of the process
//!   ([`Status::kept`]). Committed means in a segment and synced: it survives a power cut ([`Status::synced`]).
//! * With a journal, what is settled before its commit is never written to the medium: the platform has it.
//! * A medium that fails or is full refuses no record. What comes waits in memory and in the journal, within
//!   [`Limits::in_memory`]; beyond that the spool gives up what [`Full`] says, and counts it. Numbers that cannot be reserved
//!   then begin far away from those that were, at a place no other process draws. A journal that fails is done without until
//!   the next start.
//! * Where a medium can only be read, what waits there is handed out. One that gives nothing at the start is taken up when
//!   it does, see `absent`; nothing on it is overwritten before.
//! * What is given up while it is in flight counts as waiting until the link tells whether it was delivered; after a crash it
//!   counts as evicted.
//! * A start always works on whatever it finds. What is unreadable at the end of the newest segment was being written
//!   when power went (torn); unreadable anywhere else is damage: skipped, counted, and the segment put aside. What the
//!   journal has counts from the end of the segments on.
//! * A full spool gives up whole segments, the oldest first, or what comes. Each reading given up is counted, and where a
//!   segment goes, the count is synced before it is reused; by device they are counted as far as a crash lets them be.
//! * After a failed sync nothing more is written to that segment. Its uncommitted records are written to a new one.
//! * A record that was refused is nowhere, and is not delivered.

mod absent;
mod append;
pub mod cursor;
pub mod dead_letter;
mod evict;
mod in_flight;
pub mod inspect;
mod journal;
mod lane;
mod pending;
pub mod range;
pub mod record;
mod recover;
mod retention;
pub mod segment;
pub mod sim_storage;
pub mod storage;
pub mod streams;
mod tail;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use thiserror::Error;

use crate::message::{Sequence, Uplink};
use crate::time::TimestampMs;
use cursor::CursorFile;
use segment::Segment;
use storage::{Storage, StorageError};

pub use append::Refused;
pub use evict::EVICTED_DEVICES_MAX;
pub use lane::Lane;
pub use recover::Recovery;
pub use retention::{Full, Keep, Limits, LimitsError, SEGMENT_BYTES_MIN, SEGMENTS_MIN};

/// Sequences reserved at once: one synced cursor write per so many records, and the most a crash skips.
pub const SEQUENCES_RESERVED: u64 = 1 << 20;

/// Epochs reserved at once.
const EPOCHS_RESERVED: u64 = 256;

/// An amount of records and of the readings in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Totals {
    /// Records.
    pub records: u64,
    /// Readings.
    pub readings: u64,
}

impl Totals {
    /// What came after `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            records: self.records.saturating_sub(earlier.records),
            readings: self.readings.saturating_sub(earlier.readings),
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, more: Self) -> Self {
        Self {
            records: self.records.saturating_add(more.records),
            readings: self.readings.saturating_add(more.readings),
        }
    }
}

/// A place between two records: after the one with this sequence, and with so much appended before it since the spool
/// was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Position {
    /// The record before this place.
    pub sequence: Sequence,
    /// Everything through that record.
    pub totals: Totals,
}

impl Position {
    fn latest(self, other: Self) -> Self {
        Self {
            sequence: self.sequence.max(other.sequence),
            totals: Totals {
                records: self.totals.records.max(other.totals.records),
                readings: self.totals.readings.max(other.totals.readings),
            },
        }
    }
}

/// A record as it is read back.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its place.
    pub sequence: Sequence,
    /// What was appended.
    pub uplink: Uplink,
}

/// Why nothing could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ReadError {
    /// The storage could not read. Try again later; what stays unreadable is skipped and counted in the end.
    #[error("the spool cannot be read: {0}")]
    Storage(#[from] StorageError),
}

/// The figures of a spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Status {
    /// The newest record.
    pub last: Sequence,
    /// Everything through this one is settled.
    pub acked: Sequence,
    /// Everything through this one survives the end of the process (or was settled before).
    pub kept: Sequence,
    /// Everything through this one survives a power cut (or was settled before).
    pub synced: Sequence,
    /// Records waiting, those among them that were given up while they are in flight.
    pub depth_records: u64,
    /// Readings waiting, likewise.
    pub depth_readings: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Encoded bytes of the records in memory.
    pub memory_bytes: u64,
    /// Since the spool was made: given up because it was full or too old, and not delivered.
    pub evicted: Totals,
    /// Since the spool was made: accepted and not readable any more.
    pub damaged: Totals,
    /// Since the spool was made: settled readings the platform does not have, because it refused them for good.
    pub set_aside_readings: u64,
    /// Since the spool was made: accepted.
    pub appended: Totals,
    /// Damaged segments put aside.
    pub quarantined_segments: u64,
    /// The storage refuses: what is accepted stays in memory until it works again.
    pub fault: Option<StorageError>,
    /// There is no room, and what comes is given up.
    pub kept_full: bool,
    /// The journal refused: records are written to segments at once.
    pub journal_failed: bool,
}

/// A place in a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    epoch: u64,
    offset: u64,
}

/// The spool of one stream. Nothing happens on drop: dropping it is what a crash does.
///
/// `append` and `ack` change it; `commit`, `checkpoint` and `prepare` are called by the owner when it is time to; `read`
/// hands records out.
#[derive(Debug)]
pub struct Spool<S: Storage> {
    storage: S,
    journal: Option<journal::Journal<S>>,
    journal_failed: bool,
    limits: Limits,
    cursor: CursorFile<S::File>,
    /// Oldest first. While there is a writer it writes the last one.
    segments: VecDeque<Segment>,
    writer: Option<append::Writer<S::File>>,
    pool: retention::Pool<S::File>,
    /// Through the last accepted record.
    last: Position,
    /// Nothing through this place is in memory only, unless it is settled.
    written: Position,
    /// The same for what a power cut would take.
    synced: Position,
    /// The sequence the next record gets, if it is not higher yet.
    next_sequence: u64,
    next_epoch: u64,
    /// A number no other process has drawn.
    draw: u64,
    /// Numbers are given out that are reserved nowhere, far from any that are.
    beyond_reserved: bool,
    /// The storage gave nothing at the start: it is not touched, and everything is in memory.
    absent: Option<absent::Absent>,
    /// One for each unsettled range.
    readers: Vec<lane::Reader<S::File>>,
    tail: tail::Tail,
    pending: pending::Pending,
    in_flight: in_flight::InFlight,
    evictions: evict::Evictions,
    scratch: Vec<u8>,
    staging: Vec<u8>,
    now: TimestampMs,
    /// The last commit failed.
    fault: Option<StorageError>,
    /// [`Full::DropNewest`] has come true.
    kept_full: bool,
}

impl<S: Storage> Spool<S> {
    /// The figures.
    #[must_use]
    pub fn status(&self) -> Status {
        let cursor = &self.cursor.state;
        let in_flight = self.in_flight.totals();
        let depth = cursor.unsettled.depth(self.last).plus(in_flight);
        let acked = cursor.unsettled.acked().sequence;
        Status {
            last: self.last.sequence,
            acked,
            kept: self.kept().max(acked),
            synced: self.synced.sequence.max(acked),
            depth_records: depth.records,
            depth_readings: depth.readings,
            bytes: self.segment_bytes() + self.pool.bytes(),
            memory_bytes: self.pending.bytes() as u64,
            evicted: self.evicted(),
            damaged: cursor.damaged,
            set_aside_readings: cursor.set_aside_readings,
            appended: self.last.totals.plus(cursor.dropped),
            quarantined_segments: self.pool.quarantined(),
            fault: self
                .absent
                .as_ref()
                .map(|absent| absent.why)
                .or(self.fault)
                .or(self.pool.stalled())
                .filter(|_| !self.kept_full),
            kept_full: self.kept_full,
            journal_failed: self.journal_failed,
        }
    }

    /// What was given up, except what is in flight: that may yet be acknowledged.
    fn evicted(&self) -> Totals {
        let cursor = &self.cursor.state;
        let given_up = cursor.evicted.plus(cursor.dropped);
        given_up.since(self.in_flight.totals())
    }

    fn kept(&self) -> Sequence {
        if self.in_journal() {
            self.last.sequence
        } else {
            self.written.sequence
        }
    }

    /// What time it is, by the wall clock: segments remember when they were begun.
    pub fn tell_time(&mut self, now: TimestampMs) {
        self.now = now;
    }

    /// How much of its room the spool has taken: 0 to 1.
    #[must_use]
    pub fn fill(&self) -> f64 {
        self.limits.fill(self.segment_bytes())
    }

    /// Each unsettled range that has something waiting, oldest first, and how much it is.
    pub fn lanes(&self) -> impl DoubleEndedIterator<Item = (Lane, Totals)> {
        let last = self.last;
        self.cursor.state.unsettled.iter().map(move |range| {
            let lane = range
                .through
                .map_or(Lane::Live, |through| Lane::Backlog(through.sequence));
            (lane, range.end(last).totals.since(range.acked.totals))
        })
    }

    /// The lane in which this record waits.
    #[must_use]
    pub fn lane_of(&self, sequence: Sequence) -> Option<Lane> {
        let unsettled = &self.cursor.state.unsettled;
        let range = unsettled.get(unsettled.index_of(sequence)?)?;
        Some(
            range
                .through
                .map_or(Lane::Live, |through| Lane::Backlog(through.sequence)),
        )
    }

    /// Divides what waits from what comes: the live lane becomes a backlog, and a new one begins behind it. `false`:
    /// nothing waits there, or there are too many backlogs already.
    pub fn divide(&mut self) -> bool {
        let live = self.cursor.state.unsettled.count() - 1;
        self.split(live, self.last)
    }

    /// Divides a backlog where its newest segment begins, so that the newest can be read first. `false` where it has only
    /// one, or there are too many backlogs.
    pub fn divide_backlog(&mut self, lane: Lane) -> bool {
        let Some(index) = self.index_of(lane) else {
            return false;
        };
        let Some(range) = self.cursor.state.unsettled.get(index) else {
            return false;
        };
        let end = range.end(self.last).sequence;
        let newest = self
            .segments
            .iter()
            .rfind(|segment| segment.header.start.sequence < end)
            .map(|segment| segment.header.start);
        newest.is_some_and(|start| self.split(index, start))
    }

    fn split(&mut self, index: usize, at: Position) -> bool {
        let split = self.cursor.state.unsettled.split(index, at);
        if split && let Some(reader) = self.readers.get_mut(index) {
            let rest = reader.split_off(at.sequence);
            self.readers.insert(index + 1, rest);
        }
        split
    }

    fn index_of(&self, lane: Lane) -> Option<usize> {
        let unsettled = &self.cursor.state.unsettled;
        match lane {
            Lane::Live => Some(unsettled.count() - 1),
            Lane::Backlog(through) => unsettled
                .iter()
                .position(|range| range.through.is_some_and(|end| end.sequence == through)),
        }
    }

    /// Everything handed out in the lane of `through`, through it, was acknowledged by the platform. Later than anything
    /// handed out counts as the last record handed out. The files follow at the next [`Spool::checkpoint`].
    pub fn ack(&mut self, through: Sequence) {
        let Some(index) = self.cursor.state.unsettled.index_of(through) else {
            return self.ack_given_up(through);
        };
        let state = &mut self.cursor.state;
        if let (Some(reader), Some(range)) =
            (self.readers.get_mut(index), state.unsettled.get_mut(index))
        {
            let damaged = reader.settle(through, range);
            state.damaged = state.damaged.plus(damaged);
        }
        self.settle_lost_end(index);
        if self.limits.keep == Keep::InMemory {
            self.pending_settled();
        }
    }

    /// Of what is or will be acknowledged, `readings` more did not reach the platform: it refused them for good, or no
    /// packet can carry them. Written down together with the acknowledgements.
    pub fn set_aside(&mut self, readings: u64) {
        let counted = &mut self.cursor.state.set_aside_readings;
        *counted = counted.saturating_add(readings);
    }

    /// Writes down what was settled and recycles what is not needed. `durable` makes it survive a power cut, too, where
    /// that matters. What is in memory only leaves nothing to write down before the end.
    ///
    /// # Errors
    /// When the storage refuses; call again later.
    pub fn checkpoint(&mut self, durable: bool) -> Result<(), StorageError> {
        self.refuse_absent()?;
        let unsettled = &self.cursor.state.unsettled;
        let settled: Vec<usize> = self
            .segments
            .iter()
            .take(self.sealed())
            .enumerate()
            .filter(|(_, segment)| {
                !unsettled.meets(segment.header.start.sequence, segment.end.sequence)
            })
            .map(|(index, _)| index)
            .collect();
        // A recycled segment whose old name comes back after a power cut must still count as settled.
        if !settled.is_empty() || (durable && self.would_repeat()) {
            self.cursor.sync(&mut self.storage)?;
        } else if self.limits.keep == Keep::OnDisk && !self.note_cursor_in_journal() {
            self.cursor.write(&mut self.storage)?;
        }
        for index in settled.into_iter().rev() {
            self.retire(index)?;
        }
        if durable {
            self.write_evictions()?;
        }
        Ok(())
    }

    /// Whether a power cut now would bring back records that are settled: some are in segments, and the last synced cursor
    /// does not know.
    fn would_repeat(&self) -> bool {
        let start = self
            .segments
            .front()
            .map_or(self.written.sequence, |oldest| oldest.header.start.sequence);
        self.cursor.synced_is_behind(start, self.written.sequence)
    }

    /// A step of background work: zero-fills a spare, so that the next segment is there when it is needed. Also the way
    /// out of a fault: the storage is tried again. `true` while there is more to do.
    ///
    /// # Errors
    /// When the storage refuses; call again later.
    pub fn prepare(&mut self) -> Result<bool, StorageError> {
        self.refuse_absent()?;
        self.pool.retry();
        if self.limits.keep == Keep::InMemory {
            return self.prove_if_faulty().map(|()| false);
        }
        if self.fault.is_some()
            && let Err(error) = self.commit()
        {
            return if self.kept_full {
                Ok(false)
            } else {
                Err(error)
            };
        }
        let used = self.segment_bytes();
        self.pool
            .fill(&mut self.storage, used, retention::Haste::Ahead)
    }

    /// Whether [`Spool::prepare`] has something to do.
    #[must_use]
    pub fn wants_preparing(&self) -> bool {
        self.fault.is_some()
            || self.pool.stalled().is_some()
            || (!self.segments.is_empty() && self.pool.can_fill(self.segment_bytes()))
    }

    /// Commits, and returns the unused part of the reservation: the next start continues without a jump. What is in memory
    /// only is given up and counted.
    ///
    /// # Errors
    /// When the storage refuses. Everything accepted is still there at the next start, as far as it was written.
    pub fn close(mut self) -> Result<(), StorageError> {
        self.refuse_absent()?;
        self.give_up_in_flight();
        if self.limits.keep == Keep::InMemory {
            self.evict_memory()?;
        }
        match self.commit() {
            // The last few were accepted when it was not known yet that there is no room for them.
            Err(_) if self.kept_full => self.evict_memory()?,
            other => other?,
        }
        self.cursor.state.reserved_sequence = self.next_sequence.saturating_sub(1);
        self.checkpoint(true)?;
        self.cursor.sync(&mut self.storage)
    }

    /// How many segments, from the front, are not being written.
    fn sealed(&self) -> usize {
        self.segments.len() - usize::from(self.writer.is_some() && !self.segments.is_empty())
    }

    fn segment_bytes(&self) -> u64 {
        self.segments
            .iter()
            .map(|segment| segment.header.capacity)
            .sum()
    }

    fn retire(&mut self, index: usize) -> Result<(), StorageError> {
        if let Some(segment) = self.segments.get(index) {
            self.pool.retire(&mut self.storage, segment)?;
            self.segments.remove(index);
            self.kept_full = false;
        }
        Ok(())
    }

    fn take_sequence(&mut self) -> Sequence {
        if self.next_sequence > self.cursor.state.reserved_sequence {
            self.reserve_more();
            if self.cursor.sync(&mut self.storage).is_err() && !self.beyond_reserved {
                // Nobody will know which numbers were used if the process ends now: they must be such as no other takes.
                self.beyond_reserved = true;
                self.next_sequence = self.next_sequence.saturating_add(absent::jump(self.draw));
                self.reserve_more();
            }
        }
        let sequence = Sequence(self.next_sequence);
        self.next_sequence += 1;
        sequence
    }

    fn reserve_more(&mut self) {
        let reserved = self.next_sequence.saturating_add(SEQUENCES_RESERVED - 1);
        self.cursor.state.reserved_sequence = reserved;
    }

    /// Before a record is written, its number is reserved on the medium.
    fn secure_reservation(&mut self) -> Result<(), StorageError> {
        if self.cursor.reserved_on_medium() < self.last.sequence.0 {
            self.cursor.sync(&mut self.storage)?;
        }
        Ok(())
    }

    fn take_epoch(&mut self) -> Result<u64, StorageError> {
        if self.next_epoch > self.cursor.state.reserved_epoch {
            self.cursor.state.reserved_epoch = self.next_epoch + EPOCHS_RESERVED - 1;
            // A reservation that could not be synced is not one.
            self.cursor
                .sync(&mut self.storage)
                .inspect_err(|_| self.cursor.state.reserved_epoch = self.next_epoch - 1)?;
        }
        let epoch = self.next_epoch;
        self.next_epoch += 1;
        Ok(epoch)
    }
}
