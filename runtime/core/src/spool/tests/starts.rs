//! Starts after an end at which the storage failed, too.

use super::super::cursor::CursorFound;
use super::super::sim_storage::Operation;
use super::super::storage::{Storage, StorageError};
use super::super::{Recovery, Spool};
use super::{ROOMY, SimStorage, append, limits, open, read_all, telemetry};
use crate::message::Sequence;

const IO: StorageError = StorageError::Fault(5);

fn open_both(storage: &SimStorage, journal: &SimStorage) -> (Spool<SimStorage>, Recovery) {
    Spool::open_with(storage.clone(), Some(journal.clone()), limits(), 7).unwrap()
}

fn sequences(spool: &mut Spool<SimStorage>) -> Vec<Sequence> {
    let records = read_all(spool, Sequence(0)).into_iter();
    records.map(|record| record.sequence).collect()
}

#[test]
fn records_are_read_while_the_cursor_is_gone_and_there_is_no_room_for_another() {
    let storage = SimStorage::new(1, ROOMY);
    let (mut spool, _) = open(&storage);
    let first = append(&mut spool, telemetry(1, 1)).unwrap();
    spool.close().unwrap();
    storage.clone().remove("cursor").unwrap();
    storage.set_capacity(0);
    let (mut spool, recovery) = open(&storage);
    assert_eq!(recovery.cursor, CursorFound::Lost);
    assert_eq!(sequences(&mut spool), [first]);
    let second = append(&mut spool, telemetry(2, 1)).unwrap();
    assert_eq!(spool.status().fault, Some(StorageError::Full));
    storage.set_capacity(ROOMY);
    spool.prepare().unwrap();
    assert_eq!(spool.status().fault, None);
    drop(spool);
    let (mut spool, _) = open(&storage);
    assert_eq!(sequences(&mut spool), [first, second]);
}

#[test]
fn a_start_on_a_full_storage_without_anything_says_so() {
    let storage = SimStorage::new(1, 0);
    let refused = Spool::open(storage, limits()).map(|_| ());
    assert_eq!(refused, Err(StorageError::Full));
}

/// The file cannot be read, or both its slots are damaged.
#[test]
fn a_journal_is_found_again_beside_a_cursor_that_tells_nothing() {
    for unreadable in [false, true] {
        let storage = SimStorage::new(1, ROOMY);
        let journal = SimStorage::new(1, ROOMY);
        let (mut spool, _) = open_both(&storage, &journal);
        let first = append(&mut spool, telemetry(1, 1)).unwrap();
        spool.commit().unwrap();
        let second = append(&mut spool, telemetry(2, 1)).unwrap();
        drop(spool);
        if unreadable {
            storage.fail(Operation::Read, 3, IO);
        } else {
            for slot in [0, 4096] {
                storage.rot("cursor", slot + 40, 1);
            }
        }
        let (mut spool, recovery) = open_both(&storage, &journal);
        storage.heal();
        let lost = recovery.cursor == CursorFound::Lost;
        assert!(lost || unreadable, "{recovery:?}");
        assert_eq!(sequences(&mut spool), [first, second], "{recovery:?}");
    }
}

#[test]
fn a_journal_is_not_taken_by_a_new_spool() {
    let storage = SimStorage::new(1, ROOMY);
    let journal = SimStorage::new(1, ROOMY);
    let (mut spool, _) = open_both(&storage, &journal);
    append(&mut spool, telemetry(1, 1)).unwrap();
    drop(spool);
    let (mut spool, recovery) = open_both(&SimStorage::new(2, ROOMY), &journal);
    assert_eq!((recovery.cursor, recovery.records), (CursorFound::Fresh, 0));
    assert!(sequences(&mut spool).is_empty());
}

/// A write of the cursor fails, and all of it is there all the same: the journal's newer state must count.
#[test]
fn a_failed_write_of_the_cursor_takes_no_generation_twice() {
    for seed in 0..2000 {
        let storage = SimStorage::new(seed, ROOMY);
        let journal = SimStorage::new(seed, ROOMY);
        let (spool, _) = open_both(&storage, &journal);
        spool.close().unwrap();
        let (mut spool, _) = open_both(&storage, &journal);
        storage.fail(Operation::Write, 1, IO);
        let accepted: Vec<_> = (0..3)
            .map(|id| append(&mut spool, telemetry(id, 1)).unwrap())
            .collect();
        assert_eq!(spool.status().kept, accepted[2], "seed {seed}");
        drop(spool);
        storage.heal();
        let (mut spool, _) = open_both(&storage, &journal);
        assert_eq!(sequences(&mut spool), accepted, "seed {seed}");
    }
}

/// The process that ended had a sync fail, and could not even write that down.
#[test]
fn a_sync_that_failed_unseen_is_made_good_by_writing_once_more() {
    for seed in 0..200 {
        let storage = SimStorage::new(seed, ROOMY);
        let (mut spool, _) = open(&storage);
        let first = append(&mut spool, telemetry(1, 1)).unwrap();
        storage.fail(Operation::Sync, 100, IO);
        storage.fail(Operation::Write, 100, IO);
        assert!(spool.commit().is_err());
        drop(spool);
        storage.heal();
        let (mut spool, _) = open(&storage);
        let found = sequences(&mut spool);
        assert!(found.is_empty() || found == [first], "seed {seed}");
        let second = append(&mut spool, telemetry(2, 1)).unwrap();
        spool.commit().unwrap();
        drop(spool);
        storage.cut_power();
        let (mut spool, _) = open(&storage);
        let found = sequences(&mut spool);
        assert!(found.contains(&second), "seed {seed}: {found:?}");
        assert!(found.contains(&first), "seed {seed}: {found:?}");
    }
}
