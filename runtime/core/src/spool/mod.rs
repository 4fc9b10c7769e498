//! Store-and-forward: what was accepted is kept until the platform acknowledged it, or counted as evicted.
//!
//! # On disk, version 1 (little endian)
//!
//! ```text
//! directory:   cursor                     see `cursor`
//!              0000000000000007.segment   named by its epoch; in order of epochs they are the spool
//!              0000000000000003.spare     zero-filled or used up, becomes the next segment by renaming
//!              0000000000000004.filling   a spare being zero-filled; thrown away at start
//!              0000000000000002.quarantine  held damage; the last two are kept for a look
//!
//! segment:     0 ─ header ─ 52 ─ zero ─ 4096 ─ frame ─ frame ─ … ─ frame ─ zero word ─ old bytes ─ capacity
//!
//! header:      magic u32 "MLSG" | version u32 | epoch u64 | capacity u64
//!              start: sequence u64, records u64, readings u64   through the last record before this segment
//!              crc32c u32 over all before it
//!
//! frame:       payload length u24 | kind u8 | crc32c u32
//! (8-aligned)  sequence u64
//!              records u32 | readings u32   of this segment, through this frame
//!              payload (kind 1: `Uplink` in postcard 1) | zero to a multiple of 8
//!
//! crc32c over: epoch u64, length and kind, sequence, records, readings, payload
//! ```
//!
//! Segments are zero-filled before use and recycled by renaming, so that a commit writes data and no file system
//! metadata. The epoch in the checksum, a number never used twice, is what makes the old bytes of a recycled file
//! invalid. All counts are cumulative: from the headers alone a start knows what each sealed segment holds, and from
//! the next good frame a reader knows how much it could not read.
//!
//! # Promises
//!
//! * A sequence is given out once, in order, across restarts and power cuts: numbers are reserved in the cursor before
//!   they are used. After a crash the rest of the reservation is skipped, so sequences may jump; they never go back.
//! * `acked ≤ appended` and `synced ≤ appended`. What is acknowledged before its commit is not synced at all: the
//!   platform has it, and the medium is spared.
//! * Accepted means written: it survives the end of the process. Committed means synced: it survives a power cut.
//! * A start always works on whatever it finds. What is unreadable at the end of the newest segment was being written
//!   when power went (torn); unreadable anywhere else is damage: skipped, counted, and the segment put aside.
//! * Eviction takes whole segments, the oldest first; each evicted reading is counted, and the count is synced before
//!   the segment is reused.
//! * After a failed sync nothing more is written to that segment. Its uncommitted records are copied to a new one.
//! * A record whose append was refused by the storage may still be found after a crash: it is delivered then.

mod append;
pub mod cursor;
pub mod dead_letter;
pub mod inspect;
mod purge;
mod read;
pub mod record;
mod recover;
mod retention;
pub mod segment;
pub mod sim_storage;
pub mod storage;
mod tail;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use thiserror::Error;

use crate::message::{Sequence, Uplink};
use cursor::CursorFile;
use segment::Segment;
use storage::{Storage, StorageError};

pub use append::Refused;
pub use recover::Recovery;
pub use retention::{Limits, LimitsError, SEGMENT_BYTES_MIN, SEGMENTS_MIN};

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
    /// Everything through this one survives a power cut (or was settled before).
    pub synced: Sequence,
    /// Records waiting.
    pub depth_records: u64,
    /// Readings waiting.
    pub depth_readings: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Since the spool was made: dropped because it was full.
    pub evicted: Totals,
    /// Since the spool was made: accepted and not readable any more.
    pub damaged: Totals,
    /// Since the spool was made: settled readings the platform does not have, because it refused them for good.
    pub set_aside_readings: u64,
    /// Since the spool was made: appended.
    pub appended: Totals,
    /// Damaged segments put aside.
    pub quarantined_segments: u64,
    /// The storage refuses: appends fail when the current segment is full.
    pub stalled: Option<StorageError>,
}

/// A place in a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    epoch: u64,
    offset: u64,
}

/// The spool. Nothing happens on drop: dropping it is what a crash does.
///
/// `append` and `ack` change it; `commit`, `checkpoint` and `prepare` are called by the owner when it is time to; `read`
/// hands records out.
#[derive(Debug)]
pub struct Spool<S: Storage> {
    storage: S,
    limits: Limits,
    cursor: CursorFile<S::File>,
    /// Oldest first. While there is a writer it writes the last one.
    segments: VecDeque<Segment>,
    writer: Option<append::Writer<S::File>>,
    pool: retention::Pool<S::File>,
    /// Through the last appended record.
    last: Position,
    /// The sequence the next record gets, if it is not higher yet.
    next_sequence: u64,
    next_epoch: u64,
    reader: read::Reader<S::File>,
    handed: read::Handed,
    tail: tail::Tail,
    staging: append::Staging,
}

impl<S: Storage> Spool<S> {
    /// The figures.
    #[must_use]
    pub fn status(&self) -> Status {
        let cursor = &self.cursor.state;
        let depth = self.last.totals.since(cursor.acked.totals);
        let synced = self
            .writer
            .as_ref()
            .map_or(self.last.sequence, |writer| writer.synced.sequence);
        Status {
            last: self.last.sequence.max(cursor.acked.sequence),
            acked: cursor.acked.sequence,
            synced: synced.max(cursor.acked.sequence),
            depth_records: depth.records,
            depth_readings: depth.readings,
            bytes: self.segment_bytes() + self.pool.bytes(),
            evicted: cursor.evicted,
            damaged: cursor.damaged,
            set_aside_readings: cursor.set_aside_readings,
            appended: self.last.totals,
            quarantined_segments: self.pool.quarantined(),
            stalled: self.pool.stalled(),
        }
    }

    /// Everything through `through` was acknowledged by the platform. Later than anything handed out counts as the last
    /// record handed out. The files follow at the next [`Spool::checkpoint`].
    pub fn ack(&mut self, through: Sequence) {
        self.handed.settle(through, &mut self.cursor.state);
        self.settle_lost_end();
    }

    /// Of what is or will be acknowledged, `readings` more did not reach the platform: it refused them for good, or no
    /// packet can carry them. Written down together with the acknowledgements.
    pub fn set_aside(&mut self, readings: u64) {
        let counted = &mut self.cursor.state.set_aside_readings;
        *counted = counted.saturating_add(readings);
    }

    /// Writes down what was acknowledged and recycles what is not needed. `durable` makes it survive a power cut, too.
    ///
    /// # Errors
    /// When the storage refuses; call again later.
    pub fn checkpoint(&mut self, durable: bool) -> Result<(), StorageError> {
        let acked = self.cursor.state.acked.sequence;
        let sealed = self.sealed();
        let settled = self
            .segments
            .iter()
            .take(sealed)
            .take_while(|segment| segment.end.sequence <= acked)
            .count();
        if durable || settled > 0 {
            // A recycled segment whose old name comes back after a power cut must still count as acknowledged.
            self.cursor.sync(&mut self.storage)?;
        } else {
            self.cursor.write(&mut self.storage)?;
        }
        for _ in 0..settled {
            self.retire_oldest()?;
        }
        Ok(())
    }

    /// A step of background work: zero-fills a spare, so that the next segment is there when it is needed. Also the way
    /// out of a stall: the storage is tried again. `true` while there is more to do.
    ///
    /// # Errors
    /// When the storage refuses; call again later.
    pub fn prepare(&mut self) -> Result<bool, StorageError> {
        self.pool.retry();
        let used = self.segment_bytes();
        self.pool
            .fill(&mut self.storage, used, retention::Haste::Ahead)
    }

    /// Whether [`Spool::prepare`] has something to do.
    #[must_use]
    pub fn wants_preparing(&self) -> bool {
        self.pool.stalled().is_some()
            || (!self.segments.is_empty() && self.pool.can_fill(self.segment_bytes()))
    }

    /// Commits, and returns the unused part of the reservation: the next start continues without a jump.
    ///
    /// # Errors
    /// When the storage refuses. Everything accepted is still there at the next start.
    pub fn close(mut self) -> Result<(), StorageError> {
        self.commit()?;
        self.cursor.state.reserved_sequence = self.next_sequence.saturating_sub(1);
        self.checkpoint(true)
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

    fn retire_oldest(&mut self) -> Result<(), StorageError> {
        if let Some(segment) = self.segments.front() {
            self.pool.retire(&mut self.storage, segment)?;
            self.segments.pop_front();
        }
        Ok(())
    }

    /// Gives up the oldest segment, settled or not.
    fn evict_oldest(&mut self) -> Result<(), StorageError> {
        let Some(oldest) = self.segments.front().filter(|_| self.sealed() > 0) else {
            return Err(StorageError::Full);
        };
        let before = self.cursor.state;
        if before.acked.sequence < oldest.end.sequence {
            let lost = oldest.end.totals.since(before.acked.totals);
            self.cursor.state.evicted = before.evicted.plus(lost);
            self.cursor.state.acked = before.acked.latest(oldest.end);
        }
        // Before the segment is gone its readings must be counted, whatever happens in between.
        if let Err(error) = self.cursor.sync(&mut self.storage) {
            self.cursor.state = before;
            return Err(error);
        }
        self.handed.forget(self.cursor.state.acked.sequence);
        self.retire_oldest()
    }

    fn take_sequence(&mut self) -> Result<Sequence, StorageError> {
        if self.next_sequence > self.cursor.state.reserved_sequence {
            self.cursor.state.reserved_sequence = self.next_sequence + SEQUENCES_RESERVED - 1;
            self.sync_reservation()?;
        }
        let sequence = Sequence(self.next_sequence);
        self.next_sequence += 1;
        Ok(sequence)
    }

    fn take_epoch(&mut self) -> Result<u64, StorageError> {
        if self.next_epoch > self.cursor.state.reserved_epoch {
            self.cursor.state.reserved_epoch = self.next_epoch + EPOCHS_RESERVED - 1;
            self.sync_reservation()?;
        }
        let epoch = self.next_epoch;
        self.next_epoch += 1;
        Ok(epoch)
    }

    /// A reservation that could not be synced is not one.
    fn sync_reservation(&mut self) -> Result<(), StorageError> {
        self.cursor.sync(&mut self.storage).inspect_err(|_| {
            self.cursor.state.reserved_sequence = self.next_sequence - 1;
            self.cursor.state.reserved_epoch = self.next_epoch - 1;
        })
    }
}
