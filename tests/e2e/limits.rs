//! A platform that publishes rate limits and enforces them: nobody is thrown out, nothing is lost, and the rate is used.

use std::time::{Duration, Instant};

use moorline_tests::configuration::{Configuration, DEVICES, READINGS_PER_S};
use moorline_tests::mosquitto;
use moorline_tests::platform::{Limits, Platform, Seen};
use moorline_tests::plugins::{Guest, Place};
use moorline_tests::rig::Rig;

/// Twice as much is offered,
const POINTS_PER_S: u64 = READINGS_PER_S as u64 / 2;
/// for so long.
const OFFERED_S: u64 = 30;
const READINGS: u64 = READINGS_PER_S as u64 * OFFERED_S;
/// At four fifths of the limit it takes half of this.
const DRAINED: Duration = Duration::from_secs(150);
const GRACE: Duration = Duration::from_secs(30);

const LIMITS: Limits = Limits {
    messages: &[(20, 1), (600, 60)],
    telemetry_messages: &[(100, 1), (3_000, 60)],
    telemetry_points: &[(POINTS_PER_S, 1), (POINTS_PER_S * 60, 60)],
};

fn assert_within(seen: &Seen) {
    let kinds = [
        LIMITS.messages,
        LIMITS.telemetry_messages,
        LIMITS.telemetry_points,
    ];
    for (kind, windows) in kinds.into_iter().enumerate() {
        for (count, seconds) in windows {
            let most = seen.most(kind, *seconds);
            println!("kind {kind}: at most {most} of {count} in {seconds} s");
            assert!(most <= *count, "{most} of kind {kind} in {seconds} s");
        }
    }
}

#[tokio::test]
async fn twice_the_platforms_limit_is_delivered_without_a_disconnect_and_without_a_loss() {
    let Some(kind) = mosquitto() else { return };
    let rig = Rig::start(kind).await;
    let platform = Platform::start(rig.proxy.address(), LIMITS).await;
    let place = Place::stock(rig.path("simulated.wasm"), Guest::SIMULATED);
    let configuration = Configuration::new(&rig.state_dir(), platform.address)
        .simulated("sim", place.path(), Some(rig.audit.witness()))
        .replaced(
            "key = \"seq\"\n",
            &format!("key = \"seq\"\nreadings_max = {READINGS}\n"),
        );
    let started = Instant::now();
    let mut running = rig.gateway(&configuration);
    running
        .wait(
            "the limit holds readings back, and that is told",
            GRACE,
            |now| {
                now.now.link.held_by.as_deref()
                    == Some(&format!("{POINTS_PER_S} in 1 s: telemetry data points"))
                    && now.now.spool.depth_readings > 1_000
            },
        )
        .await;
    let offered = running
        .wait("all is offered", GRACE * 2, |now| {
            now.now.spool.accepted_readings >= READINGS
        })
        .await;
    let waiting = offered.now.spool.depth_readings;
    assert!(waiting > READINGS / 3, "{waiting} wait");
    let drained = running
        .wait("all is delivered", DRAINED, |now| {
            now.now.spool.depth_readings == 0
        })
        .await;
    let took = started.elapsed();
    let seen = platform.seen.borrow().clone();
    println!(
        "{READINGS} readings in {took:?}, {waiting} waited when the offer ended; {} publishes",
        rig.audit.totals().borrow().publishes
    );
    assert_eq!((seen.exceeded, seen.sessions, seen.questions), (0, 1, 1));
    assert_eq!(drained.disconnects().count(), 0);
    assert_within(&seen);
    let opened: u64 = seen.arrivals[0].iter().map(|(_, amount)| amount).sum();
    assert_eq!(opened, u64::from(DEVICES) * 2, "each device is opened once");
    // Four fifths of the limit, and three tenths of that for the beginning, the end and a busy machine.
    let most = READINGS as f64 / (POINTS_PER_S as f64 * 0.8 * 0.7);
    assert!(took.as_secs_f64() < most, "{took:?}");
    let (status, _history) = running.gateway.stop(GRACE).await.unwrap();
    assert!(status.success(), "{status}: {}", running.log_tail());
    let balance = rig.audit.balance().await;
    assert_eq!(balance.missing, 0, "{balance:?}");
    assert_eq!(rig.audit.totals().borrow().delivered, READINGS);
}
