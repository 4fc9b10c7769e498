//! Two gateways with one client id, each as its own process: the takeover duel, with a broker that says what happened and
//! with one that only closes.
//!
//! That there are at most three exchanges in ten minutes is proven on virtual time (`core::link::tests::duel`); here the
//! first half minute must look like it, with real brokers.

use std::process::Command;
use std::time::Duration;

use moorline::demo::broker::BrokerKind;
use moorline::demo::gateway::History;
use moorline_tests::configuration::Configuration;
use moorline_tests::plugins::{Guest, Place};
use moorline_tests::rig::{Rig, Running};
use moorline_tests::subscriber::Subscriber;
use moorline_tests::{binary, mosquitto};

const DEADLINE: Duration = Duration::from_secs(30);
/// No wait of a duel is shorter than a minute.
const HOLD: Duration = Duration::from_secs(30);
/// The name the harness gives, and with it the client id.
const CLIENT_ID: &str = "e2e";

struct Duel {
    rig: Rig,
    plugin: Place,
}

impl Duel {
    async fn start(kind: BrokerKind) -> Self {
        let rig = Rig::start(kind).await;
        let plugin = Place::stock(rig.path("simulated.wasm"), Guest::SIMULATED);
        Self { rig, plugin }
    }

    /// A gateway of its own state and with everybody's id, at the pace of a gateway as it is installed.
    fn gateway(&self, name: &str, link: &str) -> Running {
        let directory = self.rig.path(name);
        let state_dir = directory.join("state");
        std::fs::create_dir_all(&directory).unwrap();
        let configuration = Configuration::new(&state_dir, self.rig.broker.address())
            .replaced("stable_after_s = 2\n", "")
            .replaced("retry_floor_ms = 100\n", "")
            .replaced("retry_ceiling_s = 1\n", "")
            .with(link)
            .simulated(name, self.plugin.path(), None);
        Running::start(&directory, &state_dir, &configuration)
    }
}

/// Sessions beyond the very first: each took the id from the other.
fn exchanges(a: &Running, b: &Running) -> u64 {
    a.history().now.link.sessions + b.history().now.link.sessions - 1
}

fn alarm(history: &History, certainty: &str) -> bool {
    history.now.alarms.iter().any(|alarm| {
        alarm.name == "duplicate-client-id"
            && alarm.certainty == certainty
            && alarm.client_id == CLIENT_ID
    })
}

/// The alarm, and the end of a session that it is raised for: the two may be told one after the other.
fn concluded(history: &History, certainty: &str, cause: &str) -> bool {
    let told = history.disconnects().next_back();
    alarm(history, certainty) && told.is_some_and(|told| told.cause == cause)
}

/// Lines of the log that raise the alarm.
fn raised(running: &Running) -> usize {
    let log = running.gateway.log().unwrap();
    log.lines()
        .filter(|line| line.contains("WARN") && line.contains("find the other client"))
        .filter(|line| line.contains(CLIENT_ID))
        .count()
}

/// The broker closes and says nothing. Three exchanges within seconds show what it is; then it is calm.
async fn silent(link: &str) {
    let Some(kind) = mosquitto() else { return };
    let duel = Duel::start(kind).await;
    let mut a = duel.gateway("a", link);
    a.flows().await;
    let mut b = duel.gateway("b", link);
    b.wait("the second takes the id", DEADLINE, |now| {
        now.now.link.sessions > 0
    })
    .await;
    let history = a
        .wait("the first concludes", DEADLINE, |now| {
            concluded(now, "inferred", "closed-by-server-takeover-or-access")
        })
        .await;
    let last = history.disconnects().next_back().unwrap().clone();
    assert_eq!(last.evidence.client_id.as_deref(), Some(CLIENT_ID));
    assert!(last.retry_in_ms >= Some(600_000), "{last:?}");
    tokio::time::sleep(HOLD).await;
    let count = exchanges(&a, &b);
    assert!((1..=3).contains(&count), "{count} exchanges");
    assert_eq!(b.history().now.link.state, "up", "one of the two serves");
    assert_eq!(raised(&a), 1, "{}", a.log_tail());
}

#[tokio::test]
async fn mosquitto_closes_without_a_word_and_three_exchanges_are_enough() {
    silent("mqtt_version = \"5\"").await;
}

#[tokio::test]
async fn with_3_1_1_no_broker_can_say_it_and_three_exchanges_are_enough() {
    silent("mqtt_version = \"3.1.1\"").await;
}

/// The broker says 0x8E: one exchange, and the next is a minute away.
#[tokio::test]
async fn a_broker_that_says_taken_over_is_believed_at_once() {
    let duel = Duel::start(BrokerKind::Embedded(binary().to_owned())).await;
    let platform = Subscriber::start(duel.rig.broker.address(), "v1/devices/me/telemetry").await;
    let mut a = duel.gateway("a", "");
    a.flows().await;
    let b = duel.gateway("b", "");
    let history = a
        .wait("the first is told", DEADLINE, |now| {
            concluded(now, "certain", "taken-over")
        })
        .await;
    let last = history.disconnects().next_back().unwrap().clone();
    assert_eq!(last.evidence.reason_code, Some(0x8e));
    assert!(last.retry_in_ms >= Some(60_000), "{last:?}");
    tokio::time::sleep(HOLD).await;
    assert_eq!(exchanges(&a, &b), 1);
    assert_eq!(raised(&a), 1, "{}", a.log_tail());

    // An operator cuts the wait short: the platform hears of it, by name.
    let reload = Command::new(binary())
        .args(["reload", "--config"])
        .arg(a.gateway.configuration())
        .output()
        .unwrap();
    assert!(reload.status.success(), "{reload:?}");
    let told = platform
        .first("the platform hears of it", DEADLINE, |message| {
            message.json()["values"]["link_cause"] == "taken-over"
        })
        .await
        .json();
    assert_eq!(
        told["values"]["link_duplicate_client_id"], CLIENT_ID,
        "{told}"
    );
    a.wait("the alarm is over", DEADLINE, |now| {
        now.now.alarms.is_empty()
    })
    .await;
}
