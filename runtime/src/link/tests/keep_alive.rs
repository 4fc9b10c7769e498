//! What the link learns of the way to the broker: how soon it forgets, and how slowly it answers.

use std::time::Duration;

use moorline_core::link::cause::Cause;
use moorline_core::mqtt_frame::{PacketKind, body};

use super::super::Versions;
use super::rig::{self, reading};
use super::scripted::{Act, Broker, connack_v5, connack_v311, play};

const CONNECT: Act = Act::Expect(PacketKind::Connect);

/// The keep-alives of the CONNECTs so far, seconds.
fn asked_s(broker: &mut Broker) -> Vec<u16> {
    let mut asked = Vec::new();
    while let Ok(seen) = broker.seen.try_recv() {
        if seen.kind == PacketKind::Connect {
            // After the protocol's name, its level and the flags (MQTT 5.0 section 3.1.2).
            let body = body(&seen.frame);
            asked.push(u16::from_be_bytes([body[8], body[9]]));
        }
    }
    asked
}

#[tokio::test]
async fn a_way_that_forgets_idle_connections_is_asked_for_a_shorter_keep_alive() {
    for (version, connack) in [
        (Versions::V5, connack_v5(0)),
        (Versions::V311, connack_v311(0)),
    ] {
        let forgets = vec![CONNECT, connack.clone(), Act::Silence];
        let mut broker = play(vec![
            forgets.clone(),
            forgets,
            vec![CONNECT, connack, Act::Serve],
        ])
        .await;
        let mut rig = rig::start(broker.address, |settings| {
            settings.versions = version;
            settings.keep_alive = Duration::from_secs(2);
            settings.keep_alive_min = Duration::from_secs(1);
        });
        for number in 0..2 {
            let record = rig.disconnect(number).await;
            let disconnect = &record.record.disconnect;
            assert_eq!(disconnect.cause, Cause::PingrespTimeout, "{disconnect}");
        }
        rig.up_again(3).await;
        assert_eq!(asked_s(&mut broker), [2, 2, 1]);
        let liveness = rig.status.borrow().liveness.expect("of the last session");
        assert_eq!(liveness.keep_alive, Duration::from_secs(1));
    }
}

#[tokio::test]
async fn a_peer_that_answers_late_gets_more_time_to_answer() {
    let late = Duration::from_millis(600);
    let script = vec![
        CONNECT,
        connack_v5(0),
        Act::Expect(PacketKind::Subscribe),
        Act::Pause(late),
        Act::Acknowledge {
            publishes: 1,
            code: 0,
        },
        Act::Silence,
    ];
    let broker = play(vec![script]).await;
    let mut rig = rig::start(broker.address, |settings| {
        settings.keep_alive = Duration::from_secs(2);
        settings.liveness.pingresp = Duration::from_millis(300);
        settings.liveness.pingresp_max = Duration::from_secs(10);
        settings.liveness.probe_after = Duration::from_secs(10);
    });
    rig.append(reading(1)).await;
    let disconnect = rig.first_disconnect().await;
    assert_eq!(disconnect.cause, Cause::PingrespTimeout, "{disconnect}");
    let evidence = &disconnect.evidence;
    // One answer after 0.6 s is expected again within three times that (RFC 6298 section 2.2).
    let expected = evidence.answers_within.expect("one answer came");
    assert!(expected >= late, "{disconnect}");
    assert!(
        evidence.since_sent >= evidence.answers_within,
        "{disconnect}"
    );
}
