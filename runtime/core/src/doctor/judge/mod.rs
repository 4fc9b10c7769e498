//! From facts to findings: what was seen, whether it fits, and what to do.
//!
//! One function per probe. Causes are the link's own (`crate::link`), so that what the doctor finds is what the link finds.

use std::time::Duration;

use super::facts::Sent;
use super::{Field, Finding};
use crate::link::cause::{Cause, Disconnect, Phase, TlsReject};
use crate::time::rounded_ms;

mod answer;
mod traffic;
mod way;

pub use answer::{
    KEEP_ALIVE_S_MIN, credentials, keep_alive, silence, spoken, strangers, takeover, terms, version,
};
pub use traffic::{
    PACKET_BYTES_MIN, gateway_topics, in_flight, packet_size, qos, resume, retained, scratch,
    shared, wildcards,
};
pub use way::{clock, connection, name, protocol, tls};

/// What happened, in the link's words, with what proves it.
fn said(disconnect: &Disconnect) -> String {
    let evidence = &disconnect.evidence;
    let mut proofs = Vec::new();
    if let Some(code) = evidence.reason_code {
        let packet = match disconnect.phase {
            Phase::Session => "DISCONNECT",
            Phase::Dns
            | Phase::Tcp
            | Phase::Proxy
            | Phase::Tls
            | Phase::WebSocket
            | Phase::Connect => "CONNACK",
        };
        proofs.push(format!("{packet} 0x{code:02x}"));
    }
    if let Some(reason) = &evidence.reason_string {
        proofs.push(format!("{reason:?}"));
    }
    if let Some(reference) = &evidence.server_reference {
        proofs.push(format!("server reference {reference:?}"));
    }
    if let Some(detail) = &evidence.detail {
        proofs.push(detail.clone());
    }
    let words = disconnect.cause.words();
    if proofs.is_empty() {
        words.to_owned()
    } else {
        format!("{words} ({})", proofs.join(", "))
    }
}

/// The field to look at first.
const fn field(cause: Cause) -> Field {
    match cause {
        Cause::BadCredentials | Cause::NotAuthorized | Cause::BadAuthenticationMethod => {
            Field::Username
        }
        Cause::ClientIdRefused | Cause::TakenOver | Cause::Banned => Field::ClientId,
        Cause::VersionRefused => Field::MqttVersion,
        Cause::PacketTooLarge => Field::PacketBytesMax,
        Cause::ReceiveMaximumExceeded | Cause::QuotaExceeded | Cause::MessageRateTooHigh => {
            Field::InflightMax
        }
        Cause::KeepAliveTimeout => Field::KeepAliveS,
        Cause::ProxyRefused(_) => Field::Proxy,
        Cause::ConnectTimeout => Field::Url,
        Cause::Tls(TlsReject::UnknownIssuer) => Field::CaFile,
        Cause::Tls(TlsReject::NameMismatch) => Field::ServerName,
        Cause::Tls(TlsReject::ClientCertificate) => Field::ClientCertFile,
        Cause::Tls(
            TlsReject::Expired
            | TlsReject::NotYetValid
            | TlsReject::NotTls
            | TlsReject::BadCertificate
            | TlsReject::Alert(_)
            | TlsReject::Handshake,
        )
        | Cause::NameResolution
        | Cause::ConnectRefused
        | Cause::Unreachable
        | Cause::WebSocketRefused(_)
        | Cause::ConnackTimeout
        | Cause::ClosedBeforeConnack
        | Cause::ServerUnavailable
        | Cause::ServerBusy
        | Cause::ConnectionRateExceeded
        | Cause::UseAnotherServer
        | Cause::ServerMoved
        | Cause::OptionUnsupported(_)
        | Cause::ClosedByServer(_)
        | Cause::Reset
        | Cause::ServerShuttingDown
        | Cause::MaximumConnectTime
        | Cause::AdministrativeAction
        | Cause::TopicAliasInvalid
        | Cause::MalformedPacket
        | Cause::ProtocolError
        | Cause::TopicInvalid
        | Cause::ServerReason(_)
        | Cause::PeerGarbage
        | Cause::PingrespTimeout
        | Cause::WriteStalled
        | Cause::BlackHole
        | Cause::AckTimeout
        | Cause::CanaryLost
        | Cause::Local(_)
        | Cause::HostRestarted
        | Cause::HostStarved
        | Cause::HostSuspended
        | Cause::LocalResource => Field::Url,
    }
}

/// With the link's own advice.
fn advised(finding: Finding, disconnect: &Disconnect) -> Finding {
    let finding = finding.with("cause", disconnect.cause.name());
    finding.remedy(field(disconnect.cause), disconnect.cause.advice())
}

/// What became of a publish or a subscription, as the end of a sentence.
fn fate(sent: &Sent) -> String {
    match sent {
        Sent::Acked(code, reason) if *code >= 0x80 => match reason {
            Some(reason) => format!("is refused with 0x{code:02x} {reason:?}"),
            None => format!("is refused with 0x{code:02x}"),
        },
        Sent::Acked(..) => "is acknowledged".into(),
        Sent::Ended(disconnect) => format!("ends the session: {}", said(disconnect)),
        Sent::Unanswered => "is not answered".into(),
    }
}

fn ms(duration: Duration) -> String {
    format!("{} ms", rounded_ms(duration))
}
