//! What the end-to-end tests share. Everything runs on free loopback ports and ends with the test.
//!
//! Needs Mosquitto and a Python with pymodbus (`MOORLINE_VENV`, or the one `tests/run` makes in `target/venv`). Where
//! they are missing a test is skipped, loudly; with `MOORLINE_E2E=required` it fails instead.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "this crate exists for tests only"
)]

pub mod brokers;
pub mod configuration;
pub mod device;
pub mod dice;
pub mod errors;
pub mod hostile;
pub mod instruments;
pub mod netns;
pub mod platform;
pub mod plugins;
pub mod punctuality;
pub mod rig;
pub mod serial_meter;
pub mod subscriber;
pub mod volume;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use moorline::demo::broker::{BrokerKind, find_mosquitto};

/// How often `within` looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until `look` finds something; none when it does not in time.
pub async fn within<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() > deadline {
            return None;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Waits until `look` finds something, and fails the test with `what` when it does not in time.
///
/// # Panics
/// When the deadline passes.
pub async fn eventually<T>(what: &str, limit: Duration, look: impl FnMut() -> Option<T>) -> T {
    let found = within(limit, look).await;
    assert!(found.is_some(), "not within {limit:?}: {what}");
    found.unwrap()
}

/// The repository's root.
#[must_use]
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

/// The `moorline` binary: `MOORLINE_BINARY` if that names one, else that of the profile the tests are built in, built on
/// first use. `tests/run` names the one that cargo has just built with everything else.
///
/// # Panics
/// When it cannot be built.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(binary) = std::env::var_os("MOORLINE_BINARY") {
            return binary.into();
        }
        // …/target/PROFILE/deps/e2e-HASH
        let test = std::env::current_exe().unwrap();
        let profile = test.ancestors().nth(2).unwrap();
        let mut cargo = Command::new(env!("CARGO"));
        // With the features of the whole workspace, as the tests have them, or everything would be built once more.
        cargo
            .args(["build", "--workspace", "--bin", "moorline"])
            .current_dir(repository());
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        cargo.env("CARGO_TARGET_DIR", profile.parent().unwrap());
        assert!(cargo.status().unwrap().success(), "moorline does not build");
        profile.join("moorline")
    })
}

/// Whether missing peers are failures.
fn required() -> bool {
    std::env::var_os("MOORLINE_E2E").is_some_and(|value| value == "required")
}

pub(crate) fn missing(what: &str) {
    assert!(!required(), "{what} is missing, and MOORLINE_E2E=required");
    eprintln!("SKIPPED: {what} is missing; tests/run installs it");
}

/// Mosquitto, or none after saying so.
///
/// # Panics
/// When it is missing and required.
pub fn mosquitto() -> Option<BrokerKind> {
    let found = find_mosquitto().map(BrokerKind::Mosquitto);
    if found.is_none() {
        missing("mosquitto");
    }
    found
}

/// The Python that has pymodbus, or none after saying so.
///
/// # Panics
/// When it is missing and required.
pub fn python() -> Option<PathBuf> {
    let venv = std::env::var_os("MOORLINE_VENV")
        .map_or_else(|| repository().join("target/venv"), PathBuf::from);
    let python = venv.join("bin/python");
    if python.is_file() {
        return Some(python);
    }
    missing("a Python venv with pymodbus");
    None
}
