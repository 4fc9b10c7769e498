//! Generations that neither trap nor hang, and give way all the same.

use std::time::Duration;

use moorline_core::swap::probation::Terms;
use moorline_core::swap::{Reason, Step};

use super::gateway::{Gateway, Plan, assert_gapless};
use super::guests::connector;
use crate::plugins::SwapOutcome;

/// Long enough to tell silence from a busy machine.
const TERMS: Terms = Terms {
    calls: 4,
    duration: Duration::from_secs(4),
    duration_max: Duration::from_secs(60),
    fault_percent: 25,
    silence_percent: 20,
};
/// At one number each 2 ms these take more than half of the probation.
const NUMBERS: usize = 1_300;

async fn counting() -> Gateway {
    let mut plan = Plan::new();
    for name in ["silent", "seldom", "faulty", "good"] {
        plan = plan.connector(name, &connector(""));
        let connector = plan.settings.connectors.last_mut().unwrap();
        connector.succession.probation = TERMS;
        if name == "faulty" {
            // It emits nothing either, which may be noticed first.
            connector.succession.probation.silence_percent = 0;
        }
    }
    let mut gateway = plan.start().await;
    for _ in 0..4 {
        gateway.concluded().await;
    }
    for name in ["silent", "seldom", "faulty", "good"] {
        gateway.count(&format!("dev-{name}"), NUMBERS / 4).await;
    }
    gateway.count("dev-good", NUMBERS).await;
    gateway
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_silent_the_taciturn_and_the_faulty_give_way_and_the_good_one_stays() {
    let mut gateway = counting().await;
    let candidates = [
        ("silent", "timer:silent", Reason::Silent),
        ("seldom", "timer:seldom", Reason::Silent),
        ("faulty", "timer:faulty", Reason::Faulty),
    ];
    for (name, script, _) in candidates {
        gateway.replace(name, &connector(script));
    }
    gateway.replace("good", &connector("second"));
    let status = gateway
        .until(
            "three are rolled back and one has proved itself",
            |status| {
                let back = |outcome: &SwapOutcome| matches!(outcome, SwapOutcome::RolledBack(..));
                let good = status.connectors[3].component.state;
                status
                    .swaps
                    .iter()
                    .filter(|swap| back(&swap.outcome))
                    .count()
                    == 3
                    && matches!(good, moorline_core::swap::State::Active(g) if g.0 == 2)
            },
        )
        .await;
    for (name, _, reason) in candidates {
        let end = status
            .swaps
            .iter()
            .rfind(|swap| &*swap.component == name)
            .unwrap();
        let SwapOutcome::RolledBack(Step::Probation, failure) = &end.outcome else {
            panic!("{end:?}")
        };
        assert_eq!(failure.reason, reason, "{end:?}");
    }
    for (name, gapless) in [
        ("silent", true),
        ("faulty", true),
        ("seldom", false),
        ("good", true),
    ] {
        let numbers = gateway.count(&format!("dev-{name}"), 20).await;
        if gapless {
            assert_gapless(&numbers, 1);
        }
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generation_that_emits_nothing_still_answers_for_the_devices_of_the_one_before() {
    let mut gateway = Plan::new().connector("line", &connector("")).start().await;
    gateway.concluded().await;
    gateway.count("dev-line", 20).await;
    gateway.replace("line", &connector("timer:silent"));
    assert_eq!(gateway.concluded().await.outcome, SwapOutcome::Swapped);
    gateway.ask("dev-line", 5, "now").await;
    assert!(gateway.reply(5).await.parse::<i64>().unwrap() >= 20);
    gateway.stop().await;
}
