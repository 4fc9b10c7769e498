//! `moorline plugin`: a file for each command.

use std::process::ExitCode;

use clap::Subcommand;

mod build;
mod inspect;

#[derive(Debug, Subcommand)]
pub(super) enum PluginCommand {
    /// Build plugin crates into components and install what that needs.
    #[command(
        after_help = "Examples:\n  moorline plugin build plugins/modbus-tcp\n  moorline plugin build plugins/* --out /var/lib/moorline/plugins"
    )]
    Build(build::BuildOptions),
    /// Show what a component is: world, version, imports, size, configuration schema.
    #[command(after_help = "Example:\n  moorline plugin inspect modbus_tcp.wasm --format json")]
    Inspect(inspect::InspectOptions),
}

pub(super) fn plugin(command: PluginCommand) -> ExitCode {
    match command {
        PluginCommand::Build(options) => build::build(&options),
        PluginCommand::Inspect(options) => inspect::inspect(&options),
    }
}
