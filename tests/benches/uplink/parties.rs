//! The two parties of the uplink benches: the client crate alone, and spool and link as the gateway runs them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use moorline::clock::Clock;
use moorline::link::{self, LinkSettings};
use moorline::policy_handle::PolicyHandle;
use moorline::spool::{self, AppendRefused, Appender, SpoolSettings};
use moorline_core::message::{
    DeviceName, DeviceReadings, Key, Quality, Reading, Sequence, Uplink, Value,
};
use moorline_core::thingsboard::{Encoder, Publish};
use moorline_core::time::TimestampMs;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v5::Packet;
use rumqttc::{AsyncClient, Event, MqttOptions, PublishOptions};
use rustix::time::{ClockId, clock_gettime};

/// Enough that the end of a round, when the spool's books are closed, does not count.
pub(crate) const MESSAGES: u64 = 60_000;
pub(crate) const READINGS_PER_BATCH: u64 = 32;
pub(crate) const INFLIGHT: u16 = 100;
/// The link writes up to so many publishes at once; what a client can be told, too, and does not do by itself.
pub(crate) const WRITE_BATCH: usize = 64;
/// rumqttd as the tests configure it closes on larger ones.
const PACKET_BYTES_MAX: usize = 16 * 1024;
/// Instances that emit side by side; each waits for the spool's answer before it emits again.
pub(crate) const FEW_CONNECTORS: u64 = 8;
/// As many as the bare client may have on their way.
pub(crate) const MANY_CONNECTORS: u64 = INFLIGHT as u64;
const TEXT_BYTES: usize = 64;
const NOW: TimestampMs = TimestampMs(1_700_000_000_000);

/// CPU time of this process so far, all threads.
pub(crate) fn cpu() -> Duration {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(spent.tv_sec).unwrap_or_default();
    Duration::from_secs(seconds)
        + Duration::from_nanos(u64::try_from(spent.tv_nsec).unwrap_or_default())
}

/// Messages per second of the client crate alone, which writes up to `write_batch` publishes at once; 0 is its default. They
/// are byte for byte those of [`gateway`].
pub(crate) async fn bare_client(broker: SocketAddr, write_batch: usize) -> f64 {
    let mut options = MqttOptions::new("bare", (broker.ip().to_string(), broker.port()));
    options
        .set_keep_alive(30)
        .set_max_request_batch(write_batch)
        .set_outgoing_inflight_upper_limit(INFLIGHT);
    let (client, mut events) = AsyncClient::builder(options)
        .capacity(INFLIGHT.into())
        .build();
    while !matches!(
        events.poll().await.expect("a broker"),
        Event::Incoming(Packet::ConnAck(_))
    ) {}
    let Publish { topic, payload, .. } = encoded(&message());
    let start = Instant::now();
    let sender = tokio::spawn(async move {
        for _ in 0..MESSAGES {
            let options = PublishOptions::new(QoS::AtLeastOnce);
            let sent = client.publish(topic, payload.clone(), options).await;
            sent.expect("a running client");
        }
        client
    });
    let mut acknowledged = 0;
    while acknowledged < MESSAGES {
        if let Event::Incoming(Packet::PubAck(_)) = events.poll().await.expect("a broker") {
            acknowledged += 1;
        }
    }
    let rate = MESSAGES as f64 / start.elapsed().as_secs_f64();
    drop(sender.await.expect("a sender"));
    rate
}

/// The publish that `uplink` becomes.
fn encoded(uplink: &Uplink) -> Publish {
    let mut encoder = Encoder::new(PACKET_BYTES_MAX);
    encoder.push(Sequence(1), uplink);
    encoder.finish().publishes.pop().expect("a publish")
}

/// Appends per second until all are acknowledged, through a fresh spool and link. What the link does once, before the first
/// message of its first session, is done by then: the bare client, too, is measured from its CONNACK on.
pub(crate) async fn gateway(
    broker: SocketAddr,
    state: &std::path::Path,
    uplink: &Uplink,
    connectors: u64,
) -> f64 {
    let settings = SpoolSettings::new(state.join("spool"));
    let (spool, appender, outlet, _) = spool::open(settings, Clock::start()).expect("a spool");
    let mut spooled = outlet.status();
    let mut settings = LinkSettings::new(
        broker.ip().to_string(),
        broker.port(),
        "moorline",
        state.to_owned(),
    );
    settings.inflight_max = INFLIGHT;
    settings.packet_bytes_max = PACKET_BYTES_MAX;
    let (policy, _nobody) = PolicyHandle::channel();
    let (door, _arrivals) = link::door();
    let network = moorline::network::unwatched();
    let link =
        link::spawn(settings, outlet, policy, door, network, Clock::start()).expect("a link");
    let mut status = link.status();
    status
        .wait_for(link::LinkStatus::is_up)
        .await
        .expect("a link");
    // The first session to a broker waits a moment for the platform's limits, and here is nobody to tell them.
    append(&appender, uplink).await;
    spooled
        .wait_for(|spool| spool.settled_records == 1)
        .await
        .expect("a spool");
    let start = Instant::now();
    let step = usize::try_from(connectors).expect("a few");
    let connectors = (0..connectors).map(|connector| {
        let (appender, uplink) = (appender.clone(), uplink.clone());
        tokio::spawn(async move {
            for _ in (connector..MESSAGES).step_by(step) {
                append(&appender, &uplink).await;
            }
        })
    });
    for connector in connectors.collect::<Vec<_>>() {
        connector.await.expect("a connector");
    }
    spooled
        .wait_for(|spool| spool.depth_records == 0)
        .await
        .expect("a spool");
    let rate = MESSAGES as f64 / start.elapsed().as_secs_f64();
    let (sessions, publishes) = {
        let status = link.status();
        let status = status.borrow();
        (status.sessions, status.delivered_publishes)
    };
    assert_eq!(sessions, 1, "one session carried all of it");
    assert!(publishes <= 1 + MESSAGES, "nothing was sent twice");
    link.stop(Duration::from_secs(1)).await;
    spool.close().await.expect("a clean end");
    rate
}

/// As an instance does: one at a time, again when the spool is behind.
async fn append(appender: &Appender, uplink: &Uplink) {
    loop {
        match appender.append(uplink.clone()).await {
            Ok(_sequence) => return,
            Err(AppendRefused::Behind { retry_after }) => tokio::time::sleep(retry_after).await,
            Err(refused) => panic!("{refused}"),
        }
    }
}

fn device() -> DeviceName {
    DeviceName::try_new("d").expect("a name")
}

/// Takes a publish of its own, on a topic to which nobody subscribes: a broker that led it back to us would be measured,
/// too, and that is no part of the way up.
pub(crate) fn message() -> Uplink {
    let values = vec![
        (Key::try_new("n").expect("a key"), Value::Integer(12_345)),
        (
            Key::try_new("t").expect("a key"),
            Value::Text("x".repeat(TEXT_BYTES)),
        ),
    ];
    Uplink::Gateway {
        timestamp: NOW,
        values,
    }
}

/// Shares a publish with its neighbours.
pub(crate) fn batch() -> Uplink {
    let reading = |index: u64| Reading {
        key: Key::try_new(&format!("key-{index}")).expect("a key"),
        value: Value::Double(index as f64),
        quality: Quality::Good,
        timestamp: NOW,
    };
    let readings = (0..READINGS_PER_BATCH).map(reading).collect();
    Uplink::Telemetry(vec![DeviceReadings {
        device: device(),
        readings,
    }])
}
