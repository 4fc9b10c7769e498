//! `moorline stress`: a campaign of faults against the user's own broker, before deployment.
//!
//! ```text
//!  load ──► spool ──► link ──► fault proxy ──► the user's broker
//!                      └── policy, settings, TLS, credentials: those of the configuration
//! ```
//!
//! Everything is what `moorline run` uses, except that the load takes the place of the connectors, the client id has a
//! suffix, and the spool has a directory of its own beside the real one, on the same disk. What is delivered is what the
//! broker acknowledged.

pub(crate) mod campaign;
mod load;
pub(crate) mod report;
mod stage;
mod trial;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use moorline_core::spool::dead_letter::Reason;
use thiserror::Error;

use crate::config::Settings;
use crate::link::TlsSetupError;
use crate::plugins::StartError;
use crate::screen::{Screen, Tone};
use crate::spool::OpenError;
use campaign::Fault;
use report::{Balance, Outcome, Report, in_seconds, seconds};
use stage::Stage;

pub(crate) use load::DEVICE_PREFIX;
pub(crate) use stage::preferred;

/// For the spool to empty after the last trial.
const DRAINED: Duration = Duration::from_secs(60);

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// How long it may take, about.
    pub(crate) budget: Duration,
    /// The load.
    pub(crate) readings_per_s: u32,
    /// How many devices it comes from.
    pub(crate) devices: u32,
    /// What is tried.
    pub(crate) faults: Vec<Fault>,
    /// The same seed gives the same plan.
    pub(crate) seed: u64,
}

/// Why there is no report.
#[derive(Debug, Error)]
pub(crate) enum StressError {
    /// The broker's name.
    #[error("{0} does not resolve: {1}; see `moorline doctor`")]
    Unresolved(String, #[source] io::Error),
    /// The broker cannot be reached before anything is broken.
    #[error(
        "the broker could not be reached before anything was broken: {told}\nWhat to do: {advice}"
    )]
    Unreachable {
        /// The last disconnect.
        told: String,
        /// What a person can do about it.
        advice: &'static str,
    },
    /// The broker is there and takes nothing of the load.
    #[error(
        "the broker takes no reading, before anything was broken: {0}\nWhat to do: `moorline doctor` tells which topics, \
         rights and sizes it refuses"
    )]
    Refused(Reason),
    /// Its own directory.
    #[error("{0} cannot be used: {1}; it lies in gateway.state_dir, which must be writable")]
    Directory(PathBuf, #[source] io::Error),
    /// The spool.
    #[error("the spool cannot be opened: {0}")]
    Spool(#[from] OpenError),
    /// The plugin host.
    #[error(transparent)]
    Plugins(#[from] StartError),
    /// TLS.
    #[error("TLS cannot be set up from [link.tls]: {0}")]
    Tls(#[from] TlsSetupError),
    /// The fault proxy.
    #[error("the fault proxy failed: {0}")]
    Proxy(#[source] io::Error),
    /// No trial fits.
    #[error("no trial fits into {0:?}")]
    NoTime(Duration),
}

/// Plays a campaign. Progress goes to the screen.
///
/// # Errors
/// When it cannot begin. What goes wrong in a trial is in the report.
pub(crate) async fn run(
    settings: Settings,
    options: &Options,
    screen: &mut Screen,
) -> Result<Report, StressError> {
    let trials = campaign::plan(&options.faults, options.budget, options.seed);
    if trials.is_empty() {
        return Err(StressError::NoTime(options.budget));
    }
    let mut stage = Stage::open(settings, options).await?;
    let begun = tokio::time::Instant::now();
    stage.ready().await?;
    screen.say(
        Tone::Title,
        &format!(
            "{} trials against {}, {} readings/s, seed {}",
            trials.len(),
            stage.broker(),
            options.readings_per_s,
            options.seed
        ),
    );
    let mut outcomes = Vec::with_capacity(trials.len());
    let mut problems = Vec::new();
    for (index, trial) in trials.iter().enumerate() {
        screen.refresh(&format!(
            "{}/{} {}: {}",
            index + 1,
            trials.len(),
            trial.fault.name(),
            trial.fault.words()
        ));
        let outcome = trial::play(&mut stage, trial).await?;
        say(screen, &outcome);
        let recovered = outcome.recovered_s.is_some();
        outcomes.push(outcome);
        if !recovered {
            problems
                .push("the link did not come back: the trials after it were not played".to_owned());
            break;
        }
    }
    let tried = |fault: &Fault| outcomes.iter().any(|outcome| outcome.fault == *fault);
    let untried = options
        .faults
        .iter()
        .copied()
        .filter(|fault| !tried(fault))
        .collect();
    let drained = stage.drained(DRAINED).await;
    let took = begun.elapsed();
    let mut report = Report {
        broker: stage.broker().to_owned(),
        client_id: stage.client_id().to_owned(),
        mqtt_version: stage.mqtt_version(),
        seed: options.seed,
        readings_per_s: options.readings_per_s,
        took_s: in_seconds(took),
        trials: outcomes,
        untried,
        balance: stage.balance(),
        problems,
    };
    if !drained {
        report.problems.push(format!(
            "{} readings still waited {DRAINED:?} after the last trial: the broker takes less than {} readings/s",
            report.balance.waiting, options.readings_per_s
        ));
    }
    report.problems.extend(losses(&report.balance));
    stage.close().await?;
    Ok(report)
}

fn say(screen: &mut Screen, outcome: &Outcome) {
    let tone = if outcome.problems.is_empty() {
        Tone::Good
    } else {
        Tone::Bad
    };
    let mut line = format!(
        "{}: {}",
        outcome.fault.name(),
        report::counted(&outcome.causes)
    );
    if outcome.detected_s.is_some() {
        line.push_str(&format!(", found after {}", seconds(outcome.detected_s)));
    }
    line.push_str(&format!(", back after {}", seconds(outcome.recovered_s)));
    for problem in &outcome.problems {
        line.push_str("; ");
        line.push_str(problem);
    }
    screen.say(tone, &line);
}

/// What is gone, and what would have kept it.
fn losses(balance: &Balance) -> Vec<String> {
    let found = [
        (
            balance.evicted,
            "were evicted because the spool was full: raise spool.bytes_max, or lower the load",
        ),
        (
            balance.damaged,
            "could not be read back from the spool: look at the disk",
        ),
        (
            balance.dead_lettered,
            "were refused by the broker for good: look at its access rules and limits",
        ),
    ];
    found
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} readings {what}"))
        .collect()
}
