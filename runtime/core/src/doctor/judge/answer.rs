//! What CONNECT is answered with: versions, credentials, terms, keep-alive, takeover.

use std::time::Duration;

use super::super::facts::{
    Answer, KeepAliveSeen, SilenceSeen, StrangersSeen, TakeoverSeen, TermsSeen,
};
use super::super::{Field, Finding, Probe, Wanted};
use super::{advised, field, said};
use crate::link::Versions;
use crate::link::cause::{Cause, Disconnect, MqttVersion, TransportEnd};
use crate::mqtt_frame::Properties;

/// The least the configuration takes.
pub const KEEP_ALIVE_S_MIN: u16 = 5;
/// A broker that closes a client silent for three seconds has done so by then, however seldom it looks.
const SILENCE_WAIT_MIN: Duration = Duration::from_secs(10);

/// Which version the link would end up with; none when it would end up with neither.
#[must_use]
pub fn spoken(wanted: &Wanted, v5: &Answer, v311: &Answer) -> Option<MqttVersion> {
    let candidates: &[(MqttVersion, &Answer)] = match wanted.versions {
        Versions::V5 => &[(MqttVersion::V5, v5)],
        Versions::V311 => &[(MqttVersion::V311, v311)],
        Versions::Auto => &[(MqttVersion::V5, v5), (MqttVersion::V311, v311)],
    };
    let known = candidates.iter().find(|(_, answer)| is_known(answer));
    known.map(|(version, _)| *version)
}

/// The broker answered in MQTT, and not that it does not know the version.
fn is_known(answer: &Answer) -> bool {
    match answer {
        Ok(_) => true,
        Err(failed) => {
            failed.evidence.reason_code.is_some() && failed.cause != Cause::VersionRefused
        }
    }
}

/// Whether the broker knows one of the versions.
#[must_use]
pub fn version(wanted: &Wanted, version: MqttVersion, v5: &Answer, v311: &Answer) -> Finding {
    let (probe, answer, other, other_name) = match version {
        MqttVersion::V5 => (Probe::Version5, v5, v311, "3.1.1"),
        MqttVersion::V311 => (Probe::Version311, v311, v5, "5"),
    };
    let needed = match (wanted.versions, version) {
        (Versions::Auto | Versions::V5, MqttVersion::V5) | (Versions::V311, MqttVersion::V311) => {
            true
        }
        (Versions::V5, MqttVersion::V311) | (Versions::V311, MqttVersion::V5) => false,
        // The link falls back to 3.1.1 when 5.0 is not known.
        (Versions::Auto, MqttVersion::V311) => !is_known(v5),
    };
    match answer {
        Ok(_) => Finding::fits(probe, "spoken"),
        Err(failed) if is_known(answer) => {
            Finding::fits(probe, format!("spoken, though {}", said(failed)))
        }
        Err(failed) if !needed => Finding::fits(
            probe,
            format!("not spoken, and not needed: {}", said(failed)),
        ),
        Err(failed) if !is_known(other) => advised(Finding::fails(probe, said(failed)), failed),
        Err(failed)
            if failed.cause == Cause::VersionRefused && wanted.versions == Versions::Auto =>
        {
            Finding::warns(
                probe,
                format!(
                    "not spoken ({}); the link falls back to 3.1.1",
                    said(failed)
                ),
            )
            .set(
                Field::MqttVersion,
                format!("{other_name:?}"),
                "spares the link a refused attempt at each start",
            )
        }
        Err(failed) => Finding::fails(probe, said(failed)).set(
            Field::MqttVersion,
            format!("{other_name:?}"),
            "the broker speaks this one; or allow the other at the broker",
        ),
    }
}

/// Whether we are let in. `suffixed`: under another client id than the configured one.
#[must_use]
pub fn credentials(wanted: &Wanted, answer: Option<&Answer>, suffixed: bool) -> Finding {
    let probe = Probe::Credentials;
    let failed = match answer {
        None => return Finding::not_tried(probe, "because no allowed MQTT version is answered"),
        Some(Ok(_)) => {
            let how = match (wanted.username, wanted.client_certificate) {
                (true, true) => "user name and client certificate are accepted",
                (true, false) => "the user name is accepted",
                (false, true) => "the client certificate is accepted",
                (false, false) => "accepted without user name",
            };
            return Finding::fits(probe, how);
        }
        Some(Err(failed)) => failed,
    };
    let finding = Finding::fails(probe, said(failed)).with("cause", failed.cause.name());
    let id = if suffixed {
        "; if the broker admits only known client ids, try --as-gateway"
    } else {
        ""
    };
    if matches!(failed.cause, Cause::BadCredentials | Cause::NotAuthorized) {
        let words = if wanted.username {
            "give the user name (or token) and password the broker knows, or let this client in at the broker"
        } else {
            "the broker wants a user name (ThingsBoard: the gateway's access token) and the configuration has none"
        };
        finding.remedy(Field::Username, format!("{words}{id}"))
    } else if failed.cause == Cause::ClientIdRefused {
        let words = "give the gateway a client id the broker accepts";
        finding.remedy(Field::ClientId, format!("{words}{id}"))
    } else {
        finding.remedy(field(failed.cause), failed.cause.advice())
    }
}

/// Whether others are let in as well.
#[must_use]
pub fn strangers(wanted: &Wanted, seen: &StrangersSeen) -> Finding {
    let probe = Probe::Strangers;
    let nobody = seen.nobody.is_ok();
    let impostor = seen.impostor.as_ref().is_some_and(Result::is_ok);
    let shown = |answer: &Answer| match answer {
        Ok(_) => "accepted".to_owned(),
        Err(failed) => said(failed),
    };
    let finding = match (nobody, impostor) {
        (false, false) => Finding::fits(probe, "wrong and missing credentials are refused"),
        (true, false) => Finding::warns(
            probe,
            if wanted.client_certificate {
                "the broker asks for no user name: the client certificate alone decides"
            } else {
                "the broker lets in clients without user name: whoever reaches it can send and read"
            },
        ),
        (_, true) => Finding::warns(
            probe,
            "the broker lets in clients with wrong credentials: it does not check them",
        ),
    };
    let finding = if !(nobody || impostor) {
        finding
    } else if wanted.client_certificate {
        Finding::fits(probe, finding.seen)
    } else if wanted.username {
        finding.remedy(
            Field::Username,
            "have the broker check user names (Mosquitto: allow_anonymous false and a password_file)",
        )
    } else {
        finding.remedy(
            Field::Username,
            "have the broker ask for a user name (Mosquitto: allow_anonymous false and a password_file), and give it here",
        )
    };
    let finding = finding.with("without_credentials", shown(&seen.nobody));
    match &seen.impostor {
        Some(answer) => finding.with("wrong_credentials", shown(answer)),
        None => finding,
    }
}

/// What the broker announces about itself.
#[must_use]
pub fn terms(seen: &TermsSeen) -> Finding {
    let properties = &seen.connack.properties;
    if seen.version == MqttVersion::V311 {
        return Finding::fits(
            Probe::Terms,
            "3.1.1 announces nothing: limits show only when they are hit",
        );
    }
    let facts = announced(properties);
    let summary: Vec<_> = facts
        .iter()
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    let text = format!("{}{}", summary.join(", "), lacks(properties));
    let finding = match (properties.qos_max, &properties.assigned_client_id) {
        // The link publishes with QoS 1.
        (Some(0), _) => Finding::fails(Probe::Terms, format!("no QoS above 0; {text}")).remedy(
            Field::Url,
            "the gateway delivers with QoS 1: have the broker of this URL allow it, or use another",
        ),
        (_, Some(id)) => Finding::warns(Probe::Terms, format!("calls us {id:?}; {text}")).remedy(
            Field::ClientId,
            "the broker gives out client ids of its own: rules by client id will not find the gateway",
        ),
        (_, None) => Finding::fits(Probe::Terms, text),
    };
    facts
        .into_iter()
        .fold(finding, |finding, (name, value)| finding.with(name, value))
}

fn announced(properties: &Properties) -> [(&'static str, String); 6] {
    fn number(number: Option<impl Into<u64>>, otherwise: &str) -> String {
        number.map_or_else(|| otherwise.to_owned(), |number| number.into().to_string())
    }
    [
        ("qos_max", number(properties.qos_max, "2")),
        (
            "receive_maximum",
            number(properties.receive_maximum, "65535"),
        ),
        (
            "packet_bytes_max",
            number(properties.packet_bytes_max, "no limit"),
        ),
        ("topic_alias_max", number(properties.topic_alias_max, "0")),
        (
            "server_keep_alive_s",
            number(properties.server_keep_alive_s, "as asked"),
        ),
        (
            "session_expiry_s",
            number(properties.session_expiry_s, "as asked"),
        ),
    ]
}

fn lacks(properties: &Properties) -> String {
    let available = [
        (properties.retain_available, "retained messages"),
        (properties.wildcards_available, "wildcards"),
        (properties.shared_available, "shared subscriptions"),
        (
            properties.subscription_ids_available,
            "subscription identifiers",
        ),
    ];
    let lacking: Vec<_> = available
        .into_iter()
        .filter(|(available, _)| *available == Some(false))
        .map(|(_, what)| what)
        .collect();
    if lacking.is_empty() {
        String::new()
    } else {
        format!("; without {}", lacking.join(", "))
    }
}

/// The keep-alive in force.
#[must_use]
pub fn keep_alive(wanted: &Wanted, seen: &KeepAliveSeen) -> Finding {
    let probe = Probe::KeepAlive;
    let asked = wanted.keep_alive_s;
    if let Some(longest) = seen.accepted_s {
        return Finding::fails(
            probe,
            format!(
                "the broker refuses CONNECT with a keep-alive of {asked} s (as a wrong client id: 3.1.1 has no code for \
                 it) and takes {longest} s"
            ),
        )
        .with("accepted_s", longest.to_string())
        .set(
            Field::KeepAliveS,
            longest.to_string(),
            "or raise the broker's limit (Mosquitto: max_keepalive)",
        );
    }
    let finding = match seen.server_s {
        None => Finding::fits(probe, format!("{asked} s, as asked")),
        Some(0) => Finding::warns(
            probe,
            "the broker turns the keep-alive off: it will not notice when the gateway is gone",
        )
        .remedy(Field::KeepAliveS, "have the broker accept a keep-alive"),
        Some(server) if server < asked => {
            let finding = Finding::warns(
                probe,
                format!(
                    "the broker sets {server} s instead of the {asked} s asked for; the link goes by it"
                ),
            );
            if server < KEEP_ALIVE_S_MIN {
                finding.remedy(
                    Field::KeepAliveS,
                    format!("raise the broker's limit (Mosquitto: max_keepalive) to {KEEP_ALIVE_S_MIN} s or more"),
                )
            } else {
                finding.set(
                    Field::KeepAliveS,
                    server.to_string(),
                    "says what is in force; or raise the broker's limit (Mosquitto: max_keepalive)",
                )
            }
        }
        Some(server) => Finding::fits(
            probe,
            format!("{server} s, set by the broker; {asked} s were asked for"),
        ),
    };
    match seen.server_s {
        Some(server) => finding.with("server_keep_alive_s", server.to_string()),
        None => finding,
    }
}

/// What happens when two clients have one id.
#[must_use]
pub fn takeover(seen: &TakeoverSeen) -> Finding {
    let probe = Probe::Takeover;
    match seen {
        TakeoverSeen::First(failed) if failed.cause == Cause::TakenOver => Finding::fits(
            probe,
            format!("the older client is told: {}", said(failed)),
        ),
        TakeoverSeen::First(failed) => Finding::fits(
            probe,
            format!(
                "the older client is closed without a reason ({}): two gateways with one client id show as this, again \
                 and again",
                ended_how(failed)
            ),
        ),
        TakeoverSeen::Second(failed) => Finding::warns(
            probe,
            format!("the newer client is refused: {}", said(failed)),
        )
        .remedy(
            Field::ClientId,
            "after a loss the gateway cannot come back before the broker has noticed: keep link.keep_alive_s short",
        ),
        TakeoverSeen::Neither => Finding::warns(
            probe,
            "both clients stay: the broker does not notice two gateways with one client id",
        )
        .remedy(
            Field::ClientId,
            "give each gateway an id of its own; the broker will not tell you when two share one",
        ),
    }
}

fn ended_how(failed: &Disconnect) -> String {
    match failed.evidence.transport_end {
        Some(TransportEnd::Rst) => "RST".into(),
        Some(_) | None => failed
            .evidence
            .reason_code
            .map_or_else(|| "FIN".into(), |code| format!("DISCONNECT 0x{code:02x}")),
    }
}

/// Whether the broker notices a client that is gone.
#[must_use]
pub fn silence(keep_alive_s: u16, seen: &SilenceSeen) -> Finding {
    let probe = Probe::Silence;
    match seen {
        SilenceSeen::Closed(after, failed) => Finding::fits(
            probe,
            format!(
                "closed after {:.1} s of silence with a keep-alive of {keep_alive_s} s ({})",
                after.as_secs_f64(),
                ended_how(failed)
            ),
        )
        .with("closed_after_s", format!("{:.1}", after.as_secs_f64())),
        SilenceSeen::Open(after) if *after < SILENCE_WAIT_MIN => Finding::not_tried(
            probe,
            format!(
                "because brokers look only every few seconds, and {:.1} s were waited; --patience gives more",
                after.as_secs_f64()
            ),
        ),
        SilenceSeen::Open(after) => Finding::warns(
            probe,
            format!(
                "still connected after {:.1} s of silence with a keep-alive of {keep_alive_s} s",
                after.as_secs_f64()
            ),
        )
        .remedy(
            Field::KeepAliveS,
            "the broker keeps dead gateways connected: do not judge by it whether a gateway is alive",
        ),
        SilenceSeen::TooLong(patience) => Finding::not_tried(
            probe,
            format!(
                "because the broker's own keep-alive asks for more than {} s of waiting; --patience allows it",
                patience.as_secs()
            ),
        ),
        SilenceSeen::NoSession(failed) => {
            Finding::not_tried(probe, format!("because {}", said(failed)))
        }
    }
}
