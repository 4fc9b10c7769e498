//! What is said over the admin socket.
//!
//! ```text
//!  ► {"do":"list"}
//!  ◄ {"answer":"plugins","plugins":[{"name":"press","state":"serving","generation":3,…}]}
//!  ► {"do":"swap","plugin":"press"}
//!  ◄ {"answer":"swap","outcome":"swapped","plugin":"press","generation":4,"digest":"…","gap_ms":0.6,…}
//!  ► {"do":"roll-back","plugin":"press"}
//!  ◄ {"answer":"refused","why":"press has no generation to go back to: …"}
//!  ► {"do":"restore-state","instance":"press"}
//!  ◄ {"answer":"state-restored","restarted":true}
//! ```

use moorline_core::swap::{Build, State};
use moorline_core::time::Instant;
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::journal::HistoryEntry;
use crate::plugins::{ComponentStatus, ConnectorStatus, InstanceState, OrderEnd, PluginsStatus};
use crate::status::LimitEntry;

/// The longest request, its newline included.
pub const REQUEST_BYTES_MAX: u64 = 16 * 1024;
/// How long an order is waited for unless the request says otherwise, in seconds.
pub const WAIT_S: u64 = 120;
/// The longest wait a request may ask for, in seconds.
pub const WAIT_S_MAX: u64 = 86_400;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// The plugins.
    List,
    /// Look at the plugin's file, and swap to what is in it.
    Swap {
        /// The connector's name, or `policy`.
        plugin: String,
        /// Also if that build failed before.
        #[serde(default)]
        again: bool,
        /// Wait until it has proved itself.
        #[serde(default)]
        proved: bool,
        /// How long to wait, at most 86400.
        #[serde(default = "wait_s")]
        wait_s: u64,
    },
    /// Go back to the generation before the one that serves.
    RollBack {
        /// The connector's name, or `policy`.
        plugin: String,
        /// How long to wait, at most 86400.
        #[serde(default = "wait_s")]
        wait_s: u64,
    },
    /// Have an instance keep the state that was put beside its own, and start its plugin anew with it.
    RestoreState {
        /// The instance's name: connector, or connector and connection.
        instance: String,
    },
}

const fn wait_s() -> u64 {
    WAIT_S
}

/// What the gateway answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// The plugins, connectors first.
    Plugins {
        /// One each.
        plugins: Vec<PluginEntry>,
    },
    /// What an order led to.
    Swap(Box<SwapAnswer>),
    /// The state is in its place.
    StateRestored {
        /// The plugin was started anew with it; otherwise nothing serves, and the next start finds it.
        restarted: bool,
    },
    /// The order cannot be carried out.
    Refused {
        /// Why, for people.
        why: String,
    },
    /// The order has not ended in the time to wait; it goes on.
    Pending {
        /// For people.
        why: String,
    },
    /// The request is not understood. The connection ends.
    Invalid {
        /// Why, for people.
        why: String,
    },
}

/// What an order led to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SwapAnswer {
    /// How it ended: as in [`HistoryEntry::outcome`], or `proved`, `replaced` (by another, before it had proved itself),
    /// `unchanged` (the file holds what serves), `shunned` (it holds a build that failed before), `missing` (no file).
    pub outcome: String,
    /// The candidate's end, if there was a candidate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<HistoryEntry>,
    /// The build in the file, where there was no candidate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Why a shunned build failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl SwapAnswer {
    pub(super) fn new(end: &OrderEnd, clock: Clock) -> Self {
        let (outcome, record) = match end {
            OrderEnd::Concluded(record) => (None, record),
            OrderEnd::Proved(record) => (Some("proved"), record),
            OrderEnd::Replaced(record) => (Some("replaced"), record),
            OrderEnd::Unchanged(build) => {
                return Self {
                    outcome: "unchanged".to_owned(),
                    digest: Some(build.digest.to_string()),
                    ..Self::default()
                };
            }
            OrderEnd::Shunned(digest, failure) => {
                return Self {
                    outcome: "shunned".to_owned(),
                    digest: Some(digest.to_string()),
                    reason: failure.as_ref().map(ToString::to_string),
                    ..Self::default()
                };
            }
            OrderEnd::Missing(why) => {
                return Self {
                    outcome: "missing".to_owned(),
                    reason: Some(why.to_string()),
                    ..Self::default()
                };
            }
        };
        let end = HistoryEntry::new(record, clock);
        Self {
            outcome: outcome.map_or_else(|| end.outcome.clone(), ToOwned::to_owned),
            end: Some(end),
            ..Self::default()
        }
    }
}

/// One plugin, as it is now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PluginEntry {
    /// The connector's name, or `policy`.
    pub name: String,
    /// `connector` or `reconnect-policy`.
    pub kind: String,
    /// `serving`, `probation`, `waiting` (nothing loaded), `restarting`, `failed` (tried only now and then), or the step
    /// of a swap: `looking`, `compiling`, `checking`, `warming`, `cutting-over`, `rolling-back`; of a stopped gateway
    /// `stopped`.
    pub state: String,
    /// The component's file.
    pub file: String,
    /// The name the plugin gives itself.
    pub plugin: String,
    /// The version it gives itself.
    pub version: String,
    /// What serves.
    pub generation: Option<u64>,
    /// The beginning of its SHA-256.
    pub digest: Option<String>,
    /// The digest of the build that has proved itself last.
    pub proved: Option<String>,
    /// The digest a roll-back would bring back.
    pub before: Option<String>,
    /// Instances that serve.
    pub serving: u64,
    /// Instances there are; none of a policy.
    pub instances: u64,
    /// The last candidate that failed, until one succeeds.
    pub refused: Option<RefusedBuild>,
    /// Instances that are not called for now: they have used more than their share of the processor.
    pub paused: u64,
    /// The call of one of its instances that has lasted longest, if any lasts long.
    pub long_call: Option<String>,
    /// The limits that were exceeded.
    pub limits: Vec<LimitEntry>,
    /// What it wanted last and was not granted.
    pub denied: Option<String>,
    /// Why what one of its instances keeps is not on the disk.
    pub state_error: Option<String>,
    /// Why the stream of one of its instances is not open.
    #[serde(default)]
    pub stream_error: Option<String>,
    /// Of the instances that do not serve, why the first does not; of a policy, how many questions it did not answer.
    pub error: Option<String>,
}

/// A candidate that failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedBuild {
    /// The beginning of its SHA-256.
    pub digest: String,
    /// Why, for people.
    pub reason: String,
}

/// All plugins.
#[must_use]
pub fn entries(status: &PluginsStatus, now: Instant) -> Vec<PluginEntry> {
    let connectors = status.connectors.iter().map(|each| connector(each, now));
    let policy = status.policy.iter().map(|policy| {
        let mut entry = entry("policy", &policy.component);
        "reconnect-policy".clone_into(&mut entry.kind);
        let (trapped, stalled) = (policy.trapped, policy.stalled);
        if trapped + stalled > 0 {
            let asked = policy.answered + trapped + stalled;
            entry.error = Some(format!(
                "of {asked} questions since the start {trapped} ended in a trap and {stalled} took too long: the built-in policy decided those"
            ));
        }
        entry
    });
    connectors.chain(policy).collect()
}

fn connector(connector: &ConnectorStatus, now: Instant) -> PluginEntry {
    let mut entry = entry(&connector.name, &connector.component);
    let instances = &connector.instances;
    let any = |state| instances.iter().any(|instance| instance.state == state);
    // What a swap does is more than what an instance suffers meanwhile.
    if matches!(entry.state.as_str(), "serving" | "probation") {
        if any(InstanceState::CircuitOpen) {
            "failed".clone_into(&mut entry.state);
        } else if any(InstanceState::Restarting) {
            "restarting".clone_into(&mut entry.state);
        }
    }
    "connector".clone_into(&mut entry.kind);
    entry.instances = instances.len() as u64;
    let serving = |state| state == InstanceState::Serving;
    entry.serving = instances.iter().filter(|i| serving(i.state)).count() as u64;
    entry.paused = instances
        .iter()
        .filter(|i| i.paused_until.is_some())
        .count() as u64;
    entry.long_call = connector.long_call(now);
    entry.limits = LimitEntry::of(connector);
    entry.denied = connector.last_denied();
    entry.state_error = connector.state_unwritten();
    entry.stream_error = connector.stream_closed();
    entry.error = instances
        .iter()
        .filter(|instance| !serving(instance.state))
        .find_map(|instance| {
            Some(format!(
                "{}: {}",
                instance.name,
                instance.last_error.as_deref()?
            ))
        });
    entry
}

fn entry(name: &str, component: &ComponentStatus) -> PluginEntry {
    let digest = |build: Build| build.digest.to_string();
    PluginEntry {
        name: name.to_owned(),
        state: word(component.state, component.active).to_owned(),
        file: component.path.display().to_string(),
        plugin: component.plugin.to_string(),
        version: component.version.to_string(),
        generation: component.active.map(|active| active.generation.0),
        digest: component.active.map(digest),
        proved: component.proved.map(|digest| digest.to_string()),
        before: component.before.map(digest),
        refused: component.refused.as_deref().map(|(digest, failure)| {
            let (digest, reason) = (digest.to_string(), failure.to_string());
            RefusedBuild { digest, reason }
        }),
        ..PluginEntry::default()
    }
}

const fn word(state: State, active: Option<Build>) -> &'static str {
    match state {
        State::Active(_) => "serving",
        State::Empty => "waiting",
        State::Quarantined(_) => match active {
            Some(_) => "serving",
            None => "waiting",
        },
        State::Settling { .. } | State::Probing => "looking",
        State::Compiling(_) => "compiling",
        State::Checking(_) => "checking",
        State::Warming { .. } => "warming",
        State::Cutover { .. } => "cutting-over",
        State::Draining { .. } => "probation",
        State::RollingBack { .. } => "rolling-back",
    }
}
