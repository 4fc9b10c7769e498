//! Several brokers: who takes over, and where a server that has moved leads.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use moorline_core::link::cause::{Cause, Phase};
use moorline_core::mqtt_frame::PacketKind;
use tokio::sync::mpsc;

use super::super::{EndpointSettings, LinkSettings, TlsSettings, Versions};
use super::mosquitto::{Mosquitto, numbers};
use super::rig::{self, DEADLINE, Rig, attribute, reading};
use super::scripted::{Act, connack_v5, play};
use crate::fault_proxy::tap::Acknowledged;
use crate::fault_proxy::{FaultProxy, Mode};

const ACKNOWLEDGED: usize = 4096;

fn brokers(addresses: &[SocketAddr]) -> impl FnOnce(&mut LinkSettings) {
    let endpoints = addresses.iter().zip(1..).map(|(address, priority)| {
        let mut endpoint = EndpointSettings::new(address.ip().to_string(), address.port());
        endpoint.priority = priority;
        endpoint
    });
    let endpoints = endpoints.collect();
    move |settings| {
        settings.endpoints = endpoints;
        settings.versions = Versions::V5;
    }
}

/// Waits for a session with the broker at `address`.
async fn up_at(rig: &mut Rig, address: SocketAddr) {
    let name = address.to_string();
    let there = rig
        .status
        .wait_for(|status| status.is_up() && *status.endpoint == *name);
    let there = tokio::time::timeout(DEADLINE, there).await;
    assert!(there.is_ok(), "{:?}", rig.link.status().borrow());
}

/// Waits until one of the brokers has acknowledged each of these numbers.
async fn arrived(
    acknowledged: &mut mpsc::Receiver<Acknowledged>,
    seen: &mut BTreeSet<u64>,
    expected: u64,
) {
    while (seen.len() as u64) < expected {
        // How fast it goes is the machine's business, but it goes on.
        let next = tokio::time::timeout(DEADLINE, acknowledged.recv()).await;
        let Ok(next) = next else {
            panic!("{} of {expected} arrived", seen.len())
        };
        seen.extend(numbers(&next.expect("a tap")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_broker_takes_over_and_the_first_gets_it_back_and_nothing_is_lost() {
    const MESSAGES: u64 = 1_000;
    let (Some(mut first), Some(mut second)) =
        (Mosquitto::start("").await, Mosquitto::start("").await)
    else {
        return;
    };
    let (tap, mut acknowledged) = mpsc::channel(ACKNOWLEDGED);
    let tapped = |address| FaultProxy::bind_tapped(address, tap.clone());
    let to_first = tapped(first.address).await.expect("a port");
    let to_second = tapped(second.address).await.expect("a port");
    let (a, b) = (to_first.address(), to_second.address());
    let mut rig = rig::start(a, brokers(&[a, b]));
    let mut seen = BTreeSet::new();
    let mut appended = 0;
    for (turn, broker) in [a, b, a].into_iter().enumerate() {
        up_at(&mut rig, broker).await;
        for number in appended..appended + MESSAGES {
            rig.append(attribute(number, 40)).await;
        }
        appended += MESSAGES;
        // In the middle of it.
        arrived(&mut acknowledged, &mut seen, appended - MESSAGES / 2).await;
        // Nobody takes a connection at a dead broker's address. A proxy that went on to listen would look like brokers that
        // close one after the other within seconds, and that is taken for another client with our id.
        match turn {
            0 => {
                to_first.set(Mode::Refuse).await.expect("a proxy");
                first.kill();
            }
            1 => {
                to_second.set(Mode::Refuse).await.expect("a proxy");
                second.kill();
                first.restart().await;
                to_first.set(Mode::Pass).await.expect("a proxy");
            }
            _ => {}
        }
    }
    arrived(&mut acknowledged, &mut seen, appended).await;
    rig.delivered().await;
    assert_eq!(seen, (0..appended).collect());
    let status = rig.status.borrow().clone();
    for record in &status.disconnects {
        let endpoint = &record.record.endpoint;
        assert!(
            **endpoint == *a.to_string() || **endpoint == *b.to_string(),
            "{}",
            record.text
        );
        assert!(
            record.text.contains(&format!(") at {endpoint}; ")),
            "{}",
            record.text
        );
    }
}

/// A CONNACK that sends the client elsewhere (MQTT 5.0 section 3.2.2.3.16).
fn elsewhere(reference: &str) -> Act {
    let mut properties = vec![0x1c, 0];
    properties.push(u8::try_from(reference.len()).expect("short"));
    properties.extend_from_slice(reference.as_bytes());
    let length = u8::try_from(properties.len()).expect("short");
    let mut connack = vec![0x20, length + 3, 0, 0x9c, length];
    connack.extend_from_slice(&properties);
    Act::Send(connack)
}

#[tokio::test]
async fn a_server_that_refers_to_another_is_followed_there() {
    const CONNECT: Act = Act::Expect(PacketKind::Connect);
    let other = play(vec![vec![CONNECT, connack_v5(0), Act::Serve]]).await;
    let reference = other.address.to_string();
    let first = play(vec![vec![CONNECT, elsewhere(&reference), Act::Deaf]]).await;
    let mut rig = rig::start(first.address, |settings| settings.versions = Versions::V5);
    rig.append(reading(1)).await;
    let seen = rig.first_disconnect().await;
    assert_eq!(
        (seen.cause, seen.phase),
        (Cause::UseAnotherServer, Phase::Connect),
        "{seen}"
    );
    rig.delivered().await;
    up_at(&mut rig, other.address).await;
    let status = rig.status.borrow().clone();
    assert_eq!(status.disconnects.len(), 1, "{status:?}");
    assert_eq!(status.last_up.map(|up| up.peer), Some(Some(other.address)));
}

#[test]
fn who_is_referred_to_inherits_tls_and_must_prove_its_own_name() {
    use moorline_core::link::endpoints::ServerReference;

    let mut referrer = EndpointSettings::new("a.example", 8883);
    referrer.tls = Some(TlsSettings {
        server_name: Some("plant.example".into()),
        ..TlsSettings::default()
    });
    let to = |text: &str| {
        let to = ServerReference::parse(text).expect("a reference");
        referrer.referring_to(&to)
    };
    let other = to("b.example");
    assert_eq!(other.name(), "b.example:8883");
    assert_eq!(other.tls.expect("TLS").server_name, None);
    let other = to("b.example:1883");
    assert_eq!((other.port, other.tls.is_some()), (1883, true));
}

#[tokio::test]
async fn a_broker_that_never_answers_does_not_keep_the_other_from_its_turn() {
    let deaf = play(vec![vec![Act::Deaf]]).await;
    let good = play(vec![vec![
        Act::Expect(PacketKind::Connect),
        connack_v5(0),
        Act::Serve,
    ]])
    .await;
    let mut rig = rig::start(deaf.address, brokers(&[deaf.address, good.address]));
    rig.append(reading(1)).await;
    rig.delivered().await;
    let status = rig.status.borrow().clone();
    let up = status.last_up.expect("a session");
    assert_eq!(
        (&*up.endpoint, up.attempts),
        (&*good.address.to_string(), 2)
    );
    assert!(up.down < Duration::from_secs(5), "{:?}", up.down);
}
