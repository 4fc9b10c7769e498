//! `moorline plugin`: a file for each command.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{ConfigFile, OutputFormat, exit};

mod allow_downgrade;
mod build;
mod dev;
mod device;
mod history;
mod inspect;
mod keygen;
mod keys;
mod ls;
mod new;
mod sign;
mod state;
mod swap;
mod test;
mod verify;

#[derive(Debug, Subcommand)]
pub(super) enum PluginCommand {
    /// Make the beginning of a plugin: a directory that builds, with a test and a configuration.
    #[command(
        after_help = "Examples:\n  moorline plugin new --lang python press-counter\n  moorline plugin new --lang c --kind policy calm"
    )]
    New(new::NewOptions),
    /// Build plugins into components and install what that needs.
    ///
    /// The language is told by Cargo.toml, by plugin.toml, or by the entry file: connector.py, policy.js, connector.c.
    /// Compilers for other languages than Rust go into a directory of Moorline's own (MOORLINE_TOOLS, by default
    /// ~/.cache/moorline/tools).
    #[command(
        after_help = "Examples:\n  moorline plugin build plugins/modbus-tcp\n  moorline plugin build plugins/* --out /var/lib/moorline/plugins"
    )]
    Build(build::BuildOptions),
    /// Try whether a component keeps the contract, in the real host, between a fake device and a fake platform.
    ///
    /// Ends with 0 if no rule is broken, with 65 if one is.
    #[command(
        after_help = "Examples:\n  moorline plugin test .\n  moorline plugin test modbus_tcp.wasm --with test.toml --format json\n  moorline plugin test meter.wasm --config '{\"device\":\"m-1\"}' --device tcp://127.0.0.1:5025\n  moorline plugin test calm.wasm --config '{}'"
    )]
    Test(test::TestOptions),
    /// Play the device that a plugin's test.toml describes, for a first run without hardware.
    #[command(
        after_help = "Example:\n  moorline plugin device press-counter --listen 127.0.0.1:5025"
    )]
    Device(device::DeviceOptions),
    /// Build whenever the source changes, and swap into a running gateway.
    #[command(
        after_help = "Examples:\n  moorline plugin dev . --config gateway.toml\n  moorline plugin dev . --config gateway.toml --key bench.key"
    )]
    Dev(dev::DevOptions),
    /// Show what a component is: world, versions, imports and the grants they ask for, signature, size, tools, configuration
    /// schema.
    ///
    /// What its imports ask for is granted to a connector by [connector.grants]; beside each grant is said what becomes of it
    /// without.
    #[command(
        after_help = "Examples:\n  moorline plugin inspect modbus_tcp.wasm\n  moorline plugin inspect modbus_tcp.wasm --config gateway.toml --format json"
    )]
    Inspect(inspect::InspectOptions),
    /// Have a running gateway look at a plugin's file and swap to what is in it, and wait for the end.
    ///
    /// A replaced file is noticed without this; here the outcome is told. The new generation is on probation first and gives
    /// way to the one before if it fails: with --proved that is waited for, too.
    ///
    /// Ends with 0 if the build serves, with 65 if it was refused or rolled back, or no gateway runs.
    #[command(
        after_help = "Examples:\n  moorline plugin swap modbus --config gateway.toml\n  moorline plugin swap modbus --file target/plugins/modbus_tcp.wasm --proved --config gateway.toml"
    )]
    Swap(swap::SwapOptions),
    /// Have a running gateway go back to the generation before the one that serves.
    ///
    /// On probation the one before comes back with the bytes it handed over; later the one that serves hands over to it. Its
    /// code is kept, nothing is compiled. The build that was taken back is not tried again until the file changes.
    ///
    /// Ends with 0 if the build before serves, with 65 if there is none or no gateway runs.
    #[command(
        name = "rollback",
        after_help = "Example:\n  moorline plugin rollback modbus --config gateway.toml"
    )]
    RollBack(swap::RollBackOptions),
    /// List the plugins: what serves, its build, and what a roll-back would bring back.
    ///
    /// Asks the running gateway; of a stopped one it says what served last.
    #[command(after_help = "Example:\n  moorline plugin ls --config gateway.toml --format json")]
    Ls(ListOptions),
    /// Show how each build fared: generation, version, outcome, reason and gap.
    ///
    /// Reads the journal in the state directory, which outlives the process and holds at least the last five hundred; the gateway
    /// need not run.
    #[command(
        after_help = "Examples:\n  moorline plugin history --config gateway.toml\n  moorline plugin history modbus --last 100 --config gateway.toml --format json"
    )]
    History(history::HistoryOptions),
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
    /// What plugins keep over restarts: list it, take it out for a backup, put it back.
    #[command(
        subcommand,
        after_help = "Examples:\n  moorline plugin state ls --config gateway.toml\n  moorline plugin state export --config gateway.toml --to state.json\n  moorline plugin state import state.json --config gateway.toml"
    )]
    State(state::StateCommand),
    /// Let a version that is older than the one that served last take over, once.
    #[command(
        after_help = "Examples:\n  moorline plugin allow-downgrade modbus --config gateway.toml\n  moorline plugin allow-downgrade --policy"
    )]
    AllowDowngrade(allow_downgrade::AllowDowngradeOptions),
}

pub(super) fn plugin(command: PluginCommand) -> ExitCode {
    match command {
        PluginCommand::New(options) => new::new(&options),
        PluginCommand::Build(options) => build::build(&options),
        PluginCommand::Test(options) => test::test(&options),
        PluginCommand::Device(options) => device::device(&options),
        PluginCommand::Dev(options) => dev::dev(&options),
        PluginCommand::Inspect(options) => inspect::inspect(&options),
        PluginCommand::Swap(options) => swap::swap(&options),
        PluginCommand::RollBack(options) => swap::roll_back(&options),
        PluginCommand::Ls(options) => ls::list(&options),
        PluginCommand::History(options) => history::history(&options),
        PluginCommand::Keygen(options) => keygen::keygen(&options),
        PluginCommand::Sign(options) => sign::sign(&options),
        PluginCommand::Verify(options) => verify::verify(&options),
        PluginCommand::State(command) => state::state(command),
        PluginCommand::AllowDowngrade(options) => allow_downgrade::allow_downgrade(&options),
    }
}

/// What the commands take that list something of a gateway.
#[derive(Debug, Args)]
pub(in crate::cli) struct ListOptions {
    #[command(flatten)]
    config: ConfigFile,
    /// How to print it.
    #[arg(long, value_enum, default_value_t = OutputFormat::Human)]
    format: OutputFormat,
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
