//! What is given up when there is no room or no time, and that each of it is counted.

use std::collections::BTreeMap;

use super::super::storage::Storage;
use super::super::{Full, Keep, Limits, Record, Refused, Spool};
use super::{ROOMY, SimStorage, append, limits, read_all, telemetry};
use crate::message::{DeviceName, Sequence, Uplink};
use crate::time::TimestampMs;

const NOW: u64 = 1_800_000_000_000;

fn open(storage: &SimStorage, limits: Limits) -> Spool<SimStorage> {
    Spool::open(storage.clone(), limits).unwrap().0
}

/// The table, by name.
fn evicted_by_device(spool: &Spool<SimStorage>) -> BTreeMap<String, u64> {
    let table = spool.evicted_by_device();
    table
        .map(|(device, n)| (device.as_str().to_owned(), n))
        .collect()
}

fn of_device(name: &str, id: i64, readings: usize) -> Uplink {
    let Uplink::Telemetry(mut devices) = telemetry(id, readings) else {
        panic!("telemetry");
    };
    devices[0].device = DeviceName::try_new(name).unwrap();
    Uplink::Telemetry(devices)
}

fn readings(records: &[Record]) -> u64 {
    records.iter().map(|record| record.uplink.readings()).sum()
}

#[test]
fn a_spool_that_keeps_what_it_has_counts_what_comes_and_accepts_again() {
    let storage = SimStorage::new(1, ROOMY);
    let keeps = limits().when_full(Full::DropNewest);
    let mut spool = open(&storage, keeps);
    let (mut accepted, mut dropped) = (0, 0);
    while dropped < 50 {
        match append(&mut spool, telemetry(accepted, 3)) {
            Ok(_) => accepted += 1,
            Err(error) => {
                assert_eq!(error, Refused::Dropped);
                dropped += 1;
            }
        }
        assert!(accepted < 20_000 && spool.status().bytes <= 160 * 1024);
    }
    let status = spool.status();
    assert!(status.kept_full && status.fault.is_none());
    assert_eq!((status.evicted.records, status.evicted.readings), (50, 150));
    assert_eq!(
        status.depth_records, accepted as u64,
        "what it has it keeps"
    );
    assert_eq!(status.appended.records, accepted as u64 + 50);
    drop(spool);
    let mut spool = open(&storage, keeps);
    assert_eq!(spool.status().evicted, status.evicted);
    let records = read_all(&mut spool, Sequence(0));
    assert_eq!(records.len(), accepted as usize);
    spool.ack(records[records.len() / 2].sequence);
    spool.checkpoint(false).unwrap();
    assert!(append(&mut spool, telemetry(0, 3)).is_ok());
    assert_eq!(spool.status().evicted, status.evicted);
}

#[test]
fn only_what_is_too_old_expires() {
    let storage = SimStorage::new(2, ROOMY);
    let mut spool = open(&storage, limits());
    spool.tell_time(TimestampMs(NOW));
    for id in 0..400 {
        append(&mut spool, telemetry(id, 2)).unwrap();
    }
    spool.tell_time(TimestampMs(NOW + 1_000));
    for id in 400..800 {
        append(&mut spool, telemetry(id, 2)).unwrap();
    }
    spool.expire(TimestampMs(NOW)).unwrap();
    assert_eq!(spool.status().evicted.records, 0);
    spool.expire(TimestampMs(NOW + 500)).unwrap();
    let evicted = spool.status().evicted;
    assert!(evicted.records > 0 && evicted.records <= 400, "{evicted:?}");
    let left = read_all(&mut spool, Sequence(0));
    spool.rewind();
    assert_eq!(left.len() as u64 + evicted.records, 800);
    assert_eq!(left[0].sequence, Sequence(evicted.records + 1));
    // The written segment is ended first, and goes when nothing in it can be younger.
    spool.tell_time(TimestampMs(NOW + 10_000));
    spool.expire(TimestampMs(NOW + 9_000)).unwrap();
    spool.expire(TimestampMs(NOW + 9_000)).unwrap();
    let written_last = spool.status().depth_records;
    assert!(written_last > 0 && written_last < 400);
    spool.expire(TimestampMs(NOW + 10_001)).unwrap();
    let status = spool.status();
    assert_eq!((status.evicted.records, status.depth_records), (800, 0));
    assert_eq!(evicted_by_device(&spool)["press-1"], 1_600);
}

#[test]
fn nothing_expires_by_a_clock_that_was_not_set() {
    let storage = SimStorage::new(3, ROOMY);
    let mut spool = open(&storage, limits());
    for since_1970 in [0, 5_000, 86_400_000] {
        spool.tell_time(TimestampMs(since_1970));
        for id in 0..300 {
            append(&mut spool, telemetry(id, 2)).unwrap();
        }
    }
    spool.expire(TimestampMs(NOW)).unwrap();
    spool.expire(TimestampMs(NOW)).unwrap();
    let status = spool.status();
    assert_eq!((status.evicted.records, status.depth_records), (0, 900));
}

#[test]
fn what_is_to_stay_free_stays_free() {
    const FREE: u64 = 200 * 1024;
    let mut storage = SimStorage::new(4, 400 * 1024);
    let limits = Limits::new(16 * 1024, 320 * 1024, 4096).unwrap();
    let mut spool = open(&storage, limits.leaving_free(FREE));
    for id in 0..5_000 {
        append(&mut spool, telemetry(id, 3)).unwrap();
        spool.commit().unwrap();
        spool.prepare().unwrap();
        assert!(storage.free_bytes().unwrap() + 4096 >= FREE);
    }
    let status = spool.status();
    let left = read_all(&mut spool, Sequence(0));
    assert_eq!(status.fault, None);
    assert!(status.evicted.records > 0 && left.len() > 500);
    assert_eq!(left.len() as u64 + status.evicted.records, 5_000);
    // With room again it grows.
    storage.set_capacity(ROOMY);
    for id in 0..1_000 {
        append(&mut spool, telemetry(id, 3)).unwrap();
        spool.prepare().unwrap();
    }
    assert!(spool.status().bytes > status.bytes);
}

#[test]
fn what_was_given_up_is_counted_by_device() {
    let storage = SimStorage::new(5, ROOMY);
    let mut spool = open(&storage, limits());
    let (mut first, mut second) = (0, 0);
    for id in 0..4_000 {
        append(&mut spool, of_device("press-1", id, 2)).unwrap();
        first += 2;
        if id % 3 == 0 {
            append(&mut spool, of_device("press-2", id, 5)).unwrap();
            second += 5;
        }
    }
    let left = read_all(&mut spool, Sequence(0));
    let of = |name| {
        let records = left.iter().filter(|record| {
            matches!(&record.uplink, Uplink::Telemetry(devices) if devices[0].device.as_str() == name)
        });
        readings(&records.cloned().collect::<Vec<_>>())
    };
    let expected = BTreeMap::from([
        ("press-1".to_owned(), first - of("press-1")),
        ("press-2".to_owned(), second - of("press-2")),
    ]);
    assert_eq!(evicted_by_device(&spool), expected);
    let total: u64 = expected.values().sum();
    assert_eq!(spool.status().evicted.readings, total);
    spool.close().unwrap();
    storage.cut_power();
    assert_eq!(evicted_by_device(&open(&storage, limits())), expected);
}

#[test]
fn a_spool_in_memory_spares_the_storage_and_counts_what_it_gives_up() {
    let storage = SimStorage::new(6, ROOMY);
    let in_memory = limits().kept(Keep::InMemory).in_memory(2_000);
    let mut spool = open(&storage, in_memory);
    let first = append(&mut spool, telemetry(0, 1)).unwrap();
    let before = (storage.writes(), storage.syncs());
    for id in 1..1_000 {
        append(&mut spool, telemetry(id, 1)).unwrap();
        if id % 2 == 0 {
            let records = read_all(&mut spool, Sequence(0));
            spool.ack(records[0].sequence);
        }
        spool.commit().unwrap();
        spool.prepare().unwrap();
        spool.checkpoint(false).unwrap();
        assert!(spool.status().memory_bytes <= 2_000);
    }
    // What is handed out and given up is waiting until its session ends.
    spool.rewind();
    assert_eq!(before, (storage.writes(), storage.syncs()));
    assert!(spool.status().kept <= spool.status().acked.max(first));
    let status = spool.status();
    assert!(status.evicted.records > 0 && status.depth_records > 0);
    assert_eq!(
        499 + status.evicted.records + status.depth_records,
        1_000,
        "{status:?}"
    );
    spool.close().unwrap();
    storage.cut_power();
    let spool = open(&storage, in_memory);
    let after = spool.status();
    assert_eq!(
        after.evicted.records,
        status.evicted.records + status.depth_records
    );
    assert_eq!(evicted_by_device(&spool)["press-1"], after.evicted.readings);
    assert_eq!((after.depth_records, after.appended), (0, status.appended));
    let names: Vec<_> = storage.files().into_iter().map(|file| file.name).collect();
    assert_eq!(names, ["cursor", "evicted"]);
}

/// What waited in memory alone when a session divided it, and was gone with its process, waited for ever, and held up all that
/// came behind it.
#[test]
fn a_backlog_that_ended_with_its_process_holds_up_nothing() {
    let storage = SimStorage::new(7, ROOMY);
    let in_memory = limits().kept(Keep::InMemory);
    let mut spool = open(&storage, in_memory);
    for id in 0..10 {
        append(&mut spool, telemetry(id, 2)).unwrap();
    }
    assert!(spool.divide());
    // As a reservation does.
    spool.cursor.sync(&mut spool.storage).unwrap();
    drop(spool);
    let mut spool = open(&storage, in_memory);
    append(&mut spool, telemetry(10, 2)).unwrap();
    let lanes: Vec<_> = spool.lanes().map(|(lane, _)| lane).collect();
    let mut found = Vec::new();
    for lane in lanes {
        spool.read_on(lane, 1000, 10, &mut found).unwrap();
        assert!(!spool.has_more(lane));
    }
    assert_eq!(found.len(), 1);
    let status = spool.status();
    assert_eq!((status.damaged.readings, status.depth_records), (20, 1));
}
