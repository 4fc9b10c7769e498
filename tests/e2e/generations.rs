//! Generations under load, and candidates that are bad in every way there is.
//!
//! 60 swaps and one candidate of each kind by default; three thousand and two hundred with `MOORLINE_EXTENDED=1`.

use std::time::Duration;

use moorline::demo::gateway::History;
use moorline::demo::mark;
use moorline::fault_proxy::FaultProxy;
use moorline::status::SwapEntry;
use moorline_tests::errors::Provoked;
use moorline_tests::mosquitto;
use moorline_tests::plugins::{Guest, Place};
use moorline_tests::rig::{Rig, Running};

const DEADLINE: Duration = Duration::from_secs(60);
const CONNECTORS: usize = 10;
const READINGS_PER_S: u32 = 5_000;
const SWAPS: usize = 60;
const SWAPS_EXTENDED: usize = 3_000;
/// Swaps from which on memory is looked at, and what it may grow by from then on: while the allocator still takes what it will
/// keep, and after that.
const WARM: (usize, f64) = (30, 8.0);
const WARM_EXTENDED: (usize, f64) = (100, 2.0);

fn extended() -> bool {
    std::env::var_os("MOORLINE_EXTENDED").is_some()
}

/// Resident memory of the gateway, in MiB.
fn resident_mib(running: &Running) -> f64 {
    let pid = running.gateway.pid().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.and_then(|kib| kib.parse::<f64>().ok()).unwrap() / 1024.0
}

fn median(mut levels: Vec<f64>) -> f64 {
    levels.sort_by(f64::total_cmp);
    levels[levels.len() / 2]
}

/// Of the first and of the last fifth.
fn ends(levels: &[f64]) -> [f64; 2] {
    let fifth = levels.len().div_ceil(5);
    let last = levels.len() - fifth;
    [&levels[..fifth], &levels[last..]].map(|part| median(part.to_vec()))
}

fn shown(levels: &[f64]) -> String {
    let most = levels.iter().copied().fold(0.0, f64::max);
    let [first, last] = ends(levels);
    format!("{first:.1} MiB in the first fifth, {last:.1} MiB in the last, at most {most:.1} MiB")
}

fn gaps(swaps: &[&SwapEntry]) -> String {
    let mut gaps: Vec<f64> = swaps.iter().map(|swap| swap.gap_ms).collect();
    gaps.sort_by(f64::total_cmp);
    let at = |part: usize| gaps[(gaps.len() - 1) * part / 100];
    let (middle, high, most) = (at(50), at(99), at(100));
    format!("gap p50 {middle:.2} ms, p99 {high:.2} ms, max {most:.2} ms")
}

#[tokio::test]
async fn swaps_under_load_cost_no_session_no_reading_and_no_memory() {
    let Some(kind) = mosquitto() else { return };
    let (swaps, (warm, growth_mib_max)) = if extended() {
        (SWAPS_EXTENDED, WARM_EXTENDED)
    } else {
        (SWAPS, WARM)
    };
    let rig = Rig::start(kind).await;
    // Each connector holds a TCP session to a device, which is counted on its way to the audit's witness.
    let device = FaultProxy::bind(rig.audit.witness()).await.unwrap();
    let mut places = Vec::new();
    let mut configuration = rig.configuration();
    for index in 0..CONNECTORS {
        let name = format!("c{index}");
        let place = Place::stock(rig.path(&format!("{name}.wasm")), Guest::SIMULATED);
        let rate = READINGS_PER_S / u32::try_from(CONNECTORS).unwrap();
        configuration =
            configuration.simulated_at(&name, place.path(), Some(device.address()), 5, rate);
        places.push(place);
    }
    // Threads that each fill an arena of their own would hide a leak for thousands of swaps.
    let mut running = rig.gateway_by("exec env MALLOC_ARENA_MAX=2", &configuration);
    running.flows().await;
    running
        .wait("all connectors read", DEADLINE, |now| {
            now.now.connectors.iter().all(|c| c.readings > 0)
        })
        .await;
    let (began, before) = (std::time::Instant::now(), running.history());
    let mut levels = Vec::new();
    for round in 1..=swaps / CONNECTORS {
        for place in &mut places {
            place.put(Guest::SIMULATED);
        }
        let done = round * CONNECTORS;
        running
            .wait(&format!("{done} swaps have ended"), DEADLINE, |now| {
                now.swaps().len() >= done
            })
            .await;
        if done >= warm {
            levels.push(resident_mib(&running));
        }
    }
    let took = began.elapsed().as_secs_f64();
    let read = |history: &History| history.now.spool.accepted_readings;
    let rate = (read(&running.history()) - read(&before)) as f64 / took;
    let (history, balance) = rig.settle(running).await;

    let all: Vec<&SwapEntry> = history.swaps().collect();
    println!(
        "FIGURE swaps: {swaps} in {took:.1} s under {rate:.0} readings/s of {CONNECTORS} connectors: {}; \
         RSS from {warm} swaps on {}; {balance:?}",
        gaps(&all),
        shown(&levels)
    );
    assert_eq!(all.len(), swaps);
    let well = |swap: &&SwapEntry| swap.outcome == "swapped" && swap.new_sessions == 0;
    let ill: Vec<_> = all.into_iter().filter(|swap| !well(swap)).collect();
    assert!(ill.is_empty(), "{ill:?}");
    assert_eq!(rig.broker.log().unwrap().matches(" as e2e ").count(), 1);
    assert_eq!(rig.proxy.counts().borrow().connects, 1);
    let sessions = device.counts().borrow().connections;
    assert_eq!(sessions, CONNECTORS as u64, "TCP sessions at the device");
    assert_eq!(
        (balance.missing, balance.out_of_order),
        (0, 0),
        "{balance:?}"
    );
    assert_eq!(balance.delivered, history.now.spool.accepted_readings);
    let [before, after] = ends(&levels);
    let growth = after - before;
    assert!(growth < growth_mib_max, "grew by {growth:.1} MiB");
}

/// A kind of bad candidate, and what is said of it.
struct Bad {
    name: &'static str,
    guest: Guest,
    /// What is done to its bytes.
    damage: fn(&mut Vec<u8>),
    outcome: &'static str,
    reason: &'static str,
}

const fn bad(
    name: &'static str,
    script: &'static str,
    outcome: &'static str,
    reason: &'static str,
) -> Bad {
    Bad {
        name,
        guest: Guest::connector(script),
        damage: |_bytes| {},
        outcome,
        reason,
    }
}

const ROLLED_BACK: &str = "rolled-back";
const REFUSED: &str = "refused";

const KINDS: [Bad; 15] = [
    bad(
        "describe-trap",
        "describe:trap",
        REFUSED,
        "warm-up: trapped",
    ),
    bad(
        "describe-hang",
        "describe:hang",
        REFUSED,
        "warm-up: missed its deadline",
    ),
    bad("start-trap", "start:trap", ROLLED_BACK, "cut-over: trapped"),
    bad(
        "start-hang",
        "start:hang",
        ROLLED_BACK,
        "cut-over: missed its deadline",
    ),
    bad(
        "start-eat",
        "start:eat",
        ROLLED_BACK,
        "cut-over: exceeded a limit: memory_bytes_max",
    ),
    bad(
        "start-refuse",
        "start:configuration",
        ROLLED_BACK,
        "cut-over: refused to start: configuration",
    ),
    bad(
        "hand-over",
        "start:refuse-always",
        ROLLED_BACK,
        "cut-over: refused to start: hand-over",
    ),
    bad(
        "first-poll",
        "timer:trap",
        ROLLED_BACK,
        "probation: trapped",
    ),
    bad(
        "fiftieth-poll",
        "timer:trap-50",
        ROLLED_BACK,
        "probation: trapped",
    ),
    bad(
        "poll-hang",
        "timer:hang",
        ROLLED_BACK,
        "probation: missed its deadline",
    ),
    bad(
        "poll-eat",
        "timer:eat",
        ROLLED_BACK,
        "probation: exceeded a limit: memory_bytes_max",
    ),
    bad(
        "silent",
        "timer:silent",
        ROLLED_BACK,
        "probation: fell silent",
    ),
    Bad {
        name: "wrong-world",
        guest: Guest::FULL_JITTER,
        damage: |_bytes| {},
        outcome: REFUSED,
        reason: "check: has the wrong world",
    },
    Bad {
        name: "truncated",
        guest: Guest::SIMULATED,
        damage: |bytes| bytes.truncate(bytes.len() / 2),
        outcome: REFUSED,
        reason: "compile: is not a component",
    },
    Bad {
        name: "no-component",
        guest: Guest::SIMULATED,
        damage: |bytes| bytes.splice(..8, *b"<html>40").for_each(drop),
        outcome: REFUSED,
        reason: "compile: is not a component",
    },
];

impl Bad {
    /// A build of it that was never there before.
    fn bytes(&self, round: usize) -> Vec<u8> {
        let mut bytes = self.guest.bytes();
        (self.damage)(&mut bytes);
        mark(&mut bytes, 1_000 + round as u64);
        bytes
    }
}

const CANDIDATES_EXTENDED: usize = 200;
const NEIGHBOUR: &str = "neighbour";
const READINGS_EACH_PER_S: u32 = 100;
/// What a connector reads in more than half of a probation of four seconds: enough to be missed.
const REGULAR: u64 = 300;
/// The same, and what it makes up for after a silent successor.
const REGULAR_AGAIN: u64 = 800;
const TERMS: &str = "\n[probation]\ncalls = 5\nduration_s = 4\n";

fn readings(history: &History, connector: &str) -> u64 {
    let mut connectors = history.now.connectors.iter();
    let found = connectors.find(|entry| entry.name == connector);
    found.map_or(0, |entry| entry.readings)
}

/// Waits until everybody has read so many more.
async fn all_read(running: &mut Running, more: u64) {
    let before = running.history();
    running
        .wait("all connectors go on", DEADLINE, |now| {
            let names = KINDS.iter().map(|kind| kind.name).chain([NEIGHBOUR]);
            let mut read = names.map(|name| readings(now, name) - readings(&before, name));
            read.all(|read| read >= more)
        })
        .await;
}

fn failures<'a>(history: &'a History, connector: &'a str) -> impl Iterator<Item = &'a SwapEntry> {
    history
        .swaps()
        .filter(move |swap| swap.connector == connector && swap.outcome != "swapped")
}

#[tokio::test]
async fn bad_candidates_are_refused_or_rolled_back_each_with_its_reason() {
    let Some(kind) = mosquitto() else { return };
    let rounds = if extended() {
        CANDIDATES_EXTENDED.div_ceil(KINDS.len())
    } else {
        1
    };
    let rig = Rig::start(kind).await;
    let mut configuration = rig.configuration().with(TERMS);
    let mut places = Vec::new();
    for bad in &KINDS {
        let place = Place::stock(rig.path(&format!("{}.wasm", bad.name)), Guest::SIMULATED);
        configuration =
            configuration.simulated_at(bad.name, place.path(), None, 2, READINGS_EACH_PER_S);
        places.push(place);
    }
    let neighbour = Place::stock(rig.path("neighbour.wasm"), Guest::SIMULATED);
    let witness = Some(rig.audit.witness());
    configuration = configuration.simulated(NEIGHBOUR, neighbour.path(), witness);
    let mut running = rig.gateway(&configuration);
    expect_failures(&mut running);
    running.flows().await;
    for round in 1..=rounds {
        let regular = if round == 1 { REGULAR } else { REGULAR_AGAIN };
        all_read(&mut running, regular).await;
        for (place, bad) in places.iter().zip(&KINDS) {
            place.put_bytes(&bad.bytes(round));
        }
        for bad in &KINDS {
            let what = format!("{} has failed {round} times", bad.name);
            let history = running
                .wait(&what, DEADLINE, |now| {
                    failures(now, bad.name).count() >= round
                })
                .await;
            let end = failures(&history, bad.name).last().unwrap();
            let reason = end.reason.as_deref().unwrap_or_default();
            assert_eq!(end.outcome, bad.outcome, "{}: {end:?}", bad.name);
            assert!(reason.starts_with(bad.reason), "{}: {end:?}", bad.name);
        }
    }
    all_read(&mut running, u64::from(READINGS_EACH_PER_S)).await;
    // Mended files are taken.
    let before = running.history().swaps().len();
    for place in &mut places {
        place.put(Guest::SIMULATED);
    }
    let history = running
        .wait("the mended files are swapped in", DEADLINE, |now| {
            now.swaps().len() >= before + KINDS.len()
        })
        .await;
    let mended: Vec<_> = history.swaps().skip(before).collect();
    assert!(
        mended.iter().all(|swap| swap.outcome == "swapped"),
        "{mended:?}"
    );
    let (history, balance) = rig.settle(running).await;
    println!(
        "FIGURE bad candidates: {} of {} kinds; {balance:?}",
        rounds * KINDS.len(),
        KINDS.len()
    );
    assert!(history.swaps().all(|swap| swap.new_sessions == 0));
    assert_eq!(history.sessions(), 1, "the link never noticed");
    assert_eq!(rig.proxy.counts().borrow().connects, 1);
    assert_eq!(
        (balance.missing, balance.out_of_order),
        (0, 0),
        "{balance:?}"
    );
}

/// What bad candidates make the gateway log.
fn expect_failures(running: &mut Running) {
    running.expect_error(Provoked::CandidateRefused);
    running.expect_error(Provoked::PluginFailed);
    running.expect_error(Provoked::GuestPanicked);
}
