//! The outcome for machines. Nothing in it depends on this machine or its clock, so that a run can be compared.

use std::path::Path;
use std::time::Duration;

use moorline_core::fleet::{Scenario, burst};
use serde::Serialize;

use super::Played;

#[derive(Serialize)]
struct Report<'a> {
    scenario: ScenarioSection,
    policies: Vec<PolicySection<'a>>,
}

#[derive(Serialize)]
struct ScenarioSection {
    gateways: u32,
    outage_s: u64,
    accept_per_s: u32,
    burst: u32,
    backlog: u32,
    overload: &'static str,
    connack_timeout_s: u64,
    floor_ms: u128,
    ceiling_ms: u128,
    seed: u64,
}

#[derive(Serialize)]
struct PolicySection<'a> {
    name: &'a str,
    kind: &'static str,
    file: Option<&'a Path>,
    digest: Option<&'a str>,
    connects: u64,
    peak_per_s: u32,
    peak_after_return_per_s: u32,
    accepted: u64,
    refused: u64,
    unanswered: u64,
    back: u32,
    back_50_percent_after_s: Option<f64>,
    back_99_percent_after_s: Option<f64>,
    back_100_percent_after_s: Option<f64>,
    parked: u32,
    questions: u64,
    policy_faults: u64,
    first_failure: Option<&'a str>,
    clamped: u64,
    would_be_clamped: u64,
    /// By the second since the broker went away.
    connects_per_s: &'a [u32],
}

fn seconds(duration: Option<Duration>) -> Option<f64> {
    duration.map(|duration| (duration.as_secs_f64() * 1e3).round() / 1e3)
}

fn section(played: &Played) -> PolicySection<'_> {
    let outcome = &played.outcome;
    let [half, most, all] = outcome.back_after.map(seconds);
    PolicySection {
        name: &played.name,
        kind: played.kind.name(),
        file: played.file.as_deref(),
        digest: played.digest.as_deref(),
        connects: outcome.connects,
        peak_per_s: outcome.peak_per_s,
        peak_after_return_per_s: outcome.peak_after_return_per_s,
        accepted: outcome.accepted,
        refused: outcome.refused,
        unanswered: outcome.unanswered,
        back: outcome.back,
        back_50_percent_after_s: half,
        back_99_percent_after_s: most,
        back_100_percent_after_s: all,
        parked: outcome.parked,
        questions: outcome.questions,
        policy_faults: outcome.policy_faults,
        first_failure: played.failure.as_deref(),
        clamped: outcome.clamped,
        would_be_clamped: outcome.would_be_clamped,
        connects_per_s: &outcome.connects_per_s,
    }
}

/// One JSON object on one line.
///
/// # Errors
/// When a file's name is not UTF-8.
pub(crate) fn report(scenario: &Scenario, played: &[Played]) -> serde_json::Result<String> {
    serde_json::to_string(&Report {
        scenario: ScenarioSection {
            gateways: scenario.gateways,
            outage_s: scenario.outage.as_secs(),
            accept_per_s: scenario.accept_per_s,
            burst: burst(scenario.accept_per_s),
            backlog: scenario.backlog,
            overload: scenario.overload.name(),
            connack_timeout_s: scenario.connack_timeout.as_secs(),
            floor_ms: scenario.link.floor.as_millis(),
            ceiling_ms: scenario.link.ceiling.as_millis(),
            seed: scenario.seed,
        },
        policies: played.iter().map(section).collect(),
    })
}
