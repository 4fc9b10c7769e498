//! `moorline plugin inspect`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use crate::cli::run::with_runtime;
use crate::cli::{OutputFormat, exit};
use crate::plugins::{self, Inspection};

#[derive(Debug, Args)]
pub(in crate::cli) struct InspectOptions {
    /// The component.
    file: PathBuf,
    /// How to print it.
    #[arg(long, value_enum, default_value_t = OutputFormat::Human)]
    format: OutputFormat,
}

pub(super) fn inspect(options: &InspectOptions) -> ExitCode {
    let InspectOptions { file, format } = options;
    with_runtime(async {
        match plugins::inspect(file).await {
            Ok(inspection) => {
                match format {
                    OutputFormat::Human => exit::print(&human(file, &inspection)),
                    OutputFormat::Json => exit::print(&as_json(file, &inspection)),
                }
                ExitCode::SUCCESS
            }
            Err(failure) => exit::fail(exit::DATA, &format!("{} {failure}", file.display())),
        }
    })
}

fn human(file: &Path, inspection: &Inspection) -> String {
    let Inspection {
        kind,
        name,
        version,
        configuration_schema,
        hand_over_schema,
        imports,
        exports,
        bytes,
        digest,
    } = inspection;
    let mut lines = vec![
        format!("{name} {version}, a {} ({})", kind.name(), file.display()),
        format!("  size      {} KiB, digest {digest}", bytes / 1024),
    ];
    if let Some(schema) = hand_over_schema {
        lines.push(format!("  hand-over schema {schema}"));
    }
    lines.push(format!("  imports   {}", listed(imports)));
    lines.push(format!("  exports   {}", listed(exports)));
    if !configuration_schema.is_empty() {
        let pretty = serde_json::from_str::<serde_json::Value>(configuration_schema)
            .and_then(|schema| serde_json::to_string_pretty(&schema))
            .unwrap_or_else(|_not_json| configuration_schema.clone());
        lines.push("  configuration schema".to_owned());
        lines.extend(pretty.lines().map(|line| format!("    {line}")));
    }
    lines.join("\n")
}

fn listed(interfaces: &[String]) -> String {
    if interfaces.is_empty() {
        "nothing".to_owned()
    } else {
        interfaces.join("\n            ")
    }
}

fn as_json(file: &Path, inspection: &Inspection) -> serde_json::Value {
    let schema: serde_json::Value =
        serde_json::from_str(&inspection.configuration_schema).unwrap_or_default();
    json!({
        "file": file,
        "world": inspection.kind.name(),
        "name": inspection.name,
        "version": inspection.version,
        "hand_over_schema": inspection.hand_over_schema,
        "imports": inspection.imports,
        "exports": inspection.exports,
        "bytes": inspection.bytes,
        "digest": inspection.digest.to_string(),
        "configuration_schema": schema,
    })
}
