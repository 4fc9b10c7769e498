//! A plugin that traps again and again: after eight failures in a row nobody waits for it any more, its neighbour and the link
//! never notice, and a build that works closes the circuit.

use std::time::{Duration, Instant};

use moorline::demo::gateway::History;
use moorline::status::ConnectorEntry;
use moorline_tests::errors::Provoked;
use moorline_tests::mosquitto;
use moorline_tests::plugins::{Guest, Place};
use moorline_tests::rig::Rig;
use moorline_tests::subscriber::{Message, Subscriber};
use serde_json::{Value, json};

use super::hostile_guests::plugins;

/// Seven waits that double from a quarter of a second come to 32 seconds.
const OPENS_WITHIN: Duration = Duration::from_secs(90);
const DEADLINE: Duration = Duration::from_secs(30);
/// Less than any wait for the guest: it is tried again after five minutes.
const AT_ONCE: Duration = Duration::from_secs(10);
const NEIGHBOUR: &str = "good";

fn entry<'a>(history: &'a History, name: &str) -> Option<&'a ConnectorEntry> {
    let mut connectors = history.now.connectors.iter();
    connectors.find(|entry| entry.name == name)
}

async fn asked(platform: &Subscriber, id: u64) -> Value {
    let request =
        json!({ "device": "dev-line", "data": { "id": id, "method": "now", "params": null } });
    platform.publish("v1/gateway/rpc", &request).await;
    let answer = |message: &Message| {
        message.topic == "v1/gateway/rpc"
            && message.json()["id"] == id
            && !message.json()["data"].is_null()
            && message.json()["data"]["method"].is_null()
    };
    let answer = platform.first("the request is answered", DEADLINE, answer);
    answer.await.json()["data"].clone()
}

#[tokio::test]
async fn a_plugin_that_fails_again_and_again_is_waited_for_by_nobody_until_a_good_build_is_there() {
    let Some(kind) = mosquitto() else { return };
    let rig = Rig::start(kind).await;
    let platform = Subscriber::start(rig.broker.address(), "v1/gateway/#").await;
    let good = Place::stock(rig.path("good.wasm"), Guest::SIMULATED);
    let mut line = Place::stock(rig.path("line.wasm"), Guest::connector("timer:trap-3"));
    let lines = format!(
        "\n[[connector]]\nname = \"line\"\ncomponent = {:?}\n",
        line.path()
    );
    let configuration = rig
        .configuration()
        .simulated_at(NEIGHBOUR, good.path(), Some(rig.audit.witness()), 2, 200)
        .with(&lines);
    let mut running = rig.gateway(&configuration);
    running.expect_error(Provoked::PluginFailed);
    running.expect_error(Provoked::GuestPanicked);
    running.flows().await;
    let open = |now: &History| entry(now, "line").is_some_and(|line| line.state == "failed");
    let history = running.wait("the circuit opens", OPENS_WITHIN, open).await;
    let failed = entry(&history, "line").unwrap();
    assert_eq!((failed.traps, failed.restarts), (8, 7));
    let listed = plugins(&rig.path("gateway.toml"));
    let listed = &listed["plugins"];
    let of = |name: &str| {
        let mut all = listed.as_array().unwrap().iter();
        all.find(|plugin| plugin["name"] == name).unwrap()
    };
    assert_eq!(
        (&of("line")["state"], &of("line")["serving"]),
        (&json!("failed"), &json!(0))
    );
    let error = of("line")["error"].as_str().unwrap();
    assert!(error.starts_with("line: trapped"), "{error}");
    assert_eq!(of(NEIGHBOUR)["state"], "serving");
    let log = running.gateway.log().unwrap();
    assert!(log.contains("somebody says moorline plugin swap"), "{log}");

    let began = Instant::now();
    let refused = asked(&platform, 1).await;
    assert!(refused["error"].is_string(), "{refused}");
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    let before = entry(&running.history(), NEIGHBOUR).unwrap().readings;
    running
        .wait("the neighbour goes on", DEADLINE, |now| {
            entry(now, NEIGHBOUR).is_some_and(|good| good.readings > before + 200)
        })
        .await;
    assert_eq!(entry(&running.history(), "line").unwrap().traps, 8);

    line.put(Guest::connector(""));
    let before = entry(&running.history(), "line").unwrap().readings;
    running
        .wait("the good build serves", DEADLINE, |now| {
            entry(now, "line")
                .is_some_and(|line| line.state == "serving" && line.readings > before + 20)
        })
        .await;
    let answer = asked(&platform, 2).await;
    assert!(answer.is_number(), "{answer}");
    let (history, balance) = rig.settle(running).await;
    assert_eq!((balance.missing, balance.out_of_order), (0, 0));
    assert_eq!(history.sessions(), 1, "the link never noticed");
}
