//! Many plugins at once.

use std::time::Duration;

use super::gateway::{Plan, assert_gapless};
use super::guests::connector;
use crate::plugins::SwapOutcome;

const CONNECTORS: usize = 30;
/// Longer than the test takes.
const HANGS: Duration = Duration::from_secs(300);

fn name(index: usize) -> String {
    format!("c{index}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connectors_of_one_component_share_its_code() {
    let mut plan = Plan::new();
    for index in 0..CONNECTORS {
        plan = plan.connector(&name(index), &connector("shared"));
    }
    let mut gateway = plan.start().await;
    let mut compiled = 0;
    for _ in 0..CONNECTORS {
        let record = gateway.concluded().await;
        assert_eq!(record.outcome, SwapOutcome::Loaded);
        compiled += usize::from(!record.cached);
    }
    assert_eq!(compiled, 1);
    gateway.stop().await;
}

/// Two candidates hang, one in `start` and one before; everybody else is swapped and goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_that_hangs_delays_nobody_else() {
    let mut plan = Plan::new();
    for index in 0..CONNECTORS {
        plan = plan.connector(&name(index), &connector(""));
        let limits = &mut plan.settings.connectors[index].limits;
        (limits.call_cpu, limits.call_wall) = (HANGS, HANGS);
    }
    plan.settings.swap.warm = HANGS;
    plan.settings.swap.cut_over = HANGS;
    let mut gateway = plan.start().await;
    for _ in 0..CONNECTORS {
        gateway.concluded().await;
    }
    gateway.replace(&name(0), &connector("start:hang"));
    gateway.replace(&name(1), &connector("describe:hang"));
    gateway
        .until("both hang", |status| {
            use moorline_core::swap::State;
            matches!(status.connectors[0].component.state, State::Cutover { .. })
                && matches!(status.connectors[1].component.state, State::Warming { .. })
        })
        .await;
    for index in 2..CONNECTORS {
        gateway.replace(&name(index), &connector("second"));
    }
    for _ in 2..CONNECTORS {
        let record = gateway.concluded().await;
        assert_eq!(record.outcome, SwapOutcome::Swapped);
    }
    for index in 1..CONNECTORS {
        let numbers = gateway.count(&format!("dev-{}", name(index)), 3).await;
        assert_gapless(&numbers, 1);
    }
    // The two still hang, and nobody waits for them.
    gateway.plugins.stop(Duration::ZERO).await;
}
