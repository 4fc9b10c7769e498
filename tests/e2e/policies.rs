//! Policies that are wrong: the link paces itself all the same.

use std::time::Duration;

use moorline::demo::gateway::History;
use moorline::fault_proxy::{Mode, Strike};
use moorline_tests::configuration::RETRY_FLOOR_MS;
use moorline_tests::mosquitto;
use moorline_tests::plugins::{Guest, Place};
use moorline_tests::rig::{Rig, Running};

const DEADLINE: Duration = Duration::from_secs(30);
const OUTAGE: Duration = Duration::from_secs(3);

/// Runs a gateway under `policy` through an outage; gives its history and how many attempts it made.
async fn outage_under(policy: Guest) -> Option<(History, usize)> {
    let rig = Rig::start(mosquitto()?).await;
    let simulated = Place::stock(rig.path("simulated.wasm"), Guest::SIMULATED);
    let policy = Place::stock(rig.path("policy.wasm"), policy);
    let configuration =
        rig.configuration()
            .policy(policy.path())
            .simulated("sim", simulated.path(), None);
    let mut running = rig.gateway(&configuration);
    running.flows().await;
    let attempts = refuse_for(&rig, &mut running).await;
    let (history, balance) = rig.settle(running).await;
    assert_eq!(balance.missing, 0, "{balance:?}");
    Some((history, attempts))
}

async fn refuse_for(rig: &Rig, running: &mut Running) -> usize {
    rig.proxy.set(Mode::Refuse).await.unwrap();
    rig.proxy.strike(Strike::Reset).await.unwrap();
    tokio::time::sleep(OUTAGE).await;
    let attempts = running
        .history()
        .disconnects()
        .filter(|entry| entry.class == "connect-refused")
        .count();
    rig.proxy.set(Mode::Pass).await.unwrap();
    running
        .wait("the link is back", DEADLINE, |now| {
            now.now.link.sessions == 2 && now.now.link.state == "up"
        })
        .await;
    attempts
}

fn attempts_max() -> usize {
    usize::try_from(OUTAGE.as_millis()).unwrap() / usize::try_from(RETRY_FLOOR_MS).unwrap() + 1
}

#[tokio::test]
async fn a_storm_is_clamped_to_the_floor() {
    let Some((history, attempts)) = outage_under(Guest::POLICY_STORM).await else {
        return;
    };
    assert!(
        attempts <= attempts_max(),
        "{attempts} attempts in {OUTAGE:?}"
    );
    assert!(attempts > 1, "it does retry");
    assert!(
        history.now.link.policy_clamped as usize >= attempts,
        "{} clamped",
        history.now.link.policy_clamped
    );
    let refused = history
        .disconnects()
        .filter(|entry| entry.class == "connect-refused");
    assert!(
        refused
            .into_iter()
            .all(|entry| entry.clamped && entry.retry_in_ms >= Some(RETRY_FLOOR_MS))
    );
}

#[tokio::test]
async fn a_policy_that_traps_is_replaced_by_the_built_in() {
    let Some((history, attempts)) = outage_under(Guest::POLICY_TRAP).await else {
        return;
    };
    assert!(
        attempts <= attempts_max() && history.now.link.policy_faults > 0,
        "{:?}",
        history.now.link
    );
    assert!(
        history
            .disconnects()
            .all(|entry| entry.decided_by != "policy"),
        "it never answered"
    );
}

#[tokio::test]
async fn a_policy_that_never_answers_is_replaced_by_the_built_in() {
    let Some((history, attempts)) = outage_under(Guest::POLICY_HANG).await else {
        return;
    };
    assert!(
        attempts <= attempts_max() && history.now.link.policy_faults > 0,
        "{:?}",
        history.now.link
    );
    assert!(
        history
            .disconnects()
            .all(|entry| entry.decided_by != "policy"),
        "it never answered"
    );
}

#[tokio::test]
async fn a_good_policy_is_heard() {
    let Some((history, attempts)) = outage_under(Guest::FULL_JITTER).await else {
        return;
    };
    assert!(attempts <= attempts_max());
    assert_eq!(history.now.link.policy_faults, 0, "{:?}", history.now.link);
    assert!(
        history
            .disconnects()
            .any(|entry| entry.decided_by == "policy")
    );
}
