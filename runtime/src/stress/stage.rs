//! The parts of a campaign: what `moorline run` opens, with a load instead of connectors and a fault proxy in the way.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use moorline_core::link::Remedy;
use moorline_core::link::cause::Fault;
use tokio::net::lookup_host;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::load::{Load, Loaded};
use super::report::Balance;
use super::{Options, StressError};
use crate::clock::Clock;
use crate::config::Settings;
use crate::fault_proxy::FaultProxy;
use crate::link::{self, Bind, EndpointSettings, LinkHandle, LinkSettings, LinkStatus};
use crate::network;
use crate::plugins::{self, Platform, PluginSettings, Plugins};
use crate::spool::{self, AfterOutage, Spool, SpoolSettings, SpoolStatus};

/// For the first session and the first acknowledgement.
const READY: Duration = Duration::from_secs(30);
const LINK_GRACE: Duration = Duration::from_secs(5);
const PLUGINS_GRACE: Duration = Duration::from_secs(1);
/// For another client to come up.
const RIVAL_UP: Duration = Duration::from_secs(20);
/// Added to the client id, so that a gateway that runs is left alone.
const CLIENT_ID_SUFFIX: &str = "-stress";

/// Everything that is open.
pub(super) struct Stage {
    pub(super) clock: Clock,
    pub(super) proxy: FaultProxy,
    pub(super) link: watch::Receiver<LinkStatus>,
    pub(super) spool: watch::Receiver<SpoolStatus>,
    direct: LinkSettings,
    broker: String,
    spool_settings: SpoolSettings,
    directory: PathBuf,
    handle: LinkHandle,
    spool_owner: Spool,
    plugins: Plugins,
    loaded: watch::Receiver<Loaded>,
    load: JoinHandle<()>,
    downlinks: JoinHandle<()>,
    _link_up: watch::Sender<bool>,
}

impl Stage {
    /// Opens all of them; the link begins to connect and the load to flow.
    pub(super) async fn open(settings: Settings, options: &Options) -> Result<Self, StressError> {
        let clock = Clock::start();
        let directory = settings
            .state_dir
            .join(format!("stress-{}", std::process::id()));
        std::fs::create_dir_all(&directory)
            .map_err(|error| StressError::Directory(directory.clone(), error))?;
        let broker = preferred(&settings.link).name();
        let upstream = resolve(&settings.link).await?;
        let proxy = FaultProxy::bind(upstream)
            .await
            .map_err(StressError::Proxy)?;
        let mut direct = settings.link;
        direct.client_id.push_str(CLIENT_ID_SUFFIX);
        direct.endpoints = vec![preferred(&direct).clone()];
        let through = through(&direct, proxy.address(), directory.clone());
        let mut spool_settings = SpoolSettings {
            directory: directory.join("spool"),
            ..settings.spool
        };
        for setup in &mut spool_settings.streams {
            // How long a backlog takes is told by counting: what was accepted first must go first.
            setup.stream.after_outage = AfterOutage::BacklogFirst;
        }
        let (spool_owner, appender, outlet, _recoveries) =
            spool::open(spool_settings.clone(), clock)?;
        let (link_up, link_is_up) = watch::channel(false);
        let plugin_settings = PluginSettings {
            cache_directory: settings.state_dir.join("compiled"),
            cache_bytes_max: settings.plugins.cache_bytes_max,
            ledger_directory: directory.clone(),
            trust: settings.plugins.trust,
            state_directory: directory.join("plugins"),
            connectors: Vec::new(),
            policy: settings.policy,
            swap: settings.swap,
        };
        let (_no_gap, platform) = platform(link_is_up);
        let plugins = plugins::start(plugin_settings, appender.clone(), platform, clock).await?;
        let (door, arrivals) = link::door();
        let handle = link::spawn(
            through,
            outlet,
            plugins.policy(),
            door,
            network::unwatched(),
            clock,
        )?;
        let load = Load::new(options.readings_per_s, options.devices)
            // Names made of our own prefix and a number are good ones.
            .unwrap_or_else(|error| unreachable!("{error}"));
        let (loading, loaded) = watch::channel(Loaded::default());
        Ok(Self {
            clock,
            proxy,
            link: handle.status(),
            spool: spool_owner.status(),
            direct,
            broker,
            spool_settings,
            directory,
            handle,
            spool_owner,
            plugins,
            loaded,
            load: tokio::spawn(load.run(appender, clock, loading)),
            downlinks: tokio::spawn(arrivals.discard()),
            _link_up: link_up,
        })
    }

    pub(super) fn broker(&self) -> &str {
        &self.broker
    }

    pub(super) fn client_id(&self) -> &str {
        &self.direct.client_id
    }

    pub(super) fn mqtt_version(&self) -> Option<String> {
        self.link
            .borrow()
            .version
            .map(|version| version.to_string())
    }

    /// The longest a healthy broker may take to have us back: the longest wait between attempts, and one attempt.
    pub(super) fn recovery_max(&self) -> Duration {
        let timeouts = &self.direct.timeouts;
        let attempt = timeouts.dns + timeouts.tcp + timeouts.tls + timeouts.connack;
        self.direct.pace.ceiling + attempt
    }

    /// The longest a dead peer may take to be found: silence, a question, no answer, and some slack.
    pub(super) fn detection_max(&self) -> Duration {
        let liveness = &self.direct.liveness;
        let asked = liveness.probe_after + liveness.pingresp;
        asked.max(liveness.write_stall) + Duration::from_secs(2)
    }

    /// The first session and the first reading delivered, before anything is broken.
    pub(super) async fn ready(&mut self) -> Result<(), StressError> {
        self.until(READY, |link, _spool| {
            let answered = link.delivered_readings + link.dead_letter_readings > 0;
            // Somebody must act: waiting cannot help.
            let refused = link.last_disconnect().is_some_and(|last| {
                last.record.disconnect.cause.remedy() != Remedy::FallBackVersion
                    && last.record.disconnect.cause.fault() == Fault::Operator
            });
            answered || refused
        })
        .await;
        let link = self.link.borrow();
        if link.delivered_readings > 0 {
            return Ok(());
        }
        if let Some(reason) = link.last_dead_letter {
            return Err(StressError::Refused(reason));
        }
        let (told, advice) = link.last_disconnect().map_or_else(
            || {
                (
                    "no attempt has ended yet".to_owned(),
                    "look at the way to the broker",
                )
            },
            |last| (last.text.clone(), last.record.disconnect.cause.advice()),
        );
        Err(StressError::Unreachable { told, advice })
    }

    /// Waits until a session is up and more than `after` records are settled.
    pub(super) async fn delivered_after(&mut self, after: u64, patience: Duration) -> bool {
        self.until(patience, |link, spool| {
            link.is_up() && spool.settled_records > after
        })
        .await
    }

    /// Waits until `last` records are settled.
    pub(super) async fn settled_through(&mut self, last: u64, patience: Duration) -> bool {
        self.until(patience, |_link, spool| spool.settled_records >= last)
            .await
    }

    /// Ends the load and waits until nothing waits.
    pub(super) async fn drained(&mut self, patience: Duration) -> bool {
        self.load.abort();
        self.until(patience, |_link, spool| spool.depth_records == 0)
            .await
    }

    /// Waits until `reached`; false when that takes longer than `patience`.
    async fn until(
        &mut self,
        patience: Duration,
        reached: impl Fn(&LinkStatus, &SpoolStatus) -> bool,
    ) -> bool {
        let looking = async {
            while !reached(
                &self.link.borrow_and_update(),
                &self.spool.borrow_and_update(),
            ) {
                let changed = tokio::select! {
                    changed = self.link.changed() => changed,
                    changed = self.spool.changed() => changed,
                };
                if changed.is_err() {
                    // A room has ended: nothing will ever be reached.
                    std::future::pending::<()>().await;
                }
            }
        };
        timeout(patience, looking).await.is_ok()
    }

    /// Lets time pass; returns the most readings that waited meanwhile.
    pub(super) async fn hold(&mut self, lasts: Duration) -> u64 {
        let until = Instant::now() + lasts;
        let mut depth = self.spool.borrow_and_update().depth_readings;
        loop {
            tokio::select! {
                () = sleep_until(until) => return depth,
                changed = self.spool.changed() => {
                    if changed.is_err() {
                        sleep_until(until).await;
                        return depth;
                    }
                    depth = depth.max(self.spool.borrow_and_update().depth_readings);
                }
            }
        }
    }

    /// Has another client connect with our id, and leave again.
    pub(super) async fn take_over(&self) -> Result<bool, StressError> {
        let directory = self.directory.join("rival");
        let settings = SpoolSettings {
            directory: directory.join("spool"),
            ..self.spool_settings.clone()
        };
        let (spool, appender, outlet, _recoveries) = spool::open(settings, self.clock)?;
        let (policy, _absent) = crate::policy_handle::PolicyHandle::channel();
        let (door, arrivals) = link::door();
        let draining = tokio::spawn(arrivals.discard());
        let settings = LinkSettings {
            state_directory: directory,
            ..self.direct.clone()
        };
        let rival = link::spawn(
            settings,
            outlet,
            policy,
            door,
            network::unwatched(),
            self.clock,
        )?;
        let mut status = rival.status();
        let up = timeout(RIVAL_UP, status.wait_for(LinkStatus::is_up)).await;
        let came_up = matches!(up, Ok(Ok(_)));
        drop(up);
        rival.stop(LINK_GRACE).await;
        drop(appender);
        draining.abort();
        // It held nothing.
        spool.close().await.unwrap_or(());
        Ok(came_up)
    }

    /// What has become of everything so far.
    pub(super) fn balance(&self) -> Balance {
        let (link, spool, loaded) = (
            self.link.borrow(),
            self.spool.borrow(),
            *self.loaded.borrow(),
        );
        let gone = spool.depth_readings
            + spool.evicted_readings
            + spool.damaged_readings
            + spool.set_aside_readings;
        Balance {
            accepted: spool.appended_readings_total,
            delivered: spool.appended_readings_total.saturating_sub(gone),
            waiting: spool.depth_readings,
            evicted: spool.evicted_readings,
            damaged: spool.damaged_readings,
            dead_lettered: spool.set_aside_readings,
            back_pressure: loaded.back_pressure,
            duplicates_possible: link.duplicates_possible,
            sessions: link.sessions,
        }
    }

    /// Ends everything and removes what it kept.
    pub(super) async fn close(self) -> Result<(), StressError> {
        self.load.abort();
        self.plugins.stop(PLUGINS_GRACE).await;
        self.handle.stop(LINK_GRACE).await;
        self.downlinks.abort();
        // What it holds is not kept.
        self.spool_owner.close().await.unwrap_or(());
        remove(&self.directory)
    }
}

/// There is no connector that could report anything again.
fn platform(link_up: watch::Receiver<bool>) -> (watch::Sender<u64>, Platform) {
    let (gap, gaps) = watch::channel(0);
    (gap, Platform { link_up, gaps })
}

fn remove(directory: &Path) -> Result<(), StressError> {
    std::fs::remove_dir_all(directory)
        .map_err(|error| StressError::Directory(directory.to_owned(), error))
}

/// The broker that is tried: of several the preferred one.
pub(crate) fn preferred(link: &LinkSettings) -> &EndpointSettings {
    link.endpoints
        .iter()
        .min_by_key(|endpoint| endpoint.priority)
        .unwrap_or_else(|| unreachable!("a link has at least one endpoint"))
}

/// Settings that reach the same broker through the fault proxy. A proxy of the user's own lies behind it; the way to the
/// fault proxy is this machine's loopback, whatever else connections are made from.
fn through(direct: &LinkSettings, proxy: SocketAddr, state_directory: PathBuf) -> LinkSettings {
    LinkSettings {
        detour: Some(proxy),
        bind: Bind::default(),
        state_directory,
        ..direct.clone()
    }
}

/// Where connections go: to the user's proxy, or else to the broker.
async fn resolve(link: &LinkSettings) -> Result<SocketAddr, StressError> {
    let endpoint = preferred(link);
    let (host, port) = link
        .proxy
        .as_ref()
        .map_or((&endpoint.host, endpoint.port), |proxy| {
            (&proxy.host, proxy.port)
        });
    let unresolved = |error| StressError::Unresolved(host.clone(), error);
    let mut found = lookup_host((host.as_str(), port))
        .await
        .map_err(unresolved)?;
    let none = || unresolved(std::io::Error::other("it has no address"));
    found.next().ok_or_else(none)
}
