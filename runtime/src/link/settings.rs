//! What the link needs to know, resolved: no file names, no `env:`, no defaults left open.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use moorline_core::identity::Identity;
use moorline_core::link;
pub use moorline_core::link::Versions;
use moorline_core::link::canary;
use moorline_core::link::endpoints::{Endpoint, ServerReference};
use moorline_core::link::proxy::authority;
use moorline_core::message::Qos;
use moorline_core::thingsboard::limits::Limits;

/// A value that never reaches a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `value` out of logs.
    #[must_use]
    pub const fn new(value: String) -> Self {
        Self(value)
    }

    /// The value itself, for the wire alone.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What we prove ourselves with.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// User name; ThingsBoard's access token goes here.
    pub username: Option<Secret>,
    /// Password.
    pub password: Option<Secret>,
}

/// A client certificate chain and its key, both PEM.
#[derive(Clone, Debug)]
pub struct ClientIdentity {
    /// The chain, leaf first.
    pub certificates_pem: Vec<u8>,
    /// The private key.
    pub key_pem: Secret,
}

/// How the broker is authenticated, and we to it.
#[derive(Clone, Debug, Default)]
pub struct TlsSettings {
    /// The certificates to trust; without them those the system trusts.
    pub ca_pem: Option<Vec<u8>>,
    /// Our certificate, where the broker wants one.
    pub client: Option<ClientIdentity>,
    /// The name the broker's certificate must carry, where it is not the host dialled.
    pub server_name: Option<String>,
    /// Protocols offered by ALPN (RFC 7301); some brokers serve MQTT on port 443 only to who offers `mqtt`.
    pub alpn: Vec<String>,
}

/// From where connections are made; the routing table decides what is left open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bind {
    /// The address of this machine that is used.
    pub address: Option<IpAddr>,
    /// The network interface that is used, by name.
    pub device: Option<String>,
}

/// What a proxy speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyKind {
    /// HTTP CONNECT (RFC 9110 section 9.3.6).
    Http,
    /// SOCKS 5 (RFC 1928).
    Socks5,
}

/// Who we are to a proxy.
#[derive(Clone, Debug)]
pub struct ProxyLogin {
    /// User name.
    pub username: Secret,
    /// Password.
    pub password: Secret,
}

/// The proxy that connections to the broker go through. It also resolves the broker's name.
#[derive(Clone, Debug)]
pub struct ProxySettings {
    /// What it speaks.
    pub kind: ProxyKind,
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Who we are, where it wants to know.
    pub login: Option<ProxyLogin>,
}

impl fmt::Display for ProxySettings {
    /// Its URL, without a login.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.kind {
            ProxyKind::Http => "http",
            ProxyKind::Socks5 => "socks5",
        };
        write!(f, "{scheme}://{}", authority(&self.host, self.port))
    }
}

/// The longest each phase of an attempt may take.
#[derive(Clone, Copy, Debug)]
pub struct PhaseTimeouts {
    /// Resolving the name.
    pub dns: Duration,
    /// Connecting, all addresses together.
    pub tcp: Duration,
    /// The proxy's handshake.
    pub proxy: Duration,
    /// The TLS handshake.
    pub tls: Duration,
    /// The upgrade to a WebSocket.
    pub websocket: Duration,
    /// From CONNECT to CONNACK.
    pub connack: Duration,
}

impl PhaseTimeouts {
    /// `connect` for each phase before CONNECT.
    #[must_use]
    pub const fn new(connect: Duration, connack: Duration) -> Self {
        Self {
            dns: connect,
            tcp: connect,
            proxy: connect,
            tls: connect,
            websocket: connect,
            connack,
        }
    }
}

/// When an established session counts as dead although the kernel still says nothing.
#[derive(Clone, Copy, Debug)]
pub struct LivenessLimits {
    /// From PINGREQ to the first byte of any answer, where answers are fast.
    pub pingresp: Duration,
    /// The same, however slow they are ([`AnswerTime`](moorline_core::link::answer_time::AnswerTime)).
    pub pingresp_max: Duration,
    /// Silence after which an answer we wait for is asked for again by a PINGREQ of our own.
    pub probe_after: Duration,
    /// The oldest publish may stay unacknowledged this long.
    pub ack: Duration,
    /// Bytes may wait this long for room in the socket.
    pub write_stall: Duration,
    /// Sent bytes may stay unacknowledged by the peer's kernel this long (`TCP_USER_TIMEOUT`).
    pub tcp_user: Duration,
}

/// A message of our own through the broker and back ([`canary`](moorline_core::link::canary)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanarySettings {
    /// Published to and subscribed to; nobody else should.
    pub topic: String,
    /// How often, and how long to wait.
    pub timing: canary::Settings,
}

/// Publishes say by MQTT 5.0 user properties what they carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageIdentity {
    /// The gateway's name.
    pub gateway: String,
    /// The streams' names, in the order of their ids; one that is missing has its number for a name.
    pub streams: Vec<String>,
}

impl MessageIdentity {
    /// The user properties of a publish.
    pub(super) fn properties(&self, identity: &Identity) -> Vec<(String, String)> {
        let number = identity.stream.0;
        let stream = match self.streams.get(usize::from(number)) {
            Some(name) => name.clone(),
            None => number.to_string(),
        };
        let id = format!("{}/{stream}/{identity}", self.gateway);
        let mut properties = vec![("moorline-id".to_owned(), id)];
        if identity.historical {
            properties.push(("moorline-historical".to_owned(), "true".to_owned()));
        }
        properties
    }
}

/// Between which bounds reconnects are paced, whatever a policy says.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The least wait.
    pub floor: Duration,
    /// The most.
    pub ceiling: Duration,
    /// A session that lasted this long forgives the failures before it.
    pub stable_after: Duration,
    /// How long a policy may think.
    pub policy_deadline: Duration,
}

/// One broker.
#[derive(Clone, Debug)]
pub struct EndpointSettings {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// TLS, where the URL says so.
    pub tls: Option<TlsSettings>,
    /// The path at which MQTT is served over WebSocket, where the URL says so.
    pub websocket: Option<String>,
    /// The smallest is preferred; equal ones take turns.
    pub priority: u16,
    /// Which versions may be spoken there, where it is not what all of them may.
    pub versions: Option<Versions>,
}

impl EndpointSettings {
    /// A broker without TLS.
    #[must_use]
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
            tls: None,
            websocket: None,
            priority: 0,
            versions: None,
        }
    }

    /// The URL it has in a configuration.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = match (&self.websocket, &self.tls) {
            (None, None) => "mqtt",
            (None, Some(_)) => "mqtts",
            (Some(_), None) => "ws",
            (Some(_), Some(_)) => "wss",
        };
        let path = self.websocket.as_deref().unwrap_or_default();
        format!("{scheme}://{}{path}", self.name())
    }

    /// `host:port`.
    #[must_use]
    pub fn name(&self) -> String {
        authority(&self.host, self.port)
    }

    /// The port its protocol has where none is given.
    #[must_use]
    pub const fn default_port(&self) -> u16 {
        match (&self.websocket, &self.tls) {
            (None, None) => 1883,
            (None, Some(_)) => 8883,
            (Some(_), None) => 80,
            (Some(_), Some(_)) => 443,
        }
    }

    /// The server this one refers to: the same in everything but the name, which its certificate must then carry.
    #[must_use]
    pub(super) fn referring_to(&self, to: &ServerReference) -> Self {
        let mut referred = self.clone();
        referred.host.clone_from(&to.host);
        referred.port = to.port.unwrap_or_else(|| self.default_port());
        if let Some(tls) = &mut referred.tls {
            tls.server_name = None;
        }
        referred
    }
}

/// From where the link knows what the platform lets it send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RateLimits {
    /// The platform is asked at the beginning of each session.
    Ask,
    /// Nobody is asked; a quota slows the link down all the same.
    Off,
    /// The configuration says it, of all devices together and of the gateway itself.
    Known(Limits),
}

/// How publishes are filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSettings {
    /// Most readings in one.
    pub readings_max: u32,
    /// How long one that is not full may be filled.
    pub age_max: Duration,
}

/// A stream of QoS 2 and a session that the broker keeps do not go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "qos = 2 needs link.session_expiry_s = 0: on a session that the broker keeps, it could take a new message for a \
     repetition and drop it; use qos = 1, or give the kept session up"
)]
pub struct KeptSession;

/// Everything the link is told.
#[derive(Clone, Debug)]
pub struct LinkSettings {
    /// The brokers it may use, at least one.
    pub endpoints: Vec<EndpointSettings>,
    /// After so long a session at another broker than the preferred one is given up for that; none = never.
    pub fail_back_after: Option<Duration>,
    /// From where connections are made.
    pub bind: Bind,
    /// Through which connections go.
    pub proxy: Option<ProxySettings>,
    /// Connections are made to this address, whatever the names say: where `moorline stress` stands in the way.
    pub detour: Option<SocketAddr>,
    /// Our client id.
    pub client_id: String,
    /// User name and password.
    pub credentials: Credentials,
    /// Which versions may be spoken, where an endpoint does not say.
    pub versions: Versions,
    /// The keep-alive asked for; an MQTT 5.0 server may override it.
    pub keep_alive: Duration,
    /// The least that is asked for instead on a way that forgets idle connections
    /// ([`KeepAlive`](moorline_core::link::keep_alive::KeepAlive)).
    pub keep_alive_min: Duration,
    /// Whether and where canaries go.
    pub canary: Option<CanarySettings>,
    /// The longest each phase of an attempt may take.
    pub timeouts: PhaseTimeouts,
    /// When a session counts as dead.
    pub liveness: LivenessLimits,
    /// Between which bounds reconnects are paced.
    pub pace: Pace,
    /// Most publishes unacknowledged at a time; the broker's Receive Maximum may lower it.
    pub inflight_max: u16,
    /// Most payload bytes unacknowledged at a time; one publish always fits.
    pub inflight_bytes_max: usize,
    /// Most bytes of one publish; the broker's Maximum Packet Size may lower it.
    pub packet_bytes_max: usize,
    /// How publishes are filled.
    pub batch: BatchSettings,
    /// What the platform lets us send.
    pub rate_limits: RateLimits,
    /// How much of that is used, percent, 1 to 100.
    pub rate_limit_percent: u32,
    /// How long the broker keeps our session after a disconnect: what we are subscribed to and what came for us meanwhile.
    /// Zero = it forgets at once. With 3.1.1 anything else has no end.
    pub session_expiry: Duration,
    /// Whether and how publishes say what they carry; only MQTT 5.0 can.
    pub message_identity: Option<MessageIdentity>,
    /// Whether bytes cost money. A policy may spare them.
    pub metered: bool,
    /// Where the marker of an unclean stop is kept.
    pub state_directory: PathBuf,
}

impl LinkSettings {
    /// Settings for a broker without TLS, everything else at its default.
    #[must_use]
    pub fn new(
        host: impl Into<String>,
        port: u16,
        client_id: impl Into<String>,
        state_directory: PathBuf,
    ) -> Self {
        Self {
            endpoints: vec![EndpointSettings::new(host, port)],
            fail_back_after: None,
            bind: Bind::default(),
            proxy: None,
            detour: None,
            client_id: client_id.into(),
            credentials: Credentials::default(),
            versions: Versions::Auto,
            keep_alive: Duration::from_secs(30),
            keep_alive_min: Duration::from_secs(10),
            canary: None,
            timeouts: PhaseTimeouts::new(Duration::from_secs(10), Duration::from_secs(10)),
            // A peer that vanishes under load is found within ten seconds, whichever way it shows: silence is probed and
            // the probe given up after 3 + 5 s, a full socket after 8 s. The kernel's own timer is the last resort only:
            // it also runs out on a peer that reads slowly and acknowledges all the while.
            liveness: LivenessLimits {
                pingresp: Duration::from_secs(5),
                pingresp_max: Duration::from_secs(20),
                probe_after: Duration::from_secs(3),
                ack: Duration::from_secs(30),
                write_stall: Duration::from_secs(8),
                tcp_user: Duration::from_secs(30),
            },
            pace: Pace {
                floor: Duration::from_secs(1),
                ceiling: Duration::from_secs(120),
                stable_after: Duration::from_secs(30),
                policy_deadline: Duration::from_millis(50),
            },
            inflight_max: 100,
            inflight_bytes_max: 512 * 1024,
            packet_bytes_max: 64 * 1024,
            batch: BatchSettings {
                readings_max: u32::MAX,
                age_max: Duration::ZERO,
            },
            rate_limits: RateLimits::Ask,
            rate_limit_percent: 80,
            session_expiry: Duration::ZERO,
            message_identity: None,
            metered: false,
            state_directory,
        }
    }

    /// Whether each session starts without the state of the one before.
    #[must_use]
    pub const fn clean_start(&self) -> bool {
        self.session_expiry.is_zero()
    }

    /// Whether messages of this QoS can be promised with these settings.
    ///
    /// # Errors
    /// For QoS 2 on a session that the broker keeps: this side forgets what was in flight, and a packet identifier used anew
    /// would make the broker drop another message as a repetition.
    pub fn check_qos(&self, qos: Qos) -> Result<(), KeptSession> {
        if qos == Qos::ExactlyOnce && !self.clean_start() {
            return Err(KeptSession);
        }
        Ok(())
    }

    /// What the core must know of them.
    #[must_use]
    pub(crate) const fn limits(&self) -> link::Settings {
        link::Settings {
            floor: self.pace.floor,
            ceiling: self.pace.ceiling,
            stable_after: self.pace.stable_after,
            policy_deadline: self.pace.policy_deadline,
            versions: self.versions,
            fail_back_after: self.fail_back_after,
        }
    }

    /// The brokers as the core knows them.
    #[must_use]
    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        self.endpoints
            .iter()
            .map(|endpoint| Endpoint {
                name: endpoint.name().into(),
                priority: endpoint.priority,
                versions: endpoint.versions,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_show() {
        let mut settings = LinkSettings::new("broker", 1883, "line-7", PathBuf::new());
        settings.credentials.password = Some(Secret::new("hunter2".into()));
        let shown = format!("{settings:?}");
        assert!(
            shown.contains("***") && !shown.contains("hunter2"),
            "{shown}"
        );
    }
}
