//! `moorline plugin`: a file for each command.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

use super::{OutputFormat, exit};

mod allow_downgrade;
mod build;
mod inspect;
mod keygen;
mod keys;
mod sign;
mod verify;

#[derive(Debug, Subcommand)]
pub(super) enum PluginCommand {
    /// Build plugin crates into components and install what that needs.
    #[command(
        after_help = "Examples:\n  moorline plugin build plugins/modbus-tcp\n  moorline plugin build plugins/* --out /var/lib/moorline/plugins"
    )]
    Build(build::BuildOptions),
    /// Show what a component is: world, versions, imports, signature, size, tools, configuration schema.
    #[command(
        after_help = "Examples:\n  moorline plugin inspect modbus_tcp.wasm\n  moorline plugin inspect modbus_tcp.wasm --config gateway.toml --format json"
    )]
    Inspect(inspect::InspectOptions),
    /// Make a key pair to sign plugins with.
    ///
    /// The files are minisign's: the secret key, which only its owner can read and a password seals, and the public key.
    #[command(
        after_help = "Examples:\n  moorline plugin keygen plant\n  moorline plugin keygen plant --password file:/run/secrets/plant --format json\n  moorline plugin keygen bench --no-password"
    )]
    Keygen(keygen::KeygenOptions),
    /// Sign components: writes PLUGIN.wasm.minisig beside each.
    ///
    /// Says in the signature's trusted comment which name, version and SHA-256 it is for. `minisign -V` verifies it, too.
    #[command(
        after_help = "Examples:\n  moorline plugin sign modbus_tcp.wasm --key plant.key\n  moorline plugin sign *.wasm --key plant.key --password env:SIGNING_PASSWORD"
    )]
    Sign(sign::SignOptions),
    /// Verify the signatures of components. Ends with 0 if all are good, with 65 if one is not.
    #[command(
        after_help = "Examples:\n  moorline plugin verify modbus_tcp.wasm --key plant.pub\n  moorline plugin verify *.wasm --config gateway.toml --format json"
    )]
    Verify(verify::VerifyOptions),
    /// Let a version that is older than the one that served last take over, once.
    #[command(
        after_help = "Examples:\n  moorline plugin allow-downgrade modbus --config gateway.toml\n  moorline plugin allow-downgrade --policy"
    )]
    AllowDowngrade(allow_downgrade::AllowDowngradeOptions),
}

pub(super) fn plugin(command: PluginCommand) -> ExitCode {
    match command {
        PluginCommand::Build(options) => build::build(&options),
        PluginCommand::Inspect(options) => inspect::inspect(&options),
        PluginCommand::Keygen(options) => keygen::keygen(&options),
        PluginCommand::Sign(options) => sign::sign(&options),
        PluginCommand::Verify(options) => verify::verify(&options),
        PluginCommand::AllowDowngrade(options) => allow_downgrade::allow_downgrade(&options),
    }
}

/// Prints a result as asked for; if it was not, for people on a terminal and as JSON elsewhere.
fn print(asked: Option<OutputFormat>, human: &str, report: &Value) {
    let terminal = std::io::stdout().is_terminal();
    let format = asked.unwrap_or(if terminal {
        OutputFormat::Human
    } else {
        OutputFormat::Json
    });
    match format {
        OutputFormat::Human => exit::print(&human),
        OutputFormat::Json => exit::print(report),
    }
}
