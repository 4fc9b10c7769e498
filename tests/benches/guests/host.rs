//! The plugin host over a real spool, with one connector and as many connections as wanted.

use std::path::{Path, PathBuf};
use std::time::Duration;

use moorline::clock::Clock;
use moorline::plugins::{
    self, ConnectionSettings, ConnectorSettings, DeliveryRefused, Grants, InstanceState, Platform,
    PluginSettings, Plugins, Succession,
};
use moorline::spool::{self, Appender, Outlet, Spool, SpoolSettings};
use moorline_core::message::{DeviceName, Downlink, Uplink};
use moorline_core::report::Rules;
use moorline_core::{swap, trust};
use tokio::sync::watch;

use crate::limits;

/// Whatever a thousand instances of the slowest language need.
const PATIENCE: Duration = Duration::from_secs(600);
const AGAIN_AFTER: Duration = Duration::from_millis(20);
const READ_BYTES: usize = 1 << 20;
const READ_RECORDS: usize = 4_096;
const SPOOL_BYTES: u64 = 1 << 30;

/// A spool that holds all that a round makes.
pub(crate) fn open_spool(directory: &Path) -> (Spool, Appender, Outlet) {
    let mut settings = SpoolSettings::new(directory.join("spool"));
    if let Some(telemetry) = settings.telemetry_mut() {
        telemetry.bytes_max = SPOOL_BYTES;
    }
    let (spool, appender, outlet, _) = spool::open(settings, Clock::start()).expect("a spool");
    (spool, appender, outlet)
}

/// The device of a connection; each instance speaks for one of its own name.
pub(crate) fn device(connection: usize) -> DeviceName {
    DeviceName::try_new(&format!("burst/c{connection}")).expect("a name")
}

/// The host, and what keeps it told that the link is up.
pub(crate) struct Host {
    pub(crate) plugins: Plugins,
    _platform: (watch::Sender<bool>, watch::Sender<u64>),
}

/// Where a host keeps what it keeps.
pub(crate) struct Places<'a> {
    /// What is compiled is kept from one process to the next.
    pub(crate) compiled: PathBuf,
    pub(crate) state: &'a Path,
}

impl Host {
    /// Starts `connections` instances of `component`, and waits until all serve.
    pub(crate) async fn start(
        component: &Path,
        connections: usize,
        places: Places<'_>,
        appender: Appender,
    ) -> Self {
        let connection = |number| ConnectionSettings {
            name: format!("c{number}"),
            stream: None,
            configuration: serde_json::json!({}),
        };
        let connector = ConnectorSettings {
            name: "burst".into(),
            component: component.to_owned(),
            configuration: serde_json::json!({}),
            connections: (0..connections).map(connection).collect(),
            report: Rules::default(),
            limits: limits(),
            grants: Grants::default(),
            succession: Succession::default(),
        };
        let settings = PluginSettings {
            cache_directory: places.compiled,
            cache_bytes_max: u64::MAX,
            ledger_directory: places.state.join("state"),
            trust: trust::Settings::default(),
            state_directory: places.state.join("plugins"),
            connectors: if connections == 0 {
                Vec::new()
            } else {
                vec![connector]
            },
            policy: None,
            swap: swap::Settings {
                warm: PATIENCE,
                cut_over: PATIENCE,
                ..swap::Settings::default()
            },
        };
        let (up, link_up) = watch::channel(true);
        let (gap, gaps) = watch::channel(0);
        let platform = Platform { link_up, gaps };
        let plugins = plugins::start(settings, appender, platform, Clock::start())
            .await
            .expect("a host");
        let mut status = plugins.status();
        let serving = status.wait_for(|status| {
            let instances = || status.connectors.iter().flat_map(|it| &it.instances);
            connections == 0
                || instances().count() == connections
                    && instances().all(|instance| instance.state == InstanceState::Serving)
        });
        let serving = tokio::time::timeout(PATIENCE, serving).await;
        drop(serving.expect("all serve in time").expect("a host"));
        Self {
            plugins,
            _platform: (up, gap),
        }
    }

    /// Asks the instance of `connection`.
    pub(crate) async fn ask(&self, connection: usize, request: (u64, &str, &str)) {
        let (request_id, method, params) = request;
        loop {
            let rpc = Downlink::Rpc {
                device: device(connection),
                request_id,
                method: method.into(),
                params: params.into(),
            };
            match self.plugins.deliver(rpc).await {
                Ok(()) => return,
                Err(DeliveryRefused::UnknownDevice | DeliveryRefused::Busy) => {
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
                Err(DeliveryRefused::Stopping) => panic!("the host stopped"),
            }
        }
    }
}

/// Reads on, and gives up what was read, until a guest has answered; what it said.
pub(crate) async fn reply(outlet: &mut Outlet) -> [f64; 3] {
    let mut spooled = outlet.status();
    loop {
        spooled.mark_unchanged();
        let (records, _) = outlet
            .read(READ_BYTES, READ_RECORDS)
            .await
            .expect("a spool");
        let Some(last) = records.last() else {
            spooled.changed().await.expect("a spool");
            continue;
        };
        outlet.ack(last.turn, 0).await;
        if let Some(answer) = records.iter().find_map(|record| answer(&record.uplink)) {
            return answer;
        }
    }
}

fn answer(uplink: &Uplink) -> Option<[f64; 3]> {
    match uplink {
        Uplink::RpcReply { body, .. } => Some(serde_json::from_str(body).expect("three numbers")),
        Uplink::Telemetry(_)
        | Uplink::Attributes { .. }
        | Uplink::DeviceConnected { .. }
        | Uplink::DeviceDisconnected { .. }
        | Uplink::Gateway { .. }
        | Uplink::GatewayAttributes { .. }
        | Uplink::Letter { .. } => None,
    }
}
