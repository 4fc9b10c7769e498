//! Swaps that succeed.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::gateway::{Gateway, Plan, assert_gapless};
use super::guests::connector;
use crate::plugins::status::SWAPS_KEPT;
use crate::plugins::{SwapOutcome, SwapRecord};

/// Far more than a swap of a small guest costs, far less than a poll interval an operator would notice.
const GAP_MAX: Duration = Duration::from_secs(2);

#[track_caller]
fn assert_swapped(record: &SwapRecord) {
    assert_eq!(record.outcome, SwapOutcome::Swapped, "{record:?}");
    assert!(record.gap > Duration::ZERO, "{record:?}");
    assert!(record.gap < GAP_MAX, "{record:?}");
    assert!(record.took >= record.gap, "{record:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renamed_and_a_rewritten_file_take_over_without_a_missing_number() {
    let mut gateway = Plan::new().connector("line", &connector("")).start().await;
    let loaded = gateway.concluded().await;
    assert_eq!(loaded.outcome, SwapOutcome::Loaded);
    assert_eq!(loaded.gap, Duration::ZERO);
    gateway.count("dev-line", 20).await;

    gateway.replace("line", &connector("second"));
    let renamed = gateway.concluded().await;
    assert_swapped(&renamed);
    assert_eq!(renamed.from, Some(loaded.to));
    gateway.count("dev-line", 20).await;

    gateway.rewrite("line", &connector("third"));
    let rewritten = gateway.concluded().await;
    assert_swapped(&rewritten);
    assert_eq!(rewritten.from, Some(renamed.to));
    let numbers = gateway.count("dev-line", 20).await;
    assert_gapless(&numbers, 1);

    let status = gateway.status.borrow().clone();
    assert_eq!(status.swaps_total, 2);
    let line = &status.connectors[0];
    assert_eq!(line.component.active, Some(rewritten.to));
    assert_eq!(
        (&*line.component.plugin, &*line.component.version),
        ("scripted", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(line.component.refused, None);
    assert_eq!(
        (line.instances[0].traps, line.instances[0].restarts),
        (0, 0)
    );
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_bytes_again_are_no_swap() {
    let mut gateway = Plan::new().connector("line", &connector("")).start().await;
    gateway.concluded().await;
    gateway.replace("line", &connector(""));
    // Long enough for a look: had it been taken for a swap, that would have concluded before the next one.
    let before = gateway.count("dev-line", 100).await.len();
    gateway.replace("line", &connector("other"));
    let record = gateway.concluded().await;
    assert_swapped(&record);
    assert_eq!(gateway.status.borrow().swaps_total, 1);
    assert!(gateway.count("dev-line", 5).await.len() > before);
    gateway.stop().await;
}

/// A device that answers every byte and counts its sessions.
async fn device() -> (String, watch::Receiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("tcp://{}", listener.local_addr().unwrap());
    let (sessions, counted) = watch::channel(0);
    tokio::spawn(async move {
        while let Ok((mut socket, _peer)) = listener.accept().await {
            sessions.send_modify(|count| *count += 1);
            tokio::spawn(async move {
                while let Ok(byte) = socket.read_u8().await {
                    if byte != b'?' || socket.write_u8(b'!').await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (url, counted)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_outlives_its_guests() {
    let (url, sessions) = device().await;
    let mut gateway = Plan::new()
        .connector("line", &connector(""))
        .connection("press", Some(&url))
        .start()
        .await;
    gateway.concluded().await;
    gateway.count("dev-line-press", 20).await;
    for script in ["second", "third"] {
        gateway.replace("line", &connector(script));
        assert_swapped(&*gateway.concluded().await);
        gateway.count("dev-line-press", 20).await;
    }
    let numbers = gateway.count("dev-line-press", 1).await;
    assert_gapless(&numbers, 1);
    assert_eq!(*sessions.borrow(), 1);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_the_old_generation_was_asked_is_answered_by_the_new_one() {
    let mut gateway = Plan::new().connector("line", &connector("")).start().await;
    gateway.concluded().await;
    gateway.count("dev-line", 1).await;
    gateway.ask("dev-line", 71, "later").await;
    gateway.replace("line", &connector("second"));
    assert_swapped(&*gateway.concluded().await);
    gateway.ask("dev-line", 72, "now").await;
    let answers = [gateway.reply(71).await, gateway.reply(72).await];
    assert_eq!(answers[0], answers[1]);
    assert!(answers[0].parse::<i64>().unwrap() > 0);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_refuses_the_hand_over_starts_clean() {
    let mut gateway = Plan::new().connector("line", &connector("")).start().await;
    gateway.concluded().await;
    let before = gateway.count("dev-line", 20).await.len();
    gateway.ask("dev-line", 6, "later").await;
    gateway.replace("line", &connector("start:refuse-hand-over"));
    let record = gateway.concluded().await;
    assert_swapped(&record);
    assert_eq!(record.clean.as_deref(), Some("from another time"));
    // The request was in the hand-over.
    let answer = gateway.reply(6).await;
    assert!(answer.contains("was replaced"), "{answer}");
    let numbers = gateway.count("dev-line", 20).await;
    let restart = numbers.iter().rposition(|n| *n == 1).unwrap();
    assert!(restart >= before);
    assert_gapless(&numbers[..restart], 1);
    assert_gapless(&numbers[restart..], 1);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_refuses_the_hand_over_is_refused_where_it_is_required() {
    let mut plan = Plan::new().connector("line", &connector(""));
    plan.settings.connectors[0].succession.hand_over_required = true;
    let mut gateway = plan.start().await;
    gateway.concluded().await;
    gateway.count("dev-line", 20).await;
    gateway.replace("line", &connector("start:refuse-hand-over"));
    let record = gateway.concluded().await;
    let SwapOutcome::RolledBack(_, failure) = &record.outcome else {
        panic!("{record:?}")
    };
    assert_eq!(failure.detail, "hand-over: from another time");
    assert_gapless(&gateway.count("dev-line", 20).await, 1);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_generation_that_fails_in_stop_cannot_hold_up_the_new_one() {
    for script in ["stop:trap", "stop:hang"] {
        let plan = Plan::new().connector("line", &connector(script));
        let mut gateway = plan.start().await;
        gateway.concluded().await;
        gateway.count("dev-line", 10).await;
        gateway.replace("line", &connector("second"));
        let record = gateway.concluded().await;
        assert_eq!(record.outcome, SwapOutcome::Swapped, "{script}");
        // It handed nothing over, and was itself started with nothing.
        let numbers = gateway.count("dev-line", 10).await;
        assert!(
            numbers.iter().filter(|n| **n == 1).count() == 2,
            "{numbers:?}"
        );
        gateway.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_swap_changes_all_instances_of_its_connector_and_no_other() {
    let mut gateway = Plan::new()
        .connector("line", &connector(""))
        .connection("a", None)
        .connection("b", None)
        .connector("other", &connector(""))
        .start()
        .await;
    gateway.concluded().await;
    gateway.concluded().await;
    for device in ["dev-line-a", "dev-line-b", "dev-other"] {
        gateway.count(device, 5).await;
    }
    gateway.replace("line", &connector("second"));
    let record = gateway.concluded().await;
    assert_swapped(&record);
    assert_eq!(&*record.component, "line");
    for device in ["dev-line-a", "dev-line-b", "dev-other"] {
        let numbers = gateway.count(device, 5).await;
        assert_gapless(&numbers, 1);
    }
    let status = gateway.status.borrow().clone();
    let generations = |connector: usize| {
        let instances = &status.connectors[connector].instances;
        instances
            .iter()
            .map(|i| i.generation.unwrap().0)
            .collect::<Vec<_>>()
    };
    assert_eq!((generations(0), generations(1)), (vec![2, 2], vec![1]));
    gateway.stop().await;
}

/// Also shows the gaps, with `RUST_LOG=moorline=info` and `--nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swaps_in_a_row_lose_nothing_and_are_all_remembered() {
    const SWAPS: usize = 30;
    let builds = [connector("even"), connector("odd")];
    let mut gateway = Plan::new().connector("line", &builds[0]).start().await;
    let mut records: Vec<Arc<SwapRecord>> = vec![gateway.concluded().await];
    for swap in 1..=SWAPS {
        gateway.replace("line", &builds[swap % 2]);
        records.push(gateway.concluded().await);
    }
    records[1..]
        .iter()
        .for_each(|record| assert_swapped(record));
    // Two builds were compiled; whatever came later was there already.
    assert!(records[2..].iter().all(|record| record.cached));
    let numbers = gateway.count("dev-line", 20).await;
    assert_gapless(&numbers, 1);
    let status = gateway.status.borrow().clone();
    assert_eq!(status.swaps_total, SWAPS as u64);
    assert_eq!(status.swaps.len(), SWAPS + 1);
    const { assert!(SWAPS_KEPT >= 128) };
    gateway.stop().await;
}

/// Asks until the guest has heard that the link is up.
async fn knows_the_link_is_up(gateway: &mut Gateway, requests: std::ops::Range<u64>) -> bool {
    for request in requests {
        gateway.ask("dev-line", request, "link").await;
        if gateway.reply(request).await.contains("Up") {
            return true;
        }
        gateway.count("dev-line", 1).await;
    }
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_generation_is_told_whether_the_link_is_up() {
    let mut gateway = Plan::new().connector("line", &connector("")).start().await;
    gateway.concluded().await;
    gateway.count("dev-line", 1).await;
    gateway.link.send_replace(true);
    assert!(knows_the_link_is_up(&mut gateway, 0..100).await);
    gateway.replace("line", &connector("second"));
    assert_swapped(&*gateway.concluded().await);
    assert!(knows_the_link_is_up(&mut gateway, 100..200).await);
    gateway.stop().await;
}

/// A generation that says nothing of its timer inherits that of the one before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timer_that_is_due_is_not_lost() {
    let mut gateway = Plan::new().connector("line", &connector("")).start().await;
    gateway.concluded().await;
    gateway.count("dev-line", 5).await;
    gateway.replace("line", &connector("start:no-wake"));
    assert_swapped(&*gateway.concluded().await);
    assert_gapless(&gateway.count("dev-line", 20).await, 1);
    // Also the one that comes back.
    gateway.replace("line", &connector("timer:trap-3"));
    assert_swapped(&*gateway.concluded().await);
    gateway.concluded().await;
    gateway.count("dev-line", 20).await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_is_turned_as_orchestrators_do_it_is_one_swap() {
    let mut plan = Plan::new().connector("line", &connector(""));
    let mount = plan.directory.path().join("mount");
    let version = |name: &str, script: &str| {
        std::fs::create_dir_all(mount.join(name)).unwrap();
        std::fs::write(mount.join(name).join("line.wasm"), connector(script)).unwrap();
        std::os::unix::fs::symlink(name, mount.join("..data_tmp")).unwrap();
        std::fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
    };
    version("..2026_11_29_1", "");
    std::os::unix::fs::symlink("..data/line.wasm", mount.join("line.wasm")).unwrap();
    plan.settings.connectors[0].component = mount.join("line.wasm");
    let mut gateway = plan.start().await;
    let mut last = gateway.concluded().await;
    gateway.count("dev-line", 10).await;
    for (name, before) in [
        ("..2026_11_29_2", "..2026_11_29_1"),
        ("..2026_11_29_3", "..2026_11_29_2"),
    ] {
        version(name, name);
        std::fs::remove_dir_all(mount.join(before)).unwrap();
        let record = gateway.concluded().await;
        assert_swapped(&record);
        assert_eq!(record.from, Some(last.to));
        last = record;
    }
    assert_gapless(&gateway.count("dev-line", 10).await, 1);
    assert_eq!(gateway.status.borrow().swaps_total, 2);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exclusive_generation_is_made_when_the_old_one_is_gone_and_the_old_one_comes_back() {
    let (url, sessions) = device().await;
    let mut plan = Plan::new()
        .connector("line", &connector(""))
        .connection("press", Some(&url));
    plan.settings.connectors[0].succession.exclusive = true;
    let mut gateway = plan.start().await;
    gateway.concluded().await;
    gateway.count("dev-line-press", 20).await;
    gateway.replace("line", &connector("second"));
    assert_swapped(&*gateway.concluded().await);
    gateway.count("dev-line-press", 20).await;
    for script in ["start:trap", "start:eat"] {
        gateway.replace("line", &connector(script));
        let record = gateway.concluded().await;
        assert!(
            matches!(record.outcome, SwapOutcome::RolledBack(..)),
            "{record:?}"
        );
        let numbers = gateway.count("dev-line-press", 20).await;
        assert_gapless(&numbers, 1);
    }
    // The host holds the stream: the device saw one client throughout.
    assert_eq!(*sessions.borrow(), 1);
    gateway.stop().await;
}
