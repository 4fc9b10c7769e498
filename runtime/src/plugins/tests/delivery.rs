//! What passes between a guest and the platform.

use moorline_core::message::{DeviceName, Downlink, Uplink};

use super::gateway::{Plan, assert_gapless};
use super::guests::connector;
use crate::plugins::{DeliveryRefused, InstanceState};
use crate::spool::AppendRefused;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readings_reach_the_spool_in_order() {
    let mut gateway = Plan::new().connector("line", &connector("")).start().await;
    let numbers = gateway.count("dev-line", 50).await;
    assert_gapless(&numbers, 1);
    let line = gateway
        .instance("line", "its readings", |line| line.readings >= 50)
        .await;
    assert_eq!(line.state, InstanceState::Serving);
    assert!(line.served.calls >= 50);
    assert!(line.memory_bytes > 0);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn series_reach_the_spool_as_other_readings_do_and_each_generation_opens_its_own() {
    let mut gateway = Plan::new().connector("line", &connector("")).start().await;
    gateway.concluded().await;
    gateway.count("dev-line", 1).await;
    gateway.ask("dev-line", 1, "series").await;
    let id = gateway.reply(1).await;
    id.parse::<u32>().unwrap();
    gateway.replace("line", &connector("another"));
    gateway.concluded().await;
    // That the old one's id is refused is for the guest to see.
    gateway.ask_with("dev-line", 2, "series", &id).await;
    assert_ne!(
        gateway.reply(2).await.parse::<u32>().unwrap().to_string(),
        id
    );
    let device = "dev-line-series";
    assert_eq!(gateway.count(device, 0).await, [1, 2, 3, 1, 2, 3]);
    let stamps = gateway.emitted_ms(device);
    assert_eq!((stamps[0], stamps[1]), (7, 7));
    assert!(
        stamps[2] > 1_700_000_000_000,
        "by the host's clock: {stamps:?}"
    );
    // The host knows now who speaks for that device.
    gateway.ask(device, 3, "now").await;
    assert!(gateway.reply(3).await.parse::<i64>().is_ok());
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_is_answered_even_if_the_guest_faults_or_traps() {
    let mut gateway = Plan::new().connector("line", &connector("")).start().await;
    gateway.count("dev-line", 1).await;
    gateway.ask("dev-line", 1, "now").await;
    assert!(gateway.reply(1).await.parse::<i64>().unwrap() > 0);
    gateway.ask("dev-line", 2, "reboot").await;
    assert_eq!(
        gateway.reply(2).await,
        r#"{"error":"configuration: no method reboot"}"#
    );
    let line = gateway
        .instance("line", "a fault", |line| line.faults == 1)
        .await;
    assert_eq!((line.state, line.traps), (InstanceState::Serving, 0));

    gateway.ask("dev-line", 5, "later").await;
    gateway.ask("dev-line", 3, "trap").await;
    // The first one was lost with the guest.
    for request in [5, 3] {
        let answer = gateway.reply(request).await;
        assert!(answer.starts_with(r#"{"error":"trapped"#), "{answer}");
    }
    let line = gateway
        .instance("line", "a restart", |line| {
            line.restarts == 1 && line.state == InstanceState::Serving
        })
        .await;
    assert_eq!(line.traps, 1);
    gateway.ask("dev-line", 4, "now").await;
    assert!(gateway.reply(4).await.parse::<i64>().is_ok());
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_to_a_device_nobody_speaks_for_is_refused() {
    let mut gateway = Plan::new().connector("line", &connector("")).start().await;
    gateway.count("dev-line", 1).await;
    let stranger = Downlink::Rpc {
        device: DeviceName::try_new("stranger").unwrap(),
        request_id: 1,
        method: "now".to_owned(),
        params: "{}".to_owned(),
    };
    let refused = gateway.plugins.deliver(stranger).await;
    assert_eq!(refused, Err(DeliveryRefused::UnknownDevice));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nan_is_refused_with_its_place_and_the_guest_goes_on() {
    let mut gateway = Plan::new()
        .connector("line", &connector("timer:nan"))
        .connector("other", &connector(""))
        .start()
        .await;
    let line = gateway
        .instance("line", "two faults", |line| line.faults >= 2)
        .await;
    let words = line.last_error.unwrap();
    assert!(
        words.contains("batch[0].readings[0]: the value is not a finite number"),
        "{words}"
    );
    assert_eq!((line.readings, line.traps), (0, 0));
    assert_gapless(&gateway.count("dev-other", 20).await, 1);
    gateway.stop().await;
}

/// More appends at once than wait in the spool's queue.
const FLOOD: usize = 1_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_spool_queue_is_back_pressure_that_the_guest_acts_on() {
    let mut gateway = Plan::new().connector("line", &connector("")).start().await;
    gateway.count("dev-line", 1).await;
    let mut flood = tokio::task::JoinSet::new();
    for _ in 0..FLOOD {
        let appender = gateway.appender.clone();
        flood.spawn(async move {
            loop {
                match appender.append(Uplink::Telemetry(Vec::new())).await {
                    Ok(_) => {}
                    Err(AppendRefused::Behind { .. }) => tokio::task::yield_now().await,
                    Err(_closed) => return,
                }
            }
        });
    }
    let pressed = gateway
        .instance("line", "back-pressure", |line| line.back_pressure > 0)
        .await;
    flood.shutdown().await;
    // It offered the same number again.
    assert_gapless(&gateway.count("dev-line", 20).await, 1);
    let line = gateway
        .instance("line", "its readings", |line| {
            line.readings > pressed.readings
        })
        .await;
    assert_eq!((line.state, line.faults), (InstanceState::Serving, 0));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guests_state_outlives_the_gateway() {
    let mut gateway = Plan::new().connector("line", &connector("")).start().await;
    gateway.count("dev-line", 25).await;
    gateway.ask("dev-line", 9, "kept").await;
    let kept: i64 = gateway.reply(9).await.parse().unwrap();
    assert!(kept > 0 && kept % 10 == 0, "{kept}");
    let plan = gateway.stop().await;
    let last = plan.appended;
    std::fs::write(
        &plan.settings.connectors[0].component,
        connector("start:resume"),
    )
    .unwrap();
    let mut gateway = plan.start().await;
    // The readings of the first run are still in the spool. It kept every tenth number.
    let numbers = gateway.count("dev-line", 5).await;
    assert_gapless(&numbers[..last], 1);
    let resumed = i64::try_from(last).unwrap() / 10 * 10 + 1;
    assert_gapless(&numbers[last..], resumed);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_goes_up_and_down_disturbs_no_guest() {
    let mut gateway = Plan::new()
        .connector("line", &connector("timer:fault"))
        .start()
        .await;
    gateway.count("dev-line", 1).await;
    for up in [true, false, true] {
        gateway.link.send_replace(up);
        gateway.count("dev-line", 5).await;
    }
    let line = gateway
        .instance("line", "the fault of its first timer", |line| {
            line.faults == 1
        })
        .await;
    assert_eq!((line.state, line.traps), (InstanceState::Serving, 0));
    assert_eq!(line.last_error.as_deref(), Some("device: asleep"));
    gateway.stop().await;
}
