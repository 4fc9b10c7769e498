//! The listener against a peer that plays a broker byte by byte.

use std::path::PathBuf;
use std::time::Duration;

use moorline_core::link::cause::MqttVersion;
use moorline_core::mqtt_frame::packet::Publish;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{Heard, Terms, listen};
use crate::clock::Clock;
use crate::link::probe::Prober;
use crate::link::{EndpointSettings, LinkSettings};

const DEADLINE: Duration = Duration::from_secs(20);
const CONNACK: &[u8] = b"\x20\x03\0\0\0";
const CONNACK_RESUMED: &[u8] = b"\x20\x03\x01\0\0";
const SUBACK: &[u8] = b"\x90\x04\0\x01\0\x01";

async fn start() -> (TcpListener, mpsc::Receiver<Heard>) {
    let broker = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = broker.local_addr().unwrap().port();
    let settings = LinkSettings::new("127.0.0.1", port, "audit", PathBuf::new());
    let endpoint = EndpointSettings::new("127.0.0.1", port);
    let prober = Prober::new(settings, endpoint, Clock::start()).unwrap();
    let terms = Terms {
        client_id: "line-7-audit".to_owned(),
        filter: "t".to_owned(),
        session_expiry: Duration::from_secs(60),
        retry: Duration::from_millis(1),
    };
    let (heard, _task) = listen(prober, terms);
    (broker, heard)
}

/// Accepts, reads CONNECT, and answers; whether a clean start was asked for.
async fn accept(broker: &TcpListener, connack: &[u8]) -> (TcpStream, bool) {
    let (mut stream, _) = timeout(DEADLINE, broker.accept()).await.unwrap().unwrap();
    let connect = packet(&mut stream).await;
    assert_eq!(connect[0], 0x10, "{connect:?}");
    let flags = connect[9];
    stream.write_all(connack).await.unwrap();
    (stream, flags & 2 != 0)
}

/// A packet of fewer than 128 bytes.
async fn packet(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = vec![0; 2];
    timeout(DEADLINE, stream.read_exact(&mut bytes))
        .await
        .unwrap()
        .unwrap();
    let length = usize::from(bytes[1]);
    bytes.resize(2 + length, 0);
    stream.read_exact(&mut bytes[2..]).await.unwrap();
    bytes
}

fn publish(payload: &str, packet_id: u16) -> Vec<u8> {
    let publish = Publish {
        topic: "t".to_owned(),
        payload: payload.as_bytes().to_vec(),
        qos: 1,
        retain: false,
        packet_id,
    };
    publish.encode(MqttVersion::V5)
}

async fn next(heard: &mut mpsc::Receiver<Heard>) -> Heard {
    timeout(DEADLINE, heard.recv()).await.unwrap().unwrap()
}

async fn message(heard: &mut mpsc::Receiver<Heard>) -> String {
    match next(heard).await {
        Heard::Message(payload) => String::from_utf8(payload.to_vec()).unwrap(),
        other @ (Heard::Subscribed { .. } | Heard::Refused(_) | Heard::Down(_)) => {
            panic!("{other:?}")
        }
    }
}

#[tokio::test]
async fn what_a_reset_peer_had_sent_is_heard_and_a_kept_session_goes_on() {
    let (broker, mut heard) = start().await;
    let (mut stream, clean) = accept(&broker, CONNACK).await;
    assert!(!clean, "or a Mosquitto would not keep it");
    assert_eq!(packet(&mut stream).await[0], 0x82);
    let mut said = SUBACK.to_vec();
    for (id, word) in (1..).zip(["the", "last", "word"]) {
        said.extend(publish(word, id));
    }
    stream.write_all(&said).await.unwrap();
    // Dead before anything of it is acknowledged.
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(stream);
    let subscribed = next(&mut heard).await;
    assert!(matches!(subscribed, Heard::Subscribed { forgotten: false }));
    for word in ["the", "last", "word"] {
        assert_eq!(message(&mut heard).await, word);
    }
    assert!(matches!(next(&mut heard).await, Heard::Down(_)));

    let (mut stream, clean) = accept(&broker, CONNACK_RESUMED).await;
    assert!(!clean, "the session goes on");
    let subscribed = next(&mut heard).await;
    assert!(matches!(subscribed, Heard::Subscribed { forgotten: false }));
    stream.write_all(&publish("more", 7)).await.unwrap();
    assert_eq!(message(&mut heard).await, "more");
    assert_eq!(packet(&mut stream).await, b"\x40\x02\0\x07");
}

#[tokio::test]
async fn a_session_that_was_not_kept_is_told_and_one_left_behind_is_taken_away() {
    let (broker, mut heard) = start().await;
    let (mut stream, _) = accept(&broker, CONNACK).await;
    packet(&mut stream).await;
    stream.write_all(SUBACK).await.unwrap();
    next(&mut heard).await;
    drop(stream);
    assert!(matches!(next(&mut heard).await, Heard::Down(_)));
    let (mut stream, _) = accept(&broker, CONNACK).await;
    assert_eq!(packet(&mut stream).await[0], 0x82);
    stream.write_all(SUBACK).await.unwrap();
    let subscribed = next(&mut heard).await;
    assert!(matches!(subscribed, Heard::Subscribed { forgotten: true }));
    drop(heard);
    let (mut stream, clean) = accept(&broker, CONNACK).await;
    assert!(clean);
    assert_eq!(packet(&mut stream).await[0], 0xe0);
}
