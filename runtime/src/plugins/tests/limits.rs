//! Each limit, exceeded by a guest that wants to: the effect is bounded, the limit is named, and a neighbour goes on.
//!
//! On one thread on purpose, as in `confinement`.

use std::time::{Duration, Instant};

use moorline_core::confine::Limit;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::gateway::{Gateway, Plan, assert_gapless};
use super::guests::{connector, garbled};
use crate::plugins::{InstanceState, InstanceStatus, Limits};

/// `line` under `limits` beside a good `other`.
fn beside_a_good_one(script: &str, limits: Limits) -> Plan {
    Plan::new()
        .connector("line", &connector(script))
        .limits(limits)
        .connector("other", &connector(""))
}

/// Waits until `line` has exceeded `limit`, by its figures; the other one goes on.
async fn exceeds(gateway: &mut Gateway, limit: Limit, value: u64) -> InstanceStatus {
    let line = gateway
        .instance("line", "a limit", |line| line.limits.count(limit) > 0)
        .await;
    let exceeded = line
        .limits
        .iter()
        .find(|(exceeded, _)| exceeded.limit == limit);
    assert_eq!(exceeded.unwrap().0.value, value);
    assert_gapless(&gateway.count("dev-other", 20).await, 1);
    let other = gateway.instance("other", "its figures", |_any| true).await;
    assert_eq!(other.state, InstanceState::Serving);
    assert_eq!((other.traps, other.limits.last()), (0, None));
    line
}

/// A guest that is ended for it says so in its last error.
async fn ends(script: &str, component: &[u8], words: &[&str]) {
    let roomy = Limits {
        memory_bytes: 256 * 1024 * 1024,
        ..Limits::default()
    };
    let mut gateway = Plan::new()
        .connector("line", component)
        .limits(roomy)
        .connector("other", &connector(""))
        .start()
        .await;
    let line = gateway
        .instance("line", "a failure", |line| line.traps > 0)
        .await;
    let error = line.last_error.unwrap();
    for word in words {
        assert!(error.contains(word), "{script}: {error}");
    }
    assert_gapless(&gateway.count("dev-other", 20).await, 1);
    gateway.stop().await;
}

#[tokio::test]
async fn floods_of_host_calls_are_charged_to_the_guest_and_end_with_its_deadline() {
    for script in ["timer:flood-clock", "timer:flood-empty"] {
        let words = ["the call used up its CPU time, call_deadline_ms = 1000"];
        ends(script, &connector(script), &words).await;
    }
}

#[tokio::test]
async fn a_huge_list_is_not_copied_into_the_host() {
    for script in ["timer:huge-list", "timer:huge-series"] {
        ends(script, &connector(script), &["trapped: ", "too much data"]).await;
    }
}

#[tokio::test]
async fn a_text_that_is_no_utf_8_does_not_reach_the_host() {
    let script = "timer:text";
    let component = garbled(
        &connector(script),
        b"TEXT:0123456789",
        b"TEXT:012345678\xff",
    );
    ends(script, &component, &["trapped: ", "utf-8"]).await;
}

#[tokio::test]
async fn absurd_times_and_names_are_refused_one_by_one_and_the_guest_goes_on() {
    let mut gateway = beside_a_good_one("timer:absurd", Limits::default())
        .start()
        .await;
    // A fault would say which of them was taken.
    assert_gapless(&gateway.count("dev-line", 5).await, 1);
    let line = gateway.instance("line", "its figures", |_any| true).await;
    assert_eq!((line.faults, line.traps, line.last_error), (0, 0, None));
    gateway.stop().await;
}

#[tokio::test]
async fn faults_are_cut_and_count_as_lines_of_the_log() {
    let limits = Limits {
        log_lines_per_s: 1,
        ..Limits::default()
    };
    let mut gateway = beside_a_good_one("", limits).start().await;
    gateway.count("dev-line", 1).await;
    // The guest answers with a fault that repeats it.
    let method = format!("red\nFAKE LINE\r{}", "x".repeat(100_000));
    for request in 0..100 {
        gateway.ask("dev-line", request, &method).await;
        let reply = gateway.reply(request).await;
        assert!(reply.len() < 600 && reply.contains("x [cut]"), "{reply}");
    }
    let line = exceeds(&mut gateway, Limit::Log, 1).await;
    assert_eq!((line.faults, line.traps), (100, 0));
    let error = line.last_error.unwrap();
    let words = "configuration: no method red FAKE LINE xxx";
    assert!(error.starts_with(words) && error.len() < 600, "{error}");
    gateway.stop().await;
}

#[tokio::test]
async fn too_many_readings_are_turned_back_and_none_is_lost() {
    let limits = Limits {
        emit_readings_per_s: 2_000,
        ..Limits::default()
    };
    let mut gateway = beside_a_good_one("timer:flood-emit", limits).start().await;
    let began = Instant::now();
    let line = exceeds(&mut gateway, Limit::Emit, 2_000).await;
    assert!(line.back_pressure > 0);
    let numbers = gateway.count("dev-line", 14_000).await;
    assert_gapless(&numbers, 1);
    // Ten thousand at once, and two thousand a second after that.
    let earned = began.elapsed().as_secs_f64() * 2_000.0;
    assert!(
        (numbers.len() as f64) < 10_000.0 + earned + 4_000.0,
        "{}",
        numbers.len()
    );
    assert_eq!(line.traps, 0);
    gateway.stop().await;
}

#[tokio::test]
async fn devices_without_end_count_like_readings() {
    let limits = Limits {
        emit_readings_per_s: 10,
        ..Limits::default()
    };
    let mut gateway = beside_a_good_one("timer:flood-devices", limits)
        .start()
        .await;
    exceeds(&mut gateway, Limit::Emit, 10).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_guest_that_never_rests_gets_its_share_of_the_processor() {
    let limits = Limits {
        cpu_percent: 1,
        ..Limits::default()
    };
    let mut gateway = beside_a_good_one("timer:busy", limits).start().await;
    let line = exceeds(&mut gateway, Limit::Cpu, 1).await;
    assert_eq!((line.traps, line.state), (0, InstanceState::Serving));
    let paused = gateway
        .instance("line", "a pause", |line| line.paused_until.is_some())
        .await;
    // It goes on afterwards, and pays for what it uses.
    let (before, began) = (paused.cpu, Instant::now());
    let calls = paused.served.calls;
    let later = gateway
        .instance("line", "another call", |line| line.served.calls > calls + 1)
        .await;
    let (used, passed) = (later.cpu - before, began.elapsed());
    // Each of its calls takes 20 ms, which a hundredth earns in two seconds; the figures may be half a second old.
    assert!(
        passed > Duration::from_millis(500),
        "{used:?} in {passed:?}"
    );
    assert!(used < passed / 10, "{used:?} in {passed:?}");
    gateway.stop().await;
}

#[tokio::test]
async fn state_beyond_its_limit_is_refused_and_named() {
    let limits = Limits {
        state_bytes: 40_000,
        ..Limits::default()
    };
    let mut gateway = beside_a_good_one("timer:flood-state", limits).start().await;
    let line = exceeds(&mut gateway, Limit::State, 40_000).await;
    assert_eq!(line.traps, 0);
    let plan = gateway.stop().await;
    let kept = std::fs::metadata(plan.settings.state_directory.join("line.state")).unwrap();
    assert!(kept.len() < 41_000, "{}", kept.len());
}

#[tokio::test]
async fn state_that_changes_with_every_call_is_written_at_its_pace() {
    let limits = Limits {
        state_write_bytes_per_s: 20_000,
        ..Limits::default()
    };
    let mut gateway = beside_a_good_one("timer:flood-state", limits).start().await;
    let line = exceeds(&mut gateway, Limit::StateWrite, 20_000).await;
    assert_eq!((line.traps, line.state), (0, InstanceState::Serving));
    let paused = gateway
        .instance("line", "a pause", |line| line.paused_until.is_some())
        .await;
    let calls = paused.served.calls;
    gateway
        .instance("line", "another call", |line| line.served.calls > calls)
        .await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_stream_carries_no_more_than_its_limit() {
    let device = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = device.local_addr().unwrap();
    let limits = Limits {
        stream_bytes_per_s: 100_000,
        ..Limits::default()
    };
    let mut gateway = Plan::new()
        .connector("line", &connector("timer:flood-stream timer:silent"))
        .limits(limits)
        .connection("a", Some(&format!("tcp://{address}")))
        .connector("other", &connector(""))
        .start()
        .await;
    let (mut socket, _peer) = device.accept().await.unwrap();
    let began = Instant::now();
    let (mut received, mut chunk) = (0_usize, vec![0; 65_536]);
    while began.elapsed() < Duration::from_secs(3) {
        let read = socket.read(&mut chunk);
        if let Ok(count) = tokio::time::timeout(Duration::from_millis(500), read).await {
            received += count.unwrap();
        }
    }
    // A second's worth at once, a second's worth each second, and one write that is paid for later.
    let most = 100_000.0 * (1.0 + began.elapsed().as_secs_f64()) + 32_768.0;
    assert!(received > 200_000 && (received as f64) < most, "{received}");
    let line = gateway
        .instance("line/a", "a limit", |line| {
            line.limits.count(Limit::Stream) > 0
        })
        .await;
    assert_eq!(line.traps, 0);
    assert_gapless(&gateway.count("dev-other", 20).await, 1);
    gateway.stop().await;
}

#[tokio::test]
async fn a_component_that_needs_more_tables_or_instances_than_it_may_have_is_refused_by_name() {
    let usual = Limits::default();
    for (limits, words) in [
        (
            Limits {
                table_elements: 1,
                ..usual
            },
            "exceeded a limit: table_elements_max = 1 of [connector.limits]",
        ),
        (
            Limits {
                instances: 1,
                ..usual
            },
            "exceeded a limit: instances_max = 1 of [connector.limits]",
        ),
    ] {
        let mut gateway = beside_a_good_one("", limits).start().await;
        let records = [gateway.concluded().await, gateway.concluded().await];
        let line = records
            .iter()
            .find(|record| &*record.component == "line")
            .unwrap();
        let crate::plugins::SwapOutcome::Refused(_, failure) = &line.outcome else {
            panic!("{line:?}");
        };
        assert!(failure.to_string().starts_with(words), "{failure}");
        assert_gapless(&gateway.count("dev-other", 20).await, 1);
        gateway.stop().await;
    }
}
