//! `moorline plugin`: a file for each command.

use std::process::ExitCode;

use clap::Subcommand;

mod build;
mod dev;
mod device;
mod history;
mod inspect;
mod ls;
mod new;
mod swap;
mod test;

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
    #[command(after_help = "Example:\n  moorline plugin dev . --config gateway.toml")]
    Dev(dev::DevOptions),
    /// Show what a component is: world, version, imports, size, configuration schema.
    #[command(after_help = "Example:\n  moorline plugin inspect modbus_tcp.wasm --format json")]
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
    Ls(ls::ListOptions),
    /// Show how each build fared: generation, version, outcome, reason and gap.
    ///
    /// Reads the journal in the state directory, which outlives the process and holds at least the last five hundred; the gateway
    /// need not run.
    #[command(
        after_help = "Examples:\n  moorline plugin history --config gateway.toml\n  moorline plugin history modbus --last 100 --config gateway.toml --format json"
    )]
    History(history::HistoryOptions),
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
    }
}
