//! What a plugin keeps, put back from a backup while the gateway runs and while it does not.

use std::io::ErrorKind;
use std::path::Path;

use moorline_core::plugin_state::Entries;

use super::confinement::log;
use super::gateway::{Plan, assert_gapless};
use super::guests::connector;
use crate::plugins::host::read_state;
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

/// Where nothing can be written and nothing lies: a link to what is not there. It is made good by making that. What lies
/// there goes aside in one step, and again if the plugin has just made it anew.
fn break_directory(directory: &Path) {
    for time in 0.. {
        let aside = directory.with_extension(format!("aside-{time}"));
        match std::fs::rename(directory, aside) {
            Ok(()) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound),
        }
        match std::os::unix::fs::symlink(directory.with_extension("gone"), directory) {
            Ok(()) => return,
            Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyExists),
        }
    }
}

fn mend_directory(directory: &Path) {
    std::fs::create_dir(directory.with_extension("gone")).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_cannot_be_written_is_told_once_and_written_when_it_can_be() {
    // It keeps its count every 7 s, so that only the timer comes in between.
    let plan = Plan::new().connector("c", &connector("start:resume period:700"));
    let directory = plan.settings.state_directory.clone();
    let mut gateway = plan.start().await;
    gateway.concluded().await;
    break_directory(&directory);
    let unwritten = |line: &crate::plugins::InstanceStatus| line.state_unwritten.is_some();
    gateway.instance("c", "the failure", unwritten).await;
    mend_directory(&directory);
    let line = gateway
        .instance("c", "the recovery", |line| !unwritten(line))
        .await;
    assert_eq!((line.faults, line.traps), (0, 0));
    let kept = read_state(&directory.join("c.state"), 100).unwrap();
    assert_eq!(kept, counted(10));
    gateway.stop().await;
}

#[tokio::test]
async fn a_state_that_changes_often_and_cannot_be_written_fills_no_log() {
    let plan = Plan::new().connector("c", &connector("start:resume period:5"));
    let directory = plan.settings.state_directory.clone();
    let (guard, lines) = log();
    let mut gateway = plan.start().await;
    gateway.concluded().await;
    break_directory(&directory);
    gateway
        .instance("c", "the failure", |line| line.state_unwritten.is_some())
        .await;
    // Twenty changes later.
    gateway.count("dev-c", 200).await;
    mend_directory(&directory);
    gateway
        .instance("c", "the recovery", |line| line.state_unwritten.is_none())
        .await;
    gateway.stop().await;
    drop(guard);
    let lines: Vec<String> = lines
        .try_iter()
        .map(|line| String::from_utf8_lossy(&line).into_owned())
        .collect();
    let said = |words: &str| lines.iter().filter(|line| line.contains(words)).count();
    assert_eq!(said("state is not on the disk"), 1, "{lines:#?}");
    assert_eq!(said("state is on the disk again"), 1, "{lines:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_is_none_is_put_aside_and_the_plugin_starts_with_none() {
    let plan = Plan::new().connector("c", &connector("start:resume"));
    let directory = plan.settings.state_directory.clone();
    std::fs::create_dir_all(&directory).unwrap();
    // Larger than any it may keep, by far.
    let file = std::fs::File::create(directory.join("c.state")).unwrap();
    file.set_len(1 << 40).unwrap();
    let mut gateway = plan.start().await;
    gateway.concluded().await;
    assert_gapless(&gateway.count("dev-c", 20).await, 1);
    let line = gateway
        .instance("c", "the damage", |line| line.state_damaged == 1)
        .await;
    assert_eq!((line.faults, line.traps), (0, 0));
    let aside = std::fs::metadata(directory.join("c.damaged")).unwrap();
    assert_eq!(aside.len(), 1 << 40);
    gateway.stop().await;
}
