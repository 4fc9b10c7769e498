//! The composition: rooms are opened, tied together, and closed in order.
//!
//! ```text
//!  plugins ──appender──► spool ──outlet──► link ──► broker
//!     ▲                    ▲                │
//!     │                    └── replies ── downlinks ◄── RPC, attributes
//!     └─── deliveries ◄── inbox ◄───────────┘
//!
//!  stop: plugins (say goodbye) → spool (drain, while the link is up) → link (DISCONNECT) → inbox → spool (close)
//! ```

mod attributes;
mod downlinks;
mod platform;
mod reload;
mod report;
mod state_dir;

pub(crate) use state_dir::{Unfit, unfit};

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use moorline_core::spool::cursor::CursorFound;
use moorline_core::swap;
use moorline_core::wear::Budget;
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::admin;
use crate::clock::Clock;
use crate::config::{PluginsSection, Settings};
use crate::inbox;
use crate::journal;
use crate::link::{self, LinkHandle, LinkSettings, LinkStatus, TlsSetupError};
use crate::network;
use crate::plugins::{
    self, ConnectorSettings, PluginSettings, Plugins, PolicySettings, StartError,
};
use crate::shutdown::{self, Asked, Shutdown, Signals};
use crate::spool::{
    self, Appender, OpenError, Outlet, Recovery, Spool, SpoolSettings, SpoolStatus,
};
use crate::status::{self, Sources, Tracker};
use crate::wear::{Watcher, WearStatus};

use reload::Reload;

/// For guests to say goodbye.
const PLUGINS_GRACE: Duration = Duration::from_secs(7);
/// For the spool to be delivered while the link is up. What is left waits on disk for the next start.
const DRAIN_GRACE: Duration = Duration::from_secs(10);
/// For what is in flight when the link is told to end.
const LINK_GRACE: Duration = Duration::from_secs(5);

/// Why the gateway cannot run.
#[derive(Debug, Error)]
pub enum GatewayError {
    /// The state directory.
    #[error(
        "the state directory {0} cannot be used: {1}; create it and give it to the user the gateway runs as, \
         or change gateway.state_dir"
    )]
    StateDirectory(PathBuf, #[source] std::io::Error),
    /// The spool.
    #[error("the spool cannot be opened: {0}")]
    Spool(#[from] OpenError),
    /// The plugin host.
    #[error(transparent)]
    Plugins(#[from] StartError),
    /// TLS.
    #[error("TLS cannot be set up from [link.tls]: {0}")]
    Tls(#[from] TlsSetupError),
    /// The operating system.
    #[error("signals cannot be received: {0}")]
    Signals(#[source] std::io::Error),
    /// A defect of ours.
    #[error("the link ended by itself, which is a defect of Moorline; nothing accepted is lost")]
    LinkEnded,
}

/// Runs the gateway until SIGINT or SIGTERM, then ends it in good order. A second signal cuts the drain short. SIGHUP
/// reads `file`, where `settings` came from, again.
///
/// # Errors
/// When a room cannot be opened. Nothing that happens later ends the gateway.
pub async fn run(file: &Path, settings: Settings) -> Result<(), GatewayError> {
    let mut signals = Signals::listen().map_err(GatewayError::Signals)?;
    let mut reload = Reload::new(file, settings.clone());
    let gateway = Gateway::open(settings).await?;
    let ended = loop {
        tokio::select! {
            asked = signals.next() => match asked {
                Asked::Stop(name) => {
                    info!(signal = name, "stopping: plugins first, then the spool drains, then the link ends");
                    break Ok(());
                }
                Asked::Reload => {
                    reload.apply(&gateway.link).await;
                    gateway.spool.replay().await;
                    gateway.spool.purge().await;
                }
            },
            () = gateway.link_ended() => break Err(GatewayError::LinkEnded),
        }
    };
    gateway.close(signals).await;
    ended
}

struct Gateway {
    spool: Spool,
    plugins: Plugins,
    link: LinkHandle,
    stop_status: shutdown::Trigger,
    tasks: JoinSet<()>,
}

impl Gateway {
    async fn open(settings: Settings) -> Result<Self, GatewayError> {
        let clock = Clock::start();
        let state_dir = settings.state_dir.clone();
        let (spool, appender, outlet) =
            open_spool(&settings.name, &state_dir, settings.spool, clock)?;
        let plugin_settings = plugin_settings(
            &state_dir,
            settings.plugins.clone(),
            (settings.connectors, settings.policy),
            settings.swap,
        );
        let (platform, teller) = platform::channel();
        let gaps = platform.gaps.clone();
        let plugins = plugins::start(plugin_settings, appender.clone(), platform, clock).await?;
        let (door, arrivals) = link::door();
        let (towards, broker) = watch::channel(first_guess(&settings.link));
        let network = network::spawn(broker, clock);
        let link = link::spawn(
            settings.link,
            outlet,
            plugins.policy(),
            door,
            network.clone(),
            clock,
        )?;
        let (stop_status, stop_writing) = shutdown::channel();
        let mut tasks = JoinSet::new();
        if settings.report_disconnects {
            tasks.spawn(report::run(link.status(), appender.clone()));
        }
        if settings.plugins.report_versions {
            let (status, link) = (plugins.status(), link.status());
            tasks.spawn(attributes::run(status, link, gaps, appender.clone()));
        }
        let inbox = inbox::open(settings.inbox, arrivals, clock).await;
        let inbox = downlinks::attend(&mut tasks, inbox, plugins.deliveries(), appender, clock);
        tasks.spawn(teller.run(link.status(), spool.status()));
        tasks.spawn(tell_network(link.status(), towards));
        let sources = Sources {
            link: link.status(),
            spool: spool.status(),
            inbox,
            plugins: plugins.status(),
            network,
            wear: follow_wear(&mut tasks, &state_dir, settings.wear, clock, &stop_writing),
            state_dir: state_dir::watch(&mut tasks, &state_dir, clock, &stop_writing),
        };
        tasks.spawn(journal::keep(state_dir.clone(), link.status()));
        serve_operators(&mut tasks, state_dir, &plugins, clock, &stop_writing);
        tasks.spawn(status::run(
            status::Files {
                status: settings.status_file,
                metrics: settings.metrics_file,
            },
            sources,
            Tracker::new(clock),
            stop_writing,
        ));
        Ok(Self {
            spool,
            plugins,
            link,
            stop_status,
            tasks,
        })
    }

    async fn link_ended(&self) {
        let mut status = self.link.status();
        while status.changed().await.is_ok() {}
    }

    async fn close(self, mut signals: Signals) {
        let Self {
            spool,
            plugins,
            link,
            stop_status,
            mut tasks,
        } = self;
        plugins.stop(PLUGINS_GRACE).await;
        tokio::select! {
            () = drained(link.status(), spool.status()) => {}
            () = tokio::time::sleep(DRAIN_GRACE) => warn!(
                waiting_readings = spool.status().borrow().depth_readings,
                "the spool did not drain in time; what is left waits on disk for the next start"
            ),
            name = signals.next_stop() => info!(signal = name, "not waiting for the spool to drain"),
        }
        link.stop(LINK_GRACE).await;
        stop_status.fire();
        // The task of the status file ends now; the others end with their channels.
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a task did not end in good order");
            }
        }
        let left = spool.status().borrow().depth_readings;
        match spool.close().await {
            Ok(()) => info!(waiting_readings = left, "stopped"),
            Err(error) => {
                tracing::error!(%error, waiting_readings = left, "stopped; the spool's last commit failed")
            }
        }
    }
}

/// The state directory, and the spool in it.
fn open_spool(
    name: &str,
    state_dir: &Path,
    settings: SpoolSettings,
    clock: Clock,
) -> Result<(Spool, Appender, Outlet), GatewayError> {
    state_dir::prepare(state_dir)
        .map_err(|error| GatewayError::StateDirectory(state_dir.to_owned(), error))?;
    let (spool, appender, outlet, recoveries) = spool::open(settings, clock)?;
    report(name, state_dir, &recoveries, &spool.status().borrow());
    Ok((spool, appender, outlet))
}

/// The history of swaps, and orders over the admin socket.
fn serve_operators(
    tasks: &mut JoinSet<()>,
    state_dir: PathBuf,
    plugins: &Plugins,
    clock: Clock,
    stop: &Shutdown,
) {
    let history = journal::keep_swaps(state_dir.clone(), plugins.status(), clock);
    tasks.spawn(history);
    let (swaps, status) = (plugins.swaps(), plugins.status());
    tasks.spawn(admin::serve(state_dir, swaps, status, clock, stop.clone()));
}

/// Everything of the plugins lives below the state directory.
fn plugin_settings(
    state_dir: &Path,
    section: PluginsSection,
    (connectors, policy): (Vec<ConnectorSettings>, Option<PolicySettings>),
    swap: swap::Settings,
) -> PluginSettings {
    PluginSettings {
        cache_directory: state_dir.join("compiled"),
        cache_bytes_max: section.cache_bytes_max,
        ledger_directory: state_dir.to_owned(),
        trust: section.trust,
        state_directory: plugins::state_directory(state_dir),
        connectors,
        policy,
        swap,
    }
}

/// Counts what is written to the medium under the state directory, until the status is no longer written.
fn follow_wear(
    tasks: &mut JoinSet<()>,
    state_dir: &Path,
    budget: Option<Budget>,
    clock: Clock,
    stop: &Shutdown,
) -> watch::Receiver<WearStatus> {
    let (watcher, wear) = Watcher::new(state_dir, budget, clock);
    tasks.spawn(watcher.run(stop.clone()));
    wear
}

fn report(name: &str, state_dir: &Path, recoveries: &[Option<Recovery>], spool: &SpoolStatus) {
    info!(
        gateway = name,
        version = env!("CARGO_PKG_VERSION"),
        state_dir = %state_dir.display(),
        waiting_readings = spool.depth_readings,
        "starting"
    );
    for (recovery, stream) in recoveries.iter().zip(spool.streams.iter()) {
        // Told where it was found out.
        let Some(recovery) = recovery else { continue };
        let damage = stream.spool.damaged.readings > 0
            || stream.spool.quarantined_segments > 0
            || recovery.damaged_segments > 0
            || matches!(recovery.cursor, CursorFound::OneSlot | CursorFound::Lost);
        if damage {
            warn!(
                stream = &*stream.name,
                damaged_readings = stream.spool.damaged.readings,
                damaged_segments = recovery.damaged_segments,
                quarantined_segments = stream.spool.quarantined_segments,
                cursor = ?recovery.cursor,
                "the spool was damaged while the gateway was away; what cannot be read is skipped and counted, \
                 and what is not known to be acknowledged is sent again"
            );
        }
        if recovery.torn_tail {
            warn!(
                stream = &*stream.name,
                "the spool's last record was cut, as by a power loss; everything before it is there"
            );
        }
    }
}

/// Where connections go first, a proxy or the broker, before anybody has connected: an address speaks for itself.
fn first_guess(link: &LinkSettings) -> Option<IpAddr> {
    let proxy = link.proxy.as_ref().map(|proxy| &proxy.host);
    match proxy.unwrap_or(&link.endpoints.first()?.host).as_str() {
        "localhost" => Some(Ipv4Addr::LOCALHOST.into()),
        other => other.parse().ok(),
    }
}

/// Tells the network watch where the broker answered.
async fn tell_network(
    mut link: watch::Receiver<LinkStatus>,
    towards: watch::Sender<Option<IpAddr>>,
) {
    loop {
        let up = link.borrow_and_update().last_up.clone();
        if let Some(peer) = up.and_then(|up| up.peer) {
            let address = Some(peer.ip());
            towards.send_if_modified(|towards| std::mem::replace(towards, address) != address);
        }
        if link.changed().await.is_err() {
            return;
        }
    }
}

/// Returns when nothing waits in the spool, or the link is down and nothing can leave.
async fn drained(mut link: watch::Receiver<LinkStatus>, mut spool: watch::Receiver<SpoolStatus>) {
    loop {
        let empty = spool.borrow_and_update().depth_records == 0;
        if empty || !link.borrow_and_update().is_up() {
            return;
        }
        let changed = tokio::select! {
            changed = link.changed() => changed,
            changed = spool.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}
