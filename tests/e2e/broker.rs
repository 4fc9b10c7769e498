//! The brokers of the demo keep what they acknowledged, or the audit tells that they did not.

use std::net::SocketAddr;
use std::time::Duration;

use moorline::demo::audit::{TELEMETRY_TOPIC, Totals};
use moorline::demo::broker::BrokerKind;
use moorline_tests::rig::Rig;
use moorline_tests::{binary, eventually, mosquitto, within};
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v5::Packet;
use rumqttc::{AsyncClient, Event, MqttOptions, PublishOptions};
use tokio::sync::watch;

/// Generous: this Mosquitto writes its whole store at each change, at about 500 publishes per second when it is alone.
const DEADLINE: Duration = Duration::from_secs(60);
const BEFORE_KILL: u64 = 500;
const PUBLISHES: u64 = 1_000;
const INFLIGHT: usize = 50;
/// How far the publisher may be ahead of the audit. A small segment takes more than 2 KiB of a receive buffer of 128 KiB;
/// what does not fit stays in Mosquitto's send buffer, which its death empties.
const AHEAD_MAX: u64 = 40;

/// A plain QoS 1 publisher: sends 1, 2, 3, … and sends again from the first that was not acknowledged.
async fn publish(
    broker: SocketAddr,
    mut arrived: watch::Receiver<Totals>,
    ahead_max: u64,
    first: u64,
    last: u64,
) -> u64 {
    let mut options = MqttOptions::new("publisher", (broker.ip().to_string(), broker.port()));
    options.set_keep_alive(5).set_clean_start(true);
    let (client, mut events) = AsyncClient::builder(options).capacity(INFLIGHT).build();
    let sender = tokio::spawn(async move {
        for serial in first..=last {
            let keeps_up = |totals: &Totals| serial <= totals.delivered.saturating_add(ahead_max);
            if arrived.wait_for(keeps_up).await.is_err() {
                return;
            }
            let payload = format!(r#"{{"d":[{{"ts":{serial},"values":{{"seq":{serial}}}}}]}}"#);
            let sent = client
                .publish(
                    TELEMETRY_TOPIC,
                    payload,
                    PublishOptions::new(QoS::AtLeastOnce),
                )
                .await;
            if sent.is_err() {
                return;
            }
        }
        std::future::pending::<()>().await;
    });
    let mut acknowledged = first - 1;
    while acknowledged < last {
        match events.poll().await {
            Ok(Event::Incoming(Packet::PubAck(_))) => acknowledged += 1,
            Ok(_other) => {}
            Err(_broker_is_dead) => break,
        }
    }
    sender.abort();
    acknowledged
}

/// `lossless`: the broker still has what it acknowledged before it was killed.
async fn survives_kill(kind: BrokerKind, lossless: bool) -> Rig {
    let mut rig = Rig::start(kind).await;
    let address = rig.proxy.address();
    let totals = rig.audit.totals();
    let arrived = totals.clone();
    // What a broker has lost never arrives: waiting for it would be in vain.
    let ahead_max = if lossless { AHEAD_MAX } else { u64::MAX };
    let publisher =
        tokio::spawn(
            async move { publish(address, arrived, ahead_max, 1, u64::from(u32::MAX)).await },
        );
    eventually("publishes arrive", DEADLINE, || {
        (totals.borrow().delivered > BEFORE_KILL).then_some(())
    })
    .await;
    rig.broker.kill().await.unwrap();
    let acknowledged = tokio::time::timeout(DEADLINE, publisher)
        .await
        .unwrap()
        .unwrap();
    rig.broker.resume().await.unwrap();
    rig.audit_subscribed().await;
    let before = totals.borrow().delivered;
    let last = acknowledged + PUBLISHES;
    let rest = async {
        let mut acknowledged = acknowledged;
        while acknowledged < last {
            acknowledged =
                publish(address, totals.clone(), ahead_max, acknowledged + 1, last).await;
        }
    };
    tokio::time::timeout(DEADLINE, rest)
        .await
        .expect("the broker is back");
    let awaited = if lossless { last } else { before + PUBLISHES };
    let arrived = within(DEADLINE, || {
        (totals.borrow().delivered >= awaited).then_some(())
    })
    .await;
    assert!(
        arrived.is_some(),
        "of {awaited} publishes that the broker acknowledged not all arrive: {:?}",
        rig.audit.balance().await
    );
    rig
}

#[tokio::test]
async fn mosquitto_loses_nothing_it_acknowledged_when_killed() {
    let Some(kind) = mosquitto() else { return };
    let rig = survives_kill(kind, true).await;
    let balance = rig.audit.balance().await;
    assert_eq!(
        (balance.missing, balance.missing_after_ack),
        (0, 0),
        "{balance:?}"
    );
}

#[tokio::test]
async fn losses_of_the_embedded_broker_are_told_apart() {
    let rig = survives_kill(BrokerKind::Embedded(binary().to_owned()), false).await;
    let balance = rig.audit.balance().await;
    assert_eq!(
        balance.missing, balance.missing_after_ack,
        "whatever is missing had its PUBACK: {balance:?}"
    );
}

#[tokio::test]
async fn the_embedded_broker_speaks_mqtt_3_1_1_too() {
    let rig = Rig::start(BrokerKind::Embedded(binary().to_owned())).await;
    let broker = rig.broker.address();
    let mut options = rumqttc_v4::MqttOptions::new("old", (broker.ip().to_string(), broker.port()));
    options.set_keep_alive(5);
    let (client, mut events) = rumqttc_v4::AsyncClient::builder(options)
        .capacity(INFLIGHT)
        .build();
    let payload = r#"{"d":[{"ts":1,"values":{"seq":1}}]}"#;
    let options = rumqttc_v4::PublishOptions::new(QoS::AtLeastOnce);
    client
        .publish(TELEMETRY_TOPIC, payload, options)
        .await
        .unwrap();
    let acknowledged = async {
        while !matches!(
            events.poll().await.unwrap(),
            rumqttc_v4::Event::Incoming(rumqttc_v4::Packet::PubAck(_))
        ) {}
    };
    tokio::time::timeout(DEADLINE, acknowledged).await.unwrap();
    let totals = rig.audit.totals();
    eventually("the audit sees it", DEADLINE, || {
        (totals.borrow().delivered == 1).then_some(())
    })
    .await;
}
