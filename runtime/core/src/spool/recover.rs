//! Starting on whatever is there.

use std::collections::VecDeque;

use super::cursor::{Cursor, CursorFile, CursorFound, SlotRead};
use super::evict::Evictions;
use super::in_flight::InFlight;
use super::journal::{self, Journal};
use super::lane::Reader;
use super::pending::Pending;
use super::range::Ranges;
use super::record::{FrameRead, KIND_CURSOR, KIND_UPLINK};
use super::retention::Pool;
use super::segment::{
    Condition, DATA_START, Frames, HEADER_BYTES, Header, HeaderRead, Segment, number_in,
};
use super::storage::{Listed, Storage, StorageError, read_patiently};
use super::tail::Tail;
use super::{EPOCHS_RESERVED, Keep, Limits, Position, SEQUENCES_RESERVED, Spool, append};
use crate::message::Sequence;
use crate::time::TimestampMs;

/// Skipped when no reservation is known: more than any spool used since its newest readable record.
const SEQUENCES_SKIPPED_BLIND: u64 = 1 << 32;

/// At a time, when a segment is written again.
const REWRITTEN_BYTES_MAX: usize = 64 * 1024;

/// What a start found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// How the cursor was.
    pub cursor: CursorFound,
    /// Segments with records.
    pub segments: u64,
    /// Records waiting.
    pub records: u64,
    /// Readings waiting.
    pub readings: u64,
    /// The newest segment ended in a frame that was being written.
    pub torn_tail: bool,
    /// Segments in which damage was found at once; they are read as far as they can be.
    pub damaged_segments: u64,
    /// Segments whose header was unreadable: put aside.
    pub quarantined_segments: u64,
    /// Records that were in the journal only.
    pub journal_records: u64,
}

/// The segments as they are found.
struct Survey {
    segments: VecDeque<Segment>,
    /// Epochs before which a segment is missing from the chain.
    gap_before: Vec<u64>,
    highest_epoch: u64,
    quarantined: u64,
    torn: bool,
    /// Behind the newest record may be parts of others.
    remains: bool,
    /// The newest segment can be continued.
    writable: bool,
    /// The newest cursor in the newest segment.
    cursor: Option<(u64, Cursor)>,
}

impl<S: Storage> Spool<S> {
    /// Opens the spool in `storage`, which may be empty, left by a clean end, by a crash, or damaged. Where it can be read
    /// and not be written, what it holds is handed out, and what comes waits in memory until it can.
    ///
    /// # Errors
    /// Only when the storage itself gives nothing: contents never prevent a start. Nothing that lay there is harmed;
    /// [`Spool::without_storage`] goes on meanwhile.
    pub fn open(storage: S, limits: Limits) -> Result<(Self, Recovery), StorageError> {
        Self::open_with(storage, None, limits, 0)
    }

    /// The same, with a storage for the journal that outlives the process but not the power: what is settled before its
    /// commit is never written to `storage` then. `draw` is any number but 0 that no other spool or process has: the spool's
    /// identity if it has none, and what numbers begin with that cannot be reserved.
    ///
    /// # Errors
    /// As [`Spool::open`]; a journal that cannot be used is done without.
    pub fn open_with(
        mut storage: S,
        journal: Option<S>,
        limits: Limits,
        draw: u64,
    ) -> Result<(Self, Recovery), StorageError> {
        let mut listed = storage.list()?;
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        let (mut cursor, mut found, unreadable) =
            CursorFile::load(&mut storage, holds_segments(&listed))?;
        let mut pool = Pool::recover(&mut storage, &listed, limits);
        let above = highest(found, &cursor.state);
        let survey = survey(&mut storage, &mut pool, &listed, above, unreadable)?;
        if found == CursorFound::Fresh && survey.highest_epoch > 0 {
            found = CursorFound::Lost;
        }
        let mut known = is_known(found);
        let (journal, in_journal) = recover_journal(journal, limits);
        if let Some((generation, state)) = survey.cursor.clone() {
            known |= cursor.adopt(generation, state);
        }
        let (in_journal, ours) = belongs(in_journal, &mut cursor, found);
        known |= ours;
        if cursor.state.identity == 0 {
            cursor.state.identity = draw;
        }
        let mut last = recount(&mut cursor.state, &survey, known);
        reserve(&mut cursor.state, found, last, survey.highest_epoch);
        let state = &cursor.state;
        let in_segments = survey
            .segments
            .back()
            .map_or(Sequence(0), |newest| newest.end.sequence);
        let in_journal = in_journal.records_beyond(in_segments, ours);
        let pending = still_waiting(in_journal, state, &mut last);
        let on_disk = pending.front().map_or(last, |first| first.before());
        let journal_records = pending.count() as u64;
        let readers = readers(state);
        let mut spool = Self {
            next_sequence: state.reserved_sequence.saturating_add(1),
            next_epoch: state.reserved_epoch.saturating_add(1),
            evictions: Evictions::load(&mut storage),
            storage,
            journal,
            journal_failed: false,
            limits,
            cursor,
            segments: survey.segments,
            writer: None,
            pool,
            last,
            written: on_disk,
            synced: on_disk,
            draw,
            beyond_reserved: false,
            absent: None,
            readers,
            tail: Tail::new(last.sequence, limits.tail_bytes),
            pending,
            in_flight: InFlight::default(),
            scratch: Vec::new(),
            staging: Vec::new(),
            now: TimestampMs::default(),
            fault: None,
            kept_full: false,
        };
        spool.resume(survey.writable, survey.remains, on_disk)?;
        let mut recovery = spool.recovery(found, survey.torn, survey.quarantined);
        recovery.journal_records = journal_records;
        Ok((spool, recovery))
    }

    fn resume(
        &mut self,
        writable: bool,
        remains: bool,
        on_disk: Position,
    ) -> Result<(), StorageError> {
        if writable {
            self.continue_newest(remains, on_disk)?;
        }
        self.turn_journal();
        Ok(())
    }

    fn recovery(
        &self,
        cursor: CursorFound,
        torn_tail: bool,
        quarantined_segments: u64,
    ) -> Recovery {
        let depth = self.cursor.state.unsettled.depth(self.last);
        let damaged = self
            .segments
            .iter()
            .filter(|segment| segment.condition == Condition::Damaged)
            .count();
        Recovery {
            cursor,
            segments: self.segments.len() as u64,
            records: depth.records,
            readings: depth.readings,
            torn_tail,
            damaged_segments: damaged as u64,
            quarantined_segments,
            journal_records: 0,
        }
    }

    /// Goes on writing the newest segment. What was found there may be in the page cache only, and a sync of it may have
    /// failed with nobody left to write that down: it is written once more as it is, and synced. If that fails, or is known
    /// to have failed before the process ended, its records are taken into memory, and the next commit writes them to a new
    /// segment.
    ///
    /// Where a power cut may have left parts of records that are lost, nothing more is written: with what would be written
    /// over them, and be lost in parts by another power cut, they could become whole, and a record that is not counted any
    /// more would be back.
    fn continue_newest(&mut self, remains: bool, on_disk: Position) -> Result<(), StorageError> {
        let Some(newest) = self.segments.back_mut() else {
            return Ok(());
        };
        let mut file = match self.storage.open(&newest.name()) {
            Ok(file) => file,
            // It can be read, and what comes later goes into another one.
            Err(StorageError::ReadOnly) => return Ok(()),
            Err(error) => return Err(error),
        };
        let known_poisoned = newest.header.epoch == self.cursor.state.poisoned_epoch;
        let end_offset = newest.end_offset.min(newest.header.capacity);
        let synced = !known_poisoned
            && rewrite(&mut self.storage, &mut file, end_offset)
                .and_then(|()| self.storage.sync(&mut file))
                .and_then(|()| self.storage.sync_names())
                .is_ok();
        newest.end = newest.end.latest(on_disk);
        let start = newest.header.start;
        if synced && remains {
            return Ok(());
        }
        self.writer = Some(append::Writer::recovered(file, newest, synced));
        if synced {
            return Ok(());
        }
        self.synced = start;
        self.written = start;
        self.take_into_memory()?;
        if !known_poisoned {
            self.cursor.state.poisoned_epoch =
                self.segments.back().map_or(0, |newest| newest.header.epoch);
            // The next start must know, too: a second sync of this segment that succeeds would prove nothing.
            match self.cursor.write(&mut self.storage) {
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Reads the records of the newest segment before what the journal had. What cannot be read is left out: the counts
    /// show the hole.
    fn take_into_memory(&mut self) -> Result<(), StorageError> {
        let Some(newest) = self.segments.back() else {
            return Ok(());
        };
        let (header, end_offset) = (newest.header, newest.end_offset);
        let file = self.storage.open_read(&newest.name())?;
        let mut frames = Frames::new(file, header.epoch, DATA_START, end_offset);
        let from_journal = std::mem::take(&mut self.pending);
        let mut after = header.start;
        loop {
            match frames.peek(&mut self.storage)? {
                FrameRead::Frame(frame) => {
                    let (span, position) = (frame.span(), header.position(&frame));
                    if frame.kind == KIND_UPLINK && position.sequence > after.sequence {
                        let readings = readings_of(frame.payload);
                        self.pending.push(position, readings, frame.payload);
                        after = position;
                    }
                    frames.advance(span);
                }
                FrameRead::Torn | FrameRead::Corrupt { .. } | FrameRead::End => {
                    if !frames.resync(&mut self.storage, after.sequence, self.last.sequence)? {
                        break;
                    }
                }
            }
        }
        for entry in from_journal.after(after.sequence) {
            let payload = from_journal.payload(entry);
            self.pending
                .push(entry.position, entry.readings.into(), payload);
        }
        Ok(())
    }
}

/// Writes the bytes before `end` again as they are.
fn rewrite<S: Storage>(storage: &mut S, file: &mut S::File, end: u64) -> Result<(), StorageError> {
    let mut bytes = vec![0; REWRITTEN_BYTES_MAX];
    let mut offset = 0;
    while offset < end {
        let left = usize::try_from(end - offset).unwrap_or(usize::MAX);
        let part = bytes
            .get_mut(..left.min(REWRITTEN_BYTES_MAX))
            .unwrap_or_default();
        let read = read_patiently(storage, file, offset, part)?;
        if read == 0 {
            break;
        }
        storage.write_at(file, offset, part.get(..read).unwrap_or_default())?;
        offset += read as u64;
    }
    Ok(())
}

fn readings_of(payload: &[u8]) -> u64 {
    postcard::from_bytes::<crate::message::Uplink>(payload).map_or(0, |uplink| uplink.readings())
}

fn recover_journal<S: Storage>(
    storage: Option<S>,
    limits: Limits,
) -> (Option<Journal<S>>, journal::Found) {
    let Some(storage) = storage.filter(|_| limits.keep == Keep::OnDisk) else {
        return (None, journal::Found::default());
    };
    let (journal, found) = Journal::recover(storage, journal::bytes_max(limits.memory_bytes));
    (Some(journal), found)
}

/// Whether a journal is this spool's own; its cursor is taken over if it is newer. A spool that is not new and cannot tell
/// who it is takes the one that lies where its own would: a new spool has replaced what lay there by its own.
fn belongs<F>(
    mut in_journal: journal::Found,
    cursor: &mut CursorFile<F>,
    found: CursorFound,
) -> (journal::Found, bool) {
    let Some((generation, state)) = in_journal.cursor.take() else {
        return (in_journal, false);
    };
    let ours = [state.identity, 0].contains(&cursor.state.identity) && found != CursorFound::Fresh;
    if ours {
        cursor.adopt(generation, state);
    }
    (in_journal, ours)
}

/// What of a journal is not settled, and `last` moved behind it.
fn still_waiting(
    records: Vec<(Position, Vec<u8>)>,
    state: &Cursor,
    last: &mut Position,
) -> Pending {
    let mut pending = Pending::default();
    for (position, payload) in records {
        let waits = state.unsettled.index_of(position.sequence).is_some();
        if waits && position.sequence.0 <= state.reserved_sequence {
            pending.push(position, readings_of(&payload), &payload);
            *last = last.latest(position);
        }
    }
    pending
}

pub(super) fn holds_segments(listed: &[Listed]) -> bool {
    let mut names = listed.iter().map(|file| &file.name);
    names.any(|name| number_in(name, "segment").is_some())
}

/// Where each lane goes on reading.
fn readers<F>(state: &Cursor) -> Vec<Reader<F>> {
    let ranges = state.unsettled.iter();
    ranges
        .map(|range| Reader::new(range.acked.sequence))
        .collect()
}

/// Whether what a cursor says is this spool's own account.
fn is_known(found: CursorFound) -> bool {
    match found {
        CursorFound::Whole | CursorFound::OneSlot => true,
        CursorFound::Fresh | CursorFound::Lost => false,
    }
}

/// Sequences above this were never given out.
fn highest(found: CursorFound, state: &Cursor) -> Sequence {
    match found {
        CursorFound::Whole => Sequence(state.reserved_sequence),
        CursorFound::OneSlot => {
            Sequence(state.reserved_sequence.saturating_add(SEQUENCES_RESERVED))
        }
        CursorFound::Fresh | CursorFound::Lost => Sequence(u64::MAX),
    }
}

/// Brings the cursor in line with the segments that are there, and says where their records end.
fn recount(state: &mut Cursor, survey: &Survey, known: bool) -> Position {
    if let Some(first) = survey.segments.front() {
        let start = first.header.start;
        let lost = state.unsettled.overlap(Position::default(), start, start);
        if known {
            // With a known cursor, only a segment put aside can be missing here.
            state.damaged = state.damaged.plus(lost);
            state.unsettled.settle_before(start);
        } else {
            state.unsettled = Ranges::after(start);
        }
    }
    survey
        .segments
        .back()
        .map_or_else(Position::default, |segment| segment.end)
        .latest(state.unsettled.newest())
}

/// Makes sure that no number is used twice.
fn reserve(state: &mut Cursor, found: CursorFound, last: Position, highest_epoch: u64) {
    let skipped = match found {
        CursorFound::Fresh | CursorFound::Whole => (0, 0),
        CursorFound::OneSlot => (SEQUENCES_RESERVED, EPOCHS_RESERVED),
        CursorFound::Lost => (SEQUENCES_SKIPPED_BLIND, EPOCHS_RESERVED),
    };
    state.reserved_sequence = state
        .reserved_sequence
        .max(last.sequence.0)
        .saturating_add(skipped.0);
    state.reserved_epoch = state
        .reserved_epoch
        .max(highest_epoch)
        .saturating_add(skipped.1);
}

fn survey<S: Storage>(
    storage: &mut S,
    pool: &mut Pool<S::File>,
    listed: &[Listed],
    highest: Sequence,
    mut unreadable: Option<StorageError>,
) -> Result<Survey, StorageError> {
    let mut survey = Survey {
        segments: VecDeque::new(),
        gap_before: Vec::new(),
        highest_epoch: 0,
        quarantined: 0,
        torn: false,
        remains: false,
        writable: false,
        cursor: None,
    };
    let mut headers = Vec::new();
    let mut readable = false;
    for file in listed {
        if let Some(epoch) = number_in(&file.name, "quarantine") {
            survey.highest_epoch = survey.highest_epoch.max(epoch);
        }
        let Some(epoch) = number_in(&file.name, "segment") else {
            continue;
        };
        survey.highest_epoch = survey.highest_epoch.max(epoch);
        let header = read_header(storage, file, epoch);
        match &header {
            Ok(_) => readable = true,
            Err(error) => unreadable = Some(*error),
        }
        headers.push((file, epoch, header.unwrap_or(HeaderRead::Damaged)));
    }
    // One that cannot be read is damage; all of them, a medium that is not there yet.
    if let Some(error) = unreadable.filter(|_| !readable) {
        return Err(error);
    }
    let mut gap = false;
    for (file, epoch, header) in headers {
        match header {
            HeaderRead::Whole(header) => {
                let capacity = header.capacity.min(file.bytes);
                let header = Header { capacity, ..header };
                if gap {
                    survey.gap_before.push(epoch);
                }
                gap = false;
                let condition = Condition::Good;
                survey.segments.push_back(Segment {
                    header,
                    end: header.start,
                    end_offset: capacity,
                    condition,
                });
            }
            HeaderRead::Unused => match pool.adopt(storage, file) {
                // Where nothing can be changed it stays, and the next start meets it again.
                Ok(()) | Err(StorageError::ReadOnly) => {}
                Err(error) => return Err(error),
            },
            HeaderRead::Damaged => {
                match pool.quarantine(storage, epoch, file.bytes) {
                    // As above: its epoch is never used again.
                    Ok(()) | Err(StorageError::ReadOnly) => {}
                    Err(error) => return Err(error),
                }
                survey.quarantined += 1;
                gap = true;
            }
        }
    }
    find_ends(storage, &mut survey, highest);
    Ok(survey)
}

fn read_header<S: Storage>(
    storage: &mut S,
    file: &Listed,
    epoch: u64,
) -> Result<HeaderRead, StorageError> {
    let mut bytes = [0; HEADER_BYTES];
    let mut open = storage.open_read(&file.name)?;
    let read = read_patiently(storage, &mut open, 0, &mut bytes)?;
    let bytes = bytes.get(..read).unwrap_or_default();
    Ok(Header::decode(bytes, epoch))
}

/// A sealed segment ends where the next one starts. Only the newest, and those before a gap, must be read.
fn find_ends<S: Storage>(storage: &mut S, survey: &mut Survey, highest: Sequence) {
    let starts: Vec<_> = survey
        .segments
        .iter()
        .skip(1)
        .map(|next| next.header)
        .collect();
    for (segment, next) in survey
        .segments
        .iter_mut()
        .zip(starts.iter().map(Some).chain([None]))
    {
        let chained = next.filter(|next| !survey.gap_before.contains(&next.epoch));
        let limit = next.map_or(highest, |next| next.start.sequence);
        match chained {
            Some(next) => segment.end = next.start,
            None => {
                let scanned = scan(storage, segment, limit);
                segment.end = scanned.end;
                segment.end_offset = scanned.end_offset;
                if scanned.damaged || scanned.unreadable {
                    segment.condition = Condition::Damaged;
                }
                if next.is_none() {
                    survey.torn = scanned.torn;
                    survey.remains = scanned.torn || scanned.remains;
                    survey.writable = !scanned.unreadable;
                    survey.cursor = scanned.cursor;
                }
            }
        }
    }
}

struct Scanned {
    end: Position,
    end_offset: u64,
    torn: bool,
    remains: bool,
    damaged: bool,
    unreadable: bool,
    cursor: Option<(u64, Cursor)>,
}

/// Reads a whole segment to find its end: behind the last good frame.
fn scan<S: Storage>(storage: &mut S, segment: &Segment, limit: Sequence) -> Scanned {
    let header = segment.header;
    let mut scanned = Scanned {
        end: header.start,
        end_offset: DATA_START,
        torn: false,
        remains: false,
        damaged: false,
        unreadable: false,
        cursor: None,
    };
    let Ok(file) = storage.open_read(&segment.name()) else {
        return Scanned {
            unreadable: true,
            ..scanned
        };
    };
    let mut frames = Frames::new(file, header.epoch, DATA_START, header.capacity);
    loop {
        let torn = match frames.peek(storage) {
            Ok(FrameRead::Frame(frame)) if frame.kind == KIND_CURSOR => {
                if let SlotRead::Whole(generation, cursor) = Cursor::decode(frame.payload) {
                    scanned.cursor = Some((generation, cursor));
                }
                let span = frame.span();
                frames.advance(span);
                scanned.end_offset = frames.offset;
                continue;
            }
            Ok(FrameRead::Frame(frame))
                if frame.sequence > scanned.end.sequence && frame.sequence <= limit =>
            {
                scanned.end = header.position(&frame);
                let span = frame.span();
                frames.advance(span);
                scanned.end_offset = frames.offset;
                continue;
            }
            Ok(FrameRead::Torn | FrameRead::Corrupt { .. }) => true,
            Ok(FrameRead::Frame(_) | FrameRead::End) => false,
            Err(_unreadable) => {
                return Scanned {
                    unreadable: true,
                    ..scanned
                };
            }
        };
        match frames.resync(storage, scanned.end.sequence, limit) {
            Ok(true) => scanned.damaged = true,
            Ok(false) => {
                return Scanned {
                    torn,
                    remains: frames.remains,
                    ..scanned
                };
            }
            Err(_unreadable) => {
                return Scanned {
                    unreadable: true,
                    ..scanned
                };
            }
        }
    }
}
