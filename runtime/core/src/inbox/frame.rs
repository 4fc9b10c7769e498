//! The log of the inbox, byte for byte.
//!
//! ```text
//!  file    MAGIC  frame  frame …
//!  frame   length u32 LE · CRC-32C of the record u32 LE · record (postcard)
//! ```
//!
//! It is only appended to, or replaced as a whole. Reading ends at the first frame that is not whole: what follows was being
//! written when the machine stopped, and was not acknowledged.

use super::Record;
use crate::message::Downlink;

/// The first bytes of the file, with the version of its format.
pub const MAGIC: &[u8; 8] = b"MLINBOX1";
/// Longer than any record: the client takes no packet of this size from a broker.
const RECORD_BYTES_MAX: usize = 4 * 1024 * 1024;
const HEADER_BYTES: usize = 8;

/// The frame of a record.
#[must_use]
pub fn encode(record: &Record) -> Vec<u8> {
    // Into memory, of types that postcard can write: it cannot fail.
    let body = postcard::to_allocvec(record).unwrap_or_default();
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut frame = Vec::with_capacity(HEADER_BYTES + body.len());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    frame.extend_from_slice(&body);
    frame
}

/// Bytes that a message takes, nearly: what is around it in its record is small.
#[must_use]
pub fn length(downlink: &Downlink) -> usize {
    postcard::to_allocvec(downlink).map_or(0, |body| HEADER_BYTES + body.len())
}

/// A file read back.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// What it says, in order.
    pub records: Vec<Record>,
    /// How many bytes of the file are good, from its start.
    pub good_bytes: usize,
    /// Whether there is more that is not.
    pub torn: bool,
}

/// Reads a file; none when it is no log of this format.
#[must_use]
pub fn decode(file: &[u8]) -> Option<Log> {
    let mut rest = file.strip_prefix(MAGIC)?;
    let mut records = Vec::new();
    while let Some((record, after)) = next(rest) {
        records.push(record);
        rest = after;
    }
    Some(Log {
        records,
        good_bytes: file.len() - rest.len(),
        torn: !rest.is_empty(),
    })
}

fn next(bytes: &[u8]) -> Option<(Record, &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (sum, rest) = rest.split_first_chunk()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    if length > RECORD_BYTES_MAX {
        return None;
    }
    let (body, after) = rest.split_at_checked(length)?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*sum) {
        return None;
    }
    Some((postcard::from_bytes(body).ok()?, after))
}
