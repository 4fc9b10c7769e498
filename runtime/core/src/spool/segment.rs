//! A segment: its header, its name, and reading frames out of it.

use super::record::{self, FRAME_ALIGNMENT, FRAME_HEADER, FrameRead, u32_at, u64_at};
use super::storage::{Storage, StorageError, read_patiently};
use super::{Position, Totals};
use crate::message::Sequence;
use crate::time::TimestampMs;

/// Where frames start: the header has a page of its own, so that no append ever rewrites it.
pub const DATA_START: u64 = 4096;

/// Bytes of an encoded header.
pub const HEADER_BYTES: usize = 60;

/// Of them under the checksum.
const CHECKED: usize = HEADER_BYTES - 4;

const MAGIC: u32 = u32::from_le_bytes(*b"MLSG");
const VERSION: u32 = 2;

/// Bytes read from a segment at once.
const CHUNK: usize = 64 * 1024;

/// A search for the next good frame gives up after verifying and reading this many segments' worth of bytes, so that
/// crafted contents cannot make it quadratic.
const RESYNC_BUDGET_SEGMENTS: u64 = 4;

/// What the first page of a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The life of the file this header begins. Equal to the number in its name; never used twice.
    pub epoch: u64,
    /// Bytes of the whole file.
    pub capacity: u64,
    /// Through the last record before this segment.
    pub start: Position,
    /// When it was begun, by the wall clock.
    pub begun: TimestampMs,
}

/// How a header reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderRead {
    /// A header of the expected epoch.
    Whole(Header),
    /// Zero fill, or the header of an earlier life: power went before the first commit, so nothing promised is in it.
    Unused,
    /// Not a header, or of a version this program does not know.
    Damaged,
}

impl Header {
    /// The bytes on disk.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&VERSION.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.capacity.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.start.sequence.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.start.totals.records.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.start.totals.readings.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.begun.0.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..CHECKED]);
        bytes[CHECKED..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header of the segment whose name says `epoch`.
    #[must_use]
    pub fn decode(bytes: &[u8], epoch: u64) -> HeaderRead {
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else {
            return HeaderRead::Damaged;
        };
        if bytes.iter().all(|byte| *byte == 0) {
            return HeaderRead::Unused;
        }
        let known = u32_at(bytes, 0) == MAGIC && u32_at(bytes, 4) == VERSION;
        if !known || crc32c::crc32c(&bytes[..CHECKED]) != u32_at(bytes, CHECKED) {
            return HeaderRead::Damaged;
        }
        if u64_at(bytes, 8) != epoch {
            return HeaderRead::Unused;
        }
        HeaderRead::Whole(Self {
            epoch,
            capacity: u64_at(bytes, 16),
            start: Position {
                sequence: Sequence(u64_at(bytes, 24)),
                totals: Totals {
                    records: u64_at(bytes, 32),
                    readings: u64_at(bytes, 40),
                },
            },
            begun: TimestampMs(u64_at(bytes, 48)),
        })
    }

    /// The absolute position of a frame of this segment.
    pub(crate) fn position(&self, frame: &record::Frame<'_>) -> Position {
        Position {
            sequence: frame.sequence,
            totals: Totals {
                records: self
                    .start
                    .totals
                    .records
                    .saturating_add(frame.counted.records.into()),
                readings: self
                    .start
                    .totals
                    .readings
                    .saturating_add(frame.counted.readings.into()),
            },
        }
    }

    /// What a frame at `totals` counts relative to this segment.
    pub(crate) fn counted(&self, totals: Totals) -> record::Counted {
        let inside = totals.since(self.start.totals);
        record::Counted {
            records: u32::try_from(inside.records).unwrap_or(u32::MAX),
            readings: u32::try_from(inside.readings).unwrap_or(u32::MAX),
        }
    }
}

/// A segment the spool holds.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) header: Header,
    /// Through the last record in it (of a sealed one: the start of the next).
    pub(crate) end: Position,
    /// Where reading stops.
    pub(crate) end_offset: u64,
    pub(crate) condition: Condition,
}

/// What becomes of a segment when it is no longer needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// It becomes the next one.
    Good,
    /// It held damage: it is put aside for a look.
    Damaged,
    /// A sync on it failed: it is removed, so that nobody ever syncs it again.
    Poisoned,
}

impl Segment {
    pub(crate) fn name(&self) -> String {
        segment_name(self.header.epoch)
    }
}

pub(crate) fn segment_name(epoch: u64) -> String {
    format!("{epoch:016x}.segment")
}

/// The number in `0123456789abcdef.<extension>`.
pub(crate) fn number_in(name: &str, extension: &str) -> Option<u64> {
    let digits = name.strip_suffix(extension)?.strip_suffix('.')?;
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok())?
}

/// Reads the frames of one segment in order.
#[derive(Debug)]
pub(crate) struct Frames<F> {
    file: F,
    seed: u32,
    pub(crate) offset: u64,
    /// Reading stops here; grows while the segment is written.
    pub(crate) limit: u64,
    buffer: Vec<u8>,
    buffer_at: u64,
    /// Bytes read from the storage, and bytes verified in searches.
    pub(crate) work: u64,
    /// The last search passed over what may be a part of a frame.
    pub(crate) remains: bool,
}

impl<F> Frames<F> {
    pub(crate) fn new(file: F, epoch: u64, offset: u64, limit: u64) -> Self {
        Self {
            file,
            seed: record::seed(epoch),
            offset,
            limit,
            buffer: Vec::new(),
            buffer_at: 0,
            work: 0,
            remains: false,
        }
    }

    /// What lies at `offset`. The frame is passed over by [`Frames::advance`].
    pub(crate) fn peek<S: Storage<File = F>>(
        &mut self,
        storage: &mut S,
    ) -> Result<FrameRead<'_>, StorageError> {
        let header = self.bytes(storage, FRAME_HEADER)?;
        let whole = record::wanted(header).unwrap_or(FRAME_HEADER);
        let seed = self.seed;
        Ok(record::decode(seed, self.bytes(storage, whole)?))
    }

    /// Passes over a frame of `span` bytes.
    pub(crate) fn advance(&mut self, span: usize) {
        self.offset += span as u64;
    }

    /// Moves to the next good frame after damage at `offset` whose sequence is in `(after, through]`. `false`, and the
    /// offset unchanged, when there is none.
    pub(crate) fn resync<S: Storage<File = F>>(
        &mut self,
        storage: &mut S,
        after: Sequence,
        through: Sequence,
    ) -> Result<bool, StorageError> {
        let damage_at = self.offset;
        self.remains = false;
        let work_max = self
            .work
            .saturating_add(self.limit.saturating_mul(RESYNC_BUDGET_SEGMENTS));
        while self.offset + ((FRAME_ALIGNMENT + FRAME_HEADER) as u64) <= self.limit
            && self.work < work_max
        {
            self.advance(FRAME_ALIGNMENT);
            let header = self.bytes(storage, FRAME_HEADER)?;
            let plausible =
                record::claimed_sequence(header).is_some_and(|s| s > after && s <= through);
            let wanted =
                record::wanted(header).filter(|wanted| self.offset + *wanted as u64 <= self.limit);
            if plausible && let Some(wanted) = wanted {
                self.work += wanted as u64;
                let seed = self.seed;
                if let FrameRead::Frame(_) = record::decode(seed, self.bytes(storage, wanted)?) {
                    return Ok(true);
                }
            }
            self.remains |= plausible;
        }
        self.remains |= self.work >= work_max;
        self.offset = damage_at;
        Ok(false)
    }

    /// The bytes from `offset` on: at least `wanted`, fewer only where the segment ends.
    fn bytes<S: Storage<File = F>>(
        &mut self,
        storage: &mut S,
        wanted: usize,
    ) -> Result<&[u8], StorageError> {
        let left = usize::try_from(self.limit.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        let wanted = wanted.min(left);
        let skip = self
            .offset
            .checked_sub(self.buffer_at)
            .and_then(|skip| usize::try_from(skip).ok());
        let held = skip
            .and_then(|skip| self.buffer.len().checked_sub(skip))
            .unwrap_or(0);
        if held >= wanted {
            let skip = skip.unwrap_or(0).min(self.buffer.len());
            return Ok(self.buffer.get(skip..).unwrap_or_default());
        }
        self.buffer_at = self.offset;
        self.buffer.resize(wanted.max(CHUNK).min(left), 0);
        let mut read = storage.read_at(&mut self.file, self.offset, &mut self.buffer);
        if read.is_err() {
            // What cannot be read may lie further on.
            self.buffer.truncate(wanted);
            read = read_patiently(storage, &mut self.file, self.offset, &mut self.buffer);
        }
        self.buffer.truncate(*read.as_ref().unwrap_or(&0));
        self.work += read? as u64;
        Ok(&self.buffer)
    }
}
