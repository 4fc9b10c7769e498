//! What the plugin host shows of itself.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use moorline_core::confine::Hits;
use moorline_core::swap::probation::Served;
use moorline_core::swap::{Build, Digest, Failure, Generation, State, Step};
use moorline_core::time::Instant;
use moorline_core::trust::Origin;

/// Swaps remembered.
pub(crate) const SWAPS_KEPT: usize = 128;

/// Everything, as of now.
#[derive(Clone, Debug, Default)]
pub struct PluginsStatus {
    /// One per connector, in the order of the configuration.
    pub connectors: Vec<ConnectorStatus>,
    /// The reconnect policy, if one is configured.
    pub policy: Option<PolicyStatus>,
    /// The last swaps, oldest first.
    pub swaps: VecDeque<Arc<SwapRecord>>,
    /// Swaps since the start, loads and refusals not counted.
    pub swaps_total: u64,
}

/// One component, whatever its world.
#[derive(Clone, Debug)]
pub struct ComponentStatus {
    /// Its file.
    pub path: Arc<std::path::Path>,
    /// What is under way.
    pub state: State,
    /// What serves.
    pub active: Option<Build>,
    /// The name the plugin gives itself.
    pub plugin: Arc<str>,
    /// The version it gives itself.
    pub version: Arc<str>,
    /// The build that has proved itself last.
    pub proved: Option<Digest>,
    /// What an operator may go back to.
    pub before: Option<Build>,
    /// Where what serves comes from.
    pub origin: Origin,
    /// The last candidate that was refused or rolled back, until one succeeds.
    pub refused: Option<Arc<(Digest, Failure)>>,
}

/// One connector.
#[derive(Clone, Debug)]
pub struct ConnectorStatus {
    /// Its name.
    pub name: Arc<str>,
    /// Its component.
    pub component: ComponentStatus,
    /// Its instances.
    pub instances: Vec<InstanceStatus>,
}

impl ConnectorStatus {
    /// What one of its instances wanted last and was not granted.
    #[must_use]
    pub fn last_denied(&self) -> Option<String> {
        let mut instances = self.instances.iter();
        instances.find_map(|instance| {
            let what = instance.denied.last.as_deref()?;
            Some(format!("{}: {what}", instance.name))
        })
    }

    /// Why what one of its instances keeps is not on the disk.
    #[must_use]
    pub fn state_unwritten(&self) -> Option<String> {
        let mut instances = self.instances.iter();
        instances.find_map(|instance| {
            let why = instance.state_unwritten.as_deref()?;
            Some(format!("{}: {why}", instance.name))
        })
    }

    /// The call of one of its instances that has lasted longest, if any lasts long, for people.
    #[must_use]
    pub fn long_call(&self, now: Instant) -> Option<String> {
        let calls = self.instances.iter();
        let calls = calls.filter_map(|instance| Some((&instance.name, instance.long_call?)));
        let (name, LongCall { call, since }) = calls.min_by_key(|(_, call)| call.since)?;
        let s = now.saturating_since(since).as_secs();
        Some(format!(
            "{name}: {call} has lasted {s} s; what is ordered waits for its end"
        ))
    }

    /// Why the stream of one of its instances is not open.
    #[must_use]
    pub fn stream_closed(&self) -> Option<String> {
        let mut instances = self.instances.iter();
        instances.find_map(|instance| {
            let why = instance.stream_closed.as_deref()?;
            Some(format!("{}: {why}", instance.name))
        })
    }
}

/// What an instance does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum InstanceState {
    /// No component is there for it yet.
    #[default]
    Waiting,
    /// It serves.
    Serving,
    /// It failed and will be started again.
    Restarting,
    /// It failed so often that it is tried only now and then.
    CircuitOpen,
}

/// One instance.
#[derive(Clone, Debug, Default)]
pub struct InstanceStatus {
    /// Connector, or connector and connection.
    pub name: Arc<str>,
    /// What it does.
    pub state: InstanceState,
    /// The generation it belongs to.
    pub generation: Option<Generation>,
    /// What it has done since that generation took over.
    pub served: Served,
    /// Traps, missed deadlines and exceeded limits since the start of the gateway.
    pub traps: u64,
    /// Starts after a failure.
    pub restarts: u64,
    /// Readings the spool has taken from it.
    pub readings: u64,
    /// Readings that its report strategies did not let through.
    pub suppressed_readings: u64,
    /// Of the readings the spool has taken, those that passed because its report strategies could remember no more.
    pub unfiltered_readings: u64,
    /// Batches the spool has turned back for now.
    pub back_pressure: u64,
    /// Bytes of its linear memories.
    pub memory_bytes: usize,
    /// CPU time its guests have used.
    pub cpu: Duration,
    /// It has used more than its share of the processor and is not called before then.
    pub paused_until: Option<Instant>,
    /// A call that lasts long already. What is ordered of the instance waits for its end.
    pub long_call: Option<LongCall>,
    /// The limits it has exceeded.
    pub limits: Hits,
    /// What it wanted and was not granted.
    pub denied: Denied,
    /// Why what it keeps is not on the disk; none when it is.
    pub state_unwritten: Option<Arc<str>>,
    /// Why its stream has closed or did not open; none while it is open, or before it was asked for.
    pub stream_closed: Option<Arc<str>>,
    /// Files of its state that held none and were put aside, since the start of the gateway.
    pub state_damaged: u64,
    /// Faults it reported itself; it goes on after them.
    pub faults: u64,
    /// When it is tried again, if it is down.
    pub retry_at: Option<Instant>,
    /// The last thing that went wrong.
    pub last_error: Option<Arc<str>>,
}

/// A call that has not ended yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongCall {
    /// As the contract names it, with its event.
    pub call: &'static str,
    /// When it began.
    pub since: Instant,
}

/// What an instance wanted and was not granted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Denied {
    /// How often.
    pub count: u64,
    /// The last thing, and the key that would grant it.
    pub last: Option<Arc<str>>,
}

/// The reconnect policy.
#[derive(Clone, Debug)]
pub struct PolicyStatus {
    /// Its component.
    pub component: ComponentStatus,
    /// Questions answered.
    pub answered: u64,
    /// Questions on which it trapped.
    pub trapped: u64,
    /// Questions it did not answer in time or within its fuel.
    pub stalled: u64,
}

/// How one candidate fared.
#[derive(Clone, Debug)]
pub struct SwapRecord {
    /// The connector, or `policy`.
    pub component: Arc<str>,
    /// What served before.
    pub from: Option<Build>,
    /// What serves afterwards, or was to.
    pub to: Build,
    /// The name the candidate gives itself; empty if it did not come to say it.
    pub plugin: Arc<str>,
    /// The version it gives itself, likewise.
    pub version: Arc<str>,
    /// How it ended.
    pub outcome: SwapOutcome,
    /// Why it refused what the generation before handed over, if it did, and began with nothing.
    pub clean: Option<Arc<str>>,
    /// The longest time in which an instance could take no call. Zero if nothing was touched.
    pub gap: Duration,
    /// Its code came out of the cache; false = it was compiled, or it did not get so far.
    pub cached: bool,
    /// From the change of the file being settled to this end.
    pub took: Duration,
    /// When it ended.
    pub at: Instant,
}

/// How a candidate ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SwapOutcome {
    /// The first generation.
    Loaded,
    /// It took over.
    Swapped,
    /// It never served.
    Refused(Step, Failure),
    /// The generation before is back; `to` failed.
    RolledBack(Step, Failure),
}

impl SwapOutcome {
    /// One word for reports.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Loaded => "loaded",
            Self::Swapped => "swapped",
            Self::Refused(..) => "refused",
            Self::RolledBack(..) => "rolled back",
        }
    }
}
