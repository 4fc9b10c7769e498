//! `moorline plugin build`.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use crate::cli::exit;
use crate::plugin_build::{self, BuildError, Progress};

#[derive(Debug, Args)]
pub(in crate::cli) struct BuildOptions {
    /// Directories of plugins: crates, or those with a connector.* or policy.* in another language.
    #[arg(required = true, value_name = "DIR")]
    plugins: Vec<PathBuf>,
    /// Where the components go [default: target/plugins of a crate's workspace, build of any other plugin].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Which compiler to use for Rust.
    #[arg(long, value_enum, default_value_t = Toolchain::Auto)]
    toolchain: Toolchain,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Toolchain {
    /// rustup's if it can have the target, else the distribution's.
    Auto,
    /// rustup's.
    Rustup,
    /// Debian's rustc, with the standard library compiled from its source.
    Distribution,
}

impl From<Toolchain> for plugin_build::Toolchain {
    fn from(toolchain: Toolchain) -> Self {
        match toolchain {
            Toolchain::Auto => Self::Auto,
            Toolchain::Rustup => Self::Rustup,
            Toolchain::Distribution => Self::Distribution,
        }
    }
}

pub(super) fn build(options: &BuildOptions) -> ExitCode {
    let build_options = plugin_build::BuildOptions {
        toolchain: options.toolchain.into(),
        out: options.out.clone(),
    };
    match plugin_build::build_many(&options.plugins, &build_options, &mut |step| {
        show(&step);
        if let Progress::Built(plugin) = step {
            if std::io::stdout().is_terminal() {
                let kib = plugin.bytes / 1024;
                exit::print(&format!("{} ({kib} KiB)", plugin.path.display()));
            } else {
                exit::print(&plugin.path.display());
            }
        }
    }) {
        Ok(_printed) => ExitCode::SUCCESS,
        Err(error) => exit::fail(code(&error), &error),
    }
}

/// Whether the plugin is wrong, or what would build it cannot be had.
pub(super) fn code(error: &BuildError) -> u8 {
    match error {
        BuildError::Tool(_) | BuildError::Toolchain(_) => exit::UNAVAILABLE,
        BuildError::NotAPlugin { .. }
        | BuildError::Manifest { .. }
        | BuildError::Refused { .. }
        | BuildError::NotACrate { .. }
        | BuildError::NotACdylib { .. }
        | BuildError::Compile { .. }
        | BuildError::NotAGuest { .. } => exit::DATA,
        BuildError::File { .. } => exit::OS,
    }
}

/// Says what takes time, apart from results.
pub(super) fn show(step: &Progress<'_>) {
    match step {
        Progress::Installing(what) => exit::progress(&format!("installing {what}")),
        Progress::Compiling(plugins) => {
            exit::progress(&format!("compiling {}", plugins.join(", ")));
        }
        Progress::Built(_) => {}
    }
}
