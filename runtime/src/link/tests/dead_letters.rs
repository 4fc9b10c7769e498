//! What the broker does not take is put aside with its reason, the link goes on, and it can be sent again.

use std::path::PathBuf;

use moorline_core::message::{DeviceName, Key, Uplink, Value};
use moorline_core::mqtt_frame::PacketKind;
use moorline_core::spool::dead_letter::{self, Letter, Reason};

use super::super::Versions;
use super::rig::{self, DEADLINE, Rig, attribute, reading};
use super::scripted::{Act, connack_v5, connack_v311, payload_v5, play};

const CONNECT: Act = Act::Expect(PacketKind::Connect);

pub(super) fn letters(rig: &Rig) -> Vec<(PathBuf, Letter)> {
    let spool = rig.directory.path().join("spool/telemetry");
    let mut letters: Vec<_> = std::fs::read_dir(spool)
        .expect("a spool")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.and_then(dead_letter::number).is_some()
        })
        .map(|path| {
            let bytes = std::fs::read(&path).expect("a file");
            (path, Letter::parse(&bytes).expect("a letter"))
        })
        .collect();
    letters.sort_by(|a, b| a.0.cmp(&b.0));
    letters
}

#[tokio::test]
async fn a_publish_refused_for_good_is_kept_and_can_be_sent_again() {
    let script = vec![
        CONNECT,
        connack_v5(0),
        Act::Acknowledge {
            publishes: 1,
            code: 0x87,
        },
        Act::Serve,
    ];
    let mut broker = play(vec![script]).await;
    let mut rig = rig::start(broker.address, |_| {});
    rig.append(reading(7)).await;
    rig.delivered().await;
    let kept = letters(&rig);
    let [(path, letter)] = &kept[..] else {
        panic!("{kept:?}")
    };
    assert_eq!(letter.reason, Reason::Refused { code: 0x87 });
    assert_eq!(
        (letter.readings, letter.topic.as_str(), letter.sequence.0),
        (1, "v1/gateway/telemetry", 1)
    );
    let refused = loop {
        let seen = broker.seen.recv().await.expect("the broker plays");
        if seen.kind == PacketKind::Publish {
            break seen.frame;
        }
    };
    assert_eq!(letter.payload.as_bytes(), payload_v5(&refused));

    std::fs::rename(path, path.with_extension("replay")).expect("a rename");
    rig.spool.replay().await;
    let again = async {
        loop {
            let seen = broker.seen.recv().await.expect("the broker plays");
            if seen.kind == PacketKind::Publish {
                return seen.frame;
            }
        }
    };
    let again = tokio::time::timeout(DEADLINE, again)
        .await
        .expect("in time");
    assert_eq!(payload_v5(&again), payload_v5(&refused));
    let mut spool = rig.spool.status();
    let settled = spool.wait_for(|spool| spool.settled_records > 1 && spool.depth_readings == 0);
    let settled = tokio::time::timeout(DEADLINE, settled).await;
    settled.expect("in time").expect("a live spool");
    assert!(letters(&rig).is_empty());
}

#[tokio::test]
async fn what_no_packet_can_carry_is_kept() {
    // Maximum Packet Size 400.
    let connack = Act::Send(vec![0x20, 8, 0, 0, 5, 0x27, 0, 0, 1, 0x90]);
    let broker = play(vec![vec![CONNECT, connack, Act::Serve]]).await;
    let mut rig = rig::start(broker.address, |_| {});
    rig.append(attribute(0, 1000)).await;
    rig.append(reading(1)).await;
    rig.delivered().await;
    let kept = letters(&rig);
    assert_eq!(kept.len(), 1);
    let letter = &kept[0].1;
    assert!(matches!(letter.reason, Reason::TooLarge { bytes } if bytes > 1000));
    assert!(letter.payload.contains(&"x".repeat(1000)), "{letter:?}");
}

/// In the middle of readings that share a publish with it.
fn poison() -> Uplink {
    Uplink::Attributes {
        device: DeviceName::try_new("d").expect("a name"),
        values: vec![(
            Key::try_new("n").expect("a key"),
            Value::Text("hemlock".into()),
        )],
    }
}

#[tokio::test]
async fn a_message_the_broker_dies_of_is_found_and_the_rest_arrives() {
    let disconnect = Act::Send(vec![0xe0, 2, 0x95, 0]);
    for (version, connack, death) in [
        (Versions::V311, connack_v311(0), vec![Act::Reset]),
        (Versions::V311, connack_v311(0), vec![Act::Fin]),
        (Versions::V5, connack_v5(0), vec![Act::Reset]),
        (Versions::V5, connack_v5(0), vec![disconnect, Act::Fin]),
    ] {
        let mut script = vec![CONNECT, connack, Act::ServeUntil(b"hemlock")];
        script.extend(death.clone());
        let broker = play(vec![script]).await;
        let mut rig = rig::start(broker.address, |settings| settings.versions = version);
        for number in 0..20 {
            rig.append(reading(number)).await;
        }
        rig.append(poison()).await;
        for number in 20..40 {
            rig.append(reading(number)).await;
        }
        rig.delivered().await;
        let kept = letters(&rig);
        assert_eq!(kept.len(), 1, "{death:?}: {kept:?}");
        let letter = &kept[0].1;
        assert_eq!(letter.reason, Reason::Poison { sessions: 2 });
        assert!(letter.payload.contains("hemlock"), "{letter:?}");
        let status = rig.status.borrow().clone();
        assert_eq!(
            (status.dead_letters, status.delivered_readings >= 40),
            (1, true)
        );
        assert!(
            status.disconnects.len() <= 5,
            "a bounded number of sessions: {:?}",
            status.disconnects.len()
        );
    }
}
