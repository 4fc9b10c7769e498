//! A long outage at a high rate: live readings are there at once when the link is, and what had waited follows at several
//! times the rate at which it was made.
//!
//! 20 s by default; the full 120 s with `MOORLINE_EXTENDED=1`.

use std::collections::BTreeMap;
use std::time::Duration;

use moorline::fault_proxy::{Mode, Strike};
use moorline_tests::mosquitto;
use moorline_tests::netns::now_ms;
use moorline_tests::plugins::{Guest, Place};
use moorline_tests::punctuality::{Arrival, Punctuality};
use moorline_tests::rig::Rig;

const READINGS_PER_S: u32 = 5_000;
const DEVICES: u32 = 50;
const OUTAGE_S: u64 = 20;
const OUTAGE_EXTENDED_S: u64 = 120;
/// A backlog is drained at so many times the rate at which it was made.
const FACTOR_MIN: f64 = 5.0;
/// A reading made after link-up is no longer on its way than this.
const BEHIND_MS_MAX: u64 = 1_000;
const BEFORE: Duration = Duration::from_secs(3);
const DEADLINE: Duration = Duration::from_secs(60);
/// The link is watched for so long after the backlog is drained.
const AFTER: Duration = Duration::from_secs(3);

/// The live readings of one second after link-up.
#[derive(Clone, Copy, Debug, Default)]
struct Second {
    live: u64,
    historical: u64,
    behind_ms: u64,
}

/// Second by second after link-up.
fn seconds(arrivals: &[Arrival], up_ms: u64) -> Vec<Second> {
    let mut seconds: BTreeMap<usize, Second> = BTreeMap::new();
    for arrival in arrivals {
        let index = usize::try_from(arrival.at_ms().saturating_sub(up_ms) / 1_000).unwrap();
        let second = seconds.entry(index).or_default();
        if arrival.made_ms >= up_ms {
            second.live += arrival.readings;
            second.behind_ms = second.behind_ms.max(arrival.behind_ms());
        } else {
            second.historical += arrival.readings;
        }
    }
    let count = seconds.keys().next_back().map_or(0, |last| last + 1);
    (0..count)
        .map(|index| seconds.get(&index).copied().unwrap_or_default())
        .collect()
}

/// Devices whose readings came in another order than they were made in.
fn disordered<'a>(arrivals: impl IntoIterator<Item = &'a Arrival>) -> Vec<String> {
    let mut newest: BTreeMap<&str, u64> = BTreeMap::new();
    let mut disordered = Vec::new();
    for arrival in arrivals {
        let newest = newest.entry(&arrival.device).or_default();
        if arrival.made_ms < *newest {
            disordered.push(format!("{arrival:?} after {newest}"));
        }
        *newest = arrival.made_ms.max(*newest);
    }
    disordered
}

#[tokio::test]
async fn after_an_outage_live_readings_are_there_at_once_and_the_backlog_drains_fast() {
    let Some(kind) = mosquitto() else { return };
    let outage_s = if std::env::var_os("MOORLINE_EXTENDED").is_some() {
        OUTAGE_EXTENDED_S
    } else {
        OUTAGE_S
    };
    // It is not the broker that fails here: without persistence it is as fast as it is where people run it.
    let rig = Rig::start_with(kind, |_directory| "persistence false".to_owned()).await;
    let place = Place::stock(rig.path("simulated.wasm"), Guest::SIMULATED);
    let witness = Some(rig.audit.witness());
    let configuration = rig
        .configuration()
        .with("[spool]\nafter_outage = \"live-first\"\n")
        .simulated_at("sim", place.path(), witness, DEVICES, READINGS_PER_S);
    let punctuality = Punctuality::start(rig.broker.address()).await;
    let mut running = rig.gateway(&configuration);
    running.flows().await;
    tokio::time::sleep(BEFORE).await;

    rig.proxy.set(Mode::Refuse).await.unwrap();
    rig.proxy.strike(Strike::Reset).await.unwrap();
    let down_ms = now_ms();
    tokio::time::sleep(Duration::from_secs(outage_s)).await;
    let back_ms = now_ms();
    rig.proxy.set(Mode::Pass).await.unwrap();
    running
        .wait("the backlog is drained", DEADLINE, |now| {
            now.now.written_at_ms > back_ms
                && now.now.link.state == "up"
                && now.now.spool.depth_readings < u64::from(READINGS_PER_S)
        })
        .await;
    tokio::time::sleep(AFTER).await;
    let arrivals = punctuality.since(back_ms);
    let (history, balance) = rig.settle(running).await;

    let up_ms = arrivals.first().expect("readings after link-up").at_ms();
    // What was made while the link came up may be on either side.
    let historical: Vec<&Arrival> = arrivals.iter().filter(|of| of.made_ms < back_ms).collect();
    let backlog: u64 = historical.iter().map(|of| of.readings).sum();
    let drained_ms = historical.last().expect("a backlog").at_ms();
    let drain_s = (drained_ms - up_ms).max(1) as f64 / 1_000.0;
    let factor = backlog as f64 / drain_s / f64::from(READINGS_PER_S);
    let seconds = seconds(&arrivals, up_ms);
    println!(
        "FIGURE outage: {outage_s} s at {READINGS_PER_S}/s ({:.1} s without link), {backlog} readings drained in \
         {drain_s:.2} s: {factor:.1} times real time",
        (up_ms - down_ms) as f64 / 1_000.0
    );
    for (index, second) in seconds.iter().enumerate() {
        println!("second {:>2} after link-up: {second:?}", index + 1);
    }
    assert_eq!(balance.missing, 0, "{balance:?}");
    // Live readings overtake what had waited; among themselves both keep their order.
    assert_eq!(disordered(historical), [""; 0]);
    assert_eq!(
        disordered(arrivals.iter().filter(|of| of.made_ms >= up_ms)),
        [""; 0]
    );
    assert_eq!(balance.delivered, history.now.spool.accepted_readings);
    assert!(
        backlog >= outage_s * u64::from(READINGS_PER_S) * 9 / 10,
        "the connector kept its rate"
    );
    assert!(factor >= FACTOR_MIN, "drained at {factor:.1} times");
    // The last second is cut off by the end of the observation.
    for (index, second) in seconds.iter().enumerate().take(seconds.len() - 1) {
        assert!(
            second.live > 0 && second.behind_ms < BEHIND_MS_MAX,
            "second {} after link-up: {second:?}",
            index + 1
        );
    }
}
