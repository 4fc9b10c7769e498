//! Bad configuration and absent peers: a clear message or a clean wait.

use std::process::{Command, Output};
use std::time::Duration;

use moorline::demo::broker::Broker;
use moorline_tests::configuration::Configuration;
use moorline_tests::errors::Provoked;
use moorline_tests::plugins::{Guest, Place};
use moorline_tests::rig::{Rig, Running};
use moorline_tests::{binary, mosquitto};

const DEADLINE: Duration = Duration::from_secs(30);

fn vacant() -> std::net::SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

/// Runs `moorline COMMAND --config FILE`, which must end by itself.
fn moorline(command: &str, text: &str) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("gateway.toml");
    std::fs::write(&file, text).unwrap();
    Command::new(binary())
        .args([command, "--config"])
        .arg(file)
        .output()
        .unwrap()
}

#[track_caller]
fn assert_refused(text: &str, words: &[&str]) {
    for command in ["check", "run"] {
        let output = moorline(command, text);
        let said = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success(), "{command} takes it: {said}");
        assert!(!said.contains("panicked"), "{command}: {said}");
        for word in words {
            assert!(
                said.contains(word),
                "{command} does not say {word:?}: {said}"
            );
        }
    }
}

fn minimal() -> Configuration {
    Configuration::new(
        &std::env::temp_dir().join("moorline-e2e-never-used"),
        vacant(),
    )
}

#[test]
fn a_typo_is_refused_with_file_line_and_field() {
    let text = minimal().with("keep_alife_s = 5");
    assert_refused(text.text(), &["gateway.toml", "keep_alife_s"]);
}

#[test]
fn a_wrong_type_is_refused_with_file_line_and_field() {
    let text = minimal()
        .text()
        .replace("keep_alive_s = 5", "keep_alive_s = \"often\"");
    assert_refused(&text, &["gateway.toml:7", "keep_alive_s"]);
}

#[test]
fn a_missing_configuration_is_named() {
    let output = Command::new(binary())
        .args(["run", "--config", "/nowhere/gateway.toml"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("/nowhere/gateway.toml") && !said.contains("panicked"),
        "{said}"
    );
}

#[test]
fn a_missing_secret_file_is_named() {
    let text = minimal().with("password = \"file:/nowhere/secret\"");
    assert_refused(text.text(), &["/nowhere/secret"]);
}

#[test]
fn check_says_what_a_connector_refuses_and_in_which_line() {
    let directory = tempfile::tempdir().unwrap();
    let place = Place::stock(directory.path().join("modbus.wasm"), Guest::MODBUS);
    let head = format!(
        "[gateway]\nname = \"e2e\"\nstate_dir = {:?}\n[link]\nurl = \"mqtt://127.0.0.1\"\n\
         [[connector]]\nname = \"line\"\ncomponent = {:?}\n[connector.config]\n",
        directory.path().join("state"),
        place.path()
    );
    let device = "devices = [{ name = \"a\", points = [{ key = \"t\", address = 1 }] }]\n";
    // Nothing listens there: that is no fault of the file.
    let connection = "[[connector.connection]]\nname = \"plc\"\nstream = \"tcp://127.0.0.1:9\"\n";
    let check = |text: &str| {
        let output = moorline("check", &format!("{head}{text}"));
        let said = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), said)
    };
    let (code, said) = check(&format!("{device}{connection}"));
    assert_eq!(code, Some(0), "{said}");
    for (text, words) in [
        (
            format!("{device}poll_ms = \"1000\"\n{connection}"),
            "gateway.toml:11: connector \"line\": connection \"plc\": config: the plugin refuses this configuration: \
             line/plc: poll_ms: invalid type: string \"1000\"",
        ),
        (
            format!("{device}{connection}[connector.connection.config]\npol_ms = 1\n"),
            "gateway.toml:15: connector \"line\": connection \"plc\": config: ",
        ),
        (
            device.to_owned(),
            "gateway.toml:9: connector \"line\": config: the plugin refuses this configuration: give the connector one \
             [[connector.connection]]",
        ),
    ] {
        let (code, said) = check(&text);
        assert_eq!(code, Some(78), "{said}");
        assert!(
            said.contains(words) && said.contains("1 finding"),
            "{words}: {said}"
        );
    }
    assert!(!directory.path().join("state").exists());
}

#[tokio::test]
async fn an_unknown_plugin_stops_nobody_else() {
    let Some(kind) = mosquitto() else { return };
    let rig = Rig::start(kind).await;
    let place = Place::stock(rig.path("simulated.wasm"), Guest::SIMULATED);
    let absent = rig.path("absent.wasm");
    let configuration = rig
        .configuration()
        .simulated("lost", &absent, None)
        .simulated("sim", place.path(), Some(rig.audit.witness()));
    let mut running = rig.gateway(&configuration);
    running.expect_error(Provoked::PluginMissing);
    running.flows().await;
    let named = |history: &moorline::demo::gateway::History| {
        history
            .now
            .connectors
            .iter()
            .any(|entry| entry.name == "lost" && entry.error.is_some())
    };
    running
        .wait("the missing plugin is named", DEADLINE, named)
        .await;
    // It comes up when the file appears.
    let _there_now = Place::stock(absent, Guest::SIMULATED);
    let reads = |history: &moorline::demo::gateway::History| {
        history
            .now
            .connectors
            .iter()
            .any(|entry| entry.name == "lost" && entry.readings > 0)
    };
    running.wait("the late plugin reads", DEADLINE, reads).await;
    let (_history, balance) = rig.settle(running).await;
    assert_eq!(balance.missing, 0, "{balance:?}");
}

#[tokio::test]
async fn bad_credentials_are_told_and_mended_by_a_reload_at_once() {
    let Some(kind) = mosquitto() else { return };
    let directory = tempfile::tempdir().unwrap();
    let passwords = directory.path().join("passwords");
    let made = Command::new("mosquitto_passwd")
        .args(["-b", "-c"])
        .arg(&passwords)
        .args(["somebody", "sesame"])
        .status()
        .unwrap();
    assert!(made.success());
    let extra = format!(
        "password_file {}\nallow_anonymous false",
        passwords.display()
    );
    let broker = Broker::start_with(kind, &directory.path().join("broker"), &extra)
        .await
        .unwrap();
    let place = Place::stock(directory.path().join("simulated.wasm"), Guest::SIMULATED);
    let state_dir = directory.path().join("state");
    // A refused password is tried again at the ceiling: an hour here, which no test waits for.
    let configuration = |password: &str| {
        Configuration::new(&state_dir, broker.address())
            .replaced("retry_ceiling_s = 1\n", "retry_ceiling_s = 3600\n")
            .with(&format!(
                "username = \"somebody\"\npassword = \"{password}\""
            ))
            .simulated("sim", place.path(), None)
    };
    let mut running = Running::start(directory.path(), &state_dir, &configuration("wrong"));
    let history = running
        .wait(
            "the refusal is told while readings are kept",
            DEADLINE,
            |now| now.disconnects().len() > 0 && now.now.spool.accepted_readings > 1_000,
        )
        .await;
    let first = history.disconnects().next().unwrap();
    assert_eq!(
        (first.class.as_str(), first.fault.as_str()),
        ("credentials-refused", "operator"),
        "{first:?}"
    );
    assert_eq!(history.sessions(), 0);
    let file = directory.path().join("gateway.toml");
    std::fs::write(&file, configuration("sesame").text()).unwrap();
    let output = Command::new(binary())
        .args(["reload", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    running.flows().await;
    let log = running.gateway.log().unwrap();
    assert!(
        !log.contains("wrong") && !log.contains("sesame"),
        "no password is in the log"
    );
}

#[tokio::test]
async fn a_broker_absent_at_start_is_waited_for() {
    let Some(kind) = mosquitto() else { return };
    let mut rig = Rig::start(kind).await;
    rig.broker.kill().await.unwrap();
    rig.proxy
        .set(moorline::fault_proxy::Mode::Refuse)
        .await
        .unwrap();
    let place = Place::stock(rig.path("simulated.wasm"), Guest::SIMULATED);
    let configuration =
        rig.configuration()
            .simulated("sim", place.path(), Some(rig.audit.witness()));
    let mut running = rig.gateway(&configuration);
    let waits = |now: &moorline::demo::gateway::History| {
        now.disconnects().len() > 1 && now.now.spool.accepted_readings > 1_000
    };
    let history = running
        .wait("readings are kept while nobody listens", DEADLINE, waits)
        .await;
    assert!(
        history
            .disconnects()
            .all(|entry| entry.class == "connect-refused")
    );
    rig.broker.resume().await.unwrap();
    rig.audit_subscribed().await;
    rig.proxy
        .set(moorline::fault_proxy::Mode::Pass)
        .await
        .unwrap();
    running.flows().await;
    let (history, balance) = rig.settle(running).await;
    assert_eq!(balance.missing, 0, "{balance:?}");
    assert_eq!(balance.delivered, history.now.spool.accepted_readings);
}
