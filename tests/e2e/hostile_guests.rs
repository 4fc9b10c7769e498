//! Guests that want too much, all at once, beside one that minds its own business: its readings go on (how late is measured by
//! the bench `neighbour`), the link never notices, every limit that was exceeded is named, and memory stays where the limits put it.
//! What a guest opens does not take from the gateway what it needs for itself.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use moorline::demo::mark;
use moorline::fault_proxy::Strike;
use moorline_tests::binary;
use moorline_tests::hostile;
use moorline_tests::mosquitto;
use moorline_tests::netns::now_ms;
use moorline_tests::plugins::{Guest, Place};
use moorline_tests::punctuality::Punctuality;
use moorline_tests::rig::{Rig, Running};

const DEADLINE: Duration = Duration::from_secs(60);
/// How long each half is looked at.
const MEASURED: Duration = Duration::from_secs(10);
/// Of the neighbour, each second, and how often: a p99 of them is not that of two stray ones.
const READINGS_PER_S: u32 = 200;
const DEVICES: u32 = 4;
const PERIOD: &str = "key = \"seq\"\nperiod_ms = 20\n";
const NEIGHBOUR: &str = "good";
/// Kilobytes that seven hostile guests may cost: two of them may have 32 MiB each, and what the host remembers.
const COST_KB_MAX: u64 = 128 * 1024;

/// How late the neighbour's readings came, in ascending order, milliseconds.
async fn late_ms(platform: &Punctuality) -> Vec<u64> {
    let began = now_ms();
    tokio::time::sleep(MEASURED).await;
    let mut late: Vec<u64> = platform
        .since(began)
        .iter()
        .filter(|arrival| arrival.device.starts_with(NEIGHBOUR))
        .map(moorline_tests::punctuality::Arrival::behind_ms)
        .collect();
    late.sort_unstable();
    assert!(
        late.len() > 1_000,
        "only {} publishes of the neighbour",
        late.len()
    );
    late
}

fn p99(ascending: &[u64]) -> u64 {
    ascending[ascending.len() * 99 / 100]
}

fn shown(ascending: &[u64]) -> String {
    let (p50, max) = (
        ascending[ascending.len() / 2],
        ascending[ascending.len() - 1],
    );
    format!("p50 {p50}, p99 {}, at most {max} ms", p99(ascending))
}

/// What the threads of less priority have used, and all together, in ticks of the kernel's clock; and how nice the former are.
fn heavy(running: &Running) -> (u64, u64, Vec<i64>) {
    let pid = running.gateway.pid().unwrap();
    let (mut used, mut all, mut nice) = (0, 0, Vec::new());
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        // It may have ended.
        let Ok(stat) = std::fs::read_to_string(thread.unwrap().path().join("stat")) else {
            continue;
        };
        let (name, fields) = stat.rsplit_once(')').unwrap();
        let fields = fields.split_whitespace().skip(1).take(16);
        let fields: Vec<i64> = fields.map(|field| field.parse().unwrap()).collect();
        // From the fourth field on: utime and stime are the 14th and 15th, the nice value is the 19th (proc(5)).
        let ticks = u64::try_from(fields[10] + fields[11]).unwrap();
        all += ticks;
        if name.ends_with("heavy-guests") {
            used += ticks;
            nice.push(fields[15]);
        }
    }
    (used, all, nice)
}

fn resident_kb(running: &Running) -> u64 {
    let pid = running.gateway.pid().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_good_neighbour_is_not_disturbed() {
    let Some(kind) = mosquitto() else { return };
    let rig = Rig::start(kind).await;
    let platform = Punctuality::start(rig.broker.address()).await;
    let good = Place::stock(rig.path("good.wasm"), Guest::SIMULATED);
    let configuration = rig
        .configuration()
        .simulated_at(
            NEIGHBOUR,
            good.path(),
            Some(rig.audit.witness()),
            DEVICES,
            READINGS_PER_S,
        )
        .replaced("key = \"seq\"\n", PERIOD)
        .with(&hostile::lines(&rig));
    let mut running = rig.gateway(&configuration);
    hostile::expect_errors(&mut running);
    running.flows().await;
    let (alone, before_kb) = (late_ms(&platform).await, resident_kb(&running));
    let (_, used_before, nice) = heavy(&running);
    assert!(nice.is_empty(), "nobody computes for long: {nice:?}");

    hostile::let_loose(&rig);
    running
        .wait(
            "every limit that is exceeded is named",
            DEADLINE,
            hostile::all_named,
        )
        .await;
    let (beside, after_kb) = (late_ms(&platform).await, resident_kb(&running));
    println!(
        "the neighbour: {} alone; {} beside them; {before_kb} kB, {after_kb} kB",
        shown(&alone),
        shown(&beside)
    );
    let (used_there, used, nice) = heavy(&running);
    assert!(
        !nice.is_empty() && nice.iter().all(|it| *it > 0),
        "{nice:?}"
    );
    assert!(
        used_there > (used - used_before) / 2,
        "{used_there} of {} ticks: those who compute give way",
        used - used_before
    );
    assert!(
        after_kb < before_kb + COST_KB_MAX,
        "{before_kb} kB before, {after_kb} kB beside them"
    );
    // How late is a figure of the machine and of whatever else runs on it; that nobody starves is not.
    assert!(
        Duration::from_millis(p99(&beside)) < MEASURED / 3,
        "{} alone; {} beside them",
        shown(&alone),
        shown(&beside)
    );
    let history = running.history();
    let entry = history
        .now
        .connectors
        .iter()
        .find(|entry| entry.name == NEIGHBOUR);
    let entry = entry.unwrap();
    assert_eq!((entry.traps, entry.limits.len()), (0, 0), "{entry:?}");
    assert_eq!(history.sessions(), 1, "the link never noticed");
}

/// Descriptors the whole gateway may have, here.
const DESCRIPTORS: usize = 256;
/// What it begins with, and raises by itself.
const DESCRIPTORS_AT_FIRST: usize = 64;
/// What two hoarders may have of them, and what a gateway of this size needs for itself.
const DESCRIPTORS_OPEN_MAX: usize = 64 + 100;

/// By the admin socket.
pub(super) fn plugins(configuration: &Path) -> serde_json::Value {
    let output = Command::new(binary())
        .args(["plugin", "ls", "--format", "json", "--config"])
        .arg(configuration)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Two that take what descriptors they can: `nothing` is granted nothing, `granted` a port and a directory.
fn hoarders(component: &Path, directory: &Path) -> String {
    let grants = format!(
        "[connector.grants]\ntcp = [\"127.0.0.1:9\"]\ndirectories = {{ \"/maps\" = {directory:?} }}\n"
    );
    let mut lines = String::new();
    for (name, grants) in [("nothing", ""), ("granted", &grants)] {
        write!(
            lines,
            "\n[[connector]]\nname = \"{name}\"\ncomponent = {component:?}\n[connector.config]\nhoards = true\n{grants}"
        )
        .unwrap();
    }
    lines
}

/// How many descriptors a process has open, of how many that it may have.
fn descriptors(pid: u32) -> (usize, String) {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let mut lines = limits.lines();
    let files = lines.find(|line| line.starts_with("Max open files"));
    let words: Vec<_> = files.unwrap().split_whitespace().skip(3).take(2).collect();
    (open.count(), words.join(" of "))
}

#[tokio::test]
async fn guests_that_hoard_descriptors_leave_the_gateway_its_own() {
    let Some(kind) = mosquitto() else { return };
    let rig = Rig::start(kind).await;
    let good = Place::stock(rig.path("good.wasm"), Guest::SIMULATED);
    let hoarder = Place::stock(rig.path("hoarder.wasm"), Guest::REACHING);
    let maps = rig.path("maps");
    std::fs::create_dir(&maps).unwrap();
    let lines = hoarders(hoarder.path(), &maps);
    let configuration = rig
        .configuration()
        .simulated_at(NEIGHBOUR, good.path(), Some(rig.audit.witness()), 2, 200)
        .with(&lines);
    // So few descriptors that one guest could take them all.
    let frugal = format!("ulimit -S -n {DESCRIPTORS_AT_FIRST}\nulimit -H -n {DESCRIPTORS}\nexec");
    let mut running = rig.gateway_by(&frugal, &configuration);
    running.flows().await;
    running
        .wait("both are told that they may not", DEADLINE, |now| {
            let entry = |name| now.now.connectors.iter().find(|entry| entry.name == name);
            let denied = entry("nothing").is_some_and(|entry| entry.denied > 10);
            let key = "descriptors_max";
            denied
                && entry("granted").is_some_and(|entry| {
                    let mut limits = entry.limits.iter();
                    limits.any(|limit| limit.key == key && limit.exceeded > 10)
                })
        })
        .await;
    let (open, limit) = descriptors(running.gateway.pid().unwrap());
    assert_eq!(limit, "256 of 256", "raised as far as it may be");
    println!("{open} descriptors of {DESCRIPTORS} are open");
    assert!(open < DESCRIPTORS_OPEN_MAX, "{open} are open");

    // A new session, a new build of the neighbour and the admin socket each need some.
    rig.proxy.strike(Strike::Reset).await.unwrap();
    running
        .wait("the link comes back", DEADLINE, |now| {
            now.disconnects().len() == 1 && now.now.link.state == "up"
        })
        .await;
    let mut other = Guest::SIMULATED.bytes();
    mark(&mut other, 2);
    good.put_bytes(&other);
    running
        .wait("the neighbour is swapped", DEADLINE, |now| {
            now.swaps().any(|swap| swap.outcome == "swapped")
        })
        .await;
    let listed = plugins(&rig.path("gateway.toml"));
    let names: Vec<_> = listed["plugins"]
        .as_array()
        .unwrap()
        .iter()
        .map(|plugin| plugin["name"].clone())
        .collect();
    assert_eq!(names, [NEIGHBOUR, "nothing", "granted"]);
    let denied = listed["plugins"][1]["denied"].as_str().unwrap();
    assert!(denied.contains("tcp of [connector.grants]"), "{denied}");
    let (_history, balance) = rig.settle(running).await;
    assert_eq!((balance.missing, balance.out_of_order), (0, 0));
}
