//! From what the dialer and the tap saw to the core's observation. Nothing is decided here.

use moorline_core::link::cause::{Evidence, MqttVersion, Phase};
use moorline_core::link::classify::{Observation, Observed};
use moorline_core::mqtt_frame::{Connack, Properties};
use moorline_core::time::Instant;

use super::dialer::{DialError, DialFailure};
use super::session::{GaveUp, GaveUpOver};
use super::wire::{Wire, WireEnd};

/// An attempt that got no stream.
pub(super) fn dial_failure(version: MqttVersion, failure: DialFailure) -> Observation {
    let observed = match failure.error {
        DialError::Unresolved => Observed::Unresolved,
        DialError::Errno(errno) => Observed::Errno(errno),
        DialError::Unbound(errno) => Observed::Unbound(errno),
        DialError::Timeout => Observed::Timeout,
        DialError::Proxy(code) => Observed::ProxyRefused(code),
        DialError::Tls(reject) => Observed::Tls(reject),
        DialError::WebSocket(status) => Observed::WebSocketRefused(status),
        DialError::Closed => Observed::Fin,
    };
    let evidence = Evidence {
        detail: Some(failure.detail),
        ..Evidence::default()
    };
    Observation {
        phase: failure.phase,
        version,
        observed,
        evidence,
        suspect: None,
    }
}

/// What the wire shows at `now`, for an end that was noticed elsewhere (a deadline, an order).
pub(super) fn evidence(wire: &Wire, now: Instant) -> Evidence {
    let age = |at: Option<Instant>| at.map(|at| now.saturating_since(at));
    Evidence {
        last_received: wire.last_received().map(|kind| kind.name()),
        last_sent: wire.last_sent().map(|kind| kind.name()),
        silence: age(wire.received_at()),
        since_sent: age(wire.sent_at()),
        ..Evidence::default()
    }
}

/// What ended the wire, with the words that belong to it. The crate's own verdict counts only where the wire saw nothing:
/// then the crate itself gave up, on a PINGREQ or on what the peer sent.
pub(super) fn wire_end(
    wire: &Wire,
    version: MqttVersion,
    gave_up: GaveUp,
    evidence: &mut Evidence,
) -> Observed {
    let Some(end) = wire.end() else {
        evidence.detail = Some(gave_up.words);
        return match gave_up.over {
            GaveUpOver::Ping => Observed::PingrespMissing,
            GaveUpOver::OwnPacket => Observed::Unsendable,
            GaveUpOver::Stream => Observed::Garbage,
        };
    };
    match end {
        WireEnd::Disconnect(disconnect) => {
            take_words(disconnect.properties, evidence);
            Observed::ServerDisconnect(disconnect.code)
        }
        WireEnd::Refused(connack) => refused(connack, version, evidence),
        WireEnd::Garbage(words) => {
            evidence.detail = Some(words);
            Observed::Garbage
        }
        WireEnd::Fin => Observed::Fin,
        WireEnd::WebSocketClosed(words) => {
            evidence.detail = Some(words);
            Observed::Fin
        }
        WireEnd::Errno(errno) => Observed::Errno(errno),
        WireEnd::Tls(reject, words) => {
            evidence.detail = Some(words);
            Observed::Tls(reject)
        }
    }
}

fn refused(connack: Connack, offered: MqttVersion, evidence: &mut Evidence) -> Observed {
    take_words(connack.properties, evidence);
    match (offered, connack.form) {
        (MqttVersion::V5, MqttVersion::V311) => Observed::RefusedInOtherVersion,
        (MqttVersion::V5, MqttVersion::V5) | (MqttVersion::V311, _) => {
            Observed::Refused(connack.code)
        }
    }
}

fn take_words(properties: Properties, evidence: &mut Evidence) {
    evidence.reason_string = properties.reason_string;
    evidence.server_reference = properties.server_reference;
}

/// How far a session had come.
pub(super) fn phase(wire: &Wire) -> Phase {
    if wire.connack().is_some() {
        Phase::Session
    } else {
        Phase::Connect
    }
}
