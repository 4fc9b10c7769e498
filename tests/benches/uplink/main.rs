//! Spool, link and broker, end to end at QoS 1, against the bare client without any store in the same run.
//!
//! Rounds alternate, so that all parties meet the same machine; a ratio is the median of the rounds' own ratios. Everybody
//! publishes the same bytes to the same topic, with as many in flight. There are two bare clients: one as it comes, which
//! makes a system call for each publish, and one that is told to write as many at once as the link does. The brokers are
//! Mosquitto as it comes and rumqttd, a release build of it, which `tests/run` makes; by hand it is
//! `cargo build --release --manifest-path tests/harness/rumqttd/Cargo.toml --target-dir target/brokers/rumqttd`.

#![expect(clippy::print_stdout, reason = "the table is the result")]

mod parties;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use moorline::demo::broker::Broker;
use moorline_tests::brokers::{Level, Make, RealBroker};
use moorline_tests::mosquitto;
use parties::{
    FEW_CONNECTORS, INFLIGHT, MANY_CONNECTORS, MESSAGES, READINGS_PER_BATCH, WRITE_BATCH,
    bare_client, batch, cpu, gateway, message,
};

const ROUNDS: usize = 7;

#[tokio::main]
async fn main() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    println!(
        "QoS 1, {MESSAGES} messages a round, median of {ROUNDS} rounds, {INFLIGHT} in flight; CPU is that of this process"
    );
    if let Some(kind) = mosquitto() {
        // As it comes: the tests' broker puts every change on disk, to survive its own kill -9.
        let place = directory.path().join("mosquitto");
        let broker = Broker::start_with(kind, &place, "persistence false")
            .await
            .expect("Mosquitto");
        compare("Mosquitto", broker.address(), &place).await;
    }
    if !Make::Rumqttd.is_fast() {
        println!("rumqttd: there is no release build of it, and another would say nothing");
        return;
    }
    let place = directory.path().join("rumqttd");
    if let Some(broker) = RealBroker::start(Make::Rumqttd, &place).await {
        compare("rumqttd", broker.address(Level::Five), &place).await;
    }
}

/// What the rounds of one party showed.
#[derive(Default)]
struct Figures {
    rates: Vec<f64>,
    cpu: Duration,
}

impl Figures {
    fn cpu_us(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / (MESSAGES as f64 * self.rates.len() as f64)
    }

    fn add(&mut self, rate: f64, since: Duration) {
        self.rates.push(rate);
        self.cpu += cpu().saturating_sub(since);
    }

    /// Of each round the ratio to the other's rate.
    fn ratio(&self, other: &Self) -> f64 {
        let ratios = self.rates.iter().zip(&other.rates);
        median(ratios.map(|(rate, other)| rate / other).collect())
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

async fn compare(name: &str, broker: SocketAddr, place: &Path) {
    let [mut bare, mut writing, mut moorline, mut many, mut readings] =
        std::array::from_fn(|_| Figures::default());
    let (message, batch) = (message(), batch());
    for round in 0..ROUNDS {
        // What comes first meets another machine than what comes last.
        for party in (0..5).map(|party| (party + round) % 5) {
            let before = cpu();
            let state = place.join(format!("{party}-{round}"));
            match party {
                0 => bare.add(bare_client(broker, 0).await, before),
                1 => {
                    let rate = gateway(broker, &state, &message, FEW_CONNECTORS).await;
                    moorline.add(rate, before);
                }
                2 => writing.add(bare_client(broker, WRITE_BATCH).await, before),
                3 => {
                    let rate = gateway(broker, &state, &message, MANY_CONNECTORS).await;
                    many.add(rate, before);
                }
                _ => {
                    let rate = gateway(broker, &state, &batch, FEW_CONNECTORS).await;
                    readings.add(rate, before);
                }
            }
        }
    }
    for (what, party) in [
        ("bare client, no store, as it comes".to_owned(), &bare),
        ("the same, writing 64 at once".to_owned(), &writing),
        (
            format!("spool and link, {FEW_CONNECTORS} connectors"),
            &moorline,
        ),
        (
            format!("spool and link, {MANY_CONNECTORS} connectors"),
            &many,
        ),
    ] {
        println!(
            "{name}: {what:<35} {:>9.0} messages/s  {:>5.1} µs CPU a message; of the bare client {:.2}, of the one that writes 64 at once {:.2}",
            median(party.rates.clone()),
            party.cpu_us(),
            party.ratio(&bare),
            party.ratio(&writing)
        );
    }
    println!(
        "{name}: {:<35} {:>9.0} readings/s  {:>6.2} µs CPU a reading",
        format!("batches of {READINGS_PER_BATCH}"),
        median(readings.rates.clone()) * READINGS_PER_BATCH as f64,
        readings.cpu_us() / READINGS_PER_BATCH as f64
    );
}
