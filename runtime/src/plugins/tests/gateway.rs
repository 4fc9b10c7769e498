//! A plugin host with a spool on a temporary directory, and what a test wants to know of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use moorline_core::message::{DeviceName, Downlink, Uplink, Value};
use moorline_core::report::Rules;
use moorline_core::swap;
use moorline_core::swap::probation::Terms;
use moorline_core::trust;
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::clock::Clock;
use crate::plugins::{
    ConnectionSettings, ConnectorSettings, Grants, InstanceStatus, Limits, Platform,
    PluginSettings, Plugins, PluginsStatus, PolicySettings, Succession, SwapRecord, start,
};
use crate::spool::{self, Appender, Outlet, Spool, SpoolSettings};

/// Nothing here takes long, but a test may share its processor with a compiler.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
const READ_BYTES: usize = 1024 * 1024;

/// A probation that is over soon.
pub(super) fn terms() -> Terms {
    Terms {
        duration: Duration::from_millis(200),
        ..Terms::default()
    }
}

/// What is put together before the host starts.
pub(super) struct Plan {
    pub(super) directory: TempDir,
    pub(super) settings: PluginSettings,
    /// Readings in the spool when the gateway before stopped.
    pub(super) appended: usize,
}

impl Plan {
    pub(super) fn new() -> Self {
        let log = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer();
        // Only the first test of the process sets it up.
        drop(log.try_init());
        let directory = tempfile::tempdir().unwrap();
        let settings = PluginSettings {
            cache_directory: directory.path().join("cache"),
            cache_bytes_max: 64 * 1024 * 1024,
            ledger_directory: directory.path().join("state"),
            trust: trust::Settings::default(),
            state_directory: directory.path().join("state"),
            connectors: Vec::new(),
            policy: None,
            swap: swap::Settings {
                settle: Duration::from_millis(20),
                warm: Duration::from_secs(30),
                probation: terms(),
                ..swap::Settings::default()
            },
        };
        Self {
            directory,
            settings,
            appended: 0,
        }
    }

    /// A connector without streams whose component is `bytes`.
    pub(super) fn connector(mut self, name: &str, bytes: &[u8]) -> Self {
        let component = component(self.directory.path(), name);
        std::fs::write(&component, bytes).unwrap();
        self.settings.connectors.push(ConnectorSettings {
            name: name.to_owned(),
            component,
            configuration: json!({}),
            connections: Vec::new(),
            report: Rules::default(),
            limits: Limits::default(),
            grants: Grants::default(),
            succession: Succession {
                probation: terms(),
                ..Succession::default()
            },
        });
        self
    }

    /// What the last connector may use.
    pub(super) fn limits(mut self, limits: Limits) -> Self {
        self.settings.connectors.last_mut().unwrap().limits = limits;
        self
    }

    /// What the last connector may reach.
    pub(super) fn grants(mut self, grants: Grants) -> Self {
        self.settings.connectors.last_mut().unwrap().grants = grants;
        self
    }

    /// What the last connector reports.
    pub(super) fn report(mut self, rules: Rules) -> Self {
        self.settings.connectors.last_mut().unwrap().report = rules;
        self
    }

    /// Another connection of the last connector.
    pub(super) fn connection(mut self, name: &str, stream: Option<&str>) -> Self {
        let connector = self.settings.connectors.last_mut().unwrap();
        connector.connections.push(ConnectionSettings {
            name: name.to_owned(),
            stream: stream.map(|url| url.parse().unwrap()),
            configuration: json!({}),
        });
        self
    }

    pub(super) fn policy(mut self, bytes: &[u8]) -> Self {
        let component = component(self.directory.path(), "policy");
        std::fs::write(&component, bytes).unwrap();
        self.settings.policy = Some(PolicySettings {
            component,
            deadline: Duration::from_millis(50),
            configuration: json!({}),
        });
        self
    }

    pub(super) async fn start(self) -> Gateway {
        let mut settings = SpoolSettings::new(self.directory.path().join("spool"));
        settings.commit_interval = Duration::from_millis(10);
        settings.window_directory = Some(self.directory.path().join("window"));
        for setup in &mut settings.streams {
            setup.segment_bytes = 1024 * 1024;
            setup.bytes_max = 64 * 1024 * 1024;
        }
        let (spool, appender, outlet, _) = spool::open(settings, Clock::start()).unwrap();
        let (link, link_up) = watch::channel(false);
        let (gap, gaps) = watch::channel(0);
        let platform = Platform { link_up, gaps };
        let plugins = start(
            self.settings.clone(),
            appender.clone(),
            platform,
            Clock::start(),
        )
        .await
        .unwrap();
        Gateway {
            status: plugins.status(),
            plan: self,
            plugins,
            link,
            gap,
            appender,
            spool,
            outlet,
            read_records: 0,
            numbers: BTreeMap::new(),
            emitted_ms: BTreeMap::new(),
            replies: Vec::new(),
            records: 0,
        }
    }
}

/// Where the component of a connector, or `policy`, lies.
fn component(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.wasm"))
}

/// A running host.
pub(super) struct Gateway {
    pub(super) plan: Plan,
    pub(super) plugins: Plugins,
    pub(super) status: watch::Receiver<PluginsStatus>,
    pub(super) link: watch::Sender<bool>,
    pub(super) gap: watch::Sender<u64>,
    /// Another way into the same spool.
    pub(super) appender: Appender,
    spool: Spool,
    outlet: Outlet,
    read_records: u64,
    /// What each device has counted, in the order of the spool.
    numbers: BTreeMap<String, Vec<i64>>,
    /// When each of these was emitted, by the host's wall clock.
    emitted_ms: BTreeMap<String, Vec<u64>>,
    /// Answers to RPC by request.
    replies: Vec<(u64, String)>,
    records: usize,
}

impl Gateway {
    pub(super) fn component(&self, name: &str) -> PathBuf {
        component(self.plan.directory.path(), name)
    }

    /// As a careful operator does it: beside, then onto the old one.
    pub(super) fn replace(&self, name: &str, bytes: &[u8]) {
        let path = self.component(name);
        let beside = path.with_extension("part");
        std::fs::write(&beside, bytes).unwrap();
        std::fs::rename(beside, path).unwrap();
    }

    /// As a careless one does it.
    pub(super) fn rewrite(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.component(name), bytes).unwrap();
    }

    /// Waits until the status is as wanted.
    pub(super) async fn until(
        &mut self,
        what: &str,
        wanted: impl Fn(&PluginsStatus) -> bool,
    ) -> PluginsStatus {
        let waited = timeout(PATIENCE, self.status.wait_for(|status| wanted(status))).await;
        match waited {
            Ok(status) => status.unwrap().clone(),
            Err(_elapsed) => panic!("never: {what}; {:#?}", self.plugins.status().borrow()),
        }
    }

    /// Waits until an instance is as wanted.
    pub(super) async fn instance(
        &mut self,
        name: &str,
        what: &str,
        wanted: impl Fn(&InstanceStatus) -> bool,
    ) -> InstanceStatus {
        let find = |status: &PluginsStatus| {
            status
                .connectors
                .iter()
                .flat_map(|connector| &connector.instances)
                .find(|instance| &*instance.name == name && wanted(instance))
                .cloned()
        };
        let status = self.until(what, |status| find(status).is_some()).await;
        find(&status).unwrap()
    }

    /// The next end of a candidate.
    pub(super) async fn concluded(&mut self) -> Arc<SwapRecord> {
        let records = self.records;
        let status = self
            .until("a candidate's end", |status| status.swaps.len() > records)
            .await;
        self.records += 1;
        status.swaps[records].clone()
    }

    async fn read(&mut self) {
        let mut changed = self.outlet.status();
        changed.mark_unchanged();
        let (records, _) = self.outlet.read(READ_BYTES, 1_000).await.unwrap();
        if records.is_empty() {
            changed.changed().await.unwrap();
        }
        for record in records {
            self.read_records += 1;
            match record.uplink {
                Uplink::Telemetry(devices) => {
                    for readings in devices {
                        let device = readings.device.to_string();
                        let emitted_ms = self.emitted_ms.entry(device.clone()).or_default();
                        let numbers = self.numbers.entry(device).or_default();
                        for reading in readings.readings {
                            emitted_ms.push(reading.timestamp.0);
                            numbers.push(whole(&reading.value));
                        }
                    }
                }
                Uplink::RpcReply {
                    request_id, body, ..
                } => self.replies.push((request_id, body)),
                // Said by guests that make devices up.
                Uplink::DeviceConnected { .. } => {}
                other @ (Uplink::Attributes { .. }
                | Uplink::DeviceDisconnected { .. }
                | Uplink::Gateway { .. }
                | Uplink::GatewayAttributes { .. }
                | Uplink::Letter { .. }) => panic!("{other:?} was not expected"),
            }
        }
    }

    /// What `device` has counted, once it has said `more` numbers more than the spool holds now.
    pub(super) async fn count(&mut self, device: &str, more: usize) -> Vec<i64> {
        let accepted = self.outlet.status().borrow().accepted_records;
        let read = async {
            while self.read_records < accepted {
                self.read().await;
            }
            let seen = self.numbers.get(device).map_or(0, Vec::len);
            while self.numbers.get(device).map_or(0, Vec::len) < seen + more {
                self.read().await;
            }
        };
        if timeout(PATIENCE, read).await.is_err() {
            panic!(
                "{device} says no more; {:#?}",
                self.plugins.status().borrow()
            );
        }
        self.numbers[device].clone()
    }

    /// When the numbers of `device` that were read so far were emitted.
    pub(super) fn emitted_ms(&self, device: &str) -> &[u64] {
        self.emitted_ms.get(device).map_or(&[], Vec::as_slice)
    }

    /// Waits for the answer to a request.
    pub(super) async fn reply(&mut self, request: u64) -> String {
        let read = async {
            loop {
                if let Some((_, body)) = self.replies.iter().find(|(id, _)| *id == request) {
                    return body.clone();
                }
                self.read().await;
            }
        };
        timeout(PATIENCE, read).await.unwrap()
    }

    /// Sends a request to a device.
    pub(super) async fn ask(&self, device: &str, request_id: u64, method: &str) {
        self.ask_with(device, request_id, method, "{}").await;
    }

    pub(super) async fn ask_with(&self, device: &str, request_id: u64, method: &str, params: &str) {
        self.plugins
            .deliver(Downlink::Rpc {
                device: DeviceName::try_new(device).unwrap(),
                request_id,
                method: method.to_owned(),
                params: params.to_owned(),
            })
            .await
            .unwrap();
    }

    /// Stops everything and gives back the plan, for another start on the same directory.
    pub(super) async fn stop(mut self) -> Plan {
        self.plugins.stop(PATIENCE).await;
        drop(self.appender);
        drop(self.outlet);
        let status = self.spool.status();
        self.spool.close().await.unwrap();
        let appended = status.borrow().appended_readings_total;
        self.plan.appended = usize::try_from(appended).unwrap();
        self.plan
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "guests count in small numbers"
)]
fn whole(value: &Value) -> i64 {
    match value {
        Value::Integer(n) => *n,
        Value::Double(n) if n.fract() == 0.0 => *n as i64,
        other @ (Value::Double(_) | Value::Boolean(_) | Value::Text(_) | Value::Json(_)) => {
            panic!("{other:?} is no whole number")
        }
    }
}

/// That it counts from `first`, by ones: nothing missing, nothing twice.
#[track_caller]
pub(super) fn assert_gapless(numbers: &[i64], first: i64) {
    let expected: Vec<i64> = (first..).take(numbers.len()).collect();
    assert_eq!(numbers, expected);
}
