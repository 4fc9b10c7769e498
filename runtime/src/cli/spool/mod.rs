//! `moorline spool`: looking into the spool, whether or not a gateway works on it, and giving up what waits there.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::dead_letter::{self, DeadLetterCommand};
use super::{ConfigFile, exit};
use crate::config::Settings;
use source::{Stream, Trouble};

mod dump;
mod export;
mod look;
mod progress;
mod purge;
mod source;
mod stat;
mod verify;

#[derive(Debug, Subcommand)]
pub(super) enum SpoolCommand {
    /// What is there: segments, what waits and from which devices, what was evicted or damaged, and how the medium wears.
    ///
    /// Reads only, and needs no gateway to stop for it. Of a running gateway the newest readings may be in its memory alone;
    /// status.json counts those, too.
    #[command(
        after_help = "Examples:\n  moorline spool stat --config gateway.toml\n  moorline spool stat --config gateway.toml --json"
    )]
    Stat(stat::StatOptions),
    /// Check every record there is, and name damage by file and place.
    ///
    /// Reads only. On a running gateway a record that is being written, and a segment that is used again meanwhile, are no
    /// damage: what looks like it is looked at again. Ends with 65 if anything is damaged.
    #[command(
        after_help = "Examples:\n  moorline spool verify --config gateway.toml\n  moorline spool verify --config gateway.toml --json"
    )]
    Verify(verify::VerifyOptions),
    /// Print the messages that wait, for people.
    #[command(
        after_help = "Examples:\n  moorline spool dump --config gateway.toml --limit 20\n  moorline spool dump --config gateway.toml --device 'press-*' --after 1048576\n  moorline spool dump --config gateway.toml --all"
    )]
    Dump(dump::DumpOptions),
    /// Write the readings that wait as NDJSON or CSV, so that they can be carried by hand.
    ///
    /// They stay in the spool: what arrives both ways arrives twice. Give them up with `moorline spool purge` if it must not.
    #[command(
        after_help = "Examples:\n  moorline spool export --config gateway.toml --to readings.ndjson\n  moorline spool export --config gateway.toml --format csv > readings.csv\n  moorline spool export --config gateway.toml --all --device press-1"
    )]
    Export(export::ExportOptions),
    /// Give up what waits, for good. It is counted as evicted.
    ///
    /// A running gateway is asked to do it (a file in the spool's directory and SIGHUP); otherwise it is done here. What was
    /// accepted after that stays.
    #[command(
        after_help = "Examples:\n  moorline spool export --config gateway.toml --to readings.ndjson && moorline spool purge --config gateway.toml\n  moorline spool purge --config gateway.toml --yes"
    )]
    Purge(purge::PurgeOptions),
    /// What the platform refused for good, no packet can carry, or the broker ended sessions over.
    #[command(
        subcommand,
        after_help = "Examples:\n  moorline spool dead-letter ls --config gateway.toml\n  moorline spool dead-letter show 3 --config gateway.toml\n  moorline spool dead-letter replay --all --config gateway.toml"
    )]
    DeadLetter(DeadLetterCommand),
}

/// Which spool is meant.
#[derive(Debug, Args)]
struct Which {
    #[command(flatten)]
    file: ConfigFile,
    /// Only this stream of the spool; may be given several times.
    #[arg(long, value_name = "NAME")]
    stream: Vec<String>,
}

/// The spool that is meant, found.
struct Found {
    settings: Settings,
    streams: Vec<Stream>,
}

impl Which {
    fn find(&self) -> Result<Found, ExitCode> {
        let settings = self.file.settings()?;
        let all = source::streams(&settings.spool.directory).map_err(|trouble| fail(&trouble))?;
        if let Some(unknown) = self
            .stream
            .iter()
            .find(|name| all.iter().all(|stream| stream.name != **name))
        {
            let names: Vec<_> = all.iter().map(|stream| stream.name.as_str()).collect();
            let there = format!(
                "there is no stream {unknown}; there are: {}",
                names.join(", ")
            );
            return Err(exit::fail(exit::USAGE, &there));
        }
        let chosen = |stream: &Stream| self.stream.is_empty() || self.stream.contains(&stream.name);
        Ok(Found {
            settings,
            streams: all.into_iter().filter(chosen).collect(),
        })
    }
}

/// Which messages are meant.
#[derive(Debug, Args)]
struct Filter {
    /// Also what was delivered or given up and can still be read.
    #[arg(long)]
    all: bool,
    /// Only of devices whose name matches, with * and ?.
    #[arg(long, value_name = "GLOB")]
    device: Option<String>,
    /// Only what comes after this sequence.
    #[arg(long, value_name = "SEQUENCE", default_value_t = 0)]
    after: u64,
    /// No more than this.
    #[arg(long, value_name = "N", default_value_t = u64::MAX, hide_default_value = true)]
    limit: u64,
}

fn fail(trouble: &Trouble) -> ExitCode {
    exit::fail(exit::OS, trouble)
}

pub(super) fn spool(command: SpoolCommand) -> ExitCode {
    let done = match command {
        SpoolCommand::DeadLetter(command) => return dead_letter::dead_letter(&command),
        SpoolCommand::Stat(options) => stat::stat(&options),
        SpoolCommand::Verify(options) => verify::verify(&options),
        SpoolCommand::Dump(options) => dump::dump(&options),
        SpoolCommand::Export(options) => export::export(&options),
        SpoolCommand::Purge(options) => purge::purge(&options),
    };
    done.unwrap_or_else(|code| code)
}
