//! `moorline audit` as a subscriber beside the platform: it finds nothing where nothing is missing, also across the death of
//! the broker, and names a hole that somebody made.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use moorline_tests::plugins::{Guest, Place};
use moorline_tests::rig::Rig;
use moorline_tests::subscriber::Subscriber;
use moorline_tests::{binary, mosquitto};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

const GRACE: Duration = Duration::from_secs(30);
const DEADLINE: Duration = Duration::from_secs(60);

async fn audit(arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.arg("audit").args(arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

fn read(report: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap()
}

#[tokio::test]
async fn a_run_with_a_killed_broker_has_nothing_missing_and_disturbs_nobody() {
    let Some(kind) = mosquitto() else { return };
    let mut rig = Rig::start(kind).await;
    let place = Place::stock(rig.path("simulated.wasm"), Guest::SIMULATED);
    let configuration = rig.configuration().simulated("sim", place.path(), None);
    let mut running = rig.gateway(&configuration);
    running.flows().await;
    let config = running.gateway.configuration().to_owned();
    let config = config.to_str().unwrap().to_owned();
    let sessions = running.history().sessions();
    let auditing =
        tokio::spawn(
            async move { audit(&["--config", &config, "--seconds", "15", "--json"]).await },
        );
    // Once the audit's subscription stands for sure: it must be there before the broker dies.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(running.history().sessions(), sessions, "not taken over");
    rig.broker.kill().await.unwrap();
    rig.broker.resume().await.unwrap();
    let output = tokio::time::timeout(DEADLINE, auditing)
        .await
        .unwrap()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert_eq!(report["complete"], true, "{report:#}");
    assert_eq!(report["missing"], 0, "{report:#}");
    assert_eq!(report["devices"], 10, "{report:#}");
    assert!(report["delivered"].as_u64().unwrap() > 5_000, "{report:#}");
    assert_eq!(report["connection"]["sessions_forgotten"], 0, "{report:#}");
    assert!(report["connection"]["subscribed"].as_u64().unwrap() >= 2);
    assert!(report["latency"]["p99_ms"].is_u64(), "{report:#}");
    let (status, _) = running.gateway.stop(GRACE).await.unwrap();
    assert!(status.success());
}

fn counted(serial: u64) -> Value {
    json!({"press-1": [{"ts": 1_700_000_000_000_u64 + serial, "values": {"n": serial, "t": 1.5}}]})
}

#[tokio::test]
async fn a_hole_made_by_hand_is_found_and_named() {
    let Some(kind) = mosquitto() else { return };
    let rig = Rig::start(kind).await;
    let platform = Subscriber::start(rig.broker.address(), "v1/gateway/#").await;
    let report = rig.path("audit.json");
    let mut child = tokio::process::Command::new(binary())
        .arg("audit")
        .arg(format!("mqtt://{}", rig.broker.address()))
        .args(["--key", "n", "--device", "press-*", "--until-idle-s", "3"])
        .arg("--report")
        .arg(&report)
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = Vec::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        let stands = line.ends_with("subscribed");
        said.push(line);
        if stands {
            break;
        }
    }
    for serial in [7, 8, 8, 12, 10] {
        platform
            .publish("v1/gateway/telemetry", &counted(serial))
            .await;
    }
    let other = json!({"oven-1": [{"ts": 1, "values": {"n": 1}}, {"ts": 2, "values": {"n": 9}}]});
    platform.publish("v1/gateway/telemetry", &other).await;
    while let Some(line) = lines.next_line().await.unwrap() {
        said.push(line);
    }
    let status = child.wait().await.unwrap();
    let said = said.join("\n");
    assert_eq!(status.code(), Some(65), "{said}");
    assert!(said.contains("MISSING 2: 9, 11"), "{said}");
    assert!(said.contains("2 readings are missing"), "{said}");
    let report = read(&report);
    let press = &report["by_device"][0];
    assert_eq!(report["devices"], 1, "the oven is none of our business");
    assert_eq!(
        press["holes"],
        json!([{"first": 9, "last": 9}, {"first": 11, "last": 11}])
    );
    assert_eq!((&press["first"], &press["newest"]), (&json!(7), &json!(12)));
    assert_eq!(press["duplicates"], 1);
    assert_eq!(press["out_of_order"], 1);
}

#[tokio::test]
async fn nothing_proves_nothing_and_a_broker_that_is_not_there_is_said() {
    let Some(kind) = mosquitto() else { return };
    let rig = Rig::start(kind).await;
    let url = format!("mqtt://{}", rig.broker.address());
    let output = audit(&[&url, "--until-idle-s", "1"]).await;
    assert_eq!(output.status.code(), Some(65), "{output:?}");
    let output = audit(&["mqtt://127.0.0.1:1", "--seconds", "2"]).await;
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("refused"), "{said}");
}
