//! How late the readings of a well-behaved connector reach a subscriber, alone and beside seven guests that want too much.
//!
//! Three gateways, each with a broker of its own: one has the neighbour alone, one has it beside the seven, and one is like the
//! first, so that what the machine does by itself is seen, too. They take turns of some seconds, in which the others stand still
//! (SIGSTOP): what the machine does at any time, it does to all of them alike.

#![expect(clippy::print_stdout, reason = "the table is the result")]

use std::time::Duration;

use moorline_tests::configuration::Configuration;
use moorline_tests::errors::Provoked;
use moorline_tests::netns::now_ms;
use moorline_tests::plugins::{Guest, Place};
use moorline_tests::punctuality::{Arrival, Punctuality};
use moorline_tests::rig::{Rig, Running};
use moorline_tests::{hostile, mosquitto};
use rustix::process::{Pid, Signal, kill_process};

const ROUNDS: usize = 20;
/// From the moment a gateway goes on, until its backlog is gone.
const SETTLE: Duration = Duration::from_secs(1);
const MEASURED: Duration = Duration::from_secs(4);
const DEADLINE: Duration = Duration::from_secs(60);
/// Of the neighbour, each second, and how often.
const READINGS_PER_S: u32 = 200;
const DEVICES: u32 = 4;
const PERIOD: &str = "key = \"seq\"\nperiod_ms = 20\n";
const NEIGHBOUR: &str = "good";

/// A gateway that has its turns.
struct Party {
    what: &'static str,
    running: Running,
    platform: Punctuality,
    rounds: Vec<Vec<u64>>,
    _rig: Rig,
}

impl Party {
    /// Its readings flow, and it stands still.
    async fn start(what: &'static str, hostiles: bool) -> Option<Self> {
        let rig = Rig::start(mosquitto()?).await;
        let platform = Punctuality::start(rig.broker.address()).await;
        let good = Place::stock(rig.path("good.wasm"), Guest::SIMULATED);
        let lines = if hostiles {
            hostile::lines(&rig)
        } else {
            String::new()
        };
        // As shipped: the link must bear that its process stands still for the turns of the others.
        let configuration = Configuration::as_shipped(&rig.state_dir(), rig.proxy.address())
            .simulated_at(NEIGHBOUR, good.path(), None, DEVICES, READINGS_PER_S)
            .replaced("key = \"seq\"\n", PERIOD)
            .with(&lines);
        if hostiles {
            hostile::let_loose(&rig);
        }
        let mut running = rig.gateway(&configuration);
        if hostiles {
            running.expect_error(Provoked::PluginFailed);
            running
                .wait("every limit that is exceeded is named", DEADLINE, |now| {
                    hostile::all_named(now)
                })
                .await;
        }
        running
            .wait("readings flow", DEADLINE, |now| {
                now.now.spool.accepted_readings > 0
            })
            .await;
        let party = Self {
            what,
            running,
            platform,
            rounds: Vec::new(),
            _rig: rig,
        };
        party.signal(Signal::STOP);
        Some(party)
    }

    fn signal(&self, signal: Signal) {
        let pid = self
            .running
            .gateway
            .pid()
            .and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.and_then(Pid::from_raw).expect("a process");
        kill_process(pid, signal).expect("a signal");
    }

    async fn turn(&mut self) {
        self.signal(Signal::CONT);
        tokio::time::sleep(SETTLE).await;
        let began_ms = now_ms();
        tokio::time::sleep(MEASURED).await;
        let arrivals = self.platform.since(began_ms);
        self.signal(Signal::STOP);
        let of_neighbour = arrivals
            .iter()
            .filter(|arrival| arrival.device.starts_with(NEIGHBOUR));
        let mut late_us: Vec<u64> = of_neighbour.map(Arrival::behind_us).collect();
        late_us.sort_unstable();
        assert!(late_us.len() > 100, "{}: {}", self.what, late_us.len());
        self.rounds.push(late_us);
    }

    fn all(&self) -> Vec<u64> {
        let mut all = self.rounds.concat();
        all.sort_unstable();
        all
    }

    fn print(&self, alone: &[u64]) {
        let all = self.all();
        let of_rounds = {
            let mut each: Vec<u64> = self.rounds.iter().map(|round| at(round, 990)).collect();
            each.sort_unstable();
            milliseconds(at(&each, 500))
        };
        print!("{:<28}{:>8}", self.what, all.len());
        for per_mille in [500, 900, 990, 999] {
            print!("{:>9.2}", milliseconds(at(&all, per_mille)));
        }
        let more = at(&all, 990) as f64 / at(alone, 990) as f64;
        println!("{of_rounds:>16.2}{more:>14.2}");
    }
}

fn at(ascending: &[u64], per_mille: usize) -> u64 {
    ascending[ascending.len() * per_mille / 1_000]
}

fn milliseconds(us: u64) -> f64 {
    us as f64 / 1_000.0
}

#[tokio::main]
async fn main() {
    let cast = [
        ("alone", false),
        ("beside seven hostile guests", true),
        ("alone, another", false),
    ];
    let mut parties = Vec::new();
    for (what, hostiles) in cast {
        let Some(party) = Party::start(what, hostiles).await else {
            return;
        };
        parties.push(party);
    }
    let count = parties.len();
    for round in 0..ROUNDS {
        for turn in 0..count {
            parties[(turn + round) % count].turn().await;
        }
    }
    println!(
        "milliseconds from a reading's timestamp to a subscriber, {ROUNDS} turns of {MEASURED:?} each"
    );
    println!(
        "{:<28}{:>8}{:>9}{:>9}{:>9}{:>9}{:>16}{:>14}",
        "", "arrivals", "p50", "p90", "p99", "p99.9", "p99, median", "p99, ratio"
    );
    let alone = parties[0].all();
    for party in &parties {
        party.print(&alone);
    }
    for mut party in parties {
        party.signal(Signal::CONT);
        // Not what was written before it was stopped.
        let read = party.running.history().now.spool.accepted_readings;
        let history = party
            .running
            .wait("it reads on", DEADLINE, |history| {
                history.now.spool.accepted_readings > read
            })
            .await;
        assert_eq!(history.sessions(), 1, "the link never noticed");
    }
}
