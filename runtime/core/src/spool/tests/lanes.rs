//! Several ranges, read and acknowledged beside each other.

use super::super::range::RANGES_MAX;
use super::super::{Lane, Spool};
use super::{ROOMY, SimStorage, append, open, telemetry};
use crate::message::Sequence;

/// Everything in `lane`, by sequence.
fn sequences(spool: &mut Spool<SimStorage>, lane: Lane) -> Vec<u64> {
    let mut records = Vec::new();
    loop {
        let already = records.len();
        let after = records
            .last()
            .map_or(Sequence(0), |record: &super::Record| record.sequence);
        spool.read(lane, after, 1000, 7, &mut records).unwrap();
        if records.len() == already {
            return records.iter().map(|record| record.sequence.0).collect();
        }
    }
}

fn lengths(spool: &Spool<SimStorage>) -> Vec<(Lane, u64)> {
    let lanes = spool.lanes();
    lanes
        .map(|(lane, waiting)| (lane, waiting.records))
        .collect()
}

fn append_many(spool: &mut Spool<SimStorage>, count: i64) {
    for id in 0..count {
        append(spool, telemetry(id, 3)).unwrap();
    }
}

#[test]
fn what_waited_and_what_comes_are_delivered_side_by_side() {
    let storage = SimStorage::new(1, ROOMY);
    let (mut spool, _) = open(&storage);
    append_many(&mut spool, 10);
    assert!(spool.divide());
    assert!(!spool.divide(), "nothing came since");
    append_many(&mut spool, 5);
    let backlog = Lane::Backlog(Sequence(10));
    assert_eq!(lengths(&spool), [(backlog, 10), (Lane::Live, 5)]);
    assert_eq!(sequences(&mut spool, Lane::Live), [11, 12, 13, 14, 15]);
    assert_eq!(sequences(&mut spool, backlog), Vec::from_iter(1..=10));
    spool.ack(Sequence(13));
    assert_eq!(lengths(&spool), [(backlog, 10), (Lane::Live, 2)]);
    assert_eq!(spool.status().acked, Sequence(0));
    spool.ack(Sequence(4));
    assert_eq!(lengths(&spool), [(backlog, 6), (Lane::Live, 2)]);
    assert_eq!(spool.lane_of(Sequence(4)), None);
    assert_eq!(spool.lane_of(Sequence(5)), Some(backlog));
    spool.commit().unwrap();
    spool.checkpoint(true).unwrap();
    drop(spool);
    storage.cut_power();
    let (mut spool, recovery) = open(&storage);
    assert_eq!(recovery.records, 8, "the ranges survive a power cut");
    assert_eq!(lengths(&spool), [(backlog, 6), (Lane::Live, 2)]);
    assert_eq!(sequences(&mut spool, Lane::Live), [14, 15]);
    assert_eq!(sequences(&mut spool, backlog), Vec::from_iter(5..=10));
    spool.ack(Sequence(10));
    assert_eq!(lengths(&spool), [(Lane::Live, 2)], "a settled one is gone");
    spool.ack(Sequence(15));
    assert_eq!(spool.status().acked, Sequence(15));
    assert_eq!(spool.status().damaged.records, 0);
}

#[test]
fn a_backlog_is_read_newest_segment_first() {
    let storage = SimStorage::new(2, ROOMY);
    let (mut spool, _) = open(&storage);
    append_many(&mut spool, 500);
    assert!(spool.divide());
    append_many(&mut spool, 3);
    let mut whole = Vec::new();
    let mut oldest = Lane::Backlog(Sequence(500));
    loop {
        let divided = spool.divide_backlog(oldest);
        let lanes = lengths(&spool);
        // Of the two halves the newer one keeps the name.
        let newest = if divided { lanes[1].0 } else { lanes[0].0 };
        let part = sequences(&mut spool, newest);
        assert!(part.is_sorted() && !part.is_empty());
        assert!(
            whole
                .last()
                .is_none_or(|older: &Vec<u64>| older[0] == part[part.len() - 1] + 1)
        );
        spool.ack(Sequence(part[part.len() - 1]));
        whole.push(part);
        if !divided {
            break;
        }
        oldest = lanes[0].0;
    }
    assert!(whole.len() >= 3, "{} segments", whole.len());
    let mut all = whole.concat();
    all.sort_unstable();
    assert_eq!(all, Vec::from_iter(1..=500));
    assert_eq!(lengths(&spool), [(Lane::Live, 3)]);
}

#[test]
fn with_too_many_ranges_a_session_divides_no_further() {
    let storage = SimStorage::new(3, ROOMY);
    let (mut spool, _) = open(&storage);
    let mut divided = 0;
    for _ in 0..2 * RANGES_MAX {
        append_many(&mut spool, 1);
        divided += usize::from(spool.divide());
    }
    assert_eq!(divided, RANGES_MAX - 1);
    let lanes = lengths(&spool);
    let all: Vec<_> = lanes
        .into_iter()
        .flat_map(|(lane, _)| sequences(&mut spool, lane))
        .collect();
    assert_eq!(all, Vec::from_iter(1..=2 * RANGES_MAX as u64));
}
