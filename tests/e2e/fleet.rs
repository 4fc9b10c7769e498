//! `moorline policy simulate` with the components as they ship, and with ones that are wrong.

use std::path::Path;
use std::process::{Command, Output};

use moorline_tests::binary;
use moorline_tests::plugins::{Guest, Place};

fn simulate(policies: &[&Path], arguments: &[&str]) -> Output {
    Command::new(binary())
        .args(["policy", "simulate"])
        .args(policies)
        .args(["--fleet", "300", "--outage-s", "30", "--accept-per-s", "50"])
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn the_same_seed_gives_the_same_report_and_picture_to_the_byte() {
    let directory = tempfile::tempdir().unwrap();
    let policy = Place::stock(directory.path().join("policy.wasm"), Guest::FULL_JITTER);
    let svg = directory.path().join("fleet.svg");
    let run = |seed: &str| {
        let svg = svg.to_str().unwrap();
        let arguments = [
            "--builtin",
            "fixed-15s",
            "--json",
            "--seed",
            seed,
            "--svg",
            svg,
        ];
        let output = simulate(&[policy.path()], &arguments);
        assert!(output.status.success(), "{output:?}");
        (output.stdout, std::fs::read_to_string(svg).unwrap())
    };
    let (report, picture) = run("7");
    assert_eq!(run("7"), (report.clone(), picture.clone()));
    assert_ne!(run("8").0, report);
    assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"));
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    let policies = report["policies"].as_array().unwrap();
    assert_eq!(policies.len(), 2, "{report}");
    assert!(
        policies.iter().all(|policy| policy["back"] == 300),
        "{report}"
    );
    assert_eq!(policies[0]["policy_faults"], 0, "{report}");
}

#[test]
fn a_policy_that_traps_is_stood_in_for_and_told() {
    let directory = tempfile::tempdir().unwrap();
    let policy = Place::stock(directory.path().join("policy.wasm"), Guest::POLICY_TRAP);
    let output = simulate(&[policy.path()], &[]);
    assert_eq!(output.status.code(), Some(65), "{output:?}");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        told.contains("where the built-in policy stood in"),
        "{told}"
    );
}

#[test]
fn what_is_no_policy_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let connector = Place::stock(directory.path().join("c.wasm"), Guest::SIMULATED);
    let output = simulate(&[connector.path()], &[]);
    assert_eq!(output.status.code(), Some(65), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
}

#[test]
fn every_shipped_policy_brings_a_fleet_back_and_a_calendar_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let places = [
        ("full_jitter", Guest::FULL_JITTER),
        ("network_aware", Guest::NETWORK_AWARE),
        ("maintenance_window", Guest::MAINTENANCE_WINDOW),
        ("takeover_guard", Guest::TAKEOVER_GUARD),
    ]
    .map(|(name, guest)| Place::stock(directory.path().join(name).with_extension("wasm"), guest));
    let paths: Vec<&Path> = places.iter().map(Place::path).collect();
    let report = |policies: &[&Path], arguments: &[&str]| -> serde_json::Value {
        let output = simulate(policies, &[&["--json"], arguments].concat());
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let all = report(&paths, &[]);
    for policy in all["policies"].as_array().unwrap() {
        assert_eq!(
            (&policy["back"], &policy["policy_faults"]),
            (&300.into(), &0.into()),
            "{policy}"
        );
    }

    // The broker goes away at two in the night, on a Monday, and is not expected before half past.
    let quiet = r#"{"windows": [{"days": ["mon"], "from": "02:00", "to": "02:30"}]}"#;
    let file = directory.path().join("window.json");
    std::fs::write(&file, quiet).unwrap();
    let at = ["--at", "2026-11-23T02:00:00+01:00", "--config"];
    let maintenance = places[2].path();
    let kept = report(
        &[maintenance],
        &[&at[..], &[file.to_str().unwrap()]].concat(),
    );
    assert_eq!(report(&[maintenance], &[&at[..], &[quiet]].concat()), kept);
    let connects = |report: &serde_json::Value, index: usize| {
        report["policies"][index]["connects"].as_u64().unwrap()
    };
    assert!(
        connects(&kept, 0) * 2 < connects(&all, 2),
        "{} attempts in the window, {} without a clock",
        connects(&kept, 0),
        connects(&all, 2)
    );
    let wrong = simulate(&[maintenance], &["--config", r#"{"windows": 1}"#]);
    assert_eq!(wrong.status.code(), Some(65), "{wrong:?}");
    let told = String::from_utf8(wrong.stderr).unwrap();
    assert!(
        told.contains("refused to start: its configuration"),
        "{told}"
    );
}
