//! A spool whose storage gives nothing when the process starts: it goes on in memory, and takes up what lies there later.
//!
//! ```text
//!  without_storage ──► everything in memory, within `Limits::in_memory`; the oldest or the newest is given up and counted
//!       │
//!       │ continue_in(a spool that could be opened)
//!       ▼
//!  what lay on the medium ───────┤ one or more backlogs
//!  what came meanwhile            ├──────────── live │ appended next ►      the next commit writes it
//! ```
//!
//! Which numbers the spool had used is not known meanwhile. A receiver that tells repetitions by them must not take
//! something new for something old, so they begin at a number drawn from so many that no other process draws a near one.
//! Should the spool turn out to have used higher ones, those given out in memory are shifted behind them.

use super::cursor::{Cursor, CursorFile, CursorFound};
use super::evict::Evictions;
use super::in_flight::InFlight;
use super::journal::{self, Journal};
use super::lane::Reader;
use super::pending::Pending;
use super::range::{Range, Ranges};
use super::recover::holds_segments;
use super::retention::Pool;
use super::storage::{Storage, StorageError};
use super::tail::Tail;
use super::{Keep, Limits, Position, Spool};
use crate::link::backoff::Random;
use crate::message::Sequence;
use crate::time::TimestampMs;

/// Numbers of a spool that nothing is known of begin between these. All are exact in a JSON number.
const BEGIN_MIN: u64 = 1 << 44;
const BEGIN_SPREAD: u64 = 1 << 51;
/// Numbers that could not be reserved begin so far behind those that are known.
const JUMP_MIN: u64 = 1 << 32;
const JUMP_SPREAD: u64 = 1 << 42;

/// What a spool without its storage remembers.
#[derive(Debug)]
pub(super) struct Absent {
    /// Why it gave nothing when it was last tried.
    pub(super) why: StorageError,
    /// The record before the first one.
    begin: u64,
}

/// How far numbers jump that could not be reserved.
pub(super) fn jump(draw: u64) -> u64 {
    JUMP_MIN + Random::seeded(draw).next_u64() % JUMP_SPREAD
}

impl<S: Storage> Spool<S> {
    /// A spool that cannot be opened now. It never touches `storage`; `draw` as in [`Spool::open_with`].
    #[must_use]
    pub fn without_storage(storage: S, limits: Limits, draw: u64, why: StorageError) -> Self {
        let begin = BEGIN_MIN + Random::seeded(draw).next_u64() % BEGIN_SPREAD;
        let start = Position {
            sequence: Sequence(begin),
            ..Position::default()
        };
        let mut cursor = CursorFile::unwritten(None);
        cursor.state = Cursor {
            unsettled: Ranges::after(start),
            reserved_sequence: u64::MAX,
            ..Cursor::default()
        };
        Self {
            storage,
            journal: None,
            journal_failed: false,
            limits: limits.kept(Keep::InMemory),
            cursor,
            segments: Default::default(),
            writer: None,
            pool: Pool::empty(limits),
            last: start,
            written: start,
            synced: start,
            next_sequence: begin + 1,
            next_epoch: 0,
            draw,
            beyond_reserved: false,
            absent: Some(Absent { why, begin }),
            readers: vec![Reader::new(start.sequence)],
            tail: Tail::new(start.sequence, limits.tail_bytes),
            pending: Pending::default(),
            in_flight: InFlight::default(),
            evictions: Evictions::default(),
            scratch: Vec::new(),
            staging: Vec::new(),
            now: TimestampMs::default(),
            fault: None,
            kept_full: false,
        }
    }

    /// Whether the storage gave nothing yet.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        self.absent.is_some()
    }

    /// For work that touches the storage.
    pub(super) fn refuse_absent(&self) -> Result<(), StorageError> {
        let absent = self.absent.as_ref();
        absent.map_or(Ok(()), |absent| Err(absent.why))
    }

    /// It was tried again, in vain.
    pub fn still_absent(&mut self, why: StorageError) {
        if let Some(absent) = &mut self.absent {
            absent.why = why;
        }
    }

    /// Goes on in `opened`, which is this spool as its storage had it: what waits there comes before what is in memory here,
    /// and both are in one spool from now on. The answer is how much higher the numbers given out here have become: whoever
    /// acknowledges them must add it. None, and nothing has changed, while both wait in too many pieces together.
    pub fn continue_in(&mut self, mut opened: Self) -> Option<u64> {
        let begin = self.absent.as_ref()?.begin;
        let last = opened.last;
        let used = last.sequence.0.max(opened.next_sequence.saturating_sub(1));
        // Not right behind them: what is given out there is reserved nowhere for now.
        let shift = if used < begin {
            0
        } else {
            used.saturating_add(jump(self.draw)).saturating_sub(begin)
        };
        let moved = |position: Position| Position {
            sequence: Sequence(position.sequence.0.saturating_add(shift)),
            totals: last.totals.plus(position.totals),
        };
        let (waited, came) = (opened.unsettled(), self.unsettled());
        let mut ranges: Vec<Range> = waited.iter().copied().collect();
        let live = ranges
            .pop()
            .filter(|live| live.acked.sequence < last.sequence);
        ranges.extend(live.map(|live| Range {
            through: Some(last),
            ..live
        }));
        let readers = ranges.len();
        ranges.extend(came.iter().map(|range| Range {
            acked: moved(range.acked),
            through: range.through.map(moved),
        }));
        let unsettled = Ranges::of(ranges)?;

        std::mem::swap(self, &mut opened);
        let memory = opened;
        self.readers.truncate(readers);
        for mut reader in memory.readers {
            reader.shift(moved);
            self.readers.push(reader);
        }
        if self.pending.count() == 0 {
            // Through there everything is settled, or was on the medium.
            self.written = self.written.latest(moved(memory.written));
            self.synced = self.synced.latest(moved(memory.synced));
        }
        self.pending.extend(&memory.pending, moved);
        self.in_flight.extend(memory.in_flight, shift);
        self.evictions.merge(memory.evictions);
        self.last = moved(memory.last);
        self.tail = Tail::new(self.last.sequence, self.limits.tail_bytes);
        self.now = memory.now;
        self.next_sequence = memory.next_sequence.saturating_add(shift);
        self.beyond_reserved = true;
        self.reserve_more();
        let (state, counted) = (&mut self.cursor.state, memory.cursor.state);
        state.unsettled = unsettled;
        state.evicted = state.evicted.plus(counted.evicted);
        state.dropped = state.dropped.plus(counted.dropped);
        state.damaged = state.damaged.plus(counted.damaged);
        state.set_aside_readings = state
            .set_aside_readings
            .saturating_add(counted.set_aside_readings);
        self.turn_journal();
        Some(shift)
    }

    /// Goes on in `storage`, which has taken the place of the old one: the same files on a repaired file system, or an empty
    /// one. What was on the old one and is not on this is found missing when it is read, and counted as damaged.
    ///
    /// # Errors
    /// [`StorageError::Foreign`] when another spool's records lie there, or what the storage says. Nothing has changed then.
    pub fn move_to(&mut self, mut storage: S, journal: Option<S>) -> Result<(), StorageError> {
        let mut listed = storage.list()?;
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        let (found, how, _) = CursorFile::load(&mut storage, false)?;
        let ours = found.state.identity == self.cursor.state.identity;
        // A spool that nothing was ever written to has left files and no identity.
        let nobodys = found.state.identity == 0 && !holds_segments(&listed);
        if how != CursorFound::Fresh && !ours && !nobodys {
            return Err(StorageError::Foreign);
        }
        self.pool = Pool::recover(&mut storage, &listed, self.limits);
        self.storage = storage;
        self.cursor.begin_anew(&found);
        if let Some(writer) = &mut self.writer {
            writer.abandon();
        }
        for reader in &mut self.readers {
            reader.close();
        }
        if self.limits.keep == Keep::OnDisk {
            let bytes_max = journal::bytes_max(self.limits.memory_bytes);
            self.journal = journal.map(|storage| Journal::recover(storage, bytes_max).0);
            self.turn_journal();
        }
        Ok(())
    }
}
