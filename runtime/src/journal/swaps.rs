//! The history of swaps: `swaps.jsonl`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use moorline_core::swap::Build;
use moorline_core::time::{rounded_ms, saturating_ms};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tracing::warn;

use super::pages::{self, Pages, directory};
use crate::clock::Clock;
use crate::plugins::{PluginsStatus, SwapOutcome, SwapRecord};

const SWAPS: &str = "swaps";
/// Characters of a reason that are kept: with them a file holds five hundred entries.
const REASON_CHARS_MAX: usize = 400;

/// How one candidate fared.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HistoryEntry {
    /// When it ended, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The connector's name, or `policy`.
    pub plugin: String,
    /// The candidate's number; they begin again with each process.
    pub generation: u64,
    /// The beginning of its SHA-256.
    pub digest: String,
    /// The name it gives itself; empty if it did not come to say it.
    pub name: String,
    /// The version it gives itself.
    pub version: String,
    /// The generation that served before.
    pub from_generation: Option<u64>,
    /// The beginning of its SHA-256.
    pub from_digest: Option<String>,
    /// `loaded` (the first one), `swapped`, `refused` (it never served) or `rolled-back`.
    pub outcome: String,
    /// Why it was refused or rolled back.
    pub reason: Option<String>,
    /// Why it did not take what the one before handed over and began with nothing.
    pub clean: Option<String>,
    /// The longest time in which an instance could take no call.
    pub gap_ms: f64,
    /// From the settled file to this end.
    pub took_ms: f64,
    /// Its code came out of the cache.
    pub cached: bool,
}

impl HistoryEntry {
    pub(crate) fn new(record: &SwapRecord, clock: Clock) -> Self {
        let reason = match &record.outcome {
            SwapOutcome::Refused(step, failure) | SwapOutcome::RolledBack(step, failure) => {
                let reason = format!("{step}: {failure}");
                Some(reason.chars().take(REASON_CHARS_MAX).collect())
            }
            SwapOutcome::Loaded | SwapOutcome::Swapped => None,
        };
        let age = clock.now().saturating_since(record.at);
        let Build { generation, digest } = record.to;
        Self {
            at_ms: clock.wall().0.saturating_sub(saturating_ms(age).into()),
            plugin: record.component.to_string(),
            generation: generation.0,
            digest: digest.to_string(),
            name: record.plugin.to_string(),
            version: record.version.to_string(),
            from_generation: record.from.map(|from| from.generation.0),
            from_digest: record.from.map(|from| from.digest.to_string()),
            outcome: record.outcome.word().replace(' ', "-"),
            reason,
            clean: record.clean.as_ref().map(ToString::to_string),
            gap_ms: rounded_ms(record.gap),
            took_ms: rounded_ms(record.took),
            cached: record.cached,
        }
    }

    /// The build it left serving: the candidate, or the one before.
    #[must_use]
    pub fn serving(&self) -> Option<(u64, &str)> {
        match self.outcome.as_str() {
            "loaded" | "swapped" => Some((self.generation, &self.digest)),
            _failed => self.from_generation.zip(self.from_digest.as_deref()),
        }
    }
}

/// What the journal of swaps holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SwapHistory {
    /// Oldest first.
    pub entries: Vec<HistoryEntry>,
    /// Lines that could not be read.
    pub skipped: u64,
}

impl SwapHistory {
    /// Reads the history under `state_dir`; an empty one when there is none yet.
    ///
    /// # Errors
    /// When a file is there and cannot be read.
    pub fn read(state_dir: &Path) -> io::Result<Self> {
        let (entries, skipped) = pages::read(state_dir, SWAPS)?;
        Ok(Self { entries, skipped })
    }
}

/// Writes until the plugin host is gone. A disk that refuses costs entries, and nothing else.
pub(crate) async fn keep(
    state_dir: PathBuf,
    mut plugins: watch::Receiver<PluginsStatus>,
    clock: Clock,
) {
    let mut last: Option<Arc<SwapRecord>> = None;
    let mut pages = Pages::new(&state_dir, SWAPS);
    let mut failing = false;
    loop {
        let fresh = fresh(&plugins.borrow_and_update(), &mut last);
        if !fresh.is_empty() {
            let entries: Vec<_> = fresh
                .iter()
                .map(|record| HistoryEntry::new(record, clock))
                .collect();
            let wrote = tokio::task::spawn_blocking(move || {
                let result = pages.append(&entries);
                (pages, result)
            });
            let Ok((back, result)) = wrote.await else {
                return;
            };
            pages = back;
            match result {
                Ok(()) => failing = false,
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        warn!(directory = %directory(&state_dir).display(), %error, "the history of swaps cannot be written; the gateway goes on without");
                    }
                }
            }
        }
        if plugins.changed().await.is_err() {
            return;
        }
    }
}

/// What ended since `last`, oldest first.
fn fresh(plugins: &PluginsStatus, last: &mut Option<Arc<SwapRecord>>) -> Vec<Arc<SwapRecord>> {
    let known = last.as_ref().and_then(|last| {
        plugins
            .swaps
            .iter()
            .rposition(|record| Arc::ptr_eq(record, last))
    });
    let fresh: Vec<_> = plugins
        .swaps
        .iter()
        .skip(known.map_or(0, |index| index + 1))
        .cloned()
        .collect();
    if let Some(newest) = fresh.last() {
        *last = Some(newest.clone());
    }
    fresh
}
