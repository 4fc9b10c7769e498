//! What the configuration says about plugins, resolved.

use std::path::PathBuf;
use std::time::Duration;

use moorline_core::confine::{Exceeded, Limit};
use moorline_core::report::Rules;
use moorline_core::swap;
use moorline_core::swap::probation::Terms;
use moorline_core::trust;

use super::grants::Grants;
use super::stream_target::StreamTarget;

/// Everything the plugin host needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct PluginSettings {
    /// Where compiled components are kept.
    pub cache_directory: PathBuf,
    /// The most they may take up on disk together, bytes.
    pub cache_bytes_max: u64,
    /// Where is kept which versions served last.
    pub ledger_directory: PathBuf,
    /// Whose components are loaded.
    pub trust: trust::Settings,
    /// Where guests keep their key-value state.
    pub state_directory: PathBuf,
    /// The connectors.
    pub connectors: Vec<ConnectorSettings>,
    /// The reconnect policy; `None` = the built-in one.
    pub policy: Option<PolicySettings>,
    /// How long the parts of a swap may take, and how the policy proves itself.
    pub swap: swap::Settings,
}

/// How a connector's generations follow one another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Succession {
    /// How a new one proves itself.
    pub probation: Terms,
    /// The old one is gone before the new one is made; else the new one is made beside it, and only the start waits.
    pub exclusive: bool,
    /// A new one that refuses the hand-over is refused; else it starts clean.
    pub hand_over_required: bool,
}

/// One connector: one component, one instance per connection.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectorSettings {
    /// Its name.
    pub name: String,
    /// The component's file.
    pub component: PathBuf,
    /// What every instance gets.
    pub configuration: serde_json::Value,
    /// One instance each; none = one instance without streams.
    pub connections: Vec<ConnectionSettings>,
    /// Which of its readings are reported.
    pub report: Rules,
    /// What an instance may use.
    pub limits: Limits,
    /// What it may reach beside its streams.
    pub grants: Grants,
    /// How its generations follow one another.
    pub succession: Succession,
}

/// One device connection of a connector.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectionSettings {
    /// Its name: also the name of the granted stream.
    pub name: String,
    /// Where the stream leads.
    pub stream: Option<StreamTarget>,
    /// Merged over the connector's configuration, key by key.
    pub configuration: serde_json::Value,
}

/// The reconnect policy.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicySettings {
    /// The component's file.
    pub component: PathBuf,
    /// A decision must be there by then.
    pub deadline: Duration,
    /// What it is configured with.
    pub configuration: serde_json::Value,
}

/// What one instance may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// All linear memories together.
    pub memory_bytes: usize,
    /// Elements of all tables together.
    pub table_elements: usize,
    /// Core instances, and memories, and tables of the component.
    pub instances: usize,
    /// CPU time of one call. Waiting for a device does not count.
    pub call_cpu: Duration,
    /// One call altogether, waiting included.
    pub call_wall: Duration,
    /// Of one core, in the long run.
    pub cpu_percent: u64,
    /// Readings for the spool; what else goes there counts as one.
    pub emit_readings_per_s: u64,
    /// Lines for the log.
    pub log_lines_per_s: u64,
    /// Bytes over its streams, both ways together.
    pub stream_bytes_per_s: u64,
    /// Keys and values of its state together.
    pub state_bytes: usize,
    /// Bytes that its state makes the disk write: all of it, and two blocks, with each call that changed it.
    pub state_write_bytes_per_s: u64,
    /// Descriptors of the host that it has open by WASI: sockets, files, look-ups and requests.
    pub descriptors: usize,
    /// Bytes in all directories it may write, by the lengths of files.
    pub directory_bytes: u64,
    /// Files and directories in them.
    pub directory_entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 32 * 1024 * 1024,
            table_elements: 100_000,
            instances: 64,
            call_cpu: Duration::from_secs(1),
            call_wall: Duration::from_secs(30),
            cpu_percent: 80,
            emit_readings_per_s: 100_000,
            log_lines_per_s: 20,
            stream_bytes_per_s: 8 * 1024 * 1024,
            state_bytes: 256 * 1024,
            state_write_bytes_per_s: 256 * 1024,
            descriptors: 64,
            directory_bytes: 16 * 1024 * 1024,
            directory_entries: 1_024,
        }
    }
}

impl Limits {
    /// That this limit was exceeded, with its value in the unit of its key.
    #[must_use]
    pub fn exceeded(&self, limit: Limit) -> Exceeded {
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let value = match limit {
            Limit::Memory => count(self.memory_bytes),
            Limit::Tables => count(self.table_elements),
            Limit::Instances => count(self.instances),
            Limit::Call => u64::try_from(self.call_cpu.as_millis()).unwrap_or(u64::MAX),
            Limit::Cpu => self.cpu_percent,
            Limit::Emit => self.emit_readings_per_s,
            Limit::Log => self.log_lines_per_s,
            Limit::Stream => self.stream_bytes_per_s,
            Limit::State => count(self.state_bytes),
            Limit::StateWrite => self.state_write_bytes_per_s,
            Limit::Descriptors => count(self.descriptors),
            Limit::DirectoryBytes => self.directory_bytes,
            Limit::DirectoryEntries => self.directory_entries,
        };
        Exceeded { limit, value }
    }
}

/// `over` laid on `base`, key by key. Anything but two objects: `over` wins unless it is null.
pub(crate) fn merged(base: &serde_json::Value, over: &serde_json::Value) -> serde_json::Value {
    match (base.as_object(), over.as_object()) {
        (Some(base), Some(over)) => {
            let mut merged = base.clone();
            merged.extend(over.iter().map(|(key, value)| (key.clone(), value.clone())));
            merged.into()
        }
        (Some(_), None) if over.is_null() => base.clone(),
        (None | Some(_), None | Some(_)) => over.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_connection_overrides_its_connector_key_by_key() {
        let merged = merged(&json!({"unit": 1, "poll_ms": 100}), &json!({"unit": 7}));
        assert_eq!(merged, json!({"unit": 7, "poll_ms": 100}));
    }
}
