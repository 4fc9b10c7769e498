//! The whole process, release build: start to first publish, memory, size, the gap of a swap under 1 000 readings/s.

#![expect(clippy::print_stdout, reason = "the table is the result")]

use std::time::{Duration, Instant};

use moorline_tests::configuration::READINGS_PER_S;
use moorline_tests::plugins::{Guest, Place};
use moorline_tests::rig::Rig;
use moorline_tests::{binary, eventually, mosquitto};

const STARTS: usize = 5;
const SWAPS: usize = 200;
const SETTLE: Duration = Duration::from_secs(10);
const DEADLINE: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() {
    size();
    starts().await;
    idle().await;
    swaps().await;
}

fn size() {
    let bytes = std::fs::metadata(binary()).expect("a binary").len();
    println!(
        "binary of this profile              {:>8.1} MiB",
        bytes as f64 / f64::from(1 << 20)
    );
}

/// From the start of the process to the first reading at a subscriber, with and without compiled components.
async fn starts() {
    let Some(kind) = mosquitto() else { return };
    let (mut cold, mut cached) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let mut rig = Rig::start(kind.clone()).await;
        let simulated = Place::stock(rig.path("simulated.wasm"), Guest::SIMULATED);
        let policy = Place::stock(rig.path("policy.wasm"), Guest::FULL_JITTER);
        let configuration =
            rig.configuration()
                .policy(policy.path())
                .simulated("sim", simulated.path(), None);
        for figures in [&mut cold, &mut cached] {
            let totals = rig.audit.totals();
            let before = totals.borrow().delivered;
            let start = Instant::now();
            let mut running = rig.gateway(&configuration);
            eventually("a reading arrives", DEADLINE, || {
                (totals.borrow().delivered > before).then_some(())
            })
            .await;
            figures.push(start.elapsed().as_secs_f64() * 1_000.0);
            let stopped = running.gateway.stop(DEADLINE).await;
            stopped.expect("a clean end");
        }
        rig.broker.kill().await.expect("a broker");
    }
    println!(
        "start to first publish, cold        {:>8.0} ms, median of {STARTS}",
        median(cold)
    );
    println!(
        "start to first publish, cached      {:>8.0} ms, median of {STARTS}",
        median(cached)
    );
}

/// Memory with a link and a policy and no connector.
async fn idle() {
    let Some(kind) = mosquitto() else { return };
    let rig = Rig::start(kind).await;
    let policy = Place::stock(rig.path("policy.wasm"), Guest::FULL_JITTER);
    let configuration = rig.configuration().policy(policy.path());
    let mut running = rig.gateway(&configuration);
    running
        .wait("the link is up", DEADLINE, |now| now.now.link.state == "up")
        .await;
    tokio::time::sleep(SETTLE).await;
    println!(
        "RSS idle                            {:>8.1} MiB",
        rss_mib(running.gateway.pid())
    );
}

async fn swaps() {
    let Some(kind) = mosquitto() else { return };
    let rig = Rig::start(kind).await;
    let mut place = Place::stock(rig.path("simulated.wasm"), Guest::SIMULATED);
    let configuration =
        rig.configuration()
            .simulated("sim", place.path(), Some(rig.audit.witness()));
    let mut running = rig.gateway(&configuration);
    running.flows().await;
    tokio::time::sleep(SETTLE).await;
    println!(
        "RSS at {READINGS_PER_S} readings/s             {:>8.1} MiB",
        rss_mib(running.gateway.pid())
    );
    for swap in 1..=SWAPS {
        place.put(Guest::SIMULATED);
        running
            .wait("a swap ends", DEADLINE, |now| now.swaps().len() >= swap)
            .await;
    }
    println!(
        "RSS after {SWAPS} swaps                 {:>8.1} MiB",
        rss_mib(running.gateway.pid())
    );
    let (history, balance) = rig.settle(running).await;
    let mut gaps: Vec<f64> = history.swaps().map(|swap| swap.gap_ms).collect();
    gaps.sort_by(f64::total_cmp);
    println!(
        "gap of {SWAPS} swaps                    {:>8.2} ms p50, {:.2} ms p99, {:.2} ms max; lost {}, sessions {}",
        gaps[SWAPS / 2],
        gaps[SWAPS * 99 / 100],
        gaps[SWAPS - 1],
        balance.missing,
        history.sessions()
    );
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// VmRSS of a process.
fn rss_mib(pid: Option<u32>) -> f64 {
    let pid = pid.expect("a running process");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("procfs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("VmRSS");
    let kib: f64 = line
        .trim()
        .trim_end_matches("kB")
        .trim()
        .parse()
        .expect("a number");
    kib / 1_024.0
}
