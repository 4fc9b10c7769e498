//! What a plugin keeps, put back from a backup while the gateway runs and while it does not.

use moorline_core::plugin_state::Entries;

use super::gateway::{Plan, assert_gapless};
use super::guests::connector;
use crate::plugins::{RestoreRefused, Restored, StateFile, state_files};

/// What the scripted connector keeps of its count.
fn counted(count: i64) -> Entries {
    Entries::from([("n".to_owned(), count.to_le_bytes().to_vec())])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_is_put_back_under_a_plugin_that_runs() {
    let mut plan = Plan::new().connector("c", &connector("start:resume"));
    // In the product the plugins' directory lies in the state directory.
    let place = plan.directory.path().join("place");
    plan.settings.state_directory = place.join("plugins");
    let mut gateway = plan.start().await;
    gateway.concluded().await;
    let before = gateway.count("dev-c", 20).await;
    assert_gapless(&before, 1);
    let orders = gateway.plugins.swaps();
    let nothing = orders.restore_state("c").await;
    assert!(matches!(nothing, Err(RestoreRefused::NotReplaced(_))));
    StateFile::prepare(&place, "c", 100, &counted(5_000)).unwrap();
    let restored = orders.restore_state("c").await;
    assert_eq!(restored, Ok(Restored::Restarted));
    // Whatever it still said before that, and then it goes on from what was put back, without the hand-over.
    let numbers = gateway.count("dev-c", 30).await;
    let at = numbers.iter().position(|number| *number > 5_000).unwrap();
    assert_gapless(&numbers[..at], 1);
    assert_gapless(&numbers[at..], 5_001);
    // A swap after that knows nothing of the count before, either.
    gateway.replace("c", &connector("start:resume second"));
    gateway.concluded().await;
    let numbers = gateway.count("dev-c", 30).await;
    assert_gapless(&numbers[at..], 5_001);
    let refused = orders.restore_state("d").await;
    let (name, known) = ("d".to_owned(), vec!["c".to_owned()]);
    assert_eq!(refused, Err(RestoreRefused::Unknown { name, known }));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_was_taken_out_is_what_the_next_process_begins_with() {
    let plan = Plan::new().connector("c", &connector("start:resume"));
    let mut gateway = plan.start().await;
    gateway.concluded().await;
    gateway.count("dev-c", 20).await;
    let mut plan = gateway.stop().await;
    // In the product the plugins' directory lies in the state directory.
    let place = plan.directory.path().join("place");
    plan.settings.state_directory = place.join("plugins");
    let file = StateFile::prepare(&place, "c", 100, &counted(700)).unwrap();
    file.put().unwrap();
    let found = state_files(&place).unwrap();
    assert_eq!(*found["c"].as_ref().unwrap(), counted(700));
    let mut gateway = plan.start().await;
    gateway.concluded().await;
    let numbers = gateway.count("dev-c", 3).await;
    let at = numbers.iter().position(|number| *number > 700).unwrap();
    assert_gapless(&numbers[at..], 701);
    gateway.stop().await;
}
