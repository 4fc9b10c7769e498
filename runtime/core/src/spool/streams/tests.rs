//! Several streams, and their lanes after an outage, in one order.

use std::time::Duration;

use super::super::sim_storage::SimStorage;
use super::super::tests::telemetry;
use super::super::{Limits, Spool};
use super::{AfterOutage, Handed, StreamSettings, Streams, Whole};
use crate::message::{Sequence, StreamId, Uplink, Value};
use crate::time::Instant;

const URGENT: StreamId = StreamId(0);
const PLAIN: StreamId = StreamId(1);

fn live_first(share: u8) -> AfterOutage {
    AfterOutage::LiveFirst {
        backlog_share_percent: Whole(share),
        backlog_readings_per_s: None,
        newest_first: false,
    }
}

fn streams(after_outage: AfterOutage) -> Streams<SimStorage> {
    let stream = |name: &str, priority| {
        let limits = Limits::new(16 * 1024, 1024 * 1024, 4 * 1024).unwrap();
        let (spool, _) = Spool::open(SimStorage::new(1, 1 << 30), limits).unwrap();
        let settings = StreamSettings {
            name: name.into(),
            priority,
            after_outage,
            thin_out: false,
        };
        (settings, spool)
    };
    Streams::new(vec![stream("urgent", 0), stream("telemetry", 1)])
}

fn append(streams: &mut Streams<SimStorage>, stream: StreamId, ids: std::ops::Range<i64>) {
    let mut outcomes = Vec::new();
    streams.append(stream, ids.map(|id| telemetry(id, 1)), &mut outcomes);
    assert!(outcomes.iter().all(Result::is_ok));
}

fn id(handed: &Handed) -> i64 {
    match &handed.uplink {
        Uplink::Telemetry(devices) => match devices[0].readings[0].value {
            Value::Integer(id) => id,
            Value::Boolean(_) | Value::Double(_) | Value::Text(_) | Value::Json(_) => -1,
        },
        Uplink::Attributes { .. }
        | Uplink::DeviceConnected { .. }
        | Uplink::DeviceDisconnected { .. }
        | Uplink::RpcReply { .. }
        | Uplink::Gateway { .. }
        | Uplink::GatewayAttributes { .. }
        | Uplink::Letter { .. } => -1,
    }
}

fn read(streams: &mut Streams<SimStorage>, records: usize) -> Vec<Handed> {
    let mut handed = Vec::new();
    let mut left = records;
    while left > 0 {
        let before = handed.len();
        streams
            .read(Instant::ZERO, 1000, left, &mut handed)
            .unwrap();
        if handed.len() == before {
            break;
        }
        left = records - handed.len();
    }
    for pair in handed.windows(2) {
        assert!(pair[0].turn < pair[1].turn, "turns rise");
    }
    handed
}

fn ids(handed: &[Handed]) -> Vec<i64> {
    handed.iter().map(id).collect()
}

#[test]
fn the_stream_with_the_first_claim_overtakes() {
    let mut streams = streams(AfterOutage::BacklogFirst);
    streams.begin(Sequence(0));
    append(&mut streams, PLAIN, 0..10);
    assert_eq!(ids(&read(&mut streams, 3)), [0, 1, 2]);
    append(&mut streams, URGENT, 100..102);
    assert_eq!(ids(&read(&mut streams, 4)), [100, 101, 3, 4]);
}

#[test]
fn acknowledgements_settle_each_stream_by_its_own_records() {
    let mut streams = streams(AfterOutage::BacklogFirst);
    append(&mut streams, PLAIN, 0..5);
    append(&mut streams, URGENT, 100..105);
    streams.begin(Sequence(0));
    let handed = read(&mut streams, 7);
    streams.ack(handed[6].turn, 0);
    let depths: Vec<_> = streams
        .spools()
        .map(|(_, spool)| spool.status().depth_records)
        .collect();
    assert_eq!(depths, [0, 3]);
    assert_eq!(ids(&read(&mut streams, 9)), [2, 3, 4]);
}

#[test]
fn what_was_sent_keeps_its_turn_in_the_next_session_and_the_rest_is_chosen_anew() {
    let mut streams = streams(live_first(0));
    streams.begin(Sequence(0));
    append(&mut streams, PLAIN, 0..10);
    let first = read(&mut streams, 6);
    // Two are acknowledged, two more were sent, and two only read.
    streams.ack(first[1].turn, 0);
    append(&mut streams, URGENT, 100..101);
    streams.begin(first[3].turn);
    append(&mut streams, PLAIN, 10..12);
    let second = read(&mut streams, 20);
    assert_eq!(ids(&second), [2, 3, 100, 10, 11, 4, 5, 6, 7, 8, 9]);
    assert_eq!(second[0].turn, first[2].turn);
    assert_eq!(second[1].turn, first[3].turn);
    let historical: Vec<_> = second.iter().map(|handed| handed.historical).collect();
    assert_eq!(historical[3..5], [false, false]);
    assert!(historical[5..].iter().all(|historical| *historical));
    streams.ack(second[10].turn, 0);
    assert!(!streams.has_more());
    let waiting = streams.spools().map(|(_, s)| s.status().depth_records);
    assert_eq!(waiting.sum::<u64>(), 0);
}

#[test]
fn a_backlog_has_its_share_beside_what_comes() {
    let mut streams = streams(live_first(50));
    append(&mut streams, PLAIN, 0..2000);
    streams.begin(Sequence(0));
    append(&mut streams, PLAIN, 2000..4000);
    let mut handed = Vec::new();
    while handed.len() < 1000 {
        streams.read(Instant::ZERO, 500, 8, &mut handed).unwrap();
    }
    let historical = handed.iter().filter(|handed| handed.historical).count();
    assert!((400..=600).contains(&historical), "{historical} of 1000");
    for old in [true, false] {
        let lane: Vec<_> = handed
            .iter()
            .filter(|handed| handed.historical == old)
            .map(id)
            .collect();
        assert!(lane.is_sorted(), "each lane keeps its order");
    }
}

#[test]
fn a_backlog_keeps_its_pace() {
    let mut streams = streams(AfterOutage::LiveFirst {
        backlog_share_percent: Whole(0),
        backlog_readings_per_s: Some(100),
        newest_first: false,
    });
    append(&mut streams, PLAIN, 0..1000);
    streams.begin(Sequence(0));
    let mut handed = Vec::new();
    let mut now = Instant::ZERO;
    for _ in 0..100_000 {
        if let Some(wait) = streams.read(now, 1000, 10, &mut handed).unwrap() {
            now = now + wait;
        }
        if handed.len() == 1000 {
            break;
        }
    }
    let took = now.saturating_since(Instant::ZERO);
    assert_eq!(handed.len(), 1000);
    assert!(
        took > Duration::from_secs(8) && took < Duration::from_secs(11),
        "{took:?}"
    );
}

#[test]
fn the_newest_segment_of_a_backlog_can_go_first() {
    let mut streams = streams(AfterOutage::LiveFirst {
        backlog_share_percent: Whole(0),
        backlog_readings_per_s: None,
        newest_first: true,
    });
    append(&mut streams, PLAIN, 0..2000);
    streams.spool_mut(PLAIN).unwrap().commit().unwrap();
    streams.begin(Sequence(0));
    let handed = read(&mut streams, 2000);
    let mut seen = ids(&handed);
    assert!(seen[0] > 1000 && seen[0] < 2000, "{}", seen[0]);
    let runs = seen.windows(2).filter(|pair| pair[1] < pair[0]).count();
    assert!(runs > 2 && runs < 20, "{runs} segments, each in order");
    seen.sort_unstable();
    assert_eq!(seen, (0..2000).collect::<Vec<_>>());
}

#[test]
fn thinning_keeps_one_in_so_many_and_counts_the_others() {
    let mut streams = streams(AfterOutage::BacklogFirst);
    streams.streams[1].settings.thin_out = true;
    let mut outcomes = Vec::new();
    let mut accepted = 0;
    for id in 0..60_000 {
        streams.append(PLAIN, [telemetry(id, 1)], &mut outcomes);
        accepted += 1;
    }
    let status = streams.spool_mut(PLAIN).unwrap().status();
    assert_eq!(status.appended.readings, accepted);
    assert_eq!(status.depth_readings + status.evicted.readings, accepted);
    let handed = read(&mut streams, 60_000);
    let half = handed.len() / 2;
    let (first, second) = (id(&handed[0]), id(&handed[handed.len() - 1]));
    assert!(first < 30_000 && second > 50_000, "{first} to {second}");
    assert!(
        id(&handed[half]) < 50_000,
        "the older half is the denser one"
    );
}

#[test]
fn sessions_that_come_and_go_lose_nothing() {
    let mut streams = streams(live_first(20));
    let mut next = 0;
    let mut delivered = std::collections::BTreeSet::new();
    let mut sent = Sequence(0);
    for round in 0..200 {
        append(&mut streams, PLAIN, next..next + 17);
        next += 17;
        if round % 3 == 0 {
            streams.begin(sent);
        }
        let handed = read(&mut streams, 23);
        delivered.extend(handed.iter().map(id));
        if let Some(last) = handed.last() {
            sent = sent.max(last.turn);
        }
        if let Some(acked) = handed.get(11) {
            streams.ack(acked.turn, 0);
        }
    }
    streams.begin(sent);
    loop {
        let handed = read(&mut streams, 100);
        let Some(last) = handed.last() else { break };
        delivered.extend(handed.iter().map(id));
        streams.ack(last.turn, 0);
    }
    assert_eq!(delivered.len() as i64, next);
    assert_eq!(
        streams.spool_mut(PLAIN).unwrap().status().damaged.records,
        0
    );
}

/// Live records and a backlog were in flight when the session ended: both lanes were made one, and the turns of the live
/// records came back with what was oldest. Whoever had found a message guilty by its turn set aside another one.
#[test]
fn a_turn_keeps_its_record_when_both_lanes_were_in_flight() {
    let mut streams = streams(live_first(50));
    append(&mut streams, PLAIN, 0..100);
    streams.begin(Sequence(0));
    append(&mut streams, PLAIN, 100..200);
    let first = read(&mut streams, 120);
    let historical = first.iter().filter(|handed| handed.historical).count();
    assert!(historical > 10 && historical < 110, "both: {historical}");
    let sent = first[99].turn;
    append(&mut streams, PLAIN, 200..300);
    for _session in 0..20 {
        streams.begin(sent);
        let again = read(&mut streams, 100);
        let places = |handed: &[Handed]| -> Vec<_> {
            let handed = handed.iter();
            handed.map(|handed| (handed.turn, id(handed))).collect()
        };
        assert_eq!(places(&again), places(&first[..100]));
    }
    let mut seen: Vec<_> = ids(&first[..100]);
    seen.extend(ids(&read(&mut streams, 1000)));
    seen.sort_unstable();
    assert_eq!(seen, (0..300).collect::<Vec<_>>());
}

#[test]
fn what_is_given_up_in_flight_is_delivered_or_evicted_as_the_link_says() {
    let mut streams = streams(AfterOutage::BacklogFirst);
    streams.begin(Sequence(0));
    append(&mut streams, PLAIN, 0..20_000);
    streams.spool_mut(PLAIN).unwrap().commit().unwrap();
    let handed = read(&mut streams, 50);
    let first = id(&handed[0]);
    append(&mut streams, PLAIN, 20_000..60_000);
    let figures = |streams: &mut Streams<SimStorage>| {
        let status = streams.spool_mut(PLAIN).unwrap().status();
        assert_eq!(status.appended.readings, 60_000);
        (status.evicted.readings, status.depth_readings)
    };
    let (evicted, waiting) = figures(&mut streams);
    // Everything through there is gone from the medium, the fifty in flight as well.
    assert!(evicted > first as u64 + 50, "{evicted}");
    streams.ack(handed[19].turn, 0);
    assert_eq!(figures(&mut streams), (evicted, waiting - 20));
    // The others were lost with the session.
    streams.begin(handed[49].turn);
    assert_eq!(figures(&mut streams), (evicted + 30, waiting - 50));
    let named: u64 = streams
        .spool_mut(PLAIN)
        .unwrap()
        .evicted_by_device()
        .map(|(_, readings)| readings)
        .sum();
    assert_eq!(named, evicted + 30);
    assert!(id(&read(&mut streams, 1)[0]) > first + 50);
}

/// Records in memory are given up in the middle of what came since the session began: what is left before them was taken for a
/// backlog, and the newer ones overtook it.
#[test]
fn what_is_given_up_in_between_lets_nothing_overtake() {
    let storage = SimStorage::new(1, 1 << 30);
    let limits = Limits::new(16 * 1024, 1024 * 1024, 0).unwrap();
    let (spool, _) = Spool::open(storage.clone(), limits.in_memory(2_000)).unwrap();
    let settings = StreamSettings {
        name: "telemetry".into(),
        priority: 1,
        after_outage: live_first(0),
        thin_out: false,
    };
    let mut streams = Streams::new(vec![(settings, spool)]);
    streams.begin(Sequence(0));
    append(&mut streams, URGENT, 0..10);
    streams.spool_mut(URGENT).unwrap().commit().unwrap();
    storage.set_read_only(true);
    append(&mut streams, URGENT, 10..200);
    let spool = streams.spool_mut(URGENT).unwrap();
    assert!(spool.lanes().count() > 1 && spool.status().evicted.records > 0);
    let handed = read(&mut streams, 200);
    let ids = ids(&handed);
    assert!(
        ids.starts_with(&[0, 1, 2]) && ids.ends_with(&[199]),
        "{ids:?}"
    );
    assert!(ids.is_sorted() && handed.iter().all(|handed| !handed.historical));
}
