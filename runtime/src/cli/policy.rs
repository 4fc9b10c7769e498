//! `moorline policy simulate`.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use moorline_core::fleet::{self as core_fleet, Fleet, Scenario};
use moorline_core::link::policy::LocalTime;
use moorline_core::swap::{Failure, Reason};
use moorline_core::time::TimestampMs;

use super::exit;
use super::run::with_runtime;
use crate::bounded_file;
use crate::fleet::{self, Builtin, Contender, Played};
use crate::link::LinkSettings;
use crate::plugins::Contradiction;

/// The largest configuration of a policy that is read.
const CONFIGURATION_BYTES_MAX: u64 = 1024 * 1024;
const ERASE_LINE: &str = "\r\x1b[2K";

/// What `moorline policy simulate` takes.
#[derive(Debug, Args)]
pub(super) struct SimulateOptions {
    /// Policy components.
    #[arg(value_name = "POLICY", required_unless_present = "builtin")]
    policies: Vec<PathBuf>,
    /// Compare with this; may be given several times.
    #[arg(long, value_enum, value_name = "NAME")]
    builtin: Vec<Builtin>,
    /// The configuration of a policy: a JSON object, or a file with one. The first belongs to the first POLICY, and so on.
    #[arg(long, value_name = "JSON|FILE")]
    config: Vec<String>,
    /// What the gateways' clocks show when the broker goes away, with the offset from UTC [default: they have none].
    #[arg(long, value_name = "TIME", value_parser = local_time)]
    at: Option<LocalTime>,
    /// The gateways' links are metered.
    #[arg(long)]
    metered: bool,
    /// How many gateways lose their broker.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    fleet: u32,
    /// How long the broker is away.
    #[arg(long, value_name = "S", default_value_t = 300, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    outage_s: u64,
    /// How many CONNECTs the broker accepts per second when it is back.
    #[arg(long, value_name = "R", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    accept_per_s: u32,
    /// How many CONNECTs may wait at the broker [default: those of two seconds].
    #[arg(long, value_name = "N")]
    backlog: Option<u32>,
    /// What the broker does with a CONNECT for which its backlog has no place.
    #[arg(long, value_enum, default_value_t = Overload::Busy)]
    overload: Overload,
    /// The same seed gives the same result, to the byte.
    #[arg(long, value_name = "X", default_value_t = 1)]
    seed: u64,
    /// Draw the attempts per second of all policies into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Overload {
    /// Answers CONNACK 0x89, server busy.
    Busy,
    /// Does not answer; the gateway's CONNACK deadline passes.
    Silent,
}

impl From<Overload> for core_fleet::Overload {
    fn from(overload: Overload) -> Self {
        match overload {
            Overload::Busy => Self::Busy,
            Overload::Silent => Self::Silent,
        }
    }
}

impl SimulateOptions {
    fn scenario(&self) -> Scenario {
        // A gateway's defaults; where its broker is plays no part.
        let gateway = LinkSettings::new("", 0, "", PathBuf::new());
        Scenario {
            gateways: self.fleet,
            outage: Duration::from_secs(self.outage_s),
            accept_per_s: self.accept_per_s,
            backlog: self
                .backlog
                .unwrap_or_else(|| self.accept_per_s.saturating_mul(2)),
            overload: self.overload.into(),
            connack_timeout: gateway.timeouts.connack,
            seed: self.seed,
            link: gateway.limits(),
            local_time: self.at,
            metered: self.metered,
        }
    }
}

/// `2026-11-23T02:00:00+01:00`.
fn local_time(text: &str) -> Result<LocalTime, String> {
    let wanted = "is not a time such as 2026-11-23T02:00:00+01:00";
    let at: jiff::Timestamp = text.parse().map_err(|error| format!("{wanted}: {error}"))?;
    let pieces = jiff::fmt::temporal::Pieces::parse(text).map_err(|_| wanted.to_owned())?;
    let offset = pieces
        .to_numeric_offset()
        .ok_or_else(|| wanted.to_owned())?;
    let utc = u64::try_from(at.as_millisecond()).map_err(|_| "is before 1970".to_owned())?;
    let time = LocalTime {
        utc: TimestampMs(utc),
        offset_min: offset.seconds() / 60,
    };
    time.plausible()
        .ok_or_else(|| "is before 2020, when no gateway believes its clock".to_owned())
}

/// What `--config` says: JSON, or where it is.
fn configuration(text: &str) -> Result<serde_json::Value, String> {
    let (json, name) = if text.trim_start().starts_with('{') {
        (text.to_owned(), "--config")
    } else {
        let json = bounded_file::read_text(Path::new(text), CONFIGURATION_BYTES_MAX)
            .map_err(|error| format!("{text} cannot be read: {error}"))?;
        (json, text)
    };
    match serde_json::from_str(&json) {
        Ok(object @ serde_json::Value::Object(_)) => Ok(object),
        Ok(_) => Err(format!("{name} holds no JSON object")),
        Err(error) => Err(format!("{name} holds no JSON object: {error}")),
    }
}

/// Why there is no result.
enum Refusal {
    Usage(String),
    Load(PathBuf, Failure),
    Stateful(String, Contradiction),
}

impl Refusal {
    fn tell(&self) -> ExitCode {
        match self {
            Self::Usage(why) => exit::fail(exit::USAGE, why),
            Self::Load(file, failure) => {
                let code = match failure.reason {
                    Reason::Host => exit::SOFTWARE,
                    Reason::Unreadable
                    | Reason::NotAComponent
                    | Reason::WrongWorld
                    | Reason::Trapped
                    | Reason::Stalled
                    | Reason::OverLimit
                    | Reason::Refused
                    | Reason::Faulty
                    | Reason::Silent
                    | Reason::Ordered
                    | Reason::Unsigned
                    | Reason::UnknownKey
                    | Reason::BadSignature
                    | Reason::Downgrade => exit::DATA,
                };
                exit::fail(code, &format!("{} {failure}", file.display()))
            }
            Self::Stateful(name, contradiction) => {
                let Contradiction {
                    attempt,
                    used,
                    fresh,
                } = contradiction;
                exit::fail(
                    exit::DATA,
                    &format!(
                        "{name} keeps state between two questions, which a policy must not: asked about attempt {attempt}, \
                         an instance that had been asked before answers {used:?}, a fresh one {fresh:?}"
                    ),
                )
            }
        }
    }
}

pub(super) fn simulate(options: &SimulateOptions) -> ExitCode {
    let scenario = options.scenario();
    with_runtime(async {
        let played = match play(options, &scenario).await {
            Ok(played) => played,
            Err(refusal) => return refusal.tell(),
        };
        if let Some(file) = &options.svg
            && let Err(error) = std::fs::write(file, fleet::chart(&scenario, &played))
        {
            let why = format!("{} cannot be written: {error}", file.display());
            return exit::fail(exit::OS, &why);
        }
        if options.json {
            match fleet::report(&scenario, &played) {
                Ok(report) => exit::print(&report),
                Err(error) => return exit::fail(exit::DATA, &error),
            }
        } else {
            let terminal =
                std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            exit::print(&fleet::table(&scenario, &played, terminal));
        }
        verdict(&played)
    })
}

async fn play(options: &SimulateOptions, scenario: &Scenario) -> Result<Vec<Played>, Refusal> {
    let mut contenders = Vec::new();
    if options.config.len() > options.policies.len() {
        let why =
            "there are more --config than policies: the first belongs to the first, and so on";
        return Err(Refusal::Usage(why.to_owned()));
    }
    for (index, file) in options.policies.iter().enumerate() {
        let given = options.config.get(index).map(|text| configuration(text));
        let configuration = given.transpose().map_err(Refusal::Usage)?;
        let configuration = configuration.unwrap_or_else(|| serde_json::json!({}));
        let loaded = Contender::component(file, &configuration).await;
        contenders.push(loaded.map_err(|failure| Refusal::Load(file.clone(), failure))?);
    }
    contenders.extend(options.builtin.iter().copied().map(Contender::builtin));
    fleet::tell_apart(&mut contenders);
    let terminal = std::io::stderr().is_terminal();
    let mut played = Vec::new();
    for contender in contenders {
        let name = contender.name.clone();
        let result = contender.play(scenario, &mut |name, until, fleet| {
            if terminal {
                show_progress(name, until, fleet);
            }
        });
        if terminal {
            write!(std::io::stderr(), "{ERASE_LINE}").unwrap_or_default();
        }
        played.push(result.map_err(|contradiction| Refusal::Stateful(name, contradiction))?);
    }
    Ok(played)
}

fn show_progress(name: &str, until: Duration, fleet: &Fleet) {
    let mut stderr = std::io::stderr();
    write!(
        stderr,
        "{ERASE_LINE}{name}: {} s, {} attempts, {} back",
        until.as_secs(),
        fleet.connects(),
        fleet.back()
    )
    .and_then(|()| stderr.flush())
    // A progress that cannot be shown is not worth a word.
    .unwrap_or_default();
}

/// A policy that failed has been stood in for, so that its figures are not its own.
fn verdict(played: &[Played]) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for one in played {
        if let Some(failure) = &one.failure {
            let why = format!(
                "{} failed {} of {} questions, where the built-in policy stood in; first it {failure}",
                one.name, one.outcome.policy_faults, one.outcome.questions
            );
            code = exit::fail(exit::DATA, &why);
        }
    }
    code
}
