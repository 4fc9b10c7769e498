//! Looking at a broker instead of using it, for `moorline doctor`: the link's own dialer, TLS and tap, but one packet at a
//! time and no client crate, so that what is found is what the link would find.
//!
//! ```text
//!  doctor ─► Prober ─► dialer ─► Conversation ─► Tap ─► stream
//!               └────► Offered: the certificates, also of a handshake that fails
//! ```

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use moorline_core::doctor::facts::{Failed, Speech};
use moorline_core::link::cause::{MqttVersion, Phase};
use moorline_core::link::classify::{Classifier, Observation, Observed};
use moorline_core::mqtt_frame::packet::{Connect, Packet, decode, disconnect};
use moorline_core::mqtt_frame::{Connack, FrameScanner};
use rustls::ClientConnection;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

use super::dialer::{DialError, DialFailure, Dialer, Stream};
use super::observe;
use super::session::{GaveUp, GaveUpOver};
use super::settings::{EndpointSettings, LinkSettings, TlsSettings};
use super::tap::Tap;
use super::tls::TlsSetupError;
use super::wire::Wire;
use crate::clock::Clock;

mod offered;

use offered::Offered;

/// The longest packet that is read from a broker.
const INCOMING_BYTES_MAX: usize = 256 * 1024;
/// What is read of an answer that may be anything.
const SPEECH_BYTES_MAX: usize = 2 * 1024;
/// So many bytes tell MQTT, TLS and HTTP apart.
const SPEECH_BYTES: usize = 5;
/// No answer to a few bytes takes longer.
const SPEECH_WAIT: Duration = Duration::from_secs(3);
/// A write or a close that takes longer is given up.
const WRITE_WAIT: Duration = Duration::from_secs(10);

/// Which way is taken to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// As the URL says.
    Configured,
    /// With TLS where the URL says so, but no WebSocket.
    Bare,
    /// Neither.
    Plain,
}

/// A handshake: what came of it, and the certificates that were shown.
pub(crate) struct Handshake {
    /// Version, cipher suite and ALPN.
    pub(crate) terms: Result<(String, String, Option<String>), Failed>,
    /// Whether the peer answered in TLS at all.
    pub(crate) spoken: bool,
    /// The chain, the broker's own first.
    pub(crate) offered: Vec<CertificateDer<'static>>,
    /// The authorities we trust.
    pub(crate) trusted: Vec<CertificateDer<'static>>,
}

/// Knows the way to one broker and how to say what went wrong on it.
#[derive(Clone)]
pub(crate) struct Prober {
    settings: LinkSettings,
    endpoint: EndpointSettings,
    dialer: Dialer,
    clock: Clock,
}

impl Prober {
    /// # Errors
    /// When TLS cannot be set up from the settings.
    pub(crate) fn new(
        settings: LinkSettings,
        endpoint: EndpointSettings,
        clock: Clock,
    ) -> Result<Self, TlsSetupError> {
        let dialer = Dialer::new(&settings, &endpoint)?;
        Ok(Self {
            settings,
            endpoint,
            dialer,
            clock,
        })
    }

    /// The settings of the link that is asked for.
    pub(crate) const fn settings(&self) -> &LinkSettings {
        &self.settings
    }

    /// The broker that is looked at.
    pub(crate) const fn endpoint(&self) -> &EndpointSettings {
        &self.endpoint
    }

    fn dialer(&self, way: Way) -> Dialer {
        let dialer = self.dialer.clone();
        match way {
            Way::Configured => dialer,
            Way::Bare => dialer.without_websocket(),
            Way::Plain => dialer.without_websocket().over(None),
        }
    }

    /// The addresses of the broker's name, or of the proxy's that is before it.
    pub(crate) async fn addresses(&self) -> Result<Vec<SocketAddr>, Failed> {
        self.dialer.resolve().await.map_err(not_dialled)
    }

    /// Connects to one address and closes again.
    pub(crate) async fn connects(&self, address: SocketAddr) -> Result<Duration, Failed> {
        let started = Instant::now();
        let connected = self.dialer.connect_to(address).await;
        connected.map_err(not_dialled)?;
        Ok(started.elapsed())
    }

    /// A TLS handshake as the link makes it; none where the URL wants none.
    pub(crate) async fn handshake(&self) -> Option<Result<Handshake, TlsSetupError>> {
        let settings = self.endpoint.tls.as_ref()?;
        Some(self.shake(settings).await)
    }

    async fn shake(&self, settings: &TlsSettings) -> Result<Handshake, TlsSetupError> {
        let trusted = offered::trusted(settings)?;
        let (tls, offered) = Offered::recorded(settings, &self.endpoint.host, trusted.clone())?;
        let dialled = self.dialer(Way::Bare).over(Some(tls)).dial().await;
        let terms = match &dialled {
            Ok(dialled) => Ok(terms(&dialled.stream)),
            Err(failure) => Err(not_dialled(failure.clone())),
        };
        let offered = offered.take();
        let refused_in_tls = matches!(
            &dialled,
            Err(DialFailure { error: DialError::Tls(reject), .. })
                if !matches!(reject, moorline_core::link::cause::TlsReject::NotTls)
        );
        Ok(Handshake {
            spoken: dialled.is_ok() || !offered.is_empty() || refused_in_tls,
            terms,
            offered,
            trusted,
        })
    }

    /// Says `bytes` to whoever listens and tells what he speaks. Keeps nothing open.
    pub(crate) async fn speech(&self, way: Way, bytes: &[u8]) -> Speech {
        let Ok(dialled) = self.dialer(way).dial().await else {
            return Speech::Closed;
        };
        let mut heard = Vec::new();
        let listening = listen(dialled.stream, bytes, &mut heard);
        let closed = timeout(SPEECH_WAIT, listening).await.unwrap_or(false);
        Speech::of(&heard, closed)
    }

    /// What a TLS client says first, for [`Prober::speech`].
    pub(crate) fn tls_hello(&self) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let name = rustls::pki_types::ServerName::try_from(self.endpoint.host.clone());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map(|builder| {
                builder
                    .with_root_certificates(rustls::RootCertStore::empty())
                    .with_no_client_auth()
            });
        let mut hello = Vec::new();
        if let (Ok(config), Ok(name)) = (config, name)
            && let Ok(mut client) = ClientConnection::new(Arc::new(config), name)
            && let Err(error) = client.write_tls(&mut hello)
        {
            tracing::debug!(%error, "no TLS hello");
        }
        hello
    }

    /// Connects as `connect` says; the CONNACK that accepted, or why there is none.
    pub(crate) async fn converse(
        &self,
        connect: &Connect<'_>,
    ) -> Result<(Conversation, Connack), Failed> {
        let version = connect.version;
        let dialled = self
            .dialer
            .dial()
            .await
            .map_err(|failure| classified(observe::dial_failure(version, failure)))?;
        let wire = Arc::new(Wire::new(self.clock));
        let mut conversation = Conversation {
            tap: Tap::new(dialled.stream, version, Arc::clone(&wire)),
            wire,
            version,
            scanner: FrameScanner::default(),
            pending: Vec::new(),
            frame: Vec::new(),
            incoming_bytes_max: INCOMING_BYTES_MAX,
            clock: self.clock,
        };
        conversation.send(&connect.encode()).await;
        let deadline = Instant::now() + self.settings.timeouts.connack;
        while conversation.wire.connack().is_none() {
            if conversation.next(deadline).await?.is_none() {
                return Err(conversation.silent());
            }
        }
        match conversation.wire.connack().cloned() {
            Some(connack) => Ok((conversation, connack)),
            None => Err(conversation.ended()),
        }
    }
}

fn terms(stream: &Stream) -> (String, String, Option<String>) {
    let Some(session) = stream.tls() else {
        return Default::default();
    };
    let version = session
        .protocol_version()
        .and_then(|version| version.as_str());
    let cipher = session
        .negotiated_cipher_suite()
        .and_then(|suite| suite.suite().as_str());
    (
        version.unwrap_or("?").replace('_', "."),
        cipher.unwrap_or("?").to_owned(),
        session
            .alpn_protocol()
            .map(|name| name.escape_ascii().to_string()),
    )
}

/// Reads what answers `bytes` until it can be told apart; true when the peer closed.
async fn listen(mut stream: Stream, bytes: &[u8], heard: &mut Vec<u8>) -> bool {
    let said: io::Result<()> = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    }
    .await;
    // Whoever closed before everything was said may have answered before.
    let mut closed = said.is_err();
    let mut buffer = [0; SPEECH_BYTES_MAX];
    loop {
        let whole = if heard.starts_with(b"HTTP") {
            heard.windows(4).any(|part| part == b"\r\n\r\n")
        } else {
            heard.len() >= SPEECH_BYTES
        };
        if whole || heard.len() >= SPEECH_BYTES_MAX {
            return closed;
        }
        match stream.read(&mut buffer).await {
            Ok(count) if count > 0 => {
                heard.extend_from_slice(buffer.get(..count).unwrap_or_default());
            }
            Ok(_) | Err(_) => {
                closed = true;
                return closed;
            }
        }
    }
}

fn not_dialled(failure: DialFailure) -> Failed {
    classified(observe::dial_failure(MqttVersion::V5, failure))
}

fn classified(observation: Observation) -> Failed {
    Box::new(Classifier::default().classify(observation))
}

/// One session, packet by packet.
pub(crate) struct Conversation {
    tap: Tap<Stream>,
    wire: Arc<Wire>,
    version: MqttVersion,
    scanner: FrameScanner,
    pending: Vec<u8>,
    frame: Vec<u8>,
    incoming_bytes_max: usize,
    clock: Clock,
}

impl Conversation {
    /// The same, with packets of up to so many bytes.
    pub(crate) fn taking(mut self, incoming_bytes_max: usize) -> Self {
        self.incoming_bytes_max = incoming_bytes_max;
        self
    }

    /// The version spoken.
    pub(crate) const fn version(&self) -> MqttVersion {
        self.version
    }

    /// Writes. What goes wrong shows in [`Conversation::next`]: the peer's reason may be waiting there.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let write = async {
            self.tap.write_all(bytes).await?;
            self.tap.flush().await
        };
        if !matches!(timeout(WRITE_WAIT, write).await, Ok(Ok(()))) {
            tracing::debug!("the broker does not take what is written");
        }
    }

    /// The next packet; none at the deadline.
    ///
    /// # Errors
    /// With the disconnect as the link would record it.
    pub(crate) async fn next(&mut self, deadline: Instant) -> Result<Option<Packet>, Failed> {
        loop {
            if let Some(packet) = self.take_packet()? {
                return Ok(Some(packet));
            }
            let mut buffer = [0; 4096];
            match timeout_at(deadline, self.tap.read(&mut buffer)).await {
                Ok(Ok(count)) if count > 0 => self
                    .pending
                    .extend_from_slice(buffer.get(..count).unwrap_or_default()),
                Ok(Ok(_) | Err(_)) => return Err(self.ended()),
                Err(_elapsed) => return Ok(None),
            }
        }
    }

    fn take_packet(&mut self) -> Result<Option<Packet>, Failed> {
        while let Some(piece) = self.scanner.next_piece(&self.pending) {
            let Ok(piece) = piece else {
                return Err(self.garbage("bytes that begin no packet"));
            };
            self.frame.extend(self.pending.drain(..piece.len));
            if self.frame.len() > self.incoming_bytes_max {
                return Err(self.garbage("a packet too large to look at"));
            }
            if piece.ends {
                let frame = std::mem::take(&mut self.frame);
                return match decode(self.version, piece.kind, &frame) {
                    Ok(packet) => Ok(Some(packet)),
                    Err(cut_short) => Err(self.garbage(&cut_short.to_string())),
                };
            }
        }
        Ok(None)
    }

    /// Ends it in good order, and the session with it.
    pub(crate) async fn close(mut self) {
        self.send(&disconnect(self.version)).await;
        if !matches!(timeout(WRITE_WAIT, self.tap.shutdown()).await, Ok(Ok(()))) {
            tracing::debug!("the broker closed first");
        }
    }

    /// Why the stream ended.
    fn ended(&self) -> Failed {
        self.failed(String::new())
    }

    /// What the tap does not judge, but no client can use.
    fn garbage(&self, words: &str) -> Failed {
        self.failed(words.to_owned())
    }

    fn failed(&self, words: String) -> Failed {
        let mut evidence = observe::evidence(&self.wire, self.clock.now());
        let gave_up = GaveUp {
            words,
            over: GaveUpOver::Stream,
        };
        let observed = observe::wire_end(&self.wire, self.version, gave_up, &mut evidence);
        classified(Observation {
            phase: observe::phase(&self.wire),
            version: self.version,
            observed,
            evidence,
            suspect: None,
        })
    }

    /// CONNECT got no answer.
    fn silent(&self) -> Failed {
        self.unanswered(Phase::Connect, Observed::Timeout)
    }

    /// PINGREQ got no answer.
    pub(crate) fn dead(&self) -> Failed {
        self.unanswered(Phase::Session, Observed::PingrespMissing)
    }

    fn unanswered(&self, phase: Phase, observed: Observed) -> Failed {
        classified(Observation {
            phase,
            version: self.version,
            observed,
            evidence: observe::evidence(&self.wire, self.clock.now()),
            suspect: None,
        })
    }
}
