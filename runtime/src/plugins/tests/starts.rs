//! What a gateway begins with whose predecessor ended while a build had not proved itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use moorline_core::swap::{Digest, Reason, Step};
use moorline_core::trust::Policy;
use tokio::time::timeout;

use super::gateway::{Gateway, PATIENCE, Plan};
use super::guests::{connector, policy};
use super::trust::{put, signature, trusting};
use crate::plugins::{Kind, OrderEnd, SwapOutcome, SwapRecord, Until, digest_of};
use crate::trust::{Place, SecretKey};

/// A plan whose file holds `lies`, beside which `kept` is kept, which has proved itself.
async fn interrupted(kept: &[u8], lies: &[u8]) -> Plan {
    let mut gateway = Plan::new().connector("line", kept).start().await;
    assert_eq!(gateway.concluded().await.outcome, SwapOutcome::Loaded);
    let plan = gateway.stop().await;
    std::fs::write(before(&plan), kept).unwrap();
    std::fs::write(file(&plan), lies).unwrap();
    plan
}

fn file(plan: &Plan) -> PathBuf {
    plan.settings.connectors[0].component.clone()
}

fn before(plan: &Plan) -> PathBuf {
    file(plan).with_extension("wasm.before")
}

#[track_caller]
fn assert_ends(record: &Arc<SwapRecord>, outcome: &SwapOutcome, build: &[u8]) {
    assert_eq!(&record.outcome, outcome, "{record:?}");
    assert_eq!(record.to.digest, digest_of(build), "{record:?}");
}

async fn proved(gateway: &mut Gateway) -> Option<Digest> {
    let status = gateway.until("a status", |_any| true).await;
    status.connectors[0].component.proved
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_had_proved_itself_serves_first_and_the_files_build_is_on_probation_again() {
    let (good, new) = (connector(""), connector("new"));
    let mut gateway = interrupted(&good, &new).await.start().await;
    assert_ends(&gateway.concluded().await, &SwapOutcome::Loaded, &good);
    assert_eq!(proved(&mut gateway).await, Some(digest_of(&good)));
    assert_ends(&gateway.concluded().await, &SwapOutcome::Swapped, &new);
    gateway
        .until("the proof", |status| {
            status.connectors[0].component.proved == Some(digest_of(&new))
        })
        .await;
    // Now the file's is what comes first, whatever is kept beside it.
    let mut gateway = gateway.stop().await.start().await;
    assert_ends(&gateway.concluded().await, &SwapOutcome::Loaded, &new);
    gateway.count("dev-line", 20).await;
    assert_eq!(gateway.status.borrow().swaps.len(), 1);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_that_fails_after_the_restart_gives_way_to_what_had_proved_itself() {
    let (good, bad) = (connector(""), connector("start:trap"));
    let mut gateway = interrupted(&good, &bad).await.start().await;
    assert_ends(&gateway.concluded().await, &SwapOutcome::Loaded, &good);
    let record = gateway.concluded().await;
    let SwapOutcome::RolledBack(Step::CutOver, failure) = &record.outcome else {
        panic!("{record:?}");
    };
    assert_eq!(failure.reason, Reason::Trapped);
    let back = async {
        while std::fs::read(file(&gateway.plan)).unwrap() != good {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, back).await.unwrap();
    assert!(!before(&gateway.plan).exists());
    gateway.count("dev-line", 20).await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_build_that_cannot_be_loaded_makes_room_for_the_files() {
    let (unsigned, new) = (connector(""), connector("new"));
    let mut plan = interrupted(&unsigned, &new).await;
    let key = SecretKey::generate().unwrap();
    plan.settings.trust = trusting(Policy::Require, &key);
    put(
        &file(&plan),
        &signature(&key, &new, env!("CARGO_PKG_VERSION")),
    );
    let mut gateway = plan.start().await;
    let record = gateway.concluded().await;
    assert!(
        matches!(record.outcome, SwapOutcome::Refused(Step::Compile, _)),
        "{record:?}"
    );
    assert_ends(&gateway.concluded().await, &SwapOutcome::Loaded, &new);
    assert_eq!(proved(&mut gateway).await, Some(digest_of(&new)));
    gateway.stop().await;
}

/// What comes first has nothing to do with what somebody wants of the file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_is_answered_by_the_files_build() {
    let (good, new) = (connector(""), connector("new"));
    let gateway = interrupted(&good, &new).await.start().await;
    let end = gateway
        .plugins
        .swaps()
        .swap("line", false, Until::Serves)
        .await;
    let Ok(OrderEnd::Concluded(record)) = end else {
        panic!("{end:?}");
    };
    assert_ends(&record, &SwapOutcome::Swapped, &new);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_version_that_is_allowed_takes_over_all_the_same() {
    let (good, older) = (connector("version:2.0.0"), connector("version:1.0.0"));
    let mut plan = interrupted(&good, &older).await;
    // It does not prove itself here.
    plan.settings.connectors[0].succession.probation.duration = PATIENCE * 60;
    let place = Place::of(Kind::Connector, "line");
    place.give_permit(&plan.settings.ledger_directory).unwrap();
    // The word is spent with the first start, and what comes first takes nothing of it back.
    for _ in 0..2 {
        let mut gateway = plan.start().await;
        assert_ends(&gateway.concluded().await, &SwapOutcome::Loaded, &good);
        assert_ends(&gateway.concluded().await, &SwapOutcome::Swapped, &older);
        plan = gateway.stop().await;
        assert!(!place.permit(&plan.settings.ledger_directory).exists());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_operator_took_back_does_not_come_first() {
    let (old, new) = (connector("version:1.0.0"), connector("version:2.0.0"));
    let mut plan = Plan::new().connector("line", &old);
    plan.settings.connectors[0].succession.probation.duration = Duration::from_secs(1);
    let mut gateway = plan.start().await;
    gateway.concluded().await;
    gateway.replace("line", &new);
    let orders = gateway.plugins.swaps();
    let proved = orders.swap("line", false, Until::Proved).await.unwrap();
    assert!(matches!(proved, OrderEnd::Proved(_)), "{proved:?}");
    assert!(matches!(
        orders.roll_back("line").await,
        Ok(OrderEnd::Concluded(_))
    ));
    // What the order leaves behind, where the newer one had proved itself; and the gateway ends during the probation.
    let plan = gateway.stop().await;
    std::fs::write(file(&plan), &old).unwrap();
    std::fs::write(before(&plan), &new).unwrap();
    let mut gateway = plan.start().await;
    assert_ends(&gateway.concluded().await, &SwapOutcome::Loaded, &old);
    gateway.count("dev-line", 20).await;
    assert_eq!(gateway.status.borrow().swaps.len(), 1);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_begins_likewise() {
    let (good, new) = (policy(""), policy("new"));
    let mut gateway = Plan::new().policy(&good).start().await;
    gateway.concluded().await;
    let plan = gateway.stop().await;
    let file = plan.settings.policy.as_ref().unwrap().component.clone();
    std::fs::write(file.with_extension("wasm.before"), &good).unwrap();
    std::fs::write(&file, &new).unwrap();
    let mut gateway = plan.start().await;
    assert_ends(&gateway.concluded().await, &SwapOutcome::Loaded, &good);
    assert_ends(&gateway.concluded().await, &SwapOutcome::Swapped, &new);
    gateway.stop().await;
}
