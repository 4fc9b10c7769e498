//! Every row of `docs/disconnects.md`, played by a hostile peer on 3.1.1 and on 5.0, with timings by seed.
//!
//! What must come of it is written down by hand in [`cases`] and compared exactly: cause, fault, certainty, phase, codes, how
//! the transport ended, and what the host does then. Nothing may hang, nothing may be tried faster than the floor allows, and
//! no sentence may say "unknown". `docs/hostile.md` lists how often each row is played; a row without a case fails.
//!
//! `MOORLINE_SEED` plays other timings, `MOORLINE_BLESS=1` writes the list anew.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use moorline_core::link::backoff::Random;
use moorline_core::link::cause::{Cause, Intent, MqttVersion, Phase};
use moorline_core::link::policy::PolicyFault;
use moorline_core::link::{DecidedBy, Next, Record};
use tokio::sync::Semaphore;

use super::super::DisconnectRecord;
use super::rig::Rig;

mod cases;
mod stage;

use cases::{Case, Stage, Then, cases};

/// What a whole run is made of, where nobody asks for another.
const SEED: u64 = 20_261_123;
/// How often each case is played, each time with other timings.
const ROUNDS: u64 = 3;
/// A machine that is busy with something else gets so many more chances.
const REPEATS_MAX: u32 = 3;
/// So many links and brokers at the same time.
const AT_ONCE: usize = 10;
/// How long the link is looked at after what was expected came.
const AFTERWARDS: Duration = Duration::from_millis(300);
/// The suite's floor and ceiling: far enough apart to tell them from each other.
const FLOOR: Duration = Duration::from_millis(40);
const CEILING: Duration = Duration::from_millis(160);

/// What differs from one round to the next.
#[derive(Clone, Copy, Debug)]
struct Timing {
    /// Before the decisive act.
    pause: Duration,
    /// The peer's bytes come one by one.
    trickle: bool,
    /// Readings are on their way from the beginning.
    loaded: bool,
    /// The session counts as stable from its first acknowledgement on.
    stable: bool,
}

impl Timing {
    fn of(seed: u64) -> Self {
        let mut random = Random::seeded(seed);
        let coin = |random: &mut Random| random.next_u32().is_multiple_of(2);
        Self {
            pause: Duration::from_millis(u64::from(random.next_u32() % 120)),
            trickle: coin(&mut random),
            loaded: coin(&mut random),
            stable: coin(&mut random),
        }
    }
}

fn seed() -> u64 {
    let asked = std::env::var("MOORLINE_SEED").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(SEED)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_row_of_the_table_ends_as_it_must() {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = Vec::new();
    for round in 0..ROUNDS {
        for (number, case) in cases().into_iter().enumerate() {
            let room = Arc::clone(&room);
            let seed = seed()
                .wrapping_mul(1_000_003)
                .wrapping_add(round * 1000 + u64::try_from(number).unwrap_or(u64::MAX));
            running.push(tokio::spawn(async move {
                let _place = room.acquire().await;
                play(&case, Timing::of(seed)).await;
            }));
        }
    }
    let mut failed = 0;
    for case in running {
        // Its own words are on standard error.
        failed += u32::from(case.await.is_err());
    }
    assert_eq!(failed, 0, "cases failed; seed {}", seed());
}

async fn play(case: &Case, timing: Timing) {
    if matches!(case.stage, Stage::Stop) {
        let last = stage::set(case, timing).await.stopped().await;
        return check(case, timing, &last);
    }
    let mut scene = stage::set(case, timing).await;
    let mut found = scene.rig.disconnect(case.nth).await;
    for _ in 0..REPEATS_MAX {
        if found.record.disconnect.cause != Cause::HostStarved {
            break;
        }
        // True, and no word about the peer: this machine did not run the test.
        scene = stage::set(case, timing).await;
        found = scene.rig.disconnect(case.nth).await;
    }
    check(case, timing, &found);
    tokio::time::sleep(AFTERWARDS).await;
    check_pace(case, timing, &scene.rig);
}

fn check(case: &Case, timing: Timing, found: &DisconnectRecord) {
    let Record { disconnect, .. } = &found.record;
    let evidence = &disconnect.evidence;
    let context = || format!("{case:?}\n{timing:?}\n{}", found.text);
    assert_eq!(
        (disconnect.cause, disconnect.cause.fault()),
        (case.row, case.fault),
        "{}",
        context()
    );
    assert_eq!(
        (disconnect.certainty, disconnect.phase, disconnect.version),
        (case.certainty, case.phase, case.version),
        "{}",
        context()
    );
    assert_eq!(
        (evidence.reason_code, evidence.errno, evidence.transport_end),
        (case.code, case.errno, case.end),
        "{}",
        context()
    );
    let told = match case.phase {
        Phase::Session if case.row == Cause::HostRestarted => true,
        Phase::Session => {
            evidence.session.is_some()
                && evidence.keep_alive.is_some()
                && evidence.last_sent.is_some()
                && evidence.last_received.is_some()
                && evidence.silence.is_some()
                && evidence.since_sent.is_some()
        }
        Phase::Connect => evidence.last_sent == Some("CONNECT"),
        Phase::Dns | Phase::Tcp | Phase::Proxy | Phase::Tls | Phase::WebSocket => {
            evidence.detail.is_some()
        }
    };
    assert!(told, "evidence is missing: {evidence:?}\n{}", context());
    check_then(case, timing, &found.record);
}

fn check_then(case: &Case, timing: Timing, record: &Record) {
    let within = |least: Duration, most: Duration| match record.next {
        Next::Retry(wait) => wait >= least && wait <= most,
        Next::Parked(_) | Next::Stopped => false,
    };
    let advised = DecidedBy::Fallback(PolicyFault::Absent);
    let (decided_by, holds) = match case.then {
        Then::Once if timing.stable && case.acknowledges() => {
            (advised, within(Duration::ZERO, FLOOR))
        }
        Then::Once | Then::BackOff => (advised, within(FLOOR, CEILING)),
        Then::Quota => (
            advised,
            within(Duration::from_secs(30), Duration::from_secs(60)),
        ),
        Then::Ceiling => (advised, within(CEILING, CEILING)),
        Then::Yield => (
            advised,
            within(Duration::from_secs(600), Duration::from_secs(900)),
        ),
        Then::AtOnce => (DecidedBy::Host, within(Duration::ZERO, Duration::ZERO)),
        Then::Parked(reason) => (DecidedBy::Host, record.next == Next::Parked(reason)),
        Then::Stopped => (DecidedBy::Host, record.next == Next::Stopped),
    };
    assert!(
        holds && record.decided_by == decided_by,
        "{:?} by {:?}\n{case:?}\n{timing:?}",
        record.next,
        record.decided_by
    );
}

/// No attempt ends sooner than it may begin.
fn check_pace(case: &Case, timing: Timing, rig: &Rig) {
    let status = rig.status.borrow();
    let records: Vec<&Record> = status
        .disconnects
        .iter()
        .map(|found| &found.record)
        .collect();
    for pair in records.windows(2) {
        let [before, after] = pair else { continue };
        let Next::Retry(wait) = before.next else {
            panic!("{:?} was no end\n{case:?}\n{timing:?}", before.next);
        };
        let at_once = before.decided_by == DecidedBy::Host
            || timing.stable && case.acknowledges() && case.then == Then::Once;
        assert!(
            wait >= FLOOR || at_once,
            "only {wait:?} after {}\n{case:?}\n{timing:?}",
            before.disconnect
        );
        let apart = after.at.saturating_since(before.at);
        assert!(apart >= wait, "{apart:?} < {wait:?}\n{case:?}\n{timing:?}");
    }
}

fn rows() -> impl Iterator<Item = Cause> {
    Cause::ROWS.into_iter().chain(Intent::ALL.map(Cause::Local))
}

/// Whether two causes are one row of the table.
fn same_row(one: Cause, other: Cause) -> bool {
    let row = |cause: Cause| (cause.name(), cause.words(), cause.class(), cause.fault());
    row(one) == row(other)
}

/// The rows that take more than a peer, and where they are played: file and test.
const ELSEWHERE: [(Cause, &str, &str); 3] = [
    (
        Cause::HostStarved,
        "tests/e2e/starvation.rs",
        "a_broker_that_gave_a_stopped_gateway_up_is_not_blamed",
    ),
    (
        Cause::HostSuspended,
        "runtime/core/src/link/tests.rs",
        "a_host_that_did_not_run_us_is_blamed_for_what_followed",
    ),
    (
        Cause::LocalResource,
        "tests/e2e/faults.rs",
        "a_gateway_without_descriptors_blames_its_own_machine_and_comes_back",
    ),
];

#[test]
fn every_row_is_played_in_every_version_that_has_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let cases = cases();
    let mut list = String::from(INTRODUCTION);
    let mut missing = BTreeSet::new();
    for row in rows() {
        let count = |version| {
            let of = |case: &&Case| case.version == version && same_row(case.row, row);
            cases.iter().filter(of).count()
        };
        let (v311, v5) = (count(MqttVersion::V311), count(MqttVersion::V5));
        let elsewhere = ELSEWHERE.iter().find(|(cause, _, _)| *cause == row);
        let in_words = |count: usize, only_v5| match (count, elsewhere) {
            (0, Some(_)) => "elsewhere".to_owned(),
            (0, None) if only_v5 => "not in 3.1.1".to_owned(),
            (count, _) => count.to_string(),
        };
        let only_v5 = cases::ONLY_IN_5.contains(&row);
        let place = elsewhere.map_or_else(String::new, |(_, file, test)| {
            let text = std::fs::read_to_string(root.join(file)).expect("the file is there");
            assert!(text.contains(&format!("fn {test}()")), "{test} in {file}");
            format!("`{file}`: `{test}`")
        });
        writeln!(
            list,
            "| `{}` | {} | {} | {} | {place} |",
            row.name(),
            row.words(),
            in_words(v311, only_v5),
            in_words(v5, false),
        )
        .expect("a string takes everything");
        if elsewhere.is_none() && (v5 == 0 || (v311 == 0) != only_v5) {
            missing.insert(format!("{row:?}: 3.1.1 {v311}, 5.0 {v5}"));
        }
    }
    assert!(missing.is_empty(), "rows without a case: {missing:#?}");
    let strays: Vec<_> = cases
        .iter()
        .filter(|case| !rows().any(|row| same_row(case.row, row)))
        .collect();
    assert!(strays.is_empty(), "cases of no row: {strays:?}");
    let file = root.join("docs/hostile.md");
    if std::env::var_os("MOORLINE_BLESS").is_some() {
        std::fs::write(&file, &list).expect("docs can be written");
    }
    let shown = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(shown, list, "docs/hostile.md is not what is played");
}

const INTRODUCTION: &str = "\
# What is played against the link

Each row of [the table of disconnects](disconnects.md) is played by a scripted peer against the link as it ships, over real
sockets and a real spool, on 3.1.1 and on 5.0. Each case is played three times with timings by seed: before or after a pause,
bytes one by one or together, with readings under way or without, with a session that counts as stable or not. Cause, fault,
certainty, phase, code, errno, how the transport ended and what the host does then are compared exactly; nothing may hang, and
nothing may be tried sooner than the floor allows. `cargo test -p moorline hostile` plays it, `MOORLINE_SEED=n` with other
timings.

| cause | what happened | cases in 3.1.1 | cases in 5.0 | where else |
|---|---|---|---|---|
";
