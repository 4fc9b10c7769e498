//! `moorline plugin build`.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use crate::cli::exit;
use crate::plugin_build::{self, Progress};

#[derive(Debug, Args)]
pub(in crate::cli) struct BuildOptions {
    /// Directories of plugin crates.
    #[arg(required = true, value_name = "CRATE")]
    crates: Vec<PathBuf>,
    /// Where the components go [default: target/plugins of the crate's workspace].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Which compiler to use.
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
    let built = plugin_build::build_many(&options.crates, &build_options, &mut |step| match step {
        Progress::Installing(what) => exit::progress(&format!("installing {what}")),
        Progress::Compiling(packages) => {
            exit::progress(&format!("compiling {}", packages.join(", ")));
        }
        Progress::Built(plugin) => {
            let kib = plugin.bytes / 1024;
            if std::io::stdout().is_terminal() {
                exit::print(&format!("{} ({kib} KiB)", plugin.path.display()));
            } else {
                exit::print(&plugin.path.display());
            }
        }
    });
    match built {
        Ok(_printed) => ExitCode::SUCCESS,
        Err(error) => exit::fail(exit::DATA, &error),
    }
}
