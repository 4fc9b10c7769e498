//! Swaps that fail after the candidate took over, or while it did.

use moorline_core::swap::{Reason, Step};
use tokio::time::timeout;

use super::gateway::{Gateway, PATIENCE, Plan, assert_gapless};
use super::guests::connector;
use crate::plugins::{SwapOutcome, SwapRecord};

async fn counting() -> (Gateway, std::sync::Arc<SwapRecord>) {
    let mut gateway = Plan::new().connector("line", &connector("")).start().await;
    let loaded = gateway.concluded().await;
    gateway.count("dev-line", 20).await;
    (gateway, loaded)
}

#[track_caller]
fn assert_rolled_back(record: &SwapRecord, step: Step, reason: Reason) {
    match &record.outcome {
        SwapOutcome::RolledBack(at, failure) => {
            assert_eq!((*at, failure.reason), (step, reason), "{record:?}");
        }
        SwapOutcome::Loaded | SwapOutcome::Swapped | SwapOutcome::Refused(..) => {
            panic!("{record:?}")
        }
    }
    assert!(!record.gap.is_zero(), "{record:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_fails_to_start_gives_way_to_the_old_one_with_its_hand_over() {
    let (mut gateway, loaded) = counting().await;
    for (script, reason) in [
        ("start:trap", Reason::Trapped),
        ("start:hang", Reason::Stalled),
        ("start:configuration", Reason::Refused),
    ] {
        gateway.replace("line", &connector(script));
        let record = gateway.concluded().await;
        assert_rolled_back(&record, Step::CutOver, reason);
        assert_eq!(record.from, Some(loaded.to));
        let numbers = gateway.count("dev-line", 20).await;
        assert_gapless(&numbers, 1);
        let status = gateway.status.borrow().clone();
        let component = &status.connectors[0].component;
        assert_eq!(component.active, Some(loaded.to), "{script}");
        let (digest, failure) = component.refused.as_deref().unwrap();
        assert_eq!((*digest, failure.reason), (record.to.digest, reason));
    }
    // The words are the guest's own, for the operator.
    let status = gateway.status.borrow().clone();
    let (_, failure) = status.connectors[0].component.refused.as_deref().unwrap();
    assert_eq!(failure.detail, "configuration: unit is missing");
    gateway.stop().await;
}

/// `gap` once began anew when a candidate failed: what had passed before that was not counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gap_of_a_failed_swap_counts_from_the_last_call_of_the_old_guest() {
    let (mut gateway, _loaded) = counting().await;
    gateway.replace("line", &connector("start:hang"));
    let record = gateway.concluded().await;
    assert_rolled_back(&record, Step::CutOver, Reason::Stalled);
    let hung = crate::plugins::Limits::default().call_cpu;
    assert!(record.gap >= hung, "{record:?}");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_traps_on_probation_gives_way_to_the_old_one_with_its_hand_over() {
    let (mut gateway, loaded) = counting().await;
    gateway.replace("line", &connector("timer:trap-3"));
    let swapped = gateway.concluded().await;
    assert_eq!(swapped.outcome, SwapOutcome::Swapped);
    let record = gateway.concluded().await;
    assert_rolled_back(&record, Step::Probation, Reason::Trapped);
    assert_eq!((record.from, record.to), (Some(loaded.to), swapped.to));
    let numbers = gateway.count("dev-line", 30).await;
    // Two numbers of the failed generation are said again by the old one; none is missing.
    let again = numbers
        .windows(2)
        .position(|pair| pair[1] != pair[0] + 1)
        .unwrap();
    assert_gapless(&numbers[..=again], 1);
    assert_gapless(&numbers[again + 1..], numbers[again] - 1);
    let status = gateway.status.borrow().clone();
    let line = &status.connectors[0];
    assert_eq!(line.component.active, Some(loaded.to));
    assert_eq!(line.instances[0].generation, Some(loaded.to.generation));
    assert_eq!(line.instances[0].traps, 1);

    // It is in quarantine: the same bytes again are not tried, another build is.
    gateway.replace("line", &connector("timer:trap-3"));
    gateway.count("dev-line", 100).await;
    gateway.replace("line", &connector("mended"));
    let mended = gateway.concluded().await;
    assert_eq!(mended.outcome, SwapOutcome::Swapped);
    assert_eq!(mended.from, Some(loaded.to));
    gateway.stop().await;
}

/// Waits until the component's file holds this.
async fn file_holds(gateway: &Gateway, bytes: &[u8]) {
    let path = gateway.component("line");
    let holds = async {
        while std::fs::read(&path).unwrap() != bytes {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, holds).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_start_finds_what_was_kept_and_not_the_build_that_failed() {
    let (mut gateway, loaded) = counting().await;
    let kept = gateway.component("line").with_extension("wasm.before");
    let good = connector("");
    std::fs::write(&kept, &good).unwrap();
    for (script, step) in [
        ("timer:trap-3", Step::Probation),
        ("start:trap", Step::CutOver),
    ] {
        std::fs::write(&kept, &good).unwrap();
        gateway.replace("line", &connector(script));
        if step == Step::Probation {
            assert_eq!(gateway.concluded().await.outcome, SwapOutcome::Swapped);
        }
        assert_rolled_back(&*gateway.concluded().await, step, Reason::Trapped);
        file_holds(&gateway, &good).await;
        assert!(!kept.exists());
        let line = gateway.status.borrow().connectors[0].component.clone();
        assert_eq!(line.proved, Some(loaded.to.digest));
    }
    // What is kept is no build that ever served: it is not brought back.
    std::fs::write(&kept, connector("stranger")).unwrap();
    gateway.replace("line", &connector("start:hang"));
    assert_rolled_back(&*gateway.concluded().await, Step::CutOver, Reason::Stalled);
    gateway.count("dev-line", 20).await;
    assert!(kept.exists());
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_instance_that_fails_takes_all_instances_back() {
    let mut gateway = Plan::new()
        .connector("line", &connector(""))
        .connection("a", None)
        .connection("b", None)
        .start()
        .await;
    let loaded = gateway.concluded().await;
    gateway.count("dev-line-a", 10).await;
    gateway.count("dev-line-b", 10).await;
    gateway.replace("line", &connector("start:trap-b"));
    assert_rolled_back(&*gateway.concluded().await, Step::CutOver, Reason::Trapped);
    for name in ["line/a", "line/b"] {
        let back = gateway
            .instance(name, "the old generation", |i| {
                i.generation == Some(loaded.to.generation)
            })
            .await;
        assert_eq!(back.traps, u64::from(name == "line/b"));
    }
    // `b` never spoke as the new generation; `a` may have, and says again what it said then.
    let b = gateway.count("dev-line-b", 20).await;
    assert_gapless(&b, 1);
    let mut a = gateway.count("dev-line-a", 20).await;
    a.sort_unstable();
    a.dedup();
    assert_gapless(&a, 1);
    gateway.stop().await;
}
