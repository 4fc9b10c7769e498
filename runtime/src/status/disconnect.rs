//! One disconnect as status, journal and platform tell it.

use moorline_core::host::StallKind;
use moorline_core::link::cause::{Certainty, Evidence};
use moorline_core::link::{DecidedBy, Next};
use moorline_core::time::saturating_ms;
use serde::{Deserialize, Serialize};

use crate::link::DisconnectRecord;

/// One disconnect or failed attempt.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DisconnectEntry {
    /// Counts up from 1 in each process.
    pub id: u64,
    /// When, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The cause's stable name.
    pub cause: String,
    /// The coarse class a policy sees.
    pub class: String,
    /// `us`, `peer`, `network`, `operator` or `nobody`.
    pub fault: String,
    /// `certain` or `inferred`.
    pub certainty: String,
    /// How far the attempt or session had come.
    pub phase: String,
    /// `5.0` or `3.1.1`: spoken, or offered.
    pub mqtt_version: String,
    /// The broker, as `host:port`.
    pub endpoint: String,
    /// The proxy between, by its URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// What proves it.
    pub evidence: EvidenceEntry,
    /// How long the session had lasted.
    pub session_ms: u64,
    /// One sentence with the evidence.
    pub text: String,
    /// What a person can do about it.
    pub advice: String,
    /// Failed attempts since the link was last stable, this one included.
    pub attempt: u32,
    /// When the next try was set, if one was.
    pub retry_in_ms: Option<u64>,
    /// Why an operator must act before the next try.
    pub parked: Option<String>,
    /// `policy`, `fallback` or `host`.
    pub decided_by: String,
    /// Whether the host changed what was advised.
    pub clamped: bool,
    /// From here on publishes to this broker that can be divided have at most so many bytes; none where that did not change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish_bytes_max: Option<u64>,
}

/// What proves a cause; what was not seen is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EvidenceEntry {
    /// The MQTT reason or return code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason_code: Option<u8>,
    /// MQTT 5.0 Reason String.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason_string: Option<String>,
    /// MQTT 5.0 Server Reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_reference: Option<String>,
    /// The operating system's error number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
    /// Name of the last packet sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_sent: Option<String>,
    /// Name of the last packet received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_received: Option<String>,
    /// Since the last byte from the peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub silence_ms: Option<u64>,
    /// Age of the oldest unacknowledged publish.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ack_age_ms: Option<u64>,
    /// Since the broker last refused a publish.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_refusal_ms: Option<u64>,
    /// The largest publish in flight, where it is larger than any that the broker has acknowledged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unproven_bytes: Option<u64>,
    /// The keep-alive in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_alive_s: Option<u64>,
    /// The time within which the broker was expected to answer, by its answers so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answers_within_ms: Option<u64>,
    /// Since a canary last came back, where canaries are sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary_age_ms: Option<u64>,
    /// Our client id, where another client may use it, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// How long this machine did not run the gateway, shortly before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub starved_ms: Option<u64>,
    /// How long this machine slept, shortly before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suspended_ms: Option<u64>,
    /// By how much the wall clock was set shortly before; back if negative.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock_step_ms: Option<i64>,
    /// How long this machine had had no route to the broker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub without_route_ms: Option<u64>,
    /// What changed on this machine's network shortly before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Words of the operating system or a library.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl From<&DisconnectRecord> for DisconnectEntry {
    fn from(entry: &DisconnectRecord) -> Self {
        let record = &entry.record;
        let disconnect = &record.disconnect;
        let (retry_in_ms, parked) = match record.next {
            Next::Retry(wait) => (Some(saturating_ms(wait).into()), None),
            Next::Parked(reason) => (None, Some(reason.name().to_owned())),
            Next::Stopped => (None, None),
        };
        Self {
            id: entry.id,
            at_ms: entry.at.0,
            cause: disconnect.cause.name().to_owned(),
            class: disconnect.cause.class().name().to_owned(),
            fault: disconnect.cause.fault().name().to_owned(),
            certainty: match disconnect.certainty {
                Certainty::Certain => "certain",
                Certainty::Inferred => "inferred",
            }
            .to_owned(),
            phase: disconnect.phase.name().to_owned(),
            mqtt_version: disconnect.version.to_string(),
            endpoint: record.endpoint.to_string(),
            via: entry.via.clone(),
            evidence: EvidenceEntry::from(&disconnect.evidence),
            session_ms: disconnect
                .evidence
                .session
                .map_or(0, |session| saturating_ms(session).into()),
            text: entry.text.clone(),
            advice: disconnect.advice().to_owned(),
            attempt: record.attempt,
            retry_in_ms,
            parked,
            decided_by: match record.decided_by {
                DecidedBy::Policy => "policy",
                DecidedBy::Fallback(_) => "fallback",
                DecidedBy::Host => "host",
            }
            .to_owned(),
            clamped: record.clamped,
            publish_bytes_max: disconnect.smaller_publishes.map(|bytes| bytes as u64),
        }
    }
}

impl From<&Evidence> for EvidenceEntry {
    fn from(evidence: &Evidence) -> Self {
        let ms = |duration| u64::from(saturating_ms(duration));
        Self {
            reason_code: evidence.reason_code,
            reason_string: evidence.reason_string.clone(),
            server_reference: evidence.server_reference.clone(),
            errno: evidence.errno,
            last_sent: evidence.last_sent.map(str::to_owned),
            last_received: evidence.last_received.map(str::to_owned),
            silence_ms: evidence.silence.map(ms),
            ack_age_ms: evidence.ack_age.map(ms),
            since_refusal_ms: evidence.since_refusal.map(ms),
            unproven_bytes: evidence.unproven_bytes.map(|bytes| bytes as u64),
            keep_alive_s: evidence.keep_alive.map(|keep_alive| keep_alive.as_secs()),
            answers_within_ms: evidence.answers_within.map(ms),
            canary_age_ms: evidence.canary_age.map(ms),
            client_id: evidence.client_id.clone(),
            starved_ms: stalled(evidence, StallKind::Starved),
            suspended_ms: stalled(evidence, StallKind::Suspended),
            clock_step_ms: evidence.clock_step.map(|step| step.by_ms),
            without_route_ms: evidence.without_route.map(ms),
            network: evidence.network.clone(),
            detail: evidence.detail.clone(),
        }
    }
}

fn stalled(evidence: &Evidence, kind: StallKind) -> Option<u64> {
    let stall = evidence.stall.filter(|stall| stall.kind == kind)?;
    Some(saturating_ms(stall.lasted).into())
}
