//! `moorline check`: everything that can be known without connecting.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use super::run::with_runtime;
use super::{OutputFormat, exit};
use crate::config::{self, Diagnostic, Settings};
use crate::plugins::{self, Inspection, Kind, Rehearsal};

/// What `--format json` prints.
#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    findings: Vec<Finding>,
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
    connections: usize,
}

pub(super) fn check(file: &Path, format: OutputFormat) -> ExitCode {
    with_runtime(async {
        let report = match config::load(file) {
            Ok(settings) => plugins(file, &settings).await,
            Err(refused) => Report {
                ok: false,
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

async fn plugins(file: &Path, settings: &Settings) -> Report {
    let mut findings = Vec::new();
    let mut checked = Vec::new();
    let connectors = settings.connectors.iter().map(|connector| {
        let field = format!("connector {:?}: component", connector.name);
        (
            connector.name.clone(),
            &connector.component,
            connector.connections.len(),
            None,
            field,
        )
    });
    let policy = settings.policy.iter().map(|policy| {
        (
            "policy".to_owned(),
            &policy.component,
            0,
            Some(&policy.configuration),
            "policy".to_owned(),
        )
    });
    for (name, component, connections, policy, field) in connectors.chain(policy) {
        match inspected(component, policy).await {
            Ok(inspection) => checked.push(Checked {
                connector: name,
                component: component.clone(),
                plugin: inspection.name,
                version: inspection.version,
                connections,
            }),
            Err(why) => findings.push(Finding {
                file: file.to_owned(),
                line: None,
                column: None,
                field,
                message: format!("{} {why}", component.display()),
            }),
        }
    }
    Report {
        ok: findings.is_empty(),
        findings,
        warnings: settings
            .warnings
            .iter()
            .cloned()
            .map(Finding::from)
            .collect(),
        plugins: checked,
    }
}

/// A policy's configuration is tried, too: it reads it without reaching anything.
async fn inspected(
    component: &Path,
    policy: Option<&serde_json::Value>,
) -> Result<Inspection, String> {
    let inspection = plugins::inspect(component)
        .await
        .map_err(|failure| failure.to_string())?;
    let kind = match policy {
        Some(_) => Kind::Policy,
        None => Kind::Connector,
    };
    if inspection.kind != kind {
        return Err(format!(
            "is a {}, and a {} is wanted here",
            inspection.kind.name(),
            kind.name()
        ));
    }
    if let Some(configuration) = policy {
        let configured = Rehearsal::load(component, configuration).await;
        configured.map_err(|failure| failure.to_string())?;
    }
    Ok(inspection)
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
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, ":{line}:{column}")?;
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
            connections,
        } = plugin;
        let connections = match connections {
            0 => String::new(),
            1 => ", 1 connection".to_owned(),
            n => format!(", {n} connections"),
        };
        exit::print(&format!(
            "{connector}: {plugin} {version} from {}{connections}",
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
    match report.findings.len() {
        0 => exit::print(&format!(
            "{file} is valid; nothing was connected to (`moorline doctor` examines the broker)"
        )),
        1 => exit::print(&format!(
            "{file}: 1 finding; `moorline run` would refuse it or run without that part"
        )),
        n => exit::print(&format!(
            "{file}: {n} findings; `moorline run` would refuse it or run without those parts"
        )),
    }
}
