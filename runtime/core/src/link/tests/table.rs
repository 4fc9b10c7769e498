//! `docs/disconnects.md` says what the code does.

use super::super::Remedy;
use super::super::cause::{Cause, Intent};
use super::ALL;

const DOCUMENT: &str = include_str!("../../../../../docs/disconnects.md");
/// The table's first line in the document.
const HEADER: &str =
    "| cause | what happened | whose fault | class for policies | what the host does |";

fn remedy(cause: Cause) -> String {
    match cause.remedy() {
        Remedy::RetryOnceThenBackOff => {
            "one try at once if the session was stable, then back-off".to_owned()
        }
        Remedy::BackOff => "back-off".to_owned(),
        Remedy::BackOffThenSlowLane => {
            "back-off; from the fifth in a row on at the ceiling".to_owned()
        }
        Remedy::BackOffFrom(least) => format!("back-off, at least {} s", least.as_secs()),
        Remedy::SlowLane => "tries at the ceiling: somebody must act".to_owned(),
        Remedy::FallBackVersion => "the other version once, kept for this endpoint".to_owned(),
        Remedy::YieldToTakeover => {
            "at least one minute, after that ten; somebody must act".to_owned()
        }
        Remedy::Park => "parked until an operator acts".to_owned(),
        Remedy::Nothing => "nothing: it was asked for".to_owned(),
    }
}

fn row(cause: Cause) -> String {
    format!(
        "| `{}` | {} | {} | `{}` | {} |",
        cause.name(),
        cause.words(),
        cause.fault().name(),
        cause.class().name(),
        remedy(cause)
    )
}

#[test]
fn the_documented_table_is_what_the_code_does() {
    let local = Intent::ALL.map(Cause::Local);
    let mut rows: Vec<String> = ALL.iter().copied().chain(local).map(row).collect();
    rows.dedup();
    let expected = rows.join("\n");
    let table = DOCUMENT
        .split_once(HEADER)
        .and_then(|(_, rest)| rest.split_once("|\n"))
        .map(|(_, rows)| {
            rows.lines()
                .take_while(|line| line.starts_with('|'))
                .collect::<Vec<_>>()
                .join("\n")
        });
    assert_eq!(
        table.as_deref(),
        Some(expected.as_str()),
        "the table must read:\n{expected}\n"
    );
}
