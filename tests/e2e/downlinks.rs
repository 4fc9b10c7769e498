//! What the platform says is kept until it is handled: over kill -9, and over a time without a link.

use std::time::{Duration, Instant};

use moorline::demo::gateway::History;
use moorline_tests::configuration::Configuration;
use moorline_tests::mosquitto;
use moorline_tests::plugins::{Guest, Place};
use moorline_tests::rig::{Rig, Running};
use moorline_tests::subscriber::{Message, Subscriber};
use serde_json::json;

const DEADLINE: Duration = Duration::from_secs(30);
const RPC_EXPIRY: Duration = Duration::from_secs(1);
const DEVICE: &str = "dev-line";

struct Bench {
    rig: Rig,
    platform: Subscriber,
    place: Place,
    configuration: Configuration,
}

/// `lines` belong to `[link]`.
async fn bench(guest: Guest, lines: &str) -> Option<Bench> {
    let rig = Rig::start(mosquitto()?).await;
    let platform = Subscriber::start(rig.broker.address(), "v1/gateway/#").await;
    let place = Place::stock(rig.path("line.wasm"), guest);
    let expiry_s = RPC_EXPIRY.as_secs();
    // A guest may stay away for as long as the test needs to kill it.
    let configuration = rig.configuration().with(lines).with(&format!(
        "\n[downlink]\nrpc_expiry_s = {expiry_s}\n\n[[connector]]\nname = \"line\"\ncomponent = {:?}\n\
         call_deadline_ms = 60000\n",
        place.path()
    ));
    Some(Bench {
        rig,
        platform,
        place,
        configuration,
    })
}

impl Bench {
    async fn up(&self) -> Running {
        let mut running = self.rig.gateway(&self.configuration);
        let pid = running.gateway.pid();
        // The broker answers a publish after the subscriptions that went before it. A killed process left a status, too.
        let answered = |now: &History| Some(now.now.pid) == pid && now.now.link.answer_ms.is_some();
        running
            .wait("the link is up and answered", DEADLINE, answered)
            .await;
        running
    }

    async fn tell(&self, value: u64) {
        let update = json!({ "device": DEVICE, "data": { "limit": value } });
        self.platform
            .publish("v1/gateway/attributes", &update)
            .await;
    }

    async fn ask(&self, id: u64) {
        let request =
            json!({ "device": DEVICE, "data": { "id": id, "method": "now", "params": null } });
        self.platform.publish("v1/gateway/rpc", &request).await;
    }

    /// Waits until the connector has said that it was told this.
    async fn echoed(&self, value: u64) {
        let told = |message: &Message| {
            let json = message.json();
            let entries = json[DEVICE].as_array().cloned().unwrap_or_default();
            entries
                .iter()
                .any(|entry| entry["values"]["told-limit"] == value)
        };
        self.platform
            .first("the update is handled", DEADLINE, told)
            .await;
    }

    fn answered(&self, id: u64) -> bool {
        let messages = self.platform.on("v1/gateway/rpc");
        messages.iter().any(|message| message.json()["id"] == id)
    }
}

async fn kept(running: &mut Running, messages: u64) {
    let waits = |now: &History| now.now.inbox.waiting == messages;
    running
        .wait("the message is in the inbox", DEADLINE, waits)
        .await;
}

/// The broker forgets a killed client here: only the gateway itself can still have the update.
#[tokio::test]
async fn an_update_survives_a_kill_between_its_acknowledgement_and_its_handling() {
    let Some(mut bench) = bench(Guest::CONNECTOR_LOST, "").await else {
        return;
    };
    let mut running = bench.up().await;
    bench.tell(7).await;
    kept(&mut running, 1).await;
    running.gateway.kill().await.unwrap();
    bench.place.put(Guest::CONNECTOR_ECHO);
    let mut running = bench.up().await;
    bench.echoed(7).await;
    kept(&mut running, 0).await;
}

#[tokio::test]
async fn a_request_of_long_ago_is_not_carried_out_and_a_new_one_is() {
    let Some(mut bench) = bench(Guest::CONNECTOR_LOST, "").await else {
        return;
    };
    let mut running = bench.up().await;
    bench.ask(1).await;
    kept(&mut running, 1).await;
    let asked = Instant::now();
    running.gateway.kill().await.unwrap();
    tokio::time::sleep(RPC_EXPIRY.saturating_sub(asked.elapsed()) + Duration::from_millis(100))
        .await;
    bench.place.put(Guest::CONNECTOR_ECHO);
    let mut running = bench.up().await;
    let told = |now: &History| now.now.inbox.rpcs_expired == 1 && now.now.inbox.waiting == 0;
    running
        .wait("the old request is dropped and counted", DEADLINE, told)
        .await;
    assert!(
        running
            .gateway
            .log()
            .unwrap()
            .contains("a request was not carried out")
    );
    bench.ask(2).await;
    let second = |message: &Message| message.json()["id"] == 2;
    bench
        .platform
        .first("the new request is answered", DEADLINE, second)
        .await;
    assert!(!bench.answered(1));
}

#[tokio::test]
async fn a_kept_session_brings_what_was_said_meanwhile() {
    let Some(bench) = bench(Guest::CONNECTOR_ECHO, "session_expiry_s = 600").await else {
        return;
    };
    let running = bench.up().await;
    assert_eq!(running.history().now.link.session_kept, Some(false));
    let (status, _) = { running }.gateway.stop(DEADLINE).await.unwrap();
    assert!(status.success());
    bench.tell(8).await;
    let running = bench.up().await;
    bench.echoed(8).await;
    assert_eq!(running.history().now.link.session_kept, Some(true));
}

#[tokio::test]
async fn a_session_that_starts_clean_hears_what_is_said_from_then_on() {
    let Some(bench) = bench(Guest::CONNECTOR_ECHO, "").await else {
        return;
    };
    let mut running = bench.up().await;
    running.gateway.kill().await.unwrap();
    bench.tell(8).await;
    let mut running = bench.up().await;
    assert_eq!(running.history().now.link.session_kept, None);
    bench.tell(9).await;
    bench.echoed(9).await;
    let arrived = |now: &History| now.now.inbox.arrived == 1 && now.now.inbox.waiting == 0;
    running
        .wait("only the second update came", DEADLINE, arrived)
        .await;
}
