//! What the platform refused for good is kept beside the spool.

use super::super::dead_letter::{self, Letter};
use super::super::storage::{Storage, StorageError};
use super::{ROOMY, SimStorage, open, read_all};
use crate::message::{Sequence, Uplink};
use crate::time::TimestampMs;

fn letter(id: u64, bytes: usize) -> Letter {
    Letter {
        at_ms: TimestampMs(1_700_000_000_000),
        reason: dead_letter::Reason::Refused { code: 0x87 },
        sequence: Sequence(id),
        readings: 2,
        topic: "v1/gateway/telemetry".into(),
        payload: "x".repeat(bytes),
    }
}

fn letters(storage: &SimStorage) -> Vec<u64> {
    let files = storage.files();
    files
        .iter()
        .filter_map(|file| dead_letter::number(&file.name))
        .collect()
}

#[test]
fn a_dead_letter_survives_a_power_cut_and_can_be_sent_again() {
    let mut storage = SimStorage::new(14, ROOMY);
    let (mut spool, _) = open(&storage);
    for id in 1..=3 {
        assert_eq!(spool.keep(&letter(id, 10)).unwrap().number, id);
    }
    storage.cut_power();
    let (mut spool, _) = open(&storage);
    assert_eq!(letters(&storage), [1, 2, 3]);
    storage
        .rename(&dead_letter::file_name(2), &dead_letter::replay_name(2))
        .unwrap();
    assert_eq!(spool.keep(&letter(4, 10)).unwrap().number, 4);
    assert_eq!(spool.replay().unwrap().letters, 1);
    assert_eq!(letters(&storage), [1, 3, 4]);
    assert_eq!(spool.status().depth_readings, 2);
    storage.cut_power();
    let (mut spool, _) = open(&storage);
    let again = Uplink::Letter {
        topic: "v1/gateway/telemetry".into(),
        payload: "x".repeat(10),
        readings: 2,
    };
    let records = read_all(&mut spool, Sequence(0));
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].uplink, again);
}

#[test]
fn dead_letters_stay_in_their_bounds() {
    let storage = SimStorage::new(15, ROOMY);
    let (mut spool, _) = open(&storage);
    for id in 0..dead_letter::LETTERS_MAX as u64 + 5 {
        spool.keep(&letter(id, 1)).unwrap();
    }
    let kept = letters(&storage);
    assert_eq!((kept.len(), kept[0]), (dead_letter::LETTERS_MAX, 6));
    let third = usize::try_from(dead_letter::LETTER_BYTES_MAX / 3).unwrap();
    for id in 0..4 {
        spool.keep(&letter(id, third)).unwrap();
    }
    assert_eq!(
        letters(&storage).len(),
        2,
        "three do not fit with their names"
    );
    let too_large = letter(9, 4 * third);
    assert_eq!(spool.keep(&too_large), Err(StorageError::Full));
}

#[test]
fn what_is_no_letter_is_not_sent_and_stays() {
    let mut storage = SimStorage::new(16, ROOMY);
    let (mut spool, _) = open(&storage);
    let name = dead_letter::replay_name(7);
    let mut file = storage.create(&name).unwrap();
    storage.write_at(&mut file, 0, b"{}").unwrap();
    assert_eq!(spool.replay().unwrap().unreadable, 1);
    assert_eq!(letters(&storage), [7]);
    assert_eq!(spool.status().depth_records, 0);
}
