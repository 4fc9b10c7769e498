//! A subscriber that cares for time: when was each reading made, when did it arrive?

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v5::Packet;
use rumqttc::{AsyncClient, Event, EventLoop, IncomingPacketSizeLimit, MqttOptions};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::eventually;
use crate::netns::now_us;

const READY: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(50);
const REQUESTS: usize = 16;
const TELEMETRY: &str = "v1/gateway/telemetry";

/// Readings of one device, made at one time, that arrived together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Whose.
    pub device: Arc<str>,
    /// When they arrived, microseconds since the Unix epoch.
    pub at_us: u64,
    /// When they were made, by their own timestamp.
    pub made_ms: u64,
    /// How many.
    pub readings: u64,
}

impl Arrival {
    /// When they arrived, milliseconds since the Unix epoch.
    #[must_use]
    pub const fn at_ms(&self) -> u64 {
        self.at_us / 1_000
    }

    /// How long they took, milliseconds.
    #[must_use]
    pub const fn behind_ms(&self) -> u64 {
        self.at_ms().saturating_sub(self.made_ms)
    }

    /// How long they took, microseconds. Their own timestamp is cut to the millisecond: half of one too much, on average.
    #[must_use]
    pub const fn behind_us(&self) -> u64 {
        self.at_us.saturating_sub(self.made_ms * 1_000)
    }
}

/// A subscriber with QoS 0 directly at the broker. Dropping it ends it.
#[derive(Debug)]
pub struct Punctuality {
    arrivals: watch::Receiver<Vec<Arrival>>,
    task: JoinHandle<()>,
}

/// One entry of ThingsBoard's telemetry, without looking at its values.
#[derive(Deserialize)]
struct Entry {
    ts: u64,
    values: BTreeMap<String, serde::de::IgnoredAny>,
}

impl Punctuality {
    /// Returns when the subscription stands.
    ///
    /// # Panics
    /// When it does not stand in time.
    pub async fn start(broker: SocketAddr) -> Self {
        let mut options = MqttOptions::new(
            "moorline-punctuality",
            (broker.ip().to_string(), broker.port()),
        );
        options
            .set_keep_alive(5)
            .set_incoming_packet_size_limit(IncomingPacketSizeLimit::Unlimited);
        let (client, events) = AsyncClient::builder(options).capacity(REQUESTS).build();
        let (recording, arrivals) = watch::channel(Vec::new());
        let (subscribing, subscribed) = watch::channel(false);
        let task = tokio::spawn(listen(client, events, recording, subscribing));
        eventually("the subscription stands", READY, || {
            subscribed.borrow().then_some(())
        })
        .await;
        Self { arrivals, task }
    }

    /// What arrived since `since_ms`, in the order of arrival.
    #[must_use]
    pub fn since(&self, since_ms: u64) -> Vec<Arrival> {
        let arrivals = self.arrivals.borrow();
        let first = arrivals.partition_point(|arrival| arrival.at_ms() < since_ms);
        arrivals[first..].to_vec()
    }
}

impl Drop for Punctuality {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(
    client: AsyncClient,
    mut events: EventLoop,
    recording: watch::Sender<Vec<Arrival>>,
    subscribing: watch::Sender<bool>,
) {
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                client.try_subscribe(TELEMETRY, QoS::AtMostOnce).unwrap();
            }
            Ok(Event::Incoming(Packet::SubAck(_))) => {
                subscribing.send_replace(true);
            }
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                let arrived = arrivals(&publish.payload, now_us());
                recording.send_modify(|known| known.extend(arrived));
            }
            Ok(_other) => {}
            Err(_not_connected) => tokio::time::sleep(RETRY).await,
        }
    }
}

fn arrivals(payload: &[u8], at_us: u64) -> Vec<Arrival> {
    let telemetry: BTreeMap<Arc<str>, Vec<Entry>> =
        serde_json::from_slice(payload).unwrap_or_default();
    let mut arrivals: Vec<Arrival> = Vec::new();
    for (device, entries) in telemetry {
        for entry in entries {
            let readings = entry.values.len() as u64;
            match arrivals.last_mut() {
                Some(last) if last.device == device && last.made_ms == entry.ts => {
                    last.readings += readings;
                }
                Some(_) | None => arrivals.push(Arrival {
                    device: Arc::clone(&device),
                    at_us,
                    made_ms: entry.ts,
                    readings,
                }),
            }
        }
    }
    arrivals
}
