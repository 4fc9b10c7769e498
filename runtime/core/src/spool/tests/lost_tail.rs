//! Records at the end of a segment that a power cut or rot took: what comes back of them, and where they are counted.

use std::collections::BTreeSet;

use super::super::sim_storage::Operation;
use super::super::storage::StorageError;
use super::super::{Lane, Spool, Totals};
use super::{ROOMY, SimStorage, append, open, read_all, text};
use crate::message::Sequence;

fn sequences(spool: &mut Spool<SimStorage>) -> BTreeSet<Sequence> {
    let records = read_all(spool, Sequence(0)).into_iter();
    records.map(|record| record.sequence).collect()
}

#[test]
fn what_a_power_cut_tore_is_not_made_whole_by_what_is_written_over_it() {
    for seed in 0..300 {
        let storage = SimStorage::new(seed, ROOMY);
        let (mut spool, _) = open(&storage);
        append(&mut spool, text(1, 10)).unwrap();
        spool.commit().unwrap();
        // Of equal length and, but for their beginning, equal.
        for id in 2..5 {
            append(&mut spool, text(id, 2500)).unwrap();
        }
        drop(spool);
        storage.cut_power();
        let (mut spool, _) = open(&storage);
        let mut expected = sequences(&mut spool);
        for id in 5..8 {
            expected.insert(append(&mut spool, text(id, 2500)).unwrap());
        }
        drop(spool);
        storage.cut_power();
        let (mut spool, _) = open(&storage);
        let found = sequences(&mut spool);
        assert!(found.is_subset(&expected), "seed {seed}: {found:?}");
    }
}

/// Five records, and five of a backlog that lie nowhere any more, before a segment whose first record came later.
fn with_a_lost_end() -> Spool<SimStorage> {
    let storage = SimStorage::new(1, ROOMY);
    let (mut spool, _) = open(&storage);
    let end = |spool: &Spool<SimStorage>| spool.segments.back().unwrap().end_offset as usize;
    for id in 0..5 {
        append(&mut spool, text(id, 2000)).unwrap();
    }
    let good = end(&spool);
    for id in 5..10 {
        append(&mut spool, text(id, 50)).unwrap();
    }
    let lost = good..end(&spool);
    assert_eq!(spool.segments.len(), 1);
    assert!(spool.divide());
    spool.commit().unwrap();
    spool.checkpoint(true).unwrap();
    drop(spool);
    let name = storage.files().into_iter().map(|file| file.name);
    let name = name.into_iter().find(|name| name.ends_with(".segment"));
    for offset in lost.step_by(8) {
        assert!(storage.rot(name.as_deref().unwrap(), offset, 3));
    }
    // The cursor's, and the segment's: what is left of it is written to another one.
    storage.fail(Operation::Sync, 2, StorageError::Fault(5));
    let (mut spool, _) = open(&storage);
    storage.heal();
    spool.commit().unwrap();
    append(&mut spool, text(10, 3000)).unwrap();
    spool.commit().unwrap();
    let status = spool.status();
    assert_eq!((status.depth_records, status.damaged.records), (11, 0));
    let starts = spool.segments.iter().rev();
    let starts: Vec<_> = starts.map(|it| it.header.start.sequence).collect();
    assert_eq!(starts[..2], [Sequence(5), Sequence(0)]);
    spool
}

#[test]
fn a_backlog_divided_where_its_end_is_lost_counts_all_of_it() {
    let mut spool = with_a_lost_end();
    assert!(spool.divide_backlog(Lane::Backlog(Sequence(10))));
    assert_eq!(spool.status().depth_records, 11);
    let lanes: Vec<_> = spool.lanes().map(|(lane, _)| lane).collect();
    for lane in lanes {
        let mut records = Vec::new();
        let everything = (usize::MAX, 100);
        spool
            .read(lane, Sequence(0), everything.0, everything.1, &mut records)
            .unwrap();
        if let Some(last) = records.last() {
            spool.ack(last.sequence);
        }
    }
    let status = spool.status();
    assert_eq!((status.depth_records, status.damaged.records), (0, 5));
}

#[test]
fn an_evicted_segment_does_not_count_what_was_lost_behind_it() {
    let mut spool = with_a_lost_end();
    while spool.segments.front().unwrap().header.start.sequence < Sequence(5) {
        spool.evict_oldest().unwrap();
    }
    let five = Totals {
        records: 5,
        readings: 0,
    };
    assert_eq!(spool.status().evicted, five);
    assert_eq!(spool.status().depth_records, 6);
}
