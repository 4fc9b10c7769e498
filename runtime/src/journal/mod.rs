//! What the link went through, kept across processes: `journal/link.jsonl` in the state directory.
//!
//! One JSON object per line, oldest first. A full file is renamed to `link.old.jsonl`, over the one before, so that at
//! most twice [`FILE_BYTES_MAX`] lie on disk and at least one file's worth is remembered.
//!
//! ```text
//!  {"v":1,"up":{"at_ms":…,"session":1,"peer":"…","down_ms":…,…}}
//!  {"v":1,"ended":{"at_ms":…,"cause":"reset","fault":"network","evidence":{…},"text":"…",…}}
//! ```
//!
//! A line cut by a power loss, or written by a version that knows more, is skipped and counted by the reader.

mod writer;

#[cfg(test)]
mod tests;

use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use moorline_core::time::rounded_ms;
use serde::{Deserialize, Serialize};

pub(crate) use writer::keep;

use crate::link::UpRecord;
use crate::status::DisconnectEntry;

/// Bytes after which a new file is begun.
pub const FILE_BYTES_MAX: u64 = 512 * 1024;

const DIRECTORY: &str = "journal";
const FILE: &str = "link.jsonl";
const OLD_FILE: &str = "link.old.jsonl";
const VERSION: u32 = 1;
/// No entry is longer; a file with longer lines is not ours.
const LINE_BYTES_MAX: u64 = 64 * 1024;

/// One thing that happened to the link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transition {
    /// A session began.
    Up(UpEntry),
    /// A session ended or an attempt failed.
    Ended(Box<DisconnectEntry>),
}

/// A session's beginning.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpEntry {
    /// When, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Counts sessions from 1 in each process.
    pub session: u64,
    /// The broker, as `host:port`.
    pub endpoint: String,
    /// The proxy between, by its URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// Where the broker, or the proxy, answered.
    pub peer: Option<String>,
    /// `5.0` or `3.1.1`.
    pub mqtt_version: String,
    /// Whether the broker still knew us.
    pub session_present: bool,
    /// Since the session before ended, or since the start of the process.
    pub down_ms: f64,
    /// Attempts since then, this one included.
    pub attempts: u64,
    /// How long name resolution took.
    pub dns_ms: f64,
    /// How long the TCP handshake took.
    pub tcp_ms: f64,
    /// How long the proxy's handshake took; zero without one.
    pub proxy_ms: f64,
    /// How long the TLS handshake took; zero without TLS.
    pub tls_ms: f64,
    /// How long the upgrade to a WebSocket took; zero without one.
    pub websocket_ms: f64,
}

impl Transition {
    /// When, milliseconds since the Unix epoch.
    #[must_use]
    pub fn at_ms(&self) -> u64 {
        match self {
            Self::Up(up) => up.at_ms,
            Self::Ended(ended) => ended.at_ms,
        }
    }
}

impl From<&UpRecord> for UpEntry {
    fn from(up: &UpRecord) -> Self {
        Self {
            at_ms: up.at.0,
            session: up.session,
            endpoint: up.endpoint.to_string(),
            via: up.via.clone(),
            peer: up.peer.map(|peer| peer.to_string()),
            mqtt_version: up.version.to_string(),
            session_present: up.session_present,
            down_ms: rounded_ms(up.down),
            attempts: up.attempts,
            dns_ms: rounded_ms(up.took.dns),
            tcp_ms: rounded_ms(up.took.tcp),
            proxy_ms: rounded_ms(up.took.proxy),
            tls_ms: rounded_ms(up.took.tls),
            websocket_ms: rounded_ms(up.took.websocket),
        }
    }
}

#[derive(Deserialize)]
struct Line {
    v: u32,
    #[serde(flatten)]
    transition: Transition,
}

/// What a journal holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Journal {
    /// Oldest first.
    pub transitions: Vec<Transition>,
    /// Lines that could not be read.
    pub skipped: u64,
}

impl Journal {
    /// Reads the journal under `state_dir`, its last `last` entries; an empty one when there is none yet.
    ///
    /// # Errors
    /// When a file is there and cannot be read.
    pub fn read(state_dir: &Path, last: usize) -> io::Result<Self> {
        let mut journal = Self::default();
        for file in [OLD_FILE, FILE] {
            match fs::File::open(directory(state_dir).join(file)) {
                Ok(file) => journal.take(BufReader::new(file))?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let surplus = journal.transitions.len().saturating_sub(last);
        journal.transitions.drain(..surplus);
        Ok(journal)
    }

    fn take(&mut self, mut file: impl io::BufRead) -> io::Result<()> {
        let mut line = Vec::new();
        loop {
            line.clear();
            let mut limited = io::Read::take(&mut file, LINE_BYTES_MAX);
            if limited.read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            match serde_json::from_slice(&line) {
                Ok(Line { v, transition }) if v == VERSION => self.transitions.push(transition),
                Ok(Line { .. }) | Err(_) => self.skipped += 1,
            }
        }
    }
}

fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join(DIRECTORY)
}
