//! `moorline plugin build`: from a plugin's directory to a component.
//!
//! ```text
//!  directory ──► what is it?  Cargo.toml, plugin.toml, connector.*, policy.*
//!                  │ Rust        cargo build --target wasm32-unknown-unknown ──► core module ──wit-component──┐
//!                  │ C           zig cc ───────────────────────────────────────► core module ──wit-component──┤
//!                  │ Python      componentize-py ─────────────────────────────────────────────────────────────┤
//!                  └ JavaScript  componentize-qjs ────────────────────────────────────────────────────────────┴─► rename ──► out/name.wasm
//! ```
//!
//! The file appears in one step, so a gateway that watches it never meets half a component.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

mod c;
mod component;
mod files;
mod javascript;
mod manifest;
mod python;
mod rust;
mod toolchain;
mod tools;
pub(crate) mod wit;

pub use manifest::Language;
use manifest::Source;
pub(crate) use manifest::{check_name, stem};
pub use toolchain::{Toolchain, ToolchainError};
pub use tools::ToolError;

/// What to build with and where to put it.
#[derive(Clone, Debug, Default)]
pub struct BuildOptions {
    /// Which compiler for Rust.
    pub toolchain: Toolchain,
    /// The directory for the components; none = `target/plugins` of a crate's workspace, `build` of every other plugin.
    pub out: Option<PathBuf>,
}

/// A component that was built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltPlugin {
    /// Its name, for a crate the package's.
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
    /// Compiling these plugins; cargo's own output goes to standard error.
    Compiling(&'a [String]),
    /// A component is ready.
    Built(&'a BuiltPlugin),
}

/// Why no component came out.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The directory holds nothing that could be built.
    #[error("{path} is not a plugin: {detail}")]
    NotAPlugin {
        /// The directory.
        path: PathBuf,
        /// What is missing or too much.
        detail: String,
    },
    /// `plugin.toml` is wrong.
    #[error("{path}: {detail}")]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What and in which line.
        detail: String,
    },
    /// A compiler for another language could not be had.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// A compiler for another language refused.
    #[error("{tool} could not build {plugin}:\n{said}")]
    Refused {
        /// Which.
        tool: &'static str,
        /// The plugin.
        plugin: String,
        /// Its last lines.
        said: String,
    },
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
    #[error("{tool} could not compile {plugin}")]
    Compile {
        /// Which.
        tool: &'static str,
        /// The packages.
        plugin: String,
    },
    /// The module is no component of ours.
    #[error("{module} is not a Moorline guest: {detail}")]
    NotAGuest {
        /// The core module.
        module: PathBuf,
        /// What the encoder said, and what to do in its language.
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

/// The file name that the component of the plugin in `directory` will have.
///
/// # Errors
/// When there is no plugin, or cargo cannot describe its crate.
pub fn component_file_name(directory: &Path) -> Result<String, BuildError> {
    match manifest::describe(directory)? {
        Source::Crate(directory) => rust::component(&directory),
        Source::Files(files) => Ok(files.component()),
    }
}

/// Builds the plugins in these directories, all crates first; the answers are in the order of `directories`.
///
/// # Errors
/// At the first that cannot be built.
pub fn build_many(
    directories: &[PathBuf],
    options: &BuildOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<BuiltPlugin>, BuildError> {
    let sources: Vec<Source> = directories
        .iter()
        .map(|directory| manifest::describe(directory))
        .collect::<Result<_, _>>()?;
    let crates: Vec<&Path> = sources
        .iter()
        .filter_map(|source| match source {
            Source::Crate(directory) => Some(directory.as_path()),
            Source::Files(_) => None,
        })
        .collect();
    let mut crates_built = if crates.is_empty() {
        Vec::new()
    } else {
        rust::build(&crates, options, progress)?
    }
    .into_iter();
    let mut built = Vec::with_capacity(sources.len());
    for source in &sources {
        match source {
            Source::Crate(_) => built.extend(crates_built.next()),
            Source::Files(files) => built.push(files::build(files, options, progress)?),
        }
    }
    Ok(built)
}
