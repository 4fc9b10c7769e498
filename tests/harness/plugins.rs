//! The components under test, built once with the product's own command, and the files a gateway watches.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use moorline::demo::{mark, script};

use crate::{binary, repository};

/// A plugin of this repository, and the script it runs if it is one that misbehaves on demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guest {
    directory: &'static str,
    script: &'static str,
}

impl Guest {
    /// The Modbus TCP connector.
    pub const MODBUS: Self = Self::well_behaved("plugins/modbus-tcp");
    /// The simulated connector.
    pub const SIMULATED: Self = Self::well_behaved("plugins/simulated");
    /// The good policy.
    pub const FULL_JITTER: Self = Self::well_behaved("plugins/full-jitter");
    /// The policy that watches the network.
    pub const NETWORK_AWARE: Self = Self::well_behaved("plugins/network-aware");
    /// The policy with a calendar.
    pub const MAINTENANCE_WINDOW: Self = Self::well_behaved("plugins/maintenance-window");
    /// The policy that yields to another client with our id.
    pub const TAKEOVER_GUARD: Self = Self::well_behaved("plugins/takeover-guard");
    /// A connector that traps.
    pub const CONNECTOR_TRAP: Self = Self::connector("timer:trap");
    /// A connector that never returns.
    pub const CONNECTOR_HANG: Self = Self::connector("timer:hang");
    /// A connector that takes all memory.
    pub const CONNECTOR_MEMORY: Self = Self::connector("timer:eat");
    /// A connector that is told shared attributes and says them as readings.
    pub const CONNECTOR_ECHO: Self = Self::connector("attributes:echo");
    /// A connector that never comes back from what the platform tells it.
    pub const CONNECTOR_LOST: Self = Self::connector("attributes:hang rpc:hang");
    /// A policy that traps.
    pub const POLICY_TRAP: Self = Self::policy("decide:trap");
    /// A policy that never answers.
    pub const POLICY_HANG: Self = Self::policy("decide:hang");
    /// A policy that says 0 ms for ever.
    pub const POLICY_STORM: Self = Self::policy("decide:zero");

    /// For benches: emits on demand, as fast as it can.
    pub const BURST: Self = Self::well_behaved("tests/guests/burst-connector");

    const CRATES: [&str; 9] = [
        Self::BURST.directory,
        Self::MODBUS.directory,
        Self::SIMULATED.directory,
        Self::FULL_JITTER.directory,
        Self::NETWORK_AWARE.directory,
        Self::MAINTENANCE_WINDOW.directory,
        Self::TAKEOVER_GUARD.directory,
        Self::CONNECTOR_TRAP.directory,
        Self::POLICY_TRAP.directory,
    ];

    const fn well_behaved(directory: &'static str) -> Self {
        Self {
            directory,
            script: "",
        }
    }

    /// The scripted connector that does what `script` says.
    #[must_use]
    pub const fn connector(script: &'static str) -> Self {
        Self {
            directory: "tests/guests/scripted-connector",
            script,
        }
    }

    const fn policy(script: &'static str) -> Self {
        Self {
            directory: "tests/guests/scripted-policy",
            script,
        }
    }

    /// Its bytes. The first call builds all of them.
    ///
    /// # Panics
    /// When it was not built, or has no place for its script.
    #[must_use]
    pub fn bytes(self) -> Vec<u8> {
        let name = self
            .directory
            .rsplit('/')
            .next()
            .unwrap_or(self.directory)
            .replace('-', "_");
        let mut bytes = std::fs::read(built().join(name).with_extension("wasm")).unwrap();
        if !self.script.is_empty() {
            assert!(
                script(&mut bytes, self.script),
                "{} takes no script",
                self.directory
            );
        }
        bytes
    }
}

fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let out = binary().ancestors().nth(2).unwrap().join("e2e-plugins");
        let mut command = Command::new(binary());
        command.args(["plugin", "build"]).args(Guest::CRATES);
        command.arg("--out").arg(&out).current_dir(repository());
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        out
    })
}

/// A file that a gateway is configured with and watches.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    builds: u64,
}

impl Place {
    /// Puts `guest` at `path`.
    ///
    /// # Panics
    /// When the file cannot be written.
    #[must_use]
    pub fn stock(path: PathBuf, guest: Guest) -> Self {
        let mut place = Self { path, builds: 0 };
        place.put(guest);
        place
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the file in one step by a build of `guest` that was never there before.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn put(&mut self, guest: Guest) {
        let mut bytes = guest.bytes();
        self.builds += 1;
        mark(&mut bytes, self.builds);
        self.put_bytes(&bytes);
    }

    /// Replaces the file in one step.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn put_bytes(&self, bytes: &[u8]) {
        let draft = self.path.with_extension("wasm.new");
        std::fs::write(&draft, bytes).unwrap();
        std::fs::rename(draft, &self.path).unwrap();
    }

    /// Overwrites the file in place, as a slow copy does before it is done.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn overwrite(&self, bytes: &[u8]) {
        std::fs::write(&self.path, bytes).unwrap();
    }
}
