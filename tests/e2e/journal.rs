//! After an outage: the platform is told, the journal remembers, `explain` explains, also when the gateway is gone. A
//! reload costs no session.

use std::process::Command;
use std::time::Duration;

use moorline::fault_proxy::Strike;
use moorline_tests::plugins::{Guest, Place};
use moorline_tests::rig::Rig;
use moorline_tests::subscriber::Subscriber;
use moorline_tests::{binary, mosquitto};

const DEADLINE: Duration = Duration::from_secs(30);

fn explained(rig: &Rig) -> serde_json::Value {
    let output = Command::new(binary())
        .args(["explain", "link", "--format", "json", "--state-dir"])
        .arg(rig.state_dir())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn an_outage_is_told_upstream_and_explained_by_the_next_process() {
    let Some(kind) = mosquitto() else { return };
    let rig = Rig::start(kind).await;
    let platform = Subscriber::start(rig.broker.address(), "v1/devices/me/telemetry").await;
    let place = Place::stock(rig.path("simulated.wasm"), Guest::SIMULATED);
    let configuration =
        rig.configuration()
            .simulated("sim", place.path(), Some(rig.audit.witness()));
    let mut running = rig.gateway(&configuration);
    running.flows().await;
    rig.proxy.strike(Strike::Reset).await.unwrap();
    running
        .wait("the link is back", DEADLINE, |now| {
            now.disconnects().len() == 1 && now.now.link.state == "up"
        })
        .await;

    let told = platform
        .first("the platform hears of it", DEADLINE, |_any| true)
        .await
        .json();
    assert_eq!(told["values"]["link_cause"], "reset", "{told}");
    assert_eq!(told["values"]["link_fault"], "network", "{told}");
    assert_eq!(told["values"]["link_attempts"], 1, "{told}");
    assert!(
        told["values"]["link_down_s"].as_f64().unwrap() > 0.0,
        "{told}"
    );
    assert!(told["ts"].is_u64(), "{told}");

    let page = explained(&rig);
    assert_eq!(
        (&page["running"], &page["link"]["state"]),
        (&true.into(), &"up".into())
    );

    running.gateway.kill().await.unwrap();
    running.gateway.resume().unwrap();
    running
        .wait("the link is up again", DEADLINE, |now| {
            now.processes() == 2 && now.now.link.state == "up"
        })
        .await;
    rig.settle(running).await;
    let page = explained(&rig);
    assert_eq!(page["running"], false);
    let causes: Vec<_> = page["transitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|transition| {
            transition["ended"]["cause"]
                .as_str()
                .unwrap_or("up")
                .to_owned()
        })
        .collect();
    assert_eq!(
        causes,
        [
            "up",
            "reset",
            "up",
            "host-restarted",
            "up",
            "local-shutdown"
        ],
        "{page}"
    );
    assert_eq!(
        page["transitions"][1]["ended"]["evidence"]["errno"], 104,
        "{page}"
    );
}

fn reloads(rig: &Rig) {
    let output = Command::new(binary())
        .args(["reload", "--config"])
        .arg(rig.path("gateway.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
async fn a_reload_costs_no_session() {
    let Some(kind) = mosquitto() else { return };
    let rig = Rig::start(kind.clone()).await;
    let place = Place::stock(rig.path("simulated.wasm"), Guest::SIMULATED);
    let configuration = |inflight_max: u32| {
        rig.configuration()
            .with(&format!("inflight_max = {inflight_max}"))
            .simulated("sim", place.path(), Some(rig.audit.witness()))
    };
    let mut running = rig.gateway(&configuration(50));
    running.flows().await;
    std::fs::write(rig.path("gateway.toml"), configuration(60).text()).unwrap();
    reloads(&rig);
    let told = |log: &str| log.contains("the link has new settings");
    running
        .wait("the new settings are taken", DEADLINE, |_now| {
            told(&std::fs::read_to_string(rig.path("gateway.log")).unwrap())
        })
        .await;
    std::fs::write(rig.path("gateway.toml"), "[gateway]\nname = 1\n").unwrap();
    let refused = Command::new(binary())
        .args(["reload", "--config"])
        .arg(rig.path("gateway.toml"))
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(78), "{refused:?}");
    let before = running.history().now.spool.delivered_readings;
    let history = running
        .wait("readings still flow", DEADLINE, |now| {
            now.now.spool.delivered_readings > before
        })
        .await;
    assert_eq!((history.sessions(), history.disconnects().len()), (1, 0));
    rig.settle(running).await;
}
