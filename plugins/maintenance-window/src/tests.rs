use moorline_plugin_sdk::{Cause, FaultOf, Network};

use super::*;

/// Monday 2026-11-23 00:00 UTC.
const MONDAY_MS: f64 = 1_795_392_000_000.0;
const HOUR_MS: u32 = 60 * MINUTE_MS;
const DAY_MS: u32 = 24 * HOUR_MS;
const CEILING_MS: u32 = 120_000;

fn policy(json: &str) -> MaintenanceWindow {
    MaintenanceWindow::configure(json).unwrap()
}

fn refusal(json: &str) -> String {
    MaintenanceWindow::configure(json).err().unwrap()
}

fn question(in_week_ms: Option<u32>) -> Question {
    Question {
        cause: Cause::ConnectRefused,
        fault: FaultOf::Peer,
        reason_code: None,
        attempt: 3,
        session_ms: 0,
        down_ms: 10_000,
        spool_depth: 1_000,
        network: Network::Up,
        metered: false,
        local_time: in_week_ms.map(|ms| LocalTime {
            unix_ms: MONDAY_MS + f64::from(ms),
            utc_offset_min: 0,
        }),
        sessions: 1,
        takeovers: 0,
        previous_delay_ms: 0,
        floor_ms: 1_000,
        ceiling_ms: CEILING_MS,
        seed: 7,
    }
}

fn wait(policy: &MaintenanceWindow, question: &Question) -> u32 {
    match policy.decide(question) {
        Decision::RetryAfter(ms) => ms,
        Decision::RetryNow | Decision::Park => panic!("not a wait"),
    }
}

/// Full jitter on the third attempt.
fn in_a_hurry(ms: u32) -> bool {
    (1_000..=8_000).contains(&ms)
}

fn in_no_hurry(ms: u32) -> bool {
    (CEILING_MS / 2..=CEILING_MS).contains(&ms)
}

const FRIDAY_NIGHT: &str = r#"{"windows": [{"days": ["fri"], "from": "22:00", "to": "02:30"}]}"#;

#[test]
fn a_quiet_window_is_waited_out_also_over_midnight() {
    let policy = policy(FRIDAY_NIGHT);
    let friday = 4 * DAY_MS;
    for (at, quiet) in [
        (friday + 22 * HOUR_MS - 1, false),
        (friday + 22 * HOUR_MS, true),
        (friday + DAY_MS, true),
        (friday + DAY_MS + 2 * HOUR_MS, true),
        (friday + DAY_MS + 2 * HOUR_MS + 30 * MINUTE_MS, false),
        (friday + 2 * HOUR_MS, false),
        (0, false),
    ] {
        let ms = wait(&policy, &question(Some(at)));
        assert!(
            if quiet {
                in_no_hurry(ms)
            } else {
                in_a_hurry(ms)
            },
            "{ms} ms at {at}"
        );
    }
}

#[test]
fn the_end_of_a_quiet_window_is_met_with_jitter() {
    let policy = policy(
        r#"{"windows": [{"from": "03:00", "to": "04:00"}, {"from": "04:00", "to": "05:00"}], "spread_s": 30}"#,
    );
    // 20 s before the end of the second: the two are one.
    let at = 5 * HOUR_MS - 20_000;
    let waits: Vec<_> = (0..200)
        .map(|seed| {
            wait(
                &policy,
                &Question {
                    seed,
                    ..question(Some(at))
                },
            )
        })
        .collect();
    assert!(
        waits.iter().all(|ms| (20_000..=50_000).contains(ms)),
        "{waits:?}"
    );
    assert!(waits.iter().max().unwrap() - waits.iter().min().unwrap() > 20_000);
    assert!(in_no_hurry(wait(
        &policy,
        &question(Some(4 * HOUR_MS - 1_000))
    )));
}

#[test]
fn a_raised_ceiling_is_used() {
    let patient = Question {
        ceiling_ms: 3_600_000,
        ..question(Some(4 * DAY_MS + 25 * HOUR_MS + 40 * MINUTE_MS))
    };
    let ms = wait(&policy(FRIDAY_NIGHT), &patient);
    assert!((50 * MINUTE_MS..=51 * MINUTE_MS).contains(&ms), "{ms}");
}

#[test]
fn sunday_night_goes_on_on_monday_and_the_offset_counts() {
    let policy = policy(r#"{"windows": [{"days": ["sun"], "from": "23:00", "to": "01:00"}]}"#);
    assert!(in_no_hurry(wait(&policy, &question(Some(30 * MINUTE_MS)))));
    let mut east = question(Some(3 * HOUR_MS));
    east.local_time.as_mut().unwrap().utc_offset_min = -150;
    assert!(
        in_no_hurry(wait(&policy, &east)),
        "00:30 where the gateway stands"
    );
    east.local_time.as_mut().unwrap().utc_offset_min = 120;
    assert!(in_a_hurry(wait(&policy, &east)));
}

#[test]
fn open_windows_are_the_only_time_for_haste() {
    let policy = policy(
        r#"{"mode": "open", "windows": [{"days": ["mon", "tue"], "from": "08:00", "to": "18:00"}]}"#,
    );
    assert!(in_a_hurry(wait(&policy, &question(Some(9 * HOUR_MS)))));
    assert!(in_no_hurry(wait(&policy, &question(Some(19 * HOUR_MS)))));
    let eve = wait(&policy, &question(Some(8 * HOUR_MS - 30_000)));
    assert_eq!(eve, 30_000, "the window is not missed for a longer wait");
}

#[test]
fn without_a_clock_that_can_be_right_it_is_full_jitter() {
    let always = policy(
        r#"{"mode": "open", "windows": [{"days": ["mon"], "from": "08:00", "to": "08:01"}]}"#,
    );
    assert!(in_a_hurry(wait(&always, &question(None))));
    // A clock that leaps is asked again with each step, and none is longer than the ceiling.
    for unix_ms in [f64::MIN, -1.0, f64::NAN, 1e300, f64::MAX] {
        let mut leapt = question(Some(0));
        leapt.local_time.as_mut().unwrap().unix_ms = unix_ms;
        leapt.local_time.as_mut().unwrap().utc_offset_min = i32::MIN;
        assert!(wait(&always, &leapt) <= CEILING_MS);
    }
}

#[test]
fn a_metered_link_is_spared() {
    let policy = policy(r#"{"metered": {"spool_min": 50}}"#);
    let metered = |spool_depth| Question {
        metered: true,
        spool_depth,
        attempt: 1,
        ..question(None)
    };
    assert!(in_no_hurry(wait(&policy, &metered(49))));
    for seed in 0..50 {
        let ms = wait(
            &policy,
            &Question {
                seed,
                ..metered(50)
            },
        );
        assert!((4_000..=8_000).contains(&ms), "{ms}");
    }
    let unmetered = Question {
        metered: false,
        ..metered(0)
    };
    assert!(in_a_hurry(wait(&policy, &unmetered)));
}

#[test]
fn what_cannot_be_meant_is_refused_by_its_place() {
    for (json, words) in [
        (
            r#"{"windows": [{"from": "8:00", "to": "09:00"}]}"#,
            "windows[0].from: \"8:00\"",
        ),
        (
            r#"{"windows": [{"from": "08:00", "to": "24:01"}]}"#,
            "windows[0].to",
        ),
        (
            r#"{"windows": [{"from": "24:00", "to": "01:00"}]}"#,
            "begins at 00:00",
        ),
        (
            r#"{"windows": [{"from": "08:00", "to": "08:00"}]}"#,
            "is empty",
        ),
        (
            r#"{"windows": [{"days": [], "from": "08:00", "to": "09:00"}]}"#,
            "windows[0].days",
        ),
        (
            r#"{"windows": [{"days": ["mo"], "from": "08:00", "to": "09:00"}]}"#,
            "`mo`",
        ),
        (
            r#"{"windows": [{"from": "00:00", "to": "24:00"}]}"#,
            "the whole week",
        ),
        (r#"{"mode": "open"}"#, "needs one"),
        (r#"{"spread_s": 3601}"#, "spread_s"),
        (r#"{"window": []}"#, "unknown field `window`"),
    ] {
        let refused = refusal(json);
        assert!(refused.contains(words), "{json}: {refused}");
    }
}
