//! `moorline check`: everything that can be known without connecting.

mod configured;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use moorline_core::swap::Failure;
use moorline_core::trust::Origin;
use serde::Serialize;

use super::run::with_runtime;
use super::{ConfigFile, OutputFormat, exit};
use crate::bounded_file;
use crate::config::{self, Diagnostic, Place as ConfigPlace, Settings};
use crate::gateway::{self, Unfit};
use crate::plugins::{self, ConnectorSettings, Inspected, Kind, Rehearsal};
use crate::trust::{Ledger, Place};

/// The configuration was read a moment ago; this is only to find lines in it.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What `--format json` prints.
#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    findings: Vec<Finding>,
    /// The file could be read, and its plugins were looked at.
    #[serde(skip)]
    is_whole: bool,
    /// What does not keep the gateway from running.
    warnings: Vec<Finding>,
    plugins: Vec<Checked>,
}

#[derive(Debug, Serialize)]
struct Finding {
    file: PathBuf,
    line: Option<usize>,
    column: Option<usize>,
    field: String,
    message: String,
}

#[derive(Debug, Serialize)]
struct Checked {
    connector: String,
    component: PathBuf,
    plugin: String,
    version: String,
    /// Where it comes from.
    signature: String,
    connections: usize,
}

pub(super) fn check(config: &ConfigFile, format: OutputFormat) -> ExitCode {
    let file = &config.config;
    with_runtime(async {
        let report = match config.load() {
            Ok(settings) => examined(file, &settings).await,
            Err(refused) => Report {
                ok: false,
                is_whole: false,
                findings: refused.0.into_iter().map(Finding::from).collect(),
                warnings: Vec::new(),
                plugins: Vec::new(),
            },
        };
        print(file, &report, format);
        if report.ok {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(exit::CONFIG)
        }
    })
}

async fn examined(file: &Path, settings: &Settings) -> Report {
    let text = bounded_file::read_text(file, FILE_BYTES_MAX).unwrap_or_default();
    let ledger = Ledger::peek(&settings.state_dir);
    let warnings = settings.warnings.iter().cloned();
    let mut report = Report {
        ok: false,
        is_whole: true,
        findings: Vec::new(),
        warnings: warnings.map(Finding::from).collect(),
        plugins: Vec::new(),
    };
    let connectors = settings.connectors.iter().enumerate();
    let connectors = connectors.map(|(index, connector)| Part {
        name: connector.name.clone(),
        component: &connector.component,
        connections: connector.connections.len(),
        configured: Configured::Connector(index, connector),
        table: format!("connector.{index}"),
        field: format!("connector {:?}: component", connector.name),
    });
    let policy = settings.policy.iter().map(|policy| Part {
        name: "policy".to_owned(),
        component: &policy.component,
        connections: 0,
        configured: Configured::Policy(&policy.configuration),
        table: "policy".to_owned(),
        field: "policy".to_owned(),
    });
    for unfit in gateway::unfit(settings) {
        let (borne, found) = (unfit.is_borne(), of_state_dir(file, &text, &unfit));
        report.find(found, borne);
    }
    for part in connectors.chain(policy) {
        let part = Examined {
            part,
            file,
            text: &text,
            settings,
            ledger: &ledger,
        };
        part.add_to(&mut report).await;
    }
    report.ok = report.findings.is_empty();
    report
}

impl Report {
    fn find(&mut self, finding: Finding, is_warning: bool) {
        if is_warning {
            self.warnings.push(finding);
        } else {
            self.findings.push(finding);
        }
    }
}

/// A part under examination, and what it is judged by.
struct Examined<'a> {
    part: Part<'a>,
    file: &'a Path,
    text: &'a str,
    settings: &'a Settings,
    ledger: &'a Ledger,
}

impl Examined<'_> {
    fn finding(&self, why: &str) -> Finding {
        let part = &self.part;
        Finding {
            file: self.file.to_owned(),
            line: line_of(self.text, &part.table, "component"),
            column: None,
            field: part.field.clone(),
            message: format!("{} {why}", part.component.display()),
        }
    }

    async fn add_to(&self, report: &mut Report) {
        let part = &self.part;
        let (inspected, origin) = match inspected(part, self.settings, self.ledger).await {
            Ok(good) => good,
            Err(why) => return report.find(self.finding(&why), false),
        };
        if let (Configured::Connector(number, connector), Some(loaded)) =
            (&part.configured, &inspected.loaded)
        {
            let source = (self.file, self.text);
            for found in configured::findings(source, *number, connector, loaded).await {
                report.find(found.finding, found.is_doubtful);
            }
        }
        if let Origin::Doubtful(failure) = &origin {
            let why = format!("{failure}; it is loaded because signatures = \"warn\"");
            report.find(self.finding(&why), true);
        }
        report.plugins.push(Checked {
            connector: part.name.clone(),
            component: part.component.clone(),
            plugin: inspected.inspection.name,
            version: inspected.inspection.version,
            signature: origin.to_string(),
            connections: part.connections,
        });
    }
}

fn line_of(text: &str, table: &str, key: &str) -> Option<usize> {
    match config::locate(text, table, key) {
        ConfigPlace::Line(line) | ConfigPlace::Table(line) => Some(line),
        ConfigPlace::Nowhere => None,
    }
}

fn of_state_dir(file: &Path, text: &str, unfit: &Unfit) -> Finding {
    let (place, error) = (unfit.place.display(), &unfit.error);
    let message = if unfit.is_borne() {
        format!("{place} cannot be used now: {error}; the gateway works in memory until it can be")
    } else {
        format!(
            "{place} cannot be used by the user that calls this: {error}; create it and give it to the user the gateway runs as, \
             or change gateway.state_dir"
        )
    };
    Finding {
        file: file.to_owned(),
        line: line_of(text, "gateway", "state_dir"),
        column: None,
        field: "gateway.state_dir".to_owned(),
        message,
    }
}

/// One component of the configuration.
struct Part<'a> {
    name: String,
    component: &'a PathBuf,
    connections: usize,
    configured: Configured<'a>,
    /// Where it is in the file.
    table: String,
    field: String,
}

/// What is configured with it.
enum Configured<'a> {
    /// With its place in the file.
    Connector(usize, &'a ConnectorSettings),
    Policy(&'a serde_json::Value),
}

/// A policy's configuration is tried, too: it reads it without reaching anything.
async fn inspected(
    part: &Part<'_>,
    settings: &Settings,
    ledger: &Ledger,
) -> Result<(Inspected, Origin), String> {
    let trust = &settings.plugins.trust;
    let words = |failure: Failure| failure.to_string();
    let inspected = plugins::inspect_to_start(part.component, trust)
        .await
        .map_err(words)?;
    let inspection = &inspected.inspection;
    let kind = match part.configured {
        Configured::Policy(_) => Kind::Policy,
        Configured::Connector(..) => Kind::Connector,
    };
    if inspection.kind != kind {
        return Err(format!(
            "is a {}, and a {} is wanted here",
            inspection.kind.name(),
            kind.name()
        ));
    }
    let gate = ledger.gate(&Place::of(kind, &part.name), &Arc::new(trust.clone()));
    let origin = inspection.origin(trust).map_err(words)?;
    let origin = gate
        .pass(origin, &inspection.name, &inspection.version)
        .map_err(words)?;
    if let Configured::Policy(configuration) = part.configured {
        let configured = Rehearsal::load(part.component, configuration).await;
        configured.map_err(words)?;
    }
    Ok((inspected, origin))
}

impl From<Diagnostic> for Finding {
    fn from(diagnostic: Diagnostic) -> Self {
        let (line, column) = diagnostic.position.unzip();
        Self {
            file: diagnostic.file,
            line,
            column,
            field: diagnostic.field,
            message: diagnostic.message,
        }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.file.display())?;
        for place in [self.line, self.column].into_iter().flatten() {
            write!(f, ":{place}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}

fn print(file: &Path, report: &Report, format: OutputFormat) {
    if format == OutputFormat::Json {
        exit::print(&serde_json::json!(report));
        return;
    }
    for plugin in &report.plugins {
        let Checked {
            connector,
            component,
            plugin,
            version,
            signature,
            connections,
        } = plugin;
        let signature = match signature.as_str() {
            // As it is wherever nobody has asked for more.
            "not checked" => String::new(),
            other => format!(", {other}"),
        };
        let connections = match connections {
            0 => String::new(),
            1 => ", 1 connection".to_owned(),
            n => format!(", {n} connections"),
        };
        exit::print(&format!(
            "{connector}: {plugin} {version} from {}{connections}{signature}",
            component.display()
        ));
    }
    for warning in &report.warnings {
        exit::print(&format!("warning: {warning}"));
    }
    for finding in &report.findings {
        exit::print(finding);
    }
    let file = file.display();
    let doubts = match report.warnings.len() {
        0 => String::new(),
        1 => " but for the warning".to_owned(),
        n => format!(" but for the {n} warnings"),
    };
    let count = match report.findings.len() {
        0 => {
            return exit::print(&format!(
                "{file} is valid{doubts}; nothing was connected to (`moorline doctor` examines the broker)"
            ));
        }
        1 => "1 finding".to_owned(),
        n => format!("{n} findings"),
    };
    let then = match (report.is_whole, report.findings.len()) {
        (false, _) => {
            "`moorline run` would refuse it; the plugins were not looked at, and there may be more findings then"
        }
        (true, 1) => "`moorline run` would refuse it or run without that part",
        (true, _) => "`moorline run` would refuse it or run without those parts",
    };
    exit::print(&format!("{file}: {count}; {then}"));
}
