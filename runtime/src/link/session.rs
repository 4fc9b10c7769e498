//! The seam over the client crates: one session of either protocol version, from an open stream to its end.
//!
//! Nothing above this module knows which crate speaks. One fresh event loop serves one connection and is dropped with it:
//! the crate's queues never hold more than the window admitted, and whatever they hold at the end is forgotten, because the
//! spool sends it again.
//!
//! ```text
//!  driver ──publish──► crate's event loop ──► Tap ──► stream
//!  driver ◄──next()─── pump (translates) ◄──┘
//! ```

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use moorline_core::link::cause::MqttVersion;
use moorline_core::mqtt_frame::Connack;
use thiserror::Error;
use tokio::sync::mpsc;

use super::dialer::Stream;
use super::settings::LinkSettings;
use super::tap::Tap;
use super::wire::Wire;

mod v4;
mod v5;

/// Events between the pump and the driver; both run in one task, so this only bounds a burst.
const EVENTS: usize = 256;
/// Requests that are not in the window: SUBSCRIBE, DISCONNECT and a canary.
const CONTROL_REQUESTS: usize = 8;
/// The crate writes up to this many publishes with one system call.
const WRITE_BATCH: usize = 64;
/// The crates want an address; the stream they get is open already.
const UNUSED_HOST: &str = "broker";
const UNUSED_PORT: u16 = 1883;
/// The largest packet we take from a server.
const INCOMING_BYTES_MAX: u32 = 256 * 1024;

/// The driver's name for a publish, given back with its acknowledgement.
pub(super) type Token = u64;

/// What happens on a session.
#[derive(Debug)]
pub(super) enum SessionEvent {
    /// The server accepted us.
    Up(Connack),
    /// The server acknowledged a publish, with this reason code; 0x80 and above refuse it.
    Acked { token: Token, code: u8 },
    /// The server sent a message; `retained`: one that it kept from before we asked.
    Received {
        topic: Bytes,
        payload: Bytes,
        retained: bool,
    },
    /// The server answered [`Session::subscribe`]; how many of the topics it refused.
    Subscribed { refused: usize },
    /// The server answered [`Session::subscribe_own`].
    SubscribedOwn { granted: bool },
    /// It is over. The reason is in the `Wire`, unless the crate gave up by itself.
    Ended(GaveUp),
}

/// What the crate says about the end.
#[derive(Clone, Debug)]
pub(super) struct GaveUp {
    /// For people.
    pub(super) words: String,
    pub(super) over: GaveUpOver,
}

/// What the crate gave up over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GaveUpOver {
    /// It wanted to send the next PINGREQ and the last one had no answer: with a keep-alive shorter than our own deadline
    /// the crate comes first.
    Ping,
    /// A packet of ours, larger than the server takes.
    OwnPacket,
    /// The stream, or what came over it.
    Stream,
}

/// The request could not be queued: the window admitted more than the session has room for, or it is over.
#[derive(Debug, Error)]
#[error("the session takes no more requests")]
pub(super) struct SessionFull;

enum Client {
    V4(rumqttc_v4::AsyncClient),
    V5(rumqttc::AsyncClient),
}

/// One connection's session.
pub(super) struct Session {
    client: Client,
    tokens: mpsc::Sender<Token>,
    events: mpsc::Receiver<SessionEvent>,
    // Kept and polled, never recreated: the crate's own `poll` loses state when it is cancelled under back-pressure.
    pump: Pin<Box<dyn Future<Output = GaveUp> + Send>>,
    over: Option<GaveUp>,
}

/// The pump's ends of the session's channels.
struct PumpEnds {
    tokens: mpsc::Receiver<Token>,
    events: mpsc::Sender<SessionEvent>,
    wire: Arc<Wire>,
    /// The packet identifier of the first SUBSCRIBE: the platform's topics, before our own.
    subscribe_id: Option<u16>,
}

impl PumpEnds {
    fn subscribed(&self, id: u16, refused: usize) -> SessionEvent {
        if self.subscribe_id == Some(id) {
            SessionEvent::Subscribed { refused }
        } else {
            SessionEvent::SubscribedOwn {
                granted: refused == 0,
            }
        }
    }
}

impl Session {
    /// Sends CONNECT over `stream` as soon as [`Session::next`] is called.
    pub(super) fn open(
        stream: Stream,
        version: MqttVersion,
        settings: &LinkSettings,
        keep_alive: Duration,
        wire: Arc<Wire>,
    ) -> Self {
        let (tokens_tx, tokens) = mpsc::channel(usize::from(settings.inflight_max));
        let (events_tx, events) = mpsc::channel(EVENTS);
        let ends = PumpEnds {
            tokens,
            events: events_tx,
            wire: Arc::clone(&wire),
            subscribe_id: None,
        };
        let keep_alive_s = u16::try_from(keep_alive.as_secs()).unwrap_or(u16::MAX);
        let hand_over = HandOver::new(Tap::new(stream, version, wire));
        let (client, pump): (Client, Pin<Box<dyn Future<Output = GaveUp> + Send>>) = match version {
            MqttVersion::V311 => {
                let (client, event_loop) = v4::open(settings, keep_alive_s, hand_over);
                (Client::V4(client), Box::pin(v4::pump(event_loop, ends)))
            }
            MqttVersion::V5 => {
                let (client, event_loop) = v5::open(settings, keep_alive_s, hand_over);
                (Client::V5(client), Box::pin(v5::pump(event_loop, ends)))
            }
        };
        Self {
            client,
            tokens: tokens_tx,
            events,
            pump,
            over: None,
        }
    }

    /// What happens next. Nothing moves on the session while nobody waits here. May be cancelled.
    pub(super) async fn next(&mut self) -> SessionEvent {
        loop {
            if let Some(gave_up) = &self.over {
                // What came before the end is told before it.
                return match self.events.try_recv() {
                    Ok(event) => event,
                    Err(_none_left) => SessionEvent::Ended(gave_up.clone()),
                };
            }
            tokio::select! {
                biased;
                Some(event) = self.events.recv() => return event,
                gave_up = &mut self.pump => self.over = Some(gave_up),
            }
        }
    }

    /// An event that is already there.
    pub(super) fn try_next(&mut self) -> Option<SessionEvent> {
        self.events.try_recv().ok()
    }

    /// Queues a QoS 1 publish.
    pub(super) fn publish(
        &mut self,
        token: Token,
        topic: &'static str,
        payload: Bytes,
    ) -> Result<(), SessionFull> {
        // The token goes first: the pump takes it when the crate reports the publish as written, and both are in order.
        self.tokens.try_send(token).map_err(|_full| SessionFull)?;
        match &self.client {
            Client::V4(client) => v4::publish(client, topic, payload),
            Client::V5(client) => v5::publish(client, topic, payload),
        }
    }

    /// Asks for these topics.
    pub(super) fn subscribe(&mut self, topics: &[(&str, u8)]) -> Result<(), SessionFull> {
        match &self.client {
            Client::V4(client) => v4::subscribe(client, topics),
            Client::V5(client) => v5::subscribe(client, topics),
        }
    }

    /// Asks for a topic of our own, after [`Session::subscribe`]: what we publish there shall come back.
    pub(super) fn subscribe_own(&mut self, topic: &str) -> Result<(), SessionFull> {
        match &self.client {
            Client::V4(client) => v4::subscribe(client, &[(topic, 0)]),
            Client::V5(client) => v5::subscribe_own(client, topic),
        }
    }

    /// Queues a QoS 0 publish beside the window.
    pub(super) fn publish_own(&mut self, topic: &str, payload: String) -> Result<(), SessionFull> {
        match &self.client {
            Client::V4(client) => v4::publish_own(client, topic, payload),
            Client::V5(client) => v5::publish_own(client, topic, payload),
        }
    }

    /// Sends DISCONNECT; the session ends once it is written.
    pub(super) fn close(&mut self) -> Result<(), SessionFull> {
        match &self.client {
            Client::V4(client) => client.try_disconnect_now().map_err(|_full| SessionFull),
            Client::V5(client) => client.try_disconnect_now().map_err(|_full| SessionFull),
        }
    }
}

/// Gives the one open stream to the crate, which asks through a closure it could call twice.
#[expect(
    clippy::disallowed_types,
    reason = "the crate's connector is `Fn + Sync`; the stream moves through it once"
)]
struct HandOver(std::sync::Mutex<Option<Tap<Stream>>>);

impl HandOver {
    #[expect(clippy::disallowed_types, reason = "see the type")]
    fn new(tap: Tap<Stream>) -> Arc<Self> {
        Arc::new(Self(std::sync::Mutex::new(Some(tap))))
    }

    fn take(&self) -> io::Result<Tap<Stream>> {
        let taken = self.0.lock().ok().and_then(|mut slot| slot.take());
        taken.ok_or_else(|| io::Error::other("one session uses one stream"))
    }
}

/// A request channel that holds a full window and the control requests beside it.
fn request_capacity(settings: &LinkSettings) -> usize {
    usize::from(settings.inflight_max) + CONTROL_REQUESTS
}
