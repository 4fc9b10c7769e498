//! What the platform lets a session send: asked for without delay, kept without loss; and how publishes are filled.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use moorline_core::mqtt_frame::{PacketKind, body};
use moorline_core::thingsboard::limits::{LIMITS_REQUEST, Limits, parse_windows};
use tempfile::TempDir;

use super::super::RateLimits;
use super::rig::{self, DEADLINE, attribute, reading};
use super::scripted::{Act, Broker, Seen, connack_v5, payload_v5, play, qos};

const CONNECT: Act = Act::Expect(PacketKind::Connect);
/// Data is held so long for an answer, and a machine that is busy is given as much again.
const HOLD: Duration = Duration::from_secs(2);

/// One publish of telemetry: when it came and the numbers in it.
struct Arrived {
    at: Instant,
    numbers: Vec<u64>,
}

fn topic(seen: &Seen) -> &str {
    let body = body(&seen.frame);
    let length = usize::from(u16::from_be_bytes([body[0], body[1]]));
    std::str::from_utf8(&body[2..2 + length]).expect("UTF-8")
}

fn numbers(seen: &Seen) -> Vec<u64> {
    let payload: serde_json::Value = serde_json::from_slice(payload_v5(&seen.frame)).expect("JSON");
    let entries = payload["d"].as_array().expect("telemetry of d");
    let number = |entry: &serde_json::Value| entry["values"]["n"].as_u64().expect("a number");
    entries.iter().map(number).collect()
}

/// The next publish with QoS 1.
async fn publish(broker: &mut Broker) -> Seen {
    loop {
        let seen = broker.seen.recv().await.expect("the broker plays");
        if seen.kind == PacketKind::Publish && qos(&seen.frame) == 1 {
            return seen;
        }
    }
}

/// Telemetry until the number `last` has come.
async fn until(broker: &mut Broker, last: u64) -> Vec<Arrived> {
    let arriving = async {
        let mut arrived: Vec<Arrived> = Vec::new();
        while arrived
            .last()
            .is_none_or(|last_one| !last_one.numbers.contains(&last))
        {
            let seen = publish(broker).await;
            arrived.push(Arrived {
                at: Instant::now(),
                numbers: numbers(&seen),
            });
        }
        arrived
    };
    tokio::time::timeout(DEADLINE, arriving)
        .await
        .expect("in time")
}

/// A spool with the readings below `count`.
async fn filled(count: u64) -> TempDir {
    let nobody = rig::start(SocketAddr::from(([127, 0, 0, 1], 1)), |_| {});
    for number in 0..count {
        nobody.append(reading(number)).await;
    }
    nobody.end(Duration::ZERO).await
}

fn in_order(arrived: &[Arrived]) -> Vec<u64> {
    arrived
        .iter()
        .flat_map(|arrived| arrived.numbers.iter().copied())
        .collect()
}

#[tokio::test]
async fn the_platforms_limits_are_asked_for_and_kept_and_nothing_is_lost() {
    const ANSWER: &str = r#"{"maxPayloadSize":65536,"maxInflightMessages":100,"rateLimits":{"messages":"5:1"},
        "gatewayRateLimits":{"messages":"50:1","telemetryMessages":"8:1","telemetryDataPoints":"20:1"}}"#;
    const READINGS: u64 = 90;
    let directory = filled(READINGS).await;
    let serve = Act::ServeLimits {
        answer: ANSWER,
        publishes: usize::MAX,
    };
    let mut broker = play(vec![vec![CONNECT, connack_v5(0), serve]]).await;
    let mut rig = rig::restart(broker.address, directory, |settings| {
        settings.rate_limits = RateLimits::Ask;
    });
    let arrived = until(&mut broker, READINGS - 1).await;
    rig.delivered().await;
    assert_eq!(in_order(&arrived), (0..READINGS).collect::<Vec<_>>());
    // 16 in a second: what the bucket holds and what came in that time.
    let took = arrived[arrived.len() - 1].at - arrived[0].at;
    let most = (READINGS - 40) as f64 / 16.0;
    assert!(took.as_secs_f64() >= most, "{took:?}");
    for (index, first) in arrived.iter().enumerate() {
        assert!(first.numbers.len() <= 16, "{:?}", first.numbers);
        // Half a window: a reader that was not run sees what came meanwhile at once.
        let close = arrived[index..]
            .iter()
            .take_while(|other| other.at - first.at < Duration::from_millis(500));
        let count: usize = close.map(|arrived| arrived.numbers.len()).sum();
        assert!(count <= 20, "{count} in half a second");
    }
    let status = rig.status.borrow().clone();
    assert_eq!(status.sessions, 1, "{:?}", status.disconnects);
    let limits = status.session_limits.expect("they are known");
    assert_eq!(
        limits.devices.to_string(),
        "50 in 1 s: messages, 8 in 1 s: telemetry messages, 20 in 1 s: telemetry data points"
    );
}

#[tokio::test]
async fn a_platform_that_says_nothing_holds_data_up_once_and_briefly() {
    let first = vec![
        CONNECT,
        connack_v5(0),
        Act::Acknowledge {
            publishes: 1,
            code: 0,
        },
        Act::Fin,
    ];
    let broker_scripts = vec![first, vec![CONNECT, connack_v5(0), Act::Serve]];
    let mut broker = play(broker_scripts).await;
    let mut rig = rig::start(broker.address, |settings| {
        settings.rate_limits = RateLimits::Ask;
    });
    rig.up().await;
    let up = Instant::now();
    rig.append(reading(0)).await;
    let arrived = until(&mut broker, 0).await;
    assert!(arrived[0].at - up < HOLD, "{:?}", arrived[0].at - up);
    rig.up_again(2).await;
    rig.append(reading(1)).await;
    until(&mut broker, 1).await;
    rig.delivered().await;
    let status = rig.status.borrow().clone();
    assert!(status.session_limits.is_none() && status.held.is_none());
}

#[tokio::test]
async fn a_broker_that_ends_a_session_over_the_question_is_served_by_the_next() {
    let forbids = vec![
        CONNECT,
        connack_v5(0),
        Act::Expect(PacketKind::Publish),
        Act::Fin,
    ];
    let good = vec![CONNECT, connack_v5(0), Act::Serve];
    let mut broker = play(vec![forbids, good]).await;
    let mut rig = rig::start(broker.address, |settings| {
        settings.rate_limits = RateLimits::Ask;
    });
    rig.append(reading(7)).await;
    rig.up_again(2).await;
    rig.delivered().await;
    let mut asked = Vec::new();
    while let Ok(seen) = broker.seen.try_recv() {
        if seen.kind == PacketKind::Publish && topic(&seen) == LIMITS_REQUEST {
            asked.push(seen.connection);
        }
    }
    assert_eq!(asked, [0]);
}

#[tokio::test]
async fn the_platforms_packet_size_and_its_queue_bound_what_is_under_way() {
    const ANSWER: &str =
        r#"{"maxPayloadSize":400,"maxInflightMessages":5,"rateLimits":{},"gatewayRateLimits":{}}"#;
    let serve = Act::ServeLimits {
        answer: ANSWER,
        publishes: 0,
    };
    let mut broker = play(vec![vec![CONNECT, connack_v5(0), serve]]).await;
    let mut rig = rig::start(broker.address, |settings| {
        settings.rate_limits = RateLimits::Ask;
        settings.liveness.ack = Duration::from_secs(1);
    });
    for number in 0..60 {
        rig.append(reading(number)).await;
    }
    for number in 60..70 {
        rig.append(attribute(number, 10)).await;
    }
    // The session ends because nothing is acknowledged.
    rig.first_disconnect().await;
    let mut bytes = Vec::new();
    while let Ok(seen) = broker.seen.try_recv() {
        if seen.kind == PacketKind::Publish && seen.connection == 0 && qos(&seen.frame) == 1 {
            bytes.push(seen.frame.len());
        }
    }
    assert_eq!(bytes.len(), 4, "four fifths of five: {bytes:?}");
    assert!(bytes.iter().all(|&bytes| bytes <= 400), "{bytes:?}");
}

#[tokio::test]
async fn a_publish_that_waits_for_a_limit_is_filled_meanwhile() {
    let mut broker = play(vec![vec![CONNECT, connack_v5(0), Act::Serve]]).await;
    let mut rig = rig::start(broker.address, |settings| {
        settings.rate_limits = RateLimits::Known(Limits {
            telemetry_messages: parse_windows("3:1").expect("limits"),
            ..Limits::default()
        });
    });
    rig.up().await;
    let started = Instant::now();
    let appending = async {
        for number in 0..200 {
            rig.append(reading(number)).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let ((), arrived) = tokio::join!(appending, until(&mut broker, 199));
    let took = started.elapsed();
    assert_eq!(in_order(&arrived), (0..200).collect::<Vec<_>>());
    // 2.4 a second, and one more at the beginning.
    let most = took.as_secs_f64() * 2.4 + 2.0;
    assert!(
        (arrived.len() as f64) <= most,
        "{} publishes in {took:?}",
        arrived.len()
    );
    rig.delivered().await;
    // Something waited, and that was told while it did.
    for number in 200..210 {
        rig.append(reading(number)).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    rig.delivered().await;
    assert_eq!(rig.status.borrow().sessions, 1);
}

#[tokio::test]
async fn publishes_are_filled_up_to_their_age_and_their_most() {
    let mut broker = play(vec![vec![CONNECT, connack_v5(0), Act::Serve]]).await;
    let mut rig = rig::start(broker.address, |settings| {
        settings.batch.readings_max = 8;
        settings.batch.age_max = Duration::from_secs(1);
    });
    rig.up().await;
    for number in 0..20 {
        rig.append(reading(number)).await;
    }
    let arrived = until(&mut broker, 19).await;
    let lengths: Vec<_> = arrived
        .iter()
        .map(|arrived| arrived.numbers.len())
        .collect();
    assert_eq!(lengths, [8, 8, 4]);
    let rest = arrived[2].at - arrived[1].at;
    assert!(rest >= Duration::from_millis(500), "filled for {rest:?}");
    rig.delivered().await;
}

#[tokio::test]
async fn who_is_held_back_is_told_by_what_and_until_when() {
    let broker = play(vec![vec![CONNECT, connack_v5(0), Act::Serve]]).await;
    let directory = filled(100).await;
    let mut rig = rig::restart(broker.address, directory, |settings| {
        settings.rate_limits = RateLimits::Known(Limits {
            telemetry_points: parse_windows("10:3600").expect("limits"),
            ..Limits::default()
        });
    });
    rig.up().await;
    let held = async {
        loop {
            if let Some(held) = rig.status.borrow().held {
                return held;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let held = tokio::time::timeout(DEADLINE, held).await.expect("held");
    assert_eq!(held.by.to_string(), "10 in 3600 s: telemetry data points");
    let directory = tokio::time::timeout(DEADLINE, rig.end(Duration::from_secs(20)))
        .await
        .expect("a stop waits for no limit");
    // What was held is there for the next process.
    let broker = play(vec![vec![CONNECT, connack_v5(0), Act::Serve]]).await;
    let mut rig = rig::restart(broker.address, directory, |_| {});
    rig.delivered().await;
    assert!(rig.status.borrow().delivered_readings >= 90);
}
