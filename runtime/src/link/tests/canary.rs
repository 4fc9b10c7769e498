//! A message of our own through the broker and back.

use std::time::Duration;

use moorline_core::link::canary::{self, Seen};
use moorline_core::link::cause::{Cause, Fault};
use moorline_core::mqtt_frame::PacketKind;

use super::super::{CanarySettings, LinkSettings, Versions};
use super::mosquitto::Mosquitto;
use super::rig::{self, DEADLINE, Rig, reading};
use super::scripted::{Act, Broker, connack_v5, connack_v311, play};

const CONNECT: Act = Act::Expect(PacketKind::Connect);
const TOPIC: &str = "line-7/canary";
const LOOK_EVERY: Duration = Duration::from_millis(5);

fn every_tenth_of_a_second(settings: &mut LinkSettings) {
    settings.canary = Some(CanarySettings {
        topic: TOPIC.to_owned(),
        timing: canary::Settings {
            interval: Duration::from_millis(100),
            deadline: Duration::from_millis(100),
        },
    });
}

/// Waits until the canaries have shown this.
async fn seen(rig: &Rig, found: impl Fn(&Seen) -> bool) -> Seen {
    let looking = async {
        loop {
            let liveness = rig.status.borrow().liveness;
            if let Some(seen) = liveness.and_then(|of| of.canary).filter(&found) {
                return seen;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let seen = tokio::time::timeout(DEADLINE, looking).await;
    seen.unwrap_or_else(|_| panic!("not seen: {:?}", rig.status.borrow()))
}

fn canaries_sent(broker: &mut Broker) -> usize {
    let mut sent = 0;
    while let Ok(seen) = broker.seen.try_recv() {
        let holds = seen.frame.windows(TOPIC.len());
        sent += usize::from(
            seen.kind == PacketKind::Publish
                && holds.into_iter().any(|part| part == TOPIC.as_bytes()),
        );
    }
    sent
}

#[tokio::test]
async fn mosquitto_leads_it_back_in_both_versions() {
    for version in [Versions::V5, Versions::V311] {
        let Some(mosquitto) = Mosquitto::start("").await else {
            return;
        };
        let mut rig = rig::start(mosquitto.address, |settings| {
            settings.versions = version;
            every_tenth_of_a_second(settings);
            // A loaded machine must not turn a good broker into a bad one.
            if let Some(canary) = &mut settings.canary {
                canary.timing.deadline = DEADLINE;
            }
        });
        rig.append(reading(1)).await;
        let seen = seen(&rig, |seen| seen.back >= 3).await;
        assert_eq!(seen.lost, 0);
        assert!(seen.round_trip.is_some_and(|took| !took.is_zero()));
        rig.delivered().await;
        let status = rig.status.borrow().clone();
        assert_eq!(
            (status.sessions, status.downlinks_dropped),
            (1, 0),
            "a canary is no message from the platform"
        );
    }
}

#[tokio::test]
async fn a_broker_that_stops_delivering_loses_the_session_and_the_next_one_gets_its_turn() {
    for (version, connack) in [
        (Versions::V5, connack_v5(0)),
        (Versions::V311, connack_v311(0)),
    ] {
        let broker = play(vec![
            vec![CONNECT, connack.clone(), Act::ServeEchoing(1)],
            vec![CONNECT, connack, Act::ServeEchoing(usize::MAX)],
        ])
        .await;
        let mut rig = rig::start(broker.address, |settings| {
            settings.versions = version;
            every_tenth_of_a_second(settings);
        });
        let disconnect = rig.first_disconnect().await;
        assert_eq!(
            (disconnect.cause, disconnect.cause.fault()),
            (Cause::CanaryLost, Fault::Peer),
            "{disconnect}"
        );
        assert!(disconnect.evidence.canary_age.is_some(), "{disconnect}");
        rig.up_again(2).await;
        seen(&rig, |seen| seen.back >= 2 && seen.lost >= 3).await;
    }
}

#[tokio::test]
async fn a_topic_that_never_led_back_ends_no_session() {
    let broker = play(vec![vec![CONNECT, connack_v5(0), Act::Serve]]).await;
    let mut rig = rig::start(broker.address, every_tenth_of_a_second);
    let shown = seen(&rig, |seen| seen.lost > 2 * u64::from(canary::LOST_MAX)).await;
    assert_eq!(shown.back, 0);
    rig.append(reading(1)).await;
    rig.delivered().await;
    let status = rig.status.borrow().clone();
    assert!(status.is_up() && status.sessions == 1, "{status:?}");
}

#[tokio::test]
async fn no_canary_goes_to_a_topic_the_broker_refuses() {
    let script = vec![
        CONNECT,
        connack_v5(0),
        Act::RefuseTopic(TOPIC.as_bytes()),
        Act::Serve,
    ];
    let mut broker = play(vec![script]).await;
    let mut rig = rig::start(broker.address, every_tenth_of_a_second);
    rig.up().await;
    // Whatever was to come of the refusal comes before the acknowledgement.
    for number in 0..5 {
        rig.append(reading(number)).await;
        rig.delivered().await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(canaries_sent(&mut broker), 0);
    let status = rig.status.borrow().clone();
    assert!(status.is_up() && status.sessions == 1, "{status:?}");
}
