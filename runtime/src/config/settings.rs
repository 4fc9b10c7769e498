//! From the raw file to settings without options, references or defaults left open.

use std::collections::{BTreeMap, BTreeSet};
use std::env::VarError;
use std::net::{IpAddr, UdpSocket};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use moorline_core::inbox;
use moorline_core::link::canary;
use moorline_core::report::Strategy;
use moorline_core::swap;
use moorline_core::swap::probation::Terms;
use moorline_core::wear::Budget;
use toml::Spanned;

use super::Secrets;
use super::diagnostic::{Diagnostic, Refused, Source};
use super::grants::Written;
use super::limits::Beside;
use super::plugins::PluginsSection;
use super::probation::{HandOver, Mode};
use super::raw;
use super::streams;
use crate::bounded_file;
use crate::clock::Clock;
use crate::inbox::InboxSettings;
use crate::link::{
    self, Bind, CanarySettings, CertificateEnd, ClientIdentity, Credentials, EndpointSettings,
    LinkSettings, MessageIdentity, ProxyKind, ProxyLogin, ProxySettings, RateLimits, Secret,
    TlsSettings, Versions,
};
use crate::plugins::{
    COMPONENT_BYTES_MAX, ConnectionSettings, ConnectorSettings, PolicySettings, StreamTarget,
    Succession, device_trouble,
};
use crate::spool::{Durability, SpoolSettings};
use crate::status::STATUS_FILE;

/// From one canary to the next, where the configuration does not say.
const CANARY_INTERVAL: Duration = Duration::from_secs(60);
/// Within which it must be back, where the configuration does not say. Three in a row are less than the thirty seconds after
/// which a session forgives the failures before it: a broker that never delivers is backed off from.
const CANARY_DEADLINE: Duration = Duration::from_secs(8);
/// Brokers that may be named.
const ENDPOINTS_MAX: usize = 16;
/// The longest user name or password (RFC 1929 section 2).
const SOCKS5_BYTES_MAX: usize = 255;
/// Where Linux names its network interfaces.
const NETWORK_INTERFACES: &str = "/sys/class/net";
/// The largest file of certificates or a key that is read.
const PEM_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// The largest secret that is read; MQTT carries 65 535 bytes, MQTT 5.0 section 1.5.
const SECRET_BYTES_MAX: u64 = 128 * 1024;
const INBOX_MESSAGES_MAX: usize = 1024;
const INBOX_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Nobody on the platform waits longer for an answer.
const RPC_EXPIRY: Duration = Duration::from_secs(30);
/// The stream that messages come from.
const STREAM: &str = "spool";
/// Which connection has the serial port of a device file.
type Ports = BTreeMap<PathBuf, String>;
/// As data sheets count it.
const GIGABYTE: u64 = 1_000_000_000;
/// How long a medium is to live, where only its endurance is given.
const LIFE_YEARS: u64 = 10;

/// Everything the gateway is told, resolved.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The gateway's name.
    pub name: String,
    /// Where everything that must survive lives.
    pub state_dir: PathBuf,
    /// Where the status is written.
    pub status_file: PathBuf,
    /// Where metrics are written, if anywhere.
    pub metrics_file: Option<PathBuf>,
    /// The link.
    pub link: LinkSettings,
    /// Whether the platform is told of each outage, as telemetry of the gateway itself.
    pub report_disconnects: bool,
    /// The reconnect policy; none = the built-in one.
    pub policy: Option<PolicySettings>,
    /// The spool.
    pub spool: SpoolSettings,
    /// What may be written to the medium of the state directory; none = anything.
    pub wear: Option<Budget>,
    /// What keeps messages from the platform.
    pub inbox: InboxSettings,
    /// Whom components come from, and what is kept and told of them.
    pub plugins: PluginsSection,
    /// The connectors.
    pub connectors: Vec<ConnectorSettings>,
    /// How swaps are paced.
    pub swap: swap::Settings,
    /// What is odd, but may be otherwise when it matters: no reason to refuse the file.
    pub warnings: Vec<Diagnostic>,
}

/// Collects findings while resolving goes on with placeholders, so that one run reports all of them.
pub(super) struct Resolver<'a> {
    source: &'a Source<'a>,
    pub(super) base: &'a Path,
    secrets: Secrets,
    findings: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
    /// The files that were read, or would be.
    pub(super) read: Vec<PathBuf>,
    /// What guests are granted to write.
    pub(super) written: Vec<Written>,
}

pub(super) fn resolve(
    raw: raw::File,
    source: &Source<'_>,
    secrets: Secrets,
) -> Result<Settings, Refused> {
    let base = source.file.parent().unwrap_or(Path::new("."));
    let mut resolver = Resolver {
        source,
        base,
        secrets,
        findings: Vec::new(),
        warnings: Vec::new(),
        read: Vec::new(),
        written: Vec::new(),
    };
    let state_dir = base.join(&raw.gateway.state_dir);
    let status_file = raw
        .gateway
        .status_file
        .map_or_else(|| state_dir.join(STATUS_FILE), |file| base.join(file));
    let metrics_file = raw.gateway.metrics_file.map(|file| base.join(file));
    let link_span = raw.link.span();
    let raw_link = raw.link.into_inner();
    let report_disconnects = raw_link.report_disconnects.unwrap_or(true);
    let mut link = resolver.link(raw_link, link_span, &raw.gateway.name.0, &state_dir);
    let policy = raw.policy.map(|policy| PolicySettings {
        component: resolver.existing(&policy.component),
        deadline: milliseconds(policy.deadline_ms, link.pace.policy_deadline),
        configuration: serde_json::Value::Object(policy.config),
    });
    let wear = raw.wear.and_then(|wear| resolver.wear(wear));
    let spool = resolver.spool(&raw.spool, &raw.stream, &state_dir, &link);
    if let Some(identity) = &mut link.message_identity {
        identity.streams = streams::names(&spool);
    }
    let inbox = inbox(&raw.downlink, &spool, &state_dir);
    let report = resolver.gateway_report(raw.report);
    let plugins = resolver.plugins(raw.plugins);
    let swap = swap::Settings {
        probation: resolver.probation(&raw.probation, Terms::default()),
        ..swap::Settings::default()
    };
    let connectors = resolver.connectors(raw.connector, report, swap.probation);
    let settings = Settings {
        name: raw.gateway.name.0,
        state_dir,
        status_file,
        metrics_file,
        link,
        report_disconnects,
        policy,
        spool,
        wear,
        inbox,
        plugins,
        connectors,
        swap,
        warnings: Vec::new(),
    };
    resolver.check_written(&settings);
    if !resolver.findings.is_empty() {
        return Err(Refused(resolver.findings));
    }
    Ok(Settings {
        warnings: resolver.warnings,
        ..settings
    })
}

pub(super) fn milliseconds<const MIN: u64, const MAX: u64>(
    raw: Option<raw::Within<MIN, MAX>>,
    default: Duration,
) -> Duration {
    raw.map_or(default, |ms| Duration::from_millis(ms.0))
}

fn seconds<const MIN: u64, const MAX: u64>(
    raw: Option<raw::Within<MIN, MAX>>,
    default: Duration,
) -> Duration {
    raw.map_or(default, |s| Duration::from_secs(s.0))
}

const fn versions(raw: raw::Version) -> Versions {
    match raw {
        raw::Version::Auto => Versions::Auto,
        raw::Version::V5 => Versions::V5,
        raw::Version::V311 => Versions::V311,
    }
}

pub(super) fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// How much goes at a time, and how fast.
fn flow(raw: &raw::Link, link: &mut LinkSettings) {
    if let Some(bytes) = raw.inflight_bytes_max {
        link.inflight_bytes_max = size(bytes.0);
    }
    if let Some(publishes) = raw.inflight_max {
        link.inflight_max = u16::try_from(publishes.0).unwrap_or(u16::MAX);
    }
    if let Some(bytes) = raw.packet_bytes_max {
        link.packet_bytes_max = size(bytes.0);
    }
    if let Some(readings) = raw.batch_readings_max {
        link.batch.readings_max = u32::try_from(readings.0).unwrap_or(u32::MAX);
    }
    link.batch.age_max = milliseconds(raw.batch_age_max_ms, link.batch.age_max);
    link.rate_limits = match &raw.rate_limits {
        None | Some(raw::RateLimits::Ask) => RateLimits::Ask,
        Some(raw::RateLimits::Off) => RateLimits::Off,
        Some(raw::RateLimits::Known(limits)) => RateLimits::Known(limits.clone()),
    };
    if let Some(percent) = raw.rate_limit_percent {
        link.rate_limit_percent = u32::try_from(percent.0).unwrap_or(u32::MAX);
    }
}

/// Messages from the platform are as safe as readings.
fn inbox(raw: &raw::Downlink, spool: &SpoolSettings, state_dir: &Path) -> InboxSettings {
    InboxSettings {
        directory: state_dir.join("inbox"),
        limits: inbox::Limits {
            messages_max: raw.messages_max.map_or(INBOX_MESSAGES_MAX, |n| size(n.0)),
            bytes_max: raw.bytes_max.map_or(INBOX_BYTES_MAX, |bytes| size(bytes.0)),
            rpc_expiry: seconds(raw.rpc_expiry_s, RPC_EXPIRY),
        },
        sync: spool
            .streams
            .iter()
            .any(|setup| setup.durability == Durability::Sync),
        commit_interval: spool.commit_interval,
    }
}

impl Resolver<'_> {
    fn wear(&mut self, raw: raw::Wear) -> Option<Budget> {
        if let (Some(daily), Some(_endurance)) = (&raw.bytes_per_day_max, &raw.endurance_gb) {
            self.find(
                daily.span(),
                "goes without wear.endurance_gb: either says what a day may come to",
            );
        }
        if let (Some(years), None) = (&raw.life_years, &raw.endurance_gb) {
            self.find(
                years.span(),
                "needs wear.endurance_gb, the bytes that the medium endures by its data sheet",
            );
        }
        let endurance = raw.endurance_gb.map(|endurance| Budget::Endurance {
            bytes: endurance.0.saturating_mul(GIGABYTE),
            years: raw.life_years.map_or(LIFE_YEARS, |years| years.get_ref().0) as f64,
        });
        let daily = raw
            .bytes_per_day_max
            .map(|bytes| Budget::BytesPerDay(bytes.get_ref().0));
        endurance.or(daily)
    }

    pub(super) fn find(&mut self, span: Range<usize>, message: impl Into<String>) {
        self.findings.push(self.source.at(span, message));
    }

    pub(super) fn warn(&mut self, span: Range<usize>, message: impl Into<String>) {
        self.warnings.push(self.source.at(span, message));
    }

    /// Where a file is that the configuration names, to be read.
    pub(super) fn named(&mut self, path: &Path) -> PathBuf {
        let resolved = self.base.join(path);
        self.read.push(resolved.clone());
        resolved
    }

    /// A path that must lead to a readable file.
    fn existing(&mut self, path: &Spanned<PathBuf>) -> PathBuf {
        let resolved = self.base.join(path.get_ref());
        if let Err(error) = bounded_file::read(&resolved, COMPONENT_BYTES_MAX) {
            self.find(
                path.span(),
                format!("{} cannot be read: {error}", resolved.display()),
            );
        }
        resolved
    }

    fn content(&mut self, path: &Spanned<PathBuf>) -> Vec<u8> {
        let resolved = self.named(path.get_ref());
        bounded_file::read(&resolved, PEM_BYTES_MAX).unwrap_or_else(|error| {
            self.find(
                path.span(),
                format!("{} cannot be read: {error}", resolved.display()),
            );
            Vec::new()
        })
    }

    fn private_key(&mut self, path: &Spanned<PathBuf>) -> Secret {
        let pem = match self.secrets {
            Secrets::Resolved => self.content(path),
            Secrets::LeftAlone => {
                self.named(path.get_ref());
                Vec::new()
            }
        };
        Secret::new(String::from_utf8_lossy(&pem).into_owned())
    }

    /// Our own certificate ends soon, or has ended.
    fn warn_of_end(&mut self, path: &Spanned<PathBuf>, pem: &[u8]) {
        let now = Clock::start().wall();
        let end = CertificateEnd::of_pem(pem).filter(|end| end.is_near(now));
        if let Some(end) = end {
            self.warn(path.span(), format!("this certificate {}", end.words(now)));
        }
    }

    fn secret(&mut self, source: &Spanned<raw::SecretSource>) -> Secret {
        if self.secrets == Secrets::LeftAlone {
            if let raw::SecretSource::File(path) = source.get_ref() {
                self.named(path);
            }
            return Secret::new(String::new());
        }
        let text = match source.get_ref() {
            raw::SecretSource::Literal(text) => text.clone(),
            raw::SecretSource::Env(name) => std::env::var(name).unwrap_or_else(|error| {
                let what = match error {
                    VarError::NotPresent => "is not set",
                    VarError::NotUnicode(_) => "is not UTF-8",
                };
                self.find(
                    source.span(),
                    format!(
                        "the environment variable {name} {what}: export it before the gateway starts, or use \"file:PATH\""
                    ),
                );
                String::new()
            }),
            raw::SecretSource::File(path) => {
                let resolved = self.named(path);
                match bounded_file::read_text(&resolved, SECRET_BYTES_MAX) {
                    Ok(text) => text.trim_end_matches(['\r', '\n']).to_owned(),
                    Err(error) => {
                        self.find(
                            source.span(),
                            format!("secret file {} cannot be read: {error}", resolved.display()),
                        );
                        String::new()
                    }
                }
            }
        };
        if text.len() > usize::from(u16::MAX) || text.contains('\0') {
            self.find(
                source.span(),
                "no MQTT packet can carry it: it must be at most 65535 bytes without NUL",
            );
        }
        Secret::new(text)
    }

    fn link(
        &mut self,
        mut raw: raw::Link,
        span: Range<usize>,
        gateway: &str,
        state_dir: &Path,
    ) -> LinkSettings {
        let client_id = raw
            .client_id
            .take()
            .map_or_else(|| gateway.to_owned(), |id| id.0);
        let mut link = LinkSettings::new("", 0, client_id, state_dir.to_owned());
        flow(&raw, &mut link);
        let span = raw
            .url
            .as_ref()
            .or(raw.endpoint.first().map(|endpoint| &endpoint.url))
            .map_or(span, Spanned::span);
        link.endpoints = self.endpoints(&mut raw, span.clone());
        link.fail_back_after = raw.fail_back_after_s.map(|s| Duration::from_secs(s.0));
        link.bind = self.bind(raw.bind_address, raw.bind_device);
        link.proxy = self.proxy(raw.proxy, raw.proxy_username, raw.proxy_password);
        link.credentials = Credentials {
            username: raw.username.map(|source| self.secret(&source)),
            password: raw.password.map(|source| self.secret(&source)),
        };
        link.versions = versions(raw.mqtt_version);
        link.session_expiry = seconds(raw.session_expiry_s, link.session_expiry);
        if let Some(named) = raw.message_identity.filter(|named| *named.get_ref()) {
            link.message_identity = Some(MessageIdentity {
                gateway: gateway.to_owned(),
                streams: vec![STREAM.to_owned()],
            });
            self.check_identity(&link, named.span());
        }
        link.metered = raw.metered.unwrap_or(link.metered);
        link.keep_alive = seconds(raw.keep_alive_s, link.keep_alive);
        link.keep_alive_min = seconds(raw.keep_alive_min_s, link.keep_alive_min);
        link.canary = raw.canary.map(|raw| self.canary(raw));
        link.timeouts.dns = milliseconds(raw.dns_timeout_ms, link.timeouts.dns);
        link.timeouts.tcp = milliseconds(raw.connect_timeout_ms, link.timeouts.tcp);
        link.timeouts.proxy = milliseconds(raw.proxy_timeout_ms, link.timeouts.proxy);
        link.timeouts.tls = milliseconds(raw.tls_timeout_ms, link.timeouts.tls);
        link.timeouts.websocket = milliseconds(raw.websocket_timeout_ms, link.timeouts.websocket);
        link.timeouts.connack = milliseconds(raw.connack_timeout_ms, link.timeouts.connack);
        link.liveness.tcp_user = milliseconds(raw.tcp_user_timeout_ms, link.liveness.tcp_user);
        link.liveness.ack = seconds(raw.ack_timeout_s, link.liveness.ack);
        link.pace.floor = milliseconds(raw.retry_floor_ms, link.pace.floor);
        link.pace.ceiling = seconds(raw.retry_ceiling_s, link.pace.ceiling);
        link.pace.stable_after = seconds(raw.stable_after_s, link.pace.stable_after);
        if link.pace.floor > link.pace.ceiling {
            self.find(
                span.clone(),
                "retry_floor_ms is above retry_ceiling_s: nothing lies between them",
            );
        }
        // Without the private key there is nothing to set up.
        if self.findings.is_empty()
            && self.secrets == Secrets::Resolved
            && let Err(error) = link::check(&link)
        {
            self.find(span, format!("TLS cannot be set up: {error}"));
        }
        link
    }

    fn check_identity(&mut self, link: &LinkSettings, span: Range<usize>) {
        let of = |endpoint: &EndpointSettings| endpoint.versions.unwrap_or(link.versions);
        if link
            .endpoints
            .iter()
            .any(|endpoint| of(endpoint) == Versions::V311)
        {
            self.warn(
                span,
                "mqtt_version is \"3.1.1\", which cannot say what a publish carries: there message_identity does nothing",
            );
        }
    }

    fn canary(&mut self, raw: Spanned<raw::Canary>) -> CanarySettings {
        let span = raw.span();
        let raw = raw.into_inner();
        let timing = canary::Settings {
            interval: seconds(raw.interval_s, CANARY_INTERVAL),
            deadline: seconds(raw.deadline_s, CANARY_DEADLINE),
        };
        if timing.deadline > timing.interval {
            self.find(
                span,
                "deadline_s is above interval_s: the next canary would be due before the last is lost",
            );
        }
        CanarySettings {
            topic: raw.topic.0,
            timing,
        }
    }

    /// The brokers of `link.url` or of the `[[link.endpoint]]` tables. `span` is where the first of them is named.
    fn endpoints(&mut self, raw: &mut raw::Link, span: Range<usize>) -> Vec<EndpointSettings> {
        let common_tls = raw.tls.take();
        let tables = match (raw.url.take(), std::mem::take(&mut raw.endpoint)) {
            (None, tables) if tables.is_empty() => {
                self.find(
                    span,
                    "names no broker: set url, or add a [[link.endpoint]] with a url for each of several",
                );
                return Vec::new();
            }
            (None, tables) => tables,
            (Some(url), tables) if tables.is_empty() => vec![raw::Endpoint {
                url,
                priority: None,
                mqtt_version: None,
                tls: None,
            }],
            (Some(_), _) => {
                self.find(
                    span,
                    "link.url and [[link.endpoint]] are both given: give each broker a table of its own, or keep the URL alone",
                );
                return Vec::new();
            }
        };
        self.check_endpoints(&tables, common_tls.is_some());
        tables
            .into_iter()
            .map(|table| {
                let raw::BrokerUrl {
                    tls,
                    websocket,
                    host,
                    port,
                } = table.url.into_inner();
                let tls = tls.then(|| {
                    let raw = table.tls.or_else(|| common_tls.clone());
                    raw.map(|raw| self.tls(raw)).unwrap_or_default()
                });
                EndpointSettings {
                    host,
                    port,
                    tls,
                    websocket,
                    priority: table
                        .priority
                        .and_then(|priority| u16::try_from(priority.0).ok())
                        .unwrap_or_default(),
                    versions: table.mqtt_version.map(versions),
                }
            })
            .collect()
    }

    fn check_endpoints(&mut self, tables: &[raw::Endpoint], common_tls: bool) {
        let mut names = BTreeSet::new();
        if let Some(surplus) = tables.get(ENDPOINTS_MAX) {
            self.find(
                surplus.url.span(),
                format!("at most {ENDPOINTS_MAX} brokers can be named"),
            );
        }
        let with_tls = |table: &&raw::Endpoint| table.url.get_ref().tls;
        if common_tls
            && !tables.iter().any(|table| with_tls(&table))
            && let Some(first) = tables.first()
        {
            self.find(
                first.url.span(),
                "[link.tls] is given but the URL does not begin with mqtts:// or wss://",
            );
        }
        for table in tables {
            let url = table.url.get_ref();
            if table.tls.is_some() && !url.tls {
                self.find(
                    table.url.span(),
                    "a tls table is given but this URL does not begin with mqtts:// or wss://",
                );
            }
            if table.priority.is_none() && tables.len() > 1 {
                self.find(
                    table.url.span(),
                    "has no priority: of several brokers the one with the smallest is preferred, equal ones take turns",
                );
            }
            if !names.insert((&url.host, url.port)) {
                self.find(
                    table.url.span(),
                    format!("{}:{} is there twice", url.host, url.port),
                );
            }
        }
        if let Some(open) = tables.iter().find(|table| !with_tls(table))
            && tables.iter().any(|table| with_tls(&table))
        {
            self.warn(
                open.url.span(),
                "has no TLS while others have: whoever keeps the gateway from those reads along here",
            );
        }
    }

    /// An interface may come up later, so that one which is not there is no reason to refuse the file.
    fn bind(
        &mut self,
        address: Option<Spanned<IpAddr>>,
        device: Option<Spanned<raw::Device>>,
    ) -> Bind {
        if let Some(address) = &address
            && let Err(error) = UdpSocket::bind((*address.get_ref(), 0))
        {
            self.warn(
                address.span(),
                format!(
                    "this machine cannot connect from {}: {error}",
                    address.get_ref()
                ),
            );
        }
        if let Some(device) = &device {
            let name = &device.get_ref().0;
            if cfg!(not(target_os = "linux")) {
                self.find(
                    device.span(),
                    "only Linux can bind to an interface; use bind_address",
                );
            } else if !Path::new(NETWORK_INTERFACES).join(name).exists() {
                self.warn(
                    device.span(),
                    format!("this machine has no network interface {name:?} now"),
                );
            }
        }
        Bind {
            address: address.map(Spanned::into_inner),
            device: device.map(|device| device.into_inner().0),
        }
    }

    fn proxy(
        &mut self,
        url: Option<Spanned<raw::ProxyUrl>>,
        username: Option<Spanned<raw::SecretSource>>,
        password: Option<Spanned<raw::SecretSource>>,
    ) -> Option<ProxySettings> {
        let Some(url) = url.map(Spanned::into_inner) else {
            if let Some(stray) = username.or(password) {
                self.find(stray.span(), "there is no link.proxy to show it to");
            }
            return None;
        };
        let login = match (username, password) {
            (Some(username), Some(password)) => {
                let login = ProxyLogin {
                    username: self.secret(&username),
                    password: self.secret(&password),
                };
                let too_long = |secret: &Secret| secret.expose().len() > SOCKS5_BYTES_MAX;
                if url.kind == ProxyKind::Socks5
                    && (too_long(&login.username) || too_long(&login.password))
                {
                    self.find(
                        username.span(),
                        "SOCKS 5 carries at most 255 bytes of user name and of password",
                    );
                }
                if url.kind == ProxyKind::Http && login.username.expose().contains(':') {
                    self.find(
                        username.span(),
                        "a user name for an HTTP proxy cannot hold ':' (RFC 7617)",
                    );
                }
                Some(login)
            }
            (Some(half), None) => {
                self.find(half.span(), "proxy_username needs proxy_password beside it");
                None
            }
            (None, Some(half)) => {
                self.find(half.span(), "proxy_password needs proxy_username beside it");
                None
            }
            (None, None) => None,
        };
        Some(ProxySettings {
            kind: url.kind,
            host: url.host,
            port: url.port,
            login,
        })
    }

    fn tls(&mut self, raw: raw::Tls) -> TlsSettings {
        let client = match (raw.client_cert_file, raw.client_key_file) {
            (Some(certificates), Some(key)) => {
                let certificates_pem = self.content(&certificates);
                self.warn_of_end(&certificates, &certificates_pem);
                Some(ClientIdentity {
                    certificates_pem,
                    key_pem: self.private_key(&key),
                })
            }
            (Some(half), None) => {
                self.find(
                    half.span(),
                    "client_cert_file needs client_key_file beside it",
                );
                None
            }
            (None, Some(half)) => {
                self.find(
                    half.span(),
                    "client_key_file needs client_cert_file beside it",
                );
                None
            }
            (None, None) => None,
        };
        let alpn = raw.alpn.map_or_else(Vec::new, |alpn| {
            let names = alpn.get_ref();
            if names.is_empty() || names.iter().any(|name| !(1..=255).contains(&name.len())) {
                self.find(
                    alpn.span(),
                    "must be names of 1-255 bytes, such as [\"mqtt\"]",
                );
            }
            alpn.into_inner()
        });
        let ca_pem = raw.ca_file.map(|path| self.content(&path));
        TlsSettings {
            ca_pem,
            client,
            server_name: raw.server_name,
            alpn,
        }
    }

    fn connectors(
        &mut self,
        raw: Vec<raw::Connector>,
        report: Strategy,
        probation: Terms,
    ) -> Vec<ConnectorSettings> {
        let mut names = BTreeSet::new();
        let mut connectors = Vec::with_capacity(raw.len());
        let mut ports = BTreeMap::new();
        for connector in raw {
            let name = connector.name.get_ref().0.clone();
            if !names.insert(name.clone()) {
                self.find(
                    connector.name.span(),
                    format!("connector {name:?} is there twice"),
                );
            }
            // A component that is missing is not the file's fault alone: the connector waits for it and others go on.
            let component = self.base.join(connector.component.get_ref());
            let beside = Beside {
                memory_bytes_max: connector.memory_bytes_max,
                call_deadline_ms: connector.call_deadline_ms,
            };
            let limits = self.limits(connector.limits, beside);
            let succession = Succession {
                probation: self.probation(&connector.probation, probation),
                exclusive: connector.swap == Some(Mode::Exclusive),
                hand_over_required: connector.hand_over == Some(HandOver::Required),
            };
            connectors.push(ConnectorSettings {
                component,
                configuration: serde_json::Value::Object(connector.config),
                connections: self.connections(&name, connector.connection, &mut ports),
                report: self.report(connector.report, report),
                limits,
                grants: self.grants(connector.grants),
                succession,
                name,
            });
        }
        connectors
    }

    fn connections(
        &mut self,
        connector: &str,
        raw: Vec<raw::Connection>,
        ports: &mut Ports,
    ) -> Vec<ConnectionSettings> {
        let mut names = BTreeSet::new();
        let mut connections = Vec::with_capacity(raw.len());
        for connection in raw {
            let name = connection.name.get_ref().0.clone();
            if !names.insert(name.clone()) {
                self.find(
                    connection.name.span(),
                    format!("connection {name:?} is there twice"),
                );
            }
            let span = connection.stream.span();
            let stream = connection.stream.into_inner().0;
            if let StreamTarget::Serial(port) = &stream {
                self.port(span, &port.device, format!("{connector}/{name}"), ports);
            }
            connections.push(ConnectionSettings {
                name,
                stream: Some(stream),
                configuration: serde_json::Value::Object(connection.config),
            });
        }
        connections
    }

    /// A serial port serves one connection, whatever its file is called there.
    fn port(&mut self, span: Range<usize>, device: &Path, user: String, ports: &mut Ports) {
        // A file that is not there now has no other name.
        let file = device.canonicalize().unwrap_or_else(|_| device.to_owned());
        if let Some(other) = ports.get(&file) {
            let message = format!(
                "{} is the port of connection {other} already: one connection has a port, and tells devices that share \
                 its line apart by their addresses",
                device.display()
            );
            return self.find(span, message);
        }
        ports.insert(file, user);
        // It may be plugged in later, and the gateway may run as somebody else: the stream says so when it is opened.
        if let Some(trouble) = device_trouble(device) {
            self.warn(span, trouble);
        }
    }
}
