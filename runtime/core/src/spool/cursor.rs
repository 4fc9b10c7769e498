//! The cursor: how far the platform acknowledged, what was given up, and which numbers may be in use.
//!
//! ```text
//! file `cursor`:  0 ──── slot A (108 bytes) ──── 4096 ──── slot B (108 bytes) ──── 8192
//! slot:  magic u32 | version u32 | generation u64
//!        acked: sequence u64, records u64, readings u64
//!        evicted: records u64, readings u64
//!        damaged: records u64, readings u64
//!        reserved: sequence u64, epoch u64
//!        poisoned epoch u64
//!        set aside: readings u64
//!        crc32c u32 over all before it                                     (little endian)
//! ```
//!
//! The valid slot with the higher generation counts. Writes go to one slot until a sync of it succeeded, then to the
//! other: whatever happens to a write in the air, the last synced state stays. A cursor that is behind only repeats
//! records, so acknowledgements are written without a sync; what must not be forgotten (evictions, reservations, the
//! acknowledgement of a segment about to be recycled) is synced first.

use super::record::{u32_at, u64_at};
use super::storage::{Storage, StorageError, read_patiently};
use super::{Position, Totals};
use crate::message::Sequence;

/// Bytes of a slot.
pub const SLOT_BYTES: usize = 108;

pub(super) const CURSOR_NAME: &str = "cursor";
pub(super) const SLOT_STRIDE: usize = 4096;
const MAGIC: u32 = u32::from_le_bytes(*b"MLCU");
const VERSION: u32 = 1;

/// The state that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Cursor {
    /// Nothing at or before this is needed any more: acknowledged, evicted, or damaged beyond reading.
    pub acked: Position,
    /// What was dropped because the spool was full.
    pub evicted: Totals,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    pub fn encode(&self, generation: u64) -> [u8; SLOT_BYTES] {
        let mut bytes = [0; SLOT_BYTES];
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&VERSION.to_le_bytes());
        let numbers = [
            generation,
            self.acked.sequence.0,
            self.acked.totals.records,
            self.acked.totals.readings,
            self.evicted.records,
            self.evicted.readings,
            self.damaged.records,
            self.damaged.readings,
            self.reserved_sequence,
            self.reserved_epoch,
            self.poisoned_epoch,
            self.set_aside_readings,
        ];
        for (slot, number) in bytes[8..].chunks_exact_mut(8).zip(numbers) {
            slot.copy_from_slice(&number.to_le_bytes());
        }
        let crc = crc32c::crc32c(&bytes[..SLOT_BYTES - 4]);
        bytes[SLOT_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a slot.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> SlotRead {
        let Some(bytes) = bytes.first_chunk::<SLOT_BYTES>() else {
            return SlotRead::Unused;
        };
        if bytes.iter().all(|byte| *byte == 0) {
            return SlotRead::Unused;
        }
        let known = u32_at(bytes, 0) == MAGIC && u32_at(bytes, 4) == VERSION;
        if !known || crc32c::crc32c(&bytes[..SLOT_BYTES - 4]) != u32_at(bytes, SLOT_BYTES - 4) {
            return SlotRead::Damaged;
        }
        let number = |index: usize| u64_at(bytes, 8 + 8 * index);
        let totals = |index: usize| Totals {
            records: number(index),
            readings: number(index + 1),
        };
        let cursor = Self {
            acked: Position {
                sequence: Sequence(number(1)),
                totals: totals(2),
            },
            evicted: totals(4),
            damaged: totals(6),
            reserved_sequence: number(8),
            reserved_epoch: number(9),
            poisoned_epoch: number(10),
            set_aside_readings: number(11),
        };
        SlotRead::Whole(number(0), cursor)
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
    names_synced: bool,
}

impl<F> CursorFile<F> {
    pub(crate) fn load<S: Storage<File = F>>(
        storage: &mut S,
    ) -> Result<(Self, CursorFound), StorageError> {
        let mut file = match storage.open(CURSOR_NAME) {
            Ok(file) => file,
            Err(StorageError::Missing) => {
                let mut fresh = Self::unwritten(None);
                fresh.replace(storage)?;
                return Ok((fresh, CursorFound::Fresh));
            }
            Err(error) => return Err(error),
        };
        let mut bytes = vec![0; 2 * SLOT_STRIDE];
        let read = read_patiently(storage, &mut file, 0, &mut bytes);
        bytes.truncate(*read.as_ref().unwrap_or(&0));
        let slots =
            [0, 1].map(|slot| Cursor::decode(bytes.get(slot * SLOT_STRIDE..).unwrap_or_default()));
        let mut cursor = Self::unwritten(Some(file));
        let found = if read.is_err() {
            CursorFound::Lost
        } else {
            cursor.choose(slots)
        };
        cursor.secure(storage);
        Ok((cursor, found))
    }

    /// The state as loaded may be in the page cache only, and the other slot the last one that was synced: before that
    /// one is overwritten, this one is written again as it is, and synced.
    fn secure<S: Storage<File = F>>(&mut self, storage: &mut S) {
        let Some(state) = self.written else { return };
        let Some(file) = self.file.as_mut() else {
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
                .is_some_and(|written| written.poisoned_epoch == self.state.poisoned_epoch)
    }

    fn unwritten(file: Option<F>) -> Self {
        Self {
            file,
            slot: 0,
            generation: 0,
            state: Cursor::default(),
            written: None,
            synced: None,
            names_synced: false,
        }
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
        self.state = state;
        self.written = Some(state);
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
        if self.written == Some(self.state) {
            return Ok(());
        }
        if self.file.is_none() {
            return self.replace(storage);
        }
        let Some(file) = self.file.as_mut() else {
            return Ok(());
        };
        let bytes = self.state.encode(self.generation + 1);
        self.written = None;
        storage.write_at(file, (self.slot * SLOT_STRIDE) as u64, &bytes)?;
        self.generation += 1;
        self.written = Some(self.state);
        Ok(())
    }

    /// Writes the state so that it survives a power cut.
    pub(crate) fn sync<S: Storage<File = F>>(
        &mut self,
        storage: &mut S,
    ) -> Result<(), StorageError> {
        if self.synced == Some(self.state) && self.names_synced {
            return Ok(());
        }
        if self.written == Some(self.state) && self.synced.is_none() {
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
        self.synced = Some(self.state);
        self.slot = 1 - self.slot;
        Ok(())
    }

    /// Puts a new file with the state in place of the old one.
    fn replace<S: Storage<File = F>>(&mut self, storage: &mut S) -> Result<(), StorageError> {
        const TEMPORARY_NAME: &str = "cursor.new";
        let mut file = storage.create(TEMPORARY_NAME)?;
        storage.write_at(&mut file, 0, &vec![0; 2 * SLOT_STRIDE])?;
        storage.write_at(&mut file, 0, &self.state.encode(self.generation + 1))?;
        storage.sync(&mut file)?;
        storage.rename(TEMPORARY_NAME, CURSOR_NAME)?;
        self.generation += 1;
        self.names_synced = false;
        self.file = Some(file);
        self.slot = 1;
        self.written = Some(self.state);
        self.synced = None;
        Ok(())
    }
}
