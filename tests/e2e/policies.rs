//! Policies that are wrong: the link paces itself all the same. And policies that ship, swapped while it runs.

use std::process::Command;
use std::time::Duration;

use moorline::demo::gateway::History;
use moorline::fault_proxy::{Mode, Strike};
use moorline_tests::configuration::RETRY_FLOOR_MS;
use moorline_tests::errors::Provoked;
use moorline_tests::plugins::{Guest, Place};
use moorline_tests::rig::{Rig, Running};
use moorline_tests::{binary, mosquitto};

const DEADLINE: Duration = Duration::from_secs(30);
const OUTAGE: Duration = Duration::from_secs(3);

/// Runs a gateway under `policy` through an outage; gives its history and how many attempts it made.
async fn outage_under(policy: Guest, provoked: Option<Provoked>) -> Option<(History, usize)> {
    let rig = Rig::start(mosquitto()?).await;
    let simulated = Place::stock(rig.path("simulated.wasm"), Guest::SIMULATED);
    let policy = Place::stock(rig.path("policy.wasm"), policy);
    let configuration =
        rig.configuration()
            .policy(policy.path())
            .simulated("sim", simulated.path(), None);
    let mut running = rig.gateway(&configuration);
    if let Some(provoked) = provoked {
        running.expect_error(provoked);
    }
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
    let Some((history, attempts)) = outage_under(Guest::POLICY_STORM, None).await else {
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
    let Some((history, attempts)) =
        outage_under(Guest::POLICY_TRAP, Some(Provoked::PolicyFailed)).await
    else {
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
    let Some((history, attempts)) =
        outage_under(Guest::POLICY_HANG, Some(Provoked::PolicyFailed)).await
    else {
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
    let Some((history, attempts)) = outage_under(Guest::FULL_JITTER, None).await else {
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

/// Each shipped policy takes over from the one before while readings flow, and then paces an outage.
#[tokio::test]
async fn every_shipped_policy_is_swapped_in_and_heard() {
    let Some(kind) = mosquitto() else { return };
    let rig = Rig::start(kind).await;
    let simulated = Place::stock(rig.path("simulated.wasm"), Guest::SIMULATED);
    let mut policy = Place::stock(rig.path("policy.wasm"), Guest::FULL_JITTER);
    let configuration = rig
        .configuration()
        .with("metered = true")
        .policy(policy.path())
        .simulated("sim", simulated.path(), None);
    let mut running = rig.gateway(&configuration);
    running.flows().await;
    let shipped = [
        (Guest::NETWORK_AWARE, "network-aware"),
        (Guest::MAINTENANCE_WINDOW, "maintenance-window"),
        (Guest::TAKEOVER_GUARD, "takeover-guard"),
    ];
    for (swap, (guest, name)) in (1..).zip(shipped) {
        policy.put(guest);
        running
            .wait(&format!("{name} serves"), DEADLINE, |now| {
                now.swaps().len() == swap && now.now.policy.plugin == name
            })
            .await;
    }
    assert_eq!(running.history().now.link.sessions, 1);
    refuse_for(&rig, &mut running).await;
    let (history, balance) = rig.settle(running).await;
    let swaps: Vec<_> = history.swaps().collect();
    assert!(
        swaps
            .iter()
            .all(|swap| swap.outcome == "swapped" && swap.new_sessions == 0),
        "{swaps:?}"
    );
    assert_eq!(history.now.link.policy_faults, 0, "{:?}", history.now.link);
    assert!(
        history
            .disconnects()
            .any(|entry| entry.decided_by == "policy")
    );
    assert_eq!(balance.missing, 0, "{balance:?}");
}

/// A week with one open minute: as good as never.
const PATIENT: &str = "[policy.config]\nmode = \"open\"\n[[policy.config.windows]]\ndays = [\"sun\"]\n\
     from = \"03:14\"\nto = \"03:15\"\n";

#[tokio::test]
async fn a_policy_lives_by_its_configuration_and_one_that_refuses_it_never_serves() {
    let Some(kind) = mosquitto() else { return };
    let rig = Rig::start(kind).await;
    let simulated = Place::stock(rig.path("simulated.wasm"), Guest::SIMULATED);
    let mut policy = Place::stock(rig.path("policy.wasm"), Guest::MAINTENANCE_WINDOW);
    let configuration = rig
        .configuration()
        .policy(policy.path())
        .with(PATIENT)
        .simulated("sim", simulated.path(), None);
    let mut running = rig.gateway(&configuration);
    running.flows().await;
    running
        .wait("the policy serves", DEADLINE, |now| {
            now.now.policy.plugin == "maintenance-window"
        })
        .await;
    // It takes no configuration.
    running.expect_error(Provoked::CandidateRefused);
    policy.put(Guest::TAKEOVER_GUARD);
    let history = running
        .wait("the swap is refused", DEADLINE, |now| {
            now.swaps().len() == 1
        })
        .await;
    let swap = history.swaps().next().unwrap();
    assert_eq!(swap.outcome, "refused");
    let reason = swap.reason.as_deref().unwrap();
    assert!(reason.contains("takes no configuration"), "{reason}");
    assert_eq!(history.now.policy.plugin, "maintenance-window");
    refuse_for(&rig, &mut running).await;
    let (history, _balance) = rig.settle(running).await;
    let mut refused = history
        .disconnects()
        .filter(|entry| entry.class == "connect-refused");
    // In no hurry: between half the ceiling of a second and the ceiling.
    assert!(
        refused.all(|entry| {
            entry.decided_by == "policy" && !entry.clamped && entry.retry_in_ms >= Some(500)
        }),
        "{:?}",
        history.now.link.disconnects
    );
}

#[test]
fn check_says_why_a_policy_refuses_its_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let policy = Place::stock(
        directory.path().join("policy.wasm"),
        Guest::MAINTENANCE_WINDOW,
    );
    let check = |config: &str| {
        let file = directory.path().join("gateway.toml");
        let text = format!(
            "[gateway]\nname = \"e2e\"\nstate_dir = \"state\"\n[link]\nurl = \"mqtt://127.0.0.1\"\n\
             [policy]\ncomponent = {:?}\n{config}",
            policy.path()
        );
        std::fs::write(&file, text).unwrap();
        let output = Command::new(binary())
            .args(["check", "--config"])
            .arg(file)
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    let (code, said) = check(PATIENT);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = check(&PATIENT.replace("03:15", "3:15"));
    assert_eq!(code, Some(78), "{said}");
    assert!(
        said.contains("policy: ") && said.contains("windows[0].to: \"3:15\" is not a time"),
        "{said}"
    );
}
