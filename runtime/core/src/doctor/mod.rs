//! What a broker can do, held against what a configuration wants of it.
//!
//! ```text
//!  Plan ──next()──► shell probes ──facts──► judge ──Finding──► Plan::record ──► next()
//!           └─────► not tried, because a probe it needs did not hold
//! ```
//!
//! The shell sees ([`facts`]) and this module judges ([`judge`]): nothing here connects, waits or prints. The remedy of a
//! finding names a field of the configuration; the shell knows its file and line.

pub mod facts;
pub mod judge;
#[cfg(test)]
mod tests;

use crate::link::Versions;
use crate::link::proxy::authority;

/// The probes, in the order in which they are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Probe {
    /// The broker's name has addresses.
    Name,
    /// The addresses answer.
    Connection,
    /// The listener speaks MQTT, over TLS or not as the URL says.
    Protocol,
    /// The certificate chain and its dates.
    Tls,
    /// MQTT 5.0 is answered.
    Version5,
    /// MQTT 3.1.1 is answered.
    Version311,
    /// User name, password and client certificate are accepted.
    Credentials,
    /// Whether wrong ones are accepted, too.
    Strangers,
    /// What CONNACK announces.
    Terms,
    /// The keep-alive in force.
    KeepAlive,
    /// The topics the gateway publishes on and subscribes to.
    GatewayTopics,
    /// A topic of the doctor's own, there and back.
    Scratch,
    /// QoS 0, 1 and 2.
    Qos,
    /// Retained messages.
    Retained,
    /// The largest packet.
    PacketSize,
    /// Publishes in flight.
    InFlight,
    /// Wildcard subscriptions.
    Wildcards,
    /// Shared subscriptions.
    Shared,
    /// A session kept across a reconnect.
    Resume,
    /// Two clients with one id.
    Takeover,
    /// A silent client is closed.
    Silence,
    /// Both clocks agree.
    Clock,
}

impl Probe {
    /// All of them, in order.
    pub const ALL: [Self; 22] = [
        Self::Name,
        Self::Connection,
        Self::Protocol,
        Self::Tls,
        Self::Version5,
        Self::Version311,
        Self::Credentials,
        Self::Strangers,
        Self::Terms,
        Self::KeepAlive,
        Self::GatewayTopics,
        Self::Scratch,
        Self::Qos,
        Self::Retained,
        Self::PacketSize,
        Self::InFlight,
        Self::Wildcards,
        Self::Shared,
        Self::Resume,
        Self::Takeover,
        Self::Silence,
        Self::Clock,
    ];

    /// The stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Connection => "connection",
            Self::Protocol => "protocol",
            Self::Tls => "tls",
            Self::Version5 => "mqtt-5.0",
            Self::Version311 => "mqtt-3.1.1",
            Self::Credentials => "credentials",
            Self::Strangers => "strangers",
            Self::Terms => "terms",
            Self::KeepAlive => "keep-alive",
            Self::GatewayTopics => "gateway-topics",
            Self::Scratch => "scratch-topic",
            Self::Qos => "qos",
            Self::Retained => "retained",
            Self::PacketSize => "packet-size",
            Self::InFlight => "in-flight",
            Self::Wildcards => "wildcards",
            Self::Shared => "shared",
            Self::Resume => "session-resume",
            Self::Takeover => "takeover",
            Self::Silence => "silent-client",
            Self::Clock => "clock",
        }
    }

    /// What must hold before it makes sense. What comes first is named as the reason.
    const fn needs(self) -> &'static [Self] {
        match self {
            Self::Name => &[],
            Self::Connection => &[Self::Name],
            Self::Protocol => &[Self::Connection],
            Self::Tls => &[Self::Connection, Self::Protocol],
            Self::Version5 | Self::Version311 | Self::Credentials => {
                &[Self::Connection, Self::Protocol, Self::Tls]
            }
            Self::Strangers
            | Self::Terms
            | Self::KeepAlive
            | Self::GatewayTopics
            | Self::Scratch
            | Self::PacketSize
            | Self::InFlight
            | Self::Takeover
            | Self::Silence => &[
                Self::Connection,
                Self::Protocol,
                Self::Tls,
                Self::Credentials,
            ],
            Self::Qos | Self::Retained | Self::Wildcards | Self::Shared | Self::Resume => &[
                Self::Connection,
                Self::Protocol,
                Self::Tls,
                Self::Credentials,
                Self::Scratch,
            ],
            Self::Clock => &[Self::Connection],
        }
    }
}

/// How a probe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// The gateway can work with it as configured.
    Fits,
    /// The gateway works, but somebody should know.
    Warns,
    /// The gateway does not work, or loses something.
    Fails,
    /// Nothing can be said.
    NotTried,
}

impl Verdict {
    /// The stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fits => "fits",
            Self::Warns => "warns",
            Self::Fails => "fails",
            Self::NotTried => "not-tried",
        }
    }
}

/// A field of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(
    missing_docs,
    reason = "the keys of config/gateway.toml; `Field::key` maps to them"
)]
pub enum Field {
    Url,
    ClientId,
    Username,
    Password,
    MqttVersion,
    KeepAliveS,
    ConnectTimeoutMs,
    InflightMax,
    PacketBytesMax,
    CaFile,
    ClientCertFile,
    ServerName,
    Proxy,
}

impl Field {
    /// Its table and key.
    #[must_use]
    pub const fn path(self) -> (&'static str, &'static str) {
        match self {
            Self::Url => ("link", "url"),
            Self::ClientId => ("link", "client_id"),
            Self::Username => ("link", "username"),
            Self::Password => ("link", "password"),
            Self::MqttVersion => ("link", "mqtt_version"),
            Self::KeepAliveS => ("link", "keep_alive_s"),
            Self::ConnectTimeoutMs => ("link", "connect_timeout_ms"),
            Self::InflightMax => ("link", "inflight_max"),
            Self::PacketBytesMax => ("link", "packet_bytes_max"),
            Self::CaFile => ("link.tls", "ca_file"),
            Self::ClientCertFile => ("link.tls", "client_cert_file"),
            Self::ServerName => ("link.tls", "server_name"),
            Self::Proxy => ("link", "proxy"),
        }
    }
}

/// What a person can do about a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remedy {
    /// In words, complete without the rest.
    pub words: String,
    /// The field it is about.
    pub field: Field,
    /// What to write there, as TOML; none where only the operator knows, or the broker must change.
    pub value: Option<String>,
}

/// What one probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which.
    pub probe: Probe,
    /// How it ended.
    pub verdict: Verdict,
    /// What was seen and what it means for this configuration, in one sentence.
    pub seen: String,
    /// Codes, sizes, addresses: name and value.
    pub evidence: Vec<(&'static str, String)>,
    /// What to do, where something should be done.
    pub remedy: Option<Remedy>,
    /// What needs this probe can be tried.
    pub holds: bool,
}

impl Finding {
    fn new(probe: Probe, verdict: Verdict, seen: impl Into<String>) -> Self {
        Self {
            probe,
            verdict,
            seen: seen.into(),
            evidence: Vec::new(),
            remedy: None,
            holds: matches!(verdict, Verdict::Fits | Verdict::Warns),
        }
    }

    /// A probe that fits.
    pub fn fits(probe: Probe, seen: impl Into<String>) -> Self {
        Self::new(probe, Verdict::Fits, seen)
    }

    /// A probe about which somebody should know.
    pub fn warns(probe: Probe, seen: impl Into<String>) -> Self {
        Self::new(probe, Verdict::Warns, seen)
    }

    /// A probe that does not fit.
    pub fn fails(probe: Probe, seen: impl Into<String>) -> Self {
        Self::new(probe, Verdict::Fails, seen)
    }

    /// A probe that says nothing, and why.
    pub fn not_tried(probe: Probe, why: impl Into<String>) -> Self {
        Self::new(probe, Verdict::NotTried, why)
    }

    /// With a fact.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.evidence.push((name, value.into()));
        self
    }

    /// With what to do: at the broker, or by a value only the operator knows.
    #[must_use]
    pub fn remedy(mut self, field: Field, words: impl Into<String>) -> Self {
        self.remedy = Some(Remedy {
            words: words.into(),
            field,
            value: None,
        });
        self
    }

    /// With what to write into the configuration.
    #[must_use]
    pub fn set(mut self, field: Field, value: impl Into<String>, words: impl Into<String>) -> Self {
        self.remedy = Some(Remedy {
            words: words.into(),
            field,
            value: Some(value.into()),
        });
        self
    }

    /// Whatever the verdict says, what needs it can be tried, or cannot.
    #[must_use]
    pub const fn holding(mut self, holds: bool) -> Self {
        self.holds = holds;
        self
    }
}

/// What the configuration wants of the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The host as configured.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Whether the URL begins with `mqtts://` or `wss://`.
    pub tls: bool,
    /// The path at which the URL wants MQTT over WebSocket.
    pub websocket: Option<String>,
    /// The proxy that is before the broker, as a URL.
    pub via: Option<String>,
    /// The name the certificate must carry.
    pub server_name: String,
    /// Whether a CA file is configured; the system's roots are trusted otherwise.
    pub ca_file: bool,
    /// Whether we have a certificate of our own.
    pub client_certificate: bool,
    /// Whether a user name is configured.
    pub username: bool,
    /// Which versions may be spoken.
    pub versions: Versions,
    /// The keep-alive asked for, in seconds.
    pub keep_alive_s: u16,
    /// Most publishes in flight.
    pub inflight_max: u16,
    /// Most bytes of one publish.
    pub packet_bytes_max: usize,
}

impl Wanted {
    /// The URL, with TLS or without, with this path for WebSocket or without one.
    #[must_use]
    pub fn url_with(&self, tls: bool, websocket: Option<&str>) -> String {
        let scheme = match (websocket, tls) {
            (None, false) => "mqtt",
            (None, true) => "mqtts",
            (Some(_), false) => "ws",
            (Some(_), true) => "wss",
        };
        let path = websocket.unwrap_or_default();
        format!("{scheme}://{}{path}", authority(&self.host, self.port))
    }

    /// The URL as configured.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_with(self.tls, self.websocket.as_deref())
    }
}

/// What is next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Try this.
    Try(Probe),
    /// It need not be tried: this is its finding.
    Skip(Finding),
}

/// Goes through the probes, and leaves out what cannot work.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    findings: Vec<Finding>,
}

impl Plan {
    /// The next step; none when all is found. Goes on once its finding is recorded.
    #[must_use]
    pub fn next(&self) -> Option<Step> {
        let probe = *Probe::ALL.get(self.findings.len())?;
        let missing = probe.needs().iter().find(|need| !self.holds(**need));
        Some(missing.map_or(Step::Try(probe), |need| {
            Step::Skip(Finding::not_tried(
                probe,
                format!("because {} does not hold", need.name()),
            ))
        }))
    }

    /// Takes the finding of the step that [`Plan::next`] gave. Another one is not taken.
    pub fn record(&mut self, finding: Finding) {
        if Probe::ALL.get(self.findings.len()) == Some(&finding.probe) {
            self.findings.push(finding);
        }
    }

    /// What was found so far.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    fn holds(&self, probe: Probe) -> bool {
        self.findings
            .iter()
            .any(|finding| finding.probe == probe && finding.holds)
    }
}
