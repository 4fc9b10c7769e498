//! Each way to fail, played by a scripted broker: the cause, its code and its certainty must be exact.

use moorline_core::link::cause::{Cause, Certainty, Inference, MqttVersion, Phase, TransportEnd};
use moorline_core::mqtt_frame::PacketKind;
use std::time::Duration;

use super::super::Versions;
use super::rig::{self, attribute, reading};
use super::scripted::{Act, connack_v5, connack_v311, play};

const CONNECT: Act = Act::Expect(PacketKind::Connect);

struct Case {
    version: Versions,
    script: Vec<Act>,
    phase: Phase,
    cause: Cause,
    code: Option<u8>,
}

async fn check(cases: Vec<Case>) {
    let running = cases.into_iter().map(|case| {
        tokio::spawn(async move {
            let broker = play(vec![case.script.clone()]).await;
            let mut rig = rig::start(broker.address, |settings| settings.versions = case.version);
            let seen = rig.first_disconnect().await;
            let expected = (case.cause, case.phase, case.code, Certainty::Certain);
            let found = (
                seen.cause,
                seen.phase,
                seen.evidence.reason_code,
                seen.certainty,
            );
            assert_eq!(found, expected, "{:?}: {seen}", case.script);
        })
    });
    for case in running.collect::<Vec<_>>() {
        case.await.expect("the case holds");
    }
}

#[tokio::test]
async fn an_attempt_that_fails() {
    let closed = play(Vec::new()).await.address;
    let mut rig = rig::start(closed, |_| {});
    let seen = rig.first_disconnect().await;
    assert_eq!(
        (seen.cause, seen.phase),
        (Cause::ConnectRefused, Phase::Tcp),
        "{seen}"
    );

    let mut rig = rig::start(closed, |settings| {
        settings.host = "no-such-broker.invalid".into()
    });
    let seen = rig.first_disconnect().await;
    assert_eq!(
        (seen.cause, seen.phase),
        (Cause::NameResolution, Phase::Dns),
        "{seen}"
    );

    let case = |script, cause| Case {
        version: Versions::V5,
        script,
        phase: Phase::Connect,
        cause,
        code: None,
    };
    check(vec![
        case(vec![CONNECT, Act::Fin], Cause::ClosedBeforeConnack),
        case(vec![CONNECT, Act::Reset], Cause::Reset),
        case(vec![CONNECT, Act::Silence], Cause::ConnackTimeout),
        case(
            vec![CONNECT, Act::Send(b"HTTP/1.1 400 Bad Request\r\n".to_vec())],
            Cause::PeerGarbage,
        ),
        case(vec![CONNECT, Act::Send(vec![0xd0, 0])], Cause::PeerGarbage),
    ])
    .await;
}

#[tokio::test]
async fn a_broker_whose_queue_is_full_is_a_connect_timeout() {
    let socket =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket
        .bind(
            &"127.0.0.1:0"
                .parse::<std::net::SocketAddr>()
                .expect("an address")
                .into(),
        )
        .expect("a port");
    socket.listen(0).expect("listening");
    let address = socket
        .local_addr()
        .ok()
        .and_then(|address| address.as_socket())
        .expect("an address");
    // One waits in the queue; Linux admits one more than asked, and drops the SYNs of all after it.
    let _first = std::net::TcpStream::connect(address).expect("the queue has room for one");
    let mut rig = rig::start(address, |_| {});
    let seen = rig.first_disconnect().await;
    assert_eq!(
        (seen.cause, seen.phase),
        (Cause::ConnectTimeout, Phase::Tcp),
        "{seen}"
    );
}

#[tokio::test]
async fn a_connack_that_refuses() {
    let v311 = [
        (1, Cause::VersionRefused),
        (2, Cause::ClientIdRefused),
        (3, Cause::ServerUnavailable),
        (4, Cause::BadCredentials),
        (5, Cause::NotAuthorized),
        (9, Cause::ServerReason(9)),
    ];
    let v5 = [
        (0x80, Cause::ServerReason(0x80)),
        (0x81, Cause::MalformedPacket),
        (0x82, Cause::ProtocolError),
        (0x84, Cause::VersionRefused),
        (0x85, Cause::ClientIdRefused),
        (0x86, Cause::BadCredentials),
        (0x87, Cause::NotAuthorized),
        (0x88, Cause::ServerUnavailable),
        (0x89, Cause::ServerBusy),
        (0x8a, Cause::Banned),
        (0x8c, Cause::BadAuthenticationMethod),
        (0x95, Cause::PacketTooLarge),
        (0x97, Cause::QuotaExceeded),
        (0x9a, Cause::OptionUnsupported(0x9a)),
        (0x9c, Cause::UseAnotherServer),
        (0x9d, Cause::ServerMoved),
        (0x9f, Cause::ConnectionRateExceeded),
        (0xee, Cause::ServerReason(0xee)),
    ];
    let case = |version, connack, code, cause| Case {
        version,
        script: vec![CONNECT, connack],
        phase: Phase::Connect,
        cause,
        code: Some(code),
    };
    let v311 = v311.map(|(code, cause)| case(Versions::V311, connack_v311(code), code, cause));
    let v5 = v5.map(|(code, cause)| case(Versions::V5, connack_v5(code), code, cause));
    check(v311.into_iter().chain(v5).collect()).await;
}

#[tokio::test]
async fn a_disconnect_in_each_of_its_forms() {
    let codes = [
        (0x8e, Cause::TakenOver),
        (0x8b, Cause::ServerShuttingDown),
        (0x8d, Cause::KeepAliveTimeout),
        (0x97, Cause::QuotaExceeded),
        (0x96, Cause::MessageRateTooHigh),
        (0x98, Cause::AdministrativeAction),
        (0xa0, Cause::MaximumConnectTime),
        (0x93, Cause::ReceiveMaximumExceeded),
        (0x81, Cause::MalformedPacket),
    ];
    let mut cases = vec![Case {
        version: Versions::V5,
        script: vec![CONNECT, connack_v5(0), Act::Send(vec![0xe0, 0])],
        phase: Phase::Session,
        cause: Cause::ServerReason(0),
        code: Some(0),
    }];
    for (code, cause) in codes {
        for form in [
            vec![0xe0, 1, code],
            vec![0xe0, 2, code, 0],
            vec![0xe0, 7, code, 5, 0x1f, 0, 2, b'o', b'k'],
        ] {
            let script = vec![
                CONNECT,
                connack_v5(0),
                Act::Expect(PacketKind::Subscribe),
                Act::Send(form),
            ];
            cases.push(Case {
                version: Versions::V5,
                script,
                phase: Phase::Session,
                cause,
                code: Some(code),
            });
        }
    }
    check(cases).await;
}

#[tokio::test]
async fn what_a_server_says_about_its_reason_is_kept() {
    let said = [
        0xe0, 16, 0x9d, 14, 0x1f, 0, 4, b'm', b'o', b'v', b'e', 0x1c, 0, 4, b'e', b'u', b'-', b'1',
    ];
    let broker = play(vec![vec![CONNECT, connack_v5(0), Act::Send(said.to_vec())]]).await;
    let seen = rig::start(broker.address, |_| {}).first_disconnect().await;
    assert_eq!(seen.cause, Cause::ServerMoved);
    assert_eq!(seen.evidence.reason_string.as_deref(), Some("move"));
    assert_eq!(seen.evidence.server_reference.as_deref(), Some("eu-1"));
    assert_eq!(seen.evidence.last_received, Some("DISCONNECT"));
    assert!(
        seen.evidence.session.is_some() && seen.evidence.keep_alive == Some(Duration::from_secs(1))
    );
}

#[tokio::test]
async fn a_session_the_peer_breaks_without_a_word() {
    let case = |version, connack: Act, act, cause| Case {
        version,
        script: vec![CONNECT, connack, Act::Expect(PacketKind::Subscribe), act],
        phase: Phase::Session,
        cause,
        code: None,
    };
    let silent = Cause::ClosedByServer(Inference::Nothing);
    check(vec![
        case(Versions::V5, connack_v5(0), Act::Fin, silent),
        case(Versions::V311, connack_v311(0), Act::Fin, silent),
        case(Versions::V5, connack_v5(0), Act::Reset, Cause::Reset),
        case(Versions::V311, connack_v311(0), Act::Reset, Cause::Reset),
        case(
            Versions::V5,
            connack_v5(0),
            Act::Silence,
            Cause::PingrespTimeout,
        ),
        case(
            Versions::V311,
            connack_v311(0),
            Act::Silence,
            Cause::PingrespTimeout,
        ),
        case(
            Versions::V5,
            connack_v5(0),
            Act::Send(vec![0x00, 0x13]),
            Cause::PeerGarbage,
        ),
        case(
            Versions::V311,
            connack_v311(0),
            Act::Send(vec![0x62, 2, 0, 1, 0xc0, 0]),
            Cause::PeerGarbage,
        ),
        // An acknowledgement of what was never sent.
        case(
            Versions::V5,
            connack_v5(0),
            Act::Send(vec![0x40, 2, 0, 77]),
            Cause::PeerGarbage,
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_reset_has_its_errno() {
    let broker = play(vec![vec![
        CONNECT,
        connack_v5(0),
        Act::Expect(PacketKind::Subscribe),
        Act::Reset,
    ]])
    .await;
    let seen = rig::start(broker.address, |_| {}).first_disconnect().await;
    assert_eq!(
        (seen.evidence.errno, seen.evidence.transport_end),
        (Some(104), Some(TransportEnd::Rst)),
        "{seen}"
    );
}

#[tokio::test]
async fn sessions_that_keep_ending_at_once_are_suspicious() {
    let broker = play(vec![vec![
        CONNECT,
        connack_v5(0),
        Act::Expect(PacketKind::Subscribe),
        Act::Fin,
    ]])
    .await;
    let mut rig = rig::start(broker.address, |_| {});
    let second = rig.disconnect(1).await.record.disconnect.clone();
    assert_eq!(
        second.cause,
        Cause::ClosedByServer(Inference::TakeoverOrAccess),
        "{second}"
    );
    assert_eq!(second.certainty, Certainty::Inferred);
}

#[tokio::test]
async fn a_peer_that_answers_nothing_under_load_is_found_by_a_probe() {
    for (version, connack) in [
        (Versions::V5, connack_v5(0)),
        (Versions::V311, connack_v311(0)),
    ] {
        let broker = play(vec![vec![CONNECT, connack, Act::Silence]]).await;
        let mut rig = rig::start(broker.address, |settings| {
            settings.versions = version;
            // The crate's own ping would come far too late.
            settings.keep_alive = Duration::from_secs(600);
            settings.liveness.ack = Duration::from_secs(600);
        });
        rig.append(reading(1)).await;
        let seen = rig.first_disconnect().await;
        assert_eq!(seen.cause, Cause::PingrespTimeout, "{seen}");
        assert_eq!(seen.evidence.last_sent, Some("PINGREQ"));
        assert!(
            seen.evidence
                .ack_age
                .is_some_and(|age| age >= Duration::from_millis(1300)),
            "{seen}"
        );
    }
}

#[tokio::test]
async fn pings_answered_but_publishes_not_is_an_ack_timeout() {
    for (version, connack) in [
        (Versions::V5, connack_v5(0)),
        (Versions::V311, connack_v311(0)),
    ] {
        let broker = play(vec![vec![CONNECT, connack, Act::OnlyPings]]).await;
        let mut rig = rig::start(broker.address, |settings| {
            settings.versions = version;
            settings.liveness.ack = Duration::from_secs(2);
        });
        rig.append(reading(1)).await;
        let seen = rig.first_disconnect().await;
        assert_eq!(seen.cause, Cause::AckTimeout, "{seen}");
    }
}

#[tokio::test]
async fn a_peer_that_stops_reading_is_a_stalled_write() {
    for (version, connack) in [
        (Versions::V5, connack_v5(0)),
        (Versions::V311, connack_v311(0)),
    ] {
        let broker = play(vec![vec![CONNECT, connack, Act::Deaf]]).await;
        let mut rig = rig::start(broker.address, |settings| {
            settings.versions = version;
            settings.inflight_max = 2000;
            settings.liveness.ack = Duration::from_secs(600);
            settings.liveness.probe_after = Duration::from_secs(600);
            settings.liveness.write_stall = Duration::from_secs(1);
        });
        for number in 0..600 {
            rig.append(attribute(number, 60_000)).await;
        }
        let seen = rig.first_disconnect().await;
        assert_eq!(seen.cause, Cause::WriteStalled, "{seen}");
    }
}

#[tokio::test]
async fn a_broker_of_the_older_version_is_found_and_kept() {
    for refusal in [connack_v311(1), connack_v5(0x84)] {
        let older = vec![CONNECT, connack_v311(0), Act::Serve];
        let mut broker = play(vec![vec![CONNECT, refusal], older]).await;
        let mut rig = rig::start(broker.address, |_| {});
        rig.append(reading(1)).await;
        rig.delivered().await;
        let first = rig.first_disconnect().await;
        assert_eq!(
            (first.cause, first.version),
            (Cause::VersionRefused, MqttVersion::V5),
            "{first}"
        );
        assert_eq!(rig.status.borrow().version, Some(MqttVersion::V311));
        let mut levels = Vec::new();
        while let Ok(seen) = broker.seen.try_recv() {
            if seen.kind == PacketKind::Connect {
                levels.push(seen.frame[8]);
            }
        }
        assert_eq!(levels, [5, 4]);
    }
}
