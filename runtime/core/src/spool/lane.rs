//! The reading side: one lane for each unsettled range hands out its records in order, from memory or disk, past whatever
//! is damaged.

use std::collections::VecDeque;

use super::in_flight::InFlight;
use super::range::{Range, Ranges};
use super::record::{FrameRead, KIND_CURSOR, KIND_UPLINK};
use super::segment::{Condition, DATA_START, Frames, segment_name};
use super::storage::{Storage, StorageError};
use super::{Place, Position, ReadError, Record, Spool, Totals};
use crate::message::{Sequence, Uplink};

/// Reads in a row that may fail before the unreadable page is given up.
const FAULTS_MAX: u32 = 3;

/// Bytes given up at once where the storage cannot read.
const UNREADABLE_BYTES: u64 = 4096;

/// Which of the unsettled ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// What was appended since the spool was divided last.
    Live,
    /// What waited then: the range that ends with this record.
    Backlog(Sequence),
}

/// Where reading one range is.
#[derive(Debug)]
pub(super) struct Reader<F> {
    /// Everything through this one was handed out, or is not there.
    pub(super) sequence: Sequence,
    place: Option<Place>,
    open: Option<(u64, Frames<F>)>,
    faults: u32,
    handed: Handed,
}

impl<F> Reader<F> {
    pub(super) fn new(sequence: Sequence) -> Self {
        Self {
            sequence,
            place: None,
            open: None,
            faults: 0,
            handed: Handed::default(),
        }
    }

    /// Takes over what was handed out after `at`: the rest of the range has become one of its own.
    pub(super) fn split_off(&mut self, at: Sequence) -> Self {
        let mut rest = Self::new(at.max(self.sequence));
        let first = self
            .handed
            .records
            .partition_point(|record| record.position.sequence <= at);
        rest.handed.records = self.handed.records.split_off(first);
        if self.sequence >= at {
            rest.place = self.place.take();
            self.place = self.handed.records.back().and_then(|record| record.next);
        }
        self.sequence = self.sequence.min(at);
        rest
    }

    /// Moves the range through `through`, and says what of it could not be read: what lies between two records found.
    pub(super) fn settle(&mut self, through: Sequence, range: &mut Range) -> Totals {
        let mut damaged = Totals::default();
        while let Some(record) = self
            .handed
            .records
            .front()
            .filter(|record| record.position.sequence <= through)
        {
            damaged = damaged.plus(record.before.since(range.acked.totals));
            range.acked = record.position;
            self.handed.settled_place = record.next;
            self.handed.records.pop_front();
        }
        damaged
    }

    /// Moves what was read from memory alone to other places.
    pub(super) fn shift(&mut self, moved: impl Fn(Position) -> Position) {
        let read_to = Position {
            sequence: self.sequence,
            ..Position::default()
        };
        self.sequence = moved(read_to).sequence;
        for record in &mut self.handed.records {
            let before = Position {
                totals: record.before,
                ..record.position
            };
            record.before = moved(before).totals;
            record.position = moved(record.position);
        }
    }

    /// Lets go of the file: another one has taken its place.
    pub(super) fn close(&mut self) {
        self.open = None;
    }

    /// What is handed out is given up with its range.
    pub(super) fn give_up(self, in_flight: &mut InFlight) {
        for record in self.handed.records {
            record.give_up(in_flight);
        }
    }

    /// Records through `through` are given up. Those that are handed out may yet be acknowledged.
    pub(super) fn forget(&mut self, through: Sequence, in_flight: &mut InFlight) {
        let records = &mut self.handed.records;
        while let Some(record) = records.pop_front_if(|r| r.position.sequence <= through) {
            record.give_up(in_flight);
        }
        self.handed.settled_place = None;
        self.sequence = self.sequence.max(through);
    }

    fn seek(&mut self, after: Sequence, acked: Sequence) {
        let after = after.max(acked);
        if after < self.sequence {
            self.place = self.handed.rewind(after);
            self.sequence = after;
        } else if after == acked {
            // Given up further than was read.
            self.sequence = after;
        }
    }

    /// When nothing is handed out and nothing is left to read, what is still counted as waiting cannot be read.
    fn lost_end(&self, range: &mut Range, end: Position) -> Totals {
        let done = self.handed.records.is_empty() && self.sequence >= end.sequence;
        if !done || range.acked.sequence >= end.sequence {
            return Totals::default();
        }
        let lost = end.totals.since(range.acked.totals);
        range.acked = range.acked.latest(end);
        lost
    }

    fn hand(&mut self, position: Position, next: Option<Place>, uplink: &Uplink) {
        let one = Totals {
            records: 1,
            readings: uplink.readings(),
        };
        self.handed.records.push_back(HandedRecord {
            position,
            before: position.totals.since(one),
            next,
        });
        self.sequence = position.sequence;
        self.place = next;
    }

    /// Makes the open frames those of segment `epoch`, at the reader's place.
    fn open_segment<S: Storage<File = F>>(
        &mut self,
        storage: &mut S,
        epoch: u64,
        end_offset: u64,
    ) -> Result<(), StorageError> {
        let offset = self
            .place
            .filter(|place| place.epoch == epoch)
            .map_or(DATA_START, |place| place.offset);
        match self.open.as_mut() {
            Some((open, frames)) if *open == epoch => {
                frames.offset = offset;
                frames.limit = end_offset;
            }
            Some(_) | None => {
                let file = storage.open_read(&segment_name(epoch))?;
                self.open = Some((epoch, Frames::new(file, epoch, offset, end_offset)));
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
struct HandedRecord {
    position: Position,
    /// What was appended before this record.
    before: Totals,
    /// None: it was not written when it was handed out.
    next: Option<Place>,
}

impl HandedRecord {
    fn give_up(&self, in_flight: &mut InFlight) {
        let one = self.position.totals.since(self.before);
        in_flight.add(self.position.sequence, one.readings);
    }
}

/// Records handed out and not acknowledged, so that an acknowledgement knows what it settles without a disk read. As
/// long as the window of the link.
#[derive(Debug, Default)]
struct Handed {
    records: VecDeque<HandedRecord>,
    /// After the last acknowledged record, where a new session of the link starts again.
    settled_place: Option<Place>,
}

impl Handed {
    /// Forgets what was handed out after `after`, and says where reading resumes.
    fn rewind(&mut self, after: Sequence) -> Option<Place> {
        while self
            .records
            .back()
            .is_some_and(|record| record.position.sequence > after)
        {
            self.records.pop_back();
        }
        self.records
            .back()
            .map_or(self.settled_place, |record| record.next)
    }
}

/// What one step found.
enum Step {
    Record(Position, Uplink, Option<Place>, usize),
    /// There is one, larger than asked for.
    OverBudget,
    Nothing,
}

impl<S: Storage> Spool<S> {
    /// What waits.
    #[must_use]
    pub fn unsettled(&self) -> &Ranges {
        &self.cursor.state.unsettled
    }

    /// Hands out the records of `lane` after `after`, oldest first, at most `records_max` and about `bytes_max` encoded
    /// bytes, but at least one if there is one. `after` is the last record of an earlier read, or anything lower to read
    /// again: nothing is skipped that was not handed out, and nothing is handed out that is settled.
    ///
    /// # Errors
    /// When the storage cannot read and nothing was found before that.
    pub fn read(
        &mut self,
        lane: Lane,
        after: Sequence,
        bytes_max: usize,
        records_max: usize,
        records: &mut Vec<Record>,
    ) -> Result<(), ReadError> {
        let Some(index) = self.index_of(lane) else {
            return Ok(());
        };
        if let (Some(reader), Some(range)) = (
            self.readers.get_mut(index),
            self.cursor.state.unsettled.get(index),
        ) {
            reader.seek(after, range.acked.sequence);
        }
        self.read_on(lane, bytes_max, records_max, records)
    }

    /// The same from where the last read ended.
    ///
    /// # Errors
    /// As [`Spool::read`].
    pub fn read_on(
        &mut self,
        lane: Lane,
        bytes_max: usize,
        records_max: usize,
        records: &mut Vec<Record>,
    ) -> Result<(), ReadError> {
        let Some(index) = self.index_of(lane) else {
            return Ok(());
        };
        let already = records.len();
        let outcome = self.read_range(index, (bytes_max, records_max), records);
        self.settle_lost_end(index);
        match outcome {
            // Comes again with the next read.
            Err(_) if records.len() > already => Ok(()),
            other => other.map_err(ReadError::from),
        }
    }

    fn read_range(
        &mut self,
        index: usize,
        (bytes_max, records_max): (usize, usize),
        records: &mut Vec<Record>,
    ) -> Result<(), StorageError> {
        let Some(range) = self.cursor.state.unsettled.get(index) else {
            return Ok(());
        };
        let end = range.end(self.last).sequence;
        let (mut count, mut bytes) = (0, 0);
        while count < records_max && self.read_to(index) < end {
            let budget = if count == 0 {
                usize::MAX
            } else {
                bytes_max.saturating_sub(bytes)
            };
            match self.step(index, end, budget)? {
                Step::Record(position, uplink, next, length) => {
                    bytes += length;
                    count += 1;
                    if let Some(reader) = self.readers.get_mut(index) {
                        reader.hand(position, next, &uplink);
                    }
                    records.push(Record {
                        sequence: position.sequence,
                        uplink,
                    });
                }
                Step::OverBudget | Step::Nothing => break,
            }
        }
        Ok(())
    }

    /// Forgets what was handed out and is not settled: all of it is read again. What was given up meanwhile will not be
    /// acknowledged any more.
    pub fn rewind(&mut self) {
        self.give_up_in_flight();
        let ranges = self.cursor.state.unsettled.iter();
        for (reader, range) in self.readers.iter_mut().zip(ranges) {
            reader.seek(range.acked.sequence, range.acked.sequence);
        }
    }

    /// Makes one backlog of those that follow each other without anything settled between them, except of those that hold
    /// one of `replayed`: what is handed out again keeps the order it had. Nothing may be handed out.
    pub fn join_backlogs(&mut self, replayed: &[Sequence]) {
        let mut index = 1;
        while index + 1 < self.cursor.state.unsettled.count() {
            let unsettled = &self.cursor.state.unsettled;
            let is_replayed = |at: usize| {
                let mut replayed = replayed.iter();
                replayed.any(|sequence| unsettled.index_of(*sequence) == Some(at))
            };
            let apart = is_replayed(index - 1) || is_replayed(index);
            if !apart && self.cursor.state.unsettled.join(index - 1) {
                self.readers.remove(index);
            } else {
                index += 1;
            }
        }
    }

    /// Whether something in this lane was not handed out yet.
    #[must_use]
    pub fn has_more(&self, lane: Lane) -> bool {
        let Some(index) = self.index_of(lane) else {
            return false;
        };
        let end = self
            .cursor
            .state
            .unsettled
            .get(index)
            .map_or(Sequence(0), |range| range.end(self.last).sequence);
        self.read_to(index) < end
    }

    fn read_to(&self, index: usize) -> Sequence {
        self.readers
            .get(index)
            .map_or(Sequence(u64::MAX), |reader| reader.sequence)
    }

    pub(super) fn settle_lost_end(&mut self, index: usize) {
        let last = self.last;
        let state = &mut self.cursor.state;
        if let (Some(reader), Some(range)) =
            (self.readers.get(index), state.unsettled.get_mut(index))
        {
            let end = range.end(last);
            let lost = reader.lost_end(range, end);
            state.damaged = state.damaged.plus(lost);
        }
        if self.cursor.state.unsettled.remove_settled(index) {
            self.readers.remove(index);
        }
    }

    fn step(&mut self, index: usize, end: Sequence, budget: usize) -> Result<Step, StorageError> {
        let after = self.read_to(index);
        if let Some(entry) = self.tail.peek(after).filter(|e| e.position.sequence <= end) {
            if entry.bytes > budget {
                return Ok(Step::OverBudget);
            }
            return Ok(self.tail.pop().map_or(Step::Nothing, |entry| {
                Step::Record(entry.position, entry.uplink, None, entry.bytes)
            }));
        }
        // Whatever is not synced is in memory.
        let in_memory = self.pending.count() > 0 && end > self.synced.sequence;
        if in_memory && after >= self.synced.sequence {
            return Ok(self.step_in_memory(index, after, end, budget));
        }
        let on_disk = if in_memory { self.synced.sequence } else { end };
        match self.step_on_disk(index, on_disk, budget)? {
            Step::Nothing if in_memory => Ok(self.step_in_memory(index, after, end, budget)),
            step @ (Step::Record(..) | Step::OverBudget | Step::Nothing) => Ok(step),
        }
    }

    fn step_in_memory(
        &mut self,
        index: usize,
        after: Sequence,
        end: Sequence,
        budget: usize,
    ) -> Step {
        let mut next = self.pending.after(after);
        let Some(entry) = next.next().filter(|entry| entry.position.sequence <= end) else {
            drop(next);
            if let Some(reader) = self.readers.get_mut(index) {
                reader.sequence = reader.sequence.max(end);
            }
            return Step::Nothing;
        };
        if entry.bytes() > budget {
            return Step::OverBudget;
        }
        match self.pending.decode(entry) {
            Some(uplink) => Step::Record(entry.position, uplink, None, entry.bytes()),
            None => Step::Nothing,
        }
    }

    fn step_on_disk(
        &mut self,
        index: usize,
        end: Sequence,
        budget: usize,
    ) -> Result<Step, StorageError> {
        loop {
            let sequence = self.read_to(index);
            let segment = self
                .segments
                .partition_point(|segment| segment.end.sequence <= sequence);
            if sequence >= end {
                return Ok(Step::Nothing);
            }
            if segment >= self.segments.len() {
                // What waits there lies nowhere: it was in the memory of a process that ended.
                if let Some(reader) = self.readers.get_mut(index) {
                    reader.sequence = end;
                }
                return Ok(Step::Nothing);
            }
            match self.step_in_segment(index, segment, end, budget) {
                Ok(Some(step)) => {
                    if let Some(reader) = self.readers.get_mut(index) {
                        reader.faults = 0;
                    }
                    return Ok(step);
                }
                Ok(None) => {}
                Err(error) => {
                    let Some(reader) = self.readers.get_mut(index) else {
                        return Err(error);
                    };
                    reader.faults += 1;
                    if reader.faults < FAULTS_MAX {
                        return Err(error);
                    }
                    self.skip_unreadable(index, segment, end);
                }
            }
        }
    }

    /// `None`: moved on without finding a record.
    fn step_in_segment(
        &mut self,
        index: usize,
        segment: usize,
        end: Sequence,
        budget: usize,
    ) -> Result<Option<Step>, StorageError> {
        let (Some(segment), Some(reader)) =
            (self.segments.get_mut(segment), self.readers.get_mut(index))
        else {
            return Ok(Some(Step::Nothing));
        };
        let epoch = segment.header.epoch;
        reader.open_segment(&mut self.storage, epoch, segment.end_offset)?;
        let Some((_, frames)) = reader.open.as_mut() else {
            return Ok(Some(Step::Nothing));
        };
        let (after, through) = (reader.sequence, segment.end.sequence.min(end));
        match frames.peek(&mut self.storage)? {
            FrameRead::Frame(frame) if frame.sequence <= after || frame.kind == KIND_CURSOR => {
                let span = frame.span();
                frames.advance(span);
                reader.place = Some(Place {
                    epoch,
                    offset: frames.offset,
                });
                return Ok(None);
            }
            FrameRead::Frame(frame) if frame.sequence <= through => {
                let (span, length) = (frame.span(), frame.payload.len());
                if length > budget {
                    return Ok(Some(Step::OverBudget));
                }
                let position = segment.header.position(&frame);
                let decoded = (frame.kind == KIND_UPLINK)
                    .then(|| postcard::from_bytes::<Uplink>(frame.payload).ok());
                frames.advance(span);
                let next = Place {
                    epoch,
                    offset: frames.offset,
                };
                if let Some(Some(uplink)) = decoded {
                    return Ok(Some(Step::Record(position, uplink, Some(next), length)));
                }
                reader.sequence = position.sequence;
                reader.place = Some(next);
            }
            FrameRead::Frame(_) => {
                // The range ends before this record. Whether anything should have come the counts tell.
                reader.sequence = through;
                return Ok(None);
            }
            FrameRead::Torn | FrameRead::Corrupt { .. } | FrameRead::End => {
                if frames.resync(&mut self.storage, after, through)? {
                    reader.place = Some(Place {
                        epoch,
                        offset: frames.offset,
                    });
                } else {
                    reader.sequence = through;
                }
            }
        }
        if segment.condition == Condition::Good {
            segment.condition = Condition::Damaged;
        }
        Ok(None)
    }

    /// Gives up a page the storage cannot read, or the whole segment if it cannot even be opened.
    fn skip_unreadable(&mut self, index: usize, segment: usize, end: Sequence) {
        let (Some(segment), Some(reader)) =
            (self.segments.get_mut(segment), self.readers.get_mut(index))
        else {
            return;
        };
        if segment.condition == Condition::Good {
            segment.condition = Condition::Damaged;
        }
        let epoch = segment.header.epoch;
        let offset = match &reader.open {
            Some((open, frames)) if *open == epoch => frames.offset,
            Some(_) | None => segment.end_offset,
        };
        let next = (offset + 1).next_multiple_of(UNREADABLE_BYTES);
        if next >= segment.end_offset {
            reader.sequence = reader.sequence.max(segment.end.sequence.min(end));
        } else {
            reader.place = Some(Place {
                epoch,
                offset: next,
            });
        }
    }
}
