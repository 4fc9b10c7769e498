//! Each way to fail, played by a scripted broker: the cause, its code and its certainty must be exact.

use std::time::{Duration, Instant};

use moorline_core::link::cause::{
    Cause, Certainty, Fault, Inference, MqttVersion, Phase, TransportEnd,
};
use moorline_core::link::{ParkReason, State};
use moorline_core::mqtt_frame::PacketKind;

use super::super::{LinkSettings, Versions};
use super::rig::{self, attribute, reading};
use super::scripted::{Act, connack_v5, connack_v311, play};
use crate::fault_proxy::{Direction, FaultProxy, Mode};

const CONNECT: Act = Act::Expect(PacketKind::Connect);

struct Case {
    version: Versions,
    script: Vec<Act>,
    phase: Phase,
    cause: Cause,
    fault: Fault,
    code: Option<u8>,
    end: Option<TransportEnd>,
}

async fn check(cases: Vec<Case>) {
    let running = cases.into_iter().map(|case| {
        tokio::spawn(async move {
            let broker = play(vec![case.script.clone()]).await;
            let mut rig = rig::start(broker.address, |settings| settings.versions = case.version);
            let seen = rig.first_disconnect().await;
            let found = (
                (seen.cause, seen.cause.fault(), seen.certainty),
                (seen.phase, seen.evidence.reason_code),
                (seen.evidence.transport_end, seen.evidence.errno),
            );
            let errno = (case.end == Some(TransportEnd::Rst)).then_some(104);
            // Only silence leaves anything to conclude.
            let certainty = match case.cause == Cause::PingrespTimeout {
                true => Certainty::Inferred,
                false => Certainty::Certain,
            };
            let expected = (
                (case.cause, case.fault, certainty),
                (case.phase, case.code),
                (case.end, errno),
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
        (seen.cause, seen.phase, seen.evidence.errno),
        (Cause::ConnectRefused, Phase::Tcp, Some(111)),
        "{seen}"
    );
    assert_eq!(seen.cause.fault(), Fault::Peer);

    let mut rig = rig::start(closed, |settings| {
        settings.endpoints[0].host = "no-such-broker.invalid".into()
    });
    let seen = rig.first_disconnect().await;
    assert_eq!(
        (seen.cause, seen.phase),
        (Cause::NameResolution, Phase::Dns),
        "{seen}"
    );

    let acts = [
        (
            Act::Fin,
            Cause::ClosedBeforeConnack,
            Fault::Peer,
            Some(TransportEnd::Fin),
        ),
        (
            Act::Reset,
            Cause::ClosedBeforeConnack,
            Fault::Peer,
            Some(TransportEnd::Rst),
        ),
        (
            Act::Silence,
            Cause::ConnackTimeout,
            Fault::Peer,
            Some(TransportEnd::Local),
        ),
        (
            Act::Send(b"HTTP/1.1 400 Bad Request\r\n".to_vec()),
            Cause::PeerGarbage,
            Fault::Peer,
            None,
        ),
        (
            Act::Send(vec![0xd0, 0]),
            Cause::PeerGarbage,
            Fault::Peer,
            None,
        ),
    ];
    let cases = [Versions::V5, Versions::V311]
        .into_iter()
        .flat_map(|version| {
            acts.clone().map(|(act, cause, fault, end)| Case {
                version,
                script: vec![CONNECT, act],
                phase: Phase::Connect,
                cause,
                fault,
                code: None,
                end,
            })
        });
    check(cases.collect()).await;
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
        (1, Cause::VersionRefused, Fault::Operator),
        (2, Cause::ClientIdRefused, Fault::Operator),
        (3, Cause::ServerUnavailable, Fault::Peer),
        (4, Cause::BadCredentials, Fault::Operator),
        (5, Cause::NotAuthorized, Fault::Operator),
        (9, Cause::ServerReason(9), Fault::Peer),
    ];
    let v5 = [
        (0x80, Cause::ServerReason(0x80), Fault::Peer),
        (0x81, Cause::MalformedPacket, Fault::Us),
        (0x82, Cause::ProtocolError, Fault::Us),
        (0x84, Cause::VersionRefused, Fault::Operator),
        (0x85, Cause::ClientIdRefused, Fault::Operator),
        (0x86, Cause::BadCredentials, Fault::Operator),
        (0x87, Cause::NotAuthorized, Fault::Operator),
        (0x88, Cause::ServerUnavailable, Fault::Peer),
        (0x89, Cause::ServerBusy, Fault::Peer),
        (0x8a, Cause::Banned, Fault::Operator),
        (0x8c, Cause::BadAuthenticationMethod, Fault::Operator),
        (0x95, Cause::PacketTooLarge, Fault::Us),
        (0x97, Cause::QuotaExceeded, Fault::Us),
        (0x9a, Cause::OptionUnsupported(0x9a), Fault::Operator),
        (0x9c, Cause::UseAnotherServer, Fault::Peer),
        (0x9d, Cause::ServerMoved, Fault::Peer),
        (0x9f, Cause::ConnectionRateExceeded, Fault::Us),
        (0xee, Cause::ServerReason(0xee), Fault::Peer),
    ];
    let case = |version, connack, (code, cause, fault)| Case {
        version,
        script: vec![CONNECT, connack],
        phase: Phase::Connect,
        cause,
        fault,
        code: Some(code),
        end: None,
    };
    let v311 = v311.map(|row| case(Versions::V311, connack_v311(row.0), row));
    let v5 = v5.map(|row| case(Versions::V5, connack_v5(row.0), row));
    check(v311.into_iter().chain(v5).collect()).await;
}

#[tokio::test]
async fn a_disconnect_in_each_of_its_forms() {
    let codes = [
        (0x8e, Cause::TakenOver, Fault::Operator),
        (0x8b, Cause::ServerShuttingDown, Fault::Peer),
        (0x8d, Cause::KeepAliveTimeout, Fault::Us),
        (0x97, Cause::QuotaExceeded, Fault::Us),
        (0x96, Cause::MessageRateTooHigh, Fault::Us),
        (0x98, Cause::AdministrativeAction, Fault::Peer),
        (0xa0, Cause::MaximumConnectTime, Fault::Peer),
        (0x93, Cause::ReceiveMaximumExceeded, Fault::Us),
        (0x81, Cause::MalformedPacket, Fault::Us),
        (0x82, Cause::ProtocolError, Fault::Us),
        (0x87, Cause::NotAuthorized, Fault::Operator),
        (0x89, Cause::ServerBusy, Fault::Peer),
        (0x90, Cause::TopicInvalid, Fault::Operator),
        (0x94, Cause::TopicAliasInvalid, Fault::Us),
        (0x95, Cause::PacketTooLarge, Fault::Us),
        (0x9c, Cause::UseAnotherServer, Fault::Peer),
        (0xee, Cause::ServerReason(0xee), Fault::Peer),
    ];
    let mut cases = vec![Case {
        version: Versions::V5,
        script: vec![CONNECT, connack_v5(0), Act::Send(vec![0xe0, 0])],
        phase: Phase::Session,
        cause: Cause::ServerReason(0),
        fault: Fault::Peer,
        code: Some(0),
        end: None,
    }];
    for (code, cause, fault) in codes {
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
                fault,
                code: Some(code),
                end: None,
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

    let refused = [
        0x20, 17, 0, 0x9c, 14, 0x1f, 0, 4, b'f', b'u', b'l', b'l', 0x1c, 0, 4, b'e', b'u', b'-',
        b'2',
    ];
    let broker = play(vec![vec![CONNECT, Act::Send(refused.to_vec())]]).await;
    let mut rig = rig::start(broker.address, |_| {});
    let seen = rig.first_disconnect().await;
    assert_eq!(
        (seen.cause, seen.phase),
        (Cause::UseAnotherServer, Phase::Connect)
    );
    assert_eq!(seen.evidence.reason_string.as_deref(), Some("full"));
    assert_eq!(seen.evidence.server_reference.as_deref(), Some("eu-2"));
    let text = seen.to_string();
    assert!(text.contains("0x9c") && text.contains("full"), "{text}");
}

/// The crate refuses its second PINGREQ while the first has no answer; with a short keep-alive that comes before our own
/// deadline, and must not be taken for a peer that sends nonsense.
#[tokio::test]
async fn a_keep_alive_shorter_than_our_deadline_still_says_pingresp_timeout() {
    for (version, connack) in [
        (Versions::V5, connack_v5(0)),
        (Versions::V311, connack_v311(0)),
    ] {
        let broker = play(vec![vec![CONNECT, connack, Act::Silence]]).await;
        let mut rig = rig::start(broker.address, |settings| {
            settings.versions = version;
            settings.liveness.pingresp = Duration::from_secs(60);
        });
        let seen = rig.first_disconnect().await;
        assert_eq!(
            (seen.cause, seen.certainty),
            (Cause::PingrespTimeout, Certainty::Inferred),
            "{seen}"
        );
        assert_eq!(seen.evidence.transport_end, Some(TransportEnd::Local));
        assert_eq!(seen.evidence.last_sent, Some("PINGREQ"));
    }
}

#[tokio::test]
async fn the_servers_keep_alive_replaces_ours() {
    let connack = Act::Send(vec![0x20, 6, 0, 0, 3, 0x13, 0, 1]);
    let mut broker = play(vec![vec![
        CONNECT,
        connack,
        Act::Expect(PacketKind::Pingreq),
        Act::Fin,
    ]])
    .await;
    let mut rig = rig::start(broker.address, |settings| {
        settings.keep_alive = Duration::from_secs(600);
    });
    let seen = rig.first_disconnect().await;
    assert_eq!(seen.evidence.keep_alive, Some(Duration::from_secs(1)));
    assert_eq!(
        seen.cause,
        Cause::ClosedByServer(Inference::Nothing),
        "{seen}"
    );
    let mut pinged = false;
    while let Ok(seen) = broker.seen.try_recv() {
        pinged |= seen.kind == PacketKind::Pingreq;
    }
    assert!(pinged);
}

fn with_default_deadlines(settings: &mut LinkSettings) {
    let default = LinkSettings::new("", 0, "", std::path::PathBuf::new());
    settings.keep_alive = default.keep_alive;
    settings.liveness = default.liveness;
}

/// Nothing of the numbers is the test's: what a gateway runs with must find a dead peer in ten seconds.
#[tokio::test]
async fn a_black_hole_under_load_is_found_within_ten_seconds_by_default() {
    for_each_direction(|direction| async move {
        let broker = play(vec![vec![CONNECT, connack_v5(0), Act::Serve]]).await;
        let proxy = FaultProxy::bind(broker.address).await.expect("a port");
        let mut rig = rig::start(proxy.address(), with_default_deadlines);
        rig.append(reading(0)).await;
        rig.delivered().await;
        let appender = rig.appender.clone();
        let load = tokio::spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_millis(50));
            for number in 1.. {
                tick.tick().await;
                if appender.append(reading(number)).await.is_err() {
                    return;
                }
            }
        });
        proxy
            .set(Mode::BlackHole(direction))
            .await
            .expect("a live proxy");
        let cut = Instant::now();
        let seen = rig.first_disconnect().await;
        let took = cut.elapsed();
        load.abort();
        assert!(
            took <= Duration::from_secs(10),
            "{direction:?}: {took:?} {seen}"
        );
        assert_eq!(
            (seen.cause, seen.certainty, seen.cause.fault()),
            // The proxy's kernel acknowledges what the proxy does not pass on.
            (Cause::PingrespTimeout, Certainty::Inferred, Fault::Peer),
            "{seen}"
        );
        eprintln!("black hole {direction:?}: found after {took:?}");
    })
    .await;
}

async fn for_each_direction<F>(check: impl Fn(Option<Direction>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let directions = [None, Some(Direction::ToBroker), Some(Direction::ToClient)];
    let running: Vec<_> = directions
        .map(|direction| tokio::spawn(check(direction)))
        .into();
    for direction in running {
        direction.await.expect("the direction holds");
    }
}

#[tokio::test]
async fn a_deaf_peer_is_found_within_ten_seconds_by_default_and_is_no_black_hole() {
    let broker = play(vec![vec![CONNECT, connack_v5(0), Act::Deaf]]).await;
    let mut rig = rig::start(broker.address, |settings| {
        with_default_deadlines(settings);
    });
    rig.up().await;
    for number in 0..600 {
        rig.append(attribute(number, 60_000)).await;
    }
    let full = Instant::now();
    let seen = rig.first_disconnect().await;
    let took = full.elapsed();
    assert!(took <= Duration::from_secs(10), "{took:?} {seen}");
    assert_eq!(
        (seen.cause, seen.cause.fault(), seen.evidence.transport_end),
        (Cause::WriteStalled, Fault::Peer, Some(TransportEnd::Local)),
        "{seen}"
    );
}

#[tokio::test]
async fn a_session_the_peer_breaks_without_a_word() {
    let silent = Cause::ClosedByServer(Inference::Nothing);
    let case = |v5, act, (cause, fault), end| {
        let (version, connack) = if v5 {
            (Versions::V5, connack_v5(0))
        } else {
            (Versions::V311, connack_v311(0))
        };
        Case {
            version,
            script: vec![CONNECT, connack, Act::Expect(PacketKind::Subscribe), act],
            phase: Phase::Session,
            cause,
            fault,
            code: None,
            end,
        }
    };
    let mut cases = Vec::new();
    for v5 in [true, false] {
        cases.extend([
            case(v5, Act::Fin, (silent, Fault::Peer), Some(TransportEnd::Fin)),
            case(
                v5,
                Act::Reset,
                (Cause::Reset, Fault::Network),
                Some(TransportEnd::Rst),
            ),
            case(
                v5,
                Act::Silence,
                (Cause::PingrespTimeout, Fault::Peer),
                Some(TransportEnd::Local),
            ),
        ]);
        let malformed = [
            // A packet type that does not exist.
            vec![0x00, 0x13],
            // A PUBREL, and the first half of a PINGREQ no server may send.
            vec![0x62, 2, 0, 1, 0xc0, 0],
            // A remaining length of five bytes.
            vec![0x30, 0xff, 0xff, 0xff, 0xff, 0x01],
            // A PUBLISH whose topic is longer than the packet.
            vec![0x30, 3, 0xff, 0xff, b'x'],
            // A second CONNACK.
            vec![0x20, 3, 0, 0, 0],
            // An acknowledgement of what was never sent.
            vec![0x40, 2, 0, 77],
            // More than we said we would take.
            vec![0x30, 0x80, 0x80, 0x80, 0x01, 0, 1, b't'],
        ];
        cases.extend(malformed.map(|bytes| {
            case(
                v5,
                Act::Send(bytes),
                (Cause::PeerGarbage, Fault::Peer),
                None,
            )
        }));
    }
    check(cases).await;
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
async fn a_broker_that_takes_no_packet_of_ours_is_told_so_and_costs_no_reading() {
    // Maximum Packet Size 1.
    let tiny = Act::Send(vec![0x20, 8, 0, 0, 5, 0x27, 0, 0, 0, 1]);
    let broker = play(vec![vec![CONNECT, tiny, Act::Serve]]).await;
    let mut rig = rig::start(broker.address, |_| {});
    rig.append(attribute(0, 10)).await;
    let seen = rig.first_disconnect().await;
    assert_eq!(seen.cause, Cause::PacketTooLarge, "{seen}");
    assert_eq!(seen.evidence.transport_end, Some(TransportEnd::Local));
    let words = seen.evidence.detail.unwrap_or_default();
    assert!(words.contains("maximum packet size"), "{words}");
    assert_eq!(rig.status.borrow().dead_letters, 0);
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
            settings.inflight_bytes_max = usize::MAX;
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
    // Told in the old form, told in the new, and told by closing on what it cannot read.
    let told = [
        (vec![connack_v311(1)], Cause::VersionRefused),
        (vec![connack_v5(0x84)], Cause::VersionRefused),
        (
            vec![Act::Fin, Act::Fin, Act::Fin],
            Cause::ClosedBeforeConnack,
        ),
    ];
    for (refusals, cause) in told {
        let fives = refusals.len();
        let mut scripts: Vec<_> = refusals
            .into_iter()
            .map(|refusal| vec![CONNECT, refusal])
            .collect();
        let lost = Act::Acknowledge {
            publishes: 1,
            code: 0,
        };
        scripts.push(vec![CONNECT, connack_v311(0), lost, Act::Reset]);
        scripts.push(vec![CONNECT, connack_v311(0), Act::Serve]);
        let mut broker = play(scripts).await;
        let mut rig = rig::start(broker.address, |_| {});
        rig.append(attribute(1, 10)).await;
        rig.append(attribute(2, 10)).await;
        rig.up_again(2).await;
        rig.delivered().await;
        let first = rig.first_disconnect().await;
        assert_eq!(
            (first.cause, first.version),
            (cause, MqttVersion::V5),
            "{first}"
        );
        assert_eq!(rig.status.borrow().version, Some(MqttVersion::V311));
        let mut levels = Vec::new();
        while let Ok(seen) = broker.seen.try_recv() {
            if seen.kind == PacketKind::Connect {
                levels.push(seen.frame[8]);
            }
        }
        let (five, four) = levels.split_at(fives);
        assert!(five.iter().all(|&level| level == 5), "{levels:?}");
        assert_eq!(four, [4, 4]);
    }
}

#[tokio::test]
async fn a_link_told_to_speak_one_version_parks_instead_of_another() {
    let broker = play(vec![vec![CONNECT, connack_v311(1)]]).await;
    let mut rig = rig::start(broker.address, |settings| {
        settings.versions = Versions::V5;
    });
    assert_eq!(rig.first_disconnect().await.cause, Cause::VersionRefused);
    let state = rig.status.borrow().state.clone();
    assert_eq!(
        state,
        State::Parked {
            reason: ParkReason::Version
        }
    );
}

/// Two sessions that end soon and without a word, and what a connection meets after that without a CONNECT.
async fn after_two_silent_ends(knocked: Act) -> Cause {
    let session = vec![CONNECT, connack_v5(0), Act::Fin];
    let serve = vec![CONNECT, connack_v5(0), Act::Serve];
    let broker = play(vec![
        session.clone(),
        session,
        vec![knocked.clone()],
        vec![knocked],
        serve,
    ]);
    let broker = broker.await;
    let mut rig = rig::start(broker.address, |settings| settings.versions = Versions::V5);
    rig.disconnect(1).await.record.disconnect.cause
}

#[tokio::test]
async fn a_balancer_that_takes_connections_for_a_dead_broker_is_no_other_client() {
    let (gone, there) = tokio::join!(
        after_two_silent_ends(Act::Fin),
        after_two_silent_ends(Act::Silence)
    );
    assert_eq!(gone, Cause::ClosedByServer(Inference::Nothing));
    assert_eq!(there, Cause::ClosedByServer(Inference::TakeoverOrAccess));
}
