//! The disconnect taxonomy: why a session ended or an attempt failed, whose fault it was, and what proves it.
//!
//! There is no "unknown": where the wire gave no reason, the cause names what was seen (a FIN without a DISCONNECT) and
//! what the context suggests, marked [`Certainty::Inferred`].
//!
//! Codes are those of MQTT 5.0 section 2.4 and MQTT 3.1.1 section 3.2.2.3.

use std::fmt;
use std::time::Duration;

use crate::host::{ClockStep, Stall};

/// The protocol version a session speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MqttVersion {
    /// MQTT 3.1.1 (protocol level 4).
    V311,
    /// MQTT 5.0 (protocol level 5).
    V5,
}

impl fmt::Display for MqttVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V311 => "3.1.1",
            Self::V5 => "5.0",
        })
    }
}

/// How far the attempt or the session had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Resolving the broker's name.
    Dns,
    /// Connecting.
    Tcp,
    /// The proxy's handshake.
    Proxy,
    /// The TLS handshake.
    Tls,
    /// The upgrade to a WebSocket.
    WebSocket,
    /// Between CONNECT and CONNACK.
    Connect,
    /// After a successful CONNACK.
    Session,
}

/// Why TLS was refused, by us or by the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsReject {
    /// The chain leads to no trusted root.
    UnknownIssuer,
    /// The certificate is for another name.
    NameMismatch,
    /// The certificate has expired (or our clock runs ahead).
    Expired,
    /// The certificate is not valid yet (or our clock runs behind).
    NotYetValid,
    /// The peer refused our client certificate or wants one.
    ClientCertificate,
    /// The peer does not speak TLS.
    NotTls,
    /// The certificate fails for another reason the record's detail names.
    BadCertificate,
    /// The peer sent an alert, by number (RFC 8446 section 6).
    Alert(u8),
    /// No version or cipher in common, or the handshake failed otherwise; the detail names it.
    Handshake,
}

/// What the context suggests when a broker closes without a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inference {
    /// We were silent for more than 1.5 keep-alive periods.
    KeepAlive,
    /// Sessions keep ending within seconds of CONNACK: a takeover or an access rule.
    TakeoverOrAccess,
    /// The same message was the last one sent twice in a row.
    Poison,
    /// Nothing in the context points anywhere.
    Nothing,
}

/// Who ended it on our side, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// The process is stopping.
    Shutdown,
    /// A preferred broker is tried again.
    FailBack,
}

impl Intent {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Shutdown, Self::FailBack];
}

/// Why the link went down or did not come up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The broker's name does not resolve.
    NameResolution,
    /// Nobody listens there.
    ConnectRefused,
    /// No route, or the interface is down.
    Unreachable,
    /// SYNs vanish.
    ConnectTimeout,
    /// TLS was refused.
    Tls(TlsReject),
    /// The proxy refused: its HTTP status or SOCKS 5 reply code, 407 where either wants credentials, 0 where it does not
    /// answer as a proxy does.
    ProxyRefused(u16),
    /// The upgrade to a WebSocket was refused with this HTTP status; 0 where the answer is no WebSocket server's for MQTT.
    WebSocketRefused(u16),
    /// CONNECT was sent; no CONNACK came in time.
    ConnackTimeout,
    /// The peer closed between CONNECT and CONNACK.
    ClosedBeforeConnack,
    /// Return code 1, 0x84, or a 3.1.1 CONNACK to a 5.0 CONNECT.
    VersionRefused,
    /// Return code 2 or 0x85.
    ClientIdRefused,
    /// Return code 3 or 0x88.
    ServerUnavailable,
    /// 0x89.
    ServerBusy,
    /// Return code 4 or 0x86.
    BadCredentials,
    /// Return code 5 or 0x87.
    NotAuthorized,
    /// 0x8A.
    Banned,
    /// 0x8C.
    BadAuthenticationMethod,
    /// 0x97, on CONNACK or DISCONNECT.
    QuotaExceeded,
    /// 0x9F.
    ConnectionRateExceeded,
    /// 0x9C.
    UseAnotherServer,
    /// 0x9D.
    ServerMoved,
    /// A CONNECT option the server does not support: will topic 0x90, retain 0x9A, QoS 0x9B, payload format 0x99,
    /// subscription kinds 0x9E 0xA1 0xA2, by reason code.
    OptionUnsupported(u8),
    /// 0x95: our packet is larger than the server takes.
    PacketTooLarge,
    /// The server closed after CONNACK without saying why.
    ClosedByServer(Inference),
    /// RST.
    Reset,
    /// 0x8E: another client took our client id.
    TakenOver,
    /// 0x8B.
    ServerShuttingDown,
    /// 0x8D: the server missed our traffic.
    KeepAliveTimeout,
    /// 0xA0.
    MaximumConnectTime,
    /// 0x98.
    AdministrativeAction,
    /// 0x96.
    MessageRateTooHigh,
    /// 0x93.
    ReceiveMaximumExceeded,
    /// 0x94.
    TopicAliasInvalid,
    /// 0x81: the server could not parse us.
    MalformedPacket,
    /// 0x82: the server says we broke the protocol.
    ProtocolError,
    /// 0x8F or 0x90 after CONNACK.
    TopicInvalid,
    /// Any other reason code the server sent, by number: 0x00, 0x04, 0x80, 0x83 and codes of later versions.
    ServerReason(u8),
    /// The peer sent bytes that are not MQTT.
    PeerGarbage,
    /// PINGREQ was sent; no PINGRESP came in time, although nothing says that the way is broken: what the peer's kernel does not
    /// acknowledge either is [`Self::BlackHole`].
    PingrespTimeout,
    /// The peer stopped reading: nothing could be written for too long.
    WriteStalled,
    /// The kernel gave up on unacknowledged bytes (ETIMEDOUT).
    BlackHole,
    /// PINGs are answered but publishes are not acknowledged.
    AckTimeout,
    /// Publishes are acknowledged, but the canary does not come back: the broker, or a bridge behind it, does not deliver.
    CanaryLost,
    /// We ended it.
    Local(Intent),
    /// The process before this one died without closing.
    HostRestarted,
    /// The host did not run us for so long that the peer gave us up, or we lost track of it.
    HostStarved,
    /// The host slept for so long that the peer gave us up, or we lost track of it.
    HostSuspended,
    /// Our own descriptors, memory or permissions ran out; errno in the evidence.
    LocalResource,
}

/// Whose fault it was, as far as the evidence goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// This gateway.
    Us,
    /// The broker, or whoever answers for it.
    Peer,
    /// The way between.
    Network,
    /// The configuration, on either side: somebody must act.
    Operator,
    /// Nobody's: it was asked for.
    Nobody,
}

/// Whether the cause was seen or concluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// A code, an errno or an alert says so.
    Certain,
    /// Concluded from the context.
    Inferred,
}

/// How the transport ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportEnd {
    /// The peer sent FIN.
    Fin,
    /// The peer sent RST.
    Rst,
    /// The kernel reported this errno.
    Errno(i32),
    /// We closed it.
    Local,
}

/// What proves a cause. Durations are ages at the moment of the disconnect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// The reason or return code as received.
    pub reason_code: Option<u8>,
    /// MQTT 5.0 Reason String.
    pub reason_string: Option<String>,
    /// MQTT 5.0 Server Reference.
    pub server_reference: Option<String>,
    /// How the transport ended.
    pub transport_end: Option<TransportEnd>,
    /// The operating system's error number.
    pub errno: Option<i32>,
    /// Name of the last packet received.
    pub last_received: Option<&'static str>,
    /// Name of the last packet sent.
    pub last_sent: Option<&'static str>,
    /// Since the last byte from the peer.
    pub silence: Option<Duration>,
    /// Since the last byte to the peer.
    pub since_sent: Option<Duration>,
    /// How long the session had lasted.
    pub session: Option<Duration>,
    /// Age of the oldest unacknowledged publish.
    pub ack_age: Option<Duration>,
    /// Since the broker last refused a publish.
    pub since_refusal: Option<Duration>,
    /// The largest publish in flight, bytes, where it had just been sent and is larger than any that this broker has
    /// acknowledged ([`super::packet_size`]).
    pub unproven_bytes: Option<usize>,
    /// The keep-alive in force.
    pub keep_alive: Option<Duration>,
    /// The time within which the peer was expected to answer, by its answers so far (RFC 6298).
    pub answers_within: Option<Duration>,
    /// Since a canary last came back, where canaries are sent.
    pub canary_age: Option<Duration>,
    /// Our client id, where it may be another client's, too.
    pub client_id: Option<String>,
    /// The host did not run us shortly before.
    pub stall: Option<Stall>,
    /// Somebody set the wall clock shortly before.
    pub clock_step: Option<ClockStep>,
    /// How long this machine had had no route to the broker, by its kernel's word.
    pub without_route: Option<Duration>,
    /// What changed on this machine's network shortly before, or that it has no way to the broker: shown, never matched on.
    pub network: Option<String>,
    /// Free words of the library or the operating system: shown, never matched on.
    pub detail: Option<String>,
}

/// One structured disconnect: what every end of a session and every failed attempt becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect {
    /// Why.
    pub cause: Cause,
    /// Seen or concluded.
    pub certainty: Certainty,
    /// How far it had come.
    pub phase: Phase,
    /// The version spoken or offered.
    pub version: MqttVersion,
    /// What proves it.
    pub evidence: Evidence,
    /// From here on publishes to this broker that can be divided have at most so many bytes
    /// ([`super::packet_size`]).
    pub smaller_publishes: Option<usize>,
}

/// The coarse kind of a cause: what a policy sees (`cause` in `reconnect-policy.wit`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(
    missing_docs,
    reason = "one word each, the words of the WIT enum; `Cause::class` maps to them"
)]
pub enum CauseClass {
    NameResolution,
    ConnectRefused,
    Unreachable,
    ConnectTimeout,
    Tls,
    Proxy,
    ConnackTimeout,
    ClosedBeforeConnack,
    VersionRefused,
    IdentityRefused,
    CredentialsRefused,
    ServerUnavailable,
    Quota,
    ServerMoved,
    OptionUnsupported,
    ClosedByServer,
    Reset,
    TakenOver,
    ShuttingDown,
    KeepAlive,
    Administrative,
    Protocol,
    PacketRefused,
    PeerGarbage,
    PingrespTimeout,
    WriteStalled,
    BlackHole,
    AckTimeout,
    Local,
    HostRestart,
}

impl CauseClass {
    /// All of them, in the order of the WIT enum.
    pub const ALL: [Self; 30] = [
        Self::NameResolution,
        Self::ConnectRefused,
        Self::Unreachable,
        Self::ConnectTimeout,
        Self::Tls,
        Self::Proxy,
        Self::ConnackTimeout,
        Self::ClosedBeforeConnack,
        Self::VersionRefused,
        Self::IdentityRefused,
        Self::CredentialsRefused,
        Self::ServerUnavailable,
        Self::Quota,
        Self::ServerMoved,
        Self::OptionUnsupported,
        Self::ClosedByServer,
        Self::Reset,
        Self::TakenOver,
        Self::ShuttingDown,
        Self::KeepAlive,
        Self::Administrative,
        Self::Protocol,
        Self::PacketRefused,
        Self::PeerGarbage,
        Self::PingrespTimeout,
        Self::WriteStalled,
        Self::BlackHole,
        Self::AckTimeout,
        Self::Local,
        Self::HostRestart,
    ];
}
