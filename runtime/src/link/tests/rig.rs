//! A link over a real spool, with deadlines short enough for tests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moorline_core::link::cause::{Cause, Disconnect};
use moorline_core::message::{DeviceName, DeviceReadings, Key, Quality, Reading, Uplink, Value};
use moorline_core::time::TimestampMs;
use tempfile::TempDir;
use tokio::sync::watch;

use super::super::{
    Arrivals, DisconnectRecord, LinkHandle, LinkSettings, LinkStatus, RateLimits, door, spawn,
};
use crate::clock::Clock;
use crate::policy_handle::PolicyHandle;
use crate::spool::{self, AfterOutage, Appender, Spool, SpoolSettings, SpoolStatus};

/// Nothing in these tests takes this long.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);

pub(super) struct Rig {
    pub(super) link: LinkHandle,
    pub(super) status: watch::Receiver<LinkStatus>,
    pub(super) spool_status: watch::Receiver<SpoolStatus>,
    pub(super) appender: Appender,
    pub(super) downlinks: Arrivals,
    pub(super) spool: Spool,
    pub(super) directory: TempDir,
    /// The newest message `append` was given a sequence for: the spool's status may not show it yet.
    appended: AtomicU64,
}

pub(super) fn settings(address: SocketAddr, directory: &TempDir) -> LinkSettings {
    let mut settings = LinkSettings::new(
        address.ip().to_string(),
        address.port(),
        "line-7",
        directory.path().join("link"),
    );
    settings.timeouts.dns = Duration::from_secs(5);
    settings.timeouts.tcp = Duration::from_secs(1);
    settings.timeouts.tls = Duration::from_secs(2);
    settings.timeouts.connack = Duration::from_millis(800);
    settings.keep_alive = Duration::from_secs(1);
    settings.liveness.pingresp = Duration::from_millis(800);
    settings.liveness.probe_after = Duration::from_millis(500);
    settings.liveness.ack = Duration::from_secs(4);
    settings.liveness.write_stall = Duration::from_secs(3);
    settings.pace.floor = Duration::from_millis(10);
    settings.pace.ceiling = Duration::from_millis(200);
    // The scripts count what comes.
    settings.rate_limits = RateLimits::Off;
    settings
}

pub(super) fn start(address: SocketAddr, change: impl FnOnce(&mut LinkSettings)) -> Rig {
    restart(address, tempfile::tempdir().expect("a directory"), change)
}

/// A link over the spool that an earlier one left in `directory`.
pub(super) fn restart(
    address: SocketAddr,
    directory: TempDir,
    change: impl FnOnce(&mut LinkSettings),
) -> Rig {
    let mut settings = settings(address, &directory);
    change(&mut settings);
    let mut spool_settings = SpoolSettings::new(directory.path().join("spool"));
    spool_settings.commit_interval = Duration::from_millis(20);
    spool_settings.window_directory = Some(directory.path().join("window"));
    for setup in &mut spool_settings.streams {
        setup.stream.after_outage = AfterOutage::BacklogFirst;
        setup.segment_bytes = 4 << 20;
    }
    let clock = Clock::start();
    let (spool, appender, outlet, _) = spool::open(spool_settings, clock).expect("a usable spool");
    // Nobody answers: the built-in policy decides.
    let (policy, _) = PolicyHandle::channel();
    let (door, downlinks) = door();
    let spool_status = outlet.status();
    let network = crate::network::unwatched();
    let link =
        spawn(settings, outlet, policy, door, network, Clock::start()).expect("usable settings");
    Rig {
        status: link.status(),
        link,
        spool_status,
        appender,
        downlinks,
        spool,
        directory,
        appended: AtomicU64::new(0),
    }
}

impl Rig {
    /// The disconnect with this number, from 0.
    pub(super) async fn disconnect(&mut self, number: usize) -> Arc<DisconnectRecord> {
        let record = self
            .until(|status| status.disconnects.get(number).cloned())
            .await;
        let text = &record.text;
        assert!(
            !text.contains("None") && !text.contains("unknown"),
            "{text}"
        );
        record
    }

    pub(super) async fn first_disconnect(&mut self) -> Disconnect {
        self.disconnect(0).await.record.disconnect.clone()
    }

    pub(super) async fn up(&mut self) {
        self.until(|status| status.is_up().then_some(())).await;
    }

    /// Waits for the session with this number, from 1.
    pub(super) async fn up_again(&mut self, sessions: u64) {
        self.until(|status| (status.is_up() && status.sessions >= sessions).then_some(()))
            .await;
    }

    /// Ends the link and the spool as a process that stops does; returns what the next process finds.
    pub(super) async fn end(self, grace: Duration) -> TempDir {
        let Self {
            link,
            spool,
            directory,
            appender,
            ..
        } = self;
        link.stop(grace).await;
        drop(appender);
        spool.close().await.expect("a spool in good order");
        directory
    }

    /// Waits for an attempt later than the disconnect with this id that nobody listened to.
    pub(super) async fn refused_after(&mut self, id: u64) {
        self.until(|status| {
            let refused = |found: &&Arc<DisconnectRecord>| {
                found.id > id && found.record.disconnect.cause == Cause::ConnectRefused
            };
            status.disconnects.iter().find(refused).map(|_| ())
        })
        .await;
    }

    async fn until<T>(&mut self, mut found: impl FnMut(&LinkStatus) -> Option<T>) -> T {
        let waiting = async {
            loop {
                if let Some(found) = found(&self.status.borrow_and_update()) {
                    return found;
                }
                self.status.changed().await.expect("the link lives");
            }
        };
        let found = tokio::time::timeout(DEADLINE, waiting).await;
        found.unwrap_or_else(|_| panic!("nothing came of it: {:?}", self.link.status().borrow()))
    }

    /// Waits until the broker has everything that was appended.
    pub(super) async fn delivered(&mut self) {
        let appended = self.appended.load(Ordering::Relaxed);
        let waiting = self
            .spool_status
            .wait_for(|status| status.depth_records == 0 && status.accepted_records >= appended);
        let settled = tokio::time::timeout(DEADLINE, waiting).await;
        assert!(
            settled.is_ok(),
            "not delivered: {:?}",
            self.link.status().borrow()
        );
    }

    pub(super) async fn append(&self, uplink: Uplink) {
        loop {
            match self.appender.append(uplink.clone()).await {
                Ok(sequence) => {
                    self.appended.fetch_max(sequence.0, Ordering::Relaxed);
                    return;
                }
                Err(spool::AppendRefused::Behind { .. }) => tokio::task::yield_now().await,
                Err(refused) => panic!("{refused}"),
            }
        }
    }
}

/// One reading: `n` of device `d`.
pub(super) fn reading(number: u64) -> Uplink {
    Uplink::Telemetry(vec![DeviceReadings {
        device: DeviceName::try_new("d").expect("a name"),
        readings: vec![Reading {
            key: Key::try_new("n").expect("a key"),
            value: Value::Integer(i64::try_from(number).expect("small")),
            quality: Quality::Good,
            timestamp: TimestampMs(number),
        }],
    }])
}

/// A message that always takes a publish of its own.
pub(super) fn attribute(number: u64, text_bytes: usize) -> Uplink {
    Uplink::Attributes {
        device: DeviceName::try_new("d").expect("a name"),
        values: vec![
            (
                Key::try_new("n").expect("a key"),
                Value::Integer(i64::try_from(number).expect("small")),
            ),
            (
                Key::try_new("t").expect("a key"),
                Value::Text("x".repeat(text_bytes)),
            ),
        ],
    }
}
