//! What comes from the platform, and when the broker hears that it came.

use std::time::Duration;

use moorline_core::message::Downlink;
use moorline_core::mqtt_frame::PacketKind;
use rumqttc::mqttbytes::QoS;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, PublishOptions};

use super::super::{Arrival, LinkSettings, MessageIdentity, Versions};
use super::mosquitto::Mosquitto;
use super::rig::{self, DEADLINE, Rig, attribute};
use super::scripted::{Act, Broker, Seen, connack_v5, connack_v311, play};

const CONNECT: Act = Act::Expect(PacketKind::Connect);
const UPDATE: &str = r#"{"device":"d","data":{"limit":7}}"#;

/// An update of shared attributes with QoS 1 and this identifier.
fn update(v5: bool, id: u8) -> Act {
    let topic = b"v1/gateway/attributes";
    let length = 2 + topic.len() + 2 + usize::from(v5) + UPDATE.len();
    let mut frame = vec![0x32, u8::try_from(length).expect("short"), 0];
    frame.push(u8::try_from(topic.len()).expect("short"));
    frame.extend_from_slice(topic);
    frame.extend([0, id]);
    frame.extend(v5.then_some(0));
    frame.extend_from_slice(UPDATE.as_bytes());
    Act::Send(frame)
}

async fn arrival(rig: &mut Rig) -> Arrival {
    tokio::time::timeout(DEADLINE, rig.downlinks.arrivals.recv())
        .await
        .expect("in time")
        .expect("a live link")
}

async fn seen(broker: &mut Broker, kind: PacketKind) -> Seen {
    let looking = async {
        loop {
            let seen = broker.seen.recv().await.expect("the broker plays");
            if seen.kind == kind {
                return seen;
            }
        }
    };
    tokio::time::timeout(DEADLINE, looking)
        .await
        .expect("the packet comes")
}

#[tokio::test]
async fn a_message_is_acknowledged_when_it_is_safe_and_not_before() {
    for (versions, v5) in [(Versions::V5, true), (Versions::V311, false)] {
        let connack = if v5 { connack_v5(0) } else { connack_v311(0) };
        let script = vec![CONNECT, connack, update(v5, 5), update(v5, 6), Act::Serve];
        let mut broker = play(vec![script]).await;
        let mut rig = rig::start(broker.address, |settings| settings.versions = versions);
        let first = arrival(&mut rig).await;
        let second = arrival(&mut rig).await;
        // The link has read both and says something else meanwhile.
        rig.append(attribute(0, 10)).await;
        rig.delivered().await;
        while let Ok(seen) = broker.seen.try_recv() {
            assert_ne!(seen.kind, PacketKind::Puback, "{seen:?}");
        }
        for (arrival, id) in [(second, 6), (first, 5)] {
            let receipt = arrival.receipt.expect("QoS 1 is acknowledged");
            rig.downlinks
                .receipts
                .send(receipt)
                .await
                .expect("a live link");
            let puback = seen(&mut broker, PacketKind::Puback).await;
            assert_eq!(&puback.frame[2..4], [0, id]);
        }
    }
}

#[tokio::test]
async fn a_receipt_of_another_session_acknowledges_nothing() {
    let first = vec![
        CONNECT,
        connack_v5(0),
        update(true, 5),
        Act::Pause(Duration::from_millis(50)),
        Act::Reset,
    ];
    let second = vec![CONNECT, connack_v5(0), update(true, 9), Act::Serve];
    let mut broker = play(vec![first, second]).await;
    let mut rig = rig::start(broker.address, |_| {});
    let stale = arrival(&mut rig).await;
    rig.up_again(2).await;
    let fresh = arrival(&mut rig).await;
    for arrival in [stale, fresh] {
        let receipt = arrival.receipt.expect("QoS 1 is acknowledged");
        rig.downlinks
            .receipts
            .send(receipt)
            .await
            .expect("a live link");
    }
    let puback = seen(&mut broker, PacketKind::Puback).await;
    assert_eq!(&puback.frame[2..4], [0, 9]);
    assert_eq!(
        rig.status.borrow().sessions,
        2,
        "an answer to nothing would end the session"
    );
}

/// The user property's value in each publish of a connection, by its payload's number.
fn names(broker: &mut Broker) -> Vec<(usize, String)> {
    const KEY: &[u8] = b"moorline-id";
    let mut names = Vec::new();
    while let Ok(seen) = broker.seen.try_recv() {
        let at = seen.frame.windows(KEY.len()).position(|part| part == KEY);
        if let Some(at) = at.filter(|_| seen.kind == PacketKind::Publish) {
            let value = &seen.frame[at + KEY.len()..];
            let length = usize::from(u16::from_be_bytes([value[0], value[1]]));
            let name = String::from_utf8_lossy(&value[2..2 + length]).into_owned();
            names.push((seen.connection, name));
        }
    }
    names
}

#[tokio::test]
async fn what_is_sent_again_has_the_name_it_had() {
    let broken = vec![
        CONNECT,
        connack_v5(0),
        Act::Acknowledge {
            publishes: 2,
            code: 0,
        },
        Act::Silence,
    ];
    let mut broker = play(vec![broken, vec![CONNECT, connack_v5(0), Act::Serve]]).await;
    let named = |settings: &mut LinkSettings| {
        settings.liveness.ack = Duration::from_secs(1);
        settings.message_identity = Some(MessageIdentity {
            gateway: "line-7".to_owned(),
            streams: vec!["spool".to_owned()],
        });
    };
    let mut rig = rig::start(broker.address, named);
    rig.up().await;
    // Each is read, and sent, with what was there by then.
    for number in 0..40 {
        rig.append(rig::reading(number)).await;
    }
    rig.first_disconnect().await;
    for number in 40..400 {
        rig.append(rig::reading(number)).await;
    }
    rig.delivered().await;
    let names = names(&mut broker);
    let of = |connection| {
        let of = names.iter().filter(move |(other, _)| *other == connection);
        of.map(|(_, name)| name.as_str()).collect::<Vec<_>>()
    };
    let (first, again) = (of(0), of(1));
    assert!(
        first.len() > 2 && first[0].starts_with("line-7/spool/1-"),
        "{first:?}"
    );
    assert_eq!(&again[..first.len() - 2], &first[2..]);
    assert!(
        again.last().is_some_and(|name| name.ends_with("-400")),
        "{again:?}"
    );
}

async fn say(mosquitto: &Mosquitto) {
    let address = (mosquitto.address.ip().to_string(), mosquitto.address.port());
    let (client, mut events) = AsyncClient::builder(MqttOptions::new("platform", address))
        .capacity(4)
        .build();
    let options = PublishOptions::new(QoS::AtLeastOnce);
    client
        .try_publish("v1/gateway/attributes", UPDATE, options)
        .expect("there is room");
    let said = async {
        while !matches!(
            events.poll().await.expect("a broker"),
            Event::Incoming(Packet::PubAck(_))
        ) {}
    };
    tokio::time::timeout(DEADLINE, said).await.expect("in time");
}

#[tokio::test]
async fn a_kept_session_is_taken_up_again_in_both_versions() {
    for versions in [Versions::V5, Versions::V311] {
        let Some(mosquitto) = Mosquitto::start("").await else {
            return;
        };
        let settings = |settings: &mut LinkSettings| {
            settings.session_expiry = Duration::from_secs(600);
            settings.versions = versions;
        };
        let mut rig = rig::start(mosquitto.address, settings);
        rig.append(attribute(0, 10)).await;
        rig.delivered().await;
        let up = rig.status.borrow().last_up.clone().expect("it is up");
        assert!(up.session_wanted && !up.session_present);
        let directory = rig.end(DEADLINE).await;
        say(&mosquitto).await;
        let mut rig = rig::restart(mosquitto.address, directory, settings);
        let arrival = arrival(&mut rig).await;
        assert!(matches!(
            arrival.downlink,
            Downlink::SharedAttributes { .. }
        ));
        rig.up().await;
        let up = rig.status.borrow().last_up.clone().expect("it is up");
        assert!(up.session_wanted && up.session_present);
        // What the broker kept does not stand in the way of what goes up.
        for number in 1..300 {
            rig.append(attribute(number, 10)).await;
        }
        rig.delivered().await;
        assert_eq!(rig.status.borrow().sessions, 1);
    }
}
