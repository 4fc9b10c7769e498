//! `moorline plugin build` and `moorline plugin inspect`.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::run::with_runtime;
use super::{OutputFormat, exit};
use crate::plugin_build::{self, Progress};
use crate::plugins::{self, Inspection};

#[derive(Debug, Args)]
pub(super) struct BuildOptions {
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

pub(super) fn inspect(file: &Path, format: OutputFormat) -> ExitCode {
    with_runtime(async {
        match plugins::inspect(file).await {
            Ok(inspection) => {
                match format {
                    OutputFormat::Human => exit::print(&human(file, &inspection)),
                    OutputFormat::Json => exit::print(&as_json(file, &inspection)),
                }
                ExitCode::SUCCESS
            }
            Err(failure) => exit::fail(exit::DATA, &format!("{} {failure}", file.display())),
        }
    })
}

fn human(file: &Path, inspection: &Inspection) -> String {
    let Inspection {
        kind,
        name,
        version,
        configuration_schema,
        hand_over_schema,
        imports,
        exports,
        bytes,
        digest,
    } = inspection;
    let mut lines = vec![
        format!("{name} {version}, a {} ({})", kind.name(), file.display()),
        format!("  size      {} KiB, digest {digest}", bytes / 1024),
    ];
    if let Some(schema) = hand_over_schema {
        lines.push(format!("  hand-over schema {schema}"));
    }
    lines.push(format!("  imports   {}", listed(imports)));
    lines.push(format!("  exports   {}", listed(exports)));
    if !configuration_schema.is_empty() {
        let pretty = serde_json::from_str::<serde_json::Value>(configuration_schema)
            .and_then(|schema| serde_json::to_string_pretty(&schema))
            .unwrap_or_else(|_not_json| configuration_schema.clone());
        lines.push("  configuration schema".to_owned());
        lines.extend(pretty.lines().map(|line| format!("    {line}")));
    }
    lines.join("\n")
}

fn listed(interfaces: &[String]) -> String {
    if interfaces.is_empty() {
        "nothing".to_owned()
    } else {
        interfaces.join("\n            ")
    }
}

fn as_json(file: &Path, inspection: &Inspection) -> serde_json::Value {
    let schema: serde_json::Value =
        serde_json::from_str(&inspection.configuration_schema).unwrap_or_default();
    json!({
        "file": file,
        "world": inspection.kind.name(),
        "name": inspection.name,
        "version": inspection.version,
        "hand_over_schema": inspection.hand_over_schema,
        "imports": inspection.imports,
        "exports": inspection.exports,
        "bytes": inspection.bytes,
        "digest": inspection.digest.to_string(),
        "configuration_schema": schema,
    })
}
