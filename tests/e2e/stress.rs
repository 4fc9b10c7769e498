//! `moorline stress` against a broker that is well and against brokers that are not.

use std::path::Path;
use std::process::{Command, Output};

use moorline::demo::broker::Broker;
use moorline_tests::binary;
use moorline_tests::configuration::Configuration;
use moorline_tests::mosquitto;
use moorline_tests::rig::Rig;

/// With the broker directly: the campaign has a proxy of its own.
fn configured(rig: &Rig, lines: &str) -> std::path::PathBuf {
    let configuration = Configuration::new(&rig.state_dir(), rig.broker.address()).with(lines);
    let file = rig.path("gateway.toml");
    std::fs::write(&file, configuration.text()).unwrap();
    file
}

async fn stress(file: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command
        .args(["stress", "--config"])
        .arg(file)
        .args(arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_campaign_against_a_broker_that_is_well_passes_and_says_what_was_seen() {
    let Some(kind) = mosquitto() else { return };
    let rig = Rig::start(kind).await;
    let file = configured(&rig, "");
    let (markdown, json) = (rig.path("stress.md"), rig.path("stress.json"));
    let output = stress(
        &file,
        &[
            "--minutes",
            "1",
            "--rate",
            "500",
            "--fault",
            "reset",
            "--fault",
            "half-open-up",
            "--fault",
            "bandwidth",
            "--report",
            markdown.to_str().unwrap(),
            "--json",
            json.to_str().unwrap(),
        ],
    )
    .await;
    assert!(output.status.success(), "{output:?}");

    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let first = |fault: &str| {
        let trials = report["trials"].as_array().unwrap();
        trials
            .iter()
            .find(|trial| trial["fault"] == fault)
            .unwrap()
            .clone()
    };
    assert_eq!(first("reset")["causes"][0], "reset", "{report}");
    let half_open = first("half-open-up");
    assert_eq!(half_open["causes"][0], "pingresp-timeout", "{report}");
    assert!(half_open["detected_s"].as_f64().unwrap() < 10.0, "{report}");
    let narrow = first("bandwidth");
    assert_eq!(narrow["causes"].as_array().unwrap().len(), 0, "{report}");
    let balance = &report["balance"];
    assert!(balance["accepted"].as_u64().unwrap() > 10_000, "{report}");
    assert_eq!(balance["accepted"], balance["delivered"], "{report}");
    assert!(report["untried"].as_array().unwrap().is_empty(), "{report}");

    // What it says is what arrived.
    let totals = rig.audit.totals();
    let publishes = totals.borrow().publishes;
    assert!(publishes > 100, "{publishes}");

    let page = std::fs::read_to_string(markdown).unwrap();
    assert!(page.contains("# Stress campaign: passed"), "{page}");
    let left: Vec<_> = std::fs::read_dir(rig.state_dir())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name.to_string_lossy().starts_with("stress-"))
        .collect();
    assert!(left.is_empty(), "it cleans up after itself: {left:?}");
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_told_before_anything_is_broken() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("gateway.toml");
    let vacant = std::net::TcpListener::bind(("127.0.0.1", 0))
        .unwrap()
        .local_addr()
        .unwrap();
    let configuration = Configuration::new(&directory.path().join("state"), vacant);
    std::fs::write(&file, configuration.text()).unwrap();
    let output = stress(&file, &[]).await;
    assert_eq!(output.status.code(), Some(65), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("before anything was broken"), "{told}");
    assert!(told.contains("What to do"), "{told}");
}

#[tokio::test]
async fn a_broker_that_takes_no_reading_is_told_before_anything_is_broken() {
    let Some(kind) = mosquitto() else { return };
    let directory = tempfile::tempdir().unwrap();
    let rules = directory.path().join("acl");
    std::fs::write(&rules, "topic readwrite v1/gateway/rpc\n").unwrap();
    let lines = format!("acl_file {}", rules.display());
    let broker = Broker::start_with(kind, &directory.path().join("broker"), &lines)
        .await
        .unwrap();
    let configuration = Configuration::new(&directory.path().join("state"), broker.address());
    let file = directory.path().join("gateway.toml");
    std::fs::write(&file, configuration.text()).unwrap();
    let output = stress(&file, &["--minutes", "1"]).await;
    assert_eq!(output.status.code(), Some(65), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr);
    let expected = "takes no reading, before anything was broken: the broker refused it with 0x87";
    assert!(told.contains(expected), "{told}");
    assert!(told.contains("moorline doctor"), "{told}");
}

#[tokio::test]
async fn nobody_sends_test_readings_elsewhere_unasked() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("gateway.toml");
    let elsewhere = std::net::SocketAddr::from(([192, 0, 2, 1], 1883));
    let configuration = Configuration::new(&directory.path().join("state"), elsewhere);
    std::fs::write(&file, configuration.text()).unwrap();
    let output = stress(&file, &[]).await;
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("--yes"), "{told}");
}
