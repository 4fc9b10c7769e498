//! The doctor at work: goes through the plan of `moorline_core::doctor`, sees what there is to see over the link's own way
//! to the broker, and has it judged there. It has no opinions of its own.
//!
//! Every wait has a deadline, every probe a bound on its packets and bytes, and what it leaves at the broker it takes away
//! again.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use moorline_core::doctor::facts::{Answer, Failed, ProtocolSeen, Speech, TermsSeen, TlsSeen};
use moorline_core::doctor::{Finding, Plan, Probe, Step, Wanted, judge};
use moorline_core::link::cause::MqttVersion;
use moorline_core::mqtt_frame::packet::Connect;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::link::probe::{Conversation, Prober};
use crate::link::{EndpointSettings, LinkSettings, Secret, TlsSetupError};

mod answer;
mod certificate;
mod exchange;
mod traffic;
mod way;

/// How a doctor is called.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Use the configured client id, which takes a running gateway's session over.
    pub(crate) as_gateway: bool,
    /// The topic of its own; `moorline/doctor/…` otherwise.
    pub(crate) topic: Option<String>,
    /// The longest it waits for a broker to close a silent client.
    pub(crate) patience: Duration,
}

/// What it says while it works.
pub(crate) enum Progress<'a> {
    /// This is being tried.
    Began(Probe),
    /// This was found, in this time; none where it was not tried.
    Found(&'a Finding, Option<Duration>),
}

/// Everything that was found.
pub(crate) struct Examination {
    /// What was found, with the time it took; none where it was not tried.
    pub(crate) findings: Vec<(Finding, Option<Duration>)>,
    /// The client id it used.
    pub(crate) client_id: String,
    /// The topic it used.
    pub(crate) topic: String,
}

/// What it knows so far.
struct Doctor {
    prober: Prober,
    clock: Clock,
    wanted: Wanted,
    options: Options,
    client_id: String,
    topic: String,
    scratch_holds: bool,
    addresses: Vec<SocketAddr>,
    protocol: Option<ProtocolSeen>,
    tls: Option<TlsSeen>,
    answers: Option<Answers>,
    terms: Option<TermsSeen>,
    silence: Option<JoinHandle<moorline_core::doctor::facts::SilenceSeen>>,
}

/// What CONNECT was answered with, in each version.
struct Answers {
    v5: Answer,
    v311: Answer,
    /// 3.1.1 was refused until the keep-alive was this short.
    accepted_keep_alive_s: Option<u16>,
}

/// Examines `endpoint`, one of the brokers of `settings`, and tells each step.
///
/// # Errors
/// When TLS cannot be set up from the settings.
pub(crate) async fn examine(
    settings: LinkSettings,
    endpoint: EndpointSettings,
    options: Options,
    tell: &mut impl FnMut(Progress<'_>),
) -> Result<Examination, TlsSetupError> {
    let mut doctor = Doctor::new(settings, endpoint, options)?;
    let mut plan = Plan::default();
    let mut findings = Vec::new();
    while let Some(step) = plan.next() {
        let (finding, took) = match step {
            Step::Skip(finding) => (finding, None),
            Step::Try(probe) => {
                tell(Progress::Began(probe));
                let started = Instant::now();
                let finding = doctor.probe(probe).await?;
                (finding, Some(started.elapsed()))
            }
        };
        tell(Progress::Found(&finding, took));
        plan.record(finding.clone());
        findings.push((finding, took));
    }
    Ok(Examination {
        findings,
        client_id: doctor.client_id,
        topic: doctor.topic,
    })
}

/// What the configuration wants, for the judge.
fn wanted(settings: &LinkSettings, endpoint: &EndpointSettings) -> Wanted {
    let tls = endpoint.tls.as_ref();
    Wanted {
        host: endpoint.host.clone(),
        port: endpoint.port,
        tls: tls.is_some(),
        websocket: endpoint.websocket.clone(),
        via: settings.proxy.as_ref().map(ToString::to_string),
        server_name: tls
            .and_then(|tls| tls.server_name.clone())
            .unwrap_or_else(|| endpoint.host.clone()),
        ca_file: tls.is_some_and(|tls| tls.ca_pem.is_some()),
        client_certificate: tls.is_some_and(|tls| tls.client.is_some()),
        username: given(settings.credentials.username.as_ref()).is_some(),
        versions: endpoint.versions.unwrap_or(settings.versions),
        keep_alive_s: u16::try_from(settings.keep_alive.as_secs()).unwrap_or(u16::MAX),
        inflight_max: settings.inflight_max,
        packet_bytes_max: settings.packet_bytes_max,
    }
}

/// The link sends no empty user name either.
fn given(secret: Option<&Secret>) -> Option<&str> {
    secret.map(Secret::expose).filter(|text| !text.is_empty())
}

impl Doctor {
    fn new(
        settings: LinkSettings,
        endpoint: EndpointSettings,
        options: Options,
    ) -> Result<Self, TlsSetupError> {
        let clock = Clock::start();
        let wanted = wanted(&settings, &endpoint);
        let random = RandomState::new().hash_one(std::process::id()) >> 32;
        let client_id = if options.as_gateway {
            settings.client_id.clone()
        } else {
            format!("{}-doctor-{random:08x}", settings.client_id)
        };
        let topic = options
            .topic
            .clone()
            .unwrap_or_else(|| format!("moorline/doctor/{random:08x}"));
        Ok(Self {
            prober: Prober::new(settings, endpoint, clock)?,
            clock,
            wanted,
            options,
            client_id,
            topic,
            scratch_holds: false,
            addresses: Vec::new(),
            protocol: None,
            tls: None,
            answers: None,
            terms: None,
            silence: None,
        })
    }

    async fn probe(&mut self, probe: Probe) -> Result<Finding, TlsSetupError> {
        Ok(match probe {
            Probe::Name => self.name().await,
            Probe::Connection => self.connection().await,
            Probe::Protocol => self.protocol().await?,
            Probe::Tls => judge::tls(&self.wanted, self.tls.as_ref(), self.is_loopback()),
            Probe::Version5 => self.version(MqttVersion::V5).await,
            Probe::Version311 => self.version(MqttVersion::V311).await,
            Probe::Credentials => self.credentials(),
            Probe::Strangers => self.strangers().await,
            Probe::Terms => self.announced(),
            Probe::KeepAlive => self.keep_alive(),
            Probe::GatewayTopics => self.gateway_topics().await,
            Probe::Scratch => self.scratch().await,
            Probe::Qos => self.qos().await,
            Probe::Retained => self.retained().await,
            Probe::PacketSize => self.packet_size().await,
            Probe::InFlight => self.in_flight().await,
            Probe::Wildcards => self.wildcards().await,
            Probe::Shared => self.shared().await,
            Probe::Resume => self.resume().await,
            Probe::Takeover => self.takeover().await,
            Probe::Silence => self.silent_client().await,
            Probe::Clock => self.clocks(),
        })
    }

    fn is_loopback(&self) -> bool {
        // Where a proxy is, says nothing about the broker.
        let mut addresses = self.addresses.iter().map(SocketAddr::ip);
        self.wanted.via.is_none() && addresses.all(|address: IpAddr| address.is_loopback())
    }

    /// The keep-alive that is accepted.
    fn keep_alive_s(&self) -> u16 {
        let accepted = self
            .answers
            .as_ref()
            .and_then(|answers| answers.accepted_keep_alive_s);
        accepted.unwrap_or(self.wanted.keep_alive_s)
    }

    /// The version the link speaks with this broker.
    fn version_spoken(&self) -> MqttVersion {
        self.terms
            .as_ref()
            .map_or(MqttVersion::V5, |terms| terms.version)
    }

    /// CONNECT as the link would send it.
    fn connect<'a>(&'a self, version: MqttVersion, client_id: &'a str) -> Connect<'a> {
        let credentials = &self.prober.settings().credentials;
        Connect {
            version,
            client_id,
            username: given(credentials.username.as_ref()),
            password: given(credentials.password.as_ref()),
            keep_alive_s: self.keep_alive_s(),
            clean_start: true,
            session_expiry_s: 0,
        }
    }

    /// A session in the version the link speaks.
    async fn session(&self) -> Result<Conversation, Failed> {
        self.session_in(self.version_spoken()).await
    }

    async fn session_in(&self, version: MqttVersion) -> Result<Conversation, Failed> {
        let connect = self.connect(version, &self.client_id);
        Ok(self.prober.converse(&connect).await?.0)
    }

    fn http_date(&self) -> Option<&str> {
        let seen = self.protocol.as_ref()?;
        [&seen.inside, &seen.other, &seen.http]
            .into_iter()
            .flatten()
            .find_map(|speech| match speech {
                Speech::Http { date, .. } => date.as_deref(),
                Speech::Mqtt | Speech::Tls | Speech::Other(_) | Speech::Closed | Speech::Silent => {
                    None
                }
            })
    }
}
