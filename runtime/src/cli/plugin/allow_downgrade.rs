//! `moorline plugin allow-downgrade`.

use std::process::ExitCode;

use clap::Args;

use crate::cli::{ConfigFile, exit};
use crate::plugins::Kind;
use crate::trust::Place;

#[derive(Debug, Args)]
pub(in crate::cli) struct AllowDowngradeOptions {
    /// The connector, as the configuration names it.
    #[arg(required_unless_present = "policy")]
    connector: Option<String>,
    /// The reconnect policy instead.
    #[arg(long, conflicts_with = "connector")]
    policy: bool,
    #[command(flatten)]
    config: ConfigFile,
}

pub(super) fn allow_downgrade(options: &AllowDowngradeOptions) -> ExitCode {
    let settings = match options.config.settings() {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    let place = match &options.connector {
        Some(name) if settings.connectors.iter().any(|known| known.name == *name) => {
            Place::of(Kind::Connector, name)
        }
        Some(name) => {
            let known: Vec<_> = settings
                .connectors
                .iter()
                .map(|c| c.name.as_str())
                .collect();
            let why = format!(
                "{} has no connector {name:?}; it has {}",
                options.config.config.display(),
                known.join(", ")
            );
            return exit::fail(exit::USAGE, &why);
        }
        None if settings.policy.is_some() => Place::of(Kind::Policy, ""),
        None => {
            let why = format!("{} has no [policy]", options.config.config.display());
            return exit::fail(exit::USAGE, &why);
        }
    };
    match place.give_permit(&settings.state_dir) {
        Ok(()) => {
            exit::print(
                &"an older version may take over, once: a gateway that runs tries what it refused again now",
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            let path = place.permit(&settings.state_dir);
            let why = format!("{} cannot be written: {error}", path.display());
            exit::fail(exit::OS, &why)
        }
    }
}
