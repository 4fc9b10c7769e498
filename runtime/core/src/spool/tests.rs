//! Units: every state of a frame, a slot and a header, and the spool step by step on the simulated storage.

mod absent;
mod bytes;
mod dead_letters;
mod journal;
mod lanes;
mod limits;
mod lost_tail;
mod model;
mod starts;

use super::record::{FRAME_HEADER, Frame, FrameRead};
use super::sim_storage::{Operation, SimStorage};
use super::storage::{Storage, StorageError};
use super::{Lane, Limits, Record, Recovery, Refused, Spool, record};
use crate::message::{DeviceName, DeviceReadings, Key, Quality, Reading, Sequence, Uplink, Value};
use crate::time::TimestampMs;

const ROOMY: u64 = 1 << 30;

/// A message with `readings` readings that all carry `id`.
pub(super) fn telemetry(id: i64, readings: usize) -> Uplink {
    let reading = Reading {
        key: Key::try_new("temperature").unwrap(),
        value: Value::Integer(id),
        quality: Quality::Good,
        timestamp: TimestampMs(1_700_000_000_000),
    };
    let device = DeviceName::try_new("press-1").unwrap();
    Uplink::Telemetry(vec![DeviceReadings {
        device,
        readings: vec![reading; readings],
    }])
}

/// A message whose encoding has about `bytes` bytes and no readings.
pub(super) fn text(id: u64, bytes: usize) -> Uplink {
    let device = DeviceName::try_new("press-1").unwrap();
    Uplink::RpcReply {
        device,
        request_id: id,
        body: "x".repeat(bytes),
    }
}

fn limits() -> Limits {
    Limits::new(16 * 1024, 160 * 1024, 4 * 1024).unwrap()
}

fn open(storage: &SimStorage) -> (Spool<SimStorage>, Recovery) {
    Spool::open(storage.clone(), limits()).unwrap()
}

fn append(spool: &mut Spool<SimStorage>, uplink: Uplink) -> Result<Sequence, Refused> {
    let mut outcomes = Vec::new();
    spool.append([uplink], &mut outcomes);
    assert_eq!(outcomes.len(), 1);
    outcomes[0]
}

fn read_all(spool: &mut Spool<SimStorage>, mut after: Sequence) -> Vec<Record> {
    let mut records = Vec::new();
    loop {
        let already = records.len();
        spool
            .read(Lane::Live, after, 1000, 7, &mut records)
            .unwrap();
        match records.last() {
            Some(last) if records.len() > already => after = last.sequence,
            _ => return records,
        }
    }
}

fn frame(seed: u32, sequence: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let start = record::begin(&mut bytes);
    bytes.extend_from_slice(payload);
    let counted = record::Counted {
        records: 3,
        readings: 9,
    };
    record::finish(
        &mut bytes,
        start,
        seed,
        record::KIND_UPLINK,
        Sequence(sequence),
        counted,
    );
    bytes
}

#[test]
fn a_frame_reads_back() {
    let seed = record::seed(7);
    let bytes = frame(seed, 42, b"hello");
    let counted = record::Counted {
        records: 3,
        readings: 9,
    };
    let expected = Frame {
        kind: record::KIND_UPLINK,
        sequence: Sequence(42),
        counted,
        payload: b"hello",
    };
    assert_eq!(record::decode(seed, &bytes), FrameRead::Frame(expected));
    assert_eq!(expected.span(), bytes.len());
    assert_eq!(bytes.len() % record::FRAME_ALIGNMENT, 0);
}

#[test]
fn a_frame_of_another_epoch_is_corrupt() {
    let bytes = frame(record::seed(7), 42, b"hello");
    let FrameRead::Corrupt { stored, computed } = record::decode(record::seed(8), &bytes) else {
        panic!("the epoch is in the checksum");
    };
    assert_ne!(stored, computed);
}

#[test]
fn every_flipped_bit_is_noticed() {
    let seed = record::seed(7);
    let bytes = frame(seed, 42, b"hello, moorline");
    let good = record::decode(seed, &bytes);
    for bit in 0..(FRAME_HEADER + 15) * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert_ne!(record::decode(seed, &damaged), good, "bit {bit}");
        assert!(
            !matches!(record::decode(seed, &damaged), FrameRead::Frame(_)),
            "bit {bit}"
        );
    }
}

#[test]
fn a_cut_frame_is_torn_and_nothing_is_the_end() {
    let seed = record::seed(7);
    let bytes = frame(seed, 42, b"hello, moorline");
    for length in FRAME_HEADER..FRAME_HEADER + 15 {
        assert_eq!(
            record::decode(seed, &bytes[..length]),
            FrameRead::Torn,
            "{length} bytes"
        );
    }
    assert_eq!(record::decode(seed, &[0; 64]), FrameRead::End);
    assert_eq!(
        record::decode(seed, &bytes[..FRAME_HEADER - 1]),
        FrameRead::End
    );
    assert_eq!(
        record::decode(seed, &[0xff; 64]),
        FrameRead::Torn,
        "no such length"
    );
}

#[test]
fn what_is_appended_is_read_in_order_and_again_until_acknowledged() {
    let storage = SimStorage::new(1, ROOMY);
    let (mut spool, _) = open(&storage);
    for id in 0..500 {
        assert_eq!(
            append(&mut spool, telemetry(id, 2)),
            Ok(Sequence(id as u64 + 1))
        );
    }
    let records = read_all(&mut spool, Sequence(0));
    let expected: Vec<_> = (0..500)
        .map(|id| Record {
            sequence: Sequence(id as u64 + 1),
            uplink: telemetry(id, 2),
        })
        .collect();
    assert_eq!(records, expected);
    assert_eq!(read_all(&mut spool, Sequence(100)), expected[100..]);
    spool.ack(Sequence(200));
    assert_eq!(read_all(&mut spool, Sequence(0)), expected[200..]);
    let status = spool.status();
    assert_eq!((status.depth_records, status.depth_readings), (300, 600));
    assert_eq!(status.appended.readings, 1000);
}

#[test]
fn a_clean_end_leaves_no_gap_and_a_crash_does() {
    let storage = SimStorage::new(2, ROOMY);
    let (mut spool, _) = open(&storage);
    append(&mut spool, telemetry(1, 1)).unwrap();
    spool.close().unwrap();
    let (mut spool, recovery) = open(&storage);
    assert_eq!(
        (recovery.records, recovery.readings, recovery.torn_tail),
        (1, 1, false)
    );
    assert_eq!(append(&mut spool, telemetry(2, 1)), Ok(Sequence(2)));
    drop(spool);
    let (mut spool, recovery) = open(&storage);
    assert_eq!(
        recovery.records, 2,
        "written is enough for the end of a process"
    );
    let sequence = append(&mut spool, telemetry(3, 1)).unwrap();
    assert!(sequence > Sequence(2), "never given out twice");
    assert_eq!(read_all(&mut spool, Sequence(0)).len(), 3);
    assert_eq!(spool.status().appended.readings, 3);
}

#[test]
fn acknowledged_before_the_commit_is_never_synced() {
    let storage = SimStorage::new(3, ROOMY);
    let (mut spool, _) = open(&storage);
    append(&mut spool, telemetry(1, 1)).unwrap();
    spool.commit().unwrap();
    assert_eq!(read_all(&mut spool, Sequence(0)).len(), 1);
    spool.ack(Sequence(1));
    let syncs = storage.syncs();
    for id in 0..20 {
        let sequence = append(&mut spool, telemetry(id, 1)).unwrap();
        assert_eq!(read_all(&mut spool, Sequence(0)).len(), 1);
        spool.ack(sequence);
        spool.commit().unwrap();
    }
    assert_eq!(storage.syncs(), syncs);
}

#[test]
fn a_full_spool_drops_the_oldest_and_counts_it() {
    let storage = SimStorage::new(4, ROOMY);
    let (mut spool, _) = open(&storage);
    for id in 0..20_000 {
        append(&mut spool, telemetry(id, 3)).unwrap();
        assert!(spool.status().bytes <= 160 * 1024);
    }
    let status = spool.status();
    let kept = read_all(&mut spool, Sequence(0));
    assert!(status.evicted.readings > 0 && !kept.is_empty());
    assert_eq!(
        kept.first().map(|record| record.sequence),
        Some(Sequence(status.evicted.records + 1))
    );
    assert_eq!(
        kept.last().map(|record| record.sequence),
        Some(Sequence(20_000))
    );
    assert_eq!(status.evicted.readings + kept.len() as u64 * 3, 60_000);
    drop(spool);
    assert_eq!(
        open(&storage).0.status().evicted,
        status.evicted,
        "the count survives"
    );
}

#[test]
fn segments_are_recycled_once_acknowledged() {
    let storage = SimStorage::new(5, ROOMY);
    let (mut spool, _) = open(&storage);
    for id in 0..5_000 {
        let sequence = append(&mut spool, telemetry(id, 3)).unwrap();
        spool.commit().unwrap();
        read_all(&mut spool, Sequence(0));
        spool.ack(sequence);
        spool.checkpoint(false).unwrap();
    }
    assert_eq!(spool.status().evicted.readings, 0);
    assert!(storage.files().len() <= 4, "{:?}", storage.files());
}

#[test]
fn a_record_over_the_limit_is_refused_and_harms_no_other() {
    let storage = SimStorage::new(6, ROOMY);
    let (mut spool, _) = open(&storage);
    let mut outcomes = Vec::new();
    spool.append([text(1, 10), text(2, 100_000), text(3, 10)], &mut outcomes);
    assert_eq!(
        outcomes,
        [Ok(Sequence(1)), Err(Refused::TooLarge), Ok(Sequence(2))]
    );
    let ids: Vec<_> = read_all(&mut spool, Sequence(0))
        .into_iter()
        .map(|record| record.uplink)
        .collect();
    assert_eq!(ids, [text(1, 10), text(3, 10)]);
}

#[test]
fn a_failed_sync_moves_the_records_to_another_segment() {
    let storage = SimStorage::new(7, ROOMY);
    let (mut spool, _) = open(&storage);
    append(&mut spool, telemetry(0, 1)).unwrap();
    spool.commit().unwrap();
    for id in 1..10 {
        append(&mut spool, telemetry(id, 1)).unwrap();
    }
    storage.fail(Operation::Sync, 1, StorageError::Fault(5));
    spool.commit().unwrap();
    assert_eq!(spool.status().synced, Sequence(10));
    assert_eq!(storage.syncs_after_failure(), 0);
    drop(spool);
    storage.cut_power();
    let (mut spool, _) = open(&storage);
    let uplinks: Vec<_> = read_all(&mut spool, Sequence(0))
        .into_iter()
        .map(|record| record.uplink)
        .collect();
    assert_eq!(
        uplinks,
        (0..10).map(|id| telemetry(id, 1)).collect::<Vec<_>>()
    );
}

#[test]
fn no_space_is_borne_in_memory_and_space_heals() {
    let storage = SimStorage::new(8, 60 * 1024);
    let small = limits().in_memory(2_000);
    let (mut spool, _) = Spool::open(storage.clone(), small).unwrap();
    let mut accepted = 0;
    while spool.status().evicted.records == 0 {
        assert!(append(&mut spool, telemetry(accepted, 3)).is_ok());
        accepted += 1;
        assert!(accepted < 20_000, "the disk is full by now");
    }
    let status = spool.status();
    assert_eq!(status.fault, Some(StorageError::Full));
    assert!(status.memory_bytes <= 2_000, "{status:?}");
    for _ in 0..100 {
        append(&mut spool, telemetry(accepted, 3)).unwrap();
        accepted += 1;
    }
    let status = spool.status();
    let by_device: u64 = spool
        .evicted_by_device()
        .map(|(_, readings)| readings)
        .sum();
    assert_eq!(by_device, status.evicted.readings);
    assert_eq!(
        status.depth_records + status.evicted.records,
        accepted as u64
    );
    assert_eq!(
        lane_lengths(&mut spool).iter().sum::<u64>(),
        status.depth_records
    );
    storage.set_capacity(ROOMY);
    assert!(spool.status().fault.is_some(), "not tried for each append");
    spool.prepare().unwrap();
    let status = spool.status();
    assert_eq!((status.fault, status.memory_bytes), (None, 0));
    drop(spool);
    storage.cut_power();
    let (mut spool, _) = open(&storage);
    assert_eq!(spool.status().depth_records, status.depth_records);
    assert_eq!(
        lane_lengths(&mut spool).iter().sum::<u64>(),
        status.depth_records
    );
    assert_eq!(spool.status().damaged.records, 0);
}

/// Reads every lane to its end, and says how much was in each.
fn lane_lengths(spool: &mut Spool<SimStorage>) -> Vec<u64> {
    let lanes: Vec<_> = spool.lanes().map(|(lane, _)| lane).collect();
    lanes
        .into_iter()
        .map(|lane| {
            let mut records = Vec::new();
            let mut after = Sequence(0);
            loop {
                let already = records.len();
                spool.read(lane, after, 1000, 7, &mut records).unwrap();
                match records.last() {
                    Some(Record { sequence, .. }) if records.len() > already => after = *sequence,
                    Some(_) | None => return records.len() as u64,
                }
            }
        })
        .collect()
}

#[test]
fn a_spare_that_somebody_removed_is_no_reason_to_refuse() {
    let mut storage = SimStorage::new(12, ROOMY);
    let (mut spool, _) = open(&storage);
    let mut id = 0;
    for _round in 0..5 {
        while spool.prepare().unwrap() {}
        let spares: Vec<_> = storage
            .files()
            .into_iter()
            .filter(|file| file.name.ends_with(".spare"))
            .collect();
        for spare in &spares {
            storage.remove(&spare.name).unwrap();
        }
        for _ in 0..300 {
            assert!(append(&mut spool, telemetry(id, 3)).is_ok());
            id += 1;
        }
        spool.commit().unwrap();
    }
    let found = read_all(&mut spool, Sequence(0));
    assert_eq!(found.len() as u64, spool.status().depth_records);
    assert_eq!(spool.status().damaged.records, 0);
}

#[test]
fn what_is_set_aside_is_remembered() {
    let storage = SimStorage::new(13, ROOMY);
    let (mut spool, _) = open(&storage);
    append(&mut spool, telemetry(0, 3)).unwrap();
    let last = append(&mut spool, telemetry(1, 4)).unwrap();
    assert_eq!(read_all(&mut spool, Sequence(0)).len(), 2);
    spool.ack(last);
    spool.set_aside(4);
    spool.close().unwrap();
    storage.cut_power();
    let (spool, _) = open(&storage);
    let status = spool.status();
    assert_eq!((status.set_aside_readings, status.depth_readings), (4, 0));
}

#[test]
fn no_space_heals_by_acknowledgements_alone() {
    let storage = SimStorage::new(9, 60 * 1024);
    let (mut spool, _) = open(&storage);
    let mut id = 0;
    while spool.status().fault.is_none() {
        append(&mut spool, telemetry(id, 3)).unwrap();
        id += 1;
    }
    let last = read_all(&mut spool, Sequence(0))
        .last()
        .map(|record| record.sequence)
        .unwrap();
    spool.ack(last);
    spool.checkpoint(false).unwrap();
    append(&mut spool, telemetry(id, 3)).unwrap();
    spool.commit().unwrap();
    assert_eq!(spool.status().memory_bytes, 0, "in a recycled segment");
}

#[test]
fn a_damaged_header_is_put_aside_and_what_it_held_is_counted() {
    let storage = SimStorage::new(10, ROOMY);
    let (mut spool, _) = open(&storage);
    for id in 0..800 {
        append(&mut spool, telemetry(id, 2)).unwrap();
    }
    spool.close().unwrap();
    let segments: Vec<_> = storage
        .files()
        .into_iter()
        .filter(|file| file.name.ends_with("segment"))
        .collect();
    assert!(segments.len() >= 3, "{segments:?}");
    assert!(storage.rot(&segments[1].name, 20, 3));
    let (mut spool, recovery) = open(&storage);
    assert_eq!(recovery.quarantined_segments, 1);
    let records = read_all(&mut spool, Sequence(0));
    assert!(records.len() < 800 && records.len() > 100);
    spool.ack(Sequence(800));
    assert_eq!(spool.status().damaged.records, 800 - records.len() as u64);
    assert_eq!(
        spool.status().damaged.readings,
        2 * (800 - records.len() as u64)
    );
    assert_eq!(spool.status().depth_readings, 0);
}

#[test]
fn rot_in_a_record_costs_that_record() {
    let storage = SimStorage::new(11, ROOMY);
    let (mut spool, _) = open(&storage);
    for id in 0..800 {
        append(&mut spool, telemetry(id, 2)).unwrap();
    }
    spool.close().unwrap();
    let segments: Vec<_> = storage
        .files()
        .into_iter()
        .filter(|file| file.name.ends_with("segment"))
        .collect();
    for segment in &segments {
        assert!(storage.rot(&segment.name, 4096 + 30, 3));
    }
    let (mut spool, _) = open(&storage);
    assert_eq!(
        read_all(&mut spool, Sequence(0)).len(),
        800 - segments.len()
    );
    spool.ack(Sequence(800));
    spool.checkpoint(false).unwrap();
    let status = spool.status();
    assert_eq!(status.damaged.readings, 2 * segments.len() as u64);
    assert_eq!(
        status.quarantined_segments,
        2,
        "the newest two of {}",
        segments.len() - 1
    );
}

#[test]
fn a_lost_cursor_repeats_but_never_reuses() {
    let storage = SimStorage::new(12, ROOMY);
    let (mut spool, _) = open(&storage);
    for id in 0..10 {
        append(&mut spool, telemetry(id, 1)).unwrap();
    }
    read_all(&mut spool, Sequence(0));
    spool.ack(Sequence(5));
    spool.close().unwrap();
    for slot in [0, 4096] {
        storage.rot("cursor", slot + 40, 1);
    }
    let (mut spool, _) = open(&storage);
    assert_eq!(read_all(&mut spool, Sequence(0)).len(), 10);
    assert!(append(&mut spool, telemetry(10, 1)).unwrap() > Sequence(10));
}

#[test]
fn records_taken_along_from_a_failed_sync_do_not_overflow_the_next_segment() {
    let storage = SimStorage::new(1, ROOMY);
    let (mut spool, _) = open(&storage);
    let capacity = limits().segment_bytes();
    let mut accepted = vec![append(&mut spool, text(1, 5000)).unwrap()];
    accepted.push(append(&mut spool, text(2, 5000)).unwrap());
    storage.fail(Operation::Sync, 1, StorageError::Fault(5));
    // No room: the segment is synced, which fails, and both records move to the next one, which is as full.
    accepted.push(append(&mut spool, text(3, 5000)).unwrap());
    let longest = storage.files().iter().map(|file| file.bytes).max();
    assert_eq!(longest, Some(capacity));
    drop(spool);
    let (mut spool, recovery) = open(&storage);
    assert_eq!(recovery.damaged_segments, 0);
    let found = read_all(&mut spool, Sequence(0));
    let found: Vec<_> = found.iter().map(|record| record.sequence).collect();
    assert_eq!(found, accepted);
}

#[test]
fn a_sync_that_failed_at_a_start_is_remembered_by_the_next_start() {
    let storage = SimStorage::new(3, ROOMY);
    let (mut spool, _) = open(&storage);
    append(&mut spool, text(1, 500)).unwrap();
    drop(spool);
    // The cursor is secured first, then the segment.
    storage.fail(Operation::Sync, 2, StorageError::Fault(5));
    let (spool, _) = open(&storage);
    assert_eq!(spool.status().synced, Sequence(0));
    drop(spool);
    storage.heal();
    let (mut spool, _) = open(&storage);
    assert_eq!(spool.status().synced, Sequence(0));
    spool.commit().unwrap();
    assert_eq!(spool.status().synced, Sequence(1));
    assert_eq!(storage.syncs_after_failure(), 0);
    drop(spool);
    storage.cut_power();
    let (mut spool, _) = open(&storage);
    assert_eq!(read_all(&mut spool, Sequence(0)).len(), 1);
}

#[test]
fn a_counted_eviction_survives_a_kill_and_then_a_power_cut() {
    for seed in 0..64 {
        let storage = SimStorage::new(seed, ROOMY);
        let (mut spool, _) = open(&storage);
        while spool.status().evicted.records == 0 {
            append(&mut spool, text(1, 3000)).unwrap();
        }
        let evicted = spool.status().evicted;
        // The acknowledgement is in the page cache only when the process dies, and so is the next one.
        for _ in 0..2 {
            let mut records = Vec::new();
            spool
                .read(Lane::Live, Sequence(0), 0, 1, &mut records)
                .unwrap();
            spool.ack(records[0].sequence);
            spool.checkpoint(false).unwrap();
            drop(spool);
            spool = open(&storage).0;
        }
        let mut records = Vec::new();
        spool
            .read(Lane::Live, Sequence(0), 0, 1, &mut records)
            .unwrap();
        spool.ack(records[0].sequence);
        spool.checkpoint(false).unwrap();
        drop(spool);
        storage.cut_power();
        assert_eq!(open(&storage).0.status().evicted, evicted, "seed {seed}");
    }
}
