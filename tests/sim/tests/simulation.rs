//! The fixed seeds, one seed by name, or as many as are asked for:
//!
//! ```text
//! cargo test -p moorline-sim --release
//! MOORLINE_SEEDS=100000 cargo test -p moorline-sim --release seeds
//! MOORLINE_SEED=17 cargo test -p moorline-sim --release seeds -- --nocapture
//! ```

use std::collections::BTreeMap;
use std::panic::catch_unwind;
use std::path::Path;

/// The seeds of every run. Between them they meet everything [`MUST_BE_MET`] names.
const SEEDS: u64 = 240;

/// What extended runs found, which no seed of every run meets: a tail that a second power cut made whole again (6409);
/// records that only the power kept, lost while the medium was away (5232); a packet too large whose number was shifted
/// under it (5128); a CONNECT read when a stalled broker woke (8439). All but the first were wrong in the oracles.
const ONCE_FAILED: [u64; 4] = [5128, 5232, 6409, 8439];

/// How many run side by side.
const THREADS: u64 = 2;

/// The seed whose trace is kept, so that a change of behaviour is seen as one.
const GOLDEN_SEED: u64 = 7;

/// Every class of causes, remedy, reason to park, decider and end of a gateway's life.
const MUST_BE_MET: &str = "
class NameResolution|class ConnectRefused|class Unreachable|class ConnectTimeout|class Tls|class Proxy|
class ConnackTimeout|class ClosedBeforeConnack|class VersionRefused|class IdentityRefused|class CredentialsRefused|
class ServerUnavailable|class Quota|class ServerMoved|class OptionUnsupported|class ClosedByServer|class Reset|
class TakenOver|class ShuttingDown|class KeepAlive|class Administrative|class Protocol|class PacketRefused|
class PeerGarbage|class PingrespTimeout|class WriteStalled|class BlackHole|class AckTimeout|class Local|
class HostRestart|
cause closed-by-server|cause closed-by-server-takeover-or-access|cause closed-by-server-poison|
cause closed-by-server-keep-alive|cause local-resource|cause server-reason|cause taken-over|
remedy RetryOnceThenBackOff|remedy BackOff|remedy BackOffFrom|remedy SlowLane|remedy FallBackVersion|
remedy YieldToTakeover|remedy Park|remedy Nothing|
parked ClientId|parked Option|parked Proxy|parked DuplicateClientId|parked Version|parked Policy|
decided Policy|decided Host|decided Fallback(Absent)|decided Fallback(Trapped)|decided Fallback(Stalled)|
next Retry|next Stopped|Certain|Inferred|up 5.0|up 3.1.1|
cursor Fresh|cursor Whole|cursor OneSlot|evicted|oversize|refused by the broker|acknowledgement of nothing|
borne in memory: no space left|borne in memory: the storage refuses writes|dropped at once|started without its medium|taken up|
given up in flight, and delivered|given up in flight, and lost|journal failed|a journal's records found|sent side by side|
commit failed: input/output error (os error 5)|checkpoint failed|prepare failed|
stopped in good order|operator unparks|downlink understood|downlink dropped|
fault Kill|fault PowerLoss|fault Freeze|fault Restart|fault Disk|fault NetworkFlaps|fault BlackHole|fault InterfaceDown|fault Takeover";

type Coverage = BTreeMap<String, u64>;

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().expect("a number"))
}

/// Every `step`th seed from `first` on: what was met, the virtual time, and which failed.
fn run_every(first: u64, step: usize, end: u64) -> (Coverage, u64, Vec<u64>) {
    let (mut coverage, mut virtual_s, mut failed) = (Coverage::new(), 0, Vec::new());
    for seed in (first..end).step_by(step) {
        match catch_unwind(|| moorline_sim::run(seed)) {
            Ok(outcome) => {
                virtual_s += outcome.virtual_s;
                for (what, count) in outcome.coverage {
                    *coverage.entry(what).or_default() += count;
                }
            }
            Err(_told_by_the_panic) => failed.push(seed),
        }
    }
    (coverage, virtual_s, failed)
}

#[test]
fn seeds_converge() {
    if let Some(seed) = number("MOORLINE_SEED") {
        println!("{}", moorline_sim::run(seed).trace.join("\n"));
        return;
    }
    let seeds = number("MOORLINE_SEEDS").unwrap_or(SEEDS);
    let started = std::time::Instant::now();
    let parts: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|first| scope.spawn(move || run_every(first, THREADS as usize, seeds)))
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let (mut coverage, mut virtual_s, mut failed) = (Coverage::new(), 0, Vec::new());
    for (met, seconds, more) in parts {
        virtual_s += seconds;
        failed.extend(more);
        for (what, count) in met {
            *coverage.entry(what).or_default() += count;
        }
    }
    for (what, count) in &coverage {
        println!("{count:>8} {what}");
    }
    let took = started.elapsed();
    println!("{seeds} seeds, {virtual_s} s of virtual time in {took:?}");
    assert!(failed.is_empty(), "seeds that fail: {failed:?}");
    let missed: Vec<_> = MUST_BE_MET
        .split('|')
        .map(str::trim)
        .filter(|what| !coverage.keys().any(|met| met.starts_with(what)))
        .collect();
    assert!(
        seeds < SEEDS || missed.is_empty(),
        "no seed met: {missed:?}"
    );
}

#[test]
fn seeds_that_once_failed_converge() {
    for seed in ONCE_FAILED {
        assert!(moorline_sim::run(seed).virtual_s > 0, "seed {seed}");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace_and_it_is_the_known_one() {
    let trace = moorline_sim::run(GOLDEN_SEED).trace.join("\n") + "\n";
    assert_eq!(
        trace,
        moorline_sim::run(GOLDEN_SEED).trace.join("\n") + "\n"
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/seed-7.trace");
    if number("MOORLINE_BLESS").is_some() {
        std::fs::write(&path, &trace).unwrap();
    }
    let known = std::fs::read_to_string(&path).unwrap();
    let differs = known
        .lines()
        .zip(trace.lines())
        .find(|(old, new)| old != new);
    assert!(
        known == trace,
        "the behaviour has changed, first here:\n{differs:#?}\nif that is right: MOORLINE_BLESS=1"
    );
}

#[test]
fn what_a_link_that_keeps_up_delivers_never_meets_the_disk() {
    for seed in 0..20 {
        let (before, after, delivered) = moorline_sim::run_quietly(seed);
        assert!(delivered > 500, "seed {seed}: {delivered}");
        assert_eq!(before, after, "seed {seed}: {delivered} delivered");
    }
}
