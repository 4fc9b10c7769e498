//! The writing side: accepting into memory, writing to segments, committing, and what happens when the medium fails.

use thiserror::Error;

use super::cursor::{CURSOR_NAME, SLOT_BYTES_MAX};
use super::pending::Entry;
use super::record::{self, KIND_CURSOR, KIND_UPLINK, TERMINATOR};
use super::retention::{Full, SPARES_MAX};
use super::segment::{Condition, DATA_START, Header, Segment, segment_name};
use super::storage::{Storage, StorageError};
use super::{Keep, Position, Spool, Totals, tail};
use crate::message::{Sequence, Uplink};

/// Why a record got no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// The caller's fault: encoded, it is larger than the limits allow. Retrying is of no use.
    #[error("the record is too large")]
    TooLarge,
    /// Nobody's fault here: try again later.
    #[error("the spool cannot write: {0}")]
    Storage(#[from] StorageError),
    /// Accepted and given up at once, as a full spool is told to: it counts as evicted.
    #[error("the spool is full and keeps what it has")]
    Dropped,
}

/// The segment being written.
#[derive(Debug)]
pub(super) struct Writer<F> {
    file: F,
    header: Header,
    offset: u64,
    /// How far a sync succeeded.
    synced_offset: u64,
    /// The name may not survive a power cut yet.
    names_pending: bool,
    /// A write or a sync failed: nothing is written here any more, and never synced again.
    poisoned: bool,
}

/// What lies in the staging buffer.
#[derive(Debug)]
struct Staged {
    /// The last record.
    newest: Position,
    /// Bytes of the frames.
    frames: usize,
    carries_cursor: bool,
}

impl<F> Writer<F> {
    pub(super) fn recovered(file: F, segment: &Segment, synced: bool) -> Self {
        Self {
            file,
            header: segment.header,
            offset: segment.end_offset,
            synced_offset: if synced {
                segment.end_offset
            } else {
                DATA_START
            },
            names_pending: !synced,
            poisoned: !synced,
        }
    }

    /// Nothing is written to this file any more: what is not synced goes elsewhere.
    pub(super) fn abandon(&mut self) {
        self.poisoned = true;
    }

    fn room(&self) -> usize {
        let room = self.header.capacity.saturating_sub(self.offset);
        usize::try_from(room).unwrap_or(usize::MAX)
    }
}

impl<S: Storage> Spool<S> {
    /// Accepts `batch` and pushes one outcome per record. What is accepted survives the end of the process, unless the
    /// spool is in memory only; [`Spool::commit`] makes it survive a power cut.
    pub fn append(
        &mut self,
        batch: impl IntoIterator<Item = Uplink>,
        outcomes: &mut Vec<Result<Sequence, Refused>>,
    ) {
        let before = self.last.sequence;
        let given_up = self.given_up();
        let reserved = self.cursor.state.reserved_sequence;
        for uplink in batch {
            let outcome = self.accept(uplink);
            outcomes.push(outcome);
        }
        if self.cursor.state.reserved_sequence > reserved && !self.cursor.is_kept() {
            // Not on the medium: a record in the journal counts only if its number is known to be in use.
            self.note_cursor_in_journal();
        }
        if self.last.sequence > before {
            self.note_in_journal(before);
        }
        if !self.in_journal() && self.limits.keep == Keep::OnDisk && self.fault.is_none() {
            let written = self.write_out(self.last.sequence);
            self.fault = written.err().filter(|_| !self.kept_full);
        }
        let counted = self.limits.keep == Keep::InMemory || self.given_up() == given_up;
        if !counted && !self.note_cursor_in_journal() {
            match self.cursor.write(&mut self.storage) {
                // Written with the next checkpoint.
                Ok(()) | Err(_) => {}
            }
        }
    }

    /// What was given up, in flight or not, of which nothing is left but its count.
    fn given_up(&self) -> Totals {
        let cursor = &self.cursor.state;
        cursor.evicted.plus(cursor.dropped)
    }

    fn accept(&mut self, uplink: Uplink) -> Result<Sequence, Refused> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let Ok(encoded) = postcard::to_extend(&uplink, scratch) else {
            return Err(Refused::TooLarge);
        };
        let outcome = self.accept_encoded(uplink, &encoded);
        self.scratch = encoded;
        outcome
    }

    fn accept_encoded(&mut self, uplink: Uplink, encoded: &[u8]) -> Result<Sequence, Refused> {
        if encoded.len() > self.limits.record_bytes_max {
            return Err(Refused::TooLarge);
        }
        let readings = uplink.readings();
        if !self.has_room(encoded.len())? {
            self.drop_at_once(&uplink);
            return Err(Refused::Dropped);
        }
        let sequence = self.take_sequence();
        let one = Totals {
            records: 1,
            readings,
        };
        self.last = Position {
            sequence,
            totals: self.last.totals.plus(one),
        };
        self.pending.push(self.last, readings, encoded);
        self.tail.push(tail::Entry {
            position: self.last,
            uplink,
            bytes: encoded.len(),
        });
        Ok(sequence)
    }

    /// Makes room in memory for `bytes` more. `false`: what is there is kept, and the newcomer is not.
    fn has_room(&mut self, bytes: usize) -> Result<bool, StorageError> {
        if self.limits.full == Full::DropNewest {
            self.kept_full = self.kept_full || !self.will_fit(bytes);
            if self.kept_full {
                return Ok(false);
            }
        }
        while self.pending.bytes() + bytes > self.limits.memory_bytes && self.pending.count() > 0 {
            if self.fault.is_none() && self.limits.keep == Keep::OnDisk {
                match self.commit() {
                    Ok(()) => continue,
                    // Noted as the fault, or as a spool that is full.
                    Err(_) if self.limits.full == Full::DropNewest => return Ok(false),
                    Err(_) => continue,
                }
            }
            self.pending_settled();
            if self.pending.bytes() + bytes <= self.limits.memory_bytes {
                break;
            }
            match self.limits.full {
                Full::DropNewest => return Ok(false),
                Full::DropOldest => self.evict_from_memory()?,
            }
        }
        Ok(true)
    }

    /// Whether `bytes` more can be written without giving up what waits.
    fn will_fit(&self, bytes: usize) -> bool {
        let another = self.pool.has_blank(self.segment_bytes())
            || (self.sealed() > 0 && !self.oldest_waits())
            || self.limits.keep == Keep::InMemory;
        if another {
            return true;
        }
        let unwritten: usize = self
            .pending
            .after(self.written.sequence)
            .map(|entry| record::span(entry.bytes()))
            .sum();
        let needed = unwritten + record::span(bytes) + record::span(SLOT_BYTES_MAX);
        self.writer
            .as_ref()
            .is_some_and(|writer| !writer.poisoned && needed <= writer.room())
    }

    /// Makes every accepted record survive a power cut, except those that are settled anyway.
    ///
    /// # Errors
    /// When the storage refuses. The records stay accepted, in memory; the next commit tries again, on another segment
    /// where a sync failed.
    pub fn commit(&mut self) -> Result<(), StorageError> {
        self.commit_through(self.last.sequence)
    }

    /// The same for the records through `through`: those after it still have time to be settled without being written.
    ///
    /// # Errors
    /// As [`Spool::commit`].
    pub fn commit_through(&mut self, through: Sequence) -> Result<(), StorageError> {
        if self.is_absent() {
            self.pending_settled();
            return self.refuse_absent();
        }
        if self.limits.keep == Keep::InMemory {
            self.pending_settled();
            return Ok(());
        }
        let Some(target) = self.pending.through(through) else {
            return self.prove_if_faulty();
        };
        let waits = self
            .cursor
            .state
            .unsettled
            .meets(self.synced.sequence, target.sequence);
        let mut outcome = if waits {
            self.write_and_sync(target.sequence)
        } else {
            self.prove_if_faulty()
        };
        if outcome.is_err() && waits && self.is_poisoned() {
            outcome = self.write_and_sync(target.sequence);
        }
        self.fault = outcome.err().filter(|_| !self.kept_full);
        outcome?;
        self.synced = self.synced.latest(target);
        self.written = self.written.latest(self.synced);
        self.pending.forget(self.synced.sequence);
        self.turn_journal();
        Ok(())
    }

    /// A fault is over when something was written. Where nothing has to be, the cursor is.
    pub(super) fn prove_if_faulty(&mut self) -> Result<(), StorageError> {
        if self.fault.is_some() {
            self.fault = self.prove().err();
        }
        self.fault.map_or(Ok(()), Err)
    }

    fn prove(&mut self) -> Result<(), StorageError> {
        self.storage.open(CURSOR_NAME)?;
        self.cursor.sync(&mut self.storage)
    }

    /// Looks whether the storage would take a write, without one: a medium that fails while nothing has to be written is
    /// known before it is needed.
    ///
    /// # Errors
    /// When it would not. It is the fault from now on.
    pub fn look(&mut self) -> Result<(), StorageError> {
        self.refuse_absent()?;
        match self.storage.open(CURSOR_NAME) {
            Ok(_file) => Ok(()),
            Err(error) => {
                self.fault.get_or_insert(error);
                Err(error)
            }
        }
    }

    fn write_and_sync(&mut self, through: Sequence) -> Result<(), StorageError> {
        self.write_out(through)?;
        self.sync_writer()
    }

    /// Whether [`Spool::commit`] has something to write or sync.
    #[must_use]
    pub fn wants_commit(&self) -> bool {
        let newest = self.pending.through(self.last.sequence);
        let unsettled = &self.cursor.state.unsettled;
        self.limits.keep == Keep::OnDisk
            && newest.is_some_and(|it| unsettled.meets(self.synced.sequence, it.sequence))
    }

    /// Bytes and records waiting for a commit.
    #[must_use]
    pub fn uncommitted(&self) -> (u64, u64) {
        if self.limits.keep == Keep::InMemory {
            return (0, 0);
        }
        (self.pending.bytes() as u64, self.pending.count() as u64)
    }

    /// Forgets the settled records at the front of memory.
    pub(super) fn pending_settled(&mut self) {
        let unsettled = &self.cursor.state.unsettled;
        while let Some(entry) = self.pending.front() {
            let position = entry.position;
            if unsettled.index_of(position.sequence).is_some() {
                break;
            }
            self.synced = self.synced.latest(position);
            self.written = self.written.latest(position);
            self.pending.pop();
        }
    }

    /// Writes the unsettled records through `through` to segments.
    fn write_out(&mut self, through: Sequence) -> Result<(), StorageError> {
        let mut poisoned = false;
        loop {
            self.reopen_poisoned();
            let unsettled = &self.cursor.state.unsettled;
            let next = self
                .pending
                .after(self.written.sequence)
                .take_while(|entry| entry.position.sequence <= through)
                .find(|entry| unsettled.index_of(entry.position.sequence).is_some())
                .copied();
            let Some(next) = next else {
                return Ok(());
            };
            self.secure_reservation()?;
            if self.fits(&next) {
                self.write_some(next, through)?;
                continue;
            }
            if !self.is_poisoned() {
                // Only one segment at a time holds what is not synced.
                match self.sync_writer() {
                    Err(error) if poisoned => return Err(error),
                    Err(_) => {
                        poisoned = true;
                        continue;
                    }
                    Ok(()) => {}
                }
            }
            let start = self.start_before(&next);
            self.roll(start, Some((next, through)))?;
        }
    }

    /// Where a segment begins whose first record is `next`. What lies before it and after what is written was settled in
    /// memory: it counts as before the segment. Unless something there still waits, which can only be what was lost: then
    /// it comes after this place, and so does its count, for whoever divides what waits here.
    fn start_before(&self, next: &Entry) -> Position {
        let before = next.before();
        let unsettled = &self.cursor.state.unsettled;
        if unsettled.meets(self.written.sequence, before.sequence) {
            return self.written;
        }
        Position {
            sequence: self.written.sequence,
            totals: before.totals,
        }
    }

    fn is_poisoned(&self) -> bool {
        self.writer.as_ref().is_some_and(|writer| writer.poisoned)
    }

    /// What was written to a segment whose sync failed must be written again, elsewhere.
    fn reopen_poisoned(&mut self) {
        if self.is_poisoned() {
            self.written = self.synced;
        }
    }

    /// Whether `next` can be written to the segment.
    fn fits(&self, next: &Entry) -> bool {
        let carried = if self.cursor.is_kept() {
            0
        } else {
            record::span(SLOT_BYTES_MAX)
        };
        let span = record::span(next.bytes()) + carried;
        self.writer
            .as_ref()
            .is_some_and(|writer| !writer.poisoned && span <= writer.room())
    }

    /// Writes as many records from `first` on as fit into the segment, with one write.
    fn write_some(&mut self, first: Entry, through: Sequence) -> Result<(), StorageError> {
        let Some(writer) = self.writer.as_ref() else {
            return Ok(());
        };
        let (header, room) = (writer.header, writer.room());
        let staged = self.stage(&header, room, first, through);
        let Some(writer) = self.writer.as_mut() else {
            return Ok(());
        };
        let written = self
            .storage
            .write_at(&mut writer.file, writer.offset, &self.staging);
        match written {
            Ok(()) => {
                writer.offset += staged.frames as u64;
                self.note_written(staged);
                Ok(())
            }
            // Where there is no room there is none elsewhere.
            Err(StorageError::Full) => Err(StorageError::Full),
            Err(error) => {
                // The file may be one of a medium that is gone: the next try begins another.
                writer.abandon();
                Err(error)
            }
        }
    }

    /// Puts frames for as many unsettled records from `first` on as fit into `room` into the staging buffer, behind the
    /// cursor where that has changed, and before the terminator.
    fn stage(&mut self, header: &Header, room: usize, first: Entry, through: Sequence) -> Staged {
        let seed = record::seed(header.epoch);
        let before = first.before();
        self.staging.clear();
        let carries_cursor = !self.cursor.is_kept();
        if carries_cursor {
            let state = self.cursor.encode_next();
            let counted = header.counted(before.totals);
            let frames = &mut self.staging;
            record::put(frames, seed, KIND_CURSOR, before.sequence, counted, &state);
        }
        let mut newest = before;
        let unsettled = &self.cursor.state.unsettled;
        for entry in self.pending.after(before.sequence) {
            let sequence = entry.position.sequence;
            if sequence > through || self.staging.len() + record::span(entry.bytes()) > room {
                break;
            }
            if unsettled.index_of(sequence).is_some() {
                let counted = header.counted(entry.position.totals);
                let payload = self.pending.payload(entry);
                let frames = &mut self.staging;
                record::put(frames, seed, KIND_UPLINK, sequence, counted, payload);
                newest = entry.position;
            }
        }
        let frames = self.staging.len();
        if frames + TERMINATOR.len() <= room {
            self.staging.extend_from_slice(&TERMINATOR);
        }
        Staged {
            newest,
            frames,
            carries_cursor,
        }
    }

    /// What was staged is in the segment.
    fn note_written(&mut self, staged: Staged) {
        if staged.carries_cursor {
            self.cursor.carried();
        }
        self.written = staged.newest;
        if let (Some(segment), Some(writer)) = (self.segments.back_mut(), self.writer.as_ref()) {
            segment.end = staged.newest;
            segment.end_offset = writer.offset;
        }
    }

    /// Syncs the written segment. After an error it is poisoned.
    fn sync_writer(&mut self) -> Result<(), StorageError> {
        let Some(writer) = self.writer.as_mut() else {
            return Ok(());
        };
        if writer.poisoned || (writer.synced_offset == writer.offset && !writer.names_pending) {
            return Ok(());
        }
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
        writer.synced_offset = writer.offset;
        self.synced = self.synced.latest(self.written);
        Ok(())
    }

    /// Ends the written segment, whatever is still free in it.
    pub(super) fn seal(&mut self, at: Position) -> Result<(), StorageError> {
        self.sync_writer()?;
        self.roll(at, None)
    }

    /// Starts the next segment, for the records after `start`: with the first of them and those through some record, as
    /// far as they fit. Nothing of the spool changes until it is complete.
    fn roll(
        &mut self,
        start: Position,
        first: Option<(Entry, Sequence)>,
    ) -> Result<(), StorageError> {
        let (blank, file) = self.open_blank()?;
        match self.begin_segment(&blank, file, start, first) {
            Ok(()) => Ok(()),
            Err(error) => {
                self.pool.put_back(blank);
                Err(error)
            }
        }
    }

    fn begin_segment(
        &mut self,
        blank: &str,
        mut file: S::File,
        start: Position,
        first: Option<(Entry, Sequence)>,
    ) -> Result<(), StorageError> {
        let epoch = self.take_epoch()?;
        let header = Header {
            epoch,
            capacity: self.limits.segment_bytes,
            start,
            begun: self.now,
        };
        let room = usize::try_from(header.capacity - DATA_START).unwrap_or(usize::MAX);
        // Once the new segment is there, nobody reads the unsynced records in the one it follows.
        let unsynced = self.segments.back().map(|segment| segment.end.sequence);
        let staged = first.map(|(entry, through)| {
            let through = through.max(unsynced.unwrap_or(through));
            self.stage(&header, room, entry, through)
        });
        if staged.is_none() {
            self.staging.clear();
            self.staging.extend_from_slice(&TERMINATOR);
        }
        self.storage
            .write_at(&mut file, DATA_START, &self.staging)?;
        self.storage.write_at(&mut file, 0, &header.encode())?;
        self.storage.rename(blank, &segment_name(epoch))?;
        let poisoned = self.writer.as_ref().filter(|writer| writer.poisoned);
        if let Some(segment) = self.segments.back_mut() {
            if let Some(writer) = poisoned {
                segment.condition = Condition::Poisoned;
                segment.end_offset = writer.synced_offset;
            }
            segment.end = start;
        }
        let frames = staged.as_ref().map_or(0, |staged| staged.frames as u64);
        self.segments.push_back(Segment {
            header,
            end: start,
            end_offset: DATA_START + frames,
            condition: Condition::Good,
        });
        self.writer = Some(Writer {
            file,
            header,
            offset: DATA_START + frames,
            synced_offset: DATA_START,
            names_pending: true,
            poisoned: false,
        });
        if let Some(staged) = staged {
            self.note_written(staged);
        }
        Ok(())
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
            if self.limits.full == Full::DropNewest && self.oldest_waits() {
                self.kept_full = true;
                return Err(StorageError::Full);
            }
            self.evict_oldest()?;
        }
    }
}
