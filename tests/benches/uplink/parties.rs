//! The two parties of the uplink benches: the client crate alone, and spool and link as the gateway runs them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use moorline::clock::Clock;
use moorline::link::{self, LinkSettings};
use moorline::policy_handle::PolicyHandle;
use moorline::spool::{self, AppendRefused, Appender, SpoolSettings};
use moorline_core::message::{DeviceName, DeviceReadings, Key, Quality, Reading, Uplink, Value};
use moorline_core::time::TimestampMs;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v5::Packet;
use rumqttc::{AsyncClient, Event, MqttOptions, PublishOptions};

pub(crate) const MESSAGES: u64 = 20_000;
pub(crate) const READINGS_PER_BATCH: u64 = 32;
pub(crate) const INFLIGHT: u16 = 100;
/// rumqttd as the tests configure it closes on larger ones.
const PACKET_BYTES_MAX: usize = 16 * 1024;
/// Instances that emit side by side; each waits for the spool's answer before it emits again.
const CONNECTORS: u64 = 8;
const TEXT_BYTES: usize = 64;

/// CPU time of this process so far, all threads, in hundredths of a second as the kernel counts them.
pub(crate) fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(") ").map_or("", |(_name, fields)| fields);
    let ticks: u64 = fields
        .split(' ')
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Duration::from_millis(10 * ticks)
}

/// Messages per second of the client crate alone.
pub(crate) async fn bare_client(broker: SocketAddr) -> f64 {
    let mut options = MqttOptions::new("bare", (broker.ip().to_string(), broker.port()));
    options
        .set_keep_alive(30)
        .set_outgoing_inflight_upper_limit(INFLIGHT);
    let (client, mut events) = AsyncClient::builder(options)
        .capacity(INFLIGHT.into())
        .build();
    while !matches!(
        events.poll().await.expect("a broker"),
        Event::Incoming(Packet::ConnAck(_))
    ) {}
    let payload = format!(r#"{{"d":{{"n":12345,"t":"{}"}}}}"#, "x".repeat(TEXT_BYTES));
    let start = Instant::now();
    let sender = tokio::spawn(async move {
        for _ in 0..MESSAGES {
            let options = PublishOptions::new(QoS::AtLeastOnce);
            let sent = client
                .publish("v1/gateway/attributes", payload.clone(), options)
                .await;
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

/// Appends per second until all are acknowledged, through a fresh spool and link.
pub(crate) async fn gateway(
    broker: SocketAddr,
    state: &std::path::Path,
    uplink: fn(u64) -> Uplink,
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
    let start = Instant::now();
    let connectors = (0..CONNECTORS).map(|connector| {
        let appender = appender.clone();
        tokio::spawn(async move {
            for number in (connector..MESSAGES).step_by(CONNECTORS as usize) {
                append(&appender, uplink(number)).await;
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
    assert_eq!(
        link.status().borrow().sessions,
        1,
        "one session carried all of it"
    );
    link.stop(Duration::from_secs(1)).await;
    spool.close().await.expect("a clean end");
    rate
}

/// As an instance does: one at a time, again when the spool is behind.
async fn append(appender: &Appender, uplink: Uplink) {
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

/// Takes a publish of its own.
pub(crate) fn message(number: u64) -> Uplink {
    let values = vec![
        (
            Key::try_new("n").expect("a key"),
            Value::Integer(i64::try_from(number).expect("small")),
        ),
        (
            Key::try_new("t").expect("a key"),
            Value::Text("x".repeat(TEXT_BYTES)),
        ),
    ];
    Uplink::Attributes {
        device: device(),
        values,
    }
}

/// Shares a publish with its neighbours.
pub(crate) fn batch(number: u64) -> Uplink {
    let reading = |index: u64| Reading {
        key: Key::try_new(&format!("key-{index}")).expect("a key"),
        value: Value::Double(index as f64),
        quality: Quality::Good,
        timestamp: TimestampMs(1_700_000_000_000 + number),
    };
    let readings = (0..READINGS_PER_BATCH).map(reading).collect();
    Uplink::Telemetry(vec![DeviceReadings {
        device: device(),
        readings,
    }])
}
