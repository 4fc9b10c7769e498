//! Starting on whatever is there.

use std::collections::VecDeque;

use super::cursor::{CursorFile, CursorFound};
use super::read::{Handed, Reader};
use super::record::FrameRead;
use super::retention::Pool;
use super::segment::{
    Condition, DATA_START, Frames, HEADER_BYTES, Header, HeaderRead, Segment, number_in,
};
use super::storage::{Listed, Storage, StorageError, read_patiently};
use super::tail::Tail;
use super::{EPOCHS_RESERVED, Limits, Position, SEQUENCES_RESERVED, Spool, append};
use crate::message::Sequence;

/// Skipped when no reservation is known: more than any spool used since its newest readable record.
const SEQUENCES_SKIPPED_BLIND: u64 = 1 << 32;

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
}

/// The segments as they are found.
struct Survey {
    segments: VecDeque<Segment>,
    /// Epochs before which a segment is missing from the chain.
    gap_before: Vec<u64>,
    highest_epoch: u64,
    quarantined: u64,
    torn: bool,
    /// The newest segment can be continued.
    writable: bool,
}

impl<S: Storage> Spool<S> {
    /// Opens the spool in `storage`, which may be empty, left by a clean end, by a crash, or damaged.
    ///
    /// # Errors
    /// Only when the storage itself refuses: contents never prevent a start.
    pub fn open(mut storage: S, limits: Limits) -> Result<(Self, Recovery), StorageError> {
        let mut listed = storage.list()?;
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        let (mut cursor, mut found) = CursorFile::load(&mut storage)?;
        let mut pool = Pool::recover(&mut storage, &listed, limits);
        let highest = match found {
            CursorFound::Whole => Sequence(cursor.state.reserved_sequence),
            CursorFound::OneSlot => Sequence(
                cursor
                    .state
                    .reserved_sequence
                    .saturating_add(SEQUENCES_RESERVED),
            ),
            CursorFound::Fresh | CursorFound::Lost => Sequence(u64::MAX),
        };
        let survey = survey(&mut storage, &mut pool, &listed, highest)?;
        if found == CursorFound::Fresh && survey.highest_epoch > 0 {
            found = CursorFound::Lost;
        }
        let state = &mut cursor.state;
        let known = match found {
            CursorFound::Whole | CursorFound::OneSlot => true,
            CursorFound::Fresh | CursorFound::Lost => false,
        };
        if let Some(first) = survey.segments.front() {
            let before = state.acked;
            state.acked = before.latest(first.header.start);
            if known {
                // With a known cursor, only a segment put aside can be missing here.
                state.damaged = state.damaged.plus(state.acked.totals.since(before.totals));
            }
        }
        let last = survey
            .segments
            .back()
            .map_or(state.acked, |segment| segment.end.latest(state.acked));
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
            .max(survey.highest_epoch)
            .saturating_add(skipped.1);
        let acked = state.acked;
        let mut spool = Self {
            next_sequence: state.reserved_sequence.saturating_add(1),
            next_epoch: state.reserved_epoch.saturating_add(1),
            storage,
            limits,
            cursor,
            segments: survey.segments,
            writer: None,
            pool,
            last,
            reader: Reader::new(acked.sequence),
            handed: Handed::default(),
            tail: Tail::new(last.sequence, limits.tail_bytes),
            staging: append::Staging::default(),
        };
        if survey.writable {
            spool.continue_newest()?;
        }
        let recovery = spool.recovery(found, survey.torn, survey.quarantined);
        Ok((spool, recovery))
    }

    fn recovery(
        &self,
        cursor: CursorFound,
        torn_tail: bool,
        quarantined_segments: u64,
    ) -> Recovery {
        let depth = self.last.totals.since(self.cursor.state.acked.totals);
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
        }
    }

    /// Goes on writing the newest segment. What was found there may be in the page cache only, so it is synced once; if
    /// that fails, or failed before the process ended, it is copied to a new segment with the first append or commit.
    fn continue_newest(&mut self) -> Result<(), StorageError> {
        let last = self.last;
        let Some(newest) = self.segments.back_mut() else {
            return Ok(());
        };
        let mut file = self.storage.open(&newest.name())?;
        let known_poisoned = newest.header.epoch == self.cursor.state.poisoned_epoch;
        let synced = !known_poisoned
            && self
                .storage
                .sync(&mut file)
                .and_then(|()| self.storage.sync_names())
                .is_ok();
        newest.end = last;
        if !synced && !known_poisoned {
            self.cursor.state.poisoned_epoch = newest.header.epoch;
            // The next start must know, too: a second sync of this segment that succeeds would prove nothing.
            match self.cursor.write(&mut self.storage) {
                Ok(()) | Err(_) => {}
            }
        }
        self.writer = Some(append::Writer::recovered(file, newest, synced));
        Ok(())
    }
}

fn survey<S: Storage>(
    storage: &mut S,
    pool: &mut Pool<S::File>,
    listed: &[Listed],
    highest: Sequence,
) -> Result<Survey, StorageError> {
    let mut survey = Survey {
        segments: VecDeque::new(),
        gap_before: Vec::new(),
        highest_epoch: 0,
        quarantined: 0,
        torn: false,
        writable: false,
    };
    let mut gap = false;
    for file in listed {
        if let Some(epoch) = number_in(&file.name, "quarantine") {
            survey.highest_epoch = survey.highest_epoch.max(epoch);
        }
        let Some(epoch) = number_in(&file.name, "segment") else {
            continue;
        };
        survey.highest_epoch = survey.highest_epoch.max(epoch);
        match read_header(storage, file, epoch) {
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
            HeaderRead::Unused => pool.adopt(storage, file)?,
            HeaderRead::Damaged => {
                pool.quarantine(storage, epoch, file.bytes)?;
                survey.quarantined += 1;
                gap = true;
            }
        }
    }
    find_ends(storage, &mut survey, highest);
    Ok(survey)
}

fn read_header<S: Storage>(storage: &mut S, file: &Listed, epoch: u64) -> HeaderRead {
    let mut bytes = [0; HEADER_BYTES];
    let read = storage
        .open(&file.name)
        .and_then(|mut open| read_patiently(storage, &mut open, 0, &mut bytes))
        .unwrap_or(0);
    Header::decode(bytes.get(..read).unwrap_or_default(), epoch)
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
                    survey.writable = !scanned.unreadable;
                }
            }
        }
    }
}

struct Scanned {
    end: Position,
    end_offset: u64,
    torn: bool,
    damaged: bool,
    unreadable: bool,
}

/// Reads a whole segment to find its end: behind the last good frame.
fn scan<S: Storage>(storage: &mut S, segment: &Segment, limit: Sequence) -> Scanned {
    let header = segment.header;
    let mut scanned = Scanned {
        end: header.start,
        end_offset: DATA_START,
        torn: false,
        damaged: false,
        unreadable: false,
    };
    let Ok(file) = storage.open(&segment.name()) else {
        return Scanned {
            unreadable: true,
            ..scanned
        };
    };
    let mut frames = Frames::new(file, header.epoch, DATA_START, header.capacity);
    loop {
        let torn = match frames.peek(storage) {
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
            Ok(false) => return Scanned { torn, ..scanned },
            Err(_unreadable) => {
                return Scanned {
                    unreadable: true,
                    ..scanned
                };
            }
        }
    }
}
