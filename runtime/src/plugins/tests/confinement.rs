//! Guests that misbehave while they serve: what they cost is bounded, and nobody else pays.
//!
//! These run on one thread on purpose: a guest that does not let go of it would stop its neighbour, and the test.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use moorline_core::confine::Limit;

use super::gateway::{Gateway, Plan, assert_gapless};
use super::guests::connector;
use crate::plugins::{InstanceState, InstanceStatus, Limits, OrderEnd, Until};

/// A misbehaving `line` beside a good `other`.
async fn beside_a_good_one(script: &str) -> Gateway {
    Plan::new()
        .connector("line", &connector(script))
        .connector("other", &connector(""))
        .start()
        .await
}

/// Waits until `line` has failed `traps` times; meanwhile and afterwards the other one must go on.
async fn fails(gateway: &mut Gateway, traps: u64) -> InstanceStatus {
    let line = gateway
        .instance("line", "a failure", |line| {
            line.traps >= traps && line.state == InstanceState::Restarting
        })
        .await;
    assert_eq!(line.readings, 0);
    assert!(line.retry_at.is_some());
    assert_gapless(&gateway.count("dev-other", 20).await, 1);
    let other = gateway.instance("other", "its figures", |_any| true).await;
    assert_eq!((other.traps, other.restarts), (0, 0));
    assert_eq!(other.state, InstanceState::Serving);
    line
}

#[tokio::test]
async fn a_guest_that_traps_is_restarted_with_growing_waits_and_others_go_on() {
    let mut gateway = beside_a_good_one("timer:trap").await;
    let began = std::time::Instant::now();
    let line = fails(&mut gateway, 4).await;
    // Before the fourth failure lie three waits: 250, 500 and 1000 ms.
    let elapsed = began.elapsed();
    assert!(elapsed >= Duration::from_millis(1_700), "{elapsed:?}");
    assert!(line.restarts >= 3);
    let words = line.last_error.unwrap();
    assert!(
        words.starts_with("trapped: ") && words.contains("unreachable"),
        "{words}"
    );
    gateway.stop().await;
}

#[tokio::test]
async fn an_open_circuit_is_closed_by_an_order_or_another_build_and_others_go_on() {
    let mut gateway = beside_a_good_one("timer:trap").await;
    // The machine that counts is tried in the core; here it is shortened by orders, which forgive what was before.
    let line = fails(&mut gateway, 4).await;
    let (traps, restarts) = (line.traps, line.restarts);
    let began = std::time::Instant::now();
    let end = gateway
        .plugins
        .swaps()
        .swap("line", false, Until::Serves)
        .await;
    assert!(matches!(end, Ok(OrderEnd::Unchanged(_))), "{end:?}");
    // Without the order the next try were two seconds away, and the one after that four.
    let line = gateway
        .instance("line", "two more failures", |line| line.traps >= traps + 2)
        .await;
    assert!(line.restarts > restarts);
    assert!(
        began.elapsed() < Duration::from_millis(1_900),
        "{:?}",
        began.elapsed()
    );
    gateway.replace("line", &connector("mended"));
    let line = gateway
        .instance("line", "service", |line| {
            line.state == InstanceState::Serving && line.readings > 0
        })
        .await;
    assert_eq!(line.retry_at, None);
    assert_gapless(&gateway.count("dev-other", 20).await, 1);
    gateway.stop().await;
}

#[tokio::test]
async fn a_guest_that_hangs_is_stopped_when_its_cpu_time_is_used_up() {
    let mut gateway = beside_a_good_one("timer:hang").await;
    let line = fails(&mut gateway, 1).await;
    let words = line.last_error.unwrap();
    assert!(
        words.starts_with(
            "missed its deadline: the call used up its CPU time, call_deadline_ms = 1000 of [connector.limits]"
        ),
        "{words}"
    );
    assert_eq!(line.limits.count(Limit::Call), line.traps);
    gateway.stop().await;
}

#[tokio::test]
async fn a_guest_gets_no_more_memory_than_its_limit() {
    let mut gateway = beside_a_good_one("timer:eat").await;
    let serving = gateway
        .instance("line", "its memory", |line| {
            line.memory_bytes > 0 || line.traps > 0
        })
        .await;
    assert!(serving.memory_bytes <= Limits::default().memory_bytes);
    let line = fails(&mut gateway, 1).await;
    let words = line.last_error.unwrap();
    assert!(
        words.starts_with("exceeded a limit: memory_bytes_max = 33554432 of [connector.limits]: "),
        "{words}"
    );
    assert!(words.contains("eat"), "no function is named: {words}");
    assert!(line.limits.count(Limit::Memory) > 0);
    assert_eq!(line.memory_bytes, 0);
    gateway.stop().await;
}

#[tokio::test]
async fn a_guest_that_recurses_overflows_its_own_stack_only() {
    let mut gateway = beside_a_good_one("timer:recurse").await;
    let line = fails(&mut gateway, 1).await;
    let words = line.last_error.unwrap();
    assert!(
        words.starts_with("trapped: ") && words.contains("stack exhausted"),
        "{words}"
    );
    gateway.stop().await;
}

#[tokio::test]
async fn a_huge_string_is_not_copied_into_the_host() {
    let mut gateway = beside_a_good_one("timer:huge-string").await;
    let line = fails(&mut gateway, 1).await;
    let words = line.last_error.unwrap();
    assert!(words.starts_with("trapped: "), "{words}");
    gateway.stop().await;
}

/// Lines of the log on their way to the test.
pub(super) struct Lines(Sender<Vec<u8>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// This thread's log, from now on.
pub(super) fn log() -> (tracing::subscriber::DefaultGuard, Receiver<Vec<u8>>) {
    let (lines, log) = channel();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::INFO)
        .with_ansi(false)
        .with_writer(move || Lines(lines.clone()))
        .finish();
    (tracing::subscriber::set_default(subscriber), log)
}

#[tokio::test]
async fn a_flood_of_log_lines_is_held_back_and_counted() {
    const CALLS: usize = 10;
    let (guard, log) = log();
    let began = std::time::Instant::now();
    let mut gateway = Plan::new()
        .connector("line", &connector("timer:flood-log"))
        .start()
        .await;
    assert_gapless(&gateway.count("dev-line", CALLS).await, 1);
    gateway.stop().await;
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap() + 1;
    drop(guard);
    let lines: Vec<String> = log
        .try_iter()
        .map(|line| String::from_utf8(line).unwrap())
        .collect();
    let flood = lines.iter().filter(|line| line.contains("flood")).count();
    // 50 in a row and 20 a second, of ten thousand a call.
    assert!(flood >= 50, "{flood}");
    assert!(flood <= 50 + 20 * seconds, "{flood} in {seconds} s");
    let said = |line: &&String| line.contains("held back") && line.contains("suppressed=");
    assert!(lines.iter().any(|line| said(&line)), "{lines:?}");
}
