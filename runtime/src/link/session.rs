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

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use moorline_core::identity::Identity;
use moorline_core::link::cause::MqttVersion;
use moorline_core::message::Qos;
use moorline_core::mqtt_frame::Connack;
use thiserror::Error;
use tokio::sync::mpsc;

use super::dialer::Stream;
use super::settings::{LinkSettings, MessageIdentity};
use super::tap::Tap;
use super::wire::Wire;

mod v4;
mod v5;

/// Events between the pump and the driver; both run in one task, so this only bounds a burst.
const EVENTS: usize = 256;
/// Requests that are not in the window: SUBSCRIBE, DISCONNECT and a canary.
const CONTROL_REQUESTS: usize = 8;
/// Messages of the server's that may be unacknowledged by us: its Receive Maximum, where MQTT 5.0 is spoken.
const RECEIVE_MAX: u16 = 64;
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
    /// The server acknowledged a publish, with this reason code; 0x80 and above refuse it. One of QoS 0 was written.
    Acked { token: Token, code: u8 },
    /// The server has a publish of QoS 2, and has not yet forgotten its identifier.
    Taken { token: Token },
    /// The server sent a message.
    Received(Received),
    /// The server answered [`Session::subscribe`]; how many of the topics it refused.
    Subscribed { refused: usize },
    /// The server answered [`Session::subscribe_own`].
    SubscribedOwn { granted: bool },
    /// It is over. The reason is in the `Wire`, unless the crate gave up by itself.
    Ended(GaveUp),
}

/// A message of the server's.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) topic: Bytes,
    pub(super) payload: Bytes,
    /// It is one that the server kept from before we asked.
    pub(super) retained: bool,
    /// The server may have sent it before.
    pub(super) redelivered: bool,
    /// What to acknowledge it with; of QoS 0 nothing.
    pub(super) due: Option<AckDue>,
}

/// An acknowledgement that the server waits for on this session; [`Session::acknowledge`] gives it, once.
#[derive(Debug)]
pub(super) struct AckDue {
    id: u16,
    /// The first of QoS 2's two, PUBREC.
    received: bool,
}

#[cfg(test)]
impl AckDue {
    pub(super) const fn numbered(id: u16) -> Self {
        Self {
            id,
            received: false,
        }
    }
}

/// What to publish.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) topic: &'static str,
    pub(super) payload: Bytes,
    pub(super) qos: Qos,
    pub(super) identity: Option<Identity>,
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
    /// Of all publishes in their order; the link's own have no token.
    tokens: mpsc::Sender<Option<Token>>,
    /// Acknowledgements the crate had no room for.
    acknowledgements: VecDeque<AckDue>,
    message_identity: Option<MessageIdentity>,
    events: mpsc::Receiver<SessionEvent>,
    // Kept and polled, never recreated: the crate's own `poll` loses state when it is cancelled under back-pressure.
    pump: Pin<Box<dyn Future<Output = GaveUp> + Send>>,
    over: Option<GaveUp>,
}

/// The pump's ends of the session's channels.
struct PumpEnds {
    tokens: mpsc::Receiver<Option<Token>>,
    /// Publishes of QoS 1 and 2 by their packet identifier.
    unacked: HashMap<u16, Token>,
    events: mpsc::Sender<SessionEvent>,
    wire: Arc<Wire>,
    /// The packet identifier of the first SUBSCRIBE: the platform's topics, before our own.
    subscribe_id: Option<u16>,
}

impl PumpEnds {
    /// The crate has written a publish.
    fn written(&mut self, id: u16) -> Option<SessionEvent> {
        let token = self.tokens.try_recv().ok()??;
        if id == 0 {
            // Into a socket that has failed: it goes again.
            let lost = self.wire.is_over();
            return (!lost).then_some(SessionEvent::Acked { token, code: 0 });
        }
        self.unacked.insert(id, token);
        None
    }

    /// PUBACK, PUBCOMP, or a PUBREC that refuses.
    fn acked(&mut self, id: u16, code: u8) -> Option<SessionEvent> {
        let token = self.unacked.remove(&id)?;
        Some(SessionEvent::Acked { token, code })
    }

    /// PUBREC.
    fn taken(&mut self, id: u16) -> Option<SessionEvent> {
        let token = *self.unacked.get(&id)?;
        Some(SessionEvent::Taken { token })
    }

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
        let (tokens_tx, tokens) = mpsc::channel(request_capacity(settings));
        let (events_tx, events) = mpsc::channel(EVENTS);
        let ends = PumpEnds {
            tokens,
            unacked: HashMap::new(),
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
            acknowledgements: VecDeque::new(),
            message_identity: settings.message_identity.clone(),
            events,
            pump,
            over: None,
        }
    }

    /// What happens next. Nothing moves on the session while nobody waits here. May be cancelled.
    pub(super) async fn next(&mut self) -> SessionEvent {
        loop {
            self.send_acknowledgements();
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

    /// Whether another publish can be queued. It is full while the crate cannot write; there is room again before
    /// [`Session::next`] says anything of what was queued last.
    pub(super) fn has_room(&self) -> bool {
        self.tokens.capacity() > 0
    }

    /// Queues a publish.
    pub(super) fn publish(&mut self, token: Token, message: Message) -> Result<(), SessionFull> {
        // The token goes first: the pump takes it when the crate reports the publish as written, and both are in order.
        self.tokens
            .try_send(Some(token))
            .map_err(|_full| SessionFull)?;
        match &self.client {
            Client::V4(client) => v4::publish(client, message),
            Client::V5(client) => v5::publish(client, message, self.message_identity.as_ref()),
        }
    }

    /// Acknowledges a message of the server's. It goes with the next steps of the session.
    pub(super) fn acknowledge(&mut self, due: AckDue) {
        self.acknowledgements.push_back(due);
        self.send_acknowledgements();
    }

    fn send_acknowledgements(&mut self) {
        while let Some(due) = self.acknowledgements.front() {
            let sent = match &self.client {
                Client::V4(client) => v4::acknowledge(client, due),
                Client::V5(client) => v5::acknowledge(client, due),
            };
            if sent.is_err() {
                return;
            }
            self.acknowledgements.pop_front();
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
        self.tokens.try_send(None).map_err(|_full| SessionFull)?;
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

/// A request channel that holds a full window and the control requests beside it. The crate has one for publishes and one
/// for everything else; each publish has its token for longer than its place in the channel.
fn request_capacity(settings: &LinkSettings) -> usize {
    usize::from(settings.inflight_max.max(RECEIVE_MAX)) + CONTROL_REQUESTS
}
