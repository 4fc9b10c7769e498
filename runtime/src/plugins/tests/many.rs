//! Many plugins at once.

use std::time::{Duration, Instant};

use tokio::net::TcpListener;

use super::gateway::{Gateway, PATIENCE, Plan, assert_gapless};
use super::guests::connector;
use crate::plugins::{InstanceState, SwapOutcome};

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

const HUNDRED: usize = 100;
/// Together 5 000 readings/s.
const CALM: &str = "period:20";
/// Builds that one of the hundred is swapped to, each compiled anew, while the others are watched.
const SWAPS: usize = 20;

/// A hundred connectors of one component.
async fn hundred(limits: impl Fn(&mut Plan)) -> Gateway {
    let mut plan = Plan::new();
    for index in 0..HUNDRED {
        plan = plan.connector(&name(index), &connector(CALM));
    }
    limits(&mut plan);
    let mut gateway = plan.start().await;
    for _ in 0..HUNDRED {
        assert_eq!(gateway.concluded().await.outcome, SwapOutcome::Loaded);
    }
    gateway
}

/// While a candidate of one hangs in `start`, until a deadline that does not come here, ninety-nine go on and can be swapped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_swap_of_one_of_a_hundred_that_hangs_delays_none_of_the_others() {
    let mut gateway = hundred(|plan| {
        let limits = &mut plan.settings.connectors[0].limits;
        (limits.call_cpu, limits.call_wall) = (HANGS, HANGS);
        plan.settings.swap.warm = HANGS;
        plan.settings.swap.cut_over = HANGS;
    })
    .await;
    gateway.replace(&name(0), &connector("start:hang"));
    gateway
        .until("it hangs in its cut-over", |status| {
            use moorline_core::swap::State;
            matches!(status.connectors[0].component.state, State::Cutover { .. })
        })
        .await;
    for index in 1..HUNDRED {
        let numbers = gateway.count(&format!("dev-{}", name(index)), 3).await;
        assert_gapless(&numbers, 1);
    }
    gateway.replace(&name(1), &connector("period:20 second"));
    let record = gateway.concluded().await;
    assert_eq!(&*record.component, name(1));
    assert_eq!(record.outcome, SwapOutcome::Swapped);
    let numbers = gateway.count(&format!("dev-{}", name(1)), 3).await;
    assert_gapless(&numbers, 1);
    // It still hangs, and nobody waits for it.
    gateway.plugins.stop(Duration::ZERO).await;
}

/// One of a hundred is swapped again and again. The others lose nothing; with `MOORLINE_EXTENDED=1` it is said how late their
/// readings were, before and meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_swaps_of_one_of_a_hundred_cost_the_others_no_reading() {
    let extended = std::env::var_os("MOORLINE_EXTENDED").is_some();
    let mut gateway = hundred(|_plan| {}).await;
    let others: Vec<String> = (1..HUNDRED)
        .map(|index| format!("dev-{}", name(index)))
        .collect();
    if extended {
        // All of them go on meanwhile.
        gateway.count(&others[0], 500).await;
    }
    let mut seen = Vec::new();
    for device in &others {
        gateway.count(device, 3).await;
    }
    for device in &others {
        seen.push(gateway.emitted_ms(device).len());
    }
    for swap in 0..if extended { SWAPS } else { 2 } {
        gateway.replace(&name(0), &connector(&format!("{CALM} build-{swap}")));
        assert_eq!(gateway.concluded().await.outcome, SwapOutcome::Swapped);
    }
    for device in &others {
        let numbers = gateway.count(device, 3).await;
        assert_gapless(&numbers, 1);
    }
    let numbers = gateway.count("dev-c0", 3).await;
    assert_gapless(&numbers, 1);
    if extended {
        let (mut before, mut meanwhile) = (Vec::new(), Vec::new());
        for (device, seen) in others.iter().zip(seen) {
            let (first, second) = gateway.emitted_ms(device).split_at(seen);
            // What the first readings waited for was the start of a hundred.
            before.extend(pauses(&first[first.len() / 2..]));
            meanwhile.extend(pauses(second));
        }
        println!(
            "from one reading of {} connectors to the next, each every 20 ms: before {}, during {SWAPS} swaps of another {}",
            others.len(),
            spread(before),
            spread(meanwhile)
        );
    }
    gateway.stop().await;
}

/// The times between neighbours.
fn pauses(emitted_ms: &[u64]) -> impl Iterator<Item = u64> {
    emitted_ms
        .windows(2)
        .map(|pair| pair[1].saturating_sub(pair[0]))
}

fn spread(mut pauses_ms: Vec<u64>) -> String {
    pauses_ms.sort_unstable();
    let of = |hundredths: usize| pauses_ms[(pauses_ms.len() - 1) * hundredths / 100];
    format!(
        "{} ms p50, {} ms p99, {} ms at most",
        of(50),
        of(99),
        of(100)
    )
}

/// More of them than the swapper has places for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_that_all_fail_while_they_are_stopped_end_at_once() {
    // It takes connections and never answers, so that each instance waits in a call until that call fails.
    let device = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = format!("tcp://{}", device.local_addr().unwrap());
    let mut plan = Plan::new().connector("line", &connector(""));
    plan.settings.connectors[0].limits.call_wall = Duration::from_millis(1_500);
    for index in 0..4 * CONNECTORS {
        plan = plan.connection(&name(index), Some(&stream));
    }
    let mut gateway = plan.start().await;
    gateway
        .until("all serve", |status| {
            let mut instances = status.connectors.iter().flat_map(|line| &line.instances);
            // Before they are there none is.
            !status.swaps.is_empty() && instances.all(|i| i.state == InstanceState::Serving)
        })
        .await;
    let began = Instant::now();
    gateway.stop().await;
    assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
}
