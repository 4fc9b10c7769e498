//! A medium that gives nothing, can only be read, or is replaced.

use super::super::storage::StorageError;
use super::super::streams::{AfterOutage, StreamSettings, Streams};
use super::super::{Full, Spool};
use super::{ROOMY, SimStorage, append, limits, read_all, telemetry};
use crate::message::{Sequence, StreamId, Uplink};
use crate::time::Instant;

const DRAW: u64 = 11;
const GONE: StorageError = StorageError::Fault(5);

fn open(storage: &SimStorage, draw: u64) -> Result<Spool<SimStorage>, StorageError> {
    let opened = Spool::open_with(storage.clone(), None, limits(), draw);
    opened.map(|(spool, _recovery)| spool)
}

fn left_behind(storage: &SimStorage, ids: std::ops::Range<i64>) {
    let mut spool = open(storage, 1).unwrap();
    for id in ids {
        append(&mut spool, telemetry(id, 1)).unwrap();
    }
    spool.commit().unwrap();
}

fn uplinks(spool: &mut Spool<SimStorage>) -> Vec<Uplink> {
    let lanes: Vec<_> = spool.lanes().map(|(lane, _)| lane).collect();
    let mut found = Vec::new();
    for lane in lanes {
        let mut records = Vec::new();
        let mut after = Sequence(0);
        while spool.read(lane, after, 10_000, 100, &mut records).is_ok() {
            match records.last() {
                Some(last) if last.sequence > after => after = last.sequence,
                Some(_) | None => break,
            }
        }
        found.extend(records.into_iter().map(|record| record.uplink));
    }
    found
}

fn telemetries(ids: impl IntoIterator<Item = i64>) -> Vec<Uplink> {
    ids.into_iter().map(|id| telemetry(id, 1)).collect()
}

#[test]
fn what_lay_on_a_medium_that_gave_nothing_is_taken_up_with_what_came_meanwhile() {
    let storage = SimStorage::new(1, ROOMY);
    left_behind(&storage, 0..500);
    storage.set_absent(true);
    let why = open(&storage, DRAW).unwrap_err();
    let mut spool = Spool::without_storage(storage.clone(), limits(), DRAW, why);
    for id in 500..520 {
        append(&mut spool, telemetry(id, 1)).unwrap();
    }
    assert_eq!(
        (spool.status().fault, spool.is_absent()),
        (Some(GONE), true)
    );
    assert_eq!(spool.commit(), Err(GONE));
    // Half of it is delivered meanwhile.
    let records = read_all(&mut spool, Sequence(0));
    spool.ack(records[9].sequence);
    assert_eq!(spool.status().depth_records, 10);
    storage.set_absent(false);
    let opened = open(&storage, DRAW).unwrap();
    assert_eq!(
        spool.continue_in(opened),
        Some(0),
        "drawn above what was used"
    );
    let status = spool.status();
    assert_eq!((status.fault, spool.is_absent()), (None, false));
    assert_eq!((status.appended.records, status.depth_records), (520, 510));
    // What was handed out in memory is still known.
    spool.ack(records[14].sequence);
    assert_eq!(spool.status().depth_records, 505);
    spool.commit().unwrap();
    drop(spool);
    storage.cut_power();
    let mut spool = open(&storage, 5).unwrap();
    assert_eq!(spool.status().damaged.records, 0);
    let waiting: Vec<_> = (0..500).chain(510..520).collect();
    let found = uplinks(&mut spool);
    // The last acknowledgements were not synced.
    assert!(found.starts_with(&telemetries(0..500)));
    assert!(
        telemetries(waiting).ends_with(&found[505..]),
        "{}",
        found.len()
    );
}

#[test]
fn numbers_given_out_without_a_medium_go_behind_those_it_had_used() {
    let storage = SimStorage::new(2, ROOMY);
    // A life without the medium, which is taken up, and another with lower luck.
    let mut highest = Sequence(0);
    let mut shifted = 0;
    for draw in 1..8 {
        let mut spool = Spool::without_storage(storage.clone(), limits(), draw, GONE);
        let first = append(&mut spool, telemetry(draw as i64, 1)).unwrap();
        let opened = open(&storage, draw).unwrap();
        let shift = spool.continue_in(opened).unwrap();
        shifted += u64::from(shift > 0);
        let moved = Sequence(first.0 + shift);
        assert!(moved > highest, "{moved:?} after {highest:?}");
        assert_eq!(
            spool.lane_of(moved),
            spool.lanes().next_back().map(|(lane, _)| lane)
        );
        highest = append(&mut spool, telemetry(100 + draw as i64, 1)).unwrap();
        assert!(highest > moved);
        spool.commit().unwrap();
        spool.checkpoint(true).unwrap();
    }
    assert!(shifted > 0, "no draw was lower than one before");
    let mut spool = open(&storage, 99).unwrap();
    let expected: Vec<_> = (1..8).flat_map(|draw| [draw, 100 + draw]).collect();
    assert_eq!(uplinks(&mut spool), telemetries(expected));
}

#[test]
fn turns_follow_numbers_that_have_become_higher() {
    let storage = SimStorage::new(3, ROOMY);
    let mut earlier = Spool::without_storage(storage.clone(), limits(), 2, GONE);
    append(&mut earlier, telemetry(0, 1)).unwrap();
    earlier.continue_in(open(&storage, 2).unwrap()).unwrap();
    earlier.close().unwrap();
    let mut shifts = Vec::new();
    for draw in 3..12 {
        let spool = Spool::without_storage(storage.clone(), limits(), draw, GONE);
        let settings = StreamSettings {
            name: "telemetry".into(),
            priority: 0,
            after_outage: AfterOutage::BacklogFirst,
            thin_out: false,
        };
        let stream = StreamId(0);
        let mut streams = Streams::new(vec![(settings, spool)]);
        streams.begin(Sequence(0));
        let mut outcomes = Vec::new();
        streams.append(stream, telemetries(1..5), &mut outcomes);
        let mut handed = Vec::new();
        streams.read(Instant::ZERO, 1000, 3, &mut handed).unwrap();
        let opened = open(&storage, draw).unwrap();
        let before = opened.status().depth_records;
        shifts.push(streams.continue_in(stream, opened).unwrap());
        streams.ack(handed[2].turn, 0);
        let status = streams.spool_mut(stream).unwrap().status();
        assert_eq!(status.depth_records, before + 1, "draw {draw}");
        streams.close().unwrap();
    }
    assert!(shifts.iter().any(|shift| *shift > 0) && shifts.contains(&0));
}

#[test]
fn a_spool_without_a_medium_stays_in_its_bounds_and_counts() {
    for full in [Full::DropOldest, Full::DropNewest] {
        let storage = SimStorage::new(4, ROOMY);
        let bounds = limits().in_memory(2_000).when_full(full);
        let mut spool = Spool::without_storage(storage.clone(), bounds, DRAW, GONE);
        for id in 0..1_000 {
            let outcome = append(&mut spool, telemetry(id, 1));
            assert!(outcome.is_ok() || full == Full::DropNewest);
            assert!(spool.status().memory_bytes <= 2_000);
        }
        let status = spool.status();
        assert_eq!(status.appended.records, 1_000);
        assert!(status.evicted.records > 900);
        assert_eq!(status.depth_records + status.evicted.records, 1_000);
        assert!(storage.files().is_empty(), "nothing was touched");
        spool.continue_in(open(&storage, DRAW).unwrap()).unwrap();
        spool.commit().unwrap();
        assert_eq!(spool.status().evicted, status.evicted);
        spool.close().unwrap();
        let spool = open(&storage, 3).unwrap();
        assert_eq!(spool.status().evicted, status.evicted);
        assert_eq!(spool.status().depth_records, status.depth_records);
    }
}

#[test]
fn what_can_only_be_read_is_handed_out_and_what_comes_waits_in_memory() {
    let storage = SimStorage::new(5, ROOMY);
    left_behind(&storage, 0..300);
    storage.set_read_only(true);
    let mut spool = open(&storage, DRAW).unwrap();
    assert_eq!(spool.look(), Err(StorageError::ReadOnly));
    let first = append(&mut spool, telemetry(300, 1)).unwrap();
    assert!(
        first > Sequence(1 << 32),
        "no number that a next start could give out"
    );
    assert_eq!(uplinks(&mut spool), telemetries(0..301));
    assert_eq!(spool.commit(), Err(StorageError::ReadOnly));
    spool.ack(Sequence(100));
    storage.set_read_only(false);
    spool.prepare().unwrap();
    assert_eq!(spool.status().fault, None);
    spool.checkpoint(true).unwrap();
    drop(spool);
    storage.cut_power();
    let mut spool = open(&storage, 3).unwrap();
    assert_eq!(uplinks(&mut spool), telemetries(100..301));
    let next = append(&mut spool, telemetry(301, 1)).unwrap();
    assert!(next > first);
}

#[test]
fn a_spool_goes_on_where_its_directory_has_become_another_one() {
    let (old, new) = (SimStorage::new(6, ROOMY), SimStorage::new(7, ROOMY));
    left_behind(&old, 0..10);
    let mut spool = open(&old, DRAW).unwrap();
    append(&mut spool, telemetry(10, 1)).unwrap();
    old.set_read_only(true);
    for id in 11..20 {
        append(&mut spool, telemetry(id, 1)).unwrap();
    }
    assert!(spool.commit().is_err());
    let records = read_all(&mut spool, Sequence(0));
    assert_eq!(records.len(), 20);
    spool.ack(records[9].sequence);
    let foreign = SimStorage::new(9, ROOMY);
    open(&foreign, 77).unwrap().close().unwrap();
    assert_eq!(spool.move_to(foreign, None), Err(StorageError::Foreign));
    spool.move_to(new.clone(), None).unwrap();
    spool.commit().unwrap();
    assert_eq!(spool.status().fault, None);
    drop(spool);
    new.cut_power();
    let mut spool = open(&new, 3).unwrap();
    assert_eq!(uplinks(&mut spool), telemetries(10..20));
    let status = spool.status();
    assert_eq!((status.depth_records, status.damaged.records), (10, 0));
}

/// The stream of RPC replies was opened and never written to; what came back after a repair was refused as another spool's.
#[test]
fn a_directory_in_which_nothing_was_ever_written_is_nobody_elses() {
    let (old, repaired) = (SimStorage::new(6, ROOMY), SimStorage::new(7, ROOMY));
    let mut spool = open(&old, DRAW).unwrap();
    drop(open(&repaired, 77).unwrap());
    repaired.cut_power();
    old.set_read_only(true);
    append(&mut spool, telemetry(0, 1)).unwrap();
    spool.move_to(repaired.clone(), None).unwrap();
    spool.commit().unwrap();
    drop(spool);
    repaired.cut_power();
    assert_eq!(uplinks(&mut open(&repaired, 3).unwrap()), telemetries(0..1));
}
