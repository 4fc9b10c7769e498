//! The components under test, built once with the product's own command, and the files a gateway watches.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use moorline::cli::exit;
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

    /// SCPI, in Python.
    pub const SCPI_MULTIMETER: Self = Self::well_behaved("plugins/scpi-multimeter");
    /// A policy in Python.
    pub const DECORRELATED_JITTER: Self = Self::well_behaved("plugins/decorrelated-jitter");
    /// IEC 62056-21, in JavaScript.
    pub const IEC_METER: Self = Self::well_behaved("plugins/iec-meter");
    /// A policy in JavaScript.
    pub const BACKLOG_AWARE: Self = Self::well_behaved("plugins/backlog-aware");
    /// Modbus TCP, in C.
    pub const MODBUS_REGISTERS: Self = Self::well_behaved("plugins/modbus-registers");
    /// A policy in C.
    pub const EQUAL_JITTER: Self = Self::well_behaved("plugins/equal-jitter");

    /// Everything under `plugins/`.
    pub const SHIPPED: [Self; 12] = [
        Self::MODBUS,
        Self::SIMULATED,
        Self::FULL_JITTER,
        Self::NETWORK_AWARE,
        Self::MAINTENANCE_WINDOW,
        Self::TAKEOVER_GUARD,
        Self::SCPI_MULTIMETER,
        Self::DECORRELATED_JITTER,
        Self::IEC_METER,
        Self::BACKLOG_AWARE,
        Self::MODBUS_REGISTERS,
        Self::EQUAL_JITTER,
    ];

    /// For benches: emits on demand, as fast as it can.
    pub const BURST: Self = Self::well_behaved("tests/guests/burst-connector");

    /// The same in C, JavaScript and Python.
    pub const BURSTS: [Self; 3] = [
        Self::well_behaved("tests/benches/guests/burst-c"),
        Self::well_behaved("tests/benches/guests/burst-javascript"),
        Self::well_behaved("tests/benches/guests/burst-python"),
    ];

    /// A connector that tries to reach beyond the contract, by itself or when it is asked to.
    pub const REACHING: Self = Self::well_behaved("tests/guests/reaching-connector");

    const CRATES: [&str; 12] = [
        Self::REACHING.directory,
        Self::BURST.directory,
        Self::MODBUS.directory,
        Self::SIMULATED.directory,
        Self::FULL_JITTER.directory,
        Self::NETWORK_AWARE.directory,
        Self::MAINTENANCE_WINDOW.directory,
        Self::TAKEOVER_GUARD.directory,
        Self::CONNECTOR_TRAP.directory,
        Self::POLICY_TRAP.directory,
        Self::breaking_connector("").directory,
        Self::breaking_policy("").directory,
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

    /// A connector that breaks one rule of the contract, or none.
    #[must_use]
    pub const fn breaking_connector(script: &'static str) -> Self {
        Self {
            directory: "tests/guests/breaking-connector",
            script,
        }
    }

    /// A policy that breaks one rule of the contract, or none.
    #[must_use]
    pub const fn breaking_policy(script: &'static str) -> Self {
        Self {
            directory: "tests/guests/breaking-policy",
            script,
        }
    }

    /// Where its source is, in the repository.
    #[must_use]
    pub const fn directory(self) -> &'static str {
        self.directory
    }

    /// Its file, without the extension.
    fn stem(self) -> String {
        let name = self.directory.rsplit('/').next();
        name.unwrap_or(self.directory).replace('-', "_")
    }

    /// Its bytes, whatever it is written in; none, after saying so, where its language's tools cannot be had.
    ///
    /// # Panics
    /// When it does not build.
    #[must_use]
    pub fn try_bytes(self) -> Option<Vec<u8>> {
        if Self::CRATES.contains(&self.directory) {
            return Some(self.bytes());
        }
        // One after the other: two tests may want the same. The lock ends with the file.
        let building = std::fs::File::create(out().join("lock")).unwrap();
        building.lock().unwrap();
        let path = out().join(self.stem()).with_extension("wasm");
        if !path.is_file() {
            let output = build(&[self.directory]);
            if output.status.code() == Some(i32::from(exit::UNAVAILABLE)) {
                let why = String::from_utf8_lossy(&output.stderr);
                eprintln!("SKIPPED: {} cannot be built here: {why}", self.directory);
                return None;
            }
            let why = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: {why}", self.directory);
        }
        Some(std::fs::read(path).unwrap())
    }

    /// Its bytes. The first call builds all crates.
    ///
    /// # Panics
    /// When it was not built, or has no place for its script.
    #[must_use]
    pub fn bytes(self) -> Vec<u8> {
        let mut bytes = std::fs::read(built().join(self.stem()).with_extension("wasm")).unwrap();
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

/// Where a test that runs itself again finds the components that it has built.
const BUILT: &str = "MOORLINE_E2E_PLUGINS";

/// Lets `command`, this test program once more, use the components of this process: none of them would be built where it
/// runs, or under the feet of other tests.
pub(crate) fn hand_down(command: &mut Command) {
    command.env(BUILT, built());
}

/// Where components go: to a directory of this process, so that none is older than its source and no other process takes
/// them away.
fn out() -> &'static Path {
    static OUT: OnceLock<PathBuf> = OnceLock::new();
    OUT.get_or_init(|| {
        if let Some(built) = std::env::var_os(BUILT) {
            return built.into();
        }
        let all = binary().ancestors().nth(2).unwrap().join("e2e-plugins");
        std::fs::create_dir_all(&all).unwrap();
        for entry in std::fs::read_dir(&all).unwrap() {
            let entry = entry.unwrap();
            // Left by a run that has ended.
            if !Path::new("/proc").join(entry.file_name()).exists() {
                drop(std::fs::remove_dir_all(entry.path()));
            }
        }
        let out = all.join(std::process::id().to_string());
        // Of a process that had the same number.
        drop(std::fs::remove_dir_all(&out));
        std::fs::create_dir(&out).unwrap();
        out
    })
}

/// Where compilers for other languages are kept: beside everything else that a build leaves, not in the home of whoever
/// tests.
///
/// # Panics
/// When the binary stands nowhere.
#[must_use]
pub fn tools() -> PathBuf {
    std::env::var_os("MOORLINE_TOOLS").map_or_else(
        || binary().ancestors().nth(2).unwrap().join("tools"),
        PathBuf::from,
    )
}

fn build(directories: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(["plugin", "build"]).args(directories);
    command.arg("--out").arg(out()).current_dir(repository());
    command.env("MOORLINE_TOOLS", tools());
    command.output().unwrap()
}

fn built() -> &'static Path {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        if std::env::var_os(BUILT).is_some() {
            return;
        }
        let output = build(&Guest::CRATES);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    });
    out()
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

    /// Puts a component at `path`.
    ///
    /// # Panics
    /// When the file cannot be written.
    #[must_use]
    pub fn stock_bytes(path: PathBuf, bytes: Vec<u8>) -> Self {
        let place = Self { path, builds: 0 };
        place.put_bytes(&bytes);
        place
    }

    /// Replaces the file in one step by another build of what it holds.
    ///
    /// # Panics
    /// When the file cannot be read or written.
    pub fn renew(&mut self) {
        let mut bytes = std::fs::read(&self.path).unwrap();
        self.builds += 1;
        mark(&mut bytes, self.builds);
        self.put_bytes(&bytes);
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

/// A component of one function: `loops` nested loops, in which each of `locals` variables is read and written. All of them live
/// everywhere, and the compiler's work grows with the product.
#[must_use]
pub fn dear_to_compile(locals: u32, loops: usize) -> Vec<u8> {
    let mut body = vec![0x01];
    body.extend(leb128(locals));
    body.push(0x7f);
    body.extend([0x03, 0x40].repeat(loops));
    for local in 1..=locals {
        body.push(0x20);
        body.extend(leb128(local));
        body.extend([0x20, 0x00, 0x6a, 0x21]);
        body.extend(leb128(local));
    }
    body.extend([0x20, 0x00, 0x0d, 0x00, 0x0b].repeat(loops));
    body.push(0x0b);
    let code = [vec![0x01], leb128(length(&body)), body].concat();
    let module = [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, &[0x01, 0x60, 0x01, 0x7f, 0x00]),
        section(3, &[0x01, 0x00]),
        section(10, &code),
    ];
    [b"\0asm\x0d\0\x01\0".to_vec(), section(1, &module.concat())].concat()
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [vec![id], leb128(length(content)), content.to_vec()].concat()
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap()
}

/// Unsigned LEB128 (WebAssembly core specification, 5.2.2).
fn leb128(mut number: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}
