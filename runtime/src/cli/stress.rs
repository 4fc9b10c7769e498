//! `moorline stress`.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::run::with_runtime;
use super::{ConfigFile, exit};
use crate::config::Settings;
use crate::screen::Screen;
use crate::stress::campaign::Fault;
use crate::stress::report::Report;
use crate::stress::{self, StressError};

const SECONDS_PER_MINUTE: u64 = 60;

/// What `moorline stress` takes.
#[derive(Debug, Args)]
pub(super) struct StressOptions {
    #[command(flatten)]
    config: ConfigFile,
    /// About how long it may take; one round of all faults needs four minutes.
    #[arg(long, value_name = "M", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1_440))]
    minutes: u64,
    /// Readings per second.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Devices they come from, named moorline-stress-1 and so on.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    devices: u32,
    /// Try only this; may be given several times [default: all but takeover, which costs a minute or two].
    #[arg(long, value_enum, value_name = "NAME")]
    fault: Vec<Fault>,
    /// The same seed plays the same faults in the same order.
    #[arg(long, value_name = "X", default_value_t = 1)]
    seed: u64,
    /// Write the report to this file, as Markdown.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Write the report to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Do not ask before test readings are sent to a broker that is not on this machine.
    #[arg(long)]
    yes: bool,
}

pub(super) fn stress(options: &StressOptions) -> ExitCode {
    let settings = match options.config.load() {
        Ok(settings) => settings,
        Err(refused) => return exit::fail(exit::CONFIG, &refused),
    };
    if !options.yes && !allowed(&settings) {
        return exit::fail(
            exit::USAGE,
            &"nothing was sent; say --yes if test readings may go to this broker",
        );
    }
    let asked = stress::Options {
        budget: Duration::from_secs(options.minutes * SECONDS_PER_MINUTE),
        readings_per_s: options.rate,
        devices: options.devices,
        faults: if options.fault.is_empty() {
            Fault::USUAL.to_vec()
        } else {
            options.fault.clone()
        },
        seed: options.seed,
    };
    with_runtime(async {
        match stress::run(settings, &asked, &mut Screen::new()).await {
            Ok(report) => conclude(options, &report),
            Err(error) => exit::fail(code(&error), &error),
        }
    })
}

/// Test readings on a real platform make devices there: somebody must want that.
fn allowed(settings: &Settings) -> bool {
    let endpoint = stress::preferred(&settings.link);
    let here = endpoint.host == "localhost"
        || endpoint
            .host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    if here {
        return true;
    }
    let mut stderr = std::io::stderr();
    if !std::io::stdin().is_terminal() || !stderr.is_terminal() {
        return false;
    }
    let question = format!(
        "Send readings of devices {}1, … to {} and break the connection many times? [y/N] ",
        stress::DEVICE_PREFIX,
        endpoint.name()
    );
    // A question that cannot be asked is not answered with yes.
    if write!(stderr, "{question}")
        .and_then(|()| stderr.flush())
        .is_err()
    {
        return false;
    }
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).is_ok()
        && matches!(answer.trim(), "y" | "Y" | "yes")
}

fn conclude(options: &StressOptions, report: &Report) -> ExitCode {
    let page = report.markdown();
    exit::print(&page);
    if let Some(file) = &options.report
        && let Err(error) = std::fs::write(file, &page)
    {
        return exit::fail(
            exit::OS,
            &format!("{} cannot be written: {error}", file.display()),
        );
    }
    if let Some(file) = &options.json {
        let written = serde_json::to_vec_pretty(report)
            .map_err(std::io::Error::other)
            .and_then(|json| std::fs::write(file, json));
        if let Err(error) = written {
            return exit::fail(
                exit::OS,
                &format!("{} cannot be written: {error}", file.display()),
            );
        }
    }
    if report.passed() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(exit::DATA)
    }
}

fn code(error: &StressError) -> u8 {
    match error {
        StressError::Tls(_) => exit::CONFIG,
        StressError::NoTime(_) => exit::USAGE,
        StressError::Unresolved(..) | StressError::Unreachable { .. } | StressError::Refused(_) => {
            exit::DATA
        }
        StressError::Directory(..)
        | StressError::Spool(_)
        | StressError::Plugins(_)
        | StressError::Proxy(_) => exit::OS,
    }
}
