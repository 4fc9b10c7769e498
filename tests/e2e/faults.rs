//! Killed brokers, killed gateways, silent networks: nothing accepted is lost, and every cause is told.

use std::time::Duration;

use moorline::demo::audit::Balance;
use moorline::demo::gateway::History;
use moorline::fault_proxy::{Mode, Strike};
use moorline_tests::mosquitto;
use moorline_tests::plugins::{Guest, Place};
use moorline_tests::rig::{Rig, Running};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

const DEADLINE: Duration = Duration::from_secs(30);
const BLACK_HOLE: Duration = Duration::from_secs(15);
const OUTAGE: Duration = Duration::from_secs(3);

async fn flowing() -> Option<(Rig, Running)> {
    let rig = Rig::start(mosquitto()?).await;
    let place = Place::stock(rig.path("simulated.wasm"), Guest::SIMULATED);
    let configuration =
        rig.configuration()
            .simulated("sim", place.path(), Some(rig.audit.witness()));
    let mut running = rig.gateway(&configuration);
    running.flows().await;
    Some((rig, running))
}

async fn back_up(running: &mut Running, disconnects: usize) -> History {
    running
        .wait("the link is back", DEADLINE, |now| {
            now.disconnects().len() > disconnects && now.now.link.state == "up"
        })
        .await
}

fn assert_nothing_lost(history: &History, balance: &Balance) {
    assert_eq!(
        (
            balance.missing,
            balance.missing_after_ack,
            balance.out_of_order
        ),
        (0, 0, 0),
        "{balance:?}"
    );
    assert_eq!(
        balance.delivered, history.now.spool.accepted_readings,
        "{balance:?}"
    );
    assert_eq!(history.now.spool.evicted_readings, 0);
}

/// The classes of all disconnects, without the one that ends a gateway we asked to stop.
fn classes(history: &History) -> Vec<&str> {
    history
        .disconnects()
        .filter(|entry| entry.cause != "local-shutdown")
        .map(|entry| entry.class.as_str())
        .collect()
}

/// The gateway keeps accepting through an outage.
async fn accepts_meanwhile(running: &mut Running, outage: Duration) {
    let before = running.history().now.spool.accepted_readings;
    tokio::time::sleep(outage).await;
    running
        .wait("readings are accepted meanwhile", DEADLINE, |now| {
            now.now.spool.accepted_readings > before
        })
        .await;
}

#[tokio::test]
async fn a_killed_broker() {
    let Some((mut rig, mut running)) = flowing().await else {
        return;
    };
    rig.broker.kill().await.unwrap();
    rig.proxy.set(Mode::Refuse).await.unwrap();
    accepts_meanwhile(&mut running, OUTAGE).await;
    rig.broker.resume().await.unwrap();
    rig.audit_subscribed().await;
    rig.proxy.set(Mode::Pass).await.unwrap();
    back_up(&mut running, 0).await;
    let (history, balance) = rig.settle(running).await;
    let classes = classes(&history);
    assert!(
        ["reset", "closed-by-server"].contains(&classes[0]),
        "{classes:?}"
    );
    assert!(
        classes[1..].iter().all(|class| *class == "connect-refused"),
        "{classes:?}"
    );
    assert!(
        classes.len() > 1,
        "nobody listened for {OUTAGE:?}: {classes:?}"
    );
    assert_nothing_lost(&history, &balance);
}

#[tokio::test]
async fn a_silent_network_for_15_s() {
    let Some((rig, mut running)) = flowing().await else {
        return;
    };
    rig.proxy.set(Mode::BlackHole(None)).await.unwrap();
    accepts_meanwhile(&mut running, BLACK_HOLE).await;
    rig.proxy.set(Mode::Pass).await.unwrap();
    back_up(&mut running, 0).await;
    let (history, balance) = rig.settle(running).await;
    let classes = classes(&history);
    assert_eq!(classes[0], "pingresp-timeout", "{classes:?}");
    // When the hole ends, what the abandoned attempts had written arrives after all: an old CONNECT with our client id can
    // take over from the session that is just up, and this Mosquitto closes that without a word.
    let after = ["connack-timeout", "closed-by-server", "taken-over"];
    assert!(
        classes[1..].iter().all(|class| after.contains(class)),
        "{classes:?}"
    );
    assert!(
        classes
            .iter()
            .filter(|class| **class != "connack-timeout")
            .count()
            <= 3,
        "{classes:?}"
    );
    assert_nothing_lost(&history, &balance);
}

#[tokio::test]
async fn a_killed_gateway() {
    let Some((rig, mut running)) = flowing().await else {
        return;
    };
    for kill in 1..=3 {
        let before = running.history().now.spool.accepted_readings;
        running
            .wait("more is accepted", DEADLINE, |now| {
                now.now.spool.accepted_readings > before + 1_000
            })
            .await;
        running.gateway.kill().await.unwrap();
        running.gateway.resume().unwrap();
        running
            .wait("the new process is up", DEADLINE, |now| {
                now.processes() == kill + 1 && now.now.link.state == "up"
            })
            .await;
    }
    let (history, balance) = rig.settle(running).await;
    assert_eq!(classes(&history), ["host-restart"; 3]);
    assert_eq!(history.sessions(), 4);
    assert_nothing_lost(&history, &balance);
}

#[tokio::test]
async fn a_reset_a_close_and_a_cut_packet() {
    let Some((rig, mut running)) = flowing().await else {
        return;
    };
    let strikes = [
        (Strike::Reset, "reset"),
        (Strike::Close, "closed-by-server"),
        (Strike::CutMidPacket, "reset"),
    ];
    for (disconnects, (strike, _class)) in strikes.iter().enumerate() {
        rig.proxy.strike(*strike).await.unwrap();
        back_up(&mut running, disconnects).await;
    }
    let (history, balance) = rig.settle(running).await;
    assert_eq!(classes(&history), strikes.map(|(_strike, class)| class));
    assert_nothing_lost(&history, &balance);
}

#[tokio::test]
async fn a_gateway_without_descriptors_blames_its_own_machine_and_comes_back() {
    let Some((rig, mut running)) = flowing().await else {
        return;
    };
    let pid = i32::try_from(running.gateway.pid().unwrap()).unwrap();
    let pid = Pid::from_raw(pid);
    // What is open stays open, and nothing more can be opened.
    let (soft, hard) = (Some(3), getrlimit(Resource::Nofile).maximum);
    let none_left = Rlimit {
        current: soft,
        maximum: hard,
    };
    let before = prlimit(pid, Resource::Nofile, none_left).unwrap();
    rig.proxy.strike(Strike::Reset).await.unwrap();
    tokio::time::sleep(OUTAGE).await;
    prlimit(pid, Resource::Nofile, before).unwrap();
    back_up(&mut running, 1).await;
    let (history, balance) = rig.settle(running).await;
    let told = history
        .disconnects()
        .find(|entry| entry.cause == "local-resource")
        .unwrap_or_else(|| panic!("{history:?}"));
    assert_eq!(
        (told.fault.as_str(), told.evidence.errno),
        ("us", Some(24)),
        "{}",
        told.text
    );
    assert_nothing_lost(&history, &balance);
}
