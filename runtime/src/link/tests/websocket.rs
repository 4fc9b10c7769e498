//! MQTT over WebSocket: with Mosquitto, with a server that frames as it likes, and with those that refuse.

use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use moorline_core::link::cause::{Cause, Fault, Phase, TransportEnd};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, header};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Message, protocol::frame::coding::CloseCode};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

use super::super::{LinkSettings, Versions};
use super::mosquitto::Mosquitto;
use super::rig::{self, attribute, reading};
use super::scripted::{Act, play};

fn over_websocket(settings: &mut LinkSettings) {
    settings.endpoints[0].websocket = Some("/mqtt".to_owned());
    settings.timeouts.websocket = std::time::Duration::from_millis(500);
    settings.versions = Versions::V5;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mosquitto_takes_everything_over_websocket_and_again_after_a_kill() {
    const MESSAGES: u64 = 2_000;
    let address = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        free.local_addr().expect("an address")
    };
    // Mosquitto 2.0.11 does not start with a listener for WebSocket alone.
    let port = address.port();
    let listener = format!("listener {port} 127.0.0.1\nprotocol websockets");
    let Some(mut mosquitto) = Mosquitto::start(&listener).await else {
        return;
    };
    let mut rig = rig::start(address, over_websocket);
    rig.up().await;
    for number in 0..MESSAGES {
        rig.append(attribute(number, 40)).await;
    }
    rig.delivered().await;
    mosquitto.kill();
    for number in 0..MESSAGES {
        rig.append(reading(number)).await;
    }
    mosquitto.restart().await;
    rig.delivered().await;
    // More than one frame's worth.
    rig.append(attribute(0, 60_000)).await;
    rig.delivered().await;
    let status = rig.status.borrow().clone();
    assert_eq!(status.dead_letters, 0, "{status:?}");
    assert!(!status.last_up.expect("a session").took.websocket.is_zero());
}

/// A WebSocket server of one connection, from the upgrade on.
async fn serve<F>(
    script: impl FnOnce(WebSocketStream<TcpStream>) -> F + Send + 'static,
) -> SocketAddr
where
    F: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a connection");
        #[expect(clippy::result_large_err, reason = "the crate's own type")]
        let choose = |request: &Request, mut response: Response| {
            assert_eq!(request.uri().path(), "/mqtt");
            assert_eq!(request.headers()[header::SEC_WEBSOCKET_PROTOCOL], "mqtt");
            let headers = response.headers_mut();
            headers.insert(
                header::SEC_WEBSOCKET_PROTOCOL,
                HeaderValue::from_static("mqtt"),
            );
            Ok(response)
        };
        let stream = accept_hdr_async(stream, choose).await.expect("an upgrade");
        script(stream).await;
    });
    address
}

async fn binary(stream: &mut WebSocketStream<TcpStream>, bytes: &'static [u8]) {
    let message = Message::Binary(Bytes::from_static(bytes));
    stream.send(message).await.expect("the client listens");
}

#[tokio::test]
async fn frames_are_cut_anyhow_pings_are_answered_and_a_close_is_kept_as_evidence() {
    let address = serve(|mut stream| async move {
        let connect = stream.next().await.expect("CONNECT").expect("a frame");
        assert_eq!(connect.into_data().first(), Some(&0x10));
        // A CONNACK in three frames, with a PING between them.
        binary(&mut stream, &[0x20]).await;
        binary(&mut stream, &[3, 0]).await;
        let ping = Message::Ping(Bytes::from_static(b"there?"));
        stream.send(ping).await.expect("the client listens");
        let pong = stream.next().await.expect("an answer").expect("a frame");
        assert_eq!(pong, Message::Pong(Bytes::from_static(b"there?")));
        binary(&mut stream, &[0, 0]).await;
        let subscribe = stream.next().await.expect("SUBSCRIBE").expect("a frame");
        assert_eq!(subscribe.into_data().first(), Some(&0x82));
        let close = CloseFrame {
            code: CloseCode::Restart,
            reason: "maintenance".into(),
        };
        stream.close(Some(close)).await.expect("the client listens");
        while let Some(Ok(_)) = stream.next().await {}
    })
    .await;
    let mut rig = rig::start(address, over_websocket);
    rig.up().await;
    let seen = rig.first_disconnect().await;
    assert_eq!(seen.phase, Phase::Session, "{seen}");
    assert!(matches!(seen.cause, Cause::ClosedByServer(_)), "{seen}");
    assert_eq!(seen.evidence.transport_end, Some(TransportEnd::Fin));
    assert!(
        seen.to_string()
            .contains("the server closed the WebSocket: 1012 \"maintenance\""),
        "{seen}"
    );
}

#[tokio::test]
async fn text_where_mqtt_wants_binary_is_garbage() {
    let address = serve(|mut stream| async move {
        let text = Message::Text("hello".into());
        stream.send(text).await.expect("the client listens");
        while let Some(Ok(_)) = stream.next().await {}
    })
    .await;
    let seen = rig::start(address, over_websocket).first_disconnect().await;
    assert_eq!(
        (seen.cause, seen.phase),
        (Cause::PeerGarbage, Phase::Connect),
        "{seen}"
    );
    assert!(seen.to_string().contains("a text frame"), "{seen}");
}

#[tokio::test]
async fn an_upgrade_that_is_refused_is_told_by_its_status() {
    let http = |text: &str| Act::Send(format!("HTTP/1.1 {text}\r\n\r\n").into_bytes());
    let not_mqtt = "101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade";
    let cases = [
        (http("401 Unauthorized"), 401, Fault::Operator, "401"),
        (http("403 Forbidden"), 403, Fault::Operator, "403"),
        (http("404 Not Found"), 404, Fault::Operator, "404"),
        (http("200 OK"), 200, Fault::Operator, "200"),
        (http("503 Service Unavailable"), 503, Fault::Peer, "503"),
        (http(not_mqtt), 0, Fault::Peer, "Sec-WebSocket-Accept"),
        (
            Act::Send(vec![0x20, 2, 0, 1]),
            0,
            Fault::Peer,
            "ws://127.0.0.1:",
        ),
        (Act::Fin, 0, Fault::Peer, "/mqtt: "),
        (Act::Deaf, 0, Fault::Peer, "no answer within 500ms"),
    ];
    for (answer, status, fault, words) in cases {
        let server = play(vec![vec![answer.clone(), Act::Deaf]]).await;
        let seen = rig::start(server.address, over_websocket)
            .first_disconnect()
            .await;
        assert_eq!(
            (seen.cause, seen.phase, seen.cause.fault()),
            (Cause::WebSocketRefused(status), Phase::WebSocket, fault),
            "{answer:?}: {seen}"
        );
        assert!(seen.to_string().contains(words), "{seen}");
    }
}
