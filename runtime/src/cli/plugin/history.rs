//! `moorline plugin history`: how candidates fared, also those of processes before. The gateway need not run.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use crate::cli::{ConfigFile, OutputFormat, exit, figures};
use crate::journal::{HistoryEntry, SwapHistory};

#[derive(Debug, Args)]
pub(in crate::cli) struct HistoryOptions {
    /// One plugin only: the connector's name in the configuration, or `policy`.
    name: Option<String>,
    #[command(flatten)]
    config: ConfigFile,
    /// How many to show, the newest last.
    #[arg(long, value_name = "N", default_value_t = 20)]
    last: usize,
    /// How to print it.
    #[arg(long, value_enum, default_value_t = OutputFormat::Human)]
    format: OutputFormat,
}

pub(super) fn history(options: &HistoryOptions) -> ExitCode {
    let settings = match options.config.settings() {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    let SwapHistory {
        mut entries,
        skipped,
    } = match SwapHistory::read(&settings.state_dir) {
        Ok(history) => history,
        Err(error) => {
            let state_dir = settings.state_dir.display();
            return exit::fail(
                exit::OS,
                &format!("the history in {state_dir} cannot be read: {error}"),
            );
        }
    };
    if let Some(name) = &options.name {
        entries.retain(|entry| entry.plugin == *name);
    }
    let surplus = entries.len().saturating_sub(options.last);
    entries.drain(..surplus);
    match options.format {
        OutputFormat::Json => {
            exit::print(&json!({ "history": entries, "skipped_lines": skipped }));
        }
        OutputFormat::Human if entries.is_empty() => exit::progress(&"no swaps"),
        OutputFormat::Human => {
            exit::print(&table(&entries));
            if skipped > 0 {
                exit::progress(&format!("{skipped} lines could not be read"));
            }
        }
    }
    ExitCode::SUCCESS
}

fn table(entries: &[HistoryEntry]) -> String {
    let names = entries.iter().map(|entry| entry.plugin.chars().count());
    let names = names.max().unwrap_or(0).max(4);
    let mut lines = vec![format!(
        "{:<19}  {:<names$}  {:>10}  {:<12}  {:<11}  {:>8}  version and reason",
        "when", "name", "generation", "build", "outcome", "gap ms"
    )];
    for entry in entries {
        let mut words = format!("{} {}", entry.name, entry.version)
            .trim()
            .to_owned();
        let reason = entry.reason.clone();
        let clean = entry.clean.as_ref();
        let clean = clean.map(|why| format!("began clean, it did not take the hand-over: {why}"));
        for more in reason.into_iter().chain(clean) {
            if !words.is_empty() {
                words += "; ";
            }
            words += &more;
        }
        lines.push(format!(
            "{:<19}  {:<names$}  {:>10}  {:<12}  {:<11}  {:>8.3}  {}",
            figures::when(entry.at_ms),
            entry.plugin,
            entry.generation,
            entry.digest,
            entry.outcome,
            entry.gap_ms,
            figures::harmless(&words)
        ));
    }
    lines.join("\n")
}
