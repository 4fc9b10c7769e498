//! What a gateway under test may log as an ERROR: nothing, but for what the case has said that it provokes.
//!
//! [`Running`](crate::rig::Running) looks through the log when it goes.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// An ERROR that a case provokes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provoked {
    /// A candidate is refused, or rolled back on probation.
    CandidateRefused,
    /// A plugin that serves traps, hangs or takes too much.
    PluginFailed,
    /// A guest panics, and its SDK says where.
    GuestPanicked,
    /// A plugin's file is not there.
    PluginMissing,
    /// The policy traps or does not answer.
    PolicyFailed,
    /// What keeps state cannot be written: spool, inbox, plugins' state, admin socket.
    MediumFailed,
}

impl Provoked {
    /// How its message begins.
    const fn words(self) -> &'static [&'static str] {
        match self {
            Self::CandidateRefused => &["plugin refused: ", "plugin rolled back: "],
            Self::PluginFailed => &["plugin failed: "],
            Self::GuestPanicked => &["panicked at "],
            Self::PluginMissing => &["the plugin's file is not there"],
            Self::PolicyFailed => &["the reconnect policy failed: "],
            Self::MediumFailed => &[
                "the medium of the spool gives nothing",
                "the state of plugins is not kept",
                "the plugin's state is not on the disk",
                "the inbox cannot be written",
                "no admin socket",
            ],
        }
    }

    fn explains(self, message: &str) -> bool {
        self.words().iter().any(|words| message.starts_with(words))
    }
}

/// What a log may hold, from one place in it on.
#[derive(Debug)]
pub(crate) struct Watch {
    log: PathBuf,
    /// Bytes that another process wrote before.
    from: usize,
    provoked: Vec<Provoked>,
}

impl Watch {
    /// Watches what is appended to `log` from now on.
    pub(crate) fn over(log: &Path) -> Self {
        Self {
            from: std::fs::read(log).map_or(0, |before| before.len()),
            log: log.to_owned(),
            provoked: Vec::new(),
        }
    }

    pub(crate) fn expect(&mut self, provoked: Provoked) {
        self.provoked.push(provoked);
    }

    /// The lines nobody has expected, and what was expected and did not come.
    pub(crate) fn verdict(&self) -> Vec<String> {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let fresh = String::from_utf8_lossy(log.get(self.from..).unwrap_or_default());
        judge(&fresh, &self.provoked)
    }
}

/// The lines of `log` that are errors and explained by nothing in `provoked`, and what of that is not there; each in words.
#[must_use]
pub fn judge(log: &str, provoked: &[Provoked]) -> Vec<String> {
    let errors: Vec<(&str, String)> = log
        .lines()
        .filter_map(|line| Some((line, error_message(line)?)))
        .collect();
    let unexpected = errors
        .iter()
        .filter(|(_, message)| !provoked.iter().any(|one| one.explains(message)))
        .map(|(line, _)| format!("nobody expected: {line}"));
    let missing = provoked
        .iter()
        .filter(|one| !errors.iter().any(|(_, message)| one.explains(message)))
        .map(|one| format!("expected and not logged: {one:?}"));
    unexpected.chain(missing).collect()
}

/// The message of a line that is an ERROR. A panic's line is none of the log's own, and no less an error.
fn error_message(line: &str) -> Option<String> {
    match serde_json::from_str::<Value>(line) {
        Ok(entry) => (entry["level"] == "ERROR").then(|| {
            let message = entry["message"].as_str();
            message.unwrap_or_default().to_owned()
        }),
        Err(_) => line.contains("panicked at").then(|| line.to_owned()),
    }
}
