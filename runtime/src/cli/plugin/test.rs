//! `moorline plugin test`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use serde_json::json;

use crate::bounded_file;
use crate::cli::run::with_runtime;
use crate::cli::{OutputFormat, exit};
use crate::plugin_build::{self, BuildError};
use crate::plugins::{self, Answer, Check, Device, Limits, Outcome, Plan, Report};

/// The test file beside a plugin's source.
pub(super) const TEST_FILE: &str = "test.toml";
const TEST_FILE_BYTES_MAX: u64 = 1024 * 1024;
/// The name of the stream, where nothing says otherwise.
const STREAM: &str = "device";

#[derive(Debug, Args)]
pub(in crate::cli) struct TestOptions {
    /// A component, or the directory of a plugin: that is built first, and its test.toml used.
    plugin: PathBuf,
    /// The test file: configuration, device and its answers [default: test.toml of a plugin's directory].
    #[arg(long, value_name = "FILE")]
    with: Option<PathBuf>,
    /// A configuration that works, as JSON; instead of the test file's.
    #[arg(long, value_name = "JSON")]
    config: Option<String>,
    /// The peer at the end of the stream: none, fake (by the test file's answers), or tcp://HOST:PORT or
    /// serial:///dev/NAME?baud=N of a real device or its simulator, which is read, disturbed and never written to but by the plugin.
    #[arg(long, value_name = "PEER")]
    device: Option<String>,
    /// How to print it.
    #[arg(long, value_enum, default_value_t = OutputFormat::Human)]
    format: OutputFormat,
}

/// What a test file holds.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TestFile {
    /// A configuration that works.
    config: serde_json::Map<String, serde_json::Value>,
    /// The name of the stream.
    stream: Option<String>,
    /// As `--device`.
    device: Option<String>,
    /// As in the gateway's configuration.
    memory_bytes_max: Option<usize>,
    /// As in the gateway's configuration.
    call_deadline_ms: Option<u64>,
    /// What the fake device answers.
    pub(super) answer: Vec<Answer>,
}

pub(super) fn test(options: &TestOptions) -> ExitCode {
    // Before the build, which may take minutes.
    let plan = match plan(options) {
        Ok(plan) => plan,
        Err(why) => return exit::fail(exit::USAGE, &why),
    };
    let component = match component(&options.plugin) {
        Ok(component) => component,
        Err(error) => return exit::fail(super::build::code(&error), &error),
    };
    let human = options.format == OutputFormat::Human;
    with_runtime(async {
        let mut checked = |check: &Check| {
            if human {
                exit::print(&line(check));
            }
        };
        match plugins::test(&component, plan, &mut checked).await {
            Ok(report) => {
                match options.format {
                    OutputFormat::Human => exit::print(&summary(&report)),
                    OutputFormat::Json => exit::print(&as_json(&component, &report)),
                }
                if report.is_good() {
                    ExitCode::SUCCESS
                } else {
                    ExitCode::from(exit::DATA)
                }
            }
            Err(failure) => exit::fail(exit::DATA, &format!("{} {failure}", component.display())),
        }
    })
}

/// The component; built first where the directory of its source was given.
fn component(plugin: &Path) -> Result<PathBuf, BuildError> {
    if !plugin.is_dir() {
        return Ok(plugin.to_owned());
    }
    let directories = [plugin.to_owned()];
    let options = plugin_build::BuildOptions::default();
    let built = plugin_build::build_many(&directories, &options, &mut |step| {
        super::build::show(&step)
    })?;
    let first = built.into_iter().next();
    Ok(first.map_or_else(PathBuf::new, |built| built.path))
}

fn plan(options: &TestOptions) -> Result<Plan, String> {
    let beside = Some(options.plugin.join(TEST_FILE)).filter(|file| file.is_file());
    let file = match options.with.clone().or(beside) {
        Some(path) => read(&path)?,
        None => TestFile::default(),
    };
    let configuration = match &options.config {
        Some(text) => {
            serde_json::from_str(text).map_err(|error| format!("--config is not JSON: {error}"))?
        }
        None => file.config.into(),
    };
    let device = match options.device.as_deref().or(file.device.as_deref()) {
        None | Some("fake") => Device::Fake(file.answer),
        Some("none") => Device::None,
        Some(url) if url.contains("://") => {
            Device::Real(url.parse().map_err(|error| format!("{url:?} {error}"))?)
        }
        Some(other) => {
            return Err(format!(
                "{other:?} is none of: none, fake, tcp://HOST:PORT, serial:///dev/NAME?baud=N"
            ));
        }
    };
    let usual = Limits::default();
    Ok(Plan {
        configuration,
        device,
        stream: file.stream.unwrap_or_else(|| STREAM.to_owned()),
        limits: Limits {
            memory_bytes: file.memory_bytes_max.unwrap_or(usual.memory_bytes),
            call_cpu: file
                .call_deadline_ms
                .map_or(usual.call_cpu, Duration::from_millis),
            ..usual
        },
    })
}

pub(super) fn read(path: &Path) -> Result<TestFile, String> {
    let wrong = |detail: String| format!("{}: {}", path.display(), detail.trim_end());
    let text = bounded_file::read_text(path, TEST_FILE_BYTES_MAX)
        .map_err(|error| wrong(error.to_string()))?;
    toml::from_str(&text).map_err(|error| wrong(error.to_string()))
}

fn line(check: &Check) -> String {
    let (rule, outcome) = (check.rule.name(), &check.outcome);
    match outcome {
        Outcome::Kept(_) => format!("ok    {rule:26} {outcome}"),
        Outcome::Skipped(_) => format!("skip  {rule:26} {outcome}"),
        Outcome::Broken(_) => {
            format!(
                "FAIL  {rule:26} {outcome}\n{:33}-> {}",
                "",
                check.rule.advice()
            )
        }
    }
}

fn counts(report: &Report) -> [usize; 3] {
    let count = |is: fn(&Outcome) -> bool| {
        report
            .checks
            .iter()
            .filter(|check| is(&check.outcome))
            .count()
    };
    [
        count(|outcome| matches!(outcome, Outcome::Kept(_))),
        count(|outcome| matches!(outcome, Outcome::Broken(_))),
        count(|outcome| matches!(outcome, Outcome::Skipped(_))),
    ]
}

fn summary(report: &Report) -> String {
    let [kept, broken, skipped] = counts(report);
    format!(
        "{} {}, a {}: {kept} rules kept, {broken} broken, {skipped} not judged",
        report.name,
        report.version,
        report.kind.name()
    )
}

fn as_json(component: &Path, report: &Report) -> serde_json::Value {
    let [kept, broken, skipped] = counts(report);
    let checks = report.checks.iter().map(|check| {
        let outcome = match &check.outcome {
            Outcome::Kept(_) => "kept",
            Outcome::Broken(_) => "broken",
            Outcome::Skipped(_) => "skipped",
        };
        let mut entry = json!({
            "rule": check.rule.name(),
            "outcome": outcome,
            "detail": check.outcome.to_string(),
        });
        if matches!(check.outcome, Outcome::Broken(_)) {
            entry["advice"] = check.rule.advice().into();
        }
        entry
    });
    json!({
        "file": component,
        "world": report.kind.name(),
        "name": report.name,
        "version": report.version,
        "digest": report.digest.to_string(),
        "ok": report.is_good(),
        "kept": kept,
        "broken": broken,
        "skipped": skipped,
        "checks": checks.collect::<Vec<_>>(),
    })
}
