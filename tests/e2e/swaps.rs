//! A hundred swaps while readings flow.

use std::time::Duration;

use moorline_tests::device::Device;
use moorline_tests::plugins::{Guest, Place};
use moorline_tests::rig::Rig;
use moorline_tests::{mosquitto, python};

const DEADLINE: Duration = Duration::from_secs(30);
const SWAPS: usize = 100;

/// Swaps alternate between the connector at 1 000 readings/s and the one that polls the device.
#[tokio::test]
async fn a_hundred_swaps_cost_no_session_and_no_reading() {
    let (Some(kind), Some(python)) = (mosquitto(), python()) else {
        return;
    };
    let rig = Rig::start(kind).await;
    let device = Device::start(&python).await;
    let mut simulated = Place::stock(rig.path("simulated.wasm"), Guest::SIMULATED);
    let mut modbus = Place::stock(rig.path("modbus.wasm"), Guest::MODBUS);
    let configuration = rig
        .configuration()
        .simulated("sim", simulated.path(), Some(rig.audit.witness()))
        .modbus("modbus", modbus.path(), device.address());
    let mut running = rig.gateway(&configuration);
    running.flows().await;
    running
        .wait("both connectors read", DEADLINE, |now| {
            now.now.connectors.iter().all(|c| c.readings > 0)
        })
        .await;
    let start = std::time::Instant::now();
    for swap in 1..=SWAPS {
        let turn = if swap % 2 == 1 {
            (&mut simulated, Guest::SIMULATED)
        } else {
            (&mut modbus, Guest::MODBUS)
        };
        turn.0.put(turn.1);
        running
            .wait(&format!("swap {swap} ends"), DEADLINE, |now| {
                now.swaps().len() >= swap
            })
            .await;
    }
    let took = start.elapsed();
    let (history, balance) = rig.settle(running).await;

    let swaps: Vec<_> = history.swaps().collect();
    assert_eq!(swaps.len(), SWAPS);
    assert!(
        swaps
            .iter()
            .all(|swap| swap.outcome == "swapped" && swap.new_sessions == 0),
        "{swaps:?}"
    );
    let mut gaps: Vec<f64> = swaps.iter().map(|swap| swap.gap_ms).collect();
    gaps.sort_by(f64::total_cmp);
    println!(
        "{SWAPS} swaps in {took:.1?}: gap p50 {:.2} ms, p99 {:.2} ms; {balance:?}",
        gaps[SWAPS / 2],
        gaps[SWAPS - 2]
    );

    let connects = rig.broker.log().unwrap().matches(" as e2e ").count();
    assert_eq!(connects, 1, "CONNECTs of the gateway in the broker's log");
    assert_eq!(
        rig.proxy.counts().borrow().connects,
        1,
        "CONNECTs on the wire"
    );
    assert_eq!(device.said().sessions, 1, "TCP sessions at the device");
    assert_eq!(
        (balance.missing, balance.out_of_order),
        (0, 0),
        "{balance:?}"
    );
    assert_eq!(balance.delivered, history.now.spool.accepted_readings);
    assert_eq!(
        balance.devices,
        u64::from(moorline_tests::configuration::DEVICES) + 1
    );
}
