//! What the link and the plugins went through, kept across processes: `journal/link.jsonl` and `journal/swaps.jsonl` in the
//! state directory.
//!
//! One JSON object per line, oldest first. A full file is renamed (`link.old.jsonl`), over the one before, so that at
//! most twice [`FILE_BYTES_MAX`] lie on disk and at least one file's worth is remembered.
//!
//! ```text
//!  {"v":1,"up":{"at_ms":…,"session":1,"peer":"…","down_ms":…,…}}
//!  {"v":1,"ended":{"at_ms":…,"cause":"reset","fault":"network","evidence":{…},"text":"…",…}}
//!  {"v":1,"at_ms":…,"plugin":"press","generation":3,"digest":"…","outcome":"rolled-back","reason":"probation: …",…}
//! ```
//!
//! A line cut by a power loss, or written by a version that knows more, is skipped and counted by the reader.

mod pages;
mod swaps;
mod writer;

#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;

use moorline_core::time::rounded_ms;
use serde::{Deserialize, Serialize};

pub use pages::FILE_BYTES_MAX;
pub(crate) use swaps::keep as keep_swaps;
pub use swaps::{HistoryEntry, SwapHistory};
pub(crate) use writer::keep;

use crate::link::UpRecord;
use crate::status::DisconnectEntry;

/// Name of the link's journal.
const LINK: &str = "link";

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
        let (transitions, skipped) = pages::read(state_dir, LINK)?;
        let mut journal = Self {
            transitions,
            skipped,
        };
        let surplus = journal.transitions.len().saturating_sub(last);
        journal.transitions.drain(..surplus);
        Ok(journal)
    }
}
