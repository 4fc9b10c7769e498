//! A platform to the gateway: sees every message, asks RPCs.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v5::Packet;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, PublishOptions};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::eventually;

const READY: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(50);
const REQUESTS: usize = 16;
const MESSAGE_BYTES_MAX: u32 = 256 * 1024;

/// One message as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its topic.
    pub topic: String,
    /// Its bytes.
    pub payload: Bytes,
    /// Its QoS.
    pub qos: u8,
}

impl Message {
    /// The payload as JSON; null when it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.payload).unwrap_or_default()
    }
}

/// A subscriber to some topics. Dropping it ends it.
#[derive(Debug)]
pub struct Subscriber {
    client: AsyncClient,
    messages: watch::Receiver<Vec<Message>>,
    task: JoinHandle<()>,
}

impl Subscriber {
    /// Connects to `broker` and subscribes to `filter`; returns when the subscription stands.
    ///
    /// # Panics
    /// When it does not stand in time.
    pub async fn start(broker: SocketAddr, filter: &'static str) -> Self {
        let mut options = MqttOptions::new(
            "moorline-e2e-platform",
            (broker.ip().to_string(), broker.port()),
        );
        options
            .set_keep_alive(5)
            .set_clean_start(false)
            .set_session_expiry_interval(Some(600))
            // After an outage readings come in the largest publishes there are.
            .set_max_packet_size(Some(MESSAGE_BYTES_MAX));
        let (client, events) = AsyncClient::builder(options).capacity(REQUESTS).build();
        let (hearing, messages) = watch::channel(Vec::new());
        let (subscribing, subscribed) = watch::channel(false);
        let task = tokio::spawn(listen(client.clone(), events, filter, hearing, subscribing));
        eventually("the platform's subscription stands", READY, || {
            subscribed.borrow().then_some(())
        })
        .await;
        Self {
            client,
            messages,
            task,
        }
    }

    /// The first message that `wanted` takes.
    ///
    /// # Panics
    /// When none comes in time.
    pub async fn first(
        &self,
        what: &str,
        within: Duration,
        wanted: impl Fn(&Message) -> bool,
    ) -> Message {
        eventually(what, within, || {
            self.messages
                .borrow()
                .iter()
                .find(|message| wanted(message))
                .cloned()
        })
        .await
    }

    /// All messages on `topic` so far.
    #[must_use]
    pub fn on(&self, topic: &str) -> Vec<Message> {
        self.messages
            .borrow()
            .iter()
            .filter(|message| message.topic == topic)
            .cloned()
            .collect()
    }

    /// Publishes with QoS 1.
    ///
    /// # Panics
    /// When the client has ended.
    pub async fn publish(&self, topic: &str, payload: &serde_json::Value) {
        let options = PublishOptions::new(QoS::AtLeastOnce);
        self.client
            .publish(topic, payload.to_string(), options)
            .await
            .unwrap();
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(
    client: AsyncClient,
    mut events: EventLoop,
    filter: &'static str,
    hearing: watch::Sender<Vec<Message>>,
    subscribing: watch::Sender<bool>,
) {
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(connack))) if !connack.session_present => {
                client.try_subscribe(filter, QoS::AtLeastOnce).unwrap();
            }
            Ok(Event::Incoming(Packet::SubAck(_))) => {
                subscribing.send_replace(true);
            }
            Ok(Event::Incoming(Packet::Publish(publish))) => hearing.send_modify(|messages| {
                let topic = String::from_utf8_lossy(&publish.topic).into_owned();
                messages.push(Message {
                    topic,
                    payload: publish.payload,
                    qos: publish.qos as u8,
                });
            }),
            Ok(_other) => {}
            Err(_not_connected) => tokio::time::sleep(RETRY).await,
        }
    }
}
