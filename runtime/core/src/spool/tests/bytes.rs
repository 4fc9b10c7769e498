//! Arbitrary bytes where the spool expects its own: never a panic, never a record that was not appended, and the work
//! is bounded.

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::super::cursor::{Cursor, SLOT_BYTES_MAX, SlotRead};
use super::super::range::{RANGES_MAX, Range, Ranges};
use super::super::record::{self, Counted, FrameRead};
use super::super::segment::{Frames, HEADER_BYTES, Header, HeaderRead};
use super::super::storage::Storage;
use super::super::{Position, Spool, Totals};
use super::{ROOMY, SimStorage, limits, read_all, telemetry};
use crate::message::Sequence;
use crate::time::TimestampMs;

const SEGMENT_BYTES: u64 = 16 * 1024;

/// A file of its own with these bytes.
fn put(storage: &mut SimStorage, name: &str, bytes: &[u8]) {
    let mut file = storage.create(name).unwrap();
    storage.write_at(&mut file, 0, bytes).unwrap();
}

fn header(epoch: u64, capacity: u64, start: Position) -> Header {
    Header {
        epoch,
        capacity,
        start,
        begun: TimestampMs(1_700_000_000_000),
    }
}

/// Closed ranges between each two of `ends`, and an open one behind them.
fn ranges(ends: Vec<u64>, (records, readings): (u64, u64)) -> Ranges {
    let place = |sequence: u64| Position {
        sequence: Sequence(sequence),
        totals: Totals { records, readings },
    };
    let mut ranges: Vec<_> = ends
        .chunks_exact(2)
        .map(|pair| Range {
            acked: place(pair[0]),
            through: Some(place(pair[1])),
        })
        .collect();
    let acked = ends
        .last()
        .map_or_else(Position::default, |last| place(*last));
    ranges.push(Range {
        acked,
        through: None,
    });
    Ranges::of(ranges).unwrap()
}

/// A good header of segment `epoch`, then `frames`.
fn segment(epoch: u64, frames: &[u8]) -> Vec<u8> {
    let header = header(epoch, SEGMENT_BYTES, Position::default());
    let mut bytes = vec![0; SEGMENT_BYTES as usize];
    bytes[..HEADER_BYTES].copy_from_slice(&header.encode());
    let length = frames.len().min(bytes.len() - 4096);
    bytes[4096..4096 + length].copy_from_slice(&frames[..length]);
    bytes
}

proptest! {
    #[test]
    fn decoding_arbitrary_bytes_never_panics(bytes in vec(any::<u8>(), 0..400), seed: u32, epoch: u64) {
        if let FrameRead::Frame(frame) = record::decode(seed, &bytes) {
            prop_assert!(frame.payload.len() <= bytes.len());
        }
        prop_assert!(!matches!(Cursor::decode(&bytes), SlotRead::Whole(..)));
        prop_assert!(!matches!(Header::decode(&bytes, epoch), HeaderRead::Whole(_)));
    }

    #[test]
    fn slots_and_headers_read_back(numbers in any::<[u64; 12]>(), ends in btree_set(1_u64.., 0..2 * RANGES_MAX - 1)) {
        let [a, b, c, d, e, f, g, h, i, j, k, generation] = numbers;
        let cursor = Cursor {
            identity: a,
            unsettled: ranges(ends.into_iter().collect(), (b, c)),
            evicted: Totals { records: d, readings: e },
            dropped: Totals { records: e, readings: d },
            damaged: Totals { records: f, readings: g },
            reserved_sequence: h,
            reserved_epoch: i,
            poisoned_epoch: j,
            set_aside_readings: k,
        };
        let slot = cursor.encode(generation);
        prop_assert!(slot.len() <= SLOT_BYTES_MAX);
        prop_assert_eq!(Cursor::decode(&slot), SlotRead::Whole(generation, cursor.clone()));
        let header = header(h, i, cursor.unsettled.acked());
        prop_assert_eq!(Header::decode(&header.encode(), h), HeaderRead::Whole(header));
        prop_assert_eq!(Header::decode(&header.encode(), h ^ 1), HeaderRead::Unused);
    }

    #[test]
    fn every_flipped_bit_of_a_slot_or_header_is_noticed(bit in 0..SLOT_BYTES_MAX * 8) {
        let mut slot = Cursor { reserved_epoch: 77, ..Cursor::default() }.encode(5);
        let at = bit % (slot.len() * 8);
        slot[at / 8] ^= 1 << (at % 8);
        prop_assert_eq!(Cursor::decode(&slot), SlotRead::Damaged);
        let mut header = header(9, SEGMENT_BYTES, Position::default()).encode();
        let bit = bit % (HEADER_BYTES * 8);
        header[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(Header::decode(&header, 9), HeaderRead::Damaged);
    }

    #[test]
    fn a_spool_starts_on_arbitrary_files(
        frames in vec(any::<u8>(), 0..3000),
        cursor in vec(any::<u8>(), 0..9000),
        headless in vec(any::<u8>(), 0..200),
    ) {
        let mut storage = SimStorage::new(1, ROOMY);
        put(&mut storage, "0000000000000001.segment", &segment(1, &frames));
        put(&mut storage, "0000000000000002.segment", &headless);
        put(&mut storage, "0000000000000003.spare", &headless);
        put(&mut storage, "cursor", &cursor);
        let (mut spool, _) = Spool::open(storage, limits()).unwrap();
        prop_assert_eq!(read_all(&mut spool, Sequence(0)), []);
        let mut outcomes = Vec::new();
        spool.append([telemetry(1, 1)], &mut outcomes);
        let sequence = outcomes[0].unwrap();
        let records = read_all(&mut spool, Sequence(0));
        prop_assert_eq!(records.iter().map(|record| record.sequence).collect::<Vec<_>>(), [sequence]);
    }

    /// Good frames among garbage: those after the garbage are found, in order, each as it was.
    #[test]
    fn good_frames_are_found_behind_garbage(pieces in vec((vec(any::<u8>(), 0..64), 0..5_usize), 1..20)) {
        let seed = record::seed(1);
        let (mut bytes, mut counted, mut sequence) = (Vec::new(), Counted::default(), 0_u64);
        let mut expected = Vec::new();
        for (garbage, good) in pieces {
            bytes.extend_from_slice(&garbage);
            bytes.resize(bytes.len().next_multiple_of(8), 0xa5);
            for _ in 0..good {
                sequence += 3;
                counted = Counted { records: counted.records + 1, readings: counted.readings + 2 };
                let start = record::begin(&mut bytes);
                bytes = postcard::to_extend(&telemetry(sequence as i64, 2), bytes).unwrap();
                record::finish(&mut bytes, start, seed, record::KIND_UPLINK, Sequence(sequence), counted);
                expected.push(sequence);
            }
        }
        prop_assume!(bytes.len() < 12_000);
        let mut storage = SimStorage::new(1, ROOMY);
        put(&mut storage, "0000000000000001.segment", &segment(1, &bytes));
        let (mut spool, _) = Spool::open(storage, limits()).unwrap();
        let records = read_all(&mut spool, Sequence(0));
        prop_assert_eq!(records.iter().map(|record| record.sequence.0).collect::<Vec<_>>(), expected);
        for record in records {
            prop_assert_eq!(record.uplink, telemetry(record.sequence.0 as i64, 2));
        }
    }
}

/// Every eight bytes claim to be a large frame with a likely sequence: the search gives up within its budget.
#[test]
fn a_crafted_segment_does_not_make_the_search_quadratic() {
    const BYTES: usize = 8 << 20;
    let word = ((1_u64 << 32) | 0x0100_0000 | ((1 << 20) - 1)).to_le_bytes();
    let mut storage = SimStorage::new(1, ROOMY);
    put(&mut storage, "crafted", &word.repeat(BYTES / word.len()));
    let file = storage.open("crafted").unwrap();
    let mut frames = Frames::new(file, 1, 0, BYTES as u64);
    assert_eq!(
        frames.resync(&mut storage, Sequence(0), Sequence(u64::MAX)),
        Ok(false)
    );
    assert!(
        frames.work <= 5 * BYTES as u64,
        "{} bytes of work",
        frames.work
    );
    assert_eq!(frames.offset, 0);
}
