//! Against real Mosquitto, with an account of what it acknowledged that neither side of the link wrote.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use moorline_core::link::cause::{Cause, Inference};
use moorline_core::message::Uplink;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::rig::{self, DEADLINE, attribute, reading};
use crate::fault_proxy::FaultProxy;
use crate::fault_proxy::tap::Acknowledged;

const ACKNOWLEDGED: usize = 1024;

struct Mosquitto {
    process: Child,
    address: SocketAddr,
    directory: TempDir,
}

impl Mosquitto {
    /// None where Mosquitto is not installed; `tests/run` installs it.
    async fn start(extra: &str) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory");
        let port = {
            let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            free.local_addr().expect("an address").port()
        };
        let configuration = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n{extra}\n"
        );
        std::fs::write(directory.path().join("mosquitto.conf"), configuration).expect("written");
        let process = spawn(&directory)?;
        let mosquitto = Self {
            process,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            directory,
        };
        mosquitto.listening().await;
        Some(mosquitto)
    }

    async fn listening(&self) {
        let tries = async {
            while tokio::net::TcpStream::connect(self.address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(DEADLINE, tries)
            .await
            .expect("Mosquitto listens");
    }

    fn kill(&mut self) {
        self.process.kill().expect("a live process");
        self.process.wait().expect("a dead process");
    }

    async fn restart(&mut self) {
        self.process = spawn(&self.directory).expect("it started before");
        self.listening().await;
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        if self.process.kill().is_ok() && self.process.wait().is_err() {
            eprintln!("mosquitto was not reaped");
        }
    }
}

fn spawn(directory: &TempDir) -> Option<Child> {
    let configuration = directory.path().join("mosquitto.conf");
    let paths = ["mosquitto", "/usr/sbin/mosquitto"];
    paths.iter().find_map(|path| {
        Command::new(path)
            .arg("-c")
            .arg(&configuration)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()
    })
}

/// The number in a payload that `attribute` or `reading` made.
fn numbers(acknowledged: &Acknowledged) -> Vec<u64> {
    let payload: serde_json::Value = serde_json::from_slice(&acknowledged.payload).expect("JSON");
    match &payload["d"] {
        serde_json::Value::Array(entries) => entries
            .iter()
            .filter_map(|entry| entry["values"]["n"].as_u64())
            .collect(),
        device => device["n"].as_u64().into_iter().collect(),
    }
}

async fn kill_and_restart(message: fn(u64) -> Uplink, versions: super::super::Versions) {
    const MESSAGES: u64 = 10_000;
    let Some(mut mosquitto) = Mosquitto::start("").await else {
        return;
    };
    let (tap, mut acknowledged) = mpsc::channel(ACKNOWLEDGED);
    let proxy = FaultProxy::bind_tapped(mosquitto.address, tap)
        .await
        .expect("a port");
    let mut rig = rig::start(proxy.address(), |settings| settings.versions = versions);

    let appender = rig.appender.clone();
    let producer = tokio::spawn(async move {
        for number in 0..MESSAGES {
            while appender.append(message(number)).await.is_err() {
                tokio::task::yield_now().await;
            }
        }
    });
    let mut seen = BTreeSet::new();
    let mut received = 0u64;
    let auditing = async {
        while seen.len() < usize::try_from(MESSAGES).expect("small") {
            let publish = acknowledged.recv().await.expect("the proxy lives");
            let before = seen.len();
            let found = numbers(&publish);
            received += found.len() as u64;
            seen.extend(found);
            for third in [MESSAGES / 3, MESSAGES * 2 / 3] {
                let third = usize::try_from(third).expect("small");
                if before < third && seen.len() >= third {
                    mosquitto.kill();
                    mosquitto.restart().await;
                }
            }
        }
    };
    tokio::time::timeout(DEADLINE, auditing)
        .await
        .expect("all of it arrives");
    producer.await.expect("all of it was accepted");
    rig.delivered().await;
    assert_eq!(seen.len() as u64, MESSAGES, "lost");
    let status = rig.status.borrow().clone();
    assert!(status.sessions >= 2, "{status:?}");
    assert!(
        received - MESSAGES <= status.duplicates_possible * 1024,
        "{received} {status:?}"
    );
    for record in &status.disconnects {
        let cause = record.record.disconnect.cause;
        assert!(
            matches!(
                cause,
                Cause::Reset
                    | Cause::ClosedByServer(_)
                    | Cause::ClosedBeforeConnack
                    | Cause::ConnectRefused
            ),
            "{}",
            record.text
        );
    }
    eprintln!(
        "{} sessions, {} publishes in flight at a kill, {received} received for {MESSAGES}",
        status.sessions, status.duplicates_possible
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_kills_lose_nothing() {
    kill_and_restart(|number| attribute(number, 40), super::super::Versions::V5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_kills_lose_nothing_on_3_1_1_and_readings_share_publishes() {
    kill_and_restart(reading, super::super::Versions::V311).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_of_the_broker_has_its_cause() {
    let Some(mut mosquitto) = Mosquitto::start("").await else {
        return;
    };
    let mut rig = rig::start(mosquitto.address, |_| {});
    rig.up().await;
    mosquitto.kill();
    let seen = rig.first_disconnect().await;
    assert!(
        matches!(
            seen.cause,
            Cause::Reset | Cause::ClosedByServer(Inference::Nothing)
        ),
        "{seen}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_credentials_are_told_and_not_hammered() {
    let Some(mosquitto) = Mosquitto::start("password_file /dev/null").await else {
        return;
    };
    let mut rig = rig::start(mosquitto.address, |settings| {
        settings.credentials.username = Some(super::super::Secret::new("nobody".into()));
        settings.credentials.password = Some(super::super::Secret::new("wrong".into()));
        settings.pace.ceiling = Duration::from_secs(60);
    });
    let record = rig.disconnect(0).await;
    assert!(
        matches!(
            record.record.disconnect.cause,
            Cause::NotAuthorized | Cause::BadCredentials
        ),
        "{}",
        record.text
    );
    assert!(!record.text.contains("wrong"), "{}", record.text);
    let next = rig.status.borrow().next_try_at;
    assert!(
        next.is_some_and(|at| at.since_start() > Duration::from_secs(50)),
        "{next:?}"
    );
}

/// Not an assertion about speed: it shows the figure. `cargo test --release -p moorline link_rate -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a figure, not a check"]
async fn link_rate() {
    const MESSAGES: u64 = 100_000;
    let Some(mosquitto) = Mosquitto::start("").await else {
        return;
    };
    for versions in [super::super::Versions::V5, super::super::Versions::V311] {
        for text_bytes in [60] {
            let filled = rig::start(SocketAddr::from(([127, 0, 0, 1], 9)), |_| {});
            for number in 0..MESSAGES {
                filled.append(attribute(number, text_bytes)).await;
            }
            let rig::Rig {
                link,
                spool,
                directory,
                appender,
                ..
            } = filled;
            link.stop(Duration::ZERO).await;
            drop(appender);
            spool.close().await.expect("closed");
            let started = Instant::now();
            let mut rig = rig::restart(mosquitto.address, directory, |settings| {
                settings.versions = versions
            });
            rig.delivered().await;
            let took = started.elapsed();
            let rate = MESSAGES as f64 / took.as_secs_f64();
            eprintln!(
                "{versions:?}: {MESSAGES} publishes of about {} bytes in {took:?}: {rate:.0}/s",
                text_bytes + 20
            );
        }
    }
}
