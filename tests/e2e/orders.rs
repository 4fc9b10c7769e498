//! `moorline plugin swap|rollback|ls|history` against a gateway that runs, and one that does not.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use moorline_tests::errors::Provoked;
use moorline_tests::plugins::{Guest, Place};
use moorline_tests::rig::Rig;
use moorline_tests::{binary, eventually, mosquitto};
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(30);
const GRACE: Duration = Duration::from_secs(30);
const DATA: i32 = 65;

struct Desk<'a> {
    config: &'a Path,
}

impl Desk<'_> {
    async fn output(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary());
        command.arg("plugin").args(arguments);
        command.arg("--config").arg(self.config);
        tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap()
    }

    /// What it says as JSON, and its exit code.
    async fn json(&self, arguments: &[&str]) -> (Value, Option<i32>) {
        let arguments = [arguments, &["--format", "json"]].concat();
        let output = self.output(&arguments).await;
        let json = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{arguments:?}: {output:?}"));
        (json, output.status.code())
    }

    /// What it says to people, and its exit code.
    async fn human(&self, arguments: &[&str]) -> (String, Option<i32>) {
        let output = self.output(arguments).await;
        let text = [output.stdout, output.stderr].concat();
        (String::from_utf8(text).unwrap(), output.status.code())
    }
}

fn build(guest: Guest, number: u64) -> Vec<u8> {
    let mut bytes = guest.bytes();
    moorline::demo::mark(&mut bytes, number);
    bytes
}

#[tokio::test]
async fn an_operator_swaps_goes_back_and_looks_at_the_history() {
    let Some(kind) = mosquitto() else { return };
    let rig = Rig::start(kind).await;
    let place = Place::stock(rig.path("sim.wasm"), Guest::SIMULATED);
    let policy = Place::stock(rig.path("policy.wasm"), Guest::FULL_JITTER);
    let configuration = rig
        .configuration()
        .policy(policy.path())
        .with("\n[probation]\ncalls = 1\nduration_s = 1\n")
        .simulated("sim", place.path(), Some(rig.audit.witness()));
    let mut running = rig.gateway(&configuration);
    running.expect_error(Provoked::CandidateRefused);
    running.expect_error(Provoked::PluginFailed);
    running.expect_error(Provoked::GuestPanicked);
    running.flows().await;
    let config = running.gateway.configuration().to_owned();
    let desk = Desk { config: &config };
    let elsewhere = rig.path("elsewhere.wasm");
    let serving = there_and_back(&desk, &place, &elsewhere).await;
    the_policy_and_a_stranger(&desk, &elsewhere).await;

    let (listed, _) = desk.json(&["ls"]).await;
    assert_eq!(listed["running"], true);
    assert_eq!(listed["plugins"][0]["name"], "sim");
    assert_eq!(listed["plugins"][0]["digest"], serving);
    assert_eq!(listed["plugins"][1]["kind"], "reconnect-policy");
    let (history, balance) = {
        running
            .wait("readings flow", DEADLINE, |now| {
                now.now.spool.accepted_readings > 0
            })
            .await;
        rig.settle(running).await
    };
    assert_eq!((balance.missing, history.sessions()), (0, 1), "{balance:?}");
    of_a_stopped_gateway(&desk, &serving).await;

    // The next process goes on with the same history.
    let mut again = rig.gateway(&configuration);
    again.flows().await;
    eventually("the new process is in the history", DEADLINE, || {
        let output = Command::new(binary())
            .args(["plugin", "history", "sim", "--format", "json", "--config"])
            .arg(&config)
            .output()
            .unwrap();
        let page: Value = serde_json::from_slice(&output.stdout).unwrap();
        (page["history"].as_array().unwrap().len() == 9).then_some(())
    })
    .await;
    let (status, _) = again.gateway.stop(GRACE).await.unwrap();
    assert!(status.success());
}

/// Swaps good and bad builds in from `elsewhere`, goes back, and says what serves in the end.
async fn there_and_back(desk: &Desk<'_>, place: &Place, elsewhere: &Path) -> Value {
    let file = elsewhere.to_str().unwrap();
    let first = std::fs::read(place.path()).unwrap();

    // A good build, from elsewhere.
    let second = build(Guest::SIMULATED, 1_002);
    std::fs::write(elsewhere, &second).unwrap();
    let (swap, code) = desk
        .json(&["swap", "sim", "--file", file, "--proved"])
        .await;
    assert_eq!(
        (swap["outcome"].as_str(), code),
        (Some("proved"), Some(0)),
        "{swap}"
    );
    assert_eq!(swap["end"]["from_generation"], 1, "{swap}");
    assert_eq!(std::fs::read(place.path()).unwrap(), second);

    // A bad one: the file is put back.
    std::fs::write(elsewhere, build(Guest::CONNECTOR_TRAP, 1_003)).unwrap();
    let (said, code) = desk
        .human(&["swap", "sim", "--file", file, "--proved"])
        .await;
    assert_eq!(code, Some(DATA), "{said}");
    assert!(
        said.contains("was rolled back") && said.contains("probation: trapped"),
        "{said}"
    );
    assert_eq!(std::fs::read(place.path()).unwrap(), second);
    // Nobody waits for the probation: the gateway itself puts the file back.
    std::fs::write(elsewhere, build(Guest::CONNECTOR_TRAP, 1_005)).unwrap();
    let (said, code) = desk.human(&["swap", "sim", "--file", file]).await;
    assert_eq!(code, Some(0), "{said}");
    eventually("the good build is back in its place", DEADLINE, || {
        (std::fs::read(place.path()).unwrap() == second).then_some(())
    })
    .await;
    // After a failure on probation only the next swap leaves something to go back to.
    let (said, code) = desk.human(&["rollback", "sim"]).await;
    assert_eq!(code, Some(DATA), "{said}");
    assert!(said.contains("no generation to go back to"), "{said}");

    std::fs::write(elsewhere, &first).unwrap();
    let (swap, code) = desk
        .json(&["swap", "sim", "--file", file, "--proved"])
        .await;
    assert_eq!(
        (swap["outcome"].as_str(), code),
        (Some("proved"), Some(0)),
        "{swap}"
    );
    // There and back: what serves afterwards is in the file, too.
    let (swap, code) = desk.json(&["rollback", "sim"]).await;
    assert_eq!(
        (swap["outcome"].as_str(), code),
        (Some("swapped"), Some(0)),
        "{swap}"
    );
    assert_eq!(std::fs::read(place.path()).unwrap(), second);
    swap["end"]["digest"].clone()
}

async fn the_policy_and_a_stranger(desk: &Desk<'_>, elsewhere: &Path) {
    let file = elsewhere.to_str().unwrap();
    // A policy is a plugin, too.
    std::fs::write(elsewhere, build(Guest::NETWORK_AWARE, 1_004)).unwrap();
    let (said, code) = desk.human(&["swap", "policy", "--file", file]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("network-aware"), "{said}");
    let (said, code) = desk.human(&["swap", "press"]).await;
    assert_eq!(code, Some(DATA), "{said}");
    assert!(
        said.contains("there is no plugin \"press\"; there are sim, policy"),
        "{said}"
    );
}

async fn of_a_stopped_gateway(desk: &Desk<'_>, serving: &Value) {
    let (listed, code) = desk.json(&["ls"]).await;
    assert_eq!((&listed["running"], code), (&Value::Bool(false), Some(0)));
    assert_eq!(&listed["plugins"][0]["digest"], serving, "{listed}");
    assert_eq!(listed["plugins"][0]["state"], "stopped");
    assert_eq!(listed["plugins"][0]["plugin"], "simulated");
    let (said, code) = desk.human(&["swap", "sim"]).await;
    assert_eq!(code, Some(DATA), "{said}");
    assert!(said.contains("no gateway runs here"), "{said}");

    let (page, _) = desk.json(&["history", "sim"]).await;
    let outcomes: Vec<_> = page["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["outcome"].as_str().unwrap())
        .collect();
    assert_eq!(
        outcomes,
        [
            "loaded",
            "swapped",
            "swapped",
            "rolled-back",
            "swapped",
            "rolled-back",
            "swapped",
            "swapped"
        ]
    );
    let (said, _) = desk.human(&["history", "--last", "100"]).await;
    assert!(
        said.contains("probation: trapped") && said.contains("network-aware"),
        "{said}"
    );
}
