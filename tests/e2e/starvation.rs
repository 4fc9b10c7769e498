//! A machine that does not run the gateway: the record names it, and nothing else is blamed.

use std::time::Duration;

use moorline_tests::configuration::Configuration;
use moorline_tests::mosquitto;
use moorline_tests::plugins::{Guest, Place};
use moorline_tests::rig::{Rig, Running};
use rustix::process::{Pid, Signal, kill_process};

const BACK: Duration = Duration::from_secs(60);
const STOPPED: Duration = Duration::from_secs(20);
/// Readings that are on their way at any time while the link keeps up.
const ON_THEIR_WAY: u64 = 500;

async fn flowing(configuration: impl FnOnce(&Rig) -> Configuration) -> Option<(Rig, Running)> {
    let rig = Rig::start(mosquitto()?).await;
    let place = Place::stock(rig.path("simulated.wasm"), Guest::SIMULATED);
    let configuration =
        configuration(&rig).simulated("sim", place.path(), Some(rig.audit.witness()));
    let mut running = rig.gateway(&configuration);
    running.flows().await;
    Some((rig, running))
}

/// The gateway is stopped for [`STOPPED`], as by an overloaded machine or a debugger.
async fn stop_for_a_while(running: &Running) {
    let pid = i32::try_from(running.gateway.pid().unwrap()).unwrap();
    let pid = Pid::from_raw(pid).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    tokio::time::sleep(STOPPED).await;
    kill_process(pid, Signal::CONT).unwrap();
}

#[tokio::test]
async fn a_broker_that_gave_a_stopped_gateway_up_is_not_blamed() {
    // A keep-alive of 5 s: the broker closes after 7.5 s.
    let Some((rig, mut running)) = flowing(Rig::configuration).await else {
        return;
    };
    stop_for_a_while(&running).await;
    running
        .wait("the link is back", BACK, |now| {
            now.disconnects().len() > 0 && now.now.link.state == "up"
        })
        .await;
    let (history, balance) = rig.settle(running).await;
    let first = history.disconnects().next().unwrap();
    assert_eq!(
        (first.cause.as_str(), first.fault.as_str()),
        ("host-starved", "us"),
        "{}",
        first.text
    );
    let starved_ms = first.evidence.starved_ms.unwrap();
    assert!((18_000..22_000).contains(&starved_ms), "{}", first.text);
    assert_eq!(
        (balance.missing, balance.out_of_order),
        (0, 0),
        "{balance:?}"
    );
}

#[tokio::test]
async fn a_session_outlives_a_stop_that_the_broker_allows() {
    // A keep-alive of 30 s: to the broker nothing has happened. Every deadline of ours has passed.
    let as_shipped = |rig: &Rig| Configuration::as_shipped(&rig.state_dir(), rig.proxy.address());
    let Some((rig, mut running)) = flowing(as_shipped).await else {
        return;
    };
    stop_for_a_while(&running).await;
    // Ended in the moment in which it wakes, it leaves what it cannot send in time in its spool.
    let before = running.flows().await.now.spool.accepted_readings;
    running
        .wait("readings flow again", BACK, |now| {
            let spool = &now.now.spool;
            spool.accepted_readings > before && spool.depth_readings < ON_THEIR_WAY
        })
        .await;
    let (history, balance) = rig.settle(running).await;
    let causes: Vec<_> = history
        .disconnects()
        .map(|entry| entry.cause.as_str())
        .collect();
    assert_eq!(causes, ["local-shutdown"]);
    assert_eq!(history.sessions(), 1);
    assert_eq!(
        (balance.missing, balance.out_of_order),
        (0, 0),
        "{balance:?}"
    );
}
