//! A session that the broker kept, and in which less may go than in the one before: what was under way was made for more.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use moorline_core::link::cause::Cause;
use moorline_core::mqtt_frame::PacketKind;
use moorline_core::spool::dead_letter::Reason;
use tempfile::TempDir;

use super::super::{LinkSettings, MessageIdentity, Versions};
use super::dead_letters::letters;
use super::rig::{self, attribute, reading};
use super::scripted::{Act, Broker, Terms, payload_v5, play, qos};

const CONNECT: Act = Act::Expect(PacketKind::Connect);
/// What the first session allows.
const ROOMY: Terms = Terms {
    receive_maximum: 100,
    packet_bytes_max: 65_536,
};

/// A session in which this many publishes come and only the last of them is acknowledged, and the next one.
fn resumed_with(unacknowledged: usize, terms: Terms) -> Vec<Vec<Act>> {
    let first = vec![
        CONNECT,
        Act::Send(ROOMY.connack(false)),
        Act::AnswerOne {
            unanswered: unacknowledged - 1,
            code: 0,
        },
        Act::Reset,
    ];
    let then = vec![
        CONNECT,
        Act::Send(terms.connack(true)),
        Act::ServeWithin(terms),
    ];
    vec![first, then]
}

fn kept_session(settings: &mut LinkSettings) {
    settings.versions = Versions::V5;
    settings.session_expiry = Duration::from_secs(600);
}

/// A spool with this in it, before there is a link.
async fn filled(readings: u64, attributes: u64, text_bytes: usize) -> TempDir {
    let nobody = rig::start(SocketAddr::from(([127, 0, 0, 1], 1)), |_| {});
    for number in 0..readings {
        nobody.append(reading(number)).await;
    }
    for number in readings..readings + attributes {
        nobody.append(attribute(number, text_bytes)).await;
    }
    nobody.end(Duration::ZERO).await
}

/// The numbers that came on the second connection, and how large its largest publish was.
fn arrived(broker: &mut Broker) -> (BTreeSet<u64>, usize) {
    let (mut numbers, mut largest) = (BTreeSet::new(), 0);
    while let Ok(seen) = broker.seen.try_recv() {
        if seen.connection != 1 || seen.kind != PacketKind::Publish || qos(&seen.frame) == 0 {
            continue;
        }
        largest = largest.max(seen.frame.len());
        let payload: serde_json::Value =
            serde_json::from_slice(payload_v5(&seen.frame)).expect("JSON");
        match &payload["d"] {
            serde_json::Value::Array(entries) => numbers.extend(
                entries
                    .iter()
                    .filter_map(|entry| entry["values"]["n"].as_u64()),
            ),
            device => numbers.extend(device["n"].as_u64()),
        }
    }
    (numbers, largest)
}

/// One disconnect, the one that was played.
fn only_the_reset(rig: &rig::Rig) {
    let status = rig.status.borrow();
    let causes: Vec<_> = status
        .disconnects
        .iter()
        .map(|found| found.record.disconnect.cause)
        .collect();
    assert_eq!(causes, [Cause::Reset], "{:?}", status.disconnects);
    let up = status.last_up.as_ref().expect("a session");
    assert!(up.session_present && up.session_wanted, "{up:?}");
}

#[tokio::test]
async fn a_receive_maximum_that_shrinks_on_resume_is_kept_with_more_than_that_under_way() {
    const MESSAGES: u64 = 120;
    let terms = Terms {
        receive_maximum: 3,
        ..ROOMY
    };
    let mut broker = play(resumed_with(60, terms)).await;
    let directory = filled(0, MESSAGES, 10).await;
    let mut rig = rig::restart(broker.address, directory, kept_session);
    rig.delivered().await;
    only_the_reset(&rig);
    assert_eq!(arrived(&mut broker).0, (0..MESSAGES).collect());
    assert!(letters(&rig).is_empty());
}

#[tokio::test]
async fn a_packet_size_that_shrinks_on_resume_is_kept_and_what_fits_no_more_is_set_aside() {
    let named = MessageIdentity {
        gateway: "line-7".into(),
        streams: Vec::new(),
    };
    for identity in [None, Some(named)] {
        Box::pin(packets_of_400_bytes(identity)).await;
    }
}

async fn packets_of_400_bytes(identity: Option<MessageIdentity>) {
    const READINGS: u64 = 600;
    const ATTRIBUTES: u64 = 20;
    const LARGE: u64 = READINGS + ATTRIBUTES;
    let terms = Terms {
        receive_maximum: 3,
        packet_bytes_max: 400,
    };
    let is_named = identity.is_some();
    // A publish full of readings, and more behind it.
    let mut broker = play(resumed_with(12, terms)).await;
    let directory = filled(READINGS, ATTRIBUTES, 10).await;
    let mut rig = rig::restart(broker.address, directory, |settings| {
        kept_session(settings);
        settings.message_identity = identity;
    });
    rig.append(attribute(LARGE, 1_000)).await;
    for number in LARGE + 1..LARGE + 20 {
        rig.append(reading(number)).await;
    }
    rig.delivered().await;
    only_the_reset(&rig);
    let (numbers, largest) = arrived(&mut broker);
    let all = (0..LARGE + 20).filter(|number| *number != LARGE);
    assert_eq!(numbers, all.collect(), "named: {is_named}");
    assert!(largest <= 400 && (largest > 300 || is_named), "{largest}");
    let kept = letters(&rig);
    let [(_, letter)] = &kept[..] else {
        panic!("{kept:?}")
    };
    assert!(
        matches!(letter.reason, Reason::TooLarge { bytes } if bytes > 1_000),
        "{letter:?}"
    );
}
