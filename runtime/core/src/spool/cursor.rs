//! The cursor: what is settled, what was given up, and which numbers may be in use.
//!
//! ```text
//! file `cursor`:  0 ──── slot A ──── 4096 ──── slot B ──── 8192
//! slot:  magic u32 "MLCU" | version u16 | numbers u16 | numbers × u64 | crc32c u32 over all before it
//!        generation | identity of the spool
//!        evicted: records, readings | dropped: records, readings | damaged: records, readings
//!        reserved: sequence, epoch | poisoned epoch | set aside: readings
//!        ranges × ( acked: sequence, records, readings | through: sequence, records, readings )
//!                  the last range is open: its `through` is all zeros                            (little endian)
//! ```
//!
//! The valid slot with the higher generation counts. Writes go to one slot until a sync of it succeeded, then to the
//! other: whatever happens to a write in the air, the last synced state stays. A cursor that is behind only repeats
//! records, so acknowledgements are written without a sync; what must not be forgotten (evictions, reservations, the
//! acknowledgement of a segment about to be recycled) is synced first. The same bytes travel in segments as frames of
//! their own kind, so that most commits need no other file; of slots and frames the highest generation counts.

use super::range::{RANGES_MAX, Range, Ranges};
use super::record::{u32_at, u64_at};
use super::storage::{Storage, StorageError, read_patiently};
use super::{Position, Totals};
use crate::message::Sequence;

/// The largest slot.
pub const SLOT_BYTES_MAX: usize = 8 + 8 * (FIXED + RANGES_MAX * PER_RANGE) + 4;

pub(super) const CURSOR_NAME: &str = "cursor";
pub(super) const SLOT_STRIDE: usize = 4096;
const MAGIC: u32 = u32::from_le_bytes(*b"MLCU");
const VERSION: u16 = 2;
/// Numbers before the ranges, and of each range.
const FIXED: usize = 12;
const PER_RANGE: usize = 6;

/// The state that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Cursor {
    /// Drawn once, when the spool was made: what lies elsewhere and belongs to it carries it, too.
    pub identity: u64,
    /// What is still needed: neither acknowledged, nor evicted, nor damaged beyond reading.
    pub unsettled: Ranges,
    /// What was given up because the spool was full or too old.
    pub evicted: Totals,
    /// What was given up before it got a place.
    pub dropped: Totals,
    /// What could not be read back.
    pub damaged: Totals,
    /// Sequences through this one may have been given out.
    pub reserved_sequence: u64,
    /// Epochs through this one may have been used.
    pub reserved_epoch: u64,
    /// A sync of this segment failed: what a page cache says about it must not be synced again.
    pub poisoned_epoch: u64,
    /// Acknowledged readings that the platform refused for good, or that no packet could carry.
    pub set_aside_readings: u64,
}

/// What a slot holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotRead {
    /// A state and its generation.
    Whole(u64, Cursor),
    /// Never written.
    Unused,
    /// Torn, damaged or of an unknown version.
    Damaged,
}

impl Cursor {
    /// The bytes of a slot.
    #[must_use]
    pub fn encode(&self, generation: u64) -> Vec<u8> {
        let mut numbers = vec![
            generation,
            self.identity,
            self.evicted.records,
            self.evicted.readings,
            self.dropped.records,
            self.dropped.readings,
            self.damaged.records,
            self.damaged.readings,
            self.reserved_sequence,
            self.reserved_epoch,
            self.poisoned_epoch,
            self.set_aside_readings,
        ];
        for range in self.unsettled.iter() {
            for place in [range.acked, range.through.unwrap_or_default()] {
                numbers.extend([
                    place.sequence.0,
                    place.totals.records,
                    place.totals.readings,
                ]);
            }
        }
        let mut bytes = Vec::with_capacity(8 + 8 * numbers.len() + 4);
        bytes.extend(MAGIC.to_le_bytes());
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(u16::try_from(numbers.len()).unwrap_or(0).to_le_bytes());
        for number in numbers {
            bytes.extend(number.to_le_bytes());
        }
        let crc = crc32c::crc32c(&bytes);
        bytes.extend(crc.to_le_bytes());
        bytes
    }

    /// Reads a slot, and whatever follows it is ignored.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> SlotRead {
        if bytes.iter().take(SLOT_BYTES_MAX).all(|byte| *byte == 0) {
            return SlotRead::Unused;
        }
        Self::decode_used(bytes).map_or(SlotRead::Damaged, |(generation, cursor)| {
            SlotRead::Whole(generation, cursor)
        })
    }

    fn decode_used(bytes: &[u8]) -> Option<(u64, Self)> {
        let version = u32::from(VERSION);
        let word = u32_at(bytes, 4);
        let count = (word >> 16) as usize;
        let ranges = count.checked_sub(FIXED)?;
        let known = u32_at(bytes, 0) == MAGIC && word & 0xffff == version;
        if !known || !ranges.is_multiple_of(PER_RANGE) || ranges / PER_RANGE > RANGES_MAX {
            return None;
        }
        let length = 8 + 8 * count;
        if crc32c::crc32c(bytes.get(..length)?) != u32_at(bytes.get(..length + 4)?, length) {
            return None;
        }
        let number = |index: usize| u64_at(bytes, 8 + 8 * index);
        let totals = |index: usize| Totals {
            records: number(index),
            readings: number(index + 1),
        };
        let place = |index: usize| Position {
            sequence: Sequence(number(index)),
            totals: totals(index + 1),
        };
        let ranges = (0..ranges / PER_RANGE).map(|range| {
            let at = FIXED + range * PER_RANGE;
            let through = place(at + 3);
            Range {
                acked: place(at),
                through: (through != Position::default()).then_some(through),
            }
        });
        let cursor = Self {
            identity: number(1),
            unsettled: Ranges::of(ranges.collect())?,
            evicted: totals(2),
            dropped: totals(4),
            damaged: totals(6),
            reserved_sequence: number(8),
            reserved_epoch: number(9),
            poisoned_epoch: number(10),
            set_aside_readings: number(11),
        };
        Some((number(0), cursor))
    }
}

/// How the cursor was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CursorFound {
    /// There was none: a new spool.
    Fresh,
    /// As it was left.
    Whole,
    /// One slot was unreadable (usual after a power cut); the other one counts.
    OneSlot,
    /// Both slots were unreadable: acknowledgements are forgotten, so what is kept will be sent again.
    Lost,
}

/// The cursor's file. `state` is the truth; the file follows.
#[derive(Debug)]
pub(crate) struct CursorFile<F> {
    /// `None` after a failed sync or a failed open: the next write makes a new file.
    file: Option<F>,
    slot: usize,
    generation: u64,
    pub(crate) state: Cursor,
    written: Option<Cursor>,
    synced: Option<Cursor>,
    /// The newest state that went into a segment or the journal.
    carried: Option<Cursor>,
    names_synced: bool,
}

impl<F> CursorFile<F> {
    /// The cursor in `storage`, and how it was found; a new one where there is none. One that cannot be written for now is
    /// written anew later; beside records (`holds_records`) that goes for one that is missing, too. The last is why it
    /// could not be read, if it could not.
    pub(crate) fn load<S: Storage<File = F>>(
        storage: &mut S,
        holds_records: bool,
    ) -> Result<(Self, CursorFound, Option<StorageError>), StorageError> {
        let (mut file, writable) = match storage.open(CURSOR_NAME) {
            Ok(file) => (file, true),
            Err(StorageError::Missing) => {
                let mut fresh = Self::unwritten(None);
                return match fresh.replace(storage) {
                    Err(error) if !holds_records => Err(error),
                    Ok(()) | Err(_) => Ok((fresh, CursorFound::Fresh, None)),
                };
            }
            Err(_unwritable) => (storage.open_read(CURSOR_NAME)?, false),
        };
        let mut cursor = Self::unwritten(None);
        let (found, unreadable) = match slots(storage, &mut file) {
            Ok(slots) => (cursor.choose(slots), None),
            Err(error) => (CursorFound::Lost, Some(error)),
        };
        if writable {
            cursor.file = Some(file);
            cursor.secure(storage);
        } else {
            cursor.written = None;
        }
        Ok((cursor, found, unreadable))
    }

    /// The storage is another one, which holds `found`: everything is written anew there, under a higher generation.
    pub(crate) fn begin_anew(&mut self, found: &Self) {
        self.generation = self.generation.max(found.generation);
        self.file = None;
        self.written = None;
        self.synced = None;
        self.names_synced = false;
    }

    /// Sequences through this one are reserved on the medium.
    pub(crate) fn reserved_on_medium(&self) -> u64 {
        self.synced
            .as_ref()
            .map_or(0, |synced| synced.reserved_sequence)
    }

    /// The state as loaded may be in the page cache only, and the other slot the last one that was synced: before that
    /// one is overwritten, this one is written again as it is, and synced.
    fn secure<S: Storage<File = F>>(&mut self, storage: &mut S) {
        let (Some(state), Some(file)) = (self.written.as_ref(), self.file.as_mut()) else {
            return;
        };
        let bytes = state.encode(self.generation);
        let loaded = ((1 - self.slot) * SLOT_STRIDE) as u64;
        let secured = storage
            .write_at(file, loaded, &bytes)
            .and_then(|()| storage.sync(file));
        if secured.is_err() {
            self.file = None;
            self.written = None;
        }
    }

    /// Whether a start after a crash would know which segment must not be synced again.
    #[cfg(test)]
    pub(crate) fn poison_is_marked(&self) -> bool {
        self.state.poisoned_epoch == 0
            || self
                .written
                .as_ref()
                .is_some_and(|written| written.poisoned_epoch == self.state.poisoned_epoch)
    }

    pub(crate) fn unwritten(file: Option<F>) -> Self {
        Self {
            file,
            slot: 0,
            generation: 0,
            state: Cursor::default(),
            written: None,
            synced: None,
            carried: None,
            names_synced: false,
        }
    }

    /// Whether `state` lies somewhere that survives the end of the process.
    pub(crate) fn is_kept(&self) -> bool {
        self.written.as_ref() == Some(&self.state) || self.carried.as_ref() == Some(&self.state)
    }

    /// Whether the last synced state holds records between these places for unsettled, and this one does not any more.
    pub(crate) fn synced_is_behind(&self, start: Sequence, end: Sequence) -> bool {
        self.synced.as_ref() != Some(&self.state)
            && self
                .synced
                .as_ref()
                .is_none_or(|synced| synced.unsettled.meets(start, end))
    }

    /// The state as it goes into a segment, under a generation of its own.
    pub(crate) fn encode_next(&mut self) -> Vec<u8> {
        self.generation += 1;
        self.state.encode(self.generation)
    }

    /// What [`CursorFile::encode_next`] gave is there.
    pub(crate) fn carried(&mut self) {
        self.carried = Some(self.state.clone());
    }

    /// Where it was carried to, nothing is written any more: it belongs into the file now.
    pub(crate) fn forget_carried(&mut self) {
        self.carried = None;
    }

    /// A state that was found elsewhere. `false` where it is older, or of another spool.
    pub(crate) fn adopt(&mut self, generation: u64, state: Cursor) -> bool {
        let ours = state.identity == self.state.identity || self.state.identity == 0;
        let newer = ours && generation > self.generation;
        if newer {
            self.generation = generation;
            self.state = state;
        }
        newer
    }

    fn choose(&mut self, slots: [SlotRead; 2]) -> CursorFound {
        let damaged = slots.contains(&SlotRead::Damaged);
        let newest = slots
            .into_iter()
            .enumerate()
            .filter_map(|(slot, read)| match read {
                SlotRead::Whole(generation, state) => Some((generation, slot, state)),
                SlotRead::Unused | SlotRead::Damaged => None,
            })
            .max_by_key(|(generation, slot, _)| (*generation, *slot));
        let Some((generation, slot, state)) = newest else {
            return if damaged {
                CursorFound::Lost
            } else {
                CursorFound::Fresh
            };
        };
        // The one that was found stays untouched until the other one is synced.
        self.slot = 1 - slot;
        self.generation = generation;
        self.written = Some(state.clone());
        self.state = state;
        if damaged {
            CursorFound::OneSlot
        } else {
            CursorFound::Whole
        }
    }

    /// Writes the state so that it survives the end of the process.
    pub(crate) fn write<S: Storage<File = F>>(
        &mut self,
        storage: &mut S,
    ) -> Result<(), StorageError> {
        if self.written.as_ref() == Some(&self.state) {
            return Ok(());
        }
        if self.file.is_none() {
            return self.replace(storage);
        }
        let Some(file) = self.file.as_mut() else {
            return Ok(());
        };
        // A write that failed may be there as a whole: no other state may have its generation.
        self.generation += 1;
        let bytes = self.state.encode(self.generation);
        self.written = None;
        storage.write_at(file, (self.slot * SLOT_STRIDE) as u64, &bytes)?;
        self.written = Some(self.state.clone());
        Ok(())
    }

    /// Writes the state so that it survives a power cut.
    pub(crate) fn sync<S: Storage<File = F>>(
        &mut self,
        storage: &mut S,
    ) -> Result<(), StorageError> {
        if self.synced.as_ref() == Some(&self.state) && self.names_synced {
            return Ok(());
        }
        if self.written.as_ref() == Some(&self.state) && self.synced.is_none() {
            // As loaded: that slot may be in the page cache only, so the state is written again to the other one.
            self.written = None;
        }
        self.write(storage)?;
        let Some(file) = self.file.as_mut() else {
            return Ok(());
        };
        if let Err(error) = storage.sync(file) {
            // Neither slot can be trusted to be on the medium any more: start again in a new file.
            self.file = None;
            self.written = None;
            self.synced = None;
            return Err(error);
        }
        if !self.names_synced {
            storage.sync_names()?;
            self.names_synced = true;
        }
        self.synced = Some(self.state.clone());
        self.slot = 1 - self.slot;
        Ok(())
    }

    /// Puts a new file with the state in place of the old one.
    fn replace<S: Storage<File = F>>(&mut self, storage: &mut S) -> Result<(), StorageError> {
        const TEMPORARY_NAME: &str = "cursor.new";
        self.generation += 1;
        let mut file = storage.create(TEMPORARY_NAME)?;
        storage.write_at(&mut file, 0, &vec![0; 2 * SLOT_STRIDE])?;
        storage.write_at(&mut file, 0, &self.state.encode(self.generation))?;
        storage.sync(&mut file)?;
        storage.rename(TEMPORARY_NAME, CURSOR_NAME)?;
        self.names_synced = false;
        self.file = Some(file);
        self.slot = 1;
        self.written = Some(self.state.clone());
        self.synced = None;
        Ok(())
    }
}

/// What the two slots of `file` hold.
fn slots<S: Storage>(storage: &mut S, file: &mut S::File) -> Result<[SlotRead; 2], StorageError> {
    let mut bytes = vec![0; 2 * SLOT_STRIDE];
    let read = read_patiently(storage, file, 0, &mut bytes)?;
    bytes.truncate(read);
    Ok([0, 1].map(|slot| Cursor::decode(bytes.get(slot * SLOT_STRIDE..).unwrap_or_default())))
}
