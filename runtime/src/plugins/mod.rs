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
//! A guest starts with nothing: what it can reach is the eight interfaces of its world, the streams the configuration
//! names, and what its grants put behind WASI. Nothing here shares state: each part belongs to one task, and they speak
//! over bounded channels.

mod bindings;
mod cache;
mod card;
pub mod compiler;
mod conformance;
mod contract;
mod convert;
mod descriptors;
mod directories;
mod engine;
mod files;
mod grants;
mod guest;
mod heavy;
mod host;
mod http;
mod inspect;
mod instance;
mod meter;
mod names;
mod opening;
mod orders;
mod policy;
mod pulse;
mod rehearsal;
mod routes;
mod settings;
mod shelf;
mod state_files;
mod status;
mod store;
mod stream_target;
mod streams;
mod swapper;
#[cfg(test)]
mod tests;
mod wants;
mod wasi;
mod words;
mod workbench;
mod world;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use moorline_core::message::Downlink;
use moorline_core::swap::probation::Terms;
use moorline_core::swap::{self, Failure, Swap};
use thiserror::Error;
use tokio::sync::mpsc::error::SendError;
use tokio::sync::{mpsc, oneshot, watch as channel_watch};
use tokio::task::{JoinHandle, JoinSet};

pub(crate) use cache::{digest_of, write_private};
pub use conformance::{Answer, Check, Device, Outcome, Plan, Report, Rule, Standalone, test};
pub(crate) use conformance::{Unstarted, unstarted};
pub use engine::Kind;
pub use grants::{DirectoryGrant, Grants};
pub(crate) use guest::Loaded;
pub(crate) use host::StateTrouble;
pub(crate) use inspect::{Inspected, inspect_to_start};
pub use inspect::{Inspection, inspect, signer_of};
pub use orders::{OrderEnd, OrderRefused, RestoreRefused, Restored, SwapOrders, Until};
pub use rehearsal::{Contradiction, Rehearsal};
pub use routes::{DeliveryRefused, Undelivered};
pub use settings::{
    ConnectionSettings, ConnectorSettings, Limits, PluginSettings, PolicySettings, Succession,
};
pub(crate) use shelf::{Shelf, ShelfError, Stocked, TakenBack};
pub(crate) use state_files::{StateFile, state_directory, state_files};
pub use status::{
    ComponentStatus, ConnectorStatus, Denied, InstanceState, InstanceStatus, PluginsStatus,
    PolicyStatus, SwapOutcome, SwapRecord,
};
pub use stream_target::{
    DataBits, FlowControl, Parity, SerialTarget, SerialTargetError, StopBits, StreamTarget,
    StreamTargetError, TcpTarget,
};
pub(crate) use streams::device_trouble;
pub use wants::{Want, wants};
pub use workbench::{Confinement, Ready, Sample, Subject, Workbench};
pub(crate) use world::COMPONENT_BYTES_MAX;

use crate::clock::Clock;
use crate::file_watch;
use crate::inbox::Delivery;
use crate::medium;
use crate::policy_handle::PolicyHandle;
use crate::spool::Appender;
use crate::trust::{Ledger, Place, signature_path};
use cache::Cache;
use directories::Directories;
use engine::Engines;
use grants::Sandbox;
use heavy::Heavy;
use host::{Confined, KeyValues, PendingRpcs, Reporting, Resident};
use instance::{CONTROLS_QUEUED, DOWNLINKS_QUEUED, Parts, Trouble};
use routes::{Claims, InstanceId, Mailbox, Request};
use streams::Streams;
use swapper::{InstanceHandle, Order, Slot, Swapper, Target, Watched};

/// Reports of failing guests on their way to the swapper.
const TROUBLES_QUEUED: usize = 64;
const ORDERS_QUEUED: usize = 8;

/// Why the plugin host cannot start. A bad plugin is no reason.
#[derive(Debug, Error)]
pub enum StartError {
    /// Guests would have no place for their state.
    #[error("the plugins' state directory {0} cannot be used: {1}")]
    StateDirectory(PathBuf, #[source] std::io::Error),
    /// What served last.
    #[error("which plugins served last cannot be read: {0}")]
    Ledger(String),
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
    /// Writes down what served last; the last to end.
    keeper: JoinHandle<()>,
}

async fn make_state_directory(directory: &Path) -> Result<(), StartError> {
    match tokio::fs::create_dir_all(directory).await {
        // Made with the first state that can be written.
        Err(error) if medium::is_at_fault(&error) => {
            tracing::error!(directory = %directory.display(), %error, "the state of plugins is not kept for now");
            Ok(())
        }
        made => made.map_err(|error| StartError::StateDirectory(directory.to_owned(), error)),
    }
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
    make_state_directory(&settings.state_directory).await?;
    let (directory, bytes_max) = (settings.cache_directory.clone(), settings.cache_bytes_max);
    let cache = tokio::task::spawn_blocking(move || Cache::open(&directory, bytes_max))
        .await
        .unwrap_or_else(|_panicked| Cache::none());
    let directory = settings.ledger_directory.clone();
    let ledger = tokio::task::spawn_blocking(move || Ledger::open(&directory))
        .await
        .map_err(|error| StartError::Ledger(error.to_string()))?;
    let keeper = tokio::spawn(ledger.keeper().run());
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
        heavy: Arc::default(),
        mailboxes: Vec::new(),
        slots: Vec::new(),
        paths: Vec::new(),
        watched: Vec::new(),
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
        watched,
        ..
    } = building;
    tasks.spawn(routes::run(mailboxes, request_queue));
    let (orders, order_queue) = mpsc::channel(ORDERS_QUEUED);
    let (status_sender, status) = channel_watch::channel(PluginsStatus::default());
    let swapper = Swapper {
        slots,
        engines,
        cache,
        trust: Arc::new(settings.trust.clone()),
        ledger,
        clock,
        status: status_sender,
    };
    tasks.spawn(swapper::run(
        swapper,
        order_queue,
        (watched, file_watch::spawn(paths)),
        trouble_queue,
    ));
    Ok(Plugins {
        policy,
        requests,
        orders,
        status,
        tasks,
        keeper,
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

    /// Where operators' orders go. Cheap to clone.
    #[must_use]
    pub fn swaps(&self) -> SwapOrders {
        SwapOrders(self.orders.clone())
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
        if tokio::time::timeout(grace, self.keeper).await.is_err() {
            tracing::warn!("which versions served last could not be written down in time");
        }
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
    heavy: Arc<Heavy>,
    mailboxes: Vec<Mailbox>,
    slots: Vec<Slot>,
    paths: Vec<PathBuf>,
    /// What each path is.
    watched: Vec<Watched>,
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
            exclusive: connector.succession.exclusive,
        };
        let name = connector.name.as_str().into();
        let terms = connector.succession.probation;
        self.slot(name, &connector.component, target, terms);
    }

    fn slot(&mut self, name: Arc<str>, component: &Path, target: Target, probation: Terms) {
        let machine = Swap::new(swap::Settings {
            probation,
            ..self.settings.swap
        });
        let slot = self.slots.len();
        let permit = Place::of(target.kind(), &name).permit(&self.settings.ledger_directory);
        for (path, of_trust) in [
            (component.to_owned(), false),
            (signature_path(component), true),
            (permit, true),
        ] {
            self.paths.push(path);
            self.watched.push(Watched { slot, of_trust });
        }
        self.slots.push(Slot::new(name, component, target, machine));
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
        let sandbox = Arc::new(Sandbox::of(connector, connection));
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
            state: KeyValues::of(
                &self.settings.state_directory,
                &name,
                connector.limits.state_bytes,
            ),
            directories: Directories::spawn(&name, &sandbox),
            confined: Confined::new(self.clock.now(), &sandbox),
            report: Reporting::new(&connector.report, self.platform.gaps.clone()),
            names: names::Names::default(),
            readings: 0,
            back_pressure: 0,
            refused: None,
            devices: std::collections::BTreeSet::new(),
        });
        let parts = Parts {
            slot: self.slots.len(),
            name,
            configuration: configuration.to_string(),
            sandbox: sandbox.clone(),
            hand_over_required: connector.succession.hand_over_required,
            clock: self.clock,
            resident,
            controls: control_queue,
            downlinks: downlink_queue,
            streams: stream_events,
            link_up: self.platform.link_up.clone(),
            status: status_sender,
            troubles: self.troubles.clone(),
        };
        self.tasks
            .spawn(instance::run(parts, Arc::clone(&self.heavy)));
        InstanceHandle {
            sandbox,
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
                self.settings.swap.probation,
            );
        }
        Ok(handle)
    }
}
