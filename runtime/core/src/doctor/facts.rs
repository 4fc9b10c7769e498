//! What the shell saw, before anybody says what it means.

use std::time::Duration;

use crate::link::cause::{Disconnect, MqttVersion};
use crate::mqtt_frame::Connack;

/// Why something did not come to be, as the link would say it.
pub type Failed = Box<Disconnect>;

/// The addresses of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameSeen {
    /// The host was an address already.
    pub literal: bool,
    /// The addresses, without port.
    pub addresses: Result<Vec<std::net::IpAddr>, Failed>,
}

/// One address that was connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressSeen {
    /// Address and port.
    pub address: std::net::SocketAddr,
    /// How long it took, or what the kernel said.
    pub connected: Result<Duration, Failed>,
}

/// What somebody who was spoken to answered, by his first bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Speech {
    /// A CONNACK.
    Mqtt,
    /// A TLS record.
    Tls,
    /// HTTP, with its first line and its `Date`.
    Http {
        /// The first line.
        line: String,
        /// The Date header's value.
        date: Option<String>,
    },
    /// Something else; the first bytes, escaped.
    Other(String),
    /// Nothing, and then he closed.
    Closed,
    /// Nothing.
    Silent,
}

/// How much of what is no MQTT is shown.
const SHOWN_BYTES: usize = 40;

impl Speech {
    /// By the bytes that came before the end or the deadline; `closed`: he closed.
    #[must_use]
    pub fn of(bytes: &[u8], closed: bool) -> Self {
        match bytes {
            [] if closed => Self::Closed,
            [] => Self::Silent,
            [0x20, 2..=0x7f, ..] => Self::Mqtt,
            // Alert or handshake, of any version.
            [0x15 | 0x16, 3, ..] => Self::Tls,
            _ if bytes.starts_with(b"HTTP/") => {
                let text = String::from_utf8_lossy(bytes);
                let mut lines = text.lines();
                let line = lines.next().unwrap_or_default().to_owned();
                let date = lines
                    .take_while(|line| !line.is_empty())
                    .filter_map(|line| line.split_once(':'))
                    .find(|(name, _)| name.eq_ignore_ascii_case("date"))
                    .map(|(_, value)| value.trim().to_owned());
                Self::Http { line, date }
            }
            _ => {
                let shown = bytes.get(..SHOWN_BYTES).unwrap_or(bytes);
                Self::Other(shown.escape_ascii().to_string())
            }
        }
    }

    /// In words, as the object of "answers with".
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Mqtt => "MQTT".into(),
            Self::Tls => "TLS".into(),
            Self::Http { line, .. } => format!("HTTP ({line:?})"),
            Self::Other(bytes) => format!("{bytes:?}"),
            Self::Closed => "nothing, and closes".into(),
            Self::Silent => "nothing".into(),
        }
    }
}

/// What the listener speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtocolSeen {
    /// TLS was begun and certificates, or an alert about ours, came back; or TLS is not wanted.
    pub outer: Outer,
    /// What answered CONNECT on the way the URL names.
    pub inside: Option<Speech>,
    /// What answered on the way it does not name: plain CONNECT for `mqtts://`, a TLS hello for `mqtt://`.
    pub other: Option<Speech>,
    /// What answered a WebSocket request; asked only where nothing else was understood.
    pub http: Option<Speech>,
}

/// The layer below MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outer {
    /// Plain, as the URL says.
    Plain,
    /// The TLS handshake ended well.
    Tls,
    /// TLS is spoken, and refused by one side.
    TlsRefused,
    /// Whoever is there does not answer in TLS.
    NotTls,
}

/// One certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Whose.
    pub subject: String,
    /// Signed by.
    pub issuer: String,
    /// The names it is for, if it is for any.
    pub names: Vec<String>,
    /// Seconds since the Unix epoch.
    pub not_before_s: i64,
    /// Seconds since the Unix epoch.
    pub not_after_s: i64,
    /// As people write it.
    pub not_before: String,
    /// As people write it.
    pub not_after: String,
}

/// A TLS handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSeen {
    /// Version, cipher and ALPN; or what ended it.
    pub handshake: Result<TlsTerms, Failed>,
    /// The certificates the broker showed, also of a handshake that failed; its own first.
    pub offered: Vec<Certificate>,
    /// The trusted root the chain ends in, if it is among those we trust.
    pub root: Option<String>,
    /// This machine's clock, in seconds since the Unix epoch.
    pub now_s: i64,
    /// The same, as people write it.
    pub now: String,
}

/// What a handshake agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsTerms {
    /// The protocol's version.
    pub version: String,
    /// The cipher suite.
    pub cipher: String,
    /// ALPN, if the server chose one.
    pub alpn: Option<String>,
}

/// An answer to CONNECT.
pub type Answer = Result<Connack, Failed>;

/// Which of two attempts with wrong credentials were accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StrangersSeen {
    /// Neither user name nor password.
    pub nobody: Answer,
    /// The user name with another password, or another user name; tried where a user name is configured.
    pub impostor: Option<Answer>,
}

/// How the keep-alive was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeepAliveSeen {
    /// Server Keep Alive.
    pub server_s: Option<u16>,
    /// The configured one is refused; the longest that was accepted.
    pub accepted_s: Option<u16>,
}

/// PUBACK and PUBREC Reason Codes, MQTT 5.0 sections 3.4.2.1 and 3.5.2.1.
const NOT_AUTHORIZED: u8 = 0x87;
const TOPIC_NAME_INVALID: u8 = 0x90;

/// What became of a QoS 1 or 2 publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Acknowledged, with this code and Reason String; 0x80 and above refuse.
    Acked(u8, Option<String>),
    /// The session ended.
    Ended(Failed),
    /// Nothing came in time.
    Unanswered,
}

impl Sent {
    /// Acknowledged and not refused.
    #[must_use]
    pub const fn taken(&self) -> bool {
        matches!(self, Self::Acked(code, _) if *code < 0x80)
    }

    /// Refused for what it is, as a smaller or a later one would be: by the topic, not by the size.
    #[must_use]
    pub const fn forbidden(&self) -> bool {
        matches!(self, Self::Acked(NOT_AUTHORIZED | TOPIC_NAME_INVALID, _))
    }
}

/// One topic the gateway needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSeen {
    /// The topic.
    pub topic: &'static str,
    /// Subscribed to rather than published on.
    pub subscribed: bool,
    /// What became of the PUBLISH or the SUBSCRIBE.
    pub sent: Sent,
    /// For a publish: whether it came back to a subscription of our own; none where that was not tried.
    pub came_back: Option<bool>,
}

/// A publish and its way back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoundTrip {
    /// The subscription.
    pub subscribed: Sent,
    /// The publish; none where the subscription was not granted, and with QoS 0 once it was written.
    pub published: Option<Sent>,
    /// The QoS it came back with, and how long that took.
    pub delivered: Option<(u8, Duration)>,
}

/// A retained message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetainedSeen {
    /// The publish.
    pub published: Sent,
    /// A later subscriber got it.
    pub kept: bool,
    /// And after it was cleared a still later one did not.
    pub cleared: bool,
}

/// Packets of several sizes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketSizeSeen {
    /// Maximum Packet Size of the CONNACK.
    pub announced: Option<u32>,
    /// The largest packet that was acknowledged.
    pub taken_bytes: usize,
    /// The smallest that was not, and what became of it.
    pub refused: Option<(usize, Sent)>,
    /// Larger ones than this are not tried.
    pub bound_bytes: usize,
}

/// Many publishes at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InFlightSeen {
    /// Receive Maximum of the CONNACK.
    pub announced: Option<u16>,
    /// How many were sent without waiting.
    pub sent: u16,
    /// How many were acknowledged.
    pub acked: u16,
    /// From the first publish to the last acknowledgement.
    pub took: Duration,
    /// What ended the session, if something did.
    pub ended: Option<Failed>,
}

/// A session across a reconnect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumeSeen {
    /// Session Expiry Interval the server set instead of ours, in seconds.
    pub expiry_s: Option<u32>,
    /// Session Present of the second CONNACK.
    pub present: bool,
    /// What was published meanwhile came.
    pub queued: bool,
}

/// Two clients with one id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TakeoverSeen {
    /// The first one was ended, and saw this.
    First(Failed),
    /// The second one was refused.
    Second(Failed),
    /// Both stay.
    Neither,
}

/// A client that says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SilenceSeen {
    /// Closed after this long; with what it saw.
    Closed(Duration, Failed),
    /// Still connected after this long.
    Open(Duration),
    /// The server's own keep-alive makes the wait longer than this patience.
    TooLong(Duration),
    /// No session to be silent on.
    NoSession(Failed),
}

/// Times that were told from the other side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClockSeen {
    /// By the Date of an HTTP answer: how far our clock is ahead of it, in seconds.
    pub http_ahead_s: Option<i64>,
    /// The broker's certificate is valid by our clock; false when it is not.
    pub certificate_valid: Option<bool>,
}

/// What CONNACK announces, and in which version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TermsSeen {
    /// The version the link will speak.
    pub version: MqttVersion,
    /// The CONNACK.
    pub connack: Connack,
}
