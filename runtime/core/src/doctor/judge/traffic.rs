//! What goes through: topics, QoS, retained messages, sizes, windows, subscriptions, sessions.

use super::super::facts::{
    InFlightSeen, PacketSizeSeen, ResumeSeen, RetainedSeen, RoundTrip, Sent, TopicSeen,
};
use super::super::{Field, Finding, Probe, Wanted};
use super::{fate, ms, said};
use crate::link::cause::MqttVersion;

/// The least the configuration takes for `packet_bytes_max`.
pub const PACKET_BYTES_MIN: usize = 1024;

/// The topics without which there is no gateway.
#[must_use]
pub fn gateway_topics(version: MqttVersion, seen: &[TopicSeen]) -> Finding {
    let probe = Probe::GatewayTopics;
    let mut refused = Vec::new();
    let mut doubtful = Vec::new();
    for one in seen {
        let verb = if one.subscribed {
            "subscribing to"
        } else {
            "publishing on"
        };
        if !one.sent.taken() {
            refused.push((one, format!("{verb} {} {}", one.topic, fate(&one.sent))));
        } else if version == MqttVersion::V311 && one.came_back == Some(false) {
            doubtful.push(one.topic);
        }
    }
    let finding = if let Some((first, _)) = refused.first() {
        let all: Vec<_> = refused.iter().map(|(_, text)| text.as_str()).collect();
        let right = if first.subscribed { "read" } else { "write" };
        let topics: Vec<_> = refused.iter().map(|(one, _)| one.topic).collect();
        Finding::fails(probe, all.join("; ")).remedy(
            Field::Username,
            format!(
                "allow this user at the broker to {right} {} (Mosquitto: `topic {right} {}` in the acl_file), or use one \
                 that may",
                topics.join(", "),
                topics.first().copied().unwrap_or_default()
            ),
        )
    } else if doubtful.is_empty() {
        let (subscribed, published): (Vec<_>, Vec<_>) = seen.iter().partition(|one| one.subscribed);
        Finding::fits(
            probe,
            format!(
                "publishing on {} and subscribing to {} is allowed",
                names(&published),
                names(&subscribed)
            ),
        )
    } else {
        Finding::warns(
            probe,
            format!(
                "{} is acknowledged but does not come back to a subscriber: in 3.1.1 a broker that forbids a topic \
                 acknowledges and drops",
                doubtful.join(", ")
            ),
        )
        .remedy(
            Field::Username,
            format!(
                "look whether the broker lets this user write {0} (Mosquitto: `topic write {0}` in the acl_file); a \
                 platform that delivers to nobody else is right as it is",
                doubtful.first().copied().unwrap_or_default()
            ),
        )
    };
    seen.iter().fold(finding, |finding, one| {
        let name = if one.subscribed {
            "subscribe"
        } else {
            "publish"
        };
        finding.with(name, format!("{} {}", one.topic, fate(&one.sent)))
    })
}

fn names(topics: &[&TopicSeen]) -> String {
    let names: Vec<_> = topics.iter().map(|one| one.topic).collect();
    names.join(", ")
}

/// A topic of our own, on which the rest can be tried.
#[must_use]
pub fn scratch(topic: &str, seen: &RoundTrip) -> Finding {
    let probe = Probe::Scratch;
    match (&seen.delivered, &seen.published) {
        (Some((_, took)), _) => Finding::fits(
            probe,
            format!("{topic} is delivered to a subscriber in {}", ms(*took)),
        )
        .with("round_trip", ms(*took)),
        (None, published) => {
            let why = match published {
                _ if !seen.subscribed.taken() => format!("subscribing {}", fate(&seen.subscribed)),
                Some(sent) if !sent.taken() => format!("publishing {}", fate(sent)),
                Some(_) | None => "what is published does not come back to a subscriber".to_owned(),
            };
            Finding::not_tried(
                probe,
                format!(
                    "because the broker keeps {topic} from this user: {why}; what needs a topic of its own stays untried \
                     (--topic names another)"
                ),
            )
            .holding(false)
        }
    }
}

/// QoS 0, 1 and 2, in that order.
#[must_use]
pub fn qos(announced: Option<u8>, seen: &[(u8, RoundTrip)]) -> Finding {
    let probe = Probe::Qos;
    let mut shown = Vec::new();
    let mut first_broken = None;
    for (asked, trip) in seen {
        match (&trip.delivered, &trip.published) {
            (Some((got, took)), _) if got == asked => {
                shown.push(format!("QoS {asked} in {}", ms(*took)));
            }
            (Some((got, _)), _) => shown.push(format!("QoS {asked} arrives as QoS {got}")),
            (None, Some(sent)) if !sent.taken() => {
                shown.push(format!("QoS {asked} {}", fate(sent)));
                first_broken = first_broken.or(Some(*asked));
            }
            (None, _) => {
                shown.push(format!("QoS {asked} does not arrive"));
                first_broken = first_broken.or(Some(*asked));
            }
        }
    }
    let text = shown.join(", ");
    let finding = match first_broken {
        None => Finding::fits(probe, text),
        Some(2) => Finding::fits(probe, format!("{text}; the gateway needs QoS 1 only")),
        Some(0)
            if seen
                .iter()
                .any(|(qos, trip)| *qos == 1 && trip.delivered.is_some()) =>
        {
            Finding::fits(probe, format!("{text}; the gateway needs QoS 1 only"))
        }
        Some(_) => Finding::fails(probe, text).remedy(
            Field::Url,
            "the gateway delivers with QoS 1: have the broker of this URL allow it, or use another",
        ),
    };
    match announced {
        Some(qos) => finding.with("qos_max", qos.to_string()),
        None => finding,
    }
}

/// Retained messages, which the gateway does not use: it is good to know and never wrong.
#[must_use]
pub fn retained(announced: Option<bool>, seen: &RetainedSeen) -> Finding {
    let text = match (seen.kept, seen.cleared) {
        (true, true) => "kept for later subscribers, and cleared again".to_owned(),
        (true, false) => "kept, and not cleared by an empty message".to_owned(),
        (false, _) if !seen.published.taken() => {
            format!(
                "not possible: it {}; the gateway does not need them",
                fate(&seen.published)
            )
        }
        (false, _) => "not kept; the gateway does not need them".to_owned(),
    };
    let finding = if seen.kept && !seen.cleared {
        Finding::warns(Probe::Retained, text).remedy(
            Field::Url,
            "look at the broker of this URL: clear the doctor's retained message by hand",
        )
    } else {
        Finding::fits(Probe::Retained, text)
    };
    match announced {
        Some(available) => finding.with("retain_available", available.to_string()),
        None => finding,
    }
}

/// The largest packet, announced and tried.
#[must_use]
pub fn packet_size(wanted: &Wanted, seen: &PacketSizeSeen) -> Finding {
    let probe = Probe::PacketSize;
    let configured = wanted.packet_bytes_max;
    let announced = seen
        .announced
        .map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    let finding = match (announced, &seen.refused) {
        (_, Some((bytes, sent))) if sent.forbidden() => {
            return Finding::not_tried(
                probe,
                format!(
                    "because a packet of {bytes} bytes {}, and would whatever its size: see {}",
                    fate(sent),
                    Probe::GatewayTopics.name()
                ),
            );
        }
        (_, Some((bytes, sent))) => {
            let told = match announced {
                Some(announced) => format!(", though it announces {announced}"),
                None => " and does not announce that".to_owned(),
            };
            smaller(
                Finding::fails(
                    probe,
                    format!(
                        "a packet of {bytes} bytes {}: the broker takes up to {}{told}, and the gateway sends up to \
                         {configured}",
                        fate(sent),
                        seen.taken_bytes
                    ),
                ),
                seen.taken_bytes,
            )
        }
        (Some(announced), None) if announced < configured => smaller(
            Finding::warns(
                probe,
                format!(
                    "the broker takes up to {announced} bytes and the configuration allows {configured}: the link packs \
                     less into each, and a reading that is larger alone is set aside as a dead letter"
                ),
            ),
            announced,
        ),
        (_, None) if seen.bound_bytes < configured => Finding::fits(
            probe,
            format!(
                "packets of {} bytes are taken; larger ones are not tried",
                seen.taken_bytes
            ),
        ),
        (_, None) => Finding::fits(
            probe,
            format!(
                "packets of {} bytes, the most the gateway sends, are taken",
                seen.taken_bytes
            ),
        ),
    };
    let finding = finding.with("taken_bytes", seen.taken_bytes.to_string());
    let finding = match &seen.refused {
        Some((bytes, _)) => finding.with("refused_bytes", bytes.to_string()),
        None => finding,
    };
    match announced {
        Some(bytes) => finding.with("announced_bytes", bytes.to_string()),
        None => finding,
    }
}

fn smaller(finding: Finding, bytes: usize) -> Finding {
    if bytes < PACKET_BYTES_MIN {
        finding.remedy(
            Field::PacketBytesMax,
            format!(
                "raise the broker's limit (Mosquitto: max_packet_size, message_size_limit) to {PACKET_BYTES_MIN} bytes at \
                 the least"
            ),
        )
    } else {
        finding.set(
            Field::PacketBytesMax,
            bytes.to_string(),
            "or raise the broker's limit (Mosquitto: max_packet_size, message_size_limit)",
        )
    }
}

/// How many publishes may be on their way.
#[must_use]
pub fn in_flight(wanted: &Wanted, seen: &InFlightSeen) -> Finding {
    let probe = Probe::InFlight;
    let configured = wanted.inflight_max;
    let finding = match (&seen.ended, seen.announced) {
        (Some(failed), _) => Finding::fails(
            probe,
            format!(
                "{} of {} publishes at once are acknowledged, then {}",
                seen.acked,
                seen.sent,
                said(failed)
            ),
        )
        .set(
            Field::InflightMax,
            seen.acked.max(1).to_string(),
            "or raise the broker's limit (Mosquitto: max_inflight_messages)",
        ),
        (None, _) if seen.acked < seen.sent => Finding::fails(
            probe,
            format!(
                "of {} publishes at once only {} are acknowledged",
                seen.sent, seen.acked
            ),
        )
        .set(
            Field::InflightMax,
            seen.acked.max(1).to_string(),
            "or look at the broker's log for what it does with the rest",
        ),
        (None, Some(announced)) if announced < configured => Finding::warns(
            probe,
            format!(
                "the broker lets up to {announced} publishes wait for an acknowledgement (Receive Maximum) and the \
                 configuration allows {configured}: the link goes by the smaller, and a spool that is behind catches up \
                 more slowly"
            ),
        )
        .set(
            Field::InflightMax,
            announced.to_string(),
            "says what is in force; or raise the broker's limit (Mosquitto: max_inflight_messages)",
        ),
        (None, _) => Finding::fits(
            probe,
            format!("{} publishes at once are acknowledged in {}", seen.sent, ms(seen.took)),
        ),
    };
    let finding = finding
        .with("sent", seen.sent.to_string())
        .with("acknowledged", seen.acked.to_string())
        .with("took", ms(seen.took));
    match seen.announced {
        Some(announced) => finding.with("receive_maximum", announced.to_string()),
        None => finding,
    }
}

/// Subscriptions with `+`, which the gateway does not use.
#[must_use]
pub fn wildcards(announced: Option<bool>, seen: &RoundTrip) -> Finding {
    optional(Probe::Wildcards, "wildcard subscriptions", announced, seen)
}

/// Shared subscriptions, which the gateway does not use.
#[must_use]
pub fn shared(announced: Option<bool>, seen: &RoundTrip) -> Finding {
    optional(Probe::Shared, "shared subscriptions", announced, seen)
}

fn optional(probe: Probe, what: &str, announced: Option<bool>, seen: &RoundTrip) -> Finding {
    let text = if seen.delivered.is_some() {
        format!("{what} work")
    } else if seen.subscribed.taken() {
        format!("{what} are granted and deliver nothing; the gateway does not need them")
    } else {
        format!(
            "no {what}: the request {}; the gateway does not need them",
            fate(&seen.subscribed)
        )
    };
    let finding = Finding::fits(probe, text);
    match announced {
        Some(available) => finding.with("announced", available.to_string()),
        None => finding,
    }
}

/// A session across a reconnect, which the gateway does not rely on: its spool is what survives.
#[must_use]
pub fn resume(seen: &Result<ResumeSeen, Sent>) -> Finding {
    let probe = Probe::Resume;
    match seen {
        Err(sent) => Finding::not_tried(probe, format!("because preparing it {}", fate(sent))),
        Ok(seen) => {
            let text = match (seen.present, seen.queued) {
                (true, true) => "kept across a reconnect, with what was sent meanwhile".to_owned(),
                (true, false) => {
                    "kept across a reconnect, without what was sent meanwhile".to_owned()
                }
                (false, _) => "not kept across a reconnect".to_owned(),
            };
            let text = format!("{text}; the gateway starts afresh and sends again from its spool");
            let finding =
                Finding::fits(probe, text).with("session_present", seen.present.to_string());
            match seen.expiry_s {
                Some(seconds) => finding.with("session_expiry_s", seconds.to_string()),
                None => finding,
            }
        }
    }
}
