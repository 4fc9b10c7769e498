//! `moorline plugin build`: from a crate to a component, with nothing but cargo.
//!
//! ```text
//!  crate ──cargo build --target wasm32-unknown-unknown──► core module ──wit-component──► component ──rename──► out/name.wasm
//! ```
//!
//! Crates of one workspace share one cargo call. The file appears in one step, so a gateway that watches it never meets
//! half a component.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use thiserror::Error;

mod toolchain;

use toolchain::Prepared;
pub use toolchain::{Toolchain, ToolchainError};

/// What to build with and where to put it.
#[derive(Clone, Debug, Default)]
pub struct BuildOptions {
    /// Which compiler.
    pub toolchain: Toolchain,
    /// The directory for the components; none = `target/plugins` of the crate's workspace.
    pub out: Option<PathBuf>,
}

/// A component that was built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltPlugin {
    /// The package.
    pub name: String,
    /// The component.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
}

/// What is happening.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress<'a> {
    /// Installing what is missing.
    Installing(&'a str),
    /// Compiling these packages; cargo's own output goes to standard error.
    Compiling(&'a [String]),
    /// A component is ready.
    Built(&'a BuiltPlugin),
}

/// Why no component came out.
#[derive(Debug, Error)]
pub enum BuildError {
    /// There is no crate.
    #[error("{path} is not a crate: {detail}")]
    NotACrate {
        /// Where it was looked for.
        path: PathBuf,
        /// What cargo said.
        detail: String,
    },
    /// The crate is no plugin.
    #[error(
        "{name} builds no cdylib: add `[lib] crate-type = [\"cdylib\", \"rlib\"]` to {manifest}"
    )]
    NotACdylib {
        /// The package.
        name: String,
        /// Its manifest.
        manifest: PathBuf,
    },
    /// No compiler for WebAssembly could be had.
    #[error(transparent)]
    Toolchain(#[from] ToolchainError),
    /// The compiler refused; what it said went to standard error.
    #[error("cargo could not compile {packages}")]
    Compile {
        /// The packages.
        packages: String,
    },
    /// The module is no component of ours.
    #[error(
        "{module} is not a Moorline guest: {detail}\n(does the crate call export_connector! or export_policy!?)"
    )]
    NotAGuest {
        /// The core module.
        module: PathBuf,
        /// What the encoder said.
        detail: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    target_directory: PathBuf,
    workspace_root: PathBuf,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    crate_types: Vec<String>,
}

/// One crate, as cargo describes it.
struct Crate {
    package: String,
    library: String,
    manifest: PathBuf,
    target_directory: PathBuf,
}

/// Builds these crates.
///
/// # Errors
/// At the first that cannot be built.
pub fn build_many(
    crates: &[PathBuf],
    options: &BuildOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<BuiltPlugin>, BuildError> {
    let mut workspaces: BTreeMap<PathBuf, Vec<Crate>> = BTreeMap::new();
    for directory in crates {
        let (root, described) = describe(directory)?;
        workspaces.entry(root).or_default().push(described);
    }
    let prepared = toolchain::prepare(options.toolchain, &mut |what| {
        progress(Progress::Installing(what));
    })?;
    let mut built = Vec::with_capacity(crates.len());
    for crates in workspaces.values() {
        let packages: Vec<String> = crates.iter().map(|c| c.package.clone()).collect();
        progress(Progress::Compiling(&packages));
        let target_directory = compile(crates, &prepared)?;
        for member in crates {
            let plugin = componentize(member, &target_directory, options.out.as_deref())?;
            progress(Progress::Built(&plugin));
            built.push(plugin);
        }
    }
    Ok(built)
}

fn describe(directory: &Path) -> Result<(PathBuf, Crate), BuildError> {
    let not_a_crate = |detail: String| BuildError::NotACrate {
        path: directory.to_owned(),
        detail,
    };
    let manifest = directory
        .join("Cargo.toml")
        .canonicalize()
        .map_err(|error| not_a_crate(format!("Cargo.toml: {error}")))?;
    let output = Command::new(toolchain::cargo())
        .args([
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
            "--manifest-path",
        ])
        .arg(&manifest)
        .output()
        .map_err(|error| not_a_crate(format!("cargo cannot be run: {error}")))?;
    if !output.status.success() {
        return Err(not_a_crate(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        ));
    }
    let metadata: Metadata = serde_json::from_slice(&output.stdout)
        .map_err(|error| not_a_crate(format!("cargo metadata: {error}")))?;
    let package = metadata
        .packages
        .into_iter()
        .find(|package| package.manifest_path == manifest)
        .ok_or_else(|| not_a_crate("a workspace without a package of its own".into()))?;
    let library = package
        .targets
        .into_iter()
        .find(|target| target.crate_types.iter().any(|kind| kind == "cdylib"))
        .ok_or_else(|| BuildError::NotACdylib {
            name: package.name.clone(),
            manifest: manifest.clone(),
        })?;
    let described = Crate {
        package: package.name,
        library: library.name.replace('-', "_"),
        manifest,
        target_directory: metadata.target_directory,
    };
    Ok((metadata.workspace_root, described))
}

/// Compiles the crates of one workspace and says where the modules are.
fn compile(crates: &[Crate], prepared: &Prepared) -> Result<PathBuf, BuildError> {
    let Some(first) = crates.first() else {
        return Ok(PathBuf::new());
    };
    let target_directory = first.target_directory.join(prepared.target_directory);
    let mut cargo = prepared.cargo();
    cargo
        .args([
            "build",
            "--release",
            "--target",
            toolchain::TARGET,
            "--manifest-path",
        ])
        .arg(&first.manifest)
        .arg("--target-dir")
        .arg(&target_directory);
    for member in crates {
        cargo.args(["--package", &member.package]);
    }
    // Guests are small and live for long: size first, and nothing to unwind.
    cargo
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "s")
        .env("CARGO_PROFILE_RELEASE_LTO", "fat")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo");
    let compiled = cargo.status().is_ok_and(|status| status.success());
    if !compiled {
        let packages: Vec<&str> = crates.iter().map(|c| c.package.as_str()).collect();
        return Err(BuildError::Compile {
            packages: packages.join(", "),
        });
    }
    Ok(target_directory)
}

fn componentize(
    member: &Crate,
    target_directory: &Path,
    out: Option<&Path>,
) -> Result<BuiltPlugin, BuildError> {
    let file_name = format!("{}.wasm", member.library);
    let module_path = target_directory
        .join(toolchain::TARGET)
        .join("release")
        .join(&file_name);
    let module = std::fs::read(&module_path).map_err(|source| BuildError::File {
        path: module_path.clone(),
        source,
    })?;
    let component = encode(&module).map_err(|detail| BuildError::NotAGuest {
        module: module_path.clone(),
        detail,
    })?;
    let out = out.map_or_else(|| member.target_directory.join("plugins"), Path::to_owned);
    let path = out.join(&file_name);
    write_whole(&out, &path, &component).map_err(|source| BuildError::File {
        path: path.clone(),
        source,
    })?;
    Ok(BuiltPlugin {
        name: member.package.clone(),
        path,
        bytes: component.len() as u64,
    })
}

/// Wraps a core module whose custom section names its world into a component.
fn encode(module: &[u8]) -> Result<Vec<u8>, String> {
    let encoded = wit_component::ComponentEncoder::default()
        .validate(true)
        .module(module)
        .and_then(|mut encoder| encoder.encode());
    // The encoder's error is a chain of words without a type; it is shown, never matched on.
    encoded.map_err(|error| format!("{error:#}"))
}

fn write_whole(directory: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let draft = path.with_extension("wasm.new");
    std::fs::write(&draft, bytes)?;
    std::fs::rename(draft, path)
}
