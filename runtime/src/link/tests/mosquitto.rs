//! Against real Mosquitto, with an account of what it acknowledged that neither side of the link wrote.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::pin::pin;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use moorline_core::link::cause::{Cause, Certainty, Fault, Inference, Phase};
use moorline_core::message::Uplink;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::super::{Secret, Versions};
use super::rig::{self, DEADLINE, Rig, attribute, reading};
use crate::fault_proxy::tap::Acknowledged;
use crate::fault_proxy::{FaultProxy, Mode, Strike};

const ACKNOWLEDGED: usize = 1024;
const PORTS_TRIED: usize = 5;
const VERSIONS: [Versions; 2] = [Versions::V5, Versions::V311];

pub(super) struct Mosquitto {
    process: Child,
    pub(super) address: SocketAddr,
    directory: TempDir,
}

impl Mosquitto {
    /// None where Mosquitto is not installed; `tests/run` installs it and demands it.
    pub(super) async fn start(extra: &str) -> Option<Self> {
        // Between choosing a free port and Mosquitto binding it another test may take it.
        for _ in 0..PORTS_TRIED {
            let directory = tempfile::tempdir().expect("a directory");
            let port = {
                let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
                free.local_addr().expect("an address").port()
            };
            let configuration = format!(
                "listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n{extra}\n"
            );
            std::fs::write(directory.path().join("mosquitto.conf"), configuration)
                .expect("written");
            let Some(process) = spawn(&directory) else {
                assert!(
                    std::env::var("MOORLINE_E2E").as_deref() != Ok("required"),
                    "Mosquitto is not installed, and MOORLINE_E2E demands it"
                );
                eprintln!("SKIPPED: Mosquitto is not installed");
                return None;
            };
            let mut mosquitto = Self {
                process,
                address: SocketAddr::from(([127, 0, 0, 1], port)),
                directory,
            };
            if mosquitto.listening().await {
                return Some(mosquitto);
            }
        }
        panic!("Mosquitto starts and ends at once")
    }

    /// False when it ended instead.
    async fn listening(&mut self) -> bool {
        let deadline = Instant::now() + DEADLINE;
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        while Instant::now() < deadline {
            tick.tick().await;
            if self.process.try_wait().expect("our own child").is_some() {
                return false;
            }
            if TcpStream::connect(self.address).await.is_ok() {
                return true;
            }
        }
        panic!("Mosquitto does not listen")
    }

    pub(super) fn kill(&mut self) {
        self.process.kill().expect("a live process");
        self.process.wait().expect("a dead process");
    }

    pub(super) async fn restart(&mut self) {
        self.process = spawn(&self.directory).expect("it started before");
        assert!(self.listening().await, "Mosquitto ended after a restart");
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
pub(super) fn numbers(acknowledged: &Acknowledged) -> Vec<u64> {
    let payload: serde_json::Value = serde_json::from_slice(&acknowledged.payload).expect("JSON");
    match &payload["d"] {
        serde_json::Value::Array(entries) => entries
            .iter()
            .filter_map(|entry| entry["values"]["n"].as_u64())
            .collect(),
        device => device["n"].as_u64().into_iter().collect(),
    }
}

/// A killed broker is told as one.
fn only_kills(status: &crate::link::LinkStatus) {
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
}

/// What the proxy saw acknowledged.
#[derive(Default)]
struct Audit {
    seen: BTreeSet<u64>,
    received: u64,
}

impl Audit {
    fn take(&mut self, publish: &Acknowledged) {
        let found = numbers(publish);
        self.received += found.len() as u64;
        self.seen.extend(found);
    }
}

/// A killed broker takes no connection at its address until it is back, and it is back after that was noticed: a proxy that
/// went on to listen would look like a broker that closes twice within seconds, and that is taken for another client.
async fn kill_and_resume(mosquitto: &mut Mosquitto, proxy: &FaultProxy, rig: &mut Rig) {
    let last = rig
        .status
        .borrow()
        .last_disconnect()
        .map_or(0, |last| last.id);
    proxy.set(Mode::Refuse).await.expect("a proxy");
    mosquitto.kill();
    rig.refused_after(last).await;
    mosquitto.restart().await;
    proxy.set(Mode::Pass).await.expect("a proxy");
}

async fn two_kills(message: fn(u64) -> Uplink, versions: Versions) {
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
    let mut audit = Audit::default();
    for third in 1..=3 {
        while (audit.seen.len() as u64) < MESSAGES * third / 3 {
            // How fast it goes is the machine's business, but it goes on.
            let publish = tokio::time::timeout(DEADLINE, acknowledged.recv()).await;
            let Ok(Some(publish)) = publish else {
                panic!(
                    "not all of it arrives: {} of {MESSAGES}, {:?}, {:?}",
                    audit.seen.len(),
                    *rig.spool_status.borrow(),
                    *rig.status.borrow()
                );
            };
            audit.take(&publish);
        }
        if third < 3 {
            let mut killing = pin!(kill_and_resume(&mut mosquitto, &proxy, &mut rig));
            loop {
                // Who does not take what was acknowledged holds the proxy up.
                tokio::select! {
                    () = &mut killing => break,
                    Some(publish) = acknowledged.recv() => audit.take(&publish),
                }
            }
        }
    }
    producer.await.expect("all of it was accepted");
    rig.delivered().await;
    let Audit { seen, received } = audit;
    assert_eq!(seen.len() as u64, MESSAGES, "lost");
    let status = rig.status.borrow().clone();
    assert!(status.sessions >= 3, "{status:?}");
    assert!(
        received - MESSAGES <= status.duplicates_possible * 1024,
        "{received} {status:?}"
    );
    only_kills(&status);
    eprintln!(
        "{} sessions, {} publishes in flight at a kill, {received} received for {MESSAGES}",
        status.sessions, status.duplicates_possible
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_kills_lose_nothing() {
    two_kills(|number| attribute(number, 40), Versions::V5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_kills_lose_nothing_on_3_1_1_and_readings_share_publishes() {
    two_kills(reading, Versions::V311).await;
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
    for (versions, code) in [(Versions::V5, 0x87), (Versions::V311, 5)] {
        let mut rig = rig::start(mosquitto.address, |settings| {
            settings.versions = versions;
            settings.credentials.username = Some(Secret::new("nobody".into()));
            settings.credentials.password = Some(Secret::new("wrong".into()));
            settings.pace.ceiling = Duration::from_secs(60);
        });
        let record = rig.disconnect(0).await;
        let seen = &record.record.disconnect;
        assert_eq!(
            (seen.cause, seen.phase, seen.evidence.reason_code),
            (Cause::NotAuthorized, Phase::Connect, Some(code)),
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
}

/// CONNECT as 3.1.1 with the rig's client id, and the CONNACK read.
async fn take_over(address: SocketAddr) -> TcpStream {
    let mut second = TcpStream::connect(address).await.expect("a connection");
    let mut connect = vec![0x10, 18, 0, 4];
    connect.extend_from_slice(b"MQTT\x04\x02\x00\x3c\x00\x06line-7");
    second.write_all(&connect).await.expect("written");
    let mut connack = [0; 4];
    second.read_exact(&mut connack).await.expect("a CONNACK");
    assert_eq!(connack, [0x20, 2, 0, 0]);
    second
}

/// Mosquitto 2.0.11 tells a client that is taken over nothing, on either version: the first time it is a close without a
/// reason, from the second on the pattern shows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_client_with_our_id_is_suspected_the_second_time() {
    let Some(mosquitto) = Mosquitto::start("").await else {
        return;
    };
    for versions in VERSIONS {
        let mut rig = rig::start(mosquitto.address, |settings| settings.versions = versions);
        let mut seen = Vec::new();
        for number in 0..2 {
            rig.up_again(number + 1).await;
            // Once this is acknowledged Mosquitto has read SUBSCRIBE too: closing over unread bytes would be an RST.
            rig.append(reading(number)).await;
            rig.delivered().await;
            let second = take_over(mosquitto.address).await;
            let record = rig
                .disconnect(usize::try_from(number).expect("small"))
                .await;
            seen.push(record.record.disconnect.clone());
            drop(second);
        }
        assert_eq!(
            (seen[0].cause, seen[0].certainty),
            (
                Cause::ClosedByServer(Inference::Nothing),
                Certainty::Certain
            ),
            "{}",
            seen[0]
        );
        assert_eq!(
            (seen[1].cause, seen[1].certainty, seen[1].cause.fault()),
            (
                Cause::ClosedByServer(Inference::TakeoverOrAccess),
                Certainty::Inferred,
                Fault::Operator
            ),
            "{}",
            seen[1]
        );
    }
}

async fn behind_proxy(versions: Versions) -> Option<(Mosquitto, FaultProxy, Rig)> {
    let mosquitto = Mosquitto::start("").await?;
    let proxy = FaultProxy::bind(mosquitto.address).await.expect("a port");
    let mut rig = rig::start(proxy.address(), |settings| settings.versions = versions);
    rig.up().await;
    Some((mosquitto, proxy, rig))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_black_hole_is_found_with_and_without_traffic_and_nothing_is_lost() {
    for (versions, traffic) in [
        (Versions::V5, true),
        (Versions::V5, false),
        (Versions::V311, true),
        (Versions::V311, false),
    ] {
        let Some((_mosquitto, proxy, mut rig)) = behind_proxy(versions).await else {
            return;
        };
        rig.append(reading(0)).await;
        rig.delivered().await;
        proxy.set(Mode::BlackHole(None)).await.expect("a proxy");
        let cut = Instant::now();
        if traffic {
            rig.append(reading(1)).await;
        }
        let seen = rig.first_disconnect().await;
        let took = cut.elapsed();
        assert_eq!(
            (seen.cause, seen.certainty),
            (Cause::PingrespTimeout, Certainty::Inferred),
            "{seen}"
        );
        // Keep-alive 1 s, or a probe after 0.5 s; then 0.8 s for the answer.
        assert!(took <= Duration::from_secs(4), "{took:?} {seen}");
        proxy.set(Mode::Pass).await.expect("a proxy");
        rig.append(reading(2)).await;
        rig.up_again(2).await;
        rig.delivered().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_and_a_refusal_on_the_way_have_their_errno() {
    for versions in VERSIONS {
        let Some((_mosquitto, proxy, mut rig)) = behind_proxy(versions).await else {
            return;
        };
        proxy.set(Mode::Refuse).await.expect("a proxy");
        proxy.strike(Strike::Reset).await.expect("a proxy");
        let reset = rig.first_disconnect().await;
        assert_eq!(
            (reset.cause, reset.phase, reset.evidence.errno),
            (Cause::Reset, Phase::Session, Some(104)),
            "{reset}"
        );
        let refused = rig.disconnect(1).await.record.disconnect.clone();
        assert_eq!(
            (refused.cause, refused.phase, refused.evidence.errno),
            (Cause::ConnectRefused, Phase::Tcp, Some(111)),
            "{refused}"
        );
        proxy.set(Mode::Pass).await.expect("a proxy");
        rig.append(reading(1)).await;
        rig.up_again(2).await;
        rig.delivered().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_in_the_middle_of_a_packet_loses_nothing() {
    for versions in VERSIONS {
        let Some(mosquitto) = Mosquitto::start("").await else {
            return;
        };
        let (tap, mut acknowledged) = mpsc::channel(ACKNOWLEDGED);
        let proxy = FaultProxy::bind_tapped(mosquitto.address, tap)
            .await
            .expect("a port");
        let mut rig = rig::start(proxy.address(), |settings| {
            settings.versions = versions;
            // What is cut must be a publish, not a PINGREQ.
            settings.keep_alive = Duration::from_secs(600);
        });
        rig.append(attribute(0, 40)).await;
        rig.delivered().await;
        proxy.strike(Strike::CutMidPacket).await.expect("a proxy");
        for number in 1..200 {
            rig.append(attribute(number, 40)).await;
        }
        let mut seen = BTreeSet::new();
        let auditing = async {
            while seen.len() < 200 {
                let publish = acknowledged.recv().await.expect("the proxy lives");
                seen.extend(numbers(&publish));
            }
        };
        tokio::time::timeout(DEADLINE, auditing)
            .await
            .expect("all of it arrives");
        rig.delivered().await;
        let cut = rig.first_disconnect().await;
        assert_eq!(
            (cut.cause, cut.evidence.errno),
            (Cause::Reset, Some(104)),
            "{cut}"
        );
        assert!(rig.status.borrow().duplicates_possible > 0);
    }
}

/// Not an assertion about speed: it shows the figure. `cargo test --release -p moorline link_rate -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a figure, not a check"]
async fn link_rate() {
    const MESSAGES: u64 = 100_000;
    let Some(mosquitto) = Mosquitto::start("").await else {
        return;
    };
    for versions in [Versions::V5, Versions::V311] {
        for text_bytes in [60] {
            let filled = rig::start(SocketAddr::from(([127, 0, 0, 1], 9)), |_| {});
            for number in 0..MESSAGES {
                filled.append(attribute(number, text_bytes)).await;
            }
            let directory = filled.end(Duration::ZERO).await;
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
