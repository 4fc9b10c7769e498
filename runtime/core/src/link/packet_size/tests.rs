use std::time::Duration;

use super::*;
use crate::link::cause::{Evidence, MqttVersion};
use crate::link::classify::Classifier;
use crate::link::poison::Poison;
use crate::message::Sequence;

const CONFIGURED: usize = 64 * 1024;
const RST: Observed = Observed::Errno(104);

/// The machines that learn from the end of a session, together as the driver has them.
struct Link {
    classifier: Classifier,
    size: PacketSize,
    poison: Poison,
    broker: Arc<str>,
    /// The oldest message in flight.
    suspect: Sequence,
}

impl Link {
    fn new() -> Self {
        Self {
            classifier: Classifier::default(),
            size: PacketSize::default(),
            poison: Poison::default(),
            broker: Arc::from("broker:1883"),
            suspect: Sequence(7),
        }
    }

    fn bytes_max(&self) -> usize {
        self.size.bytes_max(&self.broker).unwrap_or(CONFIGURED)
    }

    /// A session that ends so.
    fn ends(&mut self, observed: Observed, publishes: Publishes) -> (Disconnect, Verdict) {
        let mut observation = Observation {
            phase: Phase::Session,
            version: MqttVersion::V5,
            observed,
            evidence: Evidence {
                since_sent: Some(Duration::from_millis(3)),
                silence: Some(Duration::from_millis(1)),
                session: Some(Duration::from_millis(50)),
                keep_alive: Some(Duration::from_secs(30)),
                ..Evidence::default()
            },
            suspect: Some(self.suspect),
        };
        let bytes_max = self.bytes_max();
        self.size
            .explain(&self.broker, &mut observation, publishes, bytes_max);
        let disconnect = self.classifier.classify(observation);
        let verdict = self.size.ended(&self.broker, &disconnect);
        if verdict == Verdict::Innocent {
            self.poison
                .ended(self.classifier.suspect(), Some(Sequence(9)));
        }
        (disconnect, verdict)
    }

    /// How many sessions end until none does any more, or a message is guilty: the broker `takes` so many bytes, and the
    /// message gets as small as asked if it is `divisible`.
    fn sessions_with(&mut self, message: usize, takes: usize, divisible: bool) -> u32 {
        for session in 0..100 {
            let bytes = if divisible {
                message.min(self.bytes_max())
            } else {
                message
            };
            if bytes <= takes || self.poison.guilty().is_some() {
                return session;
            }
            let publishes = Publishes {
                in_flight: bytes,
                acknowledged: 0,
            };
            self.ends(RST, publishes);
        }
        panic!("it goes on for ever: {:?}", self.size);
    }
}

fn in_flight(bytes: usize) -> Publishes {
    Publishes {
        in_flight: bytes,
        acknowledged: 0,
    }
}

#[test]
fn a_broker_that_takes_20_kib_and_does_not_say_so_gets_publishes_that_it_takes() {
    let mut link = Link::new();
    assert_eq!(link.sessions_with(60_000, 20 * 1024, true), 4);
    assert_eq!(link.bytes_max(), 15_000);
    assert_eq!(link.poison.careful_through(), None, "no message is blamed");
    // Another broker is another matter.
    assert_eq!(link.size.bytes_max("other:1883"), None);
}

#[test]
fn one_close_may_be_chance_and_so_are_two_with_another_end_between() {
    let mut link = Link::new();
    for _ in 0..5 {
        assert_eq!(link.ends(RST, in_flight(60_000)).1, Verdict::Suspected);
        let (_, verdict) = link.ends(Observed::PingrespMissing, in_flight(60_000));
        assert_eq!(verdict, Verdict::Innocent);
    }
    assert_eq!(link.bytes_max(), CONFIGURED);
}

#[test]
fn what_the_broker_has_acknowledged_is_not_too_large() {
    let mut link = Link::new();
    let proven = Publishes {
        in_flight: 40_000,
        acknowledged: 50_000,
    };
    for _ in 0..5 {
        assert_eq!(link.ends(RST, proven).1, Verdict::Innocent);
    }
    // Also in a session before, and it never gets smaller than that.
    assert_eq!(link.ends(RST, in_flight(40_000)).1, Verdict::Innocent);
    link.ends(RST, in_flight(60_000));
    assert_eq!(
        link.ends(RST, in_flight(60_000)).1,
        Verdict::Smaller(50_000)
    );
}

#[test]
fn a_broker_that_says_so_need_say_it_once() {
    let mut link = Link::new();
    let told = Observed::ServerDisconnect(PACKET_TOO_LARGE);
    let (disconnect, verdict) = link.ends(told, in_flight(60_000));
    assert_eq!(verdict, Verdict::Smaller(30_000));
    assert_eq!(disconnect.cause, Cause::PacketTooLarge);
}

#[test]
fn it_is_halved_down_to_what_every_broker_takes_and_then_a_message_is_looked_for() {
    let mut link = Link::new();
    // Whatever is in it: the broker dies of it.
    let sessions = link.sessions_with(60_000, 0, true);
    assert_eq!(link.bytes_max(), LEAST);
    assert!(link.poison.guilty().is_some(), "{:?}", link.poison);
    assert!(sessions <= 12, "{sessions}");
}

#[test]
fn a_small_message_that_kills_is_found_as_before() {
    let mut link = Link::new();
    let mut alone = Poison::default();
    for _ in 0..4 {
        let (disconnect, verdict) = link.ends(Observed::Fin, in_flight(LEAST));
        assert_eq!(disconnect.evidence.unproven_bytes, None);
        assert_eq!(verdict, Verdict::Innocent);
        alone.ended(link.classifier.suspect(), Some(Sequence(9)));
        assert_eq!(
            (link.poison.careful_through(), link.poison.guilty()),
            (alone.careful_through(), alone.guilty())
        );
    }
    assert!(link.poison.guilty().is_some());
    assert_eq!(link.bytes_max(), CONFIGURED);
}

#[test]
fn what_cannot_be_divided_is_tried_smaller_once_and_then_looked_at_as_a_message() {
    let mut link = Link::new();
    let sessions = link.sessions_with(30_000, 20 * 1024, false);
    assert_eq!(link.bytes_max(), 15_000);
    assert!(link.poison.guilty().is_some());
    assert!(sessions <= 6, "{sessions}");
}

/// Closed in order, soon after CONNACK and again and again: that is how a takeover looks, too.
#[test]
fn closes_right_behind_a_large_publish_are_no_takeover() {
    let mut link = Link::new();
    for session in 0..4 {
        // What was in flight before it is acknowledged meanwhile: no message is suspected twice.
        link.suspect = Sequence(session);
        let bytes = 60_000_usize.min(link.bytes_max());
        let (disconnect, verdict) = link.ends(Observed::Fin, in_flight(bytes));
        assert_ne!(
            disconnect.cause,
            Cause::ClosedByServer(Inference::TakeoverOrAccess)
        );
        let smaller = matches!(verdict, Verdict::Smaller(_));
        assert_eq!(smaller, session % 2 == 1, "{verdict:?}");
    }
}

#[test]
fn so_many_brokers_are_remembered_and_no_more() {
    let mut size = PacketSize::default();
    for number in 0..100 {
        size.of(&Arc::from(format!("broker-{number}").as_str()));
    }
    assert_eq!(size.brokers.len(), BROKERS_MAX);
}
