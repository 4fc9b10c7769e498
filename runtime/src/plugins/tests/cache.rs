//! Compiled components on disk.

use std::path::PathBuf;

use super::gateway::{PATIENCE, Plan, assert_gapless};
use super::guests::connector;
use crate::plugins::SwapOutcome;

/// Starts a gateway, says whether its component came from the cache, and stops it, when the cache has it.
async fn starts_from_cache(plan: Plan) -> (bool, Plan) {
    let before = entry(&plan).map(|path| std::fs::read(path).unwrap());
    let mut gateway = plan.start().await;
    let record = gateway.concluded().await;
    assert_eq!(record.outcome, SwapOutcome::Loaded);
    assert_gapless(&gateway.count("dev-line", 1).await[..1], 1);
    if !record.cached {
        kept(&gateway.plan, before.as_deref()).await;
    }
    (record.cached, gateway.stop().await)
}

/// The one compiled component.
fn entry(plan: &Plan) -> Option<PathBuf> {
    let mut entries = std::fs::read_dir(&plan.settings.cache_directory)
        .ok()?
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "cwasm"));
    let entry = entries.next();
    assert_eq!(entries.next(), None);
    entry
}

/// Waits until the cache holds something else than before. Nobody who compiled waits for that.
async fn kept(plan: &Plan, before: Option<&[u8]>) {
    let look = async {
        while entry(plan).is_none_or(|path| std::fs::read(path).ok().as_deref() == before) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_start_compiles_nothing_and_trusts_nothing_that_was_changed() {
    let plan = Plan::new().connector("line", &connector(""));
    let (cached, plan) = starts_from_cache(plan).await;
    assert!(!cached);
    let (cached, plan) = starts_from_cache(plan).await;
    assert!(cached);

    let path = entry(&plan).unwrap();
    let mut code = std::fs::read(&path).unwrap();
    let middle = code.len() / 2;
    code[middle] ^= 1;
    std::fs::write(&path, &code).unwrap();
    let (cached, plan) = starts_from_cache(plan).await;
    assert!(!cached);
    // It was compiled anew, and what was kept then is good again.
    let (cached, plan) = starts_from_cache(plan).await;
    assert!(cached);

    // Compiled code of somebody else, sealed with another secret.
    let secret = plan.settings.cache_directory.join("secret");
    std::fs::write(&secret, [7; 64]).unwrap();
    let (cached, plan) = starts_from_cache(plan).await;
    assert!(!cached);

    std::fs::write(entry(&plan).unwrap(), b"short").unwrap();
    let (cached, _plan) = starts_from_cache(plan).await;
    assert!(!cached);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_that_cannot_be_used_costs_a_compilation_and_nothing_else() {
    let plan = Plan::new().connector("line", &connector(""));
    std::fs::write(&plan.settings.cache_directory, b"in the way").unwrap();
    let mut gateway = plan.start().await;
    assert!(!gateway.concluded().await.cached);
    assert_gapless(&gateway.count("dev-line", 5).await, 1);
    gateway.stop().await;
}

/// Both once wrote the same draft, and one of them complained.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_connectors_keep_the_same_component_at_the_same_time() {
    let mut gateway = Plan::new()
        .connector("line", &connector(""))
        .connector("other", &connector(""))
        .start()
        .await;
    gateway.concluded().await;
    gateway.concluded().await;
    kept(&gateway.plan, None).await;
    let plan = gateway.stop().await;
    let mut gateway = plan.start().await;
    assert!(gateway.concluded().await.cached);
    assert!(gateway.concluded().await.cached);
    gateway.stop().await;
}
