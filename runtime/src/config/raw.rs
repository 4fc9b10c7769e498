//! The file as it is written. Every type refuses what cannot be right while the parser still knows the line.

use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

use moorline_core::thingsboard::limits::{Limits, parse_windows};
use serde::Deserialize;
use serde::de::Error as _;
use toml::Spanned;

use super::{grants, limits, plugins, probation, report};
use crate::link::ProxyKind;
use crate::plugins::StreamTarget;

/// A whole number between `MIN` and `MAX`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Within<const MIN: u64, const MAX: u64>(pub(crate) u64);

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Within<MIN, MAX> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        match u64::try_from(number) {
            Ok(number) if (MIN..=MAX).contains(&number) => Ok(Self(number)),
            Ok(_) | Err(_) => Err(D::Error::custom(format!(
                "{number} is out of range: it must be between {MIN} and {MAX}"
            ))),
        }
    }
}

/// `mqtt://host:port`, `mqtts://host:port`, `ws://host:port/path` or `wss://host:port/path`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct BrokerUrl {
    pub(crate) tls: bool,
    /// The path, where MQTT goes over WebSocket.
    pub(crate) websocket: Option<String>,
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// `http://host:port` or `socks5://host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct ProxyUrl {
    pub(crate) kind: ProxyKind,
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl TryFrom<String> for ProxyUrl {
    type Error = String;
    fn try_from(url: String) -> Result<Self, String> {
        if url.contains('@') {
            // Not shown: it may hold a password.
            return Err(
                "is not host:port; the login belongs in link.proxy_username and link.proxy_password"
                    .to_owned(),
            );
        }
        let (kind, rest) = if let Some(rest) = url.strip_prefix("http://") {
            (ProxyKind::Http, rest)
        } else if let Some(rest) = url.strip_prefix("socks5://") {
            (ProxyKind::Socks5, rest)
        } else {
            return Err(format!("{url:?} must begin with http:// or socks5://"));
        };
        let (host, port) = host_port(rest.trim_end_matches('/'), None)?;
        Ok(Self { kind, host, port })
    }
}

/// `tcp://host:port`, `serial:///dev/name?baud=9600`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct StreamUrl(pub(crate) StreamTarget);

fn host_port(authority: &str, default_port: Option<u16>) -> Result<(String, u16), String> {
    let (host, port) = match authority.rsplit_once(':') {
        // A bare IPv6 address has colons of its own; with a port it must be in brackets.
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            let port = u16::from_str(port)
                .map_err(|_| format!("port {port:?} is not a number up to 65535"))?;
            (host, port)
        }
        Some(_) | None => {
            let port =
                default_port.ok_or_else(|| format!("{authority:?} needs a port: host:port"))?;
            (authority, port)
        }
    };
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let usable = match bracketed {
        Some(address) => is_ipv6(address),
        None => is_name(host) || is_ipv6(host),
    };
    if !usable || port == 0 {
        let shown: String = authority.chars().take(80).collect();
        return Err(format!(
            "{shown:?} is not host:port; an IPv6 address goes in brackets, a name has letters, digits, '-' and '.'"
        ));
    }
    Ok((bracketed.unwrap_or(host).to_owned(), port))
}

/// An address, with the interface where it needs one: `fe80::1%eth0` (RFC 4007 section 11).
fn is_ipv6(host: &str) -> bool {
    let (address, zone) = host.split_once('%').unwrap_or((host, "zone"));
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    Ipv6Addr::from_str(address).is_ok() && !zone.is_empty() && zone.chars().all(plain)
}

/// A name to look up (RFC 1123 section 2.1, and the '_' that private networks use), or an IPv4 address.
fn is_name(host: &str) -> bool {
    let label = |label: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        (1..=63).contains(&label.len()) && label.chars().all(plain)
    };
    let name = host.strip_suffix('.').unwrap_or(host);
    name.len() <= 253 && name.split('.').all(label)
}

/// Scheme, whether it means TLS and WebSocket, and its port.
const SCHEMES: [(&str, bool, bool, u16); 4] = [
    ("mqtt://", false, false, 1883),
    ("mqtts://", true, false, 8883),
    ("ws://", false, true, 80),
    ("wss://", true, true, 443),
];
/// Where most brokers serve MQTT over WebSocket.
const WEBSOCKET_PATH: &str = "/mqtt";

impl TryFrom<String> for BrokerUrl {
    type Error = String;
    fn try_from(url: String) -> Result<Self, String> {
        let known = SCHEMES
            .iter()
            .find_map(|scheme| Some((scheme, url.strip_prefix(scheme.0)?)));
        let Some((&(_, tls, websocket, default_port), rest)) = known else {
            return Err(format!(
                "{url:?} must begin with mqtt:// or mqtts://, or with ws:// or wss:// for WebSocket"
            ));
        };
        if rest.contains('@') {
            // Not shown: it may hold a password.
            return Err(
                "is not host:port; user names and passwords belong in link.username and link.password"
                    .to_owned(),
            );
        }
        let (authority, path) = match rest.find('/').filter(|_| websocket) {
            Some(slash) => rest.split_at(slash),
            None if websocket => (rest, WEBSOCKET_PATH),
            None => (rest.trim_end_matches('/'), ""),
        };
        // RFC 3986 section 3.3, and 3.4 for what follows a '?'.
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:/?%".contains(c);
        if !path.chars().all(plain) {
            return Err(format!(
                "the path {path:?} holds what a URL cannot: write it as %XX"
            ));
        }
        let (host, port) = host_port(authority, Some(default_port))?;
        Ok(Self {
            tls,
            websocket: websocket.then(|| path.to_owned()),
            host,
            port,
        })
    }
}

impl TryFrom<String> for StreamUrl {
    type Error = String;
    fn try_from(url: String) -> Result<Self, String> {
        url.parse()
            .map(Self)
            .map_err(|error| format!("{url:?} {error}"))
    }
}

/// A value that may live elsewhere: `env:NAME`, `file:PATH`, or the text itself.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub(crate) enum SecretSource {
    Env(String),
    File(PathBuf),
    Literal(String),
}

impl From<String> for SecretSource {
    fn from(text: String) -> Self {
        if let Some(name) = text.strip_prefix("env:") {
            Self::Env(name.to_owned())
        } else if let Some(path) = text.strip_prefix("file:") {
            Self::File(PathBuf::from(path))
        } else {
            Self::Literal(text)
        }
    }
}

impl std::fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Literal(_) => f.write_str("(redacted)"),
        }
    }
}

/// The names operators give: safe in logs, topics and file names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Name(pub(crate) String);

impl TryFrom<String> for Name {
    type Error = String;
    fn try_from(name: String) -> Result<Self, String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > 64 || !name.chars().all(allowed) || name.starts_with('.')
        {
            return Err(format!(
                "{name:?} is not a name: 1 to 64 letters, digits, '-', '_' or '.'"
            ));
        }
        Ok(Self(name))
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "toml::Value")]
pub(crate) enum Version {
    #[default]
    Auto,
    V5,
    V311,
}

impl TryFrom<toml::Value> for Version {
    type Error = &'static str;
    fn try_from(version: toml::Value) -> Result<Self, &'static str> {
        match version.as_str() {
            Some("auto") => Ok(Self::Auto),
            Some("5") => Ok(Self::V5),
            Some("3.1.1") => Ok(Self::V311),
            Some(_) | None => Err(r#"must be "auto", "5" or "3.1.1", in quotes"#),
        }
    }
}

/// A client id of our own choice: MQTT 5.0 section 3.1.3.1. What brokers accept beyond the standard's minimum of 23
/// letters and digits is theirs to say.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct ClientId(pub(crate) String);

impl TryFrom<String> for ClientId {
    type Error = &'static str;
    fn try_from(id: String) -> Result<Self, &'static str> {
        if id.is_empty() {
            return Err("must not be empty: the broker would make up another one for each session");
        }
        if id.len() > usize::from(u16::MAX) || id.chars().any(char::is_control) {
            return Err("must be at most 65535 bytes without control characters");
        }
        Ok(Self(id))
    }
}

/// Bytes of a topic of our own.
const TOPIC_BYTES_MAX: usize = 1024;

/// A topic that can be published to (MQTT 5.0 section 4.7).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct TopicName(pub(crate) String);

impl TryFrom<String> for TopicName {
    type Error = &'static str;
    fn try_from(name: String) -> Result<Self, &'static str> {
        let wild = |c: char| matches!(c, '+' | '#') || c.is_control();
        if name.is_empty() || name.len() > TOPIC_BYTES_MAX || name.contains(wild) {
            return Err("must be 1 to 1024 bytes without '+', '#' and control characters");
        }
        if name.starts_with('$') {
            return Err("must not begin with '$': such topics are the broker's own");
        }
        Ok(Self(name))
    }
}

/// A network interface's name, as Linux allows it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Device(pub(crate) String);

impl TryFrom<String> for Device {
    type Error = String;
    fn try_from(name: String) -> Result<Self, String> {
        let plain = |c: char| c.is_ascii_graphic() && c != '/';
        if matches!(name.as_str(), "." | "..")
            || !(1..=15).contains(&name.len())
            || !name.chars().all(plain)
        {
            return Err(format!(
                "{name:?} is not the name of a network interface: 1 to 15 characters without '/' and blanks"
            ));
        }
        Ok(Self(name))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Durability {
    Memory,
    Batched,
    Sync,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Full {
    DropOldest,
    DropNewest,
    ThinOut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum AfterOutage {
    #[serde(rename = "live-first")]
    Live,
    #[serde(rename = "newest-first")]
    Newest,
    #[serde(rename = "backlog-first")]
    Backlog,
}

/// `"ask"`, `"off"`, or the limits themselves.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "toml::Value")]
pub(crate) enum RateLimits {
    Ask,
    Off,
    Known(Limits),
}

impl TryFrom<toml::Value> for RateLimits {
    type Error = String;
    fn try_from(value: toml::Value) -> Result<Self, String> {
        let table = match value {
            toml::Value::String(word) if word == "ask" => return Ok(Self::Ask),
            toml::Value::String(word) if word == "off" => return Ok(Self::Off),
            toml::Value::Table(table) => table,
            toml::Value::String(_)
            | toml::Value::Integer(_)
            | toml::Value::Float(_)
            | toml::Value::Boolean(_)
            | toml::Value::Datetime(_)
            | toml::Value::Array(_) => {
                return Err(
                    r#"must be "ask", "off", or a table such as { messages = "200:1,6000:60" }"#
                        .to_owned(),
                );
            }
        };
        let mut limits = Limits::default();
        for (key, value) in table {
            let windows = match key.as_str() {
                "messages" => &mut limits.messages,
                "telemetry_messages" => &mut limits.telemetry_messages,
                "telemetry_data_points" => &mut limits.telemetry_points,
                other => {
                    return Err(format!(
                        "{other:?} is not limited: messages, telemetry_messages and telemetry_data_points can be"
                    ));
                }
            };
            let text = value
                .as_str()
                .ok_or_else(|| format!("{key} must be text such as \"200:1,6000:60\""))?;
            *windows = parse_windows(text).map_err(|error| format!("{key}: {error}"))?;
        }
        Ok(Self::Known(limits))
    }
}

/// Free-form configuration of a guest, handed over as a JSON object.
pub(crate) type GuestConfiguration = serde_json::Map<String, serde_json::Value>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    pub(crate) gateway: Gateway,
    pub(crate) link: Spanned<Link>,
    pub(crate) policy: Option<Policy>,
    #[serde(default)]
    pub(crate) spool: Spool,
    pub(crate) wear: Option<Wear>,
    pub(super) report: Option<report::Report>,
    #[serde(default)]
    pub(super) plugins: plugins::Plugins,
    #[serde(default)]
    pub(crate) stream: Vec<Stream>,
    #[serde(default)]
    pub(crate) downlink: Downlink,
    #[serde(default)]
    pub(super) probation: probation::Probation,
    #[serde(default)]
    pub(crate) connector: Vec<Connector>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Gateway {
    pub(crate) name: Name,
    pub(crate) state_dir: PathBuf,
    pub(crate) status_file: Option<PathBuf>,
    pub(crate) metrics_file: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Link {
    pub(crate) url: Option<Spanned<BrokerUrl>>,
    #[serde(default)]
    pub(crate) endpoint: Vec<Endpoint>,
    pub(crate) fail_back_after_s: Option<Within<60, 2_592_000>>,
    pub(crate) bind_address: Option<Spanned<IpAddr>>,
    pub(crate) bind_device: Option<Spanned<Device>>,
    pub(crate) proxy: Option<Spanned<ProxyUrl>>,
    pub(crate) proxy_username: Option<Spanned<SecretSource>>,
    pub(crate) proxy_password: Option<Spanned<SecretSource>>,
    pub(crate) client_id: Option<ClientId>,
    pub(crate) username: Option<Spanned<SecretSource>>,
    pub(crate) password: Option<Spanned<SecretSource>>,
    #[serde(default)]
    pub(crate) mqtt_version: Version,
    pub(crate) session_expiry_s: Option<Within<0, 4_294_967_294>>,
    pub(crate) message_identity: Option<Spanned<bool>>,
    pub(crate) keep_alive_s: Option<Within<5, 3600>>,
    pub(crate) keep_alive_min_s: Option<Within<5, 3600>>,
    pub(crate) dns_timeout_ms: Option<Within<100, 120_000>>,
    pub(crate) connect_timeout_ms: Option<Within<100, 120_000>>,
    pub(crate) proxy_timeout_ms: Option<Within<100, 120_000>>,
    pub(crate) tls_timeout_ms: Option<Within<100, 120_000>>,
    pub(crate) websocket_timeout_ms: Option<Within<100, 120_000>>,
    pub(crate) connack_timeout_ms: Option<Within<100, 120_000>>,
    pub(crate) tcp_user_timeout_ms: Option<Within<1000, 600_000>>,
    pub(crate) ack_timeout_s: Option<Within<1, 3600>>,
    pub(crate) stable_after_s: Option<Within<1, 3600>>,
    pub(crate) retry_floor_ms: Option<Within<100, 60_000>>,
    pub(crate) retry_ceiling_s: Option<Within<1, 3600>>,
    pub(crate) inflight_max: Option<Within<1, 65_535>>,
    pub(crate) inflight_bytes_max: Option<Within<1024, 268_435_456>>,
    pub(crate) packet_bytes_max: Option<Within<1024, 16_777_216>>,
    pub(crate) batch_readings_max: Option<Within<1, 1_000_000>>,
    pub(crate) batch_age_max_ms: Option<Within<0, 600_000>>,
    pub(crate) rate_limits: Option<RateLimits>,
    pub(crate) rate_limit_percent: Option<Within<10, 100>>,
    pub(crate) report_disconnects: Option<bool>,
    pub(crate) metered: Option<bool>,
    pub(crate) canary: Option<Spanned<Canary>>,
    pub(crate) tls: Option<Tls>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Canary {
    pub(crate) topic: TopicName,
    pub(crate) interval_s: Option<Within<1, 86_400>>,
    pub(crate) deadline_s: Option<Within<1, 300>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Endpoint {
    pub(crate) url: Spanned<BrokerUrl>,
    pub(crate) priority: Option<Within<1, 1000>>,
    pub(crate) mqtt_version: Option<Version>,
    pub(crate) tls: Option<Tls>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tls {
    pub(crate) ca_file: Option<Spanned<PathBuf>>,
    pub(crate) client_cert_file: Option<Spanned<PathBuf>>,
    pub(crate) client_key_file: Option<Spanned<PathBuf>>,
    pub(crate) server_name: Option<String>,
    pub(crate) alpn: Option<Spanned<Vec<String>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Policy {
    pub(crate) component: Spanned<PathBuf>,
    pub(crate) deadline_ms: Option<Within<1, 1000>>,
    #[serde(default)]
    pub(crate) config: GuestConfiguration,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Spool {
    pub(crate) bytes_max: Option<Within<1_048_576, 1_099_511_627_776>>,
    pub(crate) segment_bytes: Option<Within<262_144, 134_217_728>>,
    pub(crate) commit_interval_ms: Option<Within<1, 10_000>>,
    pub(crate) commit_bytes: Option<Within<1024, 16_777_216>>,
    pub(crate) commit_records: Option<Within<1, 1_000_000>>,
    pub(crate) memory_bytes_max: Option<Within<65_536, 1_073_741_824>>,
    pub(crate) free_bytes_min: Option<Within<0, 1_099_511_627_776>>,
    pub(crate) window_dir: Option<PathBuf>,
    pub(crate) durability: Option<Durability>,
    pub(crate) full: Option<Full>,
    pub(crate) age_max_h: Option<Within<1, 87_600>>,
    pub(crate) after_outage: Option<AfterOutage>,
    pub(crate) backlog_share_percent: Option<Within<0, 99>>,
    pub(crate) backlog_readings_per_s: Option<Within<1, 10_000_000>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stream {
    pub(crate) name: Spanned<Name>,
    pub(crate) priority: Option<Within<0, 99>>,
    pub(crate) qos: Option<Spanned<Within<0, 2>>>,
    pub(crate) bytes_max: Option<Within<1_048_576, 1_099_511_627_776>>,
    pub(crate) segment_bytes: Option<Within<262_144, 134_217_728>>,
    pub(crate) durability: Option<Durability>,
    pub(crate) full: Option<Full>,
    pub(crate) age_max_h: Option<Within<1, 87_600>>,
    pub(crate) after_outage: Option<AfterOutage>,
    pub(crate) backlog_share_percent: Option<Within<0, 99>>,
    pub(crate) backlog_readings_per_s: Option<Within<1, 10_000_000>>,
    #[serde(default)]
    pub(crate) connectors: Vec<String>,
    #[serde(default)]
    pub(crate) devices: Vec<String>,
    #[serde(default)]
    pub(crate) keys: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Downlink {
    pub(crate) rpc_expiry_s: Option<Within<1, 86_400>>,
    pub(crate) messages_max: Option<Within<1, 65_536>>,
    pub(crate) bytes_max: Option<Within<524_288, 268_435_456>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wear {
    pub(crate) bytes_per_day_max: Option<Spanned<Within<1_048_576, 1_125_899_906_842_624>>>,
    pub(crate) endurance_gb: Option<Within<1, 100_000_000>>,
    pub(crate) life_years: Option<Spanned<Within<1, 100>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Connector {
    pub(crate) name: Spanned<Name>,
    pub(crate) component: Spanned<PathBuf>,
    pub(crate) memory_bytes_max: Option<Within<1_048_576, 1_073_741_824>>,
    pub(crate) call_deadline_ms: Option<Within<10, 60_000>>,
    pub(crate) swap: Option<probation::Mode>,
    pub(crate) hand_over: Option<probation::HandOver>,
    #[serde(default)]
    pub(super) probation: probation::Probation,
    pub(super) report: Option<report::ConnectorReport>,
    #[serde(default)]
    pub(super) limits: limits::RawLimits,
    #[serde(default)]
    pub(super) grants: grants::RawGrants,
    #[serde(default)]
    pub(crate) config: GuestConfiguration,
    #[serde(default)]
    pub(crate) connection: Vec<Connection>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Connection {
    pub(crate) name: Spanned<Name>,
    pub(crate) stream: Spanned<StreamUrl>,
    #[serde(default)]
    pub(crate) config: GuestConfiguration,
}
