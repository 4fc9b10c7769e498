//! Each QoS ends as it should: when it is written, acknowledged, or completed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use moorline_core::link::cause::MqttVersion;
use moorline_core::message::Qos;
use moorline_core::mqtt_frame::PacketKind;
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::super::dialer::{Carrier, Stream};
use super::super::session::{Message, Session, SessionEvent, Token};
use super::super::wire::Wire;
use super::mosquitto::Mosquitto;
use super::rig::{self, DEADLINE};
use super::scripted::{Act, connack_v5, connack_v311, play};
use crate::clock::Clock;

const CONNECT: Act = Act::Expect(PacketKind::Connect);
const TOPIC: &str = "v1/gateway/telemetry";
const VERSIONS: [MqttVersion; 2] = [MqttVersion::V5, MqttVersion::V311];
const INFLIGHT: u16 = 4;

fn connack(version: MqttVersion) -> Act {
    match version {
        MqttVersion::V5 => connack_v5(0),
        MqttVersion::V311 => connack_v311(0),
    }
}

async fn open(address: SocketAddr, version: MqttVersion, client_id: &str) -> Session {
    let directory: TempDir = tempfile::tempdir().expect("a directory");
    let mut settings = rig::settings(address, &directory);
    settings.inflight_max = INFLIGHT;
    settings.client_id = client_id.to_owned();
    let stream = TcpStream::connect(address).await.expect("a broker");
    let stream = Stream::Direct(Carrier::Plain(stream));
    let wire = Arc::new(Wire::new(Clock::start()));
    let keep_alive = Duration::from_secs(30);
    let mut session = Session::open(stream, version, &settings, keep_alive, wire);
    let up = next(&mut session).await;
    assert!(matches!(up, SessionEvent::Up(_)), "{up:?}");
    session
}

async fn next(session: &mut Session) -> SessionEvent {
    tokio::time::timeout(DEADLINE, session.next())
        .await
        .expect("in time")
}

fn message(qos: Qos, number: u64) -> Message {
    Message {
        topic: TOPIC,
        payload: Bytes::from(number.to_string()),
        qos,
        identity: None,
    }
}

fn publish(session: &mut Session, token: Token, qos: Qos) {
    session
        .publish(token, message(qos, token))
        .expect("there is room");
}

/// The next acknowledgement and its code; what a broker of QoS 2 says before is counted.
async fn acked(session: &mut Session, taken: &mut Vec<Token>) -> (Token, u8) {
    loop {
        match next(session).await {
            SessionEvent::Acked { token, code } => return (token, code),
            SessionEvent::Taken { token } => taken.push(token),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn each_qos_has_its_own_end_and_its_own_token() {
    for version in VERSIONS {
        let broker = play(vec![vec![CONNECT, connack(version), Act::Serve]]).await;
        let mut session = open(broker.address, version, "line-7").await;
        let mut taken = Vec::new();
        publish(&mut session, 1, Qos::AtMostOnce);
        publish(&mut session, 2, Qos::AtLeastOnce);
        session
            .publish_own("canary", "x".to_owned())
            .expect("there is room");
        publish(&mut session, 3, Qos::ExactlyOnce);
        publish(&mut session, 4, Qos::AtMostOnce);
        let mut ends = BTreeMap::new();
        for _ in 0..4 {
            let (token, code) = acked(&mut session, &mut taken).await;
            assert_eq!(ends.insert(token, code), None, "told twice");
        }
        assert_eq!(ends, BTreeMap::from([(1, 0), (2, 0), (3, 0), (4, 0)]));
        assert_eq!(taken, [3], "PUBREC comes before PUBCOMP");
    }
}

#[tokio::test]
async fn what_is_refused_with_pubrec_has_ended_and_leaves_nothing_behind() {
    let refusing = Act::Acknowledge {
        publishes: 10,
        code: 0x87,
    };
    let mut broker = play(vec![vec![CONNECT, connack_v5(0), refusing, Act::Serve]]).await;
    let mut session = open(broker.address, MqttVersion::V5, "line-7").await;
    let mut taken = Vec::new();
    // More than may be in flight: each frees its identifier.
    for token in 0..10 {
        publish(&mut session, token, Qos::ExactlyOnce);
        assert_eq!(acked(&mut session, &mut taken).await, (token, 0x87));
    }
    assert!(taken.is_empty());
    publish(&mut session, 10, Qos::ExactlyOnce);
    assert_eq!(acked(&mut session, &mut taken).await, (10, 0));
    let mut released = 0;
    while let Ok(seen) = broker.seen.try_recv() {
        released += usize::from(seen.kind == PacketKind::Pubrel);
    }
    assert_eq!(released, 1, "what is refused is not released");
}

#[tokio::test]
async fn a_full_session_says_so_and_takes_more_when_it_has_written() {
    let broker = play(vec![vec![CONNECT, connack_v5(0), Act::Serve]]).await;
    let mut session = open(broker.address, MqttVersion::V5, "line-7").await;
    let mut sent = 0;
    while session.has_room() {
        publish(&mut session, sent, Qos::AtMostOnce);
        sent += 1;
    }
    assert!(sent >= u64::from(INFLIGHT));
    let mut taken = Vec::new();
    for token in 0..sent {
        assert_eq!(acked(&mut session, &mut taken).await, (token, 0));
    }
    assert!(session.has_room());
}

/// On a line without faults each arrives once.
#[tokio::test]
async fn mosquitto_completes_each_qos_in_both_versions() {
    const EACH: u64 = 50;
    for version in VERSIONS {
        let Some(mosquitto) = Mosquitto::start("").await else {
            return;
        };
        let mut platform = open(mosquitto.address, version, "platform").await;
        platform.subscribe(&[(TOPIC, 1)]).expect("there is room");
        let subscribed = next(&mut platform).await;
        assert!(matches!(
            subscribed,
            SessionEvent::Subscribed { refused: 0 }
        ));
        let mut session = open(mosquitto.address, version, "line-7").await;
        let mut taken = Vec::new();
        for token in 0..3 * EACH {
            let qos = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce];
            publish(
                &mut session,
                token,
                qos[usize::try_from(token % 3).expect("small")],
            );
            assert_eq!(acked(&mut session, &mut taken).await, (token, 0));
        }
        assert_eq!(taken.len() as u64, EACH);
        let mut arrived = BTreeSet::new();
        for _ in 0..3 * EACH {
            let SessionEvent::Received(received) = next(&mut platform).await else {
                panic!("nothing but messages is expected")
            };
            // What is QoS 0 to the subscriber overtakes what waits for its acknowledgements.
            assert!(
                arrived.insert(received.payload),
                "twice: {:?}",
                received.topic
            );
            // Without its acknowledgements Mosquitto would stop after twenty.
            if let Some(due) = received.due {
                platform.acknowledge(due);
            }
        }
    }
}
