//! Looking at a spool from outside: read only, without its lock, also while its owner writes.
//!
//! A reader who is not the owner sees files change under it. It may read a frame that is being written, or a file that was
//! recycled in between; neither is damage. What tells them apart is a second look: bytes that rotted stay as they are,
//! while a write is over a moment later and a recycled file has lost its name. So [`load`] says when the name is gone, and
//! whoever judges compares two looks with [`Damage::persists`].
//!
//! What was settled before its commit is in no segment, so that a step in the counts between two good frames, or from the
//! last one to the end of a segment, is no damage. What damage costs is told by what still waits.

use super::cursor::{CURSOR_NAME, Cursor, SLOT_STRIDE, SlotRead};
use super::journal;
use super::range::Ranges;
use super::record::{
    self, FRAME_ALIGNMENT, FRAME_HEADER, FrameRead, KIND_CURSOR, KIND_UPLINK, u64_at,
};
use super::segment::{DATA_START, HEADER_BYTES, Header, HeaderRead, number_in, segment_name};
use super::storage::{Storage, StorageError, read_patiently};
use super::{Position, Totals};
use crate::message::{Sequence, Uplink};

/// The largest segment there is, see `spool.segment_bytes`. What lies beyond is not read.
pub const SEGMENT_BYTES_MAX: usize = 128 * 1024 * 1024;

/// A search for the next good frame gives up after so many times the segment's bytes, as the spool's own reader does.
const SEARCH_BUDGET_SEGMENTS: usize = 4;

/// No start skips more sequences. A search believes in nothing farther, or every payload would look like a frame's header.
const JUMP_MAX: u64 = 1 << 33;

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

/// What a look at a segment finds, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// A record that can be delivered.
    Record {
        /// Where its frame begins.
        offset: u64,
        /// Bytes of the frame.
        bytes: u64,
        /// Its place in the spool.
        position: Position,
        /// What was appended.
        uplink: Uplink,
    },
    /// A state of the cursor that went with a commit, and its generation.
    Cursor(u64, Box<Cursor>),
    /// Something that cannot.
    Damage(Damage),
    /// The newest segment ends in something unfinished: a frame that is being written, or was when power went.
    Torn {
        /// Where it begins.
        offset: u64,
    },
}

/// A place that should hold records and does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where in the file.
    pub offset: u64,
    /// Bytes until the next good frame, or to the end of the segment.
    pub bytes: u64,
    /// What is wrong at its beginning.
    pub wrong: Wrong,
    /// Through the last record before it.
    pub after: Position,
    /// How much of what still waits is lost, by the counts of what follows; less where some of it was settled before its
    /// commit, and nobody knows.
    pub lost: Totals,
}

impl Damage {
    /// Whether an earlier look at the same segment saw this, too.
    #[must_use]
    pub fn persists(&self, earlier: &[Self]) -> bool {
        earlier
            .iter()
            .any(|seen| (seen.offset, seen.wrong) == (self.offset, self.wrong))
    }
}

/// What is wrong with a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// The segment's header: nothing in it can be read.
    Header,
    /// A frame's checksum.
    Checksum {
        /// What the frame says.
        stored: u32,
        /// What its bytes say.
        computed: u32,
    },
    /// A frame claims to run past the end of the segment.
    Length,
    /// Nothing is there.
    Nothing,
    /// A good frame with a sequence that does not belong here.
    Order,
    /// A good frame whose contents no version of this program wrote.
    Contents,
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Header => f.write_str("the segment's header cannot be read"),
            Self::Checksum { stored, computed } => write!(
                f,
                "the checksum is {stored:08x}, and of what is there {computed:08x}"
            ),
            Self::Length => f.write_str("a record claims to run past the end"),
            Self::Nothing => f.write_str("records are missing"),
            Self::Order => f.write_str("a record out of its order"),
            Self::Contents => f.write_str("a record that cannot be understood"),
        }
    }
}

/// Goes through the bytes of one segment.
#[derive(Debug)]
pub struct Walk<'a> {
    header: Header,
    /// Where the segment ends, if the next one tells.
    end: Option<Position>,
    unsettled: &'a Ranges,
    seed: u32,
    bytes: &'a [u8],
    offset: usize,
    after: Position,
    /// Bytes verified in searches.
    work: usize,
    done: bool,
}

impl<'a> Walk<'a> {
    /// `bytes` are the whole file of the segment with `header`; `end` is where the next segment begins, `unsettled` what
    /// still waits.
    #[must_use]
    pub fn new(
        header: Header,
        end: Option<Position>,
        unsettled: &'a Ranges,
        bytes: &'a [u8],
    ) -> Self {
        let capacity = usize::try_from(header.capacity).unwrap_or(usize::MAX);
        Self {
            header,
            end,
            unsettled,
            seed: record::seed(header.epoch),
            bytes: bytes.get(..capacity).unwrap_or(bytes),
            offset: DATA_START as usize,
            after: header.start,
            work: 0,
            done: false,
        }
    }

    fn through(&self) -> Sequence {
        self.end.map_or(Sequence(u64::MAX), |end| end.sequence)
    }

    fn fits(&self, sequence: Sequence) -> bool {
        sequence > self.after.sequence && sequence <= self.through()
    }

    fn decode(&self, offset: usize) -> FrameRead<'a> {
        record::decode(self.seed, self.bytes.get(offset..).unwrap_or_default())
    }

    /// The offset of the next good frame after the damage at `offset`.
    fn search(&mut self) -> Option<usize> {
        let work_max = self.bytes.len().saturating_mul(SEARCH_BUDGET_SEGMENTS);
        let far = Sequence(self.after.sequence.0.saturating_add(JUMP_MAX));
        let mut offset = self.offset + FRAME_ALIGNMENT;
        while offset + FRAME_HEADER <= self.bytes.len() && self.work < work_max {
            let here = self.bytes.get(offset..).unwrap_or_default();
            let plausible = record::claimed_sequence(here)
                .is_some_and(|claimed| self.fits(claimed) && claimed <= far);
            if plausible && let Some(wanted) = record::wanted(here) {
                self.work += wanted.min(here.len());
                if let FrameRead::Frame(_) = self.decode(offset) {
                    return Some(offset);
                }
            }
            offset += FRAME_ALIGNMENT;
        }
        None
    }

    fn damage(&mut self, wrong: Wrong) -> Option<Found> {
        let offset = self.offset as u64;
        if let Some(next) = self.search() {
            let FrameRead::Frame(frame) = self.decode(next) else {
                return None;
            };
            let position = self.header.position(&frame);
            let here = Totals {
                records: 1,
                readings: uplink(&frame).map_or(0, |uplink| uplink.readings()),
            };
            let before = Position {
                sequence: Sequence(position.sequence.0.saturating_sub(1)),
                totals: position.totals.since(here),
            };
            let lost = self.unsettled.overlap(self.after, before, FAR);
            self.offset = next;
            return Some(Found::Damage(Damage {
                offset,
                bytes: next as u64 - offset,
                wrong,
                after: self.after,
                lost,
            }));
        }
        self.done = true;
        if wrong == Wrong::Nothing {
            return None;
        }
        let Some(end) = self.end else {
            return Some(Found::Torn { offset });
        };
        let lost = self.unsettled.overlap(self.after, end, FAR);
        (lost.records > 0).then_some(Found::Damage(Damage {
            offset,
            bytes: (self.bytes.len() as u64).saturating_sub(offset),
            wrong,
            after: self.after,
            lost,
        }))
    }

    fn record(&mut self, frame: &record::Frame<'_>) -> Found {
        let offset = self.offset as u64;
        let before = self.after;
        let position = self.header.position(frame);
        self.after = position;
        self.offset += frame.span();
        match uplink(frame) {
            Some(uplink) => Found::Record {
                offset,
                bytes: frame.span() as u64,
                position,
                uplink,
            },
            None => Found::Damage(Damage {
                offset,
                bytes: frame.span() as u64,
                wrong: Wrong::Contents,
                after: before,
                lost: self.unsettled.overlap(before, position, FAR),
            }),
        }
    }

    /// A state that went with a commit.
    fn cursor(&mut self, frame: &record::Frame<'_>) -> Found {
        let offset = self.offset as u64;
        self.offset += frame.span();
        match Cursor::decode(frame.payload) {
            SlotRead::Whole(generation, cursor) => Found::Cursor(generation, Box::new(cursor)),
            SlotRead::Unused | SlotRead::Damaged => Found::Damage(Damage {
                offset,
                bytes: frame.span() as u64,
                wrong: Wrong::Contents,
                after: self.after,
                lost: Totals::default(),
            }),
        }
    }
}

fn uplink(frame: &record::Frame<'_>) -> Option<Uplink> {
    (frame.kind == KIND_UPLINK)
        .then(|| postcard::from_bytes(frame.payload).ok())
        .flatten()
}

impl Iterator for Walk<'_> {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        if self.done {
            return None;
        }
        match self.decode(self.offset) {
            FrameRead::Frame(frame) if frame.kind == KIND_CURSOR => Some(self.cursor(&frame)),
            FrameRead::Frame(frame) if self.fits(frame.sequence) => Some(self.record(&frame)),
            FrameRead::Frame(_) => self.damage(Wrong::Order),
            FrameRead::Torn => self.damage(Wrong::Length),
            FrameRead::Corrupt { stored, computed } => {
                self.damage(Wrong::Checksum { stored, computed })
            }
            FrameRead::End => self.damage(Wrong::Nothing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sim_storage::SimStorage;
    use super::super::{Lane, Limits};
    use super::*;
    use crate::message::{DeviceName, DeviceReadings, Key, Quality, Reading, Value};
    use crate::time::TimestampMs;

    const SEGMENT: u64 = 16 * 1024;
    const RECORDS: i64 = 1_200;

    fn uplink(number: i64) -> Uplink {
        Uplink::Telemetry(vec![DeviceReadings {
            device: DeviceName::try_new("press-1").unwrap(),
            readings: vec![
                Reading {
                    key: Key::try_new("seq").unwrap(),
                    value: Value::Integer(number),
                    quality: Quality::Good,
                    timestamp: TimestampMs(1_700_000_000_000),
                };
                2
            ],
        }])
    }

    type Spool = super::super::Spool<SimStorage>;

    /// A directory on a tmpfs can outlive the spool it was for.
    #[test]
    fn the_window_of_another_spool_is_not_looked_at() {
        let of = |identity| Cursor {
            identity,
            ..Cursor::default()
        };
        let contents = |identity| Contents {
            cursor: Some((1, of(identity))),
            ..Contents::default()
        };
        assert!(contents(7).owns(&of(7)));
        assert!(!contents(7).owns(&of(8)));
        assert!(!contents(0).owns(&of(7)) && !contents(0).owns(&of(0)));
        assert!(!Contents::default().owns(&of(7)));
    }

    fn filled() -> (SimStorage, Spool) {
        let storage = SimStorage::new(1, 1 << 30);
        let limits = Limits::new(SEGMENT, 64 * SEGMENT, 4 * 1024).unwrap();
        let (mut spool, _) = Spool::open(storage.clone(), limits).unwrap();
        append(&mut spool, 0..RECORDS);
        spool.commit().unwrap();
        (storage, spool)
    }

    fn append(spool: &mut Spool, numbers: std::ops::Range<i64>) {
        let mut outcomes = Vec::new();
        spool.append(numbers.map(uplink), &mut outcomes);
        assert!(outcomes.iter().all(Result::is_ok));
    }

    #[derive(Debug, Default)]
    struct Look {
        records: Vec<Uplink>,
        damages: Vec<(u64, Damage)>,
        torn: usize,
        cursors: usize,
        recycled: usize,
    }

    fn look(storage: &mut SimStorage, contents: &Contents) -> Look {
        let mut look = Look::default();
        for segment in &contents.segments {
            let HeaderRead::Whole(header) = segment.header else {
                continue;
            };
            let Some(bytes) = load(storage, segment).unwrap() else {
                look.recycled += 1;
                continue;
            };
            let unsettled = contents.unsettled();
            for found in Walk::new(header, segment.end, &unsettled, &bytes) {
                match found {
                    Found::Cursor(..) => look.cursors += 1,
                    Found::Record { uplink, .. } => look.records.push(uplink),
                    Found::Damage(damage) => look.damages.push((segment.epoch, damage)),
                    Found::Torn { .. } => look.torn += 1,
                }
            }
        }
        look
    }

    #[test]
    fn everything_appended_is_seen_while_the_owner_works() {
        let (mut storage, mut spool) = filled();
        let contents = survey(&mut storage).unwrap();
        assert!(contents.segments.len() > 3);
        let seen = look(&mut storage, &contents);
        assert_eq!(seen.records, (0..RECORDS).map(uplink).collect::<Vec<_>>());
        assert!(seen.damages.is_empty() && seen.torn == 0, "{seen:?}");
        let mut handed = Vec::new();
        spool
            .read(Lane::Live, Sequence(0), usize::MAX, usize::MAX, &mut handed)
            .unwrap();
        assert_eq!(handed.len(), RECORDS as usize);
        spool.ack(spool.status().last);
        spool.checkpoint(true).unwrap();
        let unsettled = survey(&mut storage).unwrap().unsettled();
        assert_eq!(unsettled.acked().totals.readings, 2 * RECORDS as u64);
        append(&mut spool, 0..RECORDS);
        spool.commit().unwrap();
        // The first look is stale now: what it saw was recycled, and says nothing.
        let stale = look(&mut storage, &contents);
        assert!(
            stale.recycled > 0 && stale.damages.is_empty(),
            "{:?}",
            stale.damages
        );
    }

    /// Every flipped bit is found, placed, and the loss counted exactly; the newest segment's end is torn instead.
    #[test]
    fn a_flipped_bit_is_found_where_it_is_and_what_it_costs_is_known() {
        let (mut storage, spool) = filled();
        spool.close().unwrap();
        let contents = survey(&mut storage).unwrap();
        let last = contents.segments.len() - 1;
        let mut found = 0;
        for round in 0_u64..400 {
            let dice = round.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
            let index = (dice as usize) % contents.segments.len();
            let segment = contents.segments[index];
            let offset = DATA_START + dice % (SEGMENT - DATA_START);
            let mut file = storage.open(&segment.name()).unwrap();
            let mut byte = [0];
            storage.read_at(&mut file, offset, &mut byte).unwrap();
            let flipped = [byte[0] ^ (1 << (round % 8))];
            storage.write_at(&mut file, offset, &flipped).unwrap();
            let seen = look(&mut storage, &contents);
            storage.write_at(&mut file, offset, &byte).unwrap();
            let lost: u64 = seen.damages.iter().map(|(_, d)| d.lost.records).sum();
            let readings: u64 = seen.damages.iter().map(|(_, d)| d.lost.readings).sum();
            assert_eq!(readings, 2 * lost, "{seen:?}");
            if seen.torn == 0 {
                assert_eq!(seen.records.len() as u64 + lost, RECORDS as u64, "{round}");
            } else {
                assert_eq!(index, last, "only the newest can be torn");
            }
            for (epoch, damage) in &seen.damages {
                found += 1;
                assert_eq!(*epoch, segment.epoch);
                let place = damage.offset..damage.offset + damage.bytes;
                assert!(place.contains(&offset), "{damage:?} {offset}");
                assert!(damage.persists(&[*damage]) && !damage.persists(&[]));
                assert!(!damage.wrong.to_string().is_empty());
            }
        }
        assert!(found > 200, "{found}");
    }

    /// What was settled before its commit is in no segment, and missed by nobody; what is in memory only is in the journal.
    #[test]
    fn what_was_never_written_is_no_damage_and_the_journal_shows_what_is_in_memory() {
        let (mut storage, mut memory) = (SimStorage::new(1, 1 << 30), SimStorage::new(2, 1 << 30));
        let limits = Limits::new(SEGMENT, 64 * SEGMENT, 4 * 1024).unwrap();
        let (mut spool, _) =
            Spool::open_with(storage.clone(), Some(memory.clone()), limits, 7).unwrap();
        let mut written = 0;
        for round in 0..60 {
            append(&mut spool, round * 20..(round + 1) * 20);
            if round % 3 == 0 {
                let mut handed = Vec::new();
                spool
                    .read(Lane::Live, Sequence(0), usize::MAX, usize::MAX, &mut handed)
                    .unwrap();
                spool.ack(spool.status().last);
                spool.checkpoint(false).unwrap();
            } else {
                spool.commit().unwrap();
                written += 20;
            }
            let mut contents = survey(&mut storage).unwrap();
            let in_memory = journal(&mut memory).unwrap();
            if let Some((generation, cursor)) = in_memory.cursor {
                contents.adopt(generation, cursor);
            }
            let seen = look(&mut storage, &contents);
            assert!(seen.damages.is_empty() && seen.torn == 0, "{seen:?}");
            let waiting = spool.status().depth_records;
            let unsettled = contents.unsettled();
            let waits = |position: &Position| unsettled.index_of(position.sequence).is_some();
            let on_disk = waiting_on_disk(&mut storage, &contents);
            let newest = on_disk.last().copied().unwrap_or_default();
            let only_there = in_memory.records.iter().map(|(position, _)| position);
            let more = only_there
                .filter(|position| waits(position) && position.sequence > newest.sequence)
                .count();
            assert_eq!(on_disk.len() + more, waiting as usize, "round {round}");
        }
        let contents = survey(&mut storage).unwrap();
        let seen = look(&mut storage, &contents);
        assert!(seen.records.len() <= written, "{}", seen.records.len());
    }

    fn waiting_on_disk(storage: &mut SimStorage, contents: &Contents) -> Vec<Position> {
        let unsettled = contents.unsettled();
        let mut waiting = Vec::new();
        for segment in &contents.segments {
            let (HeaderRead::Whole(header), Some(bytes)) =
                (segment.header, load(storage, segment).unwrap())
            else {
                continue;
            };
            let walk = Walk::new(header, segment.end, &unsettled, &bytes);
            waiting.extend(walk.filter_map(|found| match found {
                Found::Record { position, .. } => Some(position),
                Found::Cursor(..) | Found::Damage(_) | Found::Torn { .. } => None,
            }));
        }
        waiting.retain(|position| unsettled.index_of(position.sequence).is_some());
        waiting
    }

    #[test]
    fn no_payload_leads_the_search_astray() {
        const LARGE: u64 = 256 * 1024;
        let mut storage = SimStorage::new(1, 1 << 30);
        let limits = Limits::new(LARGE, 8 * LARGE, 4 * 1024).unwrap();
        let (mut spool, _) = Spool::open(storage.clone(), limits).unwrap();
        let words = |seed: u64| -> String {
            let noise = (0..400_u64).map(|n| (seed + n).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            noise.map(|word| format!("{word:x}")).collect()
        };
        let mut outcomes = Vec::new();
        let letters = (0..30).map(|seed| Uplink::Letter {
            topic: "t".to_owned(),
            payload: words(seed),
            readings: 1,
        });
        spool.append(letters, &mut outcomes);
        spool.commit().unwrap();
        let contents = survey(&mut storage).unwrap();
        let unsettled = contents.unsettled();
        let segment = contents.segments[0];
        let HeaderRead::Whole(header) = segment.header else {
            panic!("{segment:?}")
        };
        let mut bytes = load(&mut storage, &segment).unwrap().unwrap();
        bytes[100_000] ^= 0x40;
        let found: Vec<_> = Walk::new(header, segment.end, &unsettled, &bytes).collect();
        let damaged = found
            .iter()
            .filter(|found| matches!(found, Found::Damage(_)));
        assert_eq!(damaged.count(), 1);
        let records = found
            .iter()
            .filter(|found| matches!(found, Found::Record { .. }));
        assert_eq!(records.count(), 29);
    }
}
