//! A subscriber whose session outlives its connections, over the link's own way to the broker.
//!
//! It reads every connection to its last byte: a broker that is killed leaves publishes in our socket and an RST behind
//! them, and whoever stopped at the first failed write would blame the broker, or the gateway, for what it did not read.
//! A message is acknowledged when whoever listens took it.

use std::time::Duration;

use bytes::Bytes;
use moorline_core::doctor::facts::Failed;
use moorline_core::link::cause::{Cause, MqttVersion};
use moorline_core::mqtt_frame::PacketKind;
use moorline_core::mqtt_frame::packet::{self, Connect, Packet, Publish};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::debug;

use crate::link::probe::{Conversation, Prober};
use crate::link::{Secret, Versions};

/// Messages that may wait for whoever listens. A full queue holds the broker back.
const HEARD: usize = 1_024;
/// MQTT's longest packet is more than any gateway sends: `link.packet_bytes_max` goes up to 16 MiB.
const INCOMING_BYTES_MAX: usize = 32 * 1024 * 1024;
const SUBSCRIBE_ID: u16 = 1;
const QOS: u8 = 1;
/// A peer that is silent so many keep-alives long is gone.
const SILENT_KEEP_ALIVES: u32 = 2;
/// For the CONNECT that ends the session of a 3.1.1 broker, all in all.
const FAREWELL: Duration = Duration::from_secs(5);

/// What is subscribed to, and as whom.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    /// Its own: a client id that somebody else uses throws him off the broker.
    pub(crate) client_id: String,
    pub(crate) filter: String,
    /// How long the broker keeps the session while we are away. MQTT 3.1.1 cannot say.
    pub(crate) session_expiry: Duration,
    /// Between attempts.
    pub(crate) retry: Duration,
}

/// What is heard.
#[derive(Debug)]
pub(crate) enum Heard {
    /// The subscription stands. `forgotten`: it stood before, and the broker did not keep it, so that messages in between
    /// are lost to us.
    Subscribed { forgotten: bool },
    /// The broker grants no QoS 1 subscription: this code.
    Refused(u8),
    /// The connection ended, or could not be made.
    Down(Failed),
    /// A message.
    Message(Bytes),
}

/// Listens until nobody takes what is heard any more, and then has the broker forget the session; the task ends then.
pub(crate) fn listen(prober: Prober, terms: Terms) -> (mpsc::Receiver<Heard>, JoinHandle<()>) {
    let (tell, heard) = mpsc::channel(HEARD);
    let version = match prober
        .endpoint()
        .versions
        .unwrap_or(prober.settings().versions)
    {
        Versions::Auto | Versions::V5 => MqttVersion::V5,
        Versions::V311 => MqttVersion::V311,
    };
    let listener = Listener {
        prober,
        terms,
        tell,
        version,
        stood: false,
    };
    (heard, tokio::spawn(listener.run()))
}

/// Whoever listened is gone.
struct Alone;

struct Listener {
    prober: Prober,
    terms: Terms,
    tell: mpsc::Sender<Heard>,
    version: MqttVersion,
    /// A subscription stood once: the session is worth going on with.
    stood: bool,
}

impl Listener {
    async fn run(mut self) {
        let tell = self.tell.clone();
        loop {
            let ended = tokio::select! {
                ended = self.session() => ended,
                () = tell.closed() => Err(Alone),
            };
            let Ok(failed) = ended else { break };
            self.fall_back(failed.cause);
            if tell.send(Heard::Down(failed)).await.is_err() {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(self.terms.retry) => {}
                () = tell.closed() => break,
            }
        }
        if tokio::time::timeout(FAREWELL, self.forget()).await.is_err() {
            debug!("the broker keeps the audit's session");
        }
    }

    /// A broker that does not speak 5.0 is asked in 3.1.1, where the configuration lets us.
    fn fall_back(&mut self, cause: Cause) {
        let versions = self.prober.endpoint().versions;
        let versions = versions.unwrap_or(self.prober.settings().versions);
        if cause == Cause::VersionRefused && versions == Versions::Auto {
            self.version = MqttVersion::V311;
        }
    }

    fn connect(&self, clean_start: bool) -> Connect<'_> {
        let settings = self.prober.settings();
        let given = |secret: Option<&'_ Secret>| secret.is_some_and(|s| !s.expose().is_empty());
        let credentials = &settings.credentials;
        let username = credentials.username.as_ref();
        let password = credentials.password.as_ref();
        Connect {
            version: self.version,
            client_id: &self.terms.client_id,
            username: username.filter(|s| given(Some(s))).map(Secret::expose),
            password: password.filter(|s| given(Some(s))).map(Secret::expose),
            keep_alive_s: u16::try_from(settings.keep_alive.as_secs()).unwrap_or(u16::MAX),
            clean_start,
            session_expiry_s: u32::try_from(self.terms.session_expiry.as_secs())
                .unwrap_or(u32::MAX),
        }
    }

    /// From CONNECT to the end of the connection, with why it ended. Never with a clean start, not even the first time: a
    /// Mosquitto that is killed keeps only sessions that were begun without one.
    async fn session(&mut self) -> Result<Failed, Alone> {
        let (mut conversation, connack) = match self.prober.converse(&self.connect(false)).await {
            Ok((conversation, connack)) => (conversation.taking(INCOMING_BYTES_MAX), connack),
            Err(failed) => return Ok(failed),
        };
        let asked = self.prober.settings().keep_alive;
        let keep_alive = connack
            .properties
            .server_keep_alive_s
            .map_or(asked, |s| Duration::from_secs(s.into()));
        if connack.session_present && self.stood {
            self.tell(Heard::Subscribed { forgotten: false }).await?;
        } else {
            let subscribe = packet::subscribe(self.version, SUBSCRIBE_ID, &self.terms.filter, QOS);
            conversation.send(&subscribe).await;
        }
        self.follow(&mut conversation, keep_alive).await
    }

    async fn follow(
        &mut self,
        conversation: &mut Conversation,
        keep_alive: Duration,
    ) -> Result<Failed, Alone> {
        const PINGREQ: [u8; 2] = [0xc0, 0];
        // Without a keep-alive the broker does not care, but we do.
        let keep_alive = keep_alive.max(Duration::from_secs(1));
        let mut ping_at = Instant::now() + keep_alive / 2;
        let mut heard_at = Instant::now();
        loop {
            match conversation.next(ping_at).await {
                Err(failed) => return Ok(failed),
                Ok(Some(packet)) => {
                    heard_at = Instant::now();
                    self.take(conversation, packet).await?;
                }
                Ok(None) => {}
            }
            let now = Instant::now();
            if now - heard_at > keep_alive * SILENT_KEEP_ALIVES {
                return Ok(conversation.dead());
            }
            if now >= ping_at {
                conversation.send(&PINGREQ).await;
                ping_at = now + keep_alive / 2;
            }
        }
    }

    async fn take(&mut self, conversation: &mut Conversation, packet: Packet) -> Result<(), Alone> {
        match packet {
            Packet::Publish(Publish {
                payload,
                qos,
                packet_id,
                retain,
                ..
            }) => {
                // What a broker kept from before we asked proves nothing.
                if !retain {
                    self.tell(Heard::Message(payload.into())).await?;
                }
                if qos > 0 {
                    let ack = packet::acknowledge(PacketKind::Puback, packet_id);
                    conversation.send(&ack).await;
                }
                Ok(())
            }
            Packet::Suback { code, .. } if code == QOS => {
                let forgotten = std::mem::replace(&mut self.stood, true);
                self.tell(Heard::Subscribed { forgotten }).await
            }
            Packet::Suback { code, .. } => self.tell(Heard::Refused(code)).await,
            Packet::Connack(_)
            | Packet::Ack { .. }
            | Packet::Pingresp
            | Packet::Disconnect(_)
            | Packet::Other(_) => Ok(()),
        }
    }

    async fn tell(&self, heard: Heard) -> Result<(), Alone> {
        self.tell.send(heard).await.map_err(|_closed| Alone)
    }

    /// Leaves nothing behind at the broker.
    async fn forget(&self) {
        let mut connect = self.connect(true);
        connect.session_expiry_s = 0;
        match self.prober.converse(&connect).await {
            Ok((conversation, _)) => conversation.close().await,
            Err(failed) => debug!(%failed, "the broker keeps the audit's session"),
        }
    }
}
