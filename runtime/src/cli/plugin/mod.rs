//! `moorline plugin`: a file for each command.

use std::process::ExitCode;

use clap::Subcommand;

mod build;
mod dev;
mod device;
mod inspect;
mod new;
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
}

pub(super) fn plugin(command: PluginCommand) -> ExitCode {
    match command {
        PluginCommand::New(options) => new::new(&options),
        PluginCommand::Build(options) => build::build(&options),
        PluginCommand::Test(options) => test::test(&options),
        PluginCommand::Device(options) => device::device(&options),
        PluginCommand::Dev(options) => dev::dev(&options),
        PluginCommand::Inspect(options) => inspect::inspect(&options),
    }
}
