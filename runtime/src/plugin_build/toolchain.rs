//! A compiler for WebAssembly: rustup's target where rustup can fetch it, else the distribution's compiler with its
//! standard library's source.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use thiserror::Error;

/// The target guests are compiled for. It has no WASI: what a guest may touch are the contract's imports alone.
pub(super) const TARGET: &str = "wasm32-unknown-unknown";
/// Debian's packages: the compiler that knows WebAssembly, its library's source, cargo of the same version, a linker.
const PACKAGES: [&str; 4] = ["rustc-web", "rust-web-src", "cargo-web", "lld"];
/// Seconds rustup may take to fetch the target.
const RUSTUP_TIMEOUT_S: &str = "180";

/// Which compiler builds guests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Toolchain {
    /// rustup's if it can be had, else the distribution's.
    #[default]
    Auto,
    /// The compiler that cargo finds, with its `wasm32-unknown-unknown` target added by rustup.
    Rustup,
    /// Debian's `rustc-web`, building the standard library from `rust-web-src`.
    Distribution,
}

/// Why there is no compiler for WebAssembly.
#[derive(Debug, Error)]
pub enum ToolchainError {
    /// rustup is not there or could not fetch the target.
    #[error(
        "rustup could not add {TARGET}: check the network, or use --toolchain distribution on Debian"
    )]
    Rustup,
    /// The distribution's packages are not there and could not be installed.
    #[error("the packages {} are not installed and apt-get could not install them (as root: apt-get install {})", PACKAGES.join(" "), PACKAGES.join(" "))]
    Distribution,
}

/// A way to run cargo for [`TARGET`].
pub(super) struct Prepared {
    program: PathBuf,
    environment: Vec<(&'static str, String)>,
    arguments: Vec<&'static str>,
    /// Below cargo's target directory; the two compilers must not share one.
    pub(super) target_directory: &'static str,
}

impl Prepared {
    pub(super) fn cargo(&self) -> Command {
        let mut cargo = Command::new(&self.program);
        // Settings of the cargo that may be running us are not meant for the guest.
        for name in [
            "CARGO",
            "RUSTC",
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "RUSTC_WRAPPER",
            "CARGO_BUILD_TARGET",
            "CARGO_TARGET_DIR",
            "CARGO_MAKEFLAGS",
            // Cargo puts its own compiler's libraries there: another compiler must not load those.
            "LD_LIBRARY_PATH",
        ] {
            cargo.env_remove(name);
        }
        cargo.envs(self.environment.iter().map(|(name, value)| (name, value)));
        cargo.args(&self.arguments).stdin(Stdio::null());
        cargo
    }
}

/// The cargo on the PATH, or the one that runs us.
pub(super) fn cargo() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

pub(super) fn prepare(
    choice: Toolchain,
    installing: &mut dyn FnMut(&str),
) -> Result<Prepared, ToolchainError> {
    match choice {
        Toolchain::Rustup => rustup(installing).ok_or(ToolchainError::Rustup),
        Toolchain::Distribution => distribution(installing).ok_or(ToolchainError::Distribution),
        Toolchain::Auto => rustup(installing)
            .or_else(|| distribution(installing))
            .ok_or(ToolchainError::Distribution),
    }
}

fn rustup(installing: &mut dyn FnMut(&str)) -> Option<Prepared> {
    if !has_target(Path::new("rustc")) {
        installing("rustup target add wasm32-unknown-unknown");
        // A closed network may leave rustup waiting for minutes; timeout(1) ends that.
        succeeds(Command::new("timeout").args([
            RUSTUP_TIMEOUT_S,
            "rustup",
            "target",
            "add",
            TARGET,
        ]))
        .then_some(())?;
    }
    has_target(Path::new("rustc")).then(|| Prepared {
        program: cargo(),
        environment: Vec::new(),
        arguments: Vec::new(),
        target_directory: "guest",
    })
}

fn distribution(installing: &mut dyn FnMut(&str)) -> Option<Prepared> {
    let source = Path::new("/usr/lib/rustlib/src/rust/library/Cargo.lock");
    let compiler = Path::new("/usr/bin/rustc");
    let cargo = PathBuf::from("/usr/bin/cargo");
    if !(compiler.exists() && cargo.exists() && has_source(compiler, source) && linker().is_some())
    {
        installing("apt-get install rustc-web rust-web-src cargo-web lld");
        succeeds(Command::new("apt-get").args(["update", "-q"]));
        succeeds(
            Command::new("apt-get")
                .args(["install", "-q", "-y", "--no-install-recommends"])
                .args(PACKAGES)
                .env("DEBIAN_FRONTEND", "noninteractive"),
        )
        .then_some(())?;
    }
    let path = format!("/usr/bin:{}", env::var("PATH").unwrap_or_default());
    Some(Prepared {
        program: cargo,
        environment: vec![
            ("PATH", path),
            ("RUSTC", compiler.display().to_string()),
            // The distribution ships no library for this target; building it is a nightly feature of the same version.
            ("RUSTC_BOOTSTRAP", "1".into()),
            (
                "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER",
                linker()?.display().to_string(),
            ),
        ],
        arguments: vec!["-Zbuild-std=std,panic_abort"],
        target_directory: "guest-distribution",
    })
}

fn has_source(compiler: &Path, fallback: &Path) -> bool {
    sysroot(compiler)
        .map(|root| root.join("lib/rustlib/src/rust/library/Cargo.lock"))
        .is_some_and(|lock| lock.exists())
        || fallback.exists()
}

fn has_target(compiler: &Path) -> bool {
    sysroot(compiler)
        .map(|root| root.join("lib/rustlib").join(TARGET).join("lib"))
        .is_some_and(|directory| directory.is_dir())
}

fn sysroot(compiler: &Path) -> Option<PathBuf> {
    let output = Command::new(compiler)
        .args(["--print", "sysroot"])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(text.trim()))
}

/// The distribution's `wasm-ld`, or the `rust-lld` a rustup toolchain carries.
fn linker() -> Option<PathBuf> {
    let wasm_ld = PathBuf::from("/usr/bin/wasm-ld");
    if wasm_ld.exists() {
        return Some(wasm_ld);
    }
    let rustlib = sysroot(Path::new("rustc"))?.join("lib/rustlib");
    let host = std::fs::read_dir(rustlib).ok()?.filter_map(Result::ok);
    host.map(|entry| entry.path().join("bin/rust-lld"))
        .find(|lld| lld.exists())
}

fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
