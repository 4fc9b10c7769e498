//! The way to the broker, one phase after the other, each with its own deadline and its own failure.
//!
//! ```text
//!  DNS ─► TCP (a race of addresses) ─► [proxy] ─► [TLS] ─► [WebSocket] ─► stream
//! ```

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use moorline_core::link::cause::{Phase, TlsReject};
use moorline_core::link::endpoints::Target;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;

use super::certificate::CertificateEnd;
use super::settings::{EndpointSettings, LinkSettings};
use super::tls::{self, Tls};

mod proxy;
mod stream;
mod tcp;
mod websocket;

use proxy::Proxy;

pub(super) use stream::{Carrier, Stream};
use tcp::Tcp;
use websocket::Upgrade;
pub(super) use websocket::{WebSocketEnd, ended as websocket_ended};

/// What takes a connection for a broker that is gone finds out within so much time.
const ENDS_WITHIN: Duration = Duration::from_millis(300);

/// A stream and how it came to be.
pub(super) struct Dialled {
    pub(super) stream: Stream,
    /// Our end's address; none where the kernel does not say.
    pub(super) local: Option<SocketAddr>,
    pub(super) peer: SocketAddr,
    pub(super) took: PhaseTimes,
    /// When the peer's certificates end; none without TLS.
    pub(super) certificate_end: Option<CertificateEnd>,
}

/// How long each phase took; zero for one that was not needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PhaseTimes {
    /// Name resolution.
    pub dns: Duration,
    /// The TCP handshake.
    pub tcp: Duration,
    /// The proxy's handshake.
    pub proxy: Duration,
    /// The TLS handshake.
    pub tls: Duration,
    /// The upgrade to a WebSocket.
    pub websocket: Duration,
}

/// What went wrong, exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DialError {
    /// The name does not resolve, or not in time.
    Unresolved,
    /// The kernel reported this errno.
    Errno(i32),
    /// The interface or address to connect from cannot be had: this errno.
    Unbound(i32),
    /// The phase's deadline passed.
    Timeout,
    /// The proxy refused, with its own code, or does not answer as a proxy.
    Proxy(u16),
    /// TLS was refused.
    Tls(TlsReject),
    /// The upgrade to a WebSocket was refused with this HTTP status, or answered by no WebSocket server.
    WebSocket(u16),
    /// The peer closed in the middle of the handshake.
    Closed,
}

/// Why there is no stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DialFailure {
    pub(super) phase: Phase,
    pub(super) error: DialError,
    /// Each address and what it said, in words.
    pub(super) detail: String,
}

/// Knows how to reach every broker of the link.
pub(super) struct Dialers {
    settings: LinkSettings,
    configured: Vec<Dialer>,
}

impl Dialers {
    /// Reads the certificates of all, so that a mistake in them shows before the first attempt.
    pub(super) fn new(settings: &LinkSettings) -> Result<Self, tls::TlsSetupError> {
        let configured = settings
            .endpoints
            .iter()
            .map(|endpoint| Dialer::new(settings, endpoint))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            settings: settings.clone(),
            configured,
        })
    }

    /// The way to one of them; none where it cannot be a broker's after all.
    pub(super) fn to(&self, target: &Target) -> Option<Dialer> {
        match target {
            Target::Configured(number) => self.configured.get(*number).cloned(),
            Target::Referred { by, to } => {
                let referred = self.settings.endpoints.get(*by)?.referring_to(to);
                Dialer::new(&self.settings, &referred).ok()
            }
        }
    }
}

/// Knows how to reach one broker.
#[derive(Clone)]
pub(super) struct Dialer {
    host: String,
    port: u16,
    tls: Option<Tls>,
    upgrade: Option<Upgrade>,
    dns: Duration,
    tcp: Tcp,
    proxy: Option<Proxy>,
    detour: Option<SocketAddr>,
    handshake: Duration,
}

impl Dialer {
    pub(super) fn new(
        settings: &LinkSettings,
        endpoint: &EndpointSettings,
    ) -> Result<Self, tls::TlsSetupError> {
        let tls = endpoint
            .tls
            .as_ref()
            .map(|tls| tls::prepare(tls, &endpoint.host))
            .transpose()?;
        Ok(Self {
            host: endpoint.host.clone(),
            port: endpoint.port,
            tls,
            upgrade: Upgrade::new(endpoint, settings.timeouts.websocket),
            dns: settings.timeouts.dns,
            tcp: Tcp::new(settings),
            proxy: Proxy::new(settings),
            detour: settings.detour,
            handshake: settings.timeouts.tls,
        })
    }

    /// The same way with this TLS instead, or without any.
    pub(super) fn over(mut self, tls: Option<Tls>) -> Self {
        self.tls = tls;
        self
    }

    /// The same way up to where a WebSocket would begin.
    pub(super) fn without_websocket(mut self) -> Self {
        self.upgrade = None;
        self
    }

    /// Connects to one of the addresses, and says no more.
    pub(super) async fn connect_to(&self, address: SocketAddr) -> Result<TcpStream, DialFailure> {
        let (stream, _) = self.tcp.connect(&[address]).await?;
        Ok(stream)
    }

    /// Whether a broker is there: something takes a connection, and neither ends it nor speaks first. What stands before a
    /// broker, a balancer or a tunnel, takes connections for one that is gone, and ends them at once; a broker waits for
    /// CONNECT, which is the first packet (MQTT 5.0 section 3.1).
    pub(super) async fn knock(&self) -> bool {
        match self.dial().await {
            Ok(mut dialled) => timeout(ENDS_WITHIN, dialled.stream.read_u8())
                .await
                .is_err(),
            Err(_failure) => false,
        }
    }

    /// One attempt, start to end.
    pub(super) async fn dial(&self) -> Result<Dialled, DialFailure> {
        let mut took = PhaseTimes::default();
        let started = Instant::now();
        let addresses = self.resolve().await?;
        took.dns = started.elapsed();

        let started = Instant::now();
        let (mut stream, peer) = self.tcp.connect(&addresses).await?;
        took.tcp = started.elapsed();
        if let Some(proxy) = &self.proxy {
            let started = Instant::now();
            proxy.open(&mut stream, &self.host, self.port).await?;
            took.proxy = started.elapsed();
        }
        let local = stream.local_addr().ok();

        let mut certificate_end = None;
        let carrier = match &self.tls {
            None => Carrier::Plain(stream),
            Some(tls) => {
                let started = Instant::now();
                let stream = self.handshake(tls, stream).await?;
                took.tls = started.elapsed();
                let shown = stream.get_ref().1.peer_certificates();
                certificate_end = shown.and_then(CertificateEnd::of);
                Carrier::Tls(Box::new(stream))
            }
        };
        let stream = match &self.upgrade {
            None => Stream::Direct(carrier),
            Some(upgrade) => {
                let started = Instant::now();
                let stream = upgrade.open(carrier).await?;
                took.websocket = started.elapsed();
                Stream::WebSocket(Box::new(stream))
            }
        };
        Ok(Dialled {
            stream,
            local,
            peer,
            took,
            certificate_end,
        })
    }

    /// The addresses of what is connected to: the proxy, or else the broker.
    pub(super) async fn resolve(&self) -> Result<Vec<SocketAddr>, DialFailure> {
        if let Some(detour) = self.detour {
            return Ok(vec![detour]);
        }
        let (host, port) = match &self.proxy {
            Some(proxy) => proxy.address(),
            None => (self.host.as_str(), self.port),
        };
        let failure = |detail| DialFailure {
            phase: Phase::Dns,
            error: DialError::Unresolved,
            detail,
        };
        let Ok(found) = timeout(self.dns, lookup_host((host, port))).await else {
            return Err(failure(format!(
                "{host} did not resolve within {:?}",
                self.dns
            )));
        };
        let found = found.map_err(|error| failure(format!("{host}: {error}")))?;
        let addresses: Vec<_> = found.collect();
        if addresses.is_empty() {
            return Err(failure(format!("{host} has no address")));
        }
        Ok(addresses)
    }

    async fn handshake(
        &self,
        tls: &Tls,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, DialFailure> {
        let failure = |error, detail| DialFailure {
            phase: Phase::Tls,
            error,
            detail,
        };
        match timeout(
            self.handshake,
            tls.connector.connect(tls.server_name.clone(), stream),
        )
        .await
        {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => {
                let exact =
                    tls::rejection(&error).map_or_else(|| errno_or_closed(&error), DialError::Tls);
                Err(failure(exact, error.to_string()))
            }
            Err(_elapsed) => Err(failure(
                DialError::Timeout,
                format!("no end of the handshake within {:?}", self.handshake),
            )),
        }
    }
}

fn errno_or_closed(error: &io::Error) -> DialError {
    error
        .raw_os_error()
        .map_or(DialError::Closed, DialError::Errno)
}
