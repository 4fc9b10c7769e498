//! One frame: how a record lies in a segment. Drawn in the header of [`spool`](super).

use crate::message::Sequence;

/// Bytes before the payload.
pub const FRAME_HEADER: usize = 24;

/// Frames start at multiples of this, so that the search for the next good one takes an eighth of the steps.
pub const FRAME_ALIGNMENT: usize = 8;

/// The largest payload. A longer length is damage, which bounds what a reader allocates.
pub const RECORD_BYTES_MAX: usize = 1 << 20;

/// The kind of a frame whose payload is an `Uplink` in postcard 1.
pub const KIND_UPLINK: u8 = 1;

/// The kind of a frame whose payload is a cursor, as in its slot. It has the sequence of the record before it.
pub const KIND_CURSOR: u8 = 2;

/// A zero word after the newest frame: what follows is old.
pub(crate) const TERMINATOR: [u8; FRAME_ALIGNMENT] = [0; FRAME_ALIGNMENT];

/// What a segment holds up to and including a frame. Being cumulative, it tells how much is missing when frames before
/// it cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Counted {
    /// Records.
    pub records: u32,
    /// Readings.
    pub readings: u32,
}

/// A frame whose checksum is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What the payload is, see [`KIND_UPLINK`].
    pub kind: u8,
    /// Its place in the spool.
    pub sequence: Sequence,
    /// Records and readings of this segment through this frame.
    pub counted: Counted,
    /// The encoded record.
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// Bytes from the start of this frame to the start of the next.
    #[must_use]
    pub fn span(&self) -> usize {
        span(self.payload.len())
    }
}

/// What lies at a place in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameRead<'a> {
    /// A good frame.
    Frame(Frame<'a>),
    /// A frame that would run past the end: cut off while it was written, or the length is damaged.
    Torn,
    /// All bytes are there and the checksum is wrong: damage, or the remains of an earlier epoch.
    Corrupt {
        /// What the frame says.
        stored: u32,
        /// What its bytes say.
        computed: u32,
    },
    /// The terminator, zero fill, or no room for another frame.
    End,
}

/// The checksum a segment's frames start from: bytes left by another epoch never pass.
#[must_use]
pub fn seed(epoch: u64) -> u32 {
    crc32c::crc32c(&epoch.to_le_bytes())
}

/// Bytes a frame with a payload of `length` takes.
#[must_use]
pub fn span(length: usize) -> usize {
    (FRAME_HEADER + length).next_multiple_of(FRAME_ALIGNMENT)
}

/// Reads the frame at the start of `bytes`, which reach to the end of the segment or at least past this frame.
#[must_use]
pub fn decode(seed: u32, bytes: &[u8]) -> FrameRead<'_> {
    let Some((header, rest)) = bytes.split_first_chunk::<FRAME_HEADER>() else {
        return FrameRead::End;
    };
    let word = u32_at(header, 0);
    if word == 0 {
        return FrameRead::End;
    }
    let length = length_of(word);
    if length > RECORD_BYTES_MAX {
        return FrameRead::Torn;
    }
    let Some(payload) = rest.get(..length) else {
        return FrameRead::Torn;
    };
    let stored = u32_at(header, 4);
    let computed = checksum(seed, header, payload);
    if stored != computed {
        return FrameRead::Corrupt { stored, computed };
    }
    FrameRead::Frame(Frame {
        kind: word.to_le_bytes()[3],
        sequence: Sequence(u64_at(header, 8)),
        counted: Counted {
            records: u32_at(header, 16),
            readings: u32_at(header, 20),
        },
        payload,
    })
}

/// How many bytes [`decode`] wants to see of a frame that starts with `header`; `None` for no plausible frame.
pub(crate) fn wanted(header: &[u8]) -> Option<usize> {
    let header = header.first_chunk::<FRAME_HEADER>()?;
    let word = u32_at(header, 0);
    let length = length_of(word);
    (word != 0 && length <= RECORD_BYTES_MAX).then(|| FRAME_HEADER + length)
}

/// The sequence a frame header claims, before anything is verified.
pub(crate) fn claimed_sequence(header: &[u8]) -> Option<Sequence> {
    header
        .first_chunk::<FRAME_HEADER>()
        .map(|header| Sequence(u64_at(header, 8)))
}

/// Starts a frame at the end of `buffer`; the payload is appended next, then [`finish`] completes it.
pub(crate) fn begin(buffer: &mut Vec<u8>) -> usize {
    let start = buffer.len();
    buffer.resize(start + FRAME_HEADER, 0);
    start
}

/// Writes the header of the frame begun at `start`, which reaches to the end of `buffer`, and pads it.
pub(crate) fn finish(
    buffer: &mut Vec<u8>,
    start: usize,
    seed: u32,
    kind: u8,
    sequence: Sequence,
    counted: Counted,
) {
    let length = buffer.len() - start - FRAME_HEADER;
    debug_assert!(
        length <= RECORD_BYTES_MAX,
        "the caller refuses larger records"
    );
    let word = u32::from(kind) << 24 | u32::try_from(length).unwrap_or(0);
    let mut header = [0; FRAME_HEADER];
    header[..4].copy_from_slice(&word.to_le_bytes());
    header[8..16].copy_from_slice(&sequence.0.to_le_bytes());
    header[16..20].copy_from_slice(&counted.records.to_le_bytes());
    header[20..].copy_from_slice(&counted.readings.to_le_bytes());
    let computed = checksum(seed, &header, &buffer[start + FRAME_HEADER..]);
    header[4..8].copy_from_slice(&computed.to_le_bytes());
    buffer[start..start + FRAME_HEADER].copy_from_slice(&header);
    buffer.resize(start + span(length), 0);
}

/// Appends a whole frame to `buffer`.
pub(crate) fn put(
    buffer: &mut Vec<u8>,
    seed: u32,
    kind: u8,
    sequence: Sequence,
    counted: Counted,
    payload: &[u8],
) {
    let start = begin(buffer);
    buffer.extend_from_slice(payload);
    finish(buffer, start, seed, kind, sequence, counted);
}

fn length_of(word: u32) -> usize {
    (word & 0x00ff_ffff) as usize
}

fn checksum(seed: u32, header: &[u8; FRAME_HEADER], payload: &[u8]) -> u32 {
    let length = crc32c::crc32c_append(seed, &header[..4]);
    let rest = crc32c::crc32c_append(length, &header[8..]);
    crc32c::crc32c_append(rest, payload)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |b| u32::from_le_bytes(*b))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |b| u64::from_le_bytes(*b))
}
