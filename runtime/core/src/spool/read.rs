//! The reading side: records in order from memory or disk, past whatever is damaged.

use std::collections::VecDeque;

use super::cursor::Cursor;
use super::record::{FrameRead, KIND_UPLINK};
use super::segment::{Condition, DATA_START, Frames, segment_name};
use super::storage::{Storage, StorageError};
use super::{Place, Position, ReadError, Record, Spool, Totals};
use crate::message::{Sequence, Uplink};

/// Reads in a row that may fail before the unreadable page is given up.
const FAULTS_MAX: u32 = 3;

/// Bytes given up at once where the storage cannot read.
const UNREADABLE_BYTES: u64 = 4096;

/// Where reading is.
#[derive(Debug)]
pub(super) struct Reader<F> {
    /// Everything through this one was handed out, or is not there.
    sequence: Sequence,
    place: Option<Place>,
    open: Option<(u64, Frames<F>)>,
    faults: u32,
}

impl<F> Reader<F> {
    pub(super) fn new(sequence: Sequence) -> Self {
        Self {
            sequence,
            place: None,
            open: None,
            faults: 0,
        }
    }
}

#[derive(Debug)]
struct HandedRecord {
    position: Position,
    /// What was appended before this record.
    before: Totals,
    next: Place,
}

/// Records handed out and not acknowledged, so that an acknowledgement knows what it settles without a disk read. As
/// long as the window of the link.
#[derive(Debug, Default)]
pub(super) struct Handed {
    records: VecDeque<HandedRecord>,
    /// After the last acknowledged record, where a new session of the link starts again.
    settled_place: Option<Place>,
}

impl Handed {
    /// Moves the cursor through `through`. What lies between two records that were found is damage.
    pub(super) fn settle(&mut self, through: Sequence, cursor: &mut Cursor) {
        while let Some(record) = self
            .records
            .front()
            .filter(|record| record.position.sequence <= through)
        {
            cursor.damaged = cursor
                .damaged
                .plus(record.before.since(cursor.acked.totals));
            cursor.acked = record.position;
            self.settled_place = Some(record.next);
            self.records.pop_front();
        }
    }

    /// Records through `through` are evicted: an acknowledgement that comes late changes nothing.
    pub(super) fn forget(&mut self, through: Sequence) {
        while self
            .records
            .front()
            .is_some_and(|record| record.position.sequence <= through)
        {
            self.records.pop_front();
        }
        self.settled_place = None;
    }

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
            .map(|record| record.next)
            .or(self.settled_place)
    }
}

/// What one step on the disk found.
enum Step {
    Record(Position, Uplink, Place, usize),
    /// There is one, larger than asked for.
    OverBudget,
    Nothing,
}

impl<S: Storage> Spool<S> {
    /// Hands out the records after `after`, oldest first, at most `records_max` and about `bytes_max` encoded bytes, but
    /// at least one if there is one. `after` is the last record of an earlier read, or anything lower to read again:
    /// nothing is skipped that was not handed out, and nothing is handed out that is settled.
    ///
    /// # Errors
    /// When the storage cannot read and nothing was found before that.
    pub fn read(
        &mut self,
        after: Sequence,
        bytes_max: usize,
        records_max: usize,
        records: &mut Vec<Record>,
    ) -> Result<(), ReadError> {
        self.seek(after.max(self.cursor.state.acked.sequence));
        let already = records.len();
        let mut bytes = 0;
        while records.len() - already < records_max && self.reader.sequence < self.last.sequence {
            let first = records.len() == already;
            let budget = if first {
                usize::MAX
            } else {
                bytes_max.saturating_sub(bytes)
            };
            match self.step(budget) {
                Ok(Step::Record(position, uplink, next, length)) => {
                    bytes += length;
                    self.hand(position, next, &uplink);
                    records.push(Record {
                        sequence: position.sequence,
                        uplink,
                    });
                }
                Ok(Step::OverBudget | Step::Nothing) => break,
                Err(error) if first => return Err(error.into()),
                Err(_comes_again_with_the_next_read) => break,
            }
        }
        self.settle_lost_end();
        Ok(())
    }

    /// When nothing is handed out and nothing is left to read, what is still counted as waiting cannot be read.
    pub(super) fn settle_lost_end(&mut self) {
        let done = self.handed.records.is_empty() && self.reader.sequence >= self.last.sequence;
        let cursor = &mut self.cursor.state;
        if done && cursor.acked.sequence < self.last.sequence {
            cursor.damaged = cursor
                .damaged
                .plus(self.last.totals.since(cursor.acked.totals));
            cursor.acked = self.last;
        }
    }

    fn seek(&mut self, after: Sequence) {
        if after < self.reader.sequence {
            self.reader.place = self.handed.rewind(after);
            self.reader.sequence = after;
        } else if after == self.cursor.state.acked.sequence {
            // Evicted further than was read.
            self.reader.sequence = after;
        }
    }

    fn hand(&mut self, position: Position, next: Place, uplink: &Uplink) {
        let one = Totals {
            records: 1,
            readings: uplink.readings(),
        };
        let before = position.totals.since(one);
        self.handed.records.push_back(HandedRecord {
            position,
            before,
            next,
        });
        self.reader.sequence = position.sequence;
        self.reader.place = Some(next);
    }

    fn step(&mut self, budget: usize) -> Result<Step, StorageError> {
        let Some(entry) = self.tail.peek(self.reader.sequence) else {
            return self.step_on_disk(budget);
        };
        if entry.bytes > budget {
            return Ok(Step::OverBudget);
        }
        Ok(match self.tail.pop() {
            Some(entry) => Step::Record(entry.position, entry.uplink, entry.next, entry.bytes),
            None => Step::Nothing,
        })
    }

    fn step_on_disk(&mut self, budget: usize) -> Result<Step, StorageError> {
        loop {
            let sequence = self.reader.sequence;
            let index = self
                .segments
                .partition_point(|segment| segment.end.sequence <= sequence);
            if index >= self.segments.len() {
                return Ok(Step::Nothing);
            }
            match self.step_in_segment(index, budget) {
                Ok(Some(step)) => {
                    self.reader.faults = 0;
                    return Ok(step);
                }
                Ok(None) => {}
                Err(error) => {
                    self.reader.faults += 1;
                    if self.reader.faults < FAULTS_MAX {
                        return Err(error);
                    }
                    self.skip_unreadable(index);
                }
            }
        }
    }

    /// `None`: moved on without finding a record.
    fn step_in_segment(
        &mut self,
        index: usize,
        budget: usize,
    ) -> Result<Option<Step>, StorageError> {
        self.open_segment(index)?;
        let (Some(segment), Some((epoch, frames))) =
            (self.segments.get_mut(index), self.reader.open.as_mut())
        else {
            return Ok(Some(Step::Nothing));
        };
        let (after, through) = (self.reader.sequence, segment.end.sequence);
        match frames.peek(&mut self.storage)? {
            FrameRead::Frame(frame) if frame.sequence <= after => {
                let span = frame.span();
                frames.advance(span);
                self.reader.place = Some(Place {
                    epoch: *epoch,
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
                    epoch: *epoch,
                    offset: frames.offset,
                };
                if let Some(Some(uplink)) = decoded {
                    return Ok(Some(Step::Record(position, uplink, next, length)));
                }
                self.reader.sequence = position.sequence;
                self.reader.place = Some(next);
            }
            FrameRead::Frame(_) | FrameRead::Torn | FrameRead::Corrupt { .. } | FrameRead::End => {
                if frames.resync(&mut self.storage, after, through)? {
                    self.reader.place = Some(Place {
                        epoch: *epoch,
                        offset: frames.offset,
                    });
                } else {
                    self.reader.sequence = through;
                }
            }
        }
        if segment.condition == Condition::Good {
            segment.condition = Condition::Damaged;
        }
        Ok(None)
    }

    /// Makes the open frames those of segment `index`, at the reader's place.
    fn open_segment(&mut self, index: usize) -> Result<(), StorageError> {
        let Some(segment) = self.segments.get(index) else {
            return Ok(());
        };
        let epoch = segment.header.epoch;
        let offset = self
            .reader
            .place
            .filter(|place| place.epoch == epoch)
            .map_or(DATA_START, |place| place.offset);
        match self.reader.open.as_mut() {
            Some((open, frames)) if *open == epoch => {
                frames.offset = offset;
                frames.limit = segment.end_offset;
            }
            Some(_) | None => {
                let file = self.storage.open(&segment_name(epoch))?;
                self.reader.open =
                    Some((epoch, Frames::new(file, epoch, offset, segment.end_offset)));
            }
        }
        Ok(())
    }

    /// Gives up a page the storage cannot read, or the whole segment if it cannot even be opened.
    fn skip_unreadable(&mut self, index: usize) {
        let Some(segment) = self.segments.get_mut(index) else {
            return;
        };
        if segment.condition == Condition::Good {
            segment.condition = Condition::Damaged;
        }
        let epoch = segment.header.epoch;
        let offset = match &self.reader.open {
            Some((open, frames)) if *open == epoch => frames.offset,
            Some(_) | None => segment.end_offset,
        };
        let next = (offset + 1).next_multiple_of(UNREADABLE_BYTES);
        if next >= segment.end_offset {
            self.reader.sequence = segment.end.sequence;
        } else {
            self.reader.place = Some(Place {
                epoch,
                offset: next,
            });
        }
    }
}
