//! The link against brokers that people run. Each is first asked on the bare wire what it sends when it ends a session;
//! then the gateway must tell exactly that.

mod table;
mod wire;

use std::time::Duration;

use moorline::demo::gateway::History;
use moorline::status::DisconnectEntry;
use moorline_tests::binary;
use moorline_tests::brokers::{Level, Make, RealBroker};
use moorline_tests::configuration::Configuration;
use moorline_tests::plugins::{Guest, Place};
use moorline_tests::rig::Running;
use tempfile::TempDir;

use table::{Observed, Scene};
use wire::{RawClient, Said};

const DEADLINE: Duration = Duration::from_secs(30);
const GRACE: Duration = Duration::from_secs(30);
const CLIENT_ID: &str = "line-7";

/// Asks every broker on the bare wire, and holds the documented table against it.
#[tokio::test]
async fn what_each_broker_really_sends_is_in_the_documents() {
    let mut asking = tokio::task::JoinSet::new();
    for make in Make::ALL {
        asking.spawn(table::ask(make));
    }
    let mut rows: Vec<_> = asking
        .join_all()
        .await
        .into_iter()
        .flatten()
        .flatten()
        .collect();
    rows.sort();
    table::hold_against_documents(&rows);
}

#[tokio::test]
async fn mosquitto() {
    tell_the_truth(Make::Mosquitto, Level::Five).await;
}

#[tokio::test]
async fn mqtt5() {
    tell_the_truth(Make::Mqtt5, Level::Five).await;
}

#[tokio::test]
async fn rumqttd() {
    tell_the_truth(Make::Rumqttd, Level::Five).await;
}

/// Its port for 3.1.1 closes on a CONNECT of 5.0 without a word.
#[tokio::test]
async fn rumqttd_3_1_1() {
    tell_the_truth(Make::Rumqttd, Level::Four).await;
}

#[tokio::test]
async fn aedes() {
    tell_the_truth(Make::Aedes, Level::Four).await;
}

#[tokio::test]
async fn amqtt() {
    tell_the_truth(Make::Amqtt, Level::Four).await;
}

/// A gateway on a real broker.
struct Stand {
    broker: RealBroker,
    level: Level,
    running: Running,
    directory: TempDir,
}

impl Stand {
    async fn start(make: Make, level: Level) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let broker = RealBroker::start(make, &directory.path().join("broker")).await?;
        let place = Place::stock(directory.path().join("simulated.wasm"), Guest::SIMULATED);
        let state = directory.path().join("state");
        let configuration = Configuration::new(&state, broker.address(level))
            .with(&format!("client_id = \"{CLIENT_ID}\""))
            .simulated("sim", place.path(), None);
        let running = Running::start(directory.path(), &state, &configuration);
        Some(Self {
            broker,
            level,
            running,
            directory,
        })
    }

    /// The disconnects so far.
    fn told(&self) -> usize {
        self.running.history().disconnects().len()
    }

    /// The first disconnect after the `before` that were told already.
    async fn next(&mut self, what: &str, before: usize) -> DisconnectEntry {
        let history = self
            .running
            .wait(what, DEADLINE, |now| now.disconnects().len() > before)
            .await;
        history.disconnects().nth(before).unwrap().clone()
    }

    /// Waits until a session newer than `sessions` is up and delivers.
    async fn back(&mut self, sessions: u64) -> History {
        let before = self.running.history().now.spool.delivered_readings;
        self.running
            .wait("the link is back and delivers", DEADLINE, |now| {
                now.now.link.state == "up"
                    && now.sessions() > sessions
                    && now.now.spool.delivered_readings > before
            })
            .await
    }

    /// Somebody else connects with our client id. Returns whether the broker did anything about it.
    async fn taken_over(&mut self) -> Option<DisconnectEntry> {
        let before = self.told();
        let mut rival =
            RawClient::connect(self.broker.address(self.level), self.level, CLIENT_ID, 60)
                .await
                .unwrap();
        rival.hear_connack().await;
        let scene = self.scene(Scene::Takeover).await;
        if scene == [Said::Nothing] {
            // It lets both live: our session goes on.
            let history = self.running.history();
            let delivered = history.now.spool.delivered_readings;
            self.running
                .wait("readings are delivered beside the rival", DEADLINE, |now| {
                    now.now.spool.delivered_readings > delivered
                })
                .await;
            assert_eq!(self.told(), before, "{:?}", self.running.history());
            return None;
        }
        let told = self.next("the takeover is told", before).await;
        told_as_said(Scene::Takeover, &scene, &told);
        drop(rival);
        self.reload();
        Some(told)
    }

    /// What the same broker says to a bare client in this scene.
    async fn scene(&self, scene: Scene) -> Vec<Said> {
        table::play_on(&self.broker, self.level, scene).await
    }

    /// Cuts a wait short, as an operator does.
    fn reload(&self) {
        let output = std::process::Command::new(binary())
            .args(["reload", "--config"])
            .arg(self.directory.path().join("gateway.toml"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

/// rumqttd as it comes takes 20 KiB and tells nobody; a gateway as it ships fills 64 KiB from what an outage has left.
#[tokio::test]
async fn one_that_closes_on_large_packets_without_a_word_gets_smaller_ones() {
    const TAKES: u64 = 20_480;
    let Some(mut stand) = Stand::start(Make::Rumqttd, Level::Five).await else {
        return;
    };
    stand.running.flows().await;
    stand.broker.kill().await;
    let kept = |now: &History| now.now.spool.depth_readings > 4_000;
    stand
        .running
        .wait("several full publishes wait", DEADLINE, kept)
        .await;
    stand.broker.resume().await;
    let history = stand
        .running
        .wait("all of it is taken", DEADLINE, |now| {
            now.now.link.state == "up" && now.now.spool.depth_readings < 2_000
        })
        .await;
    let told: Vec<_> = history
        .disconnects()
        .filter_map(|entry| Some((entry.publish_bytes_max?, entry)))
        .collect();
    let Some((learnt, last)) = told.last() else {
        panic!("nothing was learnt: {history:?}")
    };
    assert!((TAKES / 4..=TAKES).contains(learnt), "{}", last.text);
    assert_eq!(history.now.link.publish_bytes_max, Some(*learnt));
    assert!(last.advice.contains("link.packet_bytes_max"), "{last:?}");
    assert!(told.len() <= 3, "{told:?}");
    let explained = std::process::Command::new(binary())
        .args(["explain", "link", "--config"])
        .arg(stand.directory.path().join("gateway.toml"))
        .output()
        .unwrap();
    let said = String::from_utf8(explained.stdout).unwrap();
    let words = format!("publishes have at most {learnt} bytes");
    assert!(said.contains(&words), "{said}");
    let (status, history) = stand.running.gateway.stop(GRACE).await.unwrap();
    assert!(status.success(), "{status}: {}", stand.running.log_tail());
    let spool = &history.now.spool;
    assert_eq!(
        (
            spool.accepted_readings,
            spool.evicted_readings,
            spool.dead_lettered_readings
        ),
        (spool.delivered_readings + spool.depth_readings, 0, 0),
        "{spool:?}"
    );
}

/// Flow, takeover, SIGTERM, kill: each end is told as the broker said it, and everything accepted is delivered.
async fn tell_the_truth(make: Make, level: Level) {
    let Some(mut stand) = Stand::start(make, level).await else {
        return;
    };
    let history = stand.running.flows().await;
    assert_eq!(history.now.link.mqtt_version, level.name());
    if make.levels().contains(&Level::Five) && make != Make::Rumqttd {
        assert_eq!(history.disconnects().len(), 0, "{history:?}");
    } else if level == Level::Four {
        fell_back(&history);
    }

    let sessions = stand.running.history().sessions();
    if stand.taken_over().await.is_some() {
        stand.back(sessions).await;
    }

    let before = stand.told();
    let sessions = stand.running.history().sessions();
    stand.broker.terminate().await;
    let told = stand.next("the end of the broker is told", before).await;
    let said = table::play_end(make, level).await.unwrap();
    told_as_said(Scene::Terminated, &said, &told);
    stand.broker.resume().await;
    stand.back(sessions).await;

    let before = stand.told();
    let sessions = stand.running.history().sessions();
    stand.broker.kill().await;
    let told = stand.next("the death of the broker is told", before).await;
    assert!(
        ["closed-by-server", "reset"].contains(&told.class.as_str()),
        "{told:?}"
    );
    stand.broker.resume().await;
    stand.back(sessions).await;

    stand
        .running
        .wait("the spool is nearly empty", DEADLINE, |now| {
            now.now.spool.depth_readings < 5_000
        })
        .await;
    let (status, history) = stand.running.gateway.stop(GRACE).await.unwrap();
    assert!(status.success(), "{status}: {}", stand.running.log_tail());
    let spool = &history.now.spool;
    assert_eq!(
        (
            spool.accepted_readings,
            spool.evicted_readings,
            spool.dead_lettered_readings
        ),
        (spool.delivered_readings + spool.depth_readings, 0, 0),
        "{spool:?}"
    );
    assert!(
        history.disconnects().all(|entry| !entry.advice.is_empty()),
        "each disconnect says what to do"
    );
}

/// A broker that speaks 3.1.1 only was offered 5.0 first.
fn fell_back(history: &History) {
    let told: Vec<_> = history.disconnects().collect();
    let classes: Vec<_> = told.iter().map(|entry| entry.class.as_str()).collect();
    let refused = classes == ["version-refused"];
    let silent = classes.len() == 3
        && classes
            .iter()
            .all(|class| ["closed-before-connack", "connack-timeout"].contains(class));
    assert!(refused || silent, "{classes:?}");
    assert!(told.iter().all(|entry| entry.mqtt_version == "5.0"));
}

/// The gateway's record says what the bare wire said.
fn told_as_said(scene: Scene, said: &[Said], told: &DisconnectEntry) {
    let observed = Observed(said.to_vec());
    let expected: &[&str] = match said.iter().find(|said| **said != Said::Fin) {
        Some(Said::Disconnect(0x8e)) => &["taken-over"],
        Some(Said::Disconnect(0x8b)) => &["server-shutting-down"],
        // Bytes of ours that the broker had not read make its kernel send RST instead of FIN.
        Some(Said::Reset) | None => &[
            "closed-by-server",
            "closed-by-server-takeover-or-access",
            "reset",
        ],
        Some(other) => panic!("{scene:?}: no cause is known for {other:?} in {observed}"),
    };
    assert!(
        expected.contains(&told.cause.as_str()),
        "{scene:?}: the wire said {observed}, the gateway {told:?}"
    );
    if let Some(Said::Disconnect(code)) = said.first() {
        assert_eq!(told.evidence.reason_code, Some(*code), "{told:?}");
        assert_eq!(told.certainty, "certain", "{told:?}");
        assert_eq!(told.evidence.last_received.as_deref(), Some("DISCONNECT"));
    } else {
        assert_eq!(told.evidence.reason_code, None, "{told:?}");
    }
}
