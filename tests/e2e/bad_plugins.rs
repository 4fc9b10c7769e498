//! Components that trap, hang, eat memory, are of the wrong world or half-written: the old generation goes on, and so
//! does everybody else.

use std::time::Duration;

use moorline::demo::gateway::History;
use moorline_tests::errors::Provoked;
use moorline_tests::mosquitto;
use moorline_tests::plugins::{Guest, Place, dear_to_compile};
use moorline_tests::rig::{Rig, Running};

const DEADLINE: Duration = Duration::from_secs(30);

struct Bench {
    rig: Rig,
    running: Running,
    place: Place,
}

/// Two connectors; the candidate goes to the place of the first.
async fn bench() -> Option<Bench> {
    let rig = Rig::start(mosquitto()?).await;
    let place = Place::stock(rig.path("first.wasm"), Guest::SIMULATED);
    let other = Place::stock(rig.path("second.wasm"), Guest::SIMULATED);
    let configuration = rig
        .configuration()
        .simulated("first", place.path(), Some(rig.audit.witness()))
        .simulated("second", other.path(), None);
    let mut running = rig.gateway(&configuration);
    running.flows().await;
    let both = |now: &History| {
        ["first", "second"]
            .iter()
            .all(|name| readings(now, name) > 0)
    };
    running.wait("both connectors read", DEADLINE, both).await;
    Some(Bench {
        rig,
        running,
        place,
    })
}

fn readings(history: &History, connector: &str) -> u64 {
    history
        .now
        .connectors
        .iter()
        .find(|entry| entry.name == connector)
        .map_or(0, |entry| entry.readings)
}

impl Bench {
    /// What the candidate does on probation, besides being rolled back.
    fn provokes(&mut self, provoked: &[Provoked]) {
        for one in provoked {
            self.running.expect_error(*one);
        }
    }

    /// Waits for the candidate's end, checks that both connectors go on, and that nothing was lost.
    async fn expect_refusal(mut self, words: &[&str]) {
        self.running.expect_error(Provoked::CandidateRefused);
        let history = self
            .running
            .wait("the candidate is refused or rolled back", DEADLINE, |now| {
                now.swaps().any(|swap| swap.outcome != "swapped")
            })
            .await;
        let swap = history.swaps().last().unwrap().clone();
        assert_ne!(swap.outcome, "swapped", "{swap:?}");
        assert_eq!(swap.new_sessions, 0);
        let reason = swap.reason.unwrap_or_default().to_lowercase();
        assert!(
            words.iter().any(|word| reason.contains(word)),
            "{reason:?} names none of {words:?}"
        );
        for connector in ["first", "second"] {
            let before = readings(&history, connector);
            let what = format!("{connector} goes on");
            self.running
                .wait(&what, DEADLINE, |now| {
                    readings(now, connector) > before + 500
                })
                .await;
        }
        let refused = history.swaps().len();
        // The mended file is taken.
        self.place.put(Guest::SIMULATED);
        let swapped = |now: &History| {
            now.swaps().len() > refused
                && now
                    .swaps()
                    .last()
                    .is_some_and(|swap| swap.outcome == "swapped")
        };
        self.running
            .wait("the mended file is swapped in", DEADLINE, swapped)
            .await;
        let (history, balance) = self.rig.settle(self.running).await;
        assert_eq!(
            (balance.missing, balance.out_of_order),
            (0, 0),
            "{balance:?}"
        );
        assert_eq!(history.sessions(), 1, "the link never noticed");
    }
}

#[tokio::test]
async fn one_that_traps() {
    let Some(mut bench) = bench().await else {
        return;
    };
    bench.provokes(&[Provoked::PluginFailed, Provoked::GuestPanicked]);
    bench.place.put(Guest::CONNECTOR_TRAP);
    bench
        .expect_refusal(&["trap", "unreachable", "panic"])
        .await;
}

#[tokio::test]
async fn one_that_hangs() {
    let Some(mut bench) = bench().await else {
        return;
    };
    bench.provokes(&[Provoked::PluginFailed]);
    bench.place.put(Guest::CONNECTOR_HANG);
    bench
        .expect_refusal(&["deadline", "too long", "did not return"])
        .await;
}

#[tokio::test]
async fn one_that_eats_memory() {
    let Some(mut bench) = bench().await else {
        return;
    };
    bench.provokes(&[Provoked::PluginFailed]);
    bench.place.put(Guest::CONNECTOR_MEMORY);
    bench
        .expect_refusal(&["memory", "trap", "unreachable"])
        .await;
}

#[tokio::test]
async fn one_of_the_wrong_world() {
    let Some(mut bench) = bench().await else {
        return;
    };
    bench.place.put(Guest::FULL_JITTER);
    bench
        .expect_refusal(&["world", "connector-guest", "export"])
        .await;
}

#[tokio::test]
async fn one_that_is_no_component() {
    let Some(bench) = bench().await else { return };
    bench.place.put_bytes(b"<html>404</html>");
    bench.expect_refusal(&["component", "magic", "wasm"]).await;
}

/// Half a megabyte that would take the compiler gigabytes and minutes.
#[tokio::test]
async fn one_that_is_dear_to_compile() {
    let Some(bench) = bench().await else { return };
    bench.place.put_bytes(&dear_to_compile(49_000, 5_000));
    bench
        .expect_refusal(&["exceeded a limit: compiling it takes more than"])
        .await;
}

#[tokio::test]
async fn one_that_is_half_written() {
    let Some(bench) = bench().await else { return };
    let whole = Guest::SIMULATED.bytes();
    bench.place.overwrite(&whole[..whole.len() / 2]);
    bench
        .expect_refusal(&[
            "component",
            "unexpected end",
            "truncated",
            "half",
            "incomplete",
            "unexpected",
        ])
        .await;
}
