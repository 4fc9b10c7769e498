//! Report strategies: the same for every guest, whatever becomes of it.

use std::time::Duration;

use moorline_core::report::{Deadband, Pattern, Rule, Rules, Strategy};

use super::gateway::Plan;
use super::guests::connector;

/// The guest counts, so that each eleventh number is this far off.
const DEADBAND: f64 = 10.0;
const STEP: u64 = 11;

fn on_change(absolute: f64) -> Strategy {
    Strategy::OnChange(Deadband {
        absolute,
        percent: 0.0,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swap_makes_no_difference_and_what_is_suppressed_is_counted() {
    let mut gateway = Plan::new()
        .connector("line", &connector(""))
        .report(Rules::new(Vec::new(), on_change(DEADBAND)))
        .start()
        .await;
    gateway.count("dev-line", 5).await;
    gateway.concluded().await;
    gateway.replace("line", &connector("another"));
    gateway.concluded().await;
    let numbers = gateway.count("dev-line", 5).await;
    let expected: Vec<i64> = (0..).map(|n| 1 + 11 * n).take(numbers.len()).collect();
    assert_eq!(numbers, expected, "no number twice, none out of step");
    let line = gateway
        .instance("line", "its readings", |line| line.readings >= 10)
        .await;
    let taken = line.readings + line.suppressed_readings;
    assert_eq!(line.readings, taken.div_ceil(STEP), "{line:?}");
    assert_eq!((line.unfiltered_readings, line.back_pressure), (0, 0));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_fails_and_starts_anew_is_still_the_same_device() {
    let mut gateway = Plan::new()
        .connector("line", &connector(""))
        .report(Rules::new(Vec::new(), on_change(1e9)))
        .start()
        .await;
    gateway.count("dev-line", 1).await;
    gateway.ask("dev-line", 1, "trap").await;
    let line = gateway
        .instance("line", "readings after a restart", |line| {
            line.restarts == 1 && line.served.calls > 0 && line.suppressed_readings > 0
        })
        .await;
    assert_eq!(
        line.readings, 1,
        "it begins to count again, within the deadband"
    );
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_loss_everything_is_reported_once_more() {
    let mut gateway = Plan::new()
        .connector("line", &connector(""))
        .report(Rules::new(Vec::new(), on_change(1e9)))
        .start()
        .await;
    assert_eq!(gateway.count("dev-line", 1).await, [1]);
    for reports in 2..=3 {
        let suppressed = gateway
            .instance("line", "readings", |_any| true)
            .await
            .suppressed_readings;
        gateway
            .instance("line", "more of them", |line| {
                line.suppressed_readings > suppressed + 10
            })
            .await;
        gateway.gap.send_modify(|gaps| *gaps += 1);
        assert_eq!(gateway.count("dev-line", 1).await.len(), reports);
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_about_one_device_leaves_the_others_alone() {
    let rule = Rule {
        device: Pattern::new("dev-line-a"),
        key: Pattern::Any,
        strategy: Strategy::OnPeriod(Duration::from_secs(3_600)),
    };
    let mut gateway = Plan::new()
        .connector("line", &connector(""))
        .report(Rules::new(vec![rule], Strategy::OnReceived))
        .connection("a", None)
        .connection("b", None)
        .start()
        .await;
    let others = gateway.count("dev-line-b", 50).await;
    super::gateway::assert_gapless(&others, 1);
    let [a, b] = [
        gateway
            .instance("line/a", "readings", |a| a.suppressed_readings > 0)
            .await,
        gateway.instance("line/b", "readings", |_any| true).await,
    ];
    assert_eq!((a.readings, b.suppressed_readings), (1, 0));
    gateway.stop().await;
}
