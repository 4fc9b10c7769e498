//! Report strategies as a platform sees them: on change with a deadband, on period, and both, by device and connector,
//! through a swap of the plugin and a kill of the gateway.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use moorline_tests::configuration::Configuration;
use moorline_tests::mosquitto;
use moorline_tests::plugins::{Guest, Place};
use moorline_tests::rig::Rig;
use moorline_tests::subscriber::{Message, Subscriber};

const DEADLINE: Duration = Duration::from_secs(30);
const GRACE: Duration = Duration::from_secs(30);
const PERIOD_MS: i64 = 500;
/// The simulated devices count; each process begins another run.
const RUN: i64 = 1_000_000_000;

fn configuration(rig: &Rig, component: &std::path::Path) -> Configuration {
    let connector = |name: &str| {
        format!(
            "[[connector]]\nname = \"{name}\"\ncomponent = {component:?}\n[connector.config]\ndevices = 2\n\
             readings_per_second = 400\ndevice_prefix = \"{name}-\"\nkey = \"level\"\nperiod_ms = 20\n"
        )
    };
    rig.configuration()
        .with(&format!(
            "[report]\nstrategy = \"on-change-or-period\"\ndeadband = 1e6\nperiod_ms = {PERIOD_MS}"
        ))
        .with(&connector("own"))
        .with("[connector.report]\nstrategy = \"on-change\"\ndeadband = 9")
        .with(&format!(
            "[[connector.report.rule]]\ndevice = \"own-1\"\nkey = \"lev*\"\nstrategy = \"on-period\"\nperiod_ms = {PERIOD_MS}"
        ))
        .with(&connector("common"))
}

/// Time and value of each reading, by device. After a kill some may come twice.
fn readings(messages: &[Message]) -> BTreeMap<String, BTreeSet<(i64, i64)>> {
    let mut readings: BTreeMap<String, BTreeSet<(i64, i64)>> = BTreeMap::new();
    for message in messages {
        for (device, entries) in message.json().as_object().unwrap() {
            for entry in entries.as_array().unwrap() {
                let at_ms = entry["ts"].as_i64().unwrap();
                let level = entry["values"]["level"].as_i64().unwrap();
                let of_device = readings.entry(device.clone()).or_default();
                of_device.insert((at_ms, level));
            }
        }
    }
    readings
}

/// The readings of one process.
fn of_run(readings: &BTreeSet<(i64, i64)>, run: i64) -> Vec<(i64, i64)> {
    let of_run = readings.iter().filter(|(_, level)| level / RUN == run);
    of_run.copied().collect()
}

fn assert_each_tenth(readings: &[(i64, i64)]) {
    let levels: Vec<i64> = readings.iter().map(|(_, level)| level % RUN).collect();
    let expected: Vec<i64> = (0..).map(|n| 1 + 10 * n).take(levels.len()).collect();
    assert_eq!(
        levels, expected,
        "each number more than 9 from the last one"
    );
}

fn assert_one_each_period(readings: &[(i64, i64)]) {
    let first_ms = readings[0].0;
    let periods: Vec<i64> = readings
        .iter()
        .map(|(at_ms, _)| (at_ms - first_ms) / PERIOD_MS)
        .collect();
    assert!(
        periods.windows(2).all(|pair| pair[0] < pair[1]),
        "at most one in each: {readings:?}"
    );
    assert!(readings.len() >= 4, "{readings:?}");
}

#[tokio::test]
async fn a_platform_gets_what_changed_and_what_is_due() {
    let Some(kind) = mosquitto() else { return };
    let rig = Rig::start(kind).await;
    let platform = Subscriber::start(rig.broker.address(), "v1/gateway/telemetry").await;
    let mut place = Place::stock(rig.path("simulated.wasm"), Guest::SIMULATED);
    let mut running = rig.gateway(&configuration(&rig, place.path()));
    let reported = |now: &moorline::demo::gateway::History, connector: usize, readings| {
        let found = now.now.connectors.get(connector);
        found.is_some_and(|connector| connector.readings >= readings)
    };
    running
        .wait("a second of readings", DEADLINE, |now| {
            reported(now, 0, 20) && reported(now, 1, 4)
        })
        .await;
    place.put(Guest::SIMULATED);
    running
        .wait("both connectors are swapped", DEADLINE, |now| {
            now.swaps().len() == 2
        })
        .await;
    let swapped = running.history();
    running
        .wait("two seconds more", DEADLINE, |now| {
            reported(now, 0, swapped.now.connectors[0].readings + 40)
                && reported(now, 1, swapped.now.connectors[1].readings + 8)
        })
        .await;
    running.gateway.kill().await.unwrap();
    running.gateway.resume().unwrap();
    running
        .wait("a second of another process", DEADLINE, |now| {
            now.processes() == 2 && reported(now, 0, 20) && reported(now, 1, 8)
        })
        .await;
    let (status, history) = running.gateway.stop(GRACE).await.unwrap();
    assert!(status.success(), "{status}: {}", running.log_tail());

    let spool = &history.now.spool;
    let count = |messages: &[Message]| {
        readings(messages)
            .values()
            .map(BTreeSet::len)
            .sum::<usize>()
    };
    moorline_tests::eventually("everything accepted arrives", DEADLINE, || {
        let arrived = count(&platform.on("v1/gateway/telemetry")) as u64;
        (arrived >= spool.accepted_readings).then_some(())
    })
    .await;
    assert_eq!(spool.delivered_readings, spool.accepted_readings);
    let readings = readings(&platform.on("v1/gateway/telemetry"));
    for run in [1, 2] {
        assert_each_tenth(&of_run(&readings["own-0"], run));
        for device in ["own-1", "common-0", "common-1"] {
            let of_run = of_run(&readings[device], run);
            assert_eq!(of_run[0].1 % RUN, 1, "the first reading is always reported");
            assert_one_each_period(&of_run);
        }
    }
    for connector in &history.now.connectors {
        assert!(
            connector.suppressed_readings > 5 * connector.readings,
            "{connector:?}"
        );
        assert_eq!(connector.unfiltered_readings, 0);
    }
}
