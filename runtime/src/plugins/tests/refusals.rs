//! Candidates that never serve: the active generation is not touched.

use moorline_core::swap::{Reason, Step};

use super::gateway::{Gateway, Plan, assert_gapless};
use super::guests::{connector, policy};
use crate::plugins::{InstanceState, SwapOutcome, SwapRecord};

#[track_caller]
fn assert_refused(record: &SwapRecord, step: Step, reason: Reason, words: &str) {
    match &record.outcome {
        SwapOutcome::Refused(at, failure) => {
            assert_eq!((*at, failure.reason), (step, reason), "{record:?}");
            assert!(failure.detail.contains(words), "{record:?}");
        }
        SwapOutcome::Loaded | SwapOutcome::Swapped | SwapOutcome::RolledBack(..) => {
            panic!("{record:?}")
        }
    }
    assert!(record.gap.is_zero(), "{record:?}");
}

/// Offers what cannot serve, and sees that what serves goes on.
async fn refuses(gateway: &mut Gateway, bytes: &[u8], step: Step, reason: Reason, words: &str) {
    gateway.replace("line", bytes);
    let record = gateway.concluded().await;
    assert_refused(&record, step, reason, words);
    let numbers = gateway.count("dev-line", 5).await;
    assert_gapless(&numbers, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_connector_is_refused_before_it_runs() {
    let whole = connector("whole");
    let half = &whole[..whole.len() / 2];
    let mut gateway = Plan::new().connector("line", &connector("")).start().await;
    let loaded = gateway.concluded().await;
    let compile = (Step::Compile, Reason::NotAComponent);
    refuses(
        &mut gateway,
        b"#!/bin/sh\n",
        compile.0,
        compile.1,
        "not WebAssembly",
    )
    .await;
    refuses(&mut gateway, b"", compile.0, compile.1, "0 bytes").await;
    refuses(
        &mut gateway,
        &[&whole[..8], &[0xff; 4096]].concat(),
        compile.0,
        compile.1,
        "",
    )
    .await;
    refuses(
        &mut gateway,
        b"\0asm\x01\0\0\0",
        compile.0,
        compile.1,
        "core module",
    )
    .await;
    refuses(&mut gateway, half, compile.0, compile.1, "cut off").await;
    refuses(
        &mut gateway,
        &policy(""),
        Step::Check,
        Reason::WrongWorld,
        "it is a reconnect policy",
    )
    .await;
    refuses(
        &mut gateway,
        &connector("describe:trap"),
        Step::Warm,
        Reason::Trapped,
        "unreachable",
    )
    .await;

    let status = gateway.status.borrow().clone();
    let line = &status.connectors[0];
    assert_eq!(line.component.active, Some(loaded.to));
    assert!(line.component.refused.is_some());
    assert_eq!(
        (line.instances[0].traps, line.instances[0].restarts),
        (0, 0)
    );

    gateway.rewrite("line", &whole);
    let record = gateway.concluded().await;
    assert_eq!(record.outcome, SwapOutcome::Swapped);
    assert_eq!(
        gateway.status.borrow().connectors[0].component.refused,
        None
    );
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_half_there_at_the_start_is_loaded_when_it_is_whole() {
    let whole = connector("");
    let half = &whole[..whole.len() / 2];
    let mut gateway = Plan::new().connector("line", half).start().await;
    let record = gateway.concluded().await;
    assert_refused(&record, Step::Compile, Reason::NotAComponent, "cut off");
    assert_eq!(
        gateway.status.borrow().connectors[0].instances[0].state,
        InstanceState::Waiting
    );
    gateway.rewrite("line", &whole);
    assert_eq!(gateway.concluded().await.outcome, SwapOutcome::Loaded);
    assert_gapless(&gateway.count("dev-line", 5).await, 1);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_file_is_loaded_when_it_appears_and_one_that_vanishes_changes_nothing() {
    let plan = Plan::new()
        .connector("line", b"")
        .connector("other", &connector(""));
    std::fs::remove_file(&plan.settings.connectors[0].component).unwrap();
    let mut gateway = plan.start().await;
    assert_eq!(&*gateway.concluded().await.component, "other");
    gateway.count("dev-other", 5).await;
    let status = gateway.status.borrow().clone();
    assert_eq!(status.connectors[0].component.active, None);
    gateway.replace("line", &connector(""));
    assert_eq!(gateway.concluded().await.outcome, SwapOutcome::Loaded);
    gateway.count("dev-line", 5).await;

    std::fs::remove_file(gateway.component("line")).unwrap();
    gateway.count("dev-line", 20).await;
    gateway.replace("line", &connector("back"));
    assert_eq!(gateway.concluded().await.outcome, SwapOutcome::Swapped);
    assert_gapless(&gateway.count("dev-line", 5).await, 1);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_guest_that_traps_in_start_is_refused_and_the_next_build_gets_its_chance() {
    let mut gateway = Plan::new()
        .connector("line", &connector("start:trap"))
        .start()
        .await;
    assert_refused(
        &*gateway.concluded().await,
        Step::CutOver,
        Reason::Trapped,
        "",
    );
    gateway.replace("line", &connector(""));
    assert_eq!(gateway.concluded().await.outcome, SwapOutcome::Loaded);
    assert_gapless(&gateway.count("dev-line", 5).await, 1);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_guest_that_refuses_its_configuration_is_tried_again_and_says_why() {
    let mut gateway = Plan::new()
        .connector("line", &connector("start:configuration"))
        .start()
        .await;
    assert_eq!(gateway.concluded().await.outcome, SwapOutcome::Loaded);
    let line = gateway
        .instance("line", "a second try", |line| line.restarts >= 1)
        .await;
    assert_eq!(line.state, InstanceState::Restarting);
    let words = line.last_error.unwrap();
    assert!(words.contains("configuration: unit is missing"), "{words}");
    gateway.stop().await;
}
