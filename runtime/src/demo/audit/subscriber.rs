//! The subscriber: MQTT 5, QoS 1, a session that outlives connections and brokers, directly at the broker.

use std::net::SocketAddr;
use std::time::Duration;

use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v5::{Packet, SubscribeReasonCode};
use rumqttc::{AsyncClient, Event, EventLoop, IncomingPacketSizeLimit, MqttOptions};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use super::last_word::LastWord;
use super::{Input, TELEMETRY_TOPIC};

const CLIENT_ID: &str = "moorline-audit";
const KEEP_ALIVE_S: u16 = 5;
const SESSION_EXPIRY_S: u32 = 3_600;
const REQUESTS: usize = 16;
/// Between attempts. A fixed short wait: the broker is ours and next door.
const RETRY: Duration = Duration::from_millis(50);

pub(super) fn start(
    broker: SocketAddr,
    inputs: mpsc::Sender<Input>,
) -> (watch::Receiver<bool>, JoinHandle<()>) {
    let mut options = MqttOptions::new(CLIENT_ID, (broker.ip().to_string(), broker.port()));
    options
        .set_keep_alive(KEEP_ALIVE_S)
        .set_clean_start(false)
        .set_session_expiry_interval(Some(SESSION_EXPIRY_S))
        .set_receive_maximum(Some(u16::MAX))
        .set_incoming_packet_size_limit(IncomingPacketSizeLimit::Unlimited)
        .set_socket_connector(move |_address, _options| async move {
            TcpStream::connect(broker).await.map(LastWord::new)
        });
    let (client, events) = AsyncClient::builder(options).capacity(REQUESTS).build();
    let (subscribing, subscribed) = watch::channel(false);
    let task = tokio::spawn(
        Subscriber {
            client,
            subscribing,
            inputs,
        }
        .run(events),
    );
    (subscribed, task)
}

struct Subscriber {
    client: AsyncClient,
    subscribing: watch::Sender<bool>,
    inputs: mpsc::Sender<Input>,
}

impl Subscriber {
    async fn run(self, mut events: EventLoop) {
        loop {
            match events.poll().await {
                Ok(Event::Incoming(packet)) => {
                    if !self.handle(packet).await {
                        return;
                    }
                }
                Ok(Event::Outgoing(_) | Event::Auth(_)) => {}
                Err(error) => {
                    debug!(%error, "audit: not connected");
                    self.subscribing.send_replace(false);
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// False when the audit has ended.
    async fn handle(&self, packet: Packet) -> bool {
        if let Packet::ConnAck(connack) = &packet {
            if connack.session_present {
                self.subscribing.send_replace(true);
            } else if let Err(error) = self.client.try_subscribe(TELEMETRY_TOPIC, QoS::AtLeastOnce)
            {
                warn!(%error, "audit: cannot subscribe");
            }
        } else if let Packet::SubAck(suback) = &packet {
            let granted = |code: &SubscribeReasonCode| {
                *code == SubscribeReasonCode::Success(QoS::AtLeastOnce)
            };
            if suback.return_codes.iter().all(granted) {
                self.subscribing.send_replace(true);
            } else {
                warn!(codes = ?suback.return_codes, "audit: subscription refused");
            }
        } else if let Packet::Publish(publish) = packet {
            return self.inputs.send(Input::Saw(publish.payload)).await.is_ok();
        }
        true
    }
}
