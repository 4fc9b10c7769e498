//! The outcome for people.

use std::time::Duration;

use moorline_core::fleet::{PATIENCE, Scenario, burst};

use super::{Kind, Played};

const BOLD: &str = "\x1b[1m";
const RESET: &str = "\x1b[0m";
const COLUMNS: usize = 10;
const HEADER: [&str; COLUMNS] = [
    "policy",
    "kind",
    "CONNECTs",
    "peak/s",
    "after return",
    "50 % back",
    "99 % back",
    "all back",
    "faults",
    "clamped",
];
/// Columns of words; the others are numbers and stand at the right.
const WORDS: usize = 2;

fn since_return(after: Option<Duration>) -> String {
    after.map_or_else(
        || format!("> {} s", PATIENCE.as_secs()),
        |after| format!("{:.1} s", after.as_secs_f64()),
    )
}

fn row(played: &Played) -> [String; COLUMNS] {
    let outcome = &played.outcome;
    let [half, most, all] = outcome.back_after.map(since_return);
    let clamped = match played.kind {
        Kind::Component | Kind::BuiltIn | Kind::Clamped => outcome.clamped.to_string(),
        Kind::Unclamped => format!("({})", outcome.would_be_clamped),
    };
    [
        played.name.clone(),
        played.kind.name().to_owned(),
        outcome.connects.to_string(),
        outcome.peak_per_s.to_string(),
        outcome.peak_after_return_per_s.to_string(),
        half,
        most,
        all,
        outcome.policy_faults.to_string(),
        clamped,
    ]
}

fn aligned(cells: &[String; COLUMNS], widths: &[usize; COLUMNS]) -> String {
    let padded = cells.iter().zip(widths).enumerate();
    let line: Vec<String> = padded
        .map(|(column, (cell, &width))| {
            if column < WORDS {
                format!("{cell:<width$}")
            } else {
                format!("{cell:>width$}")
            }
        })
        .collect();
    line.join("  ").trim_end().to_owned()
}

/// The scenario in a sentence, one line per policy, and what the columns mean.
pub(crate) fn table(scenario: &Scenario, played: &[Played], terminal: bool) -> String {
    let header = HEADER.map(str::to_owned);
    let rows: Vec<_> = played.iter().map(row).collect();
    let mut widths = [0; COLUMNS];
    for cells in rows.iter().chain([&header]) {
        for (width, cell) in widths.iter_mut().zip(cells) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let (bold, reset) = if terminal { (BOLD, RESET) } else { ("", "") };
    let mut lines = vec![
        sentence(scenario),
        String::new(),
        format!("{bold}{}{reset}", aligned(&header, &widths)),
    ];
    lines.extend(rows.iter().map(|cells| aligned(cells, &widths)));
    lines.push(String::new());
    lines.push(
        "Peaks are attempts in one second, in all and after the broker's return; times count from its return."
            .to_owned(),
    );
    if played.iter().any(|one| one.kind == Kind::Unclamped) {
        lines.push(format!(
            "Peers are other clients as they are; in brackets the waits that Moorline would have clamped to {} to {} s.",
            scenario.link.floor.as_secs_f64(),
            scenario.link.ceiling.as_secs_f64()
        ));
    }
    lines.join("\n")
}

fn sentence(scenario: &Scenario) -> String {
    format!(
        "{} gateways; broker away for {} s, then it accepts {} CONNECTs/s (burst {}, backlog {}, then {}); seed {}",
        scenario.gateways,
        scenario.outage.as_secs(),
        scenario.accept_per_s,
        burst(scenario.accept_per_s),
        scenario.backlog,
        scenario.overload.name(),
        scenario.seed
    )
}
