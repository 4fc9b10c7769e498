//! The command line: arguments in, exit code out.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{self, Diagnostic, Refused, Settings};
use crate::demo::part::{DemoOptions, Part};
use crate::plugins::{Kind, compiler};

mod audit;
mod broker;
mod check;
mod compile;
mod dead_letter;
mod doctor;
pub mod exit;
mod explain;
mod figures;
mod glob;
mod log;
mod plugin;
mod policy;
mod reload;
mod run;
mod spool;
mod stress;

/// Where a gateway's configuration is usually.
const DEFAULT_CONFIG: &str = "/etc/moorline/gateway.toml";

/// An edge gateway: one MQTT link that no plugin, reload or swap drops; device connectors are WebAssembly components.
#[derive(Debug, Parser)]
#[command(
    name = "moorline",
    version,
    about,
    propagate_version = true,
    arg_required_else_help = true
)]
pub struct Arguments {
    /// How to write the log (to standard error): human on a terminal, JSON otherwise.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Auto)]
    log: LogFormat,
    /// What to log, as in RUST_LOG: a level, or target=level pairs.
    #[arg(
        long,
        global = true,
        env = "MOORLINE_LOG",
        default_value = "info",
        value_name = "FILTER"
    )]
    log_level: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Auto,
    Human,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OutputFormat {
    Human,
    Json,
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration file.
    #[arg(
        long,
        short,
        value_name = "FILE",
        default_value = DEFAULT_CONFIG
    )]
    config: PathBuf,
}

impl ConfigFile {
    /// With its secrets: for who connects to the broker, or says whether one could.
    fn load(&self) -> Result<Settings, Refused> {
        config::load(&self.config).map_err(|refused| self.or_none_at_all(refused))
    }

    /// For who connects to no broker: whoever asks need not have the broker's secrets. What is wrong has been said.
    fn settings(&self) -> Result<Settings, ExitCode> {
        config::load_without_secrets(&self.config)
            .map_err(|refused| exit::fail(exit::CONFIG, &self.or_none_at_all(refused)))
    }

    /// Where nobody named a file and none lies in the usual place, that is what is wrong.
    fn or_none_at_all(&self, refused: Refused) -> Refused {
        let usual = self.config == Path::new(DEFAULT_CONFIG);
        if !usual || self.config.exists() {
            return refused;
        }
        Refused(vec![Diagnostic {
            file: self.config.clone(),
            position: None,
            field: String::new(),
            message: "there is no configuration in the usual place; name yours by --config FILE"
                .to_owned(),
        }])
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway until SIGINT or SIGTERM.
    #[command(
        after_help = "Example:\n  moorline check --config gateway.toml && moorline run --config gateway.toml"
    )]
    Run(ConfigFile),
    /// Tell the whole story in about two minutes: broker, devices, faults, swaps, audit.
    #[command(
        after_help = "Examples:\n  moorline demo\n  moorline demo --seconds 60 --report report.json"
    )]
    Demo(DemoOptions),
    /// Validate a configuration and its plugins without connecting.
    #[command(after_help = "Example:\n  moorline check --config gateway.toml --format json")]
    Check {
        #[command(flatten)]
        config: ConfigFile,
        /// How to print the findings.
        #[arg(long, value_enum, default_value_t = OutputFormat::Human)]
        format: OutputFormat,
    },
    /// Examine a broker, probe by probe, and say what does not fit the configuration and which line of it to change.
    ///
    /// Looks up the name, connects, checks certificates, asks in both MQTT versions, tries credentials, topics, QoS, sizes,
    /// windows, keep-alive and sessions: within about twenty seconds, with small messages on topics of its own, and empty
    /// objects on those of the gateway. It uses client ids of its own (CLIENT_ID-doctor-…), so that a running gateway is not
    /// disturbed; a broker with rules for each client id may treat it differently.
    ///
    /// Ends with 0 if the gateway can work with this broker, with 69 if something does not fit; warnings count only with
    /// --strict.
    #[command(
        after_help = "Examples:\n  moorline doctor --config gateway.toml\n  moorline doctor --config gateway.toml --json\n  moorline doctor mqtt://192.168.1.10 --username env:TB_ACCESS_TOKEN\n  moorline doctor mqtts://broker.plant.example --ca-file ca.pem --username line-7 --password file:/run/secrets/line-7"
    )]
    Doctor(doctor::DoctorOptions),
    /// Prove by sequence numbers that nothing is missing: a subscriber beside the platform, at the same broker.
    ///
    /// Reads ThingsBoard gateway telemetry and follows, for each device, a key that counts up by one: what is missing in
    /// between, what came twice, what came late, and how long it took. Connects as the configuration says, with a client id
    /// of its own (CLIENT_ID-audit-…) and a session that outlives its connections, which it takes away at the end.
    ///
    /// Goes on until it is interrupted, or as --seconds or --until-idle-s say. Ends with 0 if nothing is missing, with 65 if
    /// something is or nothing came at all, with 69 if the broker let it not subscribe.
    #[command(
        after_help = "Examples:\n  moorline audit --config gateway.toml --key seq\n  moorline audit --config gateway.toml --seconds 600 --json --report audit.json\n  moorline audit mqtt://192.168.1.10 --username env:TOKEN --device 'press-*' --until-idle-s 10 --expect 100000"
    )]
    Audit(audit::AuditOptions),
    /// Have a running gateway read its configuration again; a session that is up goes on.
    ///
    /// The link's settings count from its next attempt on, which is made now if the link waits or is parked. What needs a
    /// restart instead is named in the gateway's log. The file is checked first, and nothing is done if it is wrong.
    #[command(after_help = "Example:\n  moorline reload --config gateway.toml")]
    Reload(ConfigFile),
    /// Tell why something is as it is.
    #[command(subcommand)]
    Explain(Explain),
    /// Build, inspect, swap and list plugins.
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
    /// Look into the spool, carry readings out of it by hand, or give up what waits there.
    #[command(subcommand)]
    Spool(spool::SpoolCommand),
    /// Break the way to your own broker in every way there is, at a given load, and report what became of it.
    ///
    /// Uses the link, the policy and the disk as `moorline run` would, with test readings of devices named
    /// moorline-stress-1, … and a client id of its own. Ends with code 65 if anything was lost or not told as it was.
    #[command(
        after_help = "Examples:\n  moorline stress --config gateway.toml --minutes 10 --report stress.md\n  moorline stress --config gateway.toml --fault takeover --fault black-hole --yes --json stress.json"
    )]
    Stress(stress::StressOptions),
    /// Try reconnect policies.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// One process of the demo.
    #[command(subcommand, hide = true)]
    DemoPart(Part),
    /// Compile a component from standard input to standard output, within bounds.
    #[command(name = compiler::COMMAND, hide = true)]
    CompileComponent {
        /// What it is compiled for.
        kind: Kind,
    },
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Show what a fleet does to its broker after an outage, on virtual time, for each policy.
    ///
    /// Every gateway runs the real link machine and asks the real component. A broker that is away refuses connections; once
    /// back, it accepts so many CONNECTs per second, keeps a backlog in order, and refuses the rest. A policy that fails ends
    /// with code 65, after the results.
    #[command(
        after_help = "Examples:\n  moorline policy simulate full_jitter.wasm --builtin fixed-15s --svg fleet.svg\n  moorline policy simulate a.wasm b.wasm --fleet 2000 --outage-s 60 --accept-per-s 100 --json\n  moorline policy simulate --builtin immediate --builtin immediate-clamped --overload silent\n  moorline policy simulate maintenance_window.wasm --config window.json --at 2026-11-23T02:00:00+01:00"
    )]
    Simulate(policy::SimulateOptions),
}

#[derive(Debug, Subcommand)]
enum Explain {
    /// The link: what it is doing and why, when the next attempt is made and who decided that, and what went before.
    ///
    /// Reads the status and the journal in the state directory; the gateway need not run.
    #[command(
        after_help = "Examples:\n  moorline explain link --config gateway.toml\n  moorline explain link --state-dir /var/lib/moorline --last 50 --format json"
    )]
    Link(explain::LinkOptions),
}

/// Does what the arguments say.
#[must_use]
pub fn main(arguments: Arguments) -> ExitCode {
    // Before the log is installed: what is said on standard error is read by whoever asked.
    if let Command::CompileComponent { kind } = arguments.command {
        return compile::compile(kind);
    }
    compiler::compile_apart();
    let _log = match log::install(arguments.log, &arguments.log_level) {
        Ok(log) => log,
        Err(refusal) => return exit::fail(exit::USAGE, &refusal),
    };
    match arguments.command {
        Command::Run(file) => run::run(&file),
        Command::Demo(options) => run::demo(options),
        Command::Check { config, format } => check::check(&config, format),
        Command::Doctor(options) => doctor::doctor(options),
        Command::Audit(options) => audit::audit(options),
        Command::Reload(file) => reload::reload(&file),
        Command::Explain(Explain::Link(options)) => explain::link(&options),
        Command::Plugin(command) => plugin::plugin(command),
        Command::Spool(command) => spool::spool(command),
        Command::Stress(options) => stress::stress(&options),
        Command::Policy(PolicyCommand::Simulate(options)) => policy::simulate(&options),
        Command::DemoPart(part) => run::demo_part(part),
        Command::CompileComponent { kind } => compile::compile(kind),
    }
}
