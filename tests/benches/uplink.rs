//! Spool, link and Mosquitto, end to end at QoS 1, against the bare client without any store in the same run.
//!
//! Rounds alternate, so that both meet the same machine; the ratio is that of the medians.

#![expect(clippy::print_stdout, reason = "the table is the result")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use moorline::clock::Clock;
use moorline::demo::broker::Broker;
use moorline::link::{self, LinkSettings};
use moorline::policy_handle::PolicyHandle;
use moorline::spool::{self, AppendRefused, Appender, SpoolSettings};
use moorline_core::message::{DeviceName, DeviceReadings, Key, Quality, Reading, Uplink, Value};
use moorline_core::time::TimestampMs;
use moorline_tests::mosquitto;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v5::Packet;
use rumqttc::{AsyncClient, Event, MqttOptions, PublishOptions};

const ROUNDS: usize = 5;
const MESSAGES: u64 = 20_000;
const READINGS_PER_BATCH: u64 = 32;
const INFLIGHT: u16 = 100;
/// Instances that emit side by side; each waits for the spool's answer before it emits again.
const CONNECTORS: u64 = 8;
const TEXT_BYTES: usize = 64;

#[tokio::main]
async fn main() {
    let Some(kind) = mosquitto() else { return };
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    // As it comes: the tests' broker puts every change on disk, to survive its own kill -9.
    let broker = Broker::start_with(kind, &directory.path().join("broker"), "persistence false")
        .await
        .expect("Mosquitto");
    let (mut bare, mut moorline, mut readings) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        bare.push(bare_client(broker.address()).await);
        let state = directory.path().join(format!("messages-{round}"));
        moorline.push(gateway(broker.address(), &state, message).await);
        let state = directory.path().join(format!("readings-{round}"));
        let batches = gateway(broker.address(), &state, batch).await;
        readings.push(batches * READINGS_PER_BATCH as f64);
    }
    let (bare, moorline, readings) = (median(bare), median(moorline), median(readings));
    println!(
        "QoS 1 to Mosquitto, {MESSAGES} messages a round, median of {ROUNDS} rounds, {INFLIGHT} in flight"
    );
    println!("bare client, no store            {bare:>10.0} messages/s");
    println!(
        "spool and link                   {moorline:>10.0} messages/s   ratio {:.2}",
        moorline / bare
    );
    println!("spool and link, batches of {READINGS_PER_BATCH}     {readings:>10.0} readings/s");
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// Messages per second of the client crate alone.
async fn bare_client(broker: SocketAddr) -> f64 {
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
async fn gateway(broker: SocketAddr, state: &std::path::Path, uplink: fn(u64) -> Uplink) -> f64 {
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
fn message(number: u64) -> Uplink {
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
fn batch(number: u64) -> Uplink {
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
