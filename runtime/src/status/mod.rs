//! What an operator, the demo and the tests can see: the status file, `status.json` in the state directory unless the
//! configuration names another.
//!
//! Written by rename, so a reader never meets half a file: at once after a change of the link or the plugins (at most
//! ten times a second) and at least every second. It holds no secret.

mod disconnect;
mod metrics;
mod snapshot;
mod wear;
mod writer;

pub use disconnect::{DisconnectEntry, EvidenceEntry};
pub(crate) use snapshot::{Tracker, Unwritable};
pub use wear::WearSection;
pub(crate) use writer::{Files, Sources, run};

use std::collections::BTreeMap;
use std::path::Path;

use moorline_core::time::TimestampMs;
use serde::{Deserialize, Serialize};

/// The file's name in the state directory.
pub const STATUS_FILE: &str = "status.json";

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The gateway's process id.
    pub pid: u32,
    /// When the process started, milliseconds since the Unix epoch.
    pub started_at_ms: u64,
    /// When the file was written, milliseconds since the Unix epoch.
    pub written_at_ms: u64,
    /// What a person must see to, each until it is over.
    #[serde(default)]
    pub alarms: Vec<AlarmEntry>,
    /// The link.
    pub link: LinkSection,
    /// This machine's network.
    #[serde(default)]
    pub network: NetworkSection,
    /// The spool.
    pub spool: SpoolSection,
    /// What is written to the medium of the state directory.
    #[serde(default)]
    pub wear: WearSection,
    /// Messages from the platform that are not handled yet.
    #[serde(default)]
    pub inbox: InboxSection,
    /// The last swaps, oldest first.
    pub swaps: Vec<SwapEntry>,
    /// One entry for each connector of the configuration.
    pub connectors: Vec<ConnectorEntry>,
    /// The reconnect policy.
    pub policy: PolicySection,
}

/// Something a person must see to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AlarmEntry {
    /// Its stable name: `duplicate-client-id`, `spool-medium`, `inbox-medium`, `state-directory` or `wear-budget`.
    pub name: String,
    /// Since when, milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// `certain` or `inferred`.
    pub certainty: String,
    /// The client id it is about; empty where it is about none.
    pub client_id: String,
    /// What is the matter.
    pub text: String,
    /// What a person can do about it.
    pub advice: String,
}

/// The link.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LinkSection {
    /// `up`, `connecting`, `waiting`, `parked` or `stopped`.
    pub state: String,
    /// Since when it is up, milliseconds since the Unix epoch; none when it is not.
    pub since_ms: Option<u64>,
    /// When the next attempt is made, milliseconds since the Unix epoch; none when the link does not wait for one.
    pub next_try_ms: Option<u64>,
    /// Sessions the broker accepted since the process started.
    pub sessions: u64,
    /// `5.0` or `3.1.1`; empty before the first session.
    pub mqtt_version: String,
    /// `host:port` of the broker of the session or attempt under way, or the last one.
    #[serde(default)]
    pub endpoint: String,
    /// When the broker's certificates end, milliseconds since the Unix epoch; none without TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_end_ms: Option<u64>,
    /// The most publishes a second, while the link keeps a quota of the broker; none otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish_limit_per_s: Option<f64>,
    /// The most bytes of a publish that can be divided, where the broker has closed on larger ones; none otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish_bytes_max: Option<u64>,
    /// What the platform lets the gateway send for its devices, where it has said so or the configuration does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform_limits: Option<String>,
    /// The limit that holds the next publish back; none while nothing waits for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_by: Option<String>,
    /// Until when, milliseconds since the Unix epoch; none: until something in flight is acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_until_ms: Option<u64>,
    /// The keep-alive in force, seconds: what was asked for, or the broker's own; none before the first session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_alive_s: Option<u64>,
    /// How long the broker takes to answer, smoothed (RFC 6298).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_ms: Option<f64>,
    /// How much single answers stray from that, smoothed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter_ms: Option<f64>,
    /// What canaries have shown; none where none are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanarySection>,
    /// Whether the broker had kept our session when the last one began; none where `link.session_expiry_s` asks for no kept
    /// session, and before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_kept: Option<bool>,
    /// Publishes that were in flight when a session ended, since the process started: the broker may have got them twice.
    #[serde(default)]
    pub duplicates_possible: u64,
    /// Messages from the platform that were not understood, or could not be kept.
    #[serde(default)]
    pub downlinks_dropped: u64,
    /// Times the built-in policy stood in for one that failed.
    pub policy_faults: u64,
    /// Times a policy's answer was clamped.
    pub policy_clamped: u64,
    /// Publishes the broker refused for good, counted and dropped.
    pub dead_lettered: u64,
    /// How often each cause ended a session or an attempt since the process started.
    #[serde(default)]
    pub disconnects_by_cause: BTreeMap<String, u64>,
    /// The last disconnects and failed attempts, oldest first.
    pub disconnects: Vec<DisconnectEntry>,
}

/// Messages of our own through the broker and back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CanarySection {
    /// Canaries that came back since the process started.
    pub back: u64,
    /// Canaries that did not come back in time.
    pub lost: u64,
    /// How long the last one took.
    pub round_trip_ms: Option<f64>,
    /// When one last came back, milliseconds since the Unix epoch.
    pub back_at_ms: Option<u64>,
}

/// This machine's network, as far as it concerns the way to the broker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkSection {
    /// `up`: there is a way to the broker; `down`: there is none; `unknown`: the kernel does not tell.
    pub verdict: String,
    /// Since when the verdict stands, milliseconds since the Unix epoch.
    pub since_ms: Option<u64>,
    /// The interface the way leads over; none while there is no way or the broker's address is not known.
    pub interface: Option<String>,
    /// The address our packets carry on it.
    pub source: Option<String>,
    /// Who passes them on; none on the interface's own network.
    pub gateway: Option<String>,
    /// Level of a wireless interface's signal, in dBm.
    pub wireless_dbm: Option<i32>,
    /// Quality of a wireless link, in the driver's unit (most count to 70).
    pub wireless_quality: Option<i32>,
    /// How often the way went, was interrupted or became another since the process started.
    pub upsets: u64,
    /// How often a way came back or another one opened.
    pub returns: u64,
    /// The last changes, oldest first.
    pub changes: Vec<NetworkChange>,
}

/// One change of the network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NetworkChange {
    /// When it was noticed, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What changed.
    pub text: String,
}

/// Messages from the platform between their acknowledgement and their handling.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct InboxSection {
    /// Messages that wait.
    pub waiting: u64,
    /// Their bytes.
    pub waiting_bytes: u64,
    /// Messages that arrived since the process started.
    pub arrived: u64,
    /// Redeliveries of what was here before, carried out once.
    pub duplicates: u64,
    /// Requests that expired before a connector had them.
    pub rpcs_expired: u64,
    /// Updates of shared attributes that no connector took.
    pub dropped: u64,
    /// Whether the disk refuses to keep them.
    pub in_memory: bool,
}

/// The spool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SpoolSection {
    /// Readings ever accepted into this spool, over all processes.
    pub accepted_readings: u64,
    /// Readings of it that the broker acknowledged.
    pub delivered_readings: u64,
    /// Readings of it that still wait.
    pub depth_readings: u64,
    /// Readings of it that were evicted because the spool was full.
    pub evicted_readings: u64,
    /// Readings of it that the disk gave back damaged; their segments are set aside.
    pub damaged_readings: u64,
    /// Readings of it that the platform refused for good, or that no packet could carry.
    pub dead_lettered_readings: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Why nothing can be written now.
    pub fault: Option<String>,
}

/// One swap, finished or refused.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SwapEntry {
    /// Counts up from 1 in this process.
    pub id: u64,
    /// When it ended, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The connector's name, or `policy`.
    pub connector: String,
    /// SHA-256 of the component that served before.
    pub from: String,
    /// SHA-256 of the candidate.
    pub to: String,
    /// `swapped`, `rolled-back` or `refused`.
    pub outcome: String,
    /// Why it was refused or rolled back.
    pub reason: Option<String>,
    /// Why it did not take what the one before handed over and began with nothing.
    #[serde(default)]
    pub clean: Option<String>,
    /// How long no generation could take a call.
    pub gap_ms: f64,
    /// Link sessions that began while the swap was under way; 0 is the promise.
    pub new_sessions: u64,
}

/// One connector.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ConnectorEntry {
    /// Its name in the configuration.
    pub name: String,
    /// SHA-256 of the component that serves.
    pub digest: String,
    /// The name the plugin gives itself.
    pub plugin: String,
    /// The version it gives itself.
    pub version: String,
    /// The number of its load since the process started; none while nothing serves.
    #[serde(default)]
    pub generation: Option<u64>,
    /// Where it comes from: `not checked`, `signed by NAME (KEY)`, or what is doubtful.
    #[serde(default)]
    pub signature: String,
    /// `serving`, `starting` (no component yet), `restarting` or `failed` (tried only now and then); of its instances
    /// the one that is worst off.
    pub state: String,
    /// Readings accepted from it since the process started.
    pub readings: u64,
    /// Readings its report strategies suppressed; with `readings` all that its `emit` took.
    #[serde(default)]
    pub suppressed_readings: u64,
    /// Of `readings`, those that passed because its report strategies could remember no more devices and keys.
    #[serde(default)]
    pub unfiltered_readings: u64,
    /// Traps and missed deadlines since the process started.
    pub traps: u64,
    /// Starts after a failure.
    pub restarts: u64,
    /// Batches the spool turned back for now.
    pub back_pressure: u64,
    /// Bytes of the instances' linear memories.
    pub memory_bytes: u64,
    /// CPU time of the instances' guests since the process started.
    #[serde(default)]
    pub cpu_ms: u64,
    /// Instances that have used more than their share of the processor and are not called for now.
    #[serde(default)]
    pub paused: u64,
    /// The limits that were exceeded since the process started.
    #[serde(default)]
    pub limits: Vec<LimitEntry>,
    /// How often it wanted what is not granted to it.
    #[serde(default)]
    pub denied: u64,
    /// The last thing of these, and the key that would grant it.
    #[serde(default)]
    pub last_denied: Option<String>,
    /// Files of its state that held none and were put aside, since the process started.
    #[serde(default)]
    pub state_damaged: u64,
    /// Why what one of its instances keeps is not on the disk; it is tried again until it is.
    #[serde(default)]
    pub state_error: Option<String>,
    /// Why the stream of one of its instances has closed or did not open, while it is not open.
    #[serde(default)]
    pub stream_error: Option<String>,
    /// What is wrong now.
    pub error: Option<String>,
}

/// A limit that was exceeded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitEntry {
    /// Its key in `[connector.limits]`.
    pub key: String,
    /// What it stands at, in the unit of its key.
    pub value: u64,
    /// How often it was exceeded, by all instances together.
    pub exceeded: u64,
}

impl LimitEntry {
    /// Those of a connector, whose instances share their limits.
    #[must_use]
    pub fn of(connector: &crate::plugins::ConnectorStatus) -> Vec<Self> {
        let mut entries: Vec<Self> = Vec::new();
        for instance in &connector.instances {
            for (exceeded, count) in instance.limits.iter() {
                let key = exceeded.limit.key();
                match entries.iter_mut().find(|entry| entry.key == key) {
                    Some(entry) => entry.exceeded += count,
                    None => entries.push(Self {
                        key: key.to_owned(),
                        value: exceeded.value,
                        exceeded: count,
                    }),
                }
            }
        }
        entries
    }
}

/// The reconnect policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PolicySection {
    /// SHA-256 of the component that serves; empty with the built-in one.
    pub digest: String,
    /// The name the plugin gives itself.
    pub plugin: String,
    /// The version it gives itself.
    pub version: String,
    /// Where it comes from, as for a connector.
    #[serde(default)]
    pub signature: String,
    /// `serving` or `built-in`.
    pub state: String,
    /// Questions answered.
    pub answered: u64,
    /// Questions on which it trapped.
    pub trapped: u64,
    /// Questions it did not answer in time.
    pub stalled: u64,
    /// What is wrong now.
    pub error: Option<String>,
}

/// A gateway that runs writes its status at least every second.
const STALE_MS: u64 = 5_000;

impl Status {
    /// Whether the gateway that wrote it still ran a moment before `now`.
    #[must_use]
    pub fn is_fresh(&self, now: TimestampMs) -> bool {
        now.0.saturating_sub(self.written_at_ms) < STALE_MS && self.link.state != "stopped"
    }

    /// Reads a status file.
    ///
    /// # Errors
    /// When it is not there or not a status file.
    pub fn read(state_dir: &Path) -> std::io::Result<Self> {
        Self::read_file(&state_dir.join(STATUS_FILE))
    }

    /// Reads a status file that the configuration has put elsewhere.
    ///
    /// # Errors
    /// When it is not there or not a status file.
    pub fn read_file(file: &Path) -> std::io::Result<Self> {
        let bytes = std::fs::read(file)?;
        serde_json::from_slice(&bytes).map_err(std::io::Error::from)
    }

    /// Replaces the status file in one step.
    ///
    /// # Errors
    /// When its directory cannot be written.
    pub fn write(&self, file: &Path) -> std::io::Result<()> {
        replace(file, &serde_json::to_vec_pretty(self)?)
    }

    /// Replaces the metrics file in one step.
    fn write_metrics(&self, file: &Path) -> std::io::Result<()> {
        replace(file, metrics::page(self).as_bytes())
    }
}

/// A reader meets the old file or the new one. The draft's name ends in none of the endings that collectors look for.
fn replace(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut draft = file.as_os_str().to_owned();
    draft.push(".new");
    std::fs::write(&draft, bytes)?;
    std::fs::rename(draft, file)
}
