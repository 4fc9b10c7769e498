//! Everything the story plays with: broker, proxy, audit, device, plugins and the gateway's process.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::audit::{Audit, Balance, Totals};
use super::broker::{Broker, BrokerKind};
use super::device::Device;
use super::gateway::{Gateway, History};
use super::report::{DemoReport, ReportedPolicy};
use super::shelf::Shelf;
use super::{DemoError, Doing};
use crate::fault_proxy::{FaultProxy, Mode, Strike};
use crate::screen::{Screen, Tone};

pub(super) const SIMULATED: &str = "simulated";
pub(super) const MODBUS: &str = "modbus";
pub(super) const POLICY: &str = "policy";
/// The polled device's name on the platform, and its unit number.
pub(super) const MODBUS_DEVICE: &str = "press-1";
pub(super) const MODBUS_UNIT: u8 = 1;
/// Keys whose readings are serial numbers: of the simulated devices, of the polled one.
const SERIAL_KEY: &str = "seq";
const COUNTER_KEY: &str = "counter";
const DEVICES: u32 = 10;
const READINGS_PER_S: u32 = 1_000;
const RETRY_FLOOR: Duration = Duration::from_millis(200);
/// Publishes on their way from the tap to the audit.
const TAPPED: usize = 1_024;
const SUBSCRIBED: Duration = Duration::from_secs(10);

/// The parts, set up and running.
pub(super) struct Stage {
    pub(super) shelf: Shelf,
    pub(super) audit: Audit,
    screen: Screen,
    broker: Broker,
    proxy: FaultProxy,
    device: Device,
    gateway: Gateway,
    problems: Vec<String>,
}

impl Stage {
    /// Starts every part in `directory`.
    pub(super) async fn set(
        directory: &Path,
        kind: BrokerKind,
        shelf: Shelf,
        mut screen: Screen,
    ) -> Result<Self, DemoError> {
        let broker = Broker::start(kind, &directory.join("broker"))
            .await
            .doing("start the broker")?;
        screen.say(
            Tone::Good,
            &format!("broker: {} on {}", broker.kind().name(), broker.address()),
        );
        let (tap, acknowledged) = mpsc::channel(TAPPED);
        let proxy = FaultProxy::bind_tapped(broker.address(), tap)
            .await
            .doing("bind the fault proxy")?;
        let audit = Audit::start(broker.address(), &[SERIAL_KEY, COUNTER_KEY], acknowledged).await;
        let audit = audit.doing("start the audit")?;
        await_subscription(&audit).await?;
        screen.say(
            Tone::Good,
            &format!(
                "fault proxy on {}, audit subscribed at the broker",
                proxy.address()
            ),
        );
        let device = Device::start(([127, 0, 0, 1], 0).into())
            .await
            .doing("start the Modbus device")?;
        screen.say(
            Tone::Good,
            &format!("Modbus TCP device on {}", device.address()),
        );
        let state_dir = directory.join("state");
        let configuration = directory.join("gateway.toml");
        let text = configuration_text(&state_dir, &shelf, &proxy, &audit, &device);
        std::fs::write(&configuration, text).doing("write the configuration")?;
        let binary = std::env::current_exe().doing("find the running binary")?;
        let log = directory.join("gateway.log");
        let gateway =
            Gateway::start(&binary, &configuration, &state_dir, &log).doing("start the gateway")?;
        screen.say(
            Tone::Good,
            &format!("gateway started; log in {}", log.display()),
        );
        Ok(Self {
            shelf,
            audit,
            screen,
            broker,
            proxy,
            device,
            gateway,
            problems: Vec::new(),
        })
    }

    pub(super) fn title(&mut self, text: &str) {
        self.screen.say(Tone::Title, text);
    }

    /// Says what came of something; what did not come as told is a problem.
    pub(super) fn check(&mut self, as_told: bool, text: &str) {
        self.screen
            .say(if as_told { Tone::Good } else { Tone::Bad }, text);
        if !as_told {
            self.problems.push(text.to_owned());
        }
    }

    pub(super) fn refresh(&mut self) {
        let history = self.history();
        let status = &history.now;
        let totals = self.totals();
        let line = format!(
            "link {:10} sessions {:2}  accepted {:7}  delivered {:7}  waiting {:6}  swaps {:2}",
            status.link.state,
            history.sessions(),
            status.spool.accepted_readings,
            totals.delivered,
            status.spool.depth_readings,
            history.swaps().len(),
        );
        self.screen.refresh(&line);
    }

    pub(super) fn history(&self) -> History {
        self.gateway.history().borrow().clone()
    }

    pub(super) fn disconnects(&self) -> usize {
        self.gateway.history().borrow().disconnects().len()
    }

    fn totals(&self) -> Totals {
        *self.audit.totals().borrow()
    }

    pub(super) fn delivered(&self) -> u64 {
        self.totals().delivered
    }

    pub(super) fn connects(&self) -> u64 {
        self.proxy.counts().borrow().connects
    }

    pub(super) fn proxy_connections(&self) -> u64 {
        self.proxy.counts().borrow().connections
    }

    pub(super) fn device_sessions(&self) -> u64 {
        self.device.counts().borrow().sessions
    }

    pub(super) fn device_counter(&self, unit: u8) -> Option<u32> {
        self.device.counts().borrow().counters.get(&unit).copied()
    }

    pub(super) fn retry_floor(&self) -> Duration {
        RETRY_FLOOR
    }

    pub(super) async fn mode(&self, mode: Mode) -> Result<(), DemoError> {
        self.proxy.set(mode).await.doing("change the fault proxy")
    }

    pub(super) async fn strike(&self, strike: Strike) -> Result<(), DemoError> {
        self.proxy
            .strike(strike)
            .await
            .doing("strike through the fault proxy")
    }

    /// Kills the broker; from then on its port refuses, as it does without a proxy before it.
    pub(super) async fn kill_broker(&mut self) -> Result<(), DemoError> {
        self.broker.kill().await.doing("kill the broker")?;
        self.mode(Mode::Refuse).await
    }

    /// The audit is back at the broker before the gateway can be: nothing is published unheard.
    pub(super) async fn resume_broker(&mut self) -> Result<(), DemoError> {
        self.broker.resume().await.doing("start the broker again")?;
        await_subscription(&self.audit).await?;
        self.mode(Mode::Pass).await
    }

    pub(super) async fn kill_gateway(&mut self) -> Result<(), DemoError> {
        self.gateway.kill().await.doing("kill the gateway")
    }

    pub(super) fn resume_gateway(&mut self) -> Result<(), DemoError> {
        self.gateway.resume().doing("start the gateway again")
    }

    /// Whether the gateway ended by itself, which it never should.
    pub(super) fn gateway_ended(&mut self) -> bool {
        match self.gateway.ended() {
            Ok(None) => false,
            Ok(Some(status)) => {
                self.check(false, &format!("the gateway ended by itself with {status}"));
                true
            }
            Err(error) => {
                self.check(false, &format!("the gateway cannot be watched: {error}"));
                true
            }
        }
    }

    pub(super) async fn stop_gateway(&mut self, grace: Duration) -> History {
        match self.gateway.stop(grace).await {
            Ok((status, history)) => {
                let left = history.now.spool.depth_readings;
                self.check(
                    status.success() && left == 0,
                    &format!("it ended with {status}, {left} readings left in the spool"),
                );
                history
            }
            Err(error) => {
                self.check(false, &format!("the gateway could not be stopped: {error}"));
                self.history()
            }
        }
    }

    /// The bottom line.
    pub(super) async fn report(mut self, history: &History) -> (DemoReport, Screen) {
        let balance: Balance = self.audit.balance().await;
        let malformed = self.totals().malformed;
        self.check(
            malformed == 0,
            &format!("{malformed} payloads were not ThingsBoard telemetry"),
        );
        let mut report = DemoReport {
            connects: self.connects(),
            device_sessions: self.device_sessions(),
            policy: ReportedPolicy {
                faults: history.policy_faults(),
                clamped: history.policy_clamped(),
            },
            broker: self.broker.kind().name().to_owned(),
            problems: self.problems,
            ..DemoReport::default()
        };
        report.book(history, &balance);
        (report, self.screen)
    }
}

async fn await_subscription(audit: &Audit) -> Result<(), DemoError> {
    let mut subscribed = audit.subscribed();
    match timeout(SUBSCRIBED, subscribed.wait_for(|subscribed| *subscribed)).await {
        Ok(Ok(_subscribed)) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(DemoError::Setup {
            what: "subscribe the audit at the broker",
            source: std::io::ErrorKind::TimedOut.into(),
        }),
    }
}

fn configuration_text(
    state_dir: &Path,
    shelf: &Shelf,
    proxy: &FaultProxy,
    audit: &Audit,
    device: &Device,
) -> String {
    let quoted = |path: PathBuf| serde_json::Value::from(path.display().to_string()).to_string();
    format!(
        r#"[gateway]
name = "demo"
state_dir = {state_dir}

[link]
url = "mqtt://{proxy}"
keep_alive_s = 5
connack_timeout_ms = 2000
ack_timeout_s = 5
stable_after_s = 3
retry_floor_ms = {floor}
retry_ceiling_s = 2

[policy]
component = {policy}

[[connector]]
name = "{SIMULATED}"
component = {simulated}
[connector.config]
devices = {DEVICES}
readings_per_second = {READINGS_PER_S}
device_prefix = "sim-"
key = "{SERIAL_KEY}"
witness = "witness"
[[connector.connection]]
name = "witness"
stream = "tcp://{witness}"

[[connector]]
name = "{MODBUS}"
component = {modbus}
[[connector.connection]]
name = "press"
stream = "tcp://{device}"
[[connector.connection.config.devices]]
name = "{MODBUS_DEVICE}"
unit = {MODBUS_UNIT}
[[connector.connection.config.devices.points]]
key = "{COUNTER_KEY}"
register = "holding"
address = 0
type = "u32"
poll_ms = 100
"#,
        state_dir = quoted(state_dir.to_owned()),
        proxy = proxy.address(),
        floor = RETRY_FLOOR.as_millis(),
        policy = quoted(shelf.place(POLICY)),
        simulated = quoted(shelf.place(SIMULATED)),
        modbus = quoted(shelf.place(MODBUS)),
        witness = audit.witness(),
        device = device.address(),
    )
}
