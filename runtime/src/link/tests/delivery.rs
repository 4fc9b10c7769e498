//! What reaches the broker: everything, in order, inside its limits; and what is refused is counted.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use moorline_core::link::Next;
use moorline_core::link::cause::{Cause, Intent, Phase};
use moorline_core::message::{DeviceName, Key, Uplink, Value};
use moorline_core::mqtt_frame::PacketKind;

use super::super::{LinkCommand, LinkSettings, Versions};
use super::rig::{self, DEADLINE, attribute, reading};
use super::scripted::{Act, Broker, Seen, connack_v5, connack_v311, payload_v5, play};

const CONNECT: Act = Act::Expect(PacketKind::Connect);

/// CONNACK with Receive Maximum 3 and Maximum Packet Size 400.
fn strict_connack() -> Act {
    Act::Send(vec![0x20, 11, 0, 0, 8, 0x21, 0, 3, 0x27, 0, 0, 1, 0x90])
}

async fn publish(broker: &mut Broker) -> Seen {
    let wanted = async {
        loop {
            let seen = broker.seen.recv().await.expect("the broker plays");
            if seen.kind == PacketKind::Publish {
                return seen;
            }
        }
    };
    tokio::time::timeout(DEADLINE, wanted)
        .await
        .expect("a publish")
}

#[tokio::test]
async fn everything_arrives_in_order_across_broken_sessions() {
    let broken = vec![
        CONNECT,
        connack_v5(0),
        Act::Acknowledge {
            publishes: 7,
            code: 0,
        },
        Act::Reset,
    ];
    let silent = vec![
        CONNECT,
        connack_v5(0),
        Act::Acknowledge {
            publishes: 3,
            code: 0,
        },
        Act::Silence,
    ];
    let good = vec![CONNECT, connack_v5(0), Act::Serve];
    let mut broker = play(vec![broken.clone(), silent, broken, good]).await;
    let mut rig = rig::start(broker.address, |_| {});
    for number in 0..400 {
        rig.append(attribute(number, 10)).await;
    }
    rig.delivered().await;

    let mut numbers = vec![Vec::new(); 4];
    while let Ok(seen) = broker.seen.try_recv() {
        if seen.kind == PacketKind::Publish {
            let payload: serde_json::Value =
                serde_json::from_slice(payload_v5(&seen.frame)).expect("JSON");
            numbers[seen.connection].push(payload["d"]["n"].as_u64().expect("a number"));
        }
    }
    let all: BTreeSet<_> = numbers.iter().flatten().copied().collect();
    assert_eq!(all, (0..400).collect());
    for session in numbers {
        assert!(
            session.is_sorted_by(|a, b| a + 1 == *b),
            "a gap or a step back: {session:?}"
        );
    }
    assert_eq!(rig.status.borrow().sessions, 4);
}

#[tokio::test]
async fn the_brokers_limits_are_kept() {
    let mut broker = play(vec![vec![CONNECT, strict_connack(), Act::OnlyPings]]).await;
    let mut rig = rig::start(broker.address, |settings| {
        settings.liveness.ack = Duration::from_secs(1)
    });
    for number in 0..50 {
        rig.append(reading(number)).await;
    }
    rig.append(attribute(50, 1000)).await;
    for number in 51..60 {
        rig.append(attribute(number, 10)).await;
    }
    // The session ends because nothing is acknowledged; until then no more than three publishes may have come.
    rig.first_disconnect().await;
    let mut publishes = Vec::new();
    while let Ok(seen) = broker.seen.try_recv() {
        if seen.kind == PacketKind::Publish && seen.connection == 0 {
            publishes.push(seen.frame.len());
        }
    }
    assert_eq!(publishes.len(), 3);
    assert!(publishes.iter().all(|&bytes| bytes <= 400), "{publishes:?}");
}

#[tokio::test]
async fn what_no_packet_can_carry_is_set_aside_once_and_the_rest_goes() {
    let first = vec![
        CONNECT,
        strict_connack(),
        Act::Acknowledge {
            publishes: 1,
            code: 0,
        },
        Act::Reset,
    ];
    let broker = play(vec![first, vec![CONNECT, strict_connack(), Act::Serve]]).await;
    let mut rig = rig::start(broker.address, |_| {});
    rig.append(attribute(0, 10)).await;
    rig.append(attribute(1, 1000)).await;
    rig.append(attribute(2, 10)).await;
    rig.append(attribute(3, 10)).await;
    rig.delivered().await;
    assert_eq!(rig.status.borrow().dead_letters, 1);
}

#[tokio::test]
async fn a_publish_refused_for_good_is_counted_and_the_link_goes_on() {
    let script = vec![
        CONNECT,
        connack_v5(0),
        Act::Acknowledge {
            publishes: 1,
            code: 0x87,
        },
        Act::Serve,
    ];
    let broker = play(vec![script]).await;
    let mut rig = rig::start(broker.address, |_| {});
    let mut spool = rig.spool.status();
    rig.append(reading(0)).await;
    rig.append(attribute(1, 10)).await;
    rig.delivered().await;
    let told = spool.wait_for(|spool| spool.set_aside_readings > 0);
    let told = tokio::time::timeout(DEADLINE, told).await;
    let told = told.expect("in time").expect("a live spool");
    assert_eq!((told.set_aside_readings, told.depth_readings), (1, 0));
    drop(told);
    let status = rig.status.borrow().clone();
    assert_eq!(
        (
            status.dead_letters,
            status.delivered_publishes,
            status.sessions
        ),
        (1, 1, 1)
    );
    assert!(status.disconnects.is_empty());
}

#[tokio::test]
async fn a_publish_refused_for_now_is_sent_again() {
    let quota = vec![
        CONNECT,
        connack_v5(0),
        Act::Acknowledge {
            publishes: 1,
            code: 0x97,
        },
        Act::Silence,
    ];
    let mut broker = play(vec![quota, vec![CONNECT, connack_v5(0), Act::Serve]]).await;
    let mut rig = rig::start(broker.address, |_| {});
    rig.append(attribute(0, 10)).await;
    let record = rig.disconnect(0).await;
    assert_eq!(
        (
            record.record.disconnect.cause,
            record.record.disconnect.evidence.reason_code
        ),
        (Cause::QuotaExceeded, Some(0x97))
    );
    // The host keeps such a broker's distance, half a minute: an operator cuts it short.
    rig.link
        .commands()
        .send(LinkCommand::Unpark)
        .await
        .expect("the link lives");
    rig.delivered().await;
    assert_eq!(publish(&mut broker).await.connection, 0);
    assert_eq!(publish(&mut broker).await.connection, 1);
    assert_eq!(rig.status.borrow().dead_letters, 0);
}

#[tokio::test]
async fn a_stop_waits_for_what_is_in_flight_and_says_goodbye() {
    let mut broker = play(vec![vec![CONNECT, connack_v5(0), Act::Serve]]).await;
    let mut rig = rig::start(broker.address, |_| {});
    rig.up().await;
    rig.append(attribute(0, 10)).await;
    publish(&mut broker).await;
    let status = rig.link.status();
    rig.link.stop(DEADLINE).await;
    let status = status.borrow();
    let last = status.last_disconnect().expect("the stop is told");
    assert_eq!(last.record.disconnect.cause, Cause::Local(Intent::Shutdown));
    assert_eq!(status.delivered_publishes, 1);
    let goodbye = async {
        while broker
            .seen
            .recv()
            .await
            .is_some_and(|seen| seen.kind != PacketKind::Disconnect)
        {}
    };
    tokio::time::timeout(DEADLINE, goodbye)
        .await
        .expect("a DISCONNECT");
    assert!(!rig.directory.path().join("link/link.running").exists());
}

#[tokio::test]
async fn a_stop_ends_an_attempt_and_a_wait() {
    // In the middle of CONNECT, then while waiting for the next attempt.
    for script in [vec![CONNECT, Act::Silence], vec![CONNECT, Act::Fin]] {
        let mut broker = play(vec![script]).await;
        let rig = rig::start(broker.address, |settings: &mut LinkSettings| {
            settings.pace.floor = Duration::from_secs(600);
            settings.pace.ceiling = Duration::from_secs(600);
            settings.timeouts.connack = Duration::from_secs(600);
        });
        broker.seen.recv().await.expect("a CONNECT");
        tokio::time::timeout(DEADLINE, rig.link.stop(DEADLINE))
            .await
            .expect("a prompt end");
    }
}

#[tokio::test]
async fn a_start_after_an_unclean_end_says_so() {
    let broker = play(vec![vec![CONNECT, connack_v5(0), Act::Serve]]).await;
    let mut rig = rig::start(broker.address, |settings| {
        std::fs::create_dir_all(&settings.state_directory).expect("a directory");
        std::fs::write(settings.state_directory.join("link.running"), "1").expect("a marker");
    });
    rig.up().await;
    let first = rig.first_disconnect().await;
    assert_eq!(
        (first.cause, first.phase),
        (Cause::HostRestarted, Phase::Session)
    );
}

#[tokio::test]
async fn an_rpc_comes_down_unless_the_broker_kept_it() {
    let payload = br#"{"device":"A","data":{"id":7,"method":"set","params":{"v":1}}}"#;
    let topic = b"v1/gateway/rpc";
    let mut frame = vec![
        0x30,
        u8::try_from(2 + topic.len() + 1 + payload.len()).expect("short"),
        0,
        14,
    ];
    frame.extend_from_slice(topic);
    frame.push(0);
    frame.extend_from_slice(payload);
    let mut retained = frame.clone();
    retained[0] = 0x31;
    let id = retained.windows(6).position(|part| part == b"\"id\":7");
    retained[id.expect("an id") + 5] = b'6';
    let script = vec![
        CONNECT,
        connack_v5(0),
        Act::Expect(PacketKind::Subscribe),
        Act::Send(retained),
        Act::Send(frame),
        Act::Serve,
    ];
    let broker = play(vec![script]).await;
    let mut rig = rig::start(broker.address, |_| {});
    let downlink = tokio::time::timeout(DEADLINE, rig.downlinks.arrivals.recv())
        .await
        .expect("in time")
        .expect("a downlink");
    let moorline_core::message::Downlink::Rpc {
        device,
        request_id,
        method,
        ..
    } = downlink.downlink
    else {
        panic!("{downlink:?}")
    };
    assert_eq!(
        (device.as_str(), request_id, method.as_str()),
        ("A", 7, "set")
    );
}

#[tokio::test]
async fn devices_are_announced_again_on_a_new_session() {
    let first = vec![
        CONNECT,
        connack_v5(0),
        Act::Acknowledge {
            publishes: 1,
            code: 0,
        },
        Act::Reset,
    ];
    let mut broker = play(vec![first, vec![CONNECT, connack_v5(0), Act::Serve]]).await;
    let mut rig = rig::start(broker.address, |_| {});
    let device = DeviceName::try_new("press-1").expect("a name");
    rig.append(Uplink::DeviceConnected {
        device,
        profile: "press".into(),
    })
    .await;
    rig.disconnect(0).await;
    assert_eq!(publish(&mut broker).await.connection, 0);
    let again = publish(&mut broker).await;
    assert_eq!(again.connection, 1);
    assert_eq!(
        payload_v5(&again.frame),
        br#"{"device":"press-1","type":"press"}"#
    );
}

#[tokio::test]
async fn what_no_packet_can_carry_does_not_stay_in_the_spool_when_nothing_follows() {
    let broker = play(vec![vec![CONNECT, strict_connack(), Act::Serve]]).await;
    let mut rig = rig::start(broker.address, |_| {});
    let too_large = || Uplink::Attributes {
        device: DeviceName::try_new("d").expect("a name"),
        values: vec![(
            Key::try_new("t").expect("a key"),
            Value::Text("x".repeat(1000)),
        )],
    };
    rig.append(too_large()).await;
    rig.delivered().await;
    assert_eq!(rig.status.borrow().dead_letters, 1);
    rig.append(reading(1)).await;
    rig.append(too_large()).await;
    rig.delivered().await;
    let status = rig.status.borrow().clone();
    // The reading, and an empty publish in the place of each message left out.
    assert_eq!((status.dead_letters, status.delivered_publishes), (2, 3));
}

/// A refusal of a later message must not hide that an earlier one fits no packet of the next session.
#[tokio::test]
async fn every_message_set_aside_is_counted_once_whatever_was_refused_before_it() {
    // The third publish is refused while the first two stay unacknowledged.
    let roomy = vec![
        CONNECT,
        connack_v5(0),
        Act::AnswerOne {
            unanswered: 2,
            code: 0x87,
        },
        Act::HalfClose,
    ];
    let strict = vec![
        CONNECT,
        strict_connack(),
        Act::Acknowledge {
            publishes: 1,
            code: 0,
        },
        Act::Reset,
    ];
    let good = vec![CONNECT, strict_connack(), Act::Serve];
    let broker = play(vec![roomy, strict, good]).await;
    let mut rig = rig::start(broker.address, |_| {});
    for text_bytes in [10, 1000, 10, 10] {
        rig.append(attribute(0, text_bytes)).await;
    }
    rig.delivered().await;
    assert_eq!(rig.status.borrow().dead_letters, 2);
}

#[tokio::test]
async fn a_stop_whose_session_breaks_meanwhile_waits_for_nothing_more() {
    let mut broker = play(vec![vec![
        CONNECT,
        connack_v5(0),
        Act::Expect(PacketKind::Publish),
        Act::Silence,
    ]])
    .await;
    let rig = rig::start(broker.address, |settings| {
        settings.pace.floor = Duration::from_secs(600);
        settings.pace.ceiling = Duration::from_secs(600);
    });
    rig.append(attribute(0, 10)).await;
    publish(&mut broker).await;
    let status = rig.link.status();
    tokio::time::timeout(DEADLINE, rig.link.stop(Duration::from_secs(600)))
        .await
        .expect("an end with the session");
    let status = status.borrow();
    let last = status.last_disconnect().expect("the break is told");
    assert_eq!(last.record.disconnect.cause, Cause::PingrespTimeout);
    assert_eq!(last.record.next, Next::Stopped);
}

#[tokio::test]
async fn a_stop_gives_up_waiting_when_its_grace_is_over() {
    let mut broker = play(vec![vec![CONNECT, connack_v5(0), Act::OnlyPings]]).await;
    let rig = rig::start(broker.address, |settings| {
        settings.liveness.ack = Duration::from_secs(600);
    });
    rig.append(attribute(0, 10)).await;
    publish(&mut broker).await;
    let status = rig.link.status();
    tokio::time::timeout(DEADLINE, rig.link.stop(Duration::from_millis(200)))
        .await
        .expect("an end with the grace");
    let status = status.borrow();
    let last = status.last_disconnect().expect("the stop is told");
    assert_eq!(last.record.disconnect.cause, Cause::Local(Intent::Shutdown));
    assert_eq!(
        (status.delivered_publishes, status.duplicates_possible),
        (0, 1)
    );
}

#[tokio::test]
async fn a_new_process_sends_what_the_one_before_left_unacknowledged() {
    let stopping = vec![
        CONNECT,
        connack_v5(0),
        Act::Acknowledge {
            publishes: 5,
            code: 0,
        },
        Act::OnlyPings,
    ];
    let broker = play(vec![stopping]).await;
    let mut rig = rig::start(broker.address, |_| {});
    for number in 0..20 {
        rig.append(attribute(number, 10)).await;
    }
    let five = rig
        .spool_status
        .wait_for(|status| status.depth_records == 15);
    tokio::time::timeout(DEADLINE, five)
        .await
        .expect("in time")
        .expect("a live spool");
    let directory = rig.end(Duration::ZERO).await;

    let mut broker = play(vec![vec![CONNECT, connack_v5(0), Act::Serve]]).await;
    let mut rig = rig::restart(broker.address, directory, |_| {});
    rig.delivered().await;
    let mut numbers = Vec::new();
    while let Ok(seen) = broker.seen.try_recv() {
        if seen.kind == PacketKind::Publish {
            let payload: serde_json::Value =
                serde_json::from_slice(payload_v5(&seen.frame)).expect("JSON");
            numbers.push(payload["d"]["n"].as_u64().expect("a number"));
        }
    }
    assert_eq!(numbers, (5..20).collect::<Vec<_>>());
    assert!(rig.status.borrow().disconnects.is_empty(), "a clean stop");
}

/// The crate forgets what it read together with the end of the stream; the tap must not let it.
#[tokio::test]
async fn acknowledgements_that_come_with_the_goodbye_count() {
    for (version, connack, goodbye) in [
        (Versions::V5, connack_v5(0), vec![0xe0, 1, 0x8b]),
        (Versions::V311, connack_v311(0), Vec::new()),
    ] {
        let all = Act::AcknowledgeAndSend {
            publishes: 3,
            bytes: goodbye,
        };
        let first = vec![CONNECT, connack.clone(), all, Act::HalfClose];
        let broker = play(vec![first, vec![CONNECT, connack, Act::Serve]]).await;
        let mut rig = rig::start(broker.address, |settings| settings.versions = version);
        for number in 0..3 {
            rig.append(attribute(number, 10)).await;
        }
        rig.delivered().await;
        rig.up_again(2).await;
        let status = rig.status.borrow().clone();
        assert_eq!(
            (status.delivered_publishes, status.duplicates_possible),
            (3, 0),
            "{status:?}"
        );
    }
}

#[tokio::test]
async fn a_broker_that_says_too_much_gets_half_as_much_and_still_all_of_it() {
    const MESSAGES: u64 = 400;
    let too_much = Act::Send(vec![0xe0, 1, 0x96]);
    let taken = Act::Acknowledge {
        publishes: 100,
        code: 0,
    };
    let first = vec![
        Act::Expect(PacketKind::Connect),
        connack_v5(0),
        taken,
        too_much,
    ];
    let then = vec![Act::Expect(PacketKind::Connect), connack_v5(0), Act::Serve];
    let broker = play(vec![first, then]).await;
    // All of it waits before the first goes: how fast a disk takes it is not how fast the link sends it.
    let nobody = rig::start(SocketAddr::from(([127, 0, 0, 1], 1)), |_| {});
    for number in 0..MESSAGES {
        nobody.append(attribute(number, 10)).await;
    }
    let directory = nobody.end(Duration::ZERO).await;
    let mut rig = rig::restart(broker.address, directory, |settings| {
        settings.versions = Versions::V5;
    });
    let seen = rig.first_disconnect().await;
    assert_eq!(seen.cause, Cause::MessageRateTooHigh, "{seen}");
    // An operator need not wait for the half minute.
    let commands = rig.link.commands();
    commands
        .send(LinkCommand::Unpark)
        .await
        .expect("the link lives");
    rig.up_again(2).await;
    let started = std::time::Instant::now();
    rig.delivered().await;
    let took = started.elapsed();
    let limit = rig.status.borrow().publish_limit_per_s;
    let per_s = limit.expect("a limit");
    // At most the hundred that were acknowledged and the hundred in flight can have been the measure.
    assert!(per_s <= 101.0, "{per_s}");
    let least = (MESSAGES - 200) as f64 / per_s / 2.0;
    assert!(took.as_secs_f64() >= least, "{took:?} at {per_s} per s");
}
