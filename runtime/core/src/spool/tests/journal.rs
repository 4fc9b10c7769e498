//! The window between accepting and committing, on a storage that a power cut wipes.

use super::super::sim_storage::Operation;
use super::super::storage::StorageError;
use super::super::{Limits, Recovery, Spool};
use super::{ROOMY, SimStorage, append, limits, read_all, telemetry};
use crate::message::{Sequence, Uplink};

struct Disks {
    storage: SimStorage,
    journal: SimStorage,
}

impl Disks {
    fn new(seed: u64) -> Self {
        Self {
            storage: SimStorage::new(seed, ROOMY),
            journal: SimStorage::new(seed, ROOMY),
        }
    }

    fn open(&self, limits: Limits) -> (Spool<SimStorage>, Recovery) {
        let (storage, journal) = (self.storage.clone(), self.journal.clone());
        Spool::open_with(storage, Some(journal), limits, 7).unwrap()
    }

    fn segments(&self) -> usize {
        let files = self.storage.files();
        let segments = files.iter().filter(|file| file.name.ends_with(".segment"));
        segments.count()
    }
}

fn uplinks(spool: &mut Spool<SimStorage>) -> Vec<Uplink> {
    let records = read_all(spool, Sequence(0)).into_iter();
    records.map(|record| record.uplink).collect()
}

fn telemetries(ids: std::ops::Range<i64>) -> Vec<Uplink> {
    ids.map(|id| telemetry(id, 1)).collect()
}

#[test]
fn what_is_settled_before_its_commit_is_never_written() {
    let disks = Disks::new(1);
    let (mut spool, _) = disks.open(limits());
    let first = append(&mut spool, telemetry(0, 1)).unwrap();
    read_all(&mut spool, Sequence(0));
    spool.ack(first);
    let before = (disks.storage.writes(), disks.storage.syncs());
    let noted = disks.journal.writes();
    let mut mark = first;
    for id in 1..50 {
        let sequence = append(&mut spool, telemetry(id, 1)).unwrap();
        // The window closes while this record is on its way, and once more when it has arrived.
        spool.commit_through(mark).unwrap();
        assert_eq!(spool.status().kept, sequence);
        assert!(spool.status().synced < sequence, "not committed yet");
        read_all(&mut spool, Sequence(0));
        spool.ack(sequence);
        spool.checkpoint(true).unwrap();
        mark = sequence;
    }
    spool.commit().unwrap();
    assert_eq!(before, (disks.storage.writes(), disks.storage.syncs()));
    assert_eq!(disks.segments(), 0);
    assert!(disks.journal.writes() > noted);
    assert_eq!(spool.status().synced, mark, "settled is as good as synced");
}

#[test]
fn what_waits_longer_than_the_window_is_written() {
    let disks = Disks::new(2);
    let (mut spool, _) = disks.open(limits());
    let waits = append(&mut spool, telemetry(0, 1)).unwrap();
    append(&mut spool, telemetry(1, 1)).unwrap();
    spool.commit_through(waits).unwrap();
    assert_eq!(spool.status().synced, waits);
    drop(spool);
    disks.storage.cut_power();
    disks.journal.wipe();
    let (mut spool, _) = disks.open(limits());
    assert_eq!(uplinks(&mut spool), telemetries(0..1));
}

#[test]
fn the_journal_comes_back_after_a_kill_and_not_after_a_power_cut() {
    let disks = Disks::new(3);
    let (mut spool, _) = disks.open(limits());
    for id in 0..10 {
        append(&mut spool, telemetry(id, 1)).unwrap();
    }
    read_all(&mut spool, Sequence(0));
    spool.ack(Sequence(4));
    spool.checkpoint(false).unwrap();
    drop(spool);
    let (mut spool, recovery) = disks.open(limits());
    assert_eq!((recovery.journal_records, recovery.records), (6, 6));
    assert_eq!(uplinks(&mut spool), telemetries(4..10));
    assert_eq!(disks.segments(), 0);
    assert_eq!(spool.status().synced, Sequence(4));
    drop(spool);
    disks.storage.cut_power();
    disks.journal.wipe();
    let (mut spool, recovery) = disks.open(limits());
    assert_eq!((recovery.journal_records, recovery.records), (0, 0));
    assert_eq!(uplinks(&mut spool), []);
    assert_eq!(spool.status().damaged.records, 0, "nothing was promised");
    let next = append(&mut spool, telemetry(10, 1)).unwrap();
    assert!(next > Sequence(10), "never given out twice");
}

#[test]
fn a_journal_that_fails_is_done_without() {
    for operation in [Operation::Write, Operation::Names] {
        let disks = Disks::new(4);
        let (mut spool, _) = disks.open(limits());
        for id in 0..6 {
            append(&mut spool, telemetry(id, 1)).unwrap();
        }
        read_all(&mut spool, Sequence(0));
        spool.ack(Sequence(2));
        spool.checkpoint(false).unwrap();
        disks.journal.fail(operation, 1, StorageError::Fault(5));
        append(&mut spool, telemetry(6, 1)).unwrap();
        // Only a commit changes names in the journal.
        spool.commit_through(Sequence(3)).unwrap();
        for id in 7..10 {
            append(&mut spool, telemetry(id, 1)).unwrap();
        }
        let status = spool.status();
        assert!(status.journal_failed && status.fault.is_none());
        assert_eq!(status.kept, status.last, "written at once");
        drop(spool);
        // What the journal still holds is older than what was written since.
        let (mut spool, recovery) = disks.open(limits());
        assert_eq!(recovery.journal_records, 0);
        assert_eq!(uplinks(&mut spool), telemetries(2..10), "{operation:?}");
        assert_eq!(spool.status().damaged.records, 0);
        assert!(!spool.status().journal_failed, "tried again");
    }
}

#[test]
fn what_was_committed_stays_so_when_the_journal_was_not_turned() {
    for seed in 0..16 {
        let disks = Disks::new(seed);
        let (mut spool, _) = disks.open(limits());
        for id in 0..500 {
            append(&mut spool, telemetry(id, 1)).unwrap();
        }
        // All of them are synced, over several segments, and the process ends before the journal is turned.
        let gone = StorageError::Fault(5);
        disks.journal.fail(Operation::Names, 1, gone);
        spool.commit().unwrap();
        assert!(disks.segments() >= 3 && spool.status().synced == Sequence(500));
        drop(spool);
        let (mut spool, recovery) = disks.open(limits());
        assert_eq!(recovery.records, 500);
        spool.checkpoint(true).unwrap();
        append(&mut spool, telemetry(500, 1)).unwrap();
        drop(spool);
        disks.storage.cut_power();
        disks.journal.wipe();
        let (mut spool, recovery) = disks.open(limits());
        assert_eq!(recovery.damaged_segments, 0);
        assert_eq!(uplinks(&mut spool), telemetries(0..500), "seed {seed}");
    }
}

#[test]
fn what_a_full_journal_cannot_hold_is_written_at_once() {
    let roomy = Limits::new(1 << 20, 64 << 20, 4096).unwrap();
    let roomy = roomy.in_memory(400_000);
    let disks = Disks::new(5);
    let (mut spool, _) = disks.open(roomy);
    // Two bytes in memory, and many more as a frame.
    let tiny = || std::iter::repeat_n(Uplink::Telemetry(Vec::new()), 10_000);
    let mut outcomes = Vec::new();
    for _ in 0..13 {
        spool.append(tiny(), &mut outcomes);
        let status = spool.status();
        assert_eq!((status.kept, status.fault), (status.last, None));
    }
    assert!(outcomes.iter().all(Result::is_ok));
    assert!(disks.segments() > 0);
    drop(spool);
    let (spool, _) = disks.open(roomy);
    assert_eq!(spool.status().depth_records, outcomes.len() as u64);
}

#[test]
fn a_count_of_what_was_dropped_survives_a_kill() {
    let disks = Disks::new(6);
    let keeps = limits().when_full(super::super::Full::DropNewest);
    let (mut spool, _) = disks.open(keeps);
    while append(&mut spool, telemetry(0, 5)).is_ok() {}
    assert!(append(&mut spool, Uplink::Telemetry(Vec::new())).is_err());
    let status = spool.status();
    assert_eq!((status.evicted.records, status.evicted.readings), (2, 5));
    drop(spool);
    let (spool, _) = disks.open(keeps);
    assert_eq!(spool.status().evicted, status.evicted);
    assert_eq!(spool.status().appended, status.appended);
}
