//! Guests that want too much, all at once, beside one that minds its own business: its readings go on, how
//! late is printed, the link never notices, every limit that was exceeded is named, and memory stays where the limits put it.

use std::fmt::Write as _;
use std::time::Duration;

use moorline_tests::errors::Provoked;
use moorline_tests::mosquitto;
use moorline_tests::netns::now_ms;
use moorline_tests::plugins::{Guest, Place};
use moorline_tests::punctuality::Punctuality;
use moorline_tests::rig::{Rig, Running};

const DEADLINE: Duration = Duration::from_secs(60);
/// How long each half is looked at.
const MEASURED: Duration = Duration::from_secs(15);
const NEIGHBOUR: &str = "good";
/// Kilobytes that eight hostile guests may cost: two of them may have 32 MiB each, and what the host remembers.
const COST_KB_MAX: u64 = 128 * 1024;

/// Connector, script, further limits, and the limit that it exceeds.
const HOSTILE: [(&str, &str, &str, &str); 7] = [
    ("hangs", "timer:hang", "", "call_deadline_ms"),
    ("eats", "timer:eat", "", "memory_bytes_max"),
    ("calls", "timer:flood-clock", "", "call_deadline_ms"),
    ("busy", "timer:busy", "cpu_percent = 5\n", "cpu_percent"),
    (
        "logs",
        "timer:flood-log",
        "cpu_percent = 10\n",
        "log_lines_per_s",
    ),
    (
        "emits",
        "timer:flood-emit",
        "emit_readings_per_s = 100\n",
        "emit_readings_per_s",
    ),
    (
        "keeps",
        "timer:flood-state",
        "cpu_percent = 10\n",
        "state_bytes_max",
    ),
];

/// Of a hundred readings of the neighbour ninety-nine came within this, milliseconds.
async fn p99_ms(platform: &Punctuality) -> u64 {
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
        late.len() > 100,
        "only {} publishes of the neighbour",
        late.len()
    );
    late[late.len() * 99 / 100]
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
    let mut lines = String::new();
    let mut places = Vec::new();
    for (name, script, limits, _) in HOSTILE {
        // They are put there later, by their file.
        let place = rig.path(&format!("{name}.wasm"));
        write!(
            lines,
            "\n[[connector]]\nname = \"{name}\"\ncomponent = {place:?}\n[connector.limits]\n{limits}"
        )
        .unwrap();
        places.push((place, Guest::connector(script)));
    }
    let configuration = rig
        .configuration()
        .simulated_at(NEIGHBOUR, good.path(), Some(rig.audit.witness()), 2, 200)
        .with(&lines);
    let mut running = rig.gateway(&configuration);
    running.expect_error(Provoked::PluginMissing);
    running.expect_error(Provoked::PluginFailed);
    running.flows().await;
    let (alone, before_kb) = (p99_ms(&platform).await, resident_kb(&running));

    for (place, guest) in places {
        std::fs::write(place, guest.bytes()).unwrap();
    }
    let exceeded = |now: &moorline::demo::gateway::History| {
        HOSTILE.iter().all(|(name, _, _, key)| {
            let found = now.now.connectors.iter().find(|entry| entry.name == *name);
            found.is_some_and(|entry| entry.limits.iter().any(|limit| limit.key == *key))
        })
    };
    running
        .wait("every limit that is exceeded is named", DEADLINE, exceeded)
        .await;
    let (beside, after_kb) = (p99_ms(&platform).await, resident_kb(&running));
    println!(
        "p99 of the neighbour: {alone} ms alone, {beside} ms beside them; {before_kb} kB, {after_kb} kB"
    );
    assert!(
        after_kb < before_kb + COST_KB_MAX,
        "{before_kb} kB before, {after_kb} kB beside them"
    );
    // How late is a figure of the machine and of whatever else runs on it; that nobody starves is not.
    assert!(
        Duration::from_millis(beside) < MEASURED / 3,
        "{alone} ms alone, {beside} ms beside them"
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
