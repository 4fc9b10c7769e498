//! From what the rooms show of themselves to the one status everybody reads.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use moorline_core::link::State;
use moorline_core::link::canary;
use moorline_core::link::cause::Certainty;
use moorline_core::network::Seen;
use moorline_core::swap;
use moorline_core::time::{Instant, TimestampMs, rounded_ms, saturating_ms};

use super::wear::alarm as wear_alarm;
use super::{
    AlarmEntry, CanarySection, ConnectorEntry, DisconnectEntry, InboxSection, LimitEntry,
    LinkSection, NetworkChange, NetworkSection, PolicySection, SpoolSection, Status, SwapEntry,
    WearSection,
};
use crate::clock::Clock;
use crate::inbox::InboxStatus;
use crate::link::{self, LinkStatus};
use crate::plugins::{
    ComponentStatus, ConnectorStatus, InstanceState, InstanceStatus, PluginsStatus, PolicyStatus,
    SwapOutcome, SwapRecord,
};
use crate::spool::SpoolStatus;
use crate::wear::WearStatus;

/// Swaps that are kept for the status.
const SWAPS_KEPT: usize = 128;
/// Beginnings of sessions that are remembered, to tell whether a swap cost one.
const SESSIONS_KEPT: usize = 64;

/// The state directory cannot be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unwritable {
    pub(crate) directory: PathBuf,
    pub(crate) error: String,
    /// Milliseconds since the Unix epoch.
    pub(crate) since_ms: u64,
}

/// What the status needs beyond the rooms' present words: numbers for swaps, and when sessions began.
#[derive(Debug)]
pub(crate) struct Tracker {
    clock: Clock,
    pid: u32,
    started_at: TimestampMs,
    session_starts: VecDeque<Instant>,
    disconnects_by_cause: BTreeMap<String, u64>,
    disconnects_seen: u64,
    swaps: VecDeque<SwapEntry>,
    swaps_seen: u64,
    last_swap: Option<Arc<SwapRecord>>,
}

/// What every part of the gateway says of itself, at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) link: &'a LinkStatus,
    pub(crate) spool: &'a SpoolStatus,
    pub(crate) inbox: InboxStatus,
    pub(crate) plugins: &'a PluginsStatus,
    pub(crate) network: &'a Seen,
    pub(crate) wear: &'a WearStatus,
    /// None = it can be written to.
    pub(crate) state_dir: Option<&'a Unwritable>,
}

impl Tracker {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            pid: std::process::id(),
            started_at: clock.wall(),
            session_starts: VecDeque::new(),
            disconnects_by_cause: BTreeMap::new(),
            disconnects_seen: 0,
            swaps: VecDeque::new(),
            swaps_seen: 0,
            last_swap: None,
        }
    }

    /// Counts what ended, and remembers when the session that is up began.
    pub(crate) fn follow_link(&mut self, link: &LinkStatus) {
        let seen = self.disconnects_seen;
        for record in link.disconnects.iter().filter(|record| record.id > seen) {
            self.disconnects_seen = record.id;
            let cause = record.record.disconnect.cause.name();
            *self
                .disconnects_by_cause
                .entry(cause.to_owned())
                .or_default() += 1;
        }
        let Some(since) = link.session_since else {
            return;
        };
        if self.session_starts.back() != Some(&since) {
            if self.session_starts.len() == SESSIONS_KEPT {
                self.session_starts.pop_front();
            }
            self.session_starts.push_back(since);
        }
    }

    /// Numbers the swaps that ended since the last look.
    pub(crate) fn follow_plugins(&mut self, plugins: &PluginsStatus) {
        let last = self.last_swap.take();
        let known = last.as_ref().and_then(|last| {
            plugins
                .swaps
                .iter()
                .rposition(|record| Arc::ptr_eq(record, last))
        });
        for record in plugins
            .swaps
            .iter()
            .skip(known.map_or(0, |index| index + 1))
        {
            let Some(outcome) = outcome(&record.outcome) else {
                continue;
            };
            self.swaps_seen += 1;
            if self.swaps.len() == SWAPS_KEPT {
                self.swaps.pop_front();
            }
            let entry = self.swap(record, outcome);
            self.swaps.push_back(entry);
        }
        self.last_swap = plugins.swaps.back().cloned().or(last);
    }

    fn swap(&self, record: &SwapRecord, outcome: &str) -> SwapEntry {
        let reason = match &record.outcome {
            SwapOutcome::Refused(step, failure) | SwapOutcome::RolledBack(step, failure) => {
                Some(format!("{step}: {failure}"))
            }
            SwapOutcome::Loaded | SwapOutcome::Swapped => None,
        };
        let began = record.at.since_start().saturating_sub(record.took);
        let under_way = began..=record.at.since_start();
        let new_sessions = self
            .session_starts
            .iter()
            .filter(|start| under_way.contains(&start.since_start()))
            .count();
        SwapEntry {
            id: self.swaps_seen,
            at_ms: self.wall(record.at).0,
            connector: record.component.to_string(),
            from: record
                .from
                .map(|build| build.digest.to_string())
                .unwrap_or_default(),
            to: record.to.digest.to_string(),
            outcome: outcome.to_owned(),
            reason,
            clean: record.clean.as_ref().map(ToString::to_string),
            gap_ms: rounded_ms(record.gap),
            new_sessions: new_sessions as u64,
        }
    }

    /// The wall-clock time of a monotonic one, as the wall clock stands now.
    fn wall(&self, at: Instant) -> TimestampMs {
        let now = self.clock.now();
        let age_ms = u64::from(saturating_ms(now.saturating_since(at)));
        let ahead_ms = u64::from(saturating_ms(at.saturating_since(now)));
        TimestampMs(self.clock.wall().0.saturating_sub(age_ms) + ahead_ms)
    }

    pub(crate) fn snapshot(&self, parts: Parts<'_>) -> Status {
        let Parts {
            link,
            spool,
            inbox,
            plugins,
            network,
            wear,
            state_dir,
        } = parts;
        Status {
            pid: self.pid,
            started_at_ms: self.started_at.0,
            written_at_ms: self.clock.wall().0,
            alarms: self
                .duplicate_alarm(link)
                .into_iter()
                .chain(spool_alarm(spool))
                .chain(inbox_alarm(inbox))
                .chain(state_dir.map(state_dir_alarm))
                .chain(wear_alarm(wear))
                .collect(),
            link: self.link_section(link),
            network: self.network_section(network),
            spool: spool_section(spool),
            wear: WearSection::from(wear),
            inbox: inbox_section(inbox),
            swaps: self.swaps.iter().cloned().collect(),
            connectors: plugins.connectors.iter().map(connector).collect(),
            policy: policy(plugins.policy.as_ref()),
        }
    }

    fn duplicate_alarm(&self, link: &LinkStatus) -> Option<AlarmEntry> {
        link.duplicate_client_id(self.clock.now()).map(|alarm| {
            let (certainty, text) = match alarm.certainty {
                Certainty::Certain => ("certain", link::DUPLICATE_CERTAIN),
                Certainty::Inferred => ("inferred", link::DUPLICATE_INFERRED),
            };
            AlarmEntry {
                name: "duplicate-client-id".to_owned(),
                since_ms: self.wall(alarm.since).0,
                certainty: certainty.to_owned(),
                client_id: link.client_id.to_string(),
                text: text.to_owned(),
                advice: link::DUPLICATE_ADVICE.to_owned(),
            }
        })
    }

    fn network_section(&self, network: &Seen) -> NetworkSection {
        let path = network.path.as_ref();
        NetworkSection {
            verdict: network.verdict.name().to_owned(),
            since_ms: network.since.map(|since| self.wall(since).0),
            interface: path.map(|path| path.interface.clone()),
            source: path
                .and_then(|path| path.source)
                .map(|source| source.to_string()),
            gateway: path
                .and_then(|path| path.gateway)
                .map(|gateway| gateway.to_string()),
            wireless_dbm: network.signal.map(|signal| signal.level_dbm),
            wireless_quality: network.signal.map(|signal| signal.quality),
            upsets: network.upsets,
            returns: network.returns,
            changes: network
                .changes
                .iter()
                .map(|(at, change)| NetworkChange {
                    at_ms: self.wall(*at).0,
                    text: change.to_string(),
                })
                .collect(),
        }
    }

    fn canary_section(&self, seen: &canary::Seen) -> CanarySection {
        CanarySection {
            back: seen.back,
            lost: seen.lost,
            round_trip_ms: seen.round_trip.map(rounded_ms),
            back_at_ms: seen.back_at.map(|at| self.wall(at).0),
        }
    }

    fn link_section(&self, link: &LinkStatus) -> LinkSection {
        let state = match &link.state {
            State::Up { .. } => "up",
            State::Opening { .. } => "connecting",
            State::Doubting { .. } | State::Consulting { .. } | State::Waiting { .. } => "waiting",
            State::Closing { .. } => "closing",
            State::Parked { .. } => "parked",
            State::Stopped => "stopped",
        };
        let liveness = link.liveness.as_ref();
        let answers = liveness.map(|of| &of.answer_time);
        LinkSection {
            state: state.to_owned(),
            since_ms: link.session_since.map(|since| self.wall(since).0),
            next_try_ms: link.next_try_at.map(|at| self.wall(at).0),
            sessions: link.sessions,
            mqtt_version: link
                .version
                .map(|version| version.to_string())
                .unwrap_or_default(),
            endpoint: link.endpoint.to_string(),
            certificate_end_ms: link
                .last_up
                .as_ref()
                .and_then(|up| up.certificate_end)
                .map(|end| end.0.0),
            publish_limit_per_s: link.publish_limit_per_s,
            publish_bytes_max: link.publish_bytes_max.map(|bytes| bytes as u64),
            platform_limits: link
                .session_limits
                .as_ref()
                .map(|limits| limits.devices.to_string()),
            held_by: link.held.map(|held| held.by.to_string()),
            held_until_ms: link
                .held
                .and_then(|held| held.until)
                .map(|until| self.wall(until).0),
            keep_alive_s: liveness.map(|of| of.keep_alive.as_secs()),
            answer_ms: answers.and_then(|time| time.smoothed()).map(rounded_ms),
            jitter_ms: answers.and_then(|time| time.jitter()).map(rounded_ms),
            canary: liveness
                .and_then(|of| of.canary)
                .map(|seen| self.canary_section(&seen)),
            session_kept: link
                .last_up
                .as_ref()
                .and_then(|up| up.session_wanted.then_some(up.session_present)),
            duplicates_possible: link.duplicates_possible,
            downlinks_dropped: link.downlinks_dropped,
            policy_faults: link.policy_faults,
            policy_clamped: link.policy_clamped,
            dead_lettered: link.dead_letters,
            disconnects_by_cause: self.disconnects_by_cause.clone(),
            disconnects: link
                .disconnects
                .iter()
                .map(|record| DisconnectEntry::from(&**record))
                .collect(),
        }
    }
}

/// The first load of a component is no swap.
fn outcome(outcome: &SwapOutcome) -> Option<&'static str> {
    match outcome {
        SwapOutcome::Loaded => None,
        SwapOutcome::Swapped => Some("swapped"),
        SwapOutcome::Refused(..) => Some("refused"),
        SwapOutcome::RolledBack(..) => Some("rolled-back"),
    }
}

/// While the medium of the spool fails.
fn spool_alarm(spool: &SpoolStatus) -> Option<AlarmEntry> {
    let fault = spool.fault?;
    let unread = if spool.absent {
        "; what lies on it could not be read since the start, and is not in these figures"
    } else {
        ""
    };
    Some(medium_alarm(
        "spool-medium",
        spool.fault_since.map_or(0, |since| since.0),
        format!(
            "the medium of the spool fails ({fault}): what is accepted waits in memory{unread}"
        ),
        "look at the medium under the spool's directory: is it mounted, worn, full (mount, dmesg, df)? The gateway goes on \
         by itself once it works; until then the oldest is given up beyond spool.memory_bytes_max",
    ))
}

/// While the inbox cannot be written.
fn inbox_alarm(inbox: InboxStatus) -> Option<AlarmEntry> {
    let since = inbox.in_memory_since?;
    Some(medium_alarm(
        "inbox-medium",
        since.0,
        "messages from the platform cannot be written down: they are acknowledged when they are handled".to_owned(),
        "look at the medium under the state directory; the gateway writes by itself once it works",
    ))
}

fn state_dir_alarm(state_dir: &Unwritable) -> AlarmEntry {
    medium_alarm(
        "state-directory",
        state_dir.since_ms,
        format!(
            "{} cannot be written ({}): the state of plugins, compiled plugins and the link's journal are not kept",
            state_dir.directory.display(),
            state_dir.error
        ),
        "look at the medium under the state directory: is it mounted, worn, full (mount, dmesg, df)?",
    )
}

fn medium_alarm(name: &str, since_ms: u64, text: String, advice: &str) -> AlarmEntry {
    AlarmEntry {
        name: name.to_owned(),
        since_ms,
        certainty: "certain".to_owned(),
        client_id: String::new(),
        text,
        advice: advice.to_owned(),
    }
}

fn spool_section(spool: &SpoolStatus) -> SpoolSection {
    let gone = spool.depth_readings
        + spool.evicted_readings
        + spool.damaged_readings
        + spool.set_aside_readings;
    SpoolSection {
        accepted_readings: spool.appended_readings_total,
        delivered_readings: spool.appended_readings_total.saturating_sub(gone),
        depth_readings: spool.depth_readings,
        evicted_readings: spool.evicted_readings,
        damaged_readings: spool.damaged_readings,
        dead_lettered_readings: spool.set_aside_readings,
        bytes: spool.bytes,
        fault: spool.fault.map(|fault| fault.to_string()),
    }
}

const fn inbox_section(inbox: InboxStatus) -> InboxSection {
    InboxSection {
        waiting: inbox.waiting as u64,
        waiting_bytes: inbox.waiting_bytes as u64,
        arrived: inbox.arrived,
        duplicates: inbox.duplicates,
        rpcs_expired: inbox.rpcs_expired,
        dropped: inbox.dropped,
        in_memory: inbox.in_memory_since.is_some(),
    }
}

fn connector(connector: &ConnectorStatus) -> ConnectorEntry {
    let instances = &connector.instances;
    let worst = instances
        .iter()
        .map(|instance| instance.state)
        .max_by_key(|state| match state {
            InstanceState::Serving => 0,
            InstanceState::Waiting => 1,
            InstanceState::Restarting => 2,
            InstanceState::CircuitOpen => 3,
        });
    let state = match worst {
        Some(InstanceState::Serving) => "serving",
        Some(InstanceState::Waiting) | None => "starting",
        Some(InstanceState::Restarting) => "restarting",
        Some(InstanceState::CircuitOpen) => "failed",
    };
    let instance_error = instances
        .iter()
        .filter(|instance| instance.state != InstanceState::Serving)
        .find_map(|instance| {
            let error = instance.last_error.as_deref()?;
            Some(format!("{}: {error}", instance.name))
        });
    let sum = |figure: fn(&InstanceStatus) -> u64| instances.iter().map(figure).sum();
    ConnectorEntry {
        name: connector.name.to_string(),
        digest: digest(&connector.component),
        plugin: connector.component.plugin.to_string(),
        version: connector.component.version.to_string(),
        generation: connector.component.active.map(|build| build.generation.0),
        signature: signature(&connector.component),
        state: state.to_owned(),
        readings: sum(|instance| instance.readings),
        suppressed_readings: sum(|instance| instance.suppressed_readings),
        unfiltered_readings: sum(|instance| instance.unfiltered_readings),
        traps: sum(|instance| instance.traps),
        restarts: sum(|instance| instance.restarts),
        back_pressure: sum(|instance| instance.back_pressure),
        memory_bytes: sum(|instance| instance.memory_bytes as u64),
        cpu_ms: sum(|instance| u64::try_from(instance.cpu.as_millis()).unwrap_or(u64::MAX)),
        paused: sum(|instance| u64::from(instance.paused_until.is_some())),
        limits: LimitEntry::of(connector),
        denied: sum(|instance| instance.denied.count),
        last_denied: connector.last_denied(),
        state_damaged: sum(|instance| instance.state_damaged),
        state_error: connector.state_unwritten(),
        stream_error: connector.stream_closed(),
        error: instance_error.or_else(|| refused(&connector.component)),
    }
}

fn policy(policy: Option<&PolicyStatus>) -> PolicySection {
    let Some(policy) = policy else {
        return PolicySection {
            state: "built-in".to_owned(),
            ..PolicySection::default()
        };
    };
    let state = if policy.component.active.is_some() {
        "serving"
    } else {
        "built-in"
    };
    PolicySection {
        digest: digest(&policy.component),
        plugin: policy.component.plugin.to_string(),
        version: policy.component.version.to_string(),
        signature: signature(&policy.component),
        state: state.to_owned(),
        answered: policy.answered,
        trapped: policy.trapped,
        stalled: policy.stalled,
        error: refused(&policy.component),
    }
}

fn digest(component: &ComponentStatus) -> String {
    component
        .active
        .map(|build| build.digest.to_string())
        .unwrap_or_default()
}

fn signature(component: &ComponentStatus) -> String {
    let origin = component.active.map(|_build| &component.origin);
    origin.map(ToString::to_string).unwrap_or_default()
}

fn refused(component: &ComponentStatus) -> Option<String> {
    if let Some((digest, failure)) = component.refused.as_deref() {
        return Some(format!("build {digest} {failure}"));
    }
    let missing = component.active.is_none() && component.state == swap::State::Empty;
    missing.then(|| {
        format!(
            "{} is not there or cannot be read",
            component.path.display()
        )
    })
}
