//! Looking at a spool from outside: read only, without its lock, also while its owner writes.
//!
//! A reader who is not the owner sees files change under it. It may read a frame that is being written, or a file that was
//! recycled in between; neither is damage. What tells them apart is a second look: bytes that rotted stay as they are,
//! while a write is over a moment later and a recycled file has lost its name. So [`load`] says when the name is gone, and
//! whoever judges compares two looks with [`Damage::persists`].
//!
//! What was settled before its commit is in no segment, so that a step in the counts between two good frames, or from the
//! last one to the end of a segment, is no damage. What damage costs is told by what still waits.

mod walk;

#[cfg(test)]
mod tests;

use super::cursor::{CURSOR_NAME, Cursor, SLOT_STRIDE, SlotRead};
use super::journal;
use super::range::Ranges;
use super::record::u64_at;
use super::segment::{HEADER_BYTES, Header, HeaderRead, number_in, segment_name};
use super::storage::{Storage, StorageError, read_patiently};
use super::{Position, Totals};
use crate::message::{Sequence, Uplink};

pub use walk::{Damage, Found, Walk, Wrong};

/// The largest segment there is, see `spool.segment_bytes`. What lies beyond is not read.
pub const SEGMENT_BYTES_MAX: usize = 128 * 1024 * 1024;

/// What the directory holds.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Contents {
    /// The newest whole state of the cursor that lies here, with its generation; none when there is no readable one. A
    /// journal may know better, see [`Contents::adopt`].
    pub cursor: Option<(u64, Cursor)>,
    /// Slots of the cursor that cannot be read. One is usual after a power cut.
    pub cursor_slots_damaged: usize,
    /// The segments, oldest first.
    pub segments: Vec<SegmentSeen>,
    /// Files that wait to become segments.
    pub spares: u64,
    /// Segments that held damage and were put aside.
    pub quarantined: Vec<String>,
    /// Bytes of all files.
    pub bytes: u64,
}

/// A segment as its first page shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentSeen {
    /// The number in its name.
    pub epoch: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Its first page.
    pub header: HeaderRead,
    /// Where the next segment begins; none for the newest, and before one whose header cannot be read.
    pub end: Option<Position>,
}

impl Contents {
    /// What still waits; everything where no cursor can be read.
    #[must_use]
    pub fn unsettled(&self) -> Ranges {
        let cursor = self.cursor.as_ref();
        cursor.map_or_else(Ranges::default, |(_, cursor)| cursor.unsettled.clone())
    }

    /// Whether a window with this cursor is this spool's. A directory on a tmpfs can outlive the spool it was for, and
    /// another spool's directory can have that one's number.
    #[must_use]
    pub fn owns(&self, window: &Cursor) -> bool {
        let ours = self
            .cursor
            .as_ref()
            .map_or(0, |(_, cursor)| cursor.identity);
        ours != 0 && ours == window.identity
    }

    /// Takes a state of the same spool that was found elsewhere, if it is newer.
    pub fn adopt(&mut self, generation: u64, cursor: Cursor) {
        let newer = self.cursor.as_ref().is_none_or(|(known, ours)| {
            // A spool that was just made has no identity yet.
            let same = ours.identity == cursor.identity || ours.identity == 0;
            *known <= generation && same
        });
        if newer {
            self.cursor = Some((generation, cursor));
        }
    }
}

/// Everything there can be: for figures that no newest record bounds.
const FAR: Position = Position {
    sequence: Sequence(u64::MAX),
    totals: Totals {
        records: u64::MAX,
        readings: u64::MAX,
    },
};

impl SegmentSeen {
    /// The file's name.
    #[must_use]
    pub fn name(&self) -> String {
        segment_name(self.epoch)
    }

    /// Whether all its records are settled, by what the headers and the cursor say.
    #[must_use]
    pub fn is_settled(&self, unsettled: &Ranges) -> bool {
        let HeaderRead::Whole(header) = self.header else {
            return false;
        };
        self.end
            .is_some_and(|end| !unsettled.meets(header.start.sequence, end.sequence))
    }
}

/// Looks over a directory.
///
/// # Errors
/// When it cannot be listed. Files that vanish meanwhile are left out.
pub fn survey<S: Storage>(storage: &mut S) -> Result<Contents, StorageError> {
    let mut listed = storage.list()?;
    listed.sort_by(|a, b| a.name.cmp(&b.name));
    let mut contents = Contents::default();
    for file in &listed {
        contents.bytes += file.bytes;
        if let Some(epoch) = number_in(&file.name, "segment") {
            let Some(header) = header(storage, epoch)? else {
                continue;
            };
            contents.segments.push(SegmentSeen {
                epoch,
                bytes: file.bytes,
                header,
                end: None,
            });
        } else if number_in(&file.name, "spare").is_some() {
            contents.spares += 1;
        } else if number_in(&file.name, "quarantine").is_some() {
            contents.quarantined.push(file.name.clone());
        }
    }
    // A segment that is being made ready has no header of its own yet, and says nothing about the one before.
    let mut next = None;
    for segment in contents.segments.iter_mut().rev() {
        segment.end = next;
        next = match segment.header {
            HeaderRead::Whole(header) => Some(header.start),
            HeaderRead::Unused => next,
            HeaderRead::Damaged => None,
        };
    }
    cursor(storage, &mut contents)?;
    carried(storage, &mut contents)?;
    Ok(contents)
}

fn header<S: Storage>(storage: &mut S, epoch: u64) -> Result<Option<HeaderRead>, StorageError> {
    let mut bytes = [0; HEADER_BYTES];
    let Some(read) = read_at_start(storage, &segment_name(epoch), &mut bytes)? else {
        return Ok(None);
    };
    let bytes = bytes.get(..read).unwrap_or_default();
    Ok(Some(Header::decode(bytes, epoch)))
}

/// None when there is no such file. Where the medium cannot be read there is nothing, which shows as damage.
fn read_at_start<S: Storage>(
    storage: &mut S,
    name: &str,
    bytes: &mut [u8],
) -> Result<Option<usize>, StorageError> {
    let mut file = match storage.open_read(name) {
        Ok(file) => file,
        Err(StorageError::Missing) => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(
        read_patiently(storage, &mut file, 0, bytes).unwrap_or(0),
    ))
}

fn cursor<S: Storage>(storage: &mut S, contents: &mut Contents) -> Result<(), StorageError> {
    let mut bytes = vec![0; 2 * SLOT_STRIDE];
    let Some(read) = read_at_start(storage, CURSOR_NAME, &mut bytes)? else {
        return Ok(());
    };
    bytes.truncate(read);
    for slot in [0, SLOT_STRIDE] {
        match Cursor::decode(bytes.get(slot..).unwrap_or_default()) {
            SlotRead::Whole(generation, state) => contents.adopt(generation, state),
            SlotRead::Damaged => contents.cursor_slots_damaged += 1,
            SlotRead::Unused => {}
        }
    }
    Ok(())
}

/// The states that travel in segments: the newest segment that carries any has the newest.
fn carried<S: Storage>(storage: &mut S, contents: &mut Contents) -> Result<(), StorageError> {
    for segment in contents.segments.clone().iter().rev() {
        let HeaderRead::Whole(header) = segment.header else {
            continue;
        };
        let Some(bytes) = load(storage, segment)? else {
            continue;
        };
        let newest = Walk::new(header, segment.end, &Ranges::default(), &bytes)
            .filter_map(|found| match found {
                Found::Cursor(generation, cursor) => Some((generation, cursor)),
                Found::Record { .. } | Found::Damage(_) | Found::Torn { .. } => None,
            })
            .last();
        if let Some((generation, cursor)) = newest {
            contents.adopt(generation, *cursor);
            return Ok(());
        }
    }
    Ok(())
}

/// What a journal holds: states and records that are in the owner's memory, and perhaps nowhere else.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct JournalSeen {
    /// Its newest state of the cursor, with its generation.
    pub cursor: Option<(u64, Cursor)>,
    /// Its records, in order, whether or not they wait.
    pub records: Vec<(Position, Uplink)>,
}

/// Looks into the journal in `storage`, which is another directory than the segments'.
///
/// # Errors
/// When it cannot be opened. One that is not there holds nothing.
pub fn journal<S: Storage>(storage: &mut S) -> Result<JournalSeen, StorageError> {
    let mut newest: Option<(Header, Vec<u8>)> = None;
    let listed = storage.list()?;
    for file in listed
        .iter()
        .filter(|file| journal::NAMES.contains(&file.name.as_str()))
    {
        let length = usize::try_from(file.bytes).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length.min(SEGMENT_BYTES_MAX)];
        let Some(read) = read_at_start(storage, &file.name, &mut bytes)? else {
            continue;
        };
        bytes.truncate(read);
        if let HeaderRead::Whole(header) = Header::decode(&bytes, u64_at(&bytes, 8))
            && newest
                .as_ref()
                .is_none_or(|(known, _)| known.epoch < header.epoch)
        {
            newest = Some((header, bytes));
        }
    }
    let mut seen = JournalSeen::default();
    let Some((header, bytes)) = newest else {
        return Ok(seen);
    };
    for found in Walk::new(header, None, &Ranges::default(), &bytes) {
        match found {
            Found::Record {
                position, uplink, ..
            } => seen.records.push((position, uplink)),
            Found::Cursor(generation, cursor) => seen.cursor = Some((generation, *cursor)),
            // Cut off where a write is going on: everything before it is whole.
            Found::Damage(_) | Found::Torn { .. } => break,
        }
    }
    Ok(seen)
}

/// A whole segment; none when it lost its name meanwhile: then it was recycled, with all it held.
///
/// # Errors
/// When it cannot be opened. Where the medium cannot be read the bytes are zero.
pub fn load<S: Storage>(
    storage: &mut S,
    segment: &SegmentSeen,
) -> Result<Option<Vec<u8>>, StorageError> {
    const PIECE: usize = 256 * 1024;
    let mut file = match storage.open_read(&segment.name()) {
        Ok(file) => file,
        Err(StorageError::Missing) => return Ok(None),
        Err(error) => return Err(error),
    };
    let length = usize::try_from(segment.bytes).unwrap_or(usize::MAX);
    let mut bytes = vec![0; length.min(SEGMENT_BYTES_MAX)];
    let mut offset = 0;
    for piece in bytes.chunks_mut(PIECE) {
        match read_patiently(storage, &mut file, offset, piece) {
            Ok(read) if read < piece.len() => break,
            Ok(_) | Err(_) => {}
        }
        offset += piece.len() as u64;
    }
    // The file may have become another segment while it was read.
    Ok(header(storage, segment.epoch)?.map(|_there| bytes))
}
