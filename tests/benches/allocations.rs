//! Allocations and CPU time of the way from `append` to PUBACK, against the bare client: spool, link and client crate in this
//! process, Mosquitto outside.

#![expect(clippy::print_stdout, reason = "the table is the result")]

#[path = "uplink/parties.rs"]
mod parties;

use std::alloc::System;

use moorline::demo::broker::Broker;
use moorline_tests::mosquitto;
use parties::{
    FEW_CONNECTORS, INFLIGHT, MESSAGES, READINGS_PER_BATCH, WRITE_BATCH, bare_client, batch, cpu,
    gateway, message,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[tokio::main]
async fn main() {
    let Some(kind) = mosquitto() else { return };
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let place = directory.path().join("broker");
    let broker = Broker::start_with(kind, &place, "persistence false")
        .await
        .expect("Mosquitto");
    let broker = broker.address();
    println!(
        "{MESSAGES} messages at QoS 1 to Mosquitto, {INFLIGHT} in flight; start and end of the party included"
    );
    let before = Before::now();
    bare_client(broker, WRITE_BATCH).await;
    before.tell("bare client, a message", MESSAGES);
    let before = Before::now();
    gateway(
        broker,
        &directory.path().join("messages"),
        &message(),
        FEW_CONNECTORS,
    )
    .await;
    before.tell("spool and link, a message", MESSAGES);
    let before = Before::now();
    gateway(
        broker,
        &directory.path().join("readings"),
        &batch(),
        FEW_CONNECTORS,
    )
    .await;
    before.tell(
        &format!("spool and link, a reading of {READINGS_PER_BATCH}"),
        MESSAGES * READINGS_PER_BATCH,
    );
}

/// The state before a party.
struct Before {
    allocations: usize,
    reallocations: usize,
    bytes: usize,
    cpu: std::time::Duration,
}

impl Before {
    fn now() -> Self {
        let stats = ALLOCATOR.stats();
        Self {
            allocations: stats.allocations,
            reallocations: stats.reallocations,
            bytes: stats.bytes_allocated,
            cpu: cpu(),
        }
    }

    fn tell(self, what: &str, count: u64) {
        let now = Self::now();
        let each = |before: usize, after: usize| (after - before) as f64 / count as f64;
        println!(
            "{what:<32} {:>6.2} allocations, {:>5.2} reallocations, {:>7.0} bytes, {:>6.2} µs CPU",
            each(self.allocations, now.allocations),
            each(self.reallocations, now.reallocations),
            each(self.bytes, now.bytes),
            (now.cpu - self.cpu).as_secs_f64() * 1e6 / count as f64
        );
    }
}
