//! The task that keeps the status file current.

use std::path::PathBuf;
use std::time::Duration;

use moorline_core::network::Seen;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::warn;

use super::Status;
use super::snapshot::{Parts, Tracker, Unwritable};
use crate::inbox::InboxStatus;
use crate::link::LinkStatus;
use crate::plugins::PluginsStatus;
use crate::shutdown::Shutdown;
use crate::spool::SpoolStatus;
use crate::wear::WearStatus;

/// The least time between two writes, and so the most a change waits.
const WRITE_EVERY_MIN: Duration = Duration::from_millis(100);
/// The most time between two writes.
const WRITE_EVERY_MAX: Duration = Duration::from_secs(1);

/// Metrics are collected a few times a minute.
const METRICS_EVERY: Duration = Duration::from_secs(5);

/// Where it is written.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(crate) status: PathBuf,
    /// None = no metrics are wanted.
    pub(crate) metrics: Option<PathBuf>,
}

/// What the status is made of.
#[derive(Debug)]
pub(crate) struct Sources {
    pub(crate) link: watch::Receiver<LinkStatus>,
    pub(crate) spool: watch::Receiver<SpoolStatus>,
    pub(crate) inbox: watch::Receiver<InboxStatus>,
    pub(crate) plugins: watch::Receiver<PluginsStatus>,
    pub(crate) network: watch::Receiver<Seen>,
    pub(crate) wear: watch::Receiver<WearStatus>,
    pub(crate) state_dir: watch::Receiver<Option<Unwritable>>,
}

/// Writes until told to stop, and once more then.
pub(crate) async fn run(
    files: Files,
    mut sources: Sources,
    mut tracker: Tracker,
    mut shutdown: Shutdown,
) {
    let mut tick = tokio::time::interval(WRITE_EVERY_MIN);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut written: Option<Instant> = None;
    let mut measured: Option<Instant> = None;
    let mut failing = false;
    loop {
        let last = tokio::select! {
            _at = tick.tick() => false,
            () = shutdown.wait() => true,
        };
        if sources.link.has_changed().unwrap_or(false) {
            tracker.follow_link(&sources.link.borrow());
        }
        if sources.plugins.has_changed().unwrap_or(false) {
            tracker.follow_plugins(&sources.plugins.borrow());
        }
        let due = last
            || sources.changed()
            || written.is_none_or(|written| written.elapsed() >= WRITE_EVERY_MAX);
        if due {
            let status = {
                let link = sources.link.borrow_and_update();
                let plugins = sources.plugins.borrow_and_update();
                let network = sources.network.borrow_and_update();
                let spool = sources.spool.borrow_and_update();
                let wear = sources.wear.borrow_and_update();
                let inbox = *sources.inbox.borrow_and_update();
                let state_dir = sources.state_dir.borrow_and_update();
                tracker.snapshot(Parts {
                    link: &link,
                    spool: &spool,
                    inbox,
                    plugins: &plugins,
                    network: &network,
                    wear: &wear,
                    state_dir: state_dir.as_ref(),
                })
            };
            written = Some(Instant::now());
            let measures =
                last || measured.is_none_or(|measured| measured.elapsed() >= METRICS_EVERY);
            if measures {
                measured = written;
            }
            let targets = Files {
                metrics: files.metrics.clone().filter(|_file| measures),
                ..files.clone()
            };
            let result = tokio::task::spawn_blocking(move || targets.write(&status)).await;
            let result = result
                .unwrap_or_else(|panicked| Err((PathBuf::new(), std::io::Error::other(panicked))));
            match result {
                Ok(()) => failing = false,
                Err((file, error)) => {
                    if !std::mem::replace(&mut failing, true) {
                        warn!(file = %file.display(), %error, "the file cannot be written; the gateway goes on without");
                    }
                }
            }
        }
        if last {
            return;
        }
    }
}

impl Files {
    fn write(self, status: &Status) -> Result<(), (PathBuf, std::io::Error)> {
        status
            .write(&self.status)
            .map_err(|error| (self.status, error))?;
        match self.metrics {
            Some(file) => status.write_metrics(&file).map_err(|error| (file, error)),
            None => Ok(()),
        }
    }
}

impl Sources {
    /// Whether something happened that somebody may wait for: figures alone wait for the next second.
    fn changed(&self) -> bool {
        self.link.has_changed().unwrap_or(false)
            || self.plugins.has_changed().unwrap_or(false)
            || self.network.has_changed().unwrap_or(false)
    }
}
