//! A gateway under test: its process, its broker, a fault proxy between them and the audit.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use moorline::demo::audit::{Audit, Balance};
use moorline::demo::broker::{Broker, BrokerKind};
use moorline::demo::gateway::{Gateway, History};
use moorline::fault_proxy::FaultProxy;
use moorline::spool::SpoolSettings;
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::configuration::Configuration;
use crate::errors::{Provoked, Watch};
use crate::{binary, eventually};

const READY: Duration = Duration::from_secs(30);
const DRAINED: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(30);
const TAPPED: usize = 1_024;

/// Broker, proxy and audit, before there is a gateway.
#[derive(Debug)]
pub struct Rig {
    /// The broker.
    pub broker: Broker,
    /// Between gateway and broker.
    pub proxy: FaultProxy,
    /// What arrived.
    pub audit: Audit,
    directory: TempDir,
}

impl Rig {
    /// Starts everything but the gateway.
    ///
    /// # Panics
    /// When a part does not start.
    pub async fn start(kind: BrokerKind) -> Self {
        Self::start_with(kind, |_directory| String::new()).await
    }

    /// Like [`Rig::start`], with lines for Mosquitto's configuration, which may name files in the rig's directory.
    ///
    /// # Panics
    /// When a part does not start.
    pub async fn start_with(kind: BrokerKind, lines: impl FnOnce(&Path) -> String) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let lines = lines(directory.path());
        let broker = Broker::start_with(kind, &directory.path().join("broker"), &lines)
            .await
            .unwrap();
        let (tap, acknowledged) = mpsc::channel(TAPPED);
        let proxy = FaultProxy::bind_tapped(broker.address(), tap)
            .await
            .unwrap();
        let audit = Audit::start(broker.address(), &["seq", "counter"], acknowledged)
            .await
            .unwrap();
        let rig = Self {
            broker,
            proxy,
            audit,
            directory,
        };
        rig.audit_subscribed().await;
        rig
    }

    /// Waits until the audit hears everything.
    ///
    /// # Panics
    /// When it does not in time.
    pub async fn audit_subscribed(&self) {
        let subscribed = self.audit.subscribed();
        eventually("the audit is subscribed", READY, || {
            subscribed.borrow().then_some(())
        })
        .await;
    }

    /// A place for files.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The gateway's state directory.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.path("state")
    }

    /// A configuration whose link goes through the proxy.
    #[must_use]
    pub fn configuration(&self) -> Configuration {
        Configuration::new(&self.state_dir(), self.proxy.address())
    }

    /// Starts a gateway.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn gateway(&self, configuration: &Configuration) -> Running {
        Running::start(self.directory.path(), &self.state_dir(), configuration)
    }

    /// Starts a gateway by a shell: `lines` end with the words that the program and its arguments follow.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn gateway_by(&self, lines: &str, configuration: &Configuration) -> Running {
        let program = self.path("moorline");
        let text = format!("#!/bin/sh\n{lines} {:?} \"$@\"\n", binary());
        std::fs::write(&program, text).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        Running::start_by(
            &program,
            self.directory.path(),
            &self.state_dir(),
            configuration,
        )
    }

    /// Stops the gateway and waits until everything it accepted has arrived, then counts.
    ///
    /// # Panics
    /// When the gateway does not drain and end well.
    pub async fn settle(&self, running: Running) -> (History, Balance) {
        self.settle_within(running, DRAINED).await
    }

    /// Like [`Rig::settle`], with so much time for what waits in the spool.
    ///
    /// # Panics
    /// When the gateway does not drain and end well.
    pub async fn settle_within(
        &self,
        mut running: Running,
        drained: Duration,
    ) -> (History, Balance) {
        running
            .wait("the spool is nearly empty", drained, |now| {
                now.now.spool.depth_readings < 5_000
            })
            .await;
        let (status, history) = running.gateway.stop(GRACE).await.unwrap();
        assert!(status.success(), "{status}: {}", running.log_tail());
        let accepted = history.now.spool.accepted_readings;
        let totals = self.audit.totals();
        let arrived = || (totals.borrow().delivered >= accepted).then_some(());
        if crate::within(READY, arrived).await.is_none() {
            let unusual: Vec<_> = history
                .swaps()
                .filter(|swap| swap.outcome != "swapped" || swap.new_sessions != 0)
                .collect();
            panic!(
                "not within {READY:?}: all {accepted} accepted readings arrive: {:?}\nspool: {:?}\nconnectors: {:?}\n\
                 disconnects: {:?}\nswaps that did not go smoothly: {unusual:?}\nthe log ends:\n{}",
                self.audit.balance().await,
                history.now.spool,
                history.now.connectors,
                history.disconnects().collect::<Vec<_>>(),
                running.log_tail()
            );
        }
        assert_eq!(
            totals.borrow().malformed,
            0,
            "payloads are ThingsBoard telemetry"
        );
        (history, self.audit.balance().await)
    }
}

/// A gateway's process. Dropping it ends it, and fails the test if it has logged an ERROR that nobody expected.
#[derive(Debug)]
pub struct Running {
    /// The process.
    pub gateway: Gateway,
    spool: SpoolSettings,
    errors: Watch,
}

impl Drop for Running {
    /// A gateway that was killed leaves its windows in `/dev/shm`, which outlive it by design.
    fn drop(&mut self) {
        self.gateway.kill_now();
        let streams = std::fs::read_dir(&self.spool.directory);
        for stream in streams.into_iter().flatten().flatten() {
            let name = stream.file_name();
            let window = self
                .spool
                .window_path(&stream.path(), &name.to_string_lossy());
            // Most are gone: a clean end takes them away.
            match window.map(std::fs::remove_dir_all) {
                Some(Ok(()) | Err(_)) | None => {}
            }
        }
        // A test that fails anyway has said why.
        if !std::thread::panicking() {
            let errors = self.errors.verdict();
            assert!(errors.is_empty(), "{}", errors.join("\n"));
        }
    }
}

impl Running {
    /// Starts a gateway with its files in `directory`.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(directory: &Path, state_dir: &Path, configuration: &Configuration) -> Self {
        Self::start_by(binary(), directory, state_dir, configuration)
    }

    fn start_by(
        program: &Path,
        directory: &Path,
        state_dir: &Path,
        configuration: &Configuration,
    ) -> Self {
        let file = directory.join("gateway.toml");
        std::fs::write(&file, configuration.text()).unwrap();
        let log = directory.join("gateway.log");
        let errors = Watch::over(&log);
        let gateway = Gateway::start(program, &file, state_dir, &log).unwrap();
        Self {
            gateway,
            spool: SpoolSettings::new(state_dir.join("spool")),
            errors,
        }
    }

    /// The case provokes this ERROR: it must be in the log in the end, and may be there more than once.
    pub fn expect_error(&mut self, provoked: Provoked) {
        self.errors.expect(provoked);
    }

    /// What is known of it.
    #[must_use]
    pub fn history(&self) -> History {
        self.gateway.history().borrow().clone()
    }

    /// Waits until `condition` holds.
    ///
    /// # Panics
    /// When it does not in time, or the gateway ends.
    pub async fn wait(
        &mut self,
        what: &str,
        within: Duration,
        condition: impl Fn(&History) -> bool,
    ) -> History {
        let history = self.gateway.history();
        let gateway = &mut self.gateway;
        let found = crate::within(within, || {
            if let Some(status) = gateway.ended().unwrap() {
                panic!(
                    "waiting for: {what}; the gateway ended with {status}:\n{}",
                    gateway.log().unwrap_or_default()
                );
            }
            let now = history.borrow().clone();
            condition(&now).then_some(now)
        })
        .await;
        assert!(
            found.is_some(),
            "not within {within:?}: {what}; the log ends:\n{}",
            self.log_tail()
        );
        found.unwrap()
    }

    /// Waits until the link is up and readings flow.
    ///
    /// # Panics
    /// When they do not in time.
    pub async fn flows(&mut self) -> History {
        self.wait("link up and readings delivered", READY, |now| {
            now.now.link.state == "up" && now.now.spool.delivered_readings > 0
        })
        .await
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = self.gateway.log().unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(15).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}
