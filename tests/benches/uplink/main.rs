//! Spool, link and broker, end to end at QoS 1, against the bare client without any store in the same run.
//!
//! Rounds alternate, so that both meet the same machine; the ratio is that of the medians. The brokers are Mosquitto as it
//! comes and rumqttd; for the latter's own speed build it with
//! `cargo build --release --manifest-path tests/harness/rumqttd/Cargo.toml --target-dir target/brokers/rumqttd`.

#![expect(clippy::print_stdout, reason = "the table is the result")]

mod parties;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use moorline::demo::broker::Broker;
use moorline_core::message::Uplink;
use moorline_tests::brokers::{Level, Make, RealBroker};
use moorline_tests::mosquitto;
use parties::{INFLIGHT, MESSAGES, READINGS_PER_BATCH, bare_client, batch, cpu, gateway, message};

const ROUNDS: usize = 7;
/// In the tests' build rumqttd is slow.
const ROUNDS_RUMQTTD: usize = 3;

#[tokio::main]
async fn main() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    println!(
        "QoS 1, {MESSAGES} messages a round, median of the rounds, {INFLIGHT} in flight; CPU is that of this process"
    );
    if let Some(kind) = mosquitto() {
        // As it comes: the tests' broker puts every change on disk, to survive its own kill -9.
        let place = directory.path().join("mosquitto");
        let broker = Broker::start_with(kind, &place, "persistence false")
            .await
            .expect("Mosquitto");
        compare("Mosquitto", broker.address(), &place, ROUNDS).await;
    }
    let place = directory.path().join("rumqttd");
    if let Some(broker) = RealBroker::start(Make::Rumqttd, &place).await {
        let address = broker.address(Level::Five);
        compare("rumqttd", address, &place, ROUNDS_RUMQTTD).await;
    }
}

/// What the rounds of one party showed.
#[derive(Default)]
struct Figures {
    rates: Vec<f64>,
    cpu: Duration,
}

impl Figures {
    fn rate(&self) -> f64 {
        let mut rates = self.rates.clone();
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    }

    fn cpu_us(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / (MESSAGES as f64 * self.rates.len() as f64)
    }

    fn add(&mut self, rate: f64, since: Duration) {
        self.rates.push(rate);
        self.cpu += cpu().saturating_sub(since);
    }
}

async fn compare(name: &str, broker: SocketAddr, place: &Path, rounds: usize) {
    let (mut bare, mut moorline, mut readings) =
        (Figures::default(), Figures::default(), Figures::default());
    for round in 0..rounds {
        let before = cpu();
        bare.add(bare_client(broker).await, before);
        for (kind, uplink, figures) in [
            ("messages", message as fn(u64) -> Uplink, &mut moorline),
            ("readings", batch, &mut readings),
        ] {
            let state = place.join(format!("{kind}-{round}"));
            let before = cpu();
            figures.add(gateway(broker, &state, uplink).await, before);
        }
    }
    println!(
        "{name}: bare client, no store   {:>9.0} messages/s              {:>5.1} µs CPU a message",
        bare.rate(),
        bare.cpu_us()
    );
    println!(
        "{name}: spool and link          {:>9.0} messages/s  ratio {:.2}  {:>5.1} µs CPU a message",
        moorline.rate(),
        moorline.rate() / bare.rate(),
        moorline.cpu_us()
    );
    println!(
        "{name}: batches of {READINGS_PER_BATCH}           {:>9.0} readings/s              {:>5.2} µs CPU a reading",
        readings.rate() * READINGS_PER_BATCH as f64,
        readings.cpu_us() / READINGS_PER_BATCH as f64
    );
}
