//! The writing side: staging, rolling to the next segment, committing, and what happens when a sync fails.

use thiserror::Error;

use super::record::{self, FrameRead, TERMINATOR};
use super::retention::SPARES_MAX;
use super::segment::{Condition, DATA_START, Frames, Header, Segment, segment_name};
use super::storage::{Storage, StorageError};
use super::{Place, Position, Spool, Totals, tail};
use crate::message::{Sequence, Uplink};

/// Why a record was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// The caller's fault: encoded, it is larger than the limits allow. Retrying is of no use.
    #[error("the record is too large")]
    TooLarge,
    /// Nobody's fault here: try again later.
    #[error("the spool cannot write: {0}")]
    Storage(#[from] StorageError),
}

/// The segment being written.
#[derive(Debug)]
pub(super) struct Writer<F> {
    file: F,
    header: Header,
    seed: u32,
    offset: u64,
    /// How far, and through which record, a sync succeeded.
    synced_offset: u64,
    pub(super) synced: Position,
    /// The name may not survive a power cut yet.
    names_pending: bool,
    /// A sync failed: nothing is written here any more, and never synced again.
    poisoned: bool,
}

impl<F> Writer<F> {
    pub(super) fn recovered(file: F, segment: &Segment, synced: bool) -> Self {
        Self {
            file,
            header: segment.header,
            seed: record::seed(segment.header.epoch),
            offset: segment.end_offset,
            synced_offset: if synced {
                segment.end_offset
            } else {
                DATA_START
            },
            synced: if synced {
                segment.end
            } else {
                segment.header.start
            },
            names_pending: !synced,
            poisoned: !synced,
        }
    }
}

/// Encoded frames on their way to the segment, and what to do with them once they are there.
#[derive(Debug, Default)]
pub(super) struct Staging {
    bytes: Vec<u8>,
    entries: Vec<Staged>,
}

#[derive(Debug)]
struct Staged {
    uplink: Uplink,
    position: Position,
    /// Where the frame ends in the staging buffer.
    end: usize,
    bytes: usize,
    /// Which outcome becomes a refusal when the write fails.
    outcome: usize,
}

impl<S: Storage> Spool<S> {
    /// Appends `batch` with as few writes as possible and pushes one outcome per record. Accepted records are written,
    /// not committed.
    pub fn append(
        &mut self,
        batch: impl IntoIterator<Item = Uplink>,
        outcomes: &mut Vec<Result<Sequence, Refused>>,
    ) {
        for uplink in batch {
            let outcome = self.stage(uplink, outcomes);
            outcomes.push(outcome);
        }
        self.flush(outcomes);
    }

    /// Makes every accepted record survive a power cut, except those that are acknowledged anyway.
    ///
    /// # Errors
    /// When the storage refuses. The records stay accepted; the next commit tries again, on another segment where a
    /// sync failed.
    pub fn commit(&mut self) -> Result<(), StorageError> {
        if !self.wants_commit() {
            return Ok(());
        }
        let poisoned = self.writer.as_ref().is_some_and(|writer| writer.poisoned);
        if !poisoned && self.sync_writer().is_ok() {
            return Ok(());
        }
        self.roll()?;
        self.sync_writer()
    }

    /// Whether [`Spool::commit`] has something to do.
    #[must_use]
    pub fn wants_commit(&self) -> bool {
        let acked = self.cursor.state.acked.sequence;
        self.writer
            .as_ref()
            .is_some_and(|w| w.synced.sequence < self.last.sequence)
            && acked < self.last.sequence
    }

    /// Bytes and records waiting for a commit.
    #[must_use]
    pub fn uncommitted(&self) -> (u64, u64) {
        self.writer.as_ref().map_or((0, 0), |writer| {
            let records = self.last.totals.since(writer.synced.totals).records;
            (writer.offset - writer.synced_offset, records)
        })
    }

    /// Encodes one record behind the staged ones. Frames are finished here, so whatever changes the segment writes the
    /// staged ones first.
    fn stage(
        &mut self,
        uplink: Uplink,
        outcomes: &mut [Result<Sequence, Refused>],
    ) -> Result<Sequence, Refused> {
        let start = record::begin(&mut self.staging.bytes);
        let buffer = std::mem::take(&mut self.staging.bytes);
        self.staging.bytes = match postcard::to_extend(&uplink, buffer) {
            Ok(buffer) => buffer,
            Err(_unencodable) => return Err(self.refuse_staged(outcomes)),
        };
        let bytes = self.staging.bytes.len() - start - record::FRAME_HEADER;
        if bytes > self.limits.record_bytes_max {
            self.staging.bytes.truncate(start);
            return Err(Refused::TooLarge);
        }
        let start = self.make_room(start, record::span(bytes), outcomes)?;
        let sequence = self
            .take_sequence()
            .inspect_err(|_| self.staging.bytes.truncate(start))?;
        let before = self
            .staging
            .entries
            .last()
            .map_or(self.last, |staged| staged.position);
        let one = Totals {
            records: 1,
            readings: uplink.readings(),
        };
        let position = Position {
            sequence,
            totals: before.totals.plus(one),
        };
        if let Some(writer) = self.writer.as_ref() {
            let counted = writer.header.counted(position.totals);
            record::finish(
                &mut self.staging.bytes,
                start,
                writer.seed,
                sequence,
                counted,
            );
        }
        let (end, outcome) = (self.staging.bytes.len(), outcomes.len());
        self.staging.entries.push(Staged {
            uplink,
            position,
            end,
            bytes,
            outcome,
        });
        Ok(sequence)
    }

    /// The encoder gave the buffer up, and with it what was staged.
    fn refuse_staged(&mut self, outcomes: &mut [Result<Sequence, Refused>]) -> Refused {
        self.staging.bytes.clear();
        for staged in self.staging.entries.drain(..) {
            if let Some(outcome) = outcomes.get_mut(staged.outcome) {
                *outcome = Err(Refused::TooLarge);
            }
        }
        Refused::TooLarge
    }

    /// Makes sure the record encoded at `start` fits into a segment that can be written, and says where it now starts.
    fn make_room(
        &mut self,
        start: usize,
        span: usize,
        outcomes: &mut [Result<Sequence, Refused>],
    ) -> Result<usize, StorageError> {
        if self.fits(start + span) {
            return Ok(start);
        }
        let record = self.staging.bytes.split_off(start);
        self.flush(outcomes);
        if self.writer.as_ref().is_some_and(|writer| !writer.poisoned) && self.wants_commit() {
            match self.sync_writer() {
                // After an error it is poisoned, and the roll that follows takes its records along.
                Ok(()) | Err(_) => {}
            }
        }
        self.roll()?;
        if !self.fits(span) {
            // Records taken along fill the new segment. Once they are synced, the next one starts empty.
            self.sync_writer()?;
            self.roll()?;
        }
        self.staging.bytes.extend_from_slice(&record);
        Ok(0)
    }

    /// Whether `bytes` more can be written to the segment.
    fn fits(&self, bytes: usize) -> bool {
        self.writer
            .as_ref()
            .is_some_and(|w| !w.poisoned && w.offset + bytes as u64 <= w.header.capacity)
    }

    /// Writes what is staged.
    fn flush(&mut self, outcomes: &mut [Result<Sequence, Refused>]) {
        let Some(writer) = self
            .writer
            .as_mut()
            .filter(|_| !self.staging.entries.is_empty())
        else {
            self.staging.bytes.clear();
            return;
        };
        let frames = self.staging.bytes.len() as u64;
        if writer.offset + frames + (TERMINATOR.len() as u64) <= writer.header.capacity {
            self.staging.bytes.extend_from_slice(&TERMINATOR);
        }
        let written = self
            .storage
            .write_at(&mut writer.file, writer.offset, &self.staging.bytes);
        self.staging.bytes.clear();
        if let Err(error) = written {
            for staged in self.staging.entries.drain(..) {
                if let Some(outcome) = outcomes.get_mut(staged.outcome) {
                    *outcome = Err(error.into());
                }
            }
            return;
        }
        let epoch = writer.header.epoch;
        for staged in self.staging.entries.drain(..) {
            self.last = staged.position;
            self.tail.push(tail::Entry {
                position: staged.position,
                next: Place {
                    epoch,
                    offset: writer.offset + staged.end as u64,
                },
                uplink: staged.uplink,
                bytes: staged.bytes,
            });
        }
        writer.offset += frames;
        if let Some(segment) = self.segments.back_mut() {
            segment.end = self.last;
            segment.end_offset = writer.offset;
        }
    }

    /// Syncs the written segment. After an error it is poisoned.
    fn sync_writer(&mut self) -> Result<(), StorageError> {
        let Some(writer) = self.writer.as_mut() else {
            return Ok(());
        };
        let mut outcome = self.storage.sync(&mut writer.file);
        if outcome.is_ok() && writer.names_pending {
            outcome = self.storage.sync_names();
        }
        if outcome.is_err() {
            writer.poisoned = true;
            self.cursor.state.poisoned_epoch = writer.header.epoch;
            // For the case that the process ends before the records are elsewhere; if even that fails, so be it.
            return match self.cursor.write(&mut self.storage) {
                Ok(()) | Err(_) => outcome,
            };
        }
        writer.names_pending = false;
        writer.synced = self.last;
        writer.synced_offset = writer.offset;
        Ok(())
    }

    /// Starts the next segment. Nothing of the spool changes until it is complete, records of a poisoned predecessor
    /// included.
    fn roll(&mut self) -> Result<(), StorageError> {
        let (blank, file) = self.open_blank()?;
        match self.begin_segment(&blank, file) {
            Ok(()) => Ok(()),
            Err(error) => {
                self.pool.put_back(blank);
                Err(error)
            }
        }
    }

    fn begin_segment(&mut self, blank: &str, mut file: S::File) -> Result<(), StorageError> {
        let epoch = self.take_epoch()?;
        let poisoned = self
            .writer
            .as_ref()
            .filter(|writer| writer.poisoned)
            .map(|w| (w.synced, w.synced_offset));
        let start = poisoned
            .map_or(self.last, |(synced, _)| synced)
            .latest(self.cursor.state.acked);
        let header = Header {
            epoch,
            capacity: self.limits.segment_bytes,
            start,
        };
        let mut frames = Vec::new();
        if poisoned.is_some() {
            self.rescue(&header, &mut frames)?;
        }
        let data = frames.len() as u64;
        if DATA_START + data + (TERMINATOR.len() as u64) <= header.capacity {
            frames.extend_from_slice(&TERMINATOR);
        }
        self.storage.write_at(&mut file, DATA_START, &frames)?;
        self.storage.write_at(&mut file, 0, &header.encode())?;
        self.storage.rename(blank, &segment_name(epoch))?;
        if let Some((_, synced_offset)) = poisoned
            && let Some(segment) = self.segments.back_mut()
        {
            segment.condition = Condition::Poisoned;
            segment.end = start;
            segment.end_offset = synced_offset;
        }
        let offset = DATA_START + data;
        self.segments.push_back(Segment {
            header,
            end: self.last,
            end_offset: offset,
            condition: Condition::Good,
        });
        self.writer = Some(Writer {
            file,
            header,
            seed: record::seed(epoch),
            offset,
            synced_offset: DATA_START,
            synced: start,
            names_pending: true,
            poisoned: false,
        });
        Ok(())
    }

    /// Copies the uncommitted records of the poisoned segment into `frames`. What cannot be read back is left out: the
    /// counts show the hole.
    fn rescue(&mut self, to: &Header, frames: &mut Vec<u8>) -> Result<(), StorageError> {
        let Some(writer) = self.writer.as_ref() else {
            return Ok(());
        };
        let from = writer.header;
        let file = self.storage.open(&segment_name(from.epoch))?;
        let mut source = Frames::new(file, from.epoch, writer.synced_offset, writer.offset);
        let seed = record::seed(to.epoch);
        let mut last = to.start.sequence;
        loop {
            match source.peek(&mut self.storage)? {
                FrameRead::Frame(frame) => {
                    let span = frame.span();
                    let position = from.position(&frame);
                    let fits = DATA_START + (frames.len() + span) as u64 <= to.capacity;
                    if position.sequence > last && fits {
                        let start = record::begin(frames);
                        frames.extend_from_slice(frame.payload);
                        record::finish(
                            frames,
                            start,
                            seed,
                            position.sequence,
                            to.counted(position.totals),
                        );
                        last = position.sequence;
                    }
                    source.advance(span);
                }
                FrameRead::Torn | FrameRead::Corrupt { .. } | FrameRead::End => {
                    if !source.resync(&mut self.storage, last, self.last.sequence)? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// A blank file, open. One that somebody removed or replaced is no blank any more: it is forgotten, and the next
    /// one taken, made new in the end.
    fn open_blank(&mut self) -> Result<(String, S::File), StorageError> {
        for _ in 0..SPARES_MAX {
            let blank = self.take_blank()?;
            match self.storage.open(&blank) {
                Ok(file) => return Ok((blank, file)),
                Err(_) => self.pool.discard(&mut self.storage, &blank),
            }
        }
        let blank = self.take_blank()?;
        let file = self.storage.open(&blank)?;
        Ok((blank, file))
    }

    /// A blank file, for which the oldest segments may have to go.
    fn take_blank(&mut self) -> Result<String, StorageError> {
        loop {
            // With nothing to evict the bound yields: it was lowered below what one segment of old takes.
            let used = if self.sealed() == 0 {
                0
            } else {
                self.segment_bytes()
            };
            if let Some(name) = self.pool.take(&mut self.storage, used)? {
                return Ok(name);
            }
            self.evict_oldest()?;
        }
    }
}
