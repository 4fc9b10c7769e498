use std::time::Duration;

use proptest::prelude::*;

use super::frame::{self, MAGIC};
use super::{Arrived, Due, Inbox, Limits, Number, Record, Refusal, Verdict};
use crate::message::{DeviceName, Downlink, Key, Value};
use crate::time::{Instant, TimestampMs};

const LIMITS: Limits = Limits {
    messages_max: 4,
    bytes_max: 64 * 1024,
    rpc_expiry: Duration::from_secs(30),
};
const WALL: TimestampMs = TimestampMs(1_700_000_000_000);

fn at(seconds: u64) -> Instant {
    Instant::from_start(Duration::from_secs(seconds))
}

fn rpc(device: &str, request_id: u64) -> Downlink {
    Downlink::Rpc {
        device: DeviceName::try_new(device).unwrap(),
        request_id,
        method: "set".into(),
        params: "1".into(),
    }
}

fn update(device: &str, value: i64) -> Downlink {
    Downlink::SharedAttributes {
        device: DeviceName::try_new(device).unwrap(),
        changed: vec![(Key::try_new("k").unwrap(), Value::Integer(value))],
        deleted: Vec::new(),
    }
}

/// The inbox with the log that a process would have written.
struct Kept {
    inbox: Inbox,
    log: Vec<u8>,
}

impl Kept {
    fn new() -> Self {
        Self {
            inbox: Inbox::new(LIMITS, at(0)),
            log: MAGIC.to_vec(),
        }
    }

    fn arrive(&mut self, downlink: &Downlink, now: Instant) -> Number {
        match self.inbox.arrive(downlink, false, WALL, now) {
            Arrived::New { number, frame } => {
                self.log.extend(frame);
                number
            }
            other @ (Arrived::Duplicate | Arrived::Full) => panic!("{other:?}"),
        }
    }

    fn settle(&mut self, number: Number) {
        self.log
            .extend(self.inbox.settled(number).expect("it waits"));
    }

    fn next(&mut self, now: Instant) -> Option<Due> {
        self.inbox.next_due(now)
    }

    /// A process that starts so many milliseconds after the messages arrived.
    fn restart(&self, after_ms: u64) -> (Inbox, Vec<Downlink>) {
        let log = frame::decode(&self.log).expect("a log");
        assert!(!log.torn);
        Inbox::recover(LIMITS, log.records, TimestampMs(WALL.0 + after_ms), at(0))
    }
}

#[test]
fn what_was_not_settled_is_handed_out_by_the_next_process() {
    let mut kept = Kept::new();
    let first = kept.arrive(&update("a", 1), at(0));
    kept.arrive(&update("b", 2), at(0));
    kept.arrive(&rpc("a", 7), at(0));
    assert_eq!(kept.next(at(0)).map(|due| due.number), Some(first));
    kept.settle(first);
    let (mut inbox, expired) = kept.restart(5_000);
    assert!(expired.is_empty());
    let due: Vec<_> = std::iter::from_fn(|| inbox.next_due(at(0))).collect();
    assert_eq!(due[0].downlink, update("b", 2));
    assert_eq!(due[1].downlink, rpc("a", 7));
    // Five of its thirty seconds are gone.
    let deadline = due[1].deadline.expect("a request has one");
    assert_eq!(deadline.at, at(25));
    assert!(!deadline.is_over(at(24), TimestampMs(WALL.0 + 29_999)));
    // The machine slept, and only the wall's clock went on.
    assert!(deadline.is_over(at(1), TimestampMs(WALL.0 + 30_000)));
    assert!(due.iter().all(|due| due.recovered) && due.len() == 2);
}

#[test]
fn a_request_of_long_ago_or_of_a_clock_that_went_back_is_not_carried_out() {
    let mut kept = Kept::new();
    kept.arrive(&rpc("a", 7), at(0));
    kept.arrive(&update("a", 1), at(0));
    for after_ms in [30_000, 3_600_000] {
        let (mut inbox, expired) = kept.restart(after_ms);
        assert_eq!(expired, [rpc("a", 7)]);
        assert_eq!(inbox.figures().rpcs_expired, 1);
        assert_eq!(inbox.next_due(at(0)).unwrap().downlink, update("a", 1));
        assert_eq!(inbox.next_due(at(0)), None);
    }
    let records = frame::decode(&kept.log).unwrap().records;
    let (_, expired) = Inbox::recover(LIMITS, records, TimestampMs(WALL.0 - 1), at(0));
    assert_eq!(expired, [rpc("a", 7)]);
}

#[test]
fn a_request_expires_while_nobody_takes_it_and_stays_with_who_has_it() {
    let mut kept = Kept::new();
    let waits = kept.arrive(&rpc("a", 1), at(0));
    assert_eq!(kept.next(at(0)).unwrap().number, waits);
    kept.inbox.refused(waits, Refusal::UnknownDevice, at(0));
    let held = kept.arrive(&rpc("a", 2), at(1));
    assert_eq!(kept.next(at(1)).unwrap().number, waits);
    assert_eq!(kept.next(at(1)).unwrap().number, held);
    kept.inbox.refused(waits, Refusal::UnknownDevice, at(1));
    assert_eq!(kept.inbox.expire(at(29)), []);
    let expired = kept.inbox.expire(at(31));
    assert_eq!(
        expired,
        [(waits, rpc("a", 1), false), (held, rpc("a", 2), true)]
    );
    kept.settle(waits);
    kept.settle(held);
    assert_eq!(kept.inbox.figures().rpcs_expired, 1);
    assert!(kept.inbox.is_empty() && kept.inbox.poll_timeout().is_none());
}

#[test]
fn a_redelivery_is_carried_out_once_even_across_processes_and_a_new_request_always() {
    let mut kept = Kept::new();
    let number = kept.arrive(&rpc("a", 7), at(0));
    kept.next(at(0));
    kept.settle(number);
    let again = |inbox: &mut Inbox| inbox.arrive(&rpc("a", 7), true, WALL, at(1));
    assert_eq!(again(&mut kept.inbox), Arrived::Duplicate);
    let (mut inbox, _) = kept.restart(1_000);
    assert_eq!(again(&mut inbox), Arrived::Duplicate);
    let compact: Vec<_> = kept.inbox.snapshot().collect();
    let (mut inbox, _) = Inbox::recover(LIMITS, compact, WALL, at(0));
    assert_eq!(again(&mut inbox), Arrived::Duplicate);
    assert_eq!(inbox.figures().duplicates, 1);
    // Another request of the same number, and a platform that counts anew.
    let mut other = rpc("a", 7);
    if let Downlink::Rpc { params, .. } = &mut other {
        *params = "2".into();
    }
    for (downlink, redelivered) in [(other, true), (rpc("a", 7), false)] {
        let arrived = inbox.arrive(&downlink, redelivered, WALL, at(1));
        assert!(matches!(arrived, Arrived::New { .. }), "{arrived:?}");
    }
}

#[test]
fn the_updates_of_a_device_keep_their_order_through_refusals() {
    let mut kept = Kept::new();
    let first = kept.arrive(&update("a", 1), at(0));
    let second = kept.arrive(&update("a", 2), at(0));
    let other = kept.arrive(&update("b", 3), at(0));
    assert_eq!(kept.next(at(0)).unwrap().number, first);
    assert_eq!(kept.next(at(0)).unwrap().number, other);
    assert_eq!(kept.next(at(0)), None);
    assert_eq!(
        kept.inbox.refused(first, Refusal::Busy, at(0)),
        Verdict::Later
    );
    assert_eq!(kept.next(at(0)), None);
    assert_eq!(kept.next(at(1)).unwrap().number, first);
    kept.settle(first);
    assert_eq!(kept.next(at(1)).unwrap().number, second);
}

#[test]
fn what_nobody_takes_is_dropped_and_counted() {
    let mut kept = Kept::new();
    let number = kept.arrive(&update("a", 1), at(100));
    kept.next(at(100));
    let refuse = |inbox: &mut Inbox, now| inbox.refused(number, Refusal::UnknownDevice, now);
    assert_eq!(refuse(&mut kept.inbox, at(109)), Verdict::Later);
    assert_eq!(refuse(&mut kept.inbox, at(110)), Verdict::Dropped);
    kept.settle(number);
    let number = kept.arrive(&update("a", 2), at(200));
    for verdict in [Verdict::Later, Verdict::Later, Verdict::Dropped] {
        assert_eq!(
            kept.inbox.refused(number, Refusal::Failed, at(200)),
            verdict
        );
    }
    kept.settle(number);
    assert_eq!(
        kept.inbox.refused(number, Refusal::Failed, at(200)),
        Verdict::Gone
    );
    assert_eq!(kept.inbox.figures().dropped, 2);
}

#[test]
fn a_full_inbox_takes_nothing_until_something_is_settled() {
    let mut kept = Kept::new();
    let numbers: Vec<_> = (0..4).map(|id| kept.arrive(&rpc("a", id), at(0))).collect();
    let full = kept.inbox.arrive(&rpc("a", 9), false, WALL, at(0));
    assert_eq!(full, Arrived::Full);
    kept.settle(numbers[2]);
    kept.arrive(&rpc("a", 9), at(0));
    // What is refused for room is not remembered: its redelivery is news.
    assert_eq!(kept.inbox.figures().duplicates, 0);
}

#[test]
fn a_log_that_was_cut_ends_before_the_cut() {
    let mut kept = Kept::new();
    kept.arrive(&update("a", 1), at(0));
    let whole = kept.log.len();
    kept.arrive(&update("a", 2), at(0));
    for cut in whole..kept.log.len() {
        let log = frame::decode(&kept.log[..cut]).unwrap();
        assert_eq!((log.records.len(), log.good_bytes), (1, whole));
        assert_eq!(log.torn, cut > whole);
    }
    assert_eq!(frame::decode(b"MLINBOX9"), None);
}

#[derive(Clone, Debug)]
enum Step {
    Arrive(u8, bool),
    Hand,
    Settle,
    Refuse(u8),
    Wait(u8),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..4_u8, any::<bool>()).prop_map(|(device, is_request)| Step::Arrive(device, is_request)),
        Just(Step::Hand),
        Just(Step::Settle),
        (0..3_u8).prop_map(Step::Refuse),
        (0..40_u8).prop_map(Step::Wait),
        Just(Step::Restart),
    ]
}

proptest! {
    /// Whatever a disk gives back is read without harm, and as far as it is good.
    #[test]
    fn any_bytes_are_read(rest in prop::collection::vec(any::<u8>(), 0..300), flip in any::<prop::sample::Index>()) {
        let mut log = MAGIC.to_vec();
        log.extend(&rest);
        let read = frame::decode(&log).expect("a log");
        prop_assert!(read.good_bytes <= log.len());
        let mut kept = Kept::new();
        for value in 0..3 {
            kept.arrive(&update("a", value), at(0));
        }
        let at = flip.index(kept.log.len() - MAGIC.len()) + MAGIC.len();
        kept.log[at] ^= 1;
        let read = frame::decode(&kept.log).expect("a log");
        prop_assert!(read.torn && read.records.len() < 3 && read.good_bytes <= at);
    }

    /// Nothing kept is lost: each message is settled, expired, dropped, or still there, whatever happens.
    #[test]
    fn every_message_is_accounted_for(steps in prop::collection::vec(step(), 1..120)) {
        let mut kept = Kept::new();
        let (mut now, mut wall) = (at(0), WALL);
        let (mut arrived, mut ended) = (0_usize, 0_usize);
        let mut handed: Vec<Number> = Vec::new();
        for step in steps {
            match step {
                Step::Arrive(device, is_request) => {
                    let name = format!("d{device}");
                    let downlink = if is_request {
                        rpc(&name, arrived as u64)
                    } else {
                        update(&name, arrived as i64)
                    };
                    match kept.inbox.arrive(&downlink, false, wall, now) {
                        Arrived::New { frame, .. } => {
                            kept.log.extend(frame);
                            arrived += 1;
                        }
                        Arrived::Full => prop_assert_eq!(kept.inbox.len(), LIMITS.messages_max),
                        Arrived::Duplicate => prop_assert!(false, "nothing is redelivered"),
                    }
                }
                Step::Hand => handed.extend(kept.inbox.next_due(now).map(|due| due.number)),
                Step::Settle => {
                    if let Some(frame) = handed.pop().and_then(|number| kept.inbox.settled(number)) {
                        kept.log.extend(frame);
                        ended += 1;
                    }
                }
                Step::Refuse(why) => {
                    let why = [Refusal::UnknownDevice, Refusal::Busy, Refusal::Failed][usize::from(why)];
                    if let Some(number) = handed.pop()
                        && kept.inbox.refused(number, why, now) == Verdict::Dropped
                    {
                        kept.settle(number);
                        ended += 1;
                    }
                }
                Step::Wait(seconds) => {
                    now = now + Duration::from_secs(u64::from(seconds));
                    wall = TimestampMs(wall.0 + 1000 * u64::from(seconds));
                    for (number, _, _) in kept.inbox.expire(now) {
                        kept.settle(number);
                        ended += 1;
                    }
                }
                Step::Restart => {
                    let records = frame::decode(&kept.log).unwrap().records;
                    let waiting = kept.inbox.len();
                    let (inbox, expired) = Inbox::recover(LIMITS, records, wall, now);
                    prop_assert_eq!(waiting, inbox.len() + expired.len());
                    ended += expired.len();
                    let compact: Vec<Record> = inbox.snapshot().collect();
                    kept.log = MAGIC.to_vec();
                    kept.log.extend(compact.iter().flat_map(frame::encode));
                    kept.inbox = inbox;
                    handed.clear();
                }
            }
            prop_assert_eq!(arrived, ended + kept.inbox.len());
        }
        // Whatever waits can be handed out, or is waiting for its turn or its next try.
        while !kept.inbox.is_empty() {
            now = now + Duration::from_secs(1);
            for (number, _, _) in kept.inbox.expire(now) {
                kept.settle(number);
            }
            handed.extend(std::iter::from_fn(|| kept.inbox.next_due(now)).map(|due| due.number));
            prop_assert!(!handed.is_empty() || kept.inbox.is_empty());
            for number in handed.drain(..) {
                kept.inbox.settled(number);
            }
        }
        prop_assert_eq!(kept.inbox.bytes(), 0);
    }
}
