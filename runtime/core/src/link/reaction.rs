//! What each cause means: its class, whose fault it is, and what the host does about it whatever a policy says.
//!
//! One arm per cause with its reason; the table is in `docs/disconnects.md`.

use std::fmt;
use std::time::Duration;

use super::ParkReason;
use super::cause::{
    Cause, CauseClass, Disconnect, Evidence, Fault, Inference, Intent, MqttVersion, Phase,
    TlsReject,
};
use super::proxy::{CREDENTIALS_WANTED, NO_ANSWER};
use crate::host::StallKind;

/// So much garbage in a row comes from no broker that will be well in a moment.
pub const GARBAGE_MAX: u32 = 5;
/// A broker that is short of something gets at least this long.
pub const QUOTA_FLOOR: Duration = Duration::from_secs(30);
/// After the first takeover.
pub const TAKEOVER_FLOOR: Duration = Duration::from_secs(60);
/// A session that lasted this long makes the link forget takeovers.
pub const TAKEOVER_MEMORY: Duration = Duration::from_secs(600);
/// Once two clients take one id from each other: taken, taken back and taken again are three exchanges, and the fourth
/// must not come within the ten minutes of the first.
pub const DUEL_FLOOR: Duration = TAKEOVER_MEMORY;
/// At most this, so that a duel whose other side has gone away is over by itself.
pub const DUEL_CEILING: Duration = Duration::from_secs(900);

/// What the host does about a cause. A policy moves only inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// At once, one time, if the session was stable; else back off.
    RetryOnceThenBackOff,
    /// Back off.
    BackOff,
    /// Back off; from the [`GARBAGE_MAX`]th in a row on at the ceiling: something else than a broker is there.
    BackOffThenSlowLane,
    /// Back off, but never sooner than this.
    BackOffFrom(Duration),
    /// At the ceiling, with an alarm: trying faster cannot help.
    SlowLane,
    /// The other protocol version, once, and keep it.
    FallBackVersion,
    /// Another client has our id: far apart.
    YieldToTakeover,
    /// Stop until an operator acts.
    Park,
    /// Nothing: it was asked for.
    Nothing,
}

impl Cause {
    /// The rows of `docs/disconnects.md`: every cause that is not our own doing, with those inferences and details that
    /// mean something else.
    pub const ROWS: [Self; 57] = [
        Self::NameResolution,
        Self::ConnectRefused,
        Self::Unreachable,
        Self::ConnectTimeout,
        Self::Tls(TlsReject::Expired),
        Self::Tls(TlsReject::NotTls),
        Self::ProxyRefused(407),
        Self::ProxyRefused(502),
        Self::ProxyRefused(NO_ANSWER),
        Self::WebSocketRefused(403),
        Self::WebSocketRefused(404),
        Self::WebSocketRefused(429),
        Self::WebSocketRefused(503),
        Self::WebSocketRefused(NO_ANSWER),
        Self::ConnackTimeout,
        Self::ClosedBeforeConnack,
        Self::VersionRefused,
        Self::ClientIdRefused,
        Self::ServerUnavailable,
        Self::ServerBusy,
        Self::BadCredentials,
        Self::NotAuthorized,
        Self::Banned,
        Self::BadAuthenticationMethod,
        Self::QuotaExceeded,
        Self::ConnectionRateExceeded,
        Self::UseAnotherServer,
        Self::ServerMoved,
        Self::OptionUnsupported(0x9a),
        Self::PacketTooLarge,
        Self::ClosedByServer(Inference::Nothing),
        Self::ClosedByServer(Inference::KeepAlive),
        Self::ClosedByServer(Inference::TakeoverOrAccess),
        Self::ClosedByServer(Inference::Poison),
        Self::Reset,
        Self::TakenOver,
        Self::ServerShuttingDown,
        Self::KeepAliveTimeout,
        Self::MaximumConnectTime,
        Self::AdministrativeAction,
        Self::MessageRateTooHigh,
        Self::ReceiveMaximumExceeded,
        Self::TopicAliasInvalid,
        Self::MalformedPacket,
        Self::ProtocolError,
        Self::TopicInvalid,
        Self::ServerReason(0x80),
        Self::PeerGarbage,
        Self::PingrespTimeout,
        Self::WriteStalled,
        Self::BlackHole,
        Self::AckTimeout,
        Self::CanaryLost,
        Self::HostRestarted,
        Self::HostStarved,
        Self::HostSuspended,
        Self::LocalResource,
    ];

    /// The cause of a CONNACK that refused us.
    #[must_use]
    pub const fn from_connack(version: MqttVersion, code: u8) -> Self {
        match version {
            MqttVersion::V311 => match code {
                1 => Self::VersionRefused,
                2 => Self::ClientIdRefused,
                3 => Self::ServerUnavailable,
                4 => Self::BadCredentials,
                5 => Self::NotAuthorized,
                other => Self::ServerReason(other),
            },
            MqttVersion::V5 => match code {
                0x84 => Self::VersionRefused,
                0x85 => Self::ClientIdRefused,
                0x86 => Self::BadCredentials,
                0x88 => Self::ServerUnavailable,
                0x8a => Self::Banned,
                0x8c => Self::BadAuthenticationMethod,
                0x90 => Self::OptionUnsupported(code),
                other => Self::from_reason(other),
            },
        }
    }

    /// The cause of a DISCONNECT the server sent.
    #[must_use]
    pub const fn from_disconnect(code: u8) -> Self {
        Self::from_reason(code)
    }

    /// Reason codes that mean the same on CONNACK and DISCONNECT.
    const fn from_reason(code: u8) -> Self {
        match code {
            0x81 => Self::MalformedPacket,
            0x82 => Self::ProtocolError,
            0x87 => Self::NotAuthorized,
            0x89 => Self::ServerBusy,
            0x8b => Self::ServerShuttingDown,
            0x8d => Self::KeepAliveTimeout,
            0x8e => Self::TakenOver,
            0x8f | 0x90 => Self::TopicInvalid,
            0x93 => Self::ReceiveMaximumExceeded,
            0x94 => Self::TopicAliasInvalid,
            0x95 => Self::PacketTooLarge,
            0x96 => Self::MessageRateTooHigh,
            0x97 => Self::QuotaExceeded,
            0x98 => Self::AdministrativeAction,
            0x99 | 0x9a | 0x9b | 0x9e | 0xa1 | 0xa2 => Self::OptionUnsupported(code),
            0x9c => Self::UseAnotherServer,
            0x9d => Self::ServerMoved,
            0x9f => Self::ConnectionRateExceeded,
            0xa0 => Self::MaximumConnectTime,
            other => Self::ServerReason(other),
        }
    }

    /// The coarse kind, as a policy sees it.
    #[must_use]
    pub const fn class(self) -> CauseClass {
        match self {
            Self::NameResolution => CauseClass::NameResolution,
            Self::ConnectRefused => CauseClass::ConnectRefused,
            Self::Unreachable => CauseClass::Unreachable,
            Self::ConnectTimeout => CauseClass::ConnectTimeout,
            Self::Tls(_) => CauseClass::Tls,
            Self::ProxyRefused(_) => CauseClass::Proxy,
            Self::WebSocketRefused(NO_ANSWER) => CauseClass::PeerGarbage,
            Self::WebSocketRefused(401 | 403) => CauseClass::CredentialsRefused,
            Self::WebSocketRefused(429) => CauseClass::Quota,
            Self::WebSocketRefused(500..=599) => CauseClass::ServerUnavailable,
            // Nobody serves MQTT there.
            Self::WebSocketRefused(_) => CauseClass::ConnectRefused,
            Self::ConnackTimeout => CauseClass::ConnackTimeout,
            Self::ClosedBeforeConnack => CauseClass::ClosedBeforeConnack,
            Self::VersionRefused => CauseClass::VersionRefused,
            Self::ClientIdRefused => CauseClass::IdentityRefused,
            Self::BadCredentials
            | Self::NotAuthorized
            | Self::Banned
            | Self::BadAuthenticationMethod => CauseClass::CredentialsRefused,
            Self::ServerUnavailable | Self::ServerBusy => CauseClass::ServerUnavailable,
            Self::QuotaExceeded | Self::ConnectionRateExceeded | Self::MessageRateTooHigh => {
                CauseClass::Quota
            }
            Self::UseAnotherServer | Self::ServerMoved => CauseClass::ServerMoved,
            Self::OptionUnsupported(_) => CauseClass::OptionUnsupported,
            Self::ClosedByServer(_) | Self::ServerReason(_) => CauseClass::ClosedByServer,
            Self::Reset => CauseClass::Reset,
            Self::TakenOver => CauseClass::TakenOver,
            Self::ServerShuttingDown => CauseClass::ShuttingDown,
            Self::KeepAliveTimeout => CauseClass::KeepAlive,
            Self::AdministrativeAction | Self::MaximumConnectTime => CauseClass::Administrative,
            Self::ReceiveMaximumExceeded
            | Self::TopicAliasInvalid
            | Self::MalformedPacket
            | Self::ProtocolError => CauseClass::Protocol,
            Self::PacketTooLarge | Self::TopicInvalid => CauseClass::PacketRefused,
            Self::PeerGarbage => CauseClass::PeerGarbage,
            Self::PingrespTimeout => CauseClass::PingrespTimeout,
            Self::WriteStalled => CauseClass::WriteStalled,
            Self::BlackHole => CauseClass::BlackHole,
            // To a policy they are one: the broker answers and does not do its work.
            Self::AckTimeout | Self::CanaryLost => CauseClass::AckTimeout,
            Self::Local(_) | Self::LocalResource | Self::HostStarved | Self::HostSuspended => {
                CauseClass::Local
            }
            Self::HostRestarted => CauseClass::HostRestart,
        }
    }

    /// Whose fault it is, as far as the evidence goes.
    #[must_use]
    pub const fn fault(self) -> Fault {
        match self {
            // The way between: no answer, or the kernel's word for it.
            Self::NameResolution
            | Self::Unreachable
            | Self::ConnectTimeout
            | Self::Reset
            | Self::BlackHole => Fault::Network,
            // The broker, or whoever answers in its place, is not able or not willing.
            Self::ConnectRefused
            | Self::ConnackTimeout
            | Self::ClosedBeforeConnack
            | Self::ServerUnavailable
            | Self::ServerBusy
            | Self::ServerShuttingDown
            | Self::AdministrativeAction
            | Self::MaximumConnectTime
            | Self::UseAnotherServer
            | Self::ServerMoved
            | Self::ServerReason(_)
            | Self::PeerGarbage
            | Self::WebSocketRefused(NO_ANSWER | 429 | 500..=599)
            | Self::PingrespTimeout
            | Self::WriteStalled
            | Self::AckTimeout
            | Self::CanaryLost => Fault::Peer,
            // Somebody must change a configuration, on either side.
            Self::ProxyRefused(_)
            | Self::WebSocketRefused(_)
            | Self::VersionRefused
            | Self::ClientIdRefused
            | Self::BadCredentials
            | Self::NotAuthorized
            | Self::Banned
            | Self::BadAuthenticationMethod
            | Self::OptionUnsupported(_)
            | Self::TakenOver
            | Self::TopicInvalid => Fault::Operator,
            // The handshake failed without saying whose certificate or version is wrong.
            Self::Tls(TlsReject::Handshake | TlsReject::Alert(_) | TlsReject::NotTls) => {
                Fault::Peer
            }
            Self::Tls(
                TlsReject::UnknownIssuer
                | TlsReject::NameMismatch
                | TlsReject::Expired
                | TlsReject::NotYetValid
                | TlsReject::ClientCertificate
                | TlsReject::BadCertificate,
            ) => Fault::Operator,
            // We sent what we should not have sent, or too much, or too late.
            Self::QuotaExceeded
            | Self::ConnectionRateExceeded
            | Self::MessageRateTooHigh
            | Self::KeepAliveTimeout
            | Self::PacketTooLarge
            | Self::ReceiveMaximumExceeded
            | Self::TopicAliasInvalid
            | Self::MalformedPacket
            | Self::ProtocolError
            | Self::LocalResource
            | Self::HostStarved
            | Self::HostSuspended
            | Self::HostRestarted => Fault::Us,
            Self::ClosedByServer(inference) => match inference {
                Inference::KeepAlive | Inference::Poison => Fault::Us,
                Inference::TakeoverOrAccess => Fault::Operator,
                Inference::Nothing => Fault::Peer,
            },
            Self::Local(_) => Fault::Nobody,
        }
    }

    /// What the host does about it.
    #[must_use]
    pub const fn remedy(self) -> Remedy {
        match self {
            // A stable session that breaks is worth one quick try: the broker or the path is often back already.
            Self::Reset
            | Self::PingrespTimeout
            | Self::BlackHole
            | Self::AckTimeout
            | Self::KeepAliveTimeout
            | Self::MaximumConnectTime
            | Self::HostRestarted
            | Self::HostStarved
            | Self::HostSuspended
            | Self::ClosedByServer(Inference::Nothing | Inference::KeepAlive) => {
                Remedy::RetryOnceThenBackOff
            }
            // The peer is not there, not able, or coming back: others wait for it too.
            Self::NameResolution
            | Self::ConnectRefused
            | Self::Unreachable
            | Self::ConnectTimeout
            | Self::ConnackTimeout
            | Self::ClosedBeforeConnack
            | Self::ServerUnavailable
            | Self::ServerBusy
            | Self::ServerShuttingDown
            | Self::ServerReason(_)
            | Self::WebSocketRefused(500..=599)
            | Self::WriteStalled
            | Self::CanaryLost
            | Self::LocalResource
            | Self::ClosedByServer(Inference::Poison) => Remedy::BackOff,
            Self::PeerGarbage | Self::WebSocketRefused(NO_ANSWER) => Remedy::BackOffThenSlowLane,
            // We broke the protocol: the same again would end the same, but a new session may carry other messages.
            Self::ReceiveMaximumExceeded
            | Self::TopicAliasInvalid
            | Self::MalformedPacket
            | Self::ProtocolError
            | Self::PacketTooLarge
            | Self::TopicInvalid => Remedy::BackOff,
            // The broker asks for room.
            Self::QuotaExceeded
            | Self::ConnectionRateExceeded
            | Self::MessageRateTooHigh
            | Self::WebSocketRefused(429) => Remedy::BackOffFrom(QUOTA_FLOOR),
            // The reference is shown to the operator; until it is followed the old address may answer again.
            Self::UseAnotherServer | Self::ServerMoved => Remedy::BackOffFrom(QUOTA_FLOOR),
            // Trying faster cannot help, but somebody may mend it while we wait.
            Self::Tls(_)
            | Self::BadCredentials
            | Self::NotAuthorized
            | Self::Banned
            | Self::BadAuthenticationMethod
            | Self::WebSocketRefused(_)
            | Self::AdministrativeAction => Remedy::SlowLane,
            // Only an operator has the credentials.
            Self::ProxyRefused(CREDENTIALS_WANTED) => Remedy::Park,
            Self::ProxyRefused(_) => Remedy::BackOff,
            Self::VersionRefused => Remedy::FallBackVersion,
            // No retry makes an id or an option acceptable.
            Self::ClientIdRefused | Self::OptionUnsupported(_) => Remedy::Park,
            // Trying faster would take it from the other again.
            Self::TakenOver | Self::ClosedByServer(Inference::TakeoverOrAccess) => {
                Remedy::YieldToTakeover
            }
            Self::Local(_) => Remedy::Nothing,
        }
    }

    /// The stable name, for status, metrics and tests.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NameResolution => "name-resolution",
            Self::ConnectRefused => "connect-refused",
            Self::Unreachable => "unreachable",
            Self::ConnectTimeout => "connect-timeout",
            Self::Tls(_) => "tls-rejected",
            Self::ProxyRefused(_) => "proxy-refused",
            Self::WebSocketRefused(_) => "websocket-refused",
            Self::ConnackTimeout => "connack-timeout",
            Self::ClosedBeforeConnack => "closed-before-connack",
            Self::VersionRefused => "version-refused",
            Self::ClientIdRefused => "client-id-refused",
            Self::ServerUnavailable => "server-unavailable",
            Self::ServerBusy => "server-busy",
            Self::BadCredentials => "bad-credentials",
            Self::NotAuthorized => "not-authorized",
            Self::Banned => "banned",
            Self::BadAuthenticationMethod => "bad-authentication-method",
            Self::QuotaExceeded => "quota-exceeded",
            Self::ConnectionRateExceeded => "connection-rate-exceeded",
            Self::UseAnotherServer => "use-another-server",
            Self::ServerMoved => "server-moved",
            Self::OptionUnsupported(_) => "option-unsupported",
            Self::PacketTooLarge => "packet-too-large",
            Self::ClosedByServer(Inference::Nothing) => "closed-by-server",
            Self::ClosedByServer(Inference::KeepAlive) => "closed-by-server-keep-alive",
            Self::ClosedByServer(Inference::TakeoverOrAccess) => {
                "closed-by-server-takeover-or-access"
            }
            Self::ClosedByServer(Inference::Poison) => "closed-by-server-poison",
            Self::Reset => "reset",
            Self::TakenOver => "taken-over",
            Self::ServerShuttingDown => "server-shutting-down",
            Self::KeepAliveTimeout => "keep-alive-timeout",
            Self::MaximumConnectTime => "maximum-connect-time",
            Self::AdministrativeAction => "administrative-action",
            Self::MessageRateTooHigh => "message-rate-too-high",
            Self::ReceiveMaximumExceeded => "receive-maximum-exceeded",
            Self::TopicAliasInvalid => "topic-alias-invalid",
            Self::MalformedPacket => "malformed-packet",
            Self::ProtocolError => "protocol-error",
            Self::TopicInvalid => "topic-invalid",
            Self::ServerReason(_) => "server-reason",
            Self::PeerGarbage => "peer-garbage",
            Self::PingrespTimeout => "pingresp-timeout",
            Self::WriteStalled => "write-stalled",
            Self::BlackHole => "black-hole",
            Self::AckTimeout => "ack-timeout",
            Self::CanaryLost => "canary-lost",
            Self::Local(Intent::Shutdown) => "local-shutdown",
            Self::Local(Intent::FailBack) => "local-fail-back",
            Self::HostRestarted => "host-restarted",
            Self::HostStarved => "host-starved",
            Self::HostSuspended => "host-suspended",
            Self::LocalResource => "local-resource",
        }
    }

    /// What happened, in words an operator knows.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::NameResolution => "the broker's name does not resolve",
            Self::ConnectRefused => "nobody listens at the broker's address",
            Self::Unreachable => "there is no way to the broker",
            Self::ConnectTimeout => "the broker's address does not answer",
            Self::Tls(reject) => tls_words(reject),
            Self::ProxyRefused(CREDENTIALS_WANTED) => "the proxy wants credentials, or others",
            Self::ProxyRefused(NO_ANSWER) => "the proxy does not answer as a proxy does",
            Self::ProxyRefused(_) => "the proxy does not let us through to the broker",
            Self::WebSocketRefused(status) => websocket_words(status),
            Self::ConnackTimeout => "the broker took CONNECT and did not answer",
            Self::ClosedBeforeConnack => "the broker closed instead of answering CONNECT",
            Self::VersionRefused => "the broker does not speak this MQTT version",
            Self::ClientIdRefused => "the broker refuses this client id",
            Self::ServerUnavailable => "the broker says it is unavailable",
            Self::ServerBusy => "the broker says it is busy",
            Self::BadCredentials => "the broker refuses user name or password",
            Self::NotAuthorized => "the broker does not authorize this client",
            Self::Banned => "the broker has banned this client",
            Self::BadAuthenticationMethod => "the broker refuses the authentication method",
            Self::QuotaExceeded => "a quota of the broker is exceeded",
            Self::ConnectionRateExceeded => "the broker limits the rate of connections",
            Self::UseAnotherServer => "the broker asks to use another server",
            Self::ServerMoved => "the broker has moved",
            Self::OptionUnsupported(_) => "the broker does not support an option we ask for",
            Self::PacketTooLarge => "a packet is larger than the broker takes",
            Self::ClosedByServer(Inference::Nothing) => "the broker closed without giving a reason",
            Self::ClosedByServer(Inference::KeepAlive) => {
                "the broker closed without giving a reason after we were silent for too long"
            }
            Self::ClosedByServer(Inference::TakeoverOrAccess) => {
                "the broker keeps closing right after CONNACK: another client with this id, or an access rule"
            }
            Self::ClosedByServer(Inference::Poison) => {
                "the broker closed twice right after the same message"
            }
            Self::Reset => "the connection was reset",
            Self::TakenOver => "another client took our client id",
            Self::ServerShuttingDown => "the broker is shutting down",
            Self::KeepAliveTimeout => "the broker did not hear from us within the keep-alive",
            Self::MaximumConnectTime => "the broker ends connections of this age",
            Self::AdministrativeAction => "an administrator of the broker ended it",
            Self::MessageRateTooHigh => "we send more than the broker allows",
            Self::ReceiveMaximumExceeded => "we sent more than the broker's Receive Maximum",
            Self::TopicAliasInvalid => "we used a topic alias the broker does not know",
            Self::MalformedPacket => "the broker could not parse what we sent",
            Self::ProtocolError => "the broker says we broke the protocol",
            Self::TopicInvalid => "the broker refuses a topic",
            Self::ServerReason(_) => "the broker ended it with a reason code of its own",
            Self::PeerGarbage => "the peer sent bytes that are not MQTT",
            Self::PingrespTimeout => "the broker does not answer PINGREQ",
            Self::WriteStalled => "the broker stopped reading",
            Self::BlackHole => "what we sent is not acknowledged by the other end's kernel",
            Self::AckTimeout => "the broker answers PINGREQ but acknowledges no publish",
            Self::CanaryLost => {
                "the broker takes messages but does not deliver them: the canary does not come back"
            }
            Self::Local(Intent::Shutdown) => "the gateway is stopping",
            Self::Local(Intent::FailBack) => "a preferred broker gets another try",
            Self::HostStarved => {
                "this machine did not let the gateway run for too long, or was itself paused"
            }
            Self::HostSuspended => "this machine slept for too long",
            Self::HostRestarted => "the gateway itself was killed and started again",
            Self::LocalResource => "this machine refused a socket, memory or a permission",
        }
    }
}

const fn tls_words(reject: TlsReject) -> &'static str {
    match reject {
        TlsReject::UnknownIssuer => "the broker's certificate comes from nobody we trust",
        TlsReject::NameMismatch => "the broker's certificate is for another name",
        TlsReject::Expired => {
            "the broker's certificate has expired, or this machine's clock runs ahead"
        }
        TlsReject::NotYetValid => {
            "the broker's certificate is not valid yet, or this machine's clock runs behind"
        }
        TlsReject::ClientCertificate => "the broker refuses our client certificate or wants one",
        TlsReject::NotTls => "the peer does not speak TLS",
        TlsReject::BadCertificate => "the broker's certificate cannot be accepted",
        TlsReject::Alert(_) => "the broker ended TLS with an alert",
        TlsReject::Handshake => "the TLS handshake failed",
    }
}

const fn websocket_words(status: u16) -> &'static str {
    match status {
        NO_ANSWER => "the peer does not answer as a WebSocket server for MQTT does",
        401 | 403 => "the web server before the broker does not let this client in",
        429 => "the web server before the broker limits the rate of connections",
        500..=599 => "the web server before the broker cannot serve us now",
        _ => "the web server knows no MQTT at this path",
    }
}

impl ParkReason {
    /// The stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClientId => "client-id",
            Self::Option => "option",
            Self::Proxy => "proxy",
            Self::DuplicateClientId => "duplicate-client-id",
            Self::Version => "version",
            Self::Policy => "policy",
        }
    }

    /// What an operator must do.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::ClientId => "give the gateway a client id the broker accepts (link.client_id)",
            Self::Option => "allow at the broker what the gateway asks for, or change [link]",
            Self::Proxy => {
                "give the proxy's credentials (link.proxy_username and link.proxy_password)"
            }
            Self::DuplicateClientId => {
                "find the other client with this id and give one of the two another (link.client_id)"
            }
            Self::Version => "allow a version the broker speaks (link.mqtt_version)",
            Self::Policy => "mend what the cause names; the policy saw no use in trying",
        }
    }
}

impl CauseClass {
    /// The stable name, the same as in `reconnect-policy.wit`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NameResolution => "name-resolution",
            Self::ConnectRefused => "connect-refused",
            Self::Unreachable => "unreachable",
            Self::ConnectTimeout => "connect-timeout",
            Self::Tls => "tls",
            Self::Proxy => "proxy",
            Self::ConnackTimeout => "connack-timeout",
            Self::ClosedBeforeConnack => "closed-before-connack",
            Self::VersionRefused => "version-refused",
            Self::IdentityRefused => "identity-refused",
            Self::CredentialsRefused => "credentials-refused",
            Self::ServerUnavailable => "server-unavailable",
            Self::Quota => "quota",
            Self::ServerMoved => "server-moved",
            Self::OptionUnsupported => "option-unsupported",
            Self::ClosedByServer => "closed-by-server",
            Self::Reset => "reset",
            Self::TakenOver => "taken-over",
            Self::ShuttingDown => "shutting-down",
            Self::KeepAlive => "keep-alive",
            Self::Administrative => "administrative",
            Self::Protocol => "protocol",
            Self::PacketRefused => "packet-refused",
            Self::PeerGarbage => "peer-garbage",
            Self::PingrespTimeout => "pingresp-timeout",
            Self::WriteStalled => "write-stalled",
            Self::BlackHole => "black-hole",
            Self::AckTimeout => "ack-timeout",
            Self::Local => "local",
            Self::HostRestart => "host-restart",
        }
    }
}

impl Fault {
    /// The stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Us => "us",
            Self::Peer => "peer",
            Self::Network => "network",
            Self::Operator => "operator",
            Self::Nobody => "nobody",
        }
    }
}

impl Phase {
    /// The stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Tcp => "tcp",
            Self::Proxy => "proxy",
            Self::Tls => "tls",
            Self::WebSocket => "websocket",
            Self::Connect => "connect",
            Self::Session => "session",
        }
    }
}

impl fmt::Display for Disconnect {
    /// One sentence: what happened, whose fault it is, and what proves it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let evidence = &self.evidence;
        write!(
            f,
            "{} ({}, fault: {}",
            self.cause.words(),
            self.cause.name(),
            self.cause.fault().name()
        )?;
        if self.certainty == super::cause::Certainty::Inferred {
            f.write_str(", inferred")?;
        }
        write!(f, "; phase {}, MQTT {}", self.phase.name(), self.version)?;
        if let Some(code) = evidence.reason_code {
            write!(f, ", code 0x{code:02x}")?;
        }
        if let Some(errno) = evidence.errno {
            write!(f, ", errno {errno}")?;
        }
        if let Some(reason) = &evidence.reason_string {
            write!(f, ", reason string {reason:?}")?;
        }
        if let Some(reference) = &evidence.server_reference {
            write!(f, ", server reference {reference:?}")?;
        }
        if let Some(client_id) = &evidence.client_id {
            write!(f, ", client id {client_id:?}")?;
        }
        if let Some(session) = evidence.session {
            write!(f, ", session {:.1} s", session.as_secs_f64())?;
        }
        if let Some(silence) = evidence.silence {
            write!(f, ", peer silent {:.1} s", silence.as_secs_f64())?;
        }
        if let Some(age) = evidence.ack_age {
            write!(
                f,
                ", oldest unacknowledged publish {:.1} s",
                age.as_secs_f64()
            )?;
        }
        if let Some(age) = evidence.since_refusal {
            write!(
                f,
                ", last publish refused {:.1} s before",
                age.as_secs_f64()
            )?;
        }
        if let Some(bytes) = evidence.unproven_bytes {
            write!(
                f,
                ", a publish of {bytes} bytes in flight, more than this broker has acknowledged"
            )?;
        }
        if let Some(within) = evidence.answers_within {
            write!(f, ", answers expected within {:.2} s", within.as_secs_f64())?;
        }
        if let Some(age) = evidence.canary_age {
            write!(f, ", last canary back {:.1} s before", age.as_secs_f64())?;
        }
        if let Some(packet) = evidence.last_sent {
            write!(f, ", last sent {packet}")?;
        }
        if let Some(packet) = evidence.last_received {
            write!(f, ", last received {packet}")?;
        }
        evidence.of_this_machine(f)?;
        if let Some(detail) = &evidence.detail {
            write!(f, ", {detail}")?;
        }
        f.write_str(")")
    }
}

impl Evidence {
    /// What this machine itself went through shortly before.
    fn of_this_machine(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(stall) = &self.stall {
            let what = match stall.kind {
                StallKind::Starved => "this machine did not run the gateway",
                StallKind::Suspended => "this machine slept",
            };
            write!(
                f,
                ", {what} for {:.1} s until {:.1} s before",
                stall.lasted.as_secs_f64(),
                stall.ago.as_secs_f64()
            )?;
        }
        if let Some(step) = &self.clock_step {
            write!(
                f,
                ", the wall clock was set by {:+.1} s {:.1} s before",
                step.by_ms as f64 / 1e3,
                step.ago.as_secs_f64()
            )?;
        }
        if let Some(network) = &self.network {
            write!(f, ", {network}")?;
        }
        Ok(())
    }
}
