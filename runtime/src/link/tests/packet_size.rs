//! Brokers that take less than the link would send, and do not say so: they get less, and no message is blamed for its size.

use std::net::SocketAddr;
use std::time::Duration;

use moorline_core::message::{DeviceName, Key, Uplink, Value};
use moorline_core::mqtt_frame::PacketKind;
use moorline_core::spool::dead_letter::Reason;
use tempfile::TempDir;

use super::super::Versions;
use super::dead_letters::letters;
use super::rig::{self, Rig, attribute, reading};
use super::scripted::{Act, connack_v5, connack_v311, play};

const CONNECT: Act = Act::Expect(PacketKind::Connect);
/// What rumqttd takes as it comes, and says to nobody.
const TAKES: usize = 20_480;
/// They fill a publish of the usual size and begin another.
const READINGS: u64 = 2_000;

/// So many readings, then what `more` is, then a few readings again.
async fn backlog(more: Option<Uplink>) -> TempDir {
    let nobody = rig::start(SocketAddr::from(([127, 0, 0, 1], 1)), |_| {});
    for number in 0..READINGS {
        nobody.append(reading(number)).await;
    }
    if let Some(more) = more {
        nobody.append(more).await;
    }
    for number in READINGS..READINGS + 20 {
        nobody.append(reading(number)).await;
    }
    nobody.end(Duration::ZERO).await
}

fn assert_all_but(rig: &Rig, dead_letters: u64, disconnects_max: usize) {
    let status = rig.status.borrow();
    assert_eq!(status.dead_letters, dead_letters, "{status:?}");
    assert!(
        status.delivered_readings >= READINGS + 20,
        "{}",
        status.delivered_readings
    );
    let told: Vec<_> = status.disconnects.iter().map(|found| &found.text).collect();
    assert!(told.len() <= disconnects_max, "{told:#?}");
}

#[tokio::test]
async fn a_broker_that_closes_on_large_packets_without_a_word_gets_smaller_ones() {
    let told = Act::Send(vec![0xe0, 1, 0x95]);
    for (version, connack, end, closes) in [
        (Versions::V311, connack_v311(0), vec![Act::Reset], 4),
        (Versions::V311, connack_v311(0), vec![Act::HalfClose], 4),
        (Versions::V5, connack_v5(0), vec![Act::Reset], 4),
        (Versions::V5, connack_v5(0), vec![Act::HalfClose], 4),
        (Versions::V5, connack_v5(0), vec![told, Act::HalfClose], 2),
    ] {
        let mut script = vec![CONNECT, connack, Act::ServeUpTo(TAKES)];
        script.extend(end.clone());
        let broker = play(vec![script]).await;
        let directory = backlog(None).await;
        let mut rig = rig::restart(broker.address, directory, |settings| {
            settings.versions = version;
        });
        rig.delivered().await;
        assert_all_but(&rig, 0, closes);
        assert!(letters(&rig).is_empty());
        let status = rig.status.borrow().clone();
        let learnt = status.publish_bytes_max.expect("it was learnt");
        assert!((TAKES / 2..=TAKES).contains(&learnt), "{learnt} {end:?}");
        // The record says what proves it and what is done about it.
        let last = status.last_disconnect().expect("it closed");
        assert!(
            last.text
                .contains(" bytes in flight, more than this broker has acknowledged")
                && last.text.contains(&format!(
                    "; publishes to it have at most {learnt} bytes from here on; attempt "
                )),
            "{}",
            last.text
        );
        let advice = last.record.disconnect.advice();
        assert!(advice.contains("link.packet_bytes_max"), "{advice}");
    }
}

#[tokio::test]
async fn a_small_message_that_kills_among_large_publishes_is_still_found() {
    let hemlock = Uplink::Attributes {
        device: DeviceName::try_new("d").expect("a name"),
        values: vec![(
            Key::try_new("n").expect("a key"),
            Value::Text("hemlock".into()),
        )],
    };
    let script = vec![
        CONNECT,
        connack_v5(0),
        Act::ServeUntil(b"hemlock"),
        Act::Reset,
    ];
    let broker = play(vec![script]).await;
    let directory = backlog(Some(hemlock)).await;
    let mut rig = rig::restart(broker.address, directory, |_| {});
    rig.delivered().await;
    assert_all_but(&rig, 1, 12);
    let kept = letters(&rig);
    let [(_, letter)] = &kept[..] else {
        panic!("{kept:?}")
    };
    assert_eq!(letter.reason, Reason::Poison { sessions: 2 });
    assert!(letter.payload.contains("hemlock"), "{letter:?}");
}

#[tokio::test]
async fn what_cannot_be_divided_and_is_too_large_for_a_silent_broker_is_set_aside_and_the_rest_goes()
 {
    let script = vec![CONNECT, connack_v311(0), Act::ServeUpTo(TAKES), Act::Reset];
    let broker = play(vec![script]).await;
    let directory = backlog(Some(attribute(READINGS, 30_000))).await;
    let mut rig = rig::restart(broker.address, directory, |settings| {
        settings.versions = Versions::V311;
    });
    rig.delivered().await;
    assert_all_but(&rig, 1, 12);
    let kept = letters(&rig);
    let [(_, letter)] = &kept[..] else {
        panic!("{kept:?}")
    };
    assert_eq!(letter.reason, Reason::Poison { sessions: 2 });
    assert!(letter.payload.len() > 30_000, "{}", letter.payload.len());
}
