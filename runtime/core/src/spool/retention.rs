//! How much is kept, and where the next blank segment comes from: a spare, a new file, or the oldest segment.

use std::collections::VecDeque;

use thiserror::Error;

use super::record::RECORD_BYTES_MAX;
use super::segment::{Condition, DATA_START, Segment, number_in, segment_name};
use super::storage::{Listed, Storage, StorageError};

/// The spool never works with fewer segments: one written, one read, one spare, one to evict.
pub const SEGMENTS_MIN: u64 = 4;

/// The smallest segment.
pub const SEGMENT_BYTES_MIN: u64 = 2 * DATA_START;

/// Spares kept after a backlog was drained; more are removed, so that the space is given back.
pub(super) const SPARES_MAX: usize = 2;

/// Damaged segments kept for a look; the oldest goes when another comes.
const QUARANTINED_MAX: usize = 2;

/// Bytes of zero fill written and synced at once, so that no commit waits long behind it.
const FILL_BYTES: u64 = 256 * 1024;

const SPARE: &str = "spare";
const FILLING: &str = "filling";
const QUARANTINE: &str = "quarantine";

/// Why limits make no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LimitsError {
    /// Not even the smallest segments fit.
    #[error("a spool needs at least {} bytes", SEGMENTS_MIN * SEGMENT_BYTES_MIN)]
    TooSmall,
}

/// What a spool that has no room left does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Full {
    /// It gives up the oldest segment.
    #[default]
    DropOldest,
    /// It keeps what it has and gives up what comes.
    DropNewest,
}

/// Where records are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Keep {
    /// In segments, unless they are settled before the commit.
    #[default]
    OnDisk,
    /// Nowhere but in memory: they end with the process.
    InMemory,
}

/// The bounds of a spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub(super) segment_bytes: u64,
    pub(super) bytes_max: u64,
    pub(super) record_bytes_max: usize,
    pub(super) tail_bytes: usize,
    pub(super) memory_bytes: usize,
    pub(super) free_bytes_min: u64,
    pub(super) full: Full,
    pub(super) keep: Keep,
}

/// Encoded bytes kept in memory while they cannot be written, where nothing else is asked for.
const MEMORY_BYTES: usize = 8 * 1024 * 1024;

impl Limits {
    /// Segments of `segment_bytes` (smaller where `bytes_max` holds fewer than [`SEGMENTS_MIN`] of them), no more than
    /// `bytes_max` in all, and at most `tail_bytes` of encoded records kept decoded in memory.
    ///
    /// # Errors
    /// When `bytes_max` is too small for any spool.
    pub fn new(segment_bytes: u64, bytes_max: u64, tail_bytes: usize) -> Result<Self, LimitsError> {
        let largest = bytes_max / SEGMENTS_MIN / DATA_START * DATA_START;
        if largest < SEGMENT_BYTES_MIN {
            return Err(LimitsError::TooSmall);
        }
        let segment_bytes = segment_bytes
            .next_multiple_of(DATA_START)
            .clamp(SEGMENT_BYTES_MIN, largest);
        let data = usize::try_from(segment_bytes - DATA_START).unwrap_or(usize::MAX);
        let record_bytes_max = RECORD_BYTES_MAX.min(data / 2);
        Ok(Self {
            segment_bytes,
            bytes_max,
            record_bytes_max,
            tail_bytes,
            memory_bytes: MEMORY_BYTES,
            free_bytes_min: 0,
            full: Full::default(),
            keep: Keep::default(),
        })
    }

    /// At most `bytes` of encoded records in memory, where they wait for a commit, a settlement or a medium that works
    /// again.
    #[must_use]
    pub fn in_memory(self, bytes: usize) -> Self {
        Self {
            memory_bytes: bytes,
            ..self
        }
    }

    /// The spool does not grow while fewer than `bytes` are free beside it.
    #[must_use]
    pub fn leaving_free(self, bytes: u64) -> Self {
        Self {
            free_bytes_min: bytes,
            ..self
        }
    }

    /// What is done when there is no room.
    #[must_use]
    pub fn when_full(self, full: Full) -> Self {
        Self { full, ..self }
    }

    /// Where records are kept.
    #[must_use]
    pub fn kept(self, keep: Keep) -> Self {
        Self { keep, ..self }
    }

    /// How much of the spool's room is taken while segments of `bytes` hold records: 0 to 1.
    pub(super) fn fill(&self, bytes: u64) -> f64 {
        let room = self.bytes_max.saturating_sub(self.segment_bytes).max(1);
        (bytes.saturating_sub(self.segment_bytes) as f64 / room as f64).clamp(0.0, 1.0)
    }

    /// Bytes of one segment.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// The largest encoded record that is accepted.
    #[must_use]
    pub fn record_bytes_max(&self) -> usize {
        self.record_bytes_max
    }
}

/// Why zeros are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Haste {
    /// For later: each step is synced, so that the next commit does not have to carry it.
    Ahead,
    /// An append waits for it: the commit of that append carries it.
    Needed,
}

#[derive(Debug)]
struct Filling<F> {
    name: String,
    file: F,
    filled: u64,
}

/// The files that hold no records: spares, the one being filled with zeros, and those in quarantine.
#[derive(Debug)]
pub(crate) struct Pool<F> {
    limits: Limits,
    spares: VecDeque<String>,
    filling: Option<Filling<F>>,
    quarantined: VecDeque<(String, u64)>,
    next_number: u64,
    /// The storage refused a new file. Not tried again until [`Pool::retry`], because each try writes and removes data.
    stalled: Option<StorageError>,
    /// What is to stay free beside the spool was not there.
    starved: bool,
}

impl<F> Pool<F> {
    /// No files, of a storage nothing is known of.
    pub(crate) fn empty(limits: Limits) -> Self {
        Self {
            limits,
            spares: VecDeque::new(),
            filling: None,
            quarantined: VecDeque::new(),
            next_number: 0,
            stalled: None,
            starved: false,
        }
    }

    pub(crate) fn recover<S: Storage<File = F>>(
        storage: &mut S,
        listed: &[Listed],
        limits: Limits,
    ) -> Self {
        let mut pool = Self::empty(limits);
        for Listed { name, bytes } in listed {
            if number_in(name, QUARANTINE).is_some() {
                pool.quarantined.push_back((name.clone(), *bytes));
            } else if let Some(number) = number_in(name, SPARE).or_else(|| number_in(name, FILLING))
            {
                pool.next_number = pool.next_number.max(number.saturating_add(1));
                let usable = name.ends_with(SPARE) && *bytes == limits.segment_bytes;
                if usable && pool.spares.len() < SPARES_MAX {
                    pool.spares.push_back(name.clone());
                } else if let Err(error) = storage.remove(name) {
                    pool.stalled = Some(error);
                }
            }
        }
        pool
    }

    pub(crate) fn stalled(&self) -> Option<StorageError> {
        self.stalled
    }

    pub(crate) fn retry(&mut self) {
        self.stalled = None;
        self.starved = false;
    }

    pub(crate) fn quarantined(&self) -> u64 {
        self.quarantined.len() as u64
    }

    /// Bytes of all files here.
    pub(crate) fn bytes(&self) -> u64 {
        let quarantined: u64 = self.quarantined.iter().map(|(_, bytes)| bytes).sum();
        let blank = self.spares.len() as u64 + u64::from(self.filling.is_some());
        quarantined + blank * self.limits.segment_bytes
    }

    /// Whether another file fits beside `used` bytes of segments and what is here.
    fn fits(&self, used: u64) -> bool {
        used + self.bytes() + self.limits.segment_bytes <= self.limits.bytes_max
    }

    /// Whether the storage has room for another file and what is to stay free beside it.
    fn leaves_free<S: Storage<File = F>>(&self, storage: &mut S) -> bool {
        let needed = self
            .limits
            .free_bytes_min
            .saturating_add(self.limits.segment_bytes);
        self.limits.free_bytes_min == 0 || storage.free_bytes().is_none_or(|free| free >= needed)
    }

    /// Whether [`Pool::fill`] has something to do.
    pub(crate) fn can_fill(&self, used: u64) -> bool {
        self.spares.is_empty()
            && !self.starved
            && (self.filling.is_some() || !self.quarantined.is_empty() || self.fits(used))
    }

    /// Whether [`Pool::take`] finds something, or makes it.
    pub(crate) fn has_blank(&self, used: u64) -> bool {
        !self.spares.is_empty() || !self.quarantined.is_empty() || self.fits(used)
    }

    /// A blank file of segment size, `None` when the bound is reached and something must be evicted first.
    pub(crate) fn take<S: Storage<File = F>>(
        &mut self,
        storage: &mut S,
        used: u64,
    ) -> Result<Option<String>, StorageError> {
        while self.spares.is_empty() {
            if let Some(error) = self.stalled {
                return Err(error);
            }
            if !self.fill(storage, used, Haste::Needed)? {
                return Ok(None);
            }
        }
        Ok(self.spares.pop_front())
    }

    /// Gives back a file taken with [`Pool::take`] that was not used.
    pub(crate) fn put_back(&mut self, name: String) {
        self.spares.push_front(name);
    }

    /// Gets rid of a file taken with [`Pool::take`] that cannot be opened.
    pub(crate) fn discard<S: Storage<File = F>>(&mut self, storage: &mut S, name: &str) {
        match storage.remove(name) {
            // Whatever stands there now is counted nowhere; a start clears it away.
            Ok(()) | Err(_) => {}
        }
    }

    /// One step towards a spare. `false`: there is nothing to do, or no room to do it.
    pub(crate) fn fill<S: Storage<File = F>>(
        &mut self,
        storage: &mut S,
        used: u64,
        haste: Haste,
    ) -> Result<bool, StorageError> {
        if !self.spares.is_empty() {
            return Ok(false);
        }
        if self.filling.is_none() {
            if haste == Haste::Ahead && !self.leaves_free(storage) {
                self.starved = true;
                return Ok(false);
            }
            while !self.fits(used) || (used > 0 && !self.leaves_free(storage)) {
                if !self.drop_oldest_quarantined(storage)? {
                    return Ok(false);
                }
            }
        }
        self.step(storage, haste)
            .inspect_err(|error| self.stalled = Some(*error))?;
        Ok(true)
    }

    fn step<S: Storage<File = F>>(
        &mut self,
        storage: &mut S,
        haste: Haste,
    ) -> Result<(), StorageError> {
        let number = self.next_number;
        let mut filling = match self.filling.take() {
            Some(filling) => filling,
            None => {
                let name = format!("{number:016x}.{FILLING}");
                self.next_number += 1;
                Filling {
                    file: storage.create(&name)?,
                    name,
                    filled: 0,
                }
            }
        };
        let bytes = FILL_BYTES.min(self.limits.segment_bytes - filling.filled);
        let zeros = vec![0; usize::try_from(bytes).unwrap_or(0)];
        let mut written = storage.write_at(&mut filling.file, filling.filled, &zeros);
        if haste == Haste::Ahead {
            written = written.and_then(|()| storage.sync(&mut filling.file));
        }
        if let Err(error) = written {
            // A half-filled file would hold on to the last free space.
            storage.remove(&filling.name)?;
            return Err(error);
        }
        filling.filled += bytes;
        if filling.filled < self.limits.segment_bytes {
            self.filling = Some(filling);
            return Ok(());
        }
        let spare = format!("{}{SPARE}", filling.name.trim_end_matches(FILLING));
        storage.rename(&filling.name, &spare)?;
        self.spares.push_back(spare);
        Ok(())
    }

    /// Disposes of a segment nobody needs any more.
    pub(crate) fn retire<S: Storage<File = F>>(
        &mut self,
        storage: &mut S,
        segment: &Segment,
    ) -> Result<(), StorageError> {
        let bytes = segment.header.capacity;
        let disposed = match segment.condition {
            Condition::Poisoned => storage.remove(&segment.name()),
            Condition::Damaged => self.quarantine(storage, segment.header.epoch, bytes),
            Condition::Good => self.adopt(
                storage,
                &Listed {
                    name: segment.name(),
                    bytes,
                },
            ),
        };
        match disposed {
            // Somebody removed it already.
            Err(StorageError::Missing) => Ok(()),
            other => other,
        }
    }

    /// Puts a segment aside.
    pub(crate) fn quarantine<S: Storage<File = F>>(
        &mut self,
        storage: &mut S,
        epoch: u64,
        bytes: u64,
    ) -> Result<(), StorageError> {
        let name = format!("{epoch:016x}.{QUARANTINE}");
        storage.rename(&segment_name(epoch), &name)?;
        self.quarantined.push_back((name, bytes));
        while self.quarantined.len() > QUARANTINED_MAX {
            self.drop_oldest_quarantined(storage)?;
        }
        Ok(())
    }

    /// Removes the damaged segment that was kept longest; false when there is none. It counts until it is gone.
    fn drop_oldest_quarantined<S: Storage<File = F>>(
        &mut self,
        storage: &mut S,
    ) -> Result<bool, StorageError> {
        let Some((name, _)) = self.quarantined.front() else {
            return Ok(false);
        };
        match storage.remove(name) {
            // Somebody removed it already.
            Ok(()) | Err(StorageError::Missing) => {}
            Err(error) => return Err(error),
        }
        self.quarantined.pop_front();
        Ok(true)
    }

    /// Makes a segment file that holds nothing of worth a spare, or removes it.
    pub(crate) fn adopt<S: Storage<File = F>>(
        &mut self,
        storage: &mut S,
        file: &Listed,
    ) -> Result<(), StorageError> {
        if file.bytes != self.limits.segment_bytes || self.spares.len() >= SPARES_MAX {
            return storage.remove(&file.name);
        }
        let spare = format!("{:016x}.{SPARE}", self.next_number);
        storage.rename(&file.name, &spare)?;
        self.next_number += 1;
        self.spares.push_back(spare);
        Ok(())
    }
}
