//! The gateway's configuration, in pieces.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

/// Readings per second of [`Configuration::simulated`].
pub const READINGS_PER_S: u32 = 1_000;
/// Devices of [`Configuration::simulated`].
pub const DEVICES: u32 = 10;
/// Least wait between attempts.
pub const RETRY_FLOOR_MS: u64 = 100;

/// A configuration being written.
#[derive(Clone, Debug)]
pub struct Configuration(String);

impl Configuration {
    /// A gateway with its state in `state_dir` and its link to `broker`, quick to notice and to come back.
    #[must_use]
    pub fn new(state_dir: &Path, broker: SocketAddr) -> Self {
        Self(format!(
            "[gateway]\nname = \"e2e\"\nstate_dir = {state_dir:?}\n\n\
             [link]\nurl = \"mqtt://{broker}\"\nkeep_alive_s = 5\nconnack_timeout_ms = 2000\nack_timeout_s = 5\n\
             stable_after_s = 2\nretry_floor_ms = {RETRY_FLOOR_MS}\nretry_ceiling_s = 1\n"
        ))
    }

    /// A gateway as it is shipped: nothing is set that need not be.
    #[must_use]
    pub fn as_shipped(state_dir: &Path, broker: SocketAddr) -> Self {
        Self(format!(
            "[gateway]\nname = \"e2e\"\nstate_dir = {state_dir:?}\n\n[link]\nurl = \"mqtt://{broker}\"\n"
        ))
    }

    /// Adds lines as they are. Directly after [`Configuration::new`] they belong to `[link]`.
    #[must_use]
    pub fn with(mut self, lines: &str) -> Self {
        self.0.push_str(lines);
        self.0.push('\n');
        self
    }

    /// With a line changed.
    ///
    /// # Panics
    /// When it is not there.
    #[must_use]
    pub fn replaced(self, line: &str, by: &str) -> Self {
        assert!(self.0.contains(line), "{line:?} is not in {}", self.0);
        Self(self.0.replace(line, by))
    }

    /// Adds a policy.
    #[must_use]
    pub fn policy(self, component: &Path) -> Self {
        self.with(&format!(
            "\n[policy]\ncomponent = {component:?}\ndeadline_ms = 50"
        ))
    }

    /// Adds a simulated connector that says at `witness` what was accepted.
    #[must_use]
    pub fn simulated(self, name: &str, component: &Path, witness: Option<SocketAddr>) -> Self {
        self.simulated_at(name, component, witness, DEVICES, READINGS_PER_S)
    }

    /// Like [`Configuration::simulated`], with so many devices and so many readings a second of all of them together.
    #[must_use]
    pub fn simulated_at(
        self,
        name: &str,
        component: &Path,
        witness: Option<SocketAddr>,
        devices: u32,
        readings_per_s: u32,
    ) -> Self {
        let mut lines = format!(
            "\n[[connector]]\nname = \"{name}\"\ncomponent = {component:?}\ncall_deadline_ms = 500\n\
             memory_bytes_max = 16777216\n[connector.config]\n\
             devices = {devices}\nreadings_per_second = {readings_per_s}\ndevice_prefix = \"{name}-\"\nkey = \"seq\"\n"
        );
        if let Some(witness) = witness {
            // Writing into a string cannot fail.
            write!(
                lines,
                "witness = \"witness\"\n[[connector.connection]]\nname = \"witness\"\nstream = \"tcp://{witness}\"\n"
            )
            .unwrap_or_default();
        }
        self.with(&lines)
    }

    /// Adds the Modbus TCP connector for the pymodbus device of this harness.
    #[must_use]
    pub fn modbus(self, name: &str, component: &Path, device: SocketAddr) -> Self {
        let point = |key: &str, address: u16, kind: &str, writable: bool| {
            format!(
                "[[connector.connection.config.devices.points]]\nkey = \"{key}\"\naddress = {address}\n\
                 type = \"{kind}\"\nwritable = {writable}\n"
            )
        };
        let points = [
            point("counter", 0, "u32", false),
            point("fixed", 2, "u16", false),
            point("negative", 3, "i16", false),
            point("float", 4, "f32", false),
            point("setpoint", 12, "u16", true),
        ];
        self.with(&format!(
            "\n[[connector]]\nname = \"{name}\"\ncomponent = {component:?}\n[connector.config]\npoll_ms = 50\n\
             [[connector.connection]]\nname = \"press\"\nstream = \"tcp://{device}\"\n\
             [[connector.connection.config.devices]]\nname = \"press-1\"\nunit = 1\n{}",
            points.concat()
        ))
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }
}
