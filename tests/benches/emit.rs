//! What one `emit` costs a guest: the call, the conversion at the boundary, and the spool's acceptance. Measured by the
//! guest's own clock in the real plugin host over a real spool that nobody drains. And what report strategies add or spare.

#![expect(clippy::print_stdout, reason = "the table is the result")]

use std::time::Duration;

use moorline::clock::Clock;
use moorline::plugins::{
    self, ConnectorSettings, DeliveryRefused, Grants, Limits, Platform, PluginSettings, Succession,
};
use moorline::spool::{self, SpoolSettings};
use moorline_core::message::{DeviceName, Downlink, Uplink};
use moorline_core::report::{Deadband, Pattern, Rule, Rules, Strategy};
use moorline_core::swap;
use moorline_core::trust;
use moorline_tests::plugins::Guest;
use tokio::sync::watch;

const BATCHES: [u64; 3] = [1, 32, 256];
const CALLS: u64 = 200;
const ROUNDS: usize = 20;
const READ_BYTES: usize = 1 << 20;
const READ_RECORDS: usize = 4_096;

#[tokio::main]
async fn main() {
    println!("one emit, median of {ROUNDS} rounds of {CALLS} calls, by the guest's clock");
    let change = Strategy::OnChange(Deadband::default());
    let elsewhere = Rule {
        device: Pattern::new("another device"),
        key: Pattern::Any,
        strategy: change,
    };
    for (name, rules) in [
        ("no strategy", Rules::default()),
        (
            "a strategy for another device",
            Rules::new(vec![elsewhere], Strategy::OnReceived),
        ),
        (
            "on change, and nothing changes",
            Rules::new(Vec::new(), change),
        ),
    ] {
        println!("{name}:");
        measure(rules).await;
    }
}

/// What is measured is the way, not the gate in it.
fn ungated() -> Limits {
    Limits {
        cpu_percent: 100,
        emit_readings_per_s: u64::MAX,
        ..Limits::default()
    }
}

async fn measure(report: Rules) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let component = directory.path().join("burst.wasm");
    std::fs::write(&component, Guest::BURST.bytes()).expect("a file");
    let mut settings = SpoolSettings::new(directory.path().join("spool"));
    if let Some(telemetry) = settings.telemetry_mut() {
        telemetry.bytes_max = 1 << 30;
    }
    let (spool, appender, mut outlet, _) = spool::open(settings, Clock::start()).expect("a spool");
    let connector = ConnectorSettings {
        name: "burst".into(),
        component,
        configuration: serde_json::json!({}),
        connections: Vec::new(),
        report,
        limits: ungated(),
        grants: Grants::default(),
        succession: Succession::default(),
    };
    let settings = PluginSettings {
        cache_directory: directory.path().join("compiled"),
        cache_bytes_max: u64::MAX,
        ledger_directory: directory.path().join("state"),
        trust: trust::Settings::default(),
        state_directory: directory.path().join("plugins"),
        connectors: vec![connector],
        policy: None,
        swap: swap::Settings::default(),
    };
    let (_up, link_up) = watch::channel(true);
    let (_gap, gaps) = watch::channel(0);
    let platform = Platform { link_up, gaps };
    let plugins = plugins::start(settings, appender, platform, Clock::start())
        .await
        .expect("a host");
    let mut spooled = outlet.status();
    for batch in BATCHES {
        let mut rounds = Vec::new();
        for round in 0..ROUNDS {
            ask(&plugins, batch, round as u64).await;
            let [taken, refused, took_us] = loop {
                let (records, _) = outlet
                    .read(READ_BYTES, READ_RECORDS)
                    .await
                    .expect("a spool");
                let Some(last) = records.last() else {
                    spooled.changed().await.expect("a spool");
                    continue;
                };
                outlet.ack(last.turn, 0).await;
                if let Some(answer) = records.iter().find_map(|record| answer(&record.uplink)) {
                    break answer;
                }
            };
            rounds.push((took_us / taken.max(1.0), refused));
        }
        rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (call_us, _) = rounds[ROUNDS / 2];
        let refused: f64 = rounds.iter().map(|(_, refused)| refused).sum();
        println!(
            "batch {batch:>3}: {call_us:>8.1} µs a call, {:>7.3} µs a reading; refused {refused}",
            call_us / batch as f64
        );
    }
    plugins.stop(Duration::from_secs(5)).await;
    spool.close().await.expect("a clean end");
}

/// Asks for a burst, as soon as the guest is there.
async fn ask(plugins: &plugins::Plugins, batch: u64, request_id: u64) {
    loop {
        let rpc = Downlink::Rpc {
            device: DeviceName::try_new("burst").expect("a name"),
            request_id,
            method: "burst".into(),
            params: format!("[{batch},{CALLS}]"),
        };
        match plugins.deliver(rpc).await {
            Ok(()) => return,
            Err(DeliveryRefused::UnknownDevice | DeliveryRefused::Busy) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(DeliveryRefused::Stopping) => panic!("the host stopped"),
        }
    }
}

fn answer(uplink: &Uplink) -> Option<[f64; 3]> {
    match uplink {
        Uplink::RpcReply { body, .. } => Some(serde_json::from_str(body).expect("three numbers")),
        Uplink::Telemetry(_)
        | Uplink::Attributes { .. }
        | Uplink::DeviceConnected { .. }
        | Uplink::DeviceDisconnected { .. }
        | Uplink::Gateway { .. }
        | Uplink::GatewayAttributes { .. }
        | Uplink::Letter { .. } => None,
    }
}
