//! A crate: cargo compiles it, and the custom section that `wit-bindgen` left in the module makes it a component.
//!
//! Crates of one workspace share one cargo call.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use super::component::{encode, write_whole};
use super::toolchain::{self, Prepared};
use super::{BuildError, BuildOptions, BuiltPlugin, Progress};

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

/// Builds these crates; the answers are in their order.
pub(super) fn build(
    crates: &[&Path],
    options: &BuildOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<BuiltPlugin>, BuildError> {
    let mut workspaces: BTreeMap<PathBuf, Vec<(usize, Crate)>> = BTreeMap::new();
    for (at, directory) in crates.iter().enumerate() {
        let (root, described) = describe(directory)?;
        workspaces.entry(root).or_default().push((at, described));
    }
    let prepared = toolchain::prepare(options.toolchain, &mut |what| {
        progress(Progress::Installing(what));
    })?;
    let mut built = Vec::with_capacity(crates.len());
    for crates in workspaces.values() {
        let packages: Vec<String> = crates.iter().map(|(_, c)| c.package.clone()).collect();
        progress(Progress::Compiling(&packages));
        let target_directory = compile(crates, &prepared)?;
        for (at, member) in crates {
            let plugin = componentize(member, &target_directory, options.out.as_deref())?;
            progress(Progress::Built(&plugin));
            built.push((*at, plugin));
        }
    }
    built.sort_by_key(|(at, _)| *at);
    Ok(built.into_iter().map(|(_, plugin)| plugin).collect())
}

/// The file name of the crate's component.
pub(super) fn component(directory: &Path) -> Result<String, BuildError> {
    let (_root, described) = describe(directory)?;
    Ok(file_name(&described.library))
}

fn file_name(library: &str) -> String {
    format!("{library}.wasm")
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
fn compile(crates: &[(usize, Crate)], prepared: &Prepared) -> Result<PathBuf, BuildError> {
    let Some((_, first)) = crates.first() else {
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
    for (_, member) in crates {
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
        let packages: Vec<&str> = crates.iter().map(|(_, c)| c.package.as_str()).collect();
        return Err(BuildError::Compile {
            tool: "cargo",
            plugin: packages.join(", "),
        });
    }
    Ok(target_directory)
}

fn componentize(
    member: &Crate,
    target_directory: &Path,
    out: Option<&Path>,
) -> Result<BuiltPlugin, BuildError> {
    let file_name = file_name(&member.library);
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
        detail: format!(
            "{detail}\n(does it export what its world names? That is what export_connector! and export_policy! do)"
        ),
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
