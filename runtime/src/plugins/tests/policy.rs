//! The reconnect policy.

use std::time::Duration;

use moorline_core::link::cause::{CauseClass, Fault};
use moorline_core::link::policy::{
    Bounds, Decision, Network, PolicyFault, Question, Ruling, clamp,
};
use moorline_core::swap::{Reason, Step};
use serde_json::json;

use super::gateway::{Gateway, Plan};
use super::guests::{connector, policy};
use crate::plugins::SwapOutcome;

/// Fifty milliseconds are the deadline; the rest is for a busy machine.
const ANSWER_MAX: Duration = Duration::from_secs(2);

fn question(attempt: u32) -> Question {
    Question {
        cause: CauseClass::Reset,
        fault: Fault::Network,
        reason_code: None,
        attempt,
        session: Duration::from_secs(60),
        down: Duration::ZERO,
        spool_depth: 3,
        network: Network::Up,
        metered: false,
        local_time: None,
        sessions: 1,
        takeovers: 0,
        previous_delay: Duration::ZERO,
        floor: Duration::from_millis(500),
        ceiling: Duration::from_secs(60),
        seed: 7,
        endpoint: "broker:1883".into(),
    }
}

async fn asked(gateway: &Gateway, attempt: u32) -> Result<Decision, PolicyFault> {
    let began = std::time::Instant::now();
    let answer = gateway.plugins.policy().consult(question(attempt)).await;
    assert!(began.elapsed() < ANSWER_MAX, "{:?}", began.elapsed());
    answer
}

fn after(seconds: u64) -> Result<Decision, PolicyFault> {
    Ok(Decision::RetryAfter(Duration::from_secs(seconds)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_policy_none_is_there() {
    let gateway = Plan::new().start().await;
    assert_eq!(asked(&gateway, 1).await, Err(PolicyFault::Absent));
    assert!(gateway.status.borrow().policy.is_none());
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_answers_and_is_swapped_between_two_questions() {
    let mut gateway = Plan::new().policy(&policy("")).start().await;
    assert_eq!(gateway.concluded().await.outcome, SwapOutcome::Loaded);
    for attempt in 1..=3 {
        assert_eq!(asked(&gateway, attempt).await, after(u64::from(attempt)));
    }
    gateway.replace("policy", &policy("decide:zero"));
    let record = gateway.concluded().await;
    assert_eq!(record.outcome, SwapOutcome::Swapped);
    assert_eq!(&*record.component, "policy");
    assert!(record.gap < Duration::from_secs(1));
    let advice = asked(&gateway, 1).await;
    assert_eq!(advice, after(0));
    // The host does not let it have its way.
    let bounds = Bounds {
        lower: Duration::from_millis(500),
        upper: Duration::from_secs(60),
        retry_now: false,
        park: false,
    };
    assert_eq!(
        clamp(advice.unwrap(), bounds),
        (Ruling::Wait(bounds.lower), true)
    );
    let status = gateway
        .until("its figures", |status| {
            status.policy.as_ref().is_some_and(|p| p.answered == 4)
        })
        .await;
    assert_eq!(&*status.policy.unwrap().component.plugin, "scripted");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_fails_says_so_within_its_deadline_every_time() {
    for (script, fault) in [
        ("decide:trap", PolicyFault::Trapped),
        ("decide:hang", PolicyFault::Stalled),
    ] {
        let mut gateway = Plan::new().policy(&policy(script)).start().await;
        gateway.concluded().await;
        for attempt in 1..=5 {
            assert_eq!(asked(&gateway, attempt).await, Err(fault), "{script}");
        }
        let status = gateway
            .until("five failures", |status| {
                status
                    .policy
                    .as_ref()
                    .is_some_and(|p| p.trapped + p.stalled == 5)
            })
            .await;
        let figures = status.policy.unwrap();
        assert_eq!(figures.stalled == 5, fault == PolicyFault::Stalled);
        assert_eq!(figures.answered, 0);
        // Another build is a way out.
        gateway.replace("policy", &policy(""));
        assert_eq!(gateway.concluded().await.outcome, SwapOutcome::Swapped);
        assert_eq!(asked(&gateway, 2).await, after(2));
        gateway.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_fails_on_probation_gives_way_to_the_old_one() {
    let mut gateway = Plan::new().policy(&policy("")).start().await;
    let loaded = gateway.concluded().await;
    gateway.replace("policy", &policy("decide:trap"));
    assert_eq!(gateway.concluded().await.outcome, SwapOutcome::Swapped);
    assert_eq!(asked(&gateway, 1).await, Err(PolicyFault::Trapped));
    let record = gateway.concluded().await;
    match &record.outcome {
        SwapOutcome::RolledBack(step, failure) => {
            assert_eq!((*step, failure.reason), (Step::Probation, Reason::Trapped));
        }
        SwapOutcome::Loaded | SwapOutcome::Swapped | SwapOutcome::Refused(..) => {
            panic!("{record:?}")
        }
    }
    assert_eq!(asked(&gateway, 3).await, after(3));
    let status = gateway.status.borrow().clone();
    assert_eq!(status.policy.unwrap().component.active, Some(loaded.to));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_lives_by_its_configuration_also_after_it_was_renewed() {
    let mut plan = Plan::new().policy(&policy("decide:trap-once"));
    if let Some(settings) = &mut plan.settings.policy {
        settings.configuration = json!({"wait_ms": 7000});
    }
    let mut gateway = plan.start().await;
    assert_eq!(gateway.concluded().await.outcome, SwapOutcome::Loaded);
    assert_eq!(asked(&gateway, 1).await, Err(PolicyFault::Trapped));
    // The instance that answers now is another one.
    assert_eq!(asked(&gateway, 2).await, after(14));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_cannot_be_configured_never_serves() {
    for (script, configuration, reason) in [
        ("", json!({"wait_ms": "soon"}), Reason::Refused),
        ("configure:trap", json!({}), Reason::Trapped),
        ("configure:hang", json!({}), Reason::Stalled),
    ] {
        let mut plan = Plan::new().policy(&policy(script));
        if let Some(settings) = &mut plan.settings.policy {
            settings.configuration = configuration;
        }
        let mut gateway = plan.start().await;
        let record = gateway.concluded().await;
        match &record.outcome {
            SwapOutcome::Refused(Step::Warm, failure) => assert_eq!(failure.reason, reason),
            SwapOutcome::Loaded
            | SwapOutcome::Swapped
            | SwapOutcome::Refused(..)
            | SwapOutcome::RolledBack(..) => panic!("{script}: {record:?}"),
        }
        assert_eq!(asked(&gateway, 1).await, Err(PolicyFault::Absent));
        gateway.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connector_is_no_policy() {
    let mut gateway = Plan::new().policy(&connector("")).start().await;
    let record = gateway.concluded().await;
    match &record.outcome {
        SwapOutcome::Refused(Step::Check, failure) => {
            assert_eq!(failure.reason, Reason::WrongWorld);
            assert!(failure.detail.contains("it is a connector"), "{failure}");
        }
        SwapOutcome::Loaded
        | SwapOutcome::Swapped
        | SwapOutcome::Refused(..)
        | SwapOutcome::RolledBack(..) => panic!("{record:?}"),
    }
    assert_eq!(asked(&gateway, 1).await, Err(PolicyFault::Absent));
    gateway.stop().await;
}
