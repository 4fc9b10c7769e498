//! The plugin host: WebAssembly components that speak to devices or pace reconnects, swapped while they run.
//!
//! ```text
//!  watch ──► swapper (one swap machine per component) ──► compiler thread, cache
//!               │ cut over, roll back
//!               ▼
//!  routes ──► instance (one task, one Store) ──► host functions ──► spool, routes, streams, state
//!               ▲
//!  streams ─────┘ (one task per socket; outlives every generation)
//!
//!  link ──► policy thread (one Store)
//! ```
//!
//! A guest starts with nothing: what it can reach is the eight interfaces of its world and the streams the
//! configuration names. Nothing here shares state: each part belongs to one task, and they speak over bounded channels.

mod bindings;
mod cache;
mod convert;
mod engine;
mod guest;
mod host;
mod inspect;
mod instance;
mod names;
mod policy;
mod rehearsal;
mod restart;
mod routes;
mod settings;
mod status;
mod store;
mod streams;
mod swapper;
#[cfg(test)]
mod tests;
mod world;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use moorline_core::message::Downlink;
use moorline_core::swap::{Failure, Swap};
use thiserror::Error;
use tokio::sync::mpsc::error::SendError;
use tokio::sync::{mpsc, oneshot, watch as channel_watch};
use tokio::task::JoinSet;

pub use engine::Kind;
pub use inspect::{Inspection, inspect};
pub use rehearsal::{Contradiction, Rehearsal};
pub use routes::{DeliveryRefused, Undelivered};
pub use settings::{
    ConnectionSettings, ConnectorSettings, Limits, PluginSettings, PolicySettings, StreamTarget,
    StreamTargetError,
};
pub use status::{
    ComponentStatus, ConnectorStatus, InstanceState, InstanceStatus, PluginsStatus, PolicyStatus,
    SwapOutcome, SwapRecord,
};
pub(crate) use world::COMPONENT_BYTES_MAX;

use crate::clock::Clock;
use crate::file_watch;
use crate::inbox::Delivery;
use crate::policy_handle::PolicyHandle;
use crate::spool::Appender;
use cache::Cache;
use engine::Engines;
use host::{KeyValues, PendingRpcs, Reporting, Resident, log};
use instance::{CONTROLS_QUEUED, DOWNLINKS_QUEUED, Parts, Trouble};
use routes::{Claims, InstanceId, Mailbox, Request};
use streams::Streams;
use swapper::{InstanceHandle, Order, Slot, Swapper, Target};

/// Reports of failing guests on their way to the swapper.
const TROUBLES_QUEUED: usize = 64;
const ORDERS_QUEUED: usize = 1;

/// Why the plugin host cannot start. A bad plugin is no reason.
#[derive(Debug, Error)]
pub enum StartError {
    /// Guests would have no place for their state.
    #[error("the plugins' state directory {0} cannot be used: {1}")]
    StateDirectory(PathBuf, #[source] std::io::Error),
    /// The engine.
    #[error("the WebAssembly engine cannot start: it {0}")]
    Engine(Failure),
    /// No thread for the policy.
    #[error("the reconnect policy's thread cannot start: {0}")]
    PolicyThread(#[source] std::io::Error),
}

/// What the plugin host is told of the platform.
#[derive(Clone, Debug)]
pub struct Platform {
    /// Whether the link is up.
    pub link_up: channel_watch::Receiver<bool>,
    /// Counts up when something that was accepted will never arrive. What was reported is reported again then.
    pub gaps: channel_watch::Receiver<u64>,
}

/// The running plugin host.
#[derive(Debug)]
pub struct Plugins {
    policy: PolicyHandle,
    requests: mpsc::Sender<Request>,
    orders: mpsc::Sender<Order>,
    status: channel_watch::Receiver<PluginsStatus>,
    tasks: JoinSet<()>,
}

/// Starts everything. Components are loaded in the background: one that is missing or bad is said in the log and the
/// status, and looked at again when its file changes.
///
/// # Errors
/// When the host itself lacks what it needs.
pub async fn start(
    settings: PluginSettings,
    appender: Appender,
    platform: Platform,
    clock: Clock,
) -> Result<Plugins, StartError> {
    let state_directory = settings.state_directory.clone();
    tokio::fs::create_dir_all(&state_directory)
        .await
        .map_err(|error| StartError::StateDirectory(state_directory, error))?;
    let cache_directory = settings.cache_directory.clone();
    let cache = tokio::task::spawn_blocking(move || Cache::open(&cache_directory))
        .await
        .unwrap_or_else(|_panicked| Cache::none());
    let engines = Engines::start().map_err(StartError::Engine)?;
    let (troubles, trouble_queue) = mpsc::channel(TROUBLES_QUEUED);
    let (requests, request_queue) = routes::channel();
    let mut building = Building {
        settings: &settings,
        appender,
        platform,
        clock,
        requests: requests.clone(),
        troubles,
        tasks: JoinSet::new(),
        mailboxes: Vec::new(),
        slots: Vec::new(),
        paths: Vec::new(),
    };
    for connector in &settings.connectors {
        building.connector(connector);
    }
    let policy = building.policy()?;
    let Building {
        mut tasks,
        mailboxes,
        slots,
        paths,
        ..
    } = building;
    tasks.spawn(routes::run(mailboxes, request_queue));
    let (orders, order_queue) = mpsc::channel(ORDERS_QUEUED);
    let (status_sender, status) = channel_watch::channel(PluginsStatus::default());
    let swapper = Swapper {
        slots,
        engines,
        cache,
        clock,
        status: status_sender,
    };
    tasks.spawn(swapper::run(
        swapper,
        order_queue,
        file_watch::spawn(paths),
        trouble_queue,
    ));
    Ok(Plugins {
        policy,
        requests,
        orders,
        status,
        tasks,
    })
}

impl Plugins {
    /// The link's end of the reconnect policy. Without a policy in the configuration it answers "absent".
    #[must_use]
    pub fn policy(&self) -> PolicyHandle {
        self.policy.clone()
    }

    /// Where downlinks go. Cheap to clone, for whoever receives them.
    #[must_use]
    pub fn deliveries(&self) -> Deliveries {
        Deliveries {
            requests: self.requests.clone(),
        }
    }

    /// Hands a downlink to the instance that owns the device.
    ///
    /// # Errors
    /// When no instance owns it or its instance has too much to do. An RPC is then still to be answered by the caller.
    pub async fn deliver(&self, downlink: Downlink) -> Result<(), DeliveryRefused> {
        let delivered = self.deliveries().deliver(downlink.into()).await;
        delivered.map_err(|back| back.refused)
    }

    /// What the plugins do.
    #[must_use]
    pub fn status(&self) -> channel_watch::Receiver<PluginsStatus> {
        self.status.clone()
    }

    /// Lets every guest end its call and say goodbye, for at most `grace`; then everything is dropped.
    pub async fn stop(mut self, grace: Duration) {
        let stopped = async {
            let (reply, ended) = oneshot::channel();
            if self.orders.send(Order::Stop { reply }).await.is_ok() {
                match ended.await {
                    // Ended either way.
                    Ok(()) | Err(_) => {}
                }
            }
        };
        if tokio::time::timeout(grace, stopped).await.is_err() {
            tracing::warn!("plugins did not stop in time and are dropped");
        }
        self.tasks.shutdown().await;
    }
}

/// The way of downlinks to their instances.
#[derive(Clone, Debug)]
pub struct Deliveries {
    requests: mpsc::Sender<Request>,
}

impl Deliveries {
    /// Hands a downlink to the instance that owns the device, which says by its ticket what became of it.
    ///
    /// # Errors
    /// When no instance owns it or its instance has too much to do. It comes back then, and an RPC is still to be answered by
    /// the caller. What cannot come back, because the gateway is stopping, is the next process's.
    pub async fn deliver(&self, delivery: Delivery) -> Result<(), Box<Undelivered>> {
        let (reply, answer) = oneshot::channel();
        let sent = self.requests.send(Request::Deliver(delivery, reply)).await;
        match sent {
            Ok(()) => answer.await.unwrap_or(Ok(())),
            Err(SendError(Request::Deliver(delivery, _))) => {
                Err(routes::undelivered(delivery, DeliveryRefused::Stopping))
            }
            Err(SendError(Request::Claim(..) | Request::Release(..))) => Ok(()),
        }
    }
}

/// What grows while the host is put together.
struct Building<'a> {
    settings: &'a PluginSettings,
    appender: Appender,
    platform: Platform,
    clock: Clock,
    requests: mpsc::Sender<Request>,
    troubles: mpsc::Sender<Trouble>,
    tasks: JoinSet<()>,
    mailboxes: Vec<Mailbox>,
    slots: Vec<Slot>,
    paths: Vec<PathBuf>,
}

impl Building<'_> {
    fn connector(&mut self, connector: &ConnectorSettings) {
        let mut instances = Vec::new();
        if connector.connections.is_empty() {
            instances.push(self.instance(connector, None));
        }
        for connection in &connector.connections {
            instances.push(self.instance(connector, Some(connection)));
        }
        let target = Target::Connector {
            instances,
            limits: connector.limits,
        };
        self.slot(connector.name.as_str().into(), &connector.component, target);
    }

    fn slot(&mut self, name: Arc<str>, component: &std::path::Path, target: Target) {
        let machine = Swap::new(self.settings.swap);
        self.slots.push(Slot::new(name, component, target, machine));
        self.paths.push(component.to_owned());
    }

    fn instance(
        &mut self,
        connector: &ConnectorSettings,
        connection: Option<&ConnectionSettings>,
    ) -> InstanceHandle {
        let name: Arc<str> = match connection {
            Some(connection) => format!("{}/{}", connector.name, connection.name).into(),
            None => connector.name.as_str().into(),
        };
        let configuration = connection.map_or_else(
            || connector.configuration.clone(),
            |connection| settings::merged(&connector.configuration, &connection.configuration),
        );
        let grants: Vec<_> = connection
            .and_then(|connection| Some((connection.name.clone(), connection.stream.clone()?)))
            .into_iter()
            .collect();
        let (streams, stream_events) = Streams::spawn(&grants);
        let (downlinks, downlink_queue) = mpsc::channel(DOWNLINKS_QUEUED);
        let (controls, control_queue) = mpsc::channel(CONTROLS_QUEUED);
        let initial = InstanceStatus {
            name: name.clone(),
            ..InstanceStatus::default()
        };
        let (status_sender, status) = channel_watch::channel(initial);
        let id = InstanceId(self.mailboxes.len());
        self.mailboxes.push(Mailbox {
            name: name.clone(),
            downlinks,
        });
        let resident = Box::new(Resident {
            instance: name.clone(),
            clock: self.clock,
            appender: self.appender.of_connector(&connector.name),
            claims: Claims::new(self.requests.clone(), id),
            rpcs: PendingRpcs::default(),
            streams,
            state: KeyValues::of(&self.settings.state_directory, &name),
            log: log::gate(self.clock.now()),
            report: Reporting::new(&connector.report, self.platform.gaps.clone()),
            names: names::Names::default(),
            readings: 0,
            back_pressure: 0,
            devices: std::collections::BTreeSet::new(),
        });
        self.tasks.spawn(instance::run(Parts {
            slot: self.slots.len(),
            name: name.clone(),
            configuration: configuration.to_string(),
            limits: connector.limits,
            clock: self.clock,
            resident,
            controls: control_queue,
            downlinks: downlink_queue,
            streams: stream_events,
            link_up: self.platform.link_up.clone(),
            status: status_sender,
            troubles: self.troubles.clone(),
        }));
        InstanceHandle {
            name,
            controls,
            status,
        }
    }

    fn policy(&mut self) -> Result<PolicyHandle, StartError> {
        let (handle, consultations) = PolicyHandle::channel();
        if let Some(settings) = &self.settings.policy {
            let slot = self.slots.len();
            let troubles = self.troubles.clone();
            let (work, figures) =
                policy::spawn(slot, settings.deadline, self.clock, consultations, troubles)
                    .map_err(StartError::PolicyThread)?;
            self.slot(
                "policy".into(),
                &settings.component,
                Target::Policy {
                    work,
                    figures,
                    configuration: settings.configuration.to_string().into(),
                },
            );
        }
        Ok(handle)
    }
}
