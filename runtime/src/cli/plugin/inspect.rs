//! `moorline plugin inspect`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use moorline_core::swap::Reason;
use serde_json::json;

use super::keys::TrustOptions;
use super::print;
use crate::cli::run::with_runtime;
use crate::cli::{OutputFormat, exit};
use crate::plugins::{self, Inspection};

/// What an import of ours lets a guest reach, beyond what every guest has.
const REACHES: [(&str, &str); 3] = [
    (
        "moorline:edge/streams",
        "streams that the configuration grants",
    ),
    ("moorline:edge/state", "state of its own"),
    ("moorline:edge/clock", "the clock"),
];

#[derive(Debug, Args)]
pub(in crate::cli) struct InspectOptions {
    /// The component.
    file: PathBuf,
    #[command(flatten)]
    trust: TrustOptions,
    /// How to print it [default: human on a terminal, json elsewhere].
    #[arg(long, value_enum)]
    format: Option<OutputFormat>,
}

pub(super) fn inspect(options: &InspectOptions) -> ExitCode {
    let InspectOptions {
        file,
        trust,
        format,
    } = options;
    let trust = match trust.settings() {
        Ok(trust) => trust,
        Err(code) => return code,
    };
    with_runtime(async {
        match plugins::inspect(file, &trust).await {
            Ok(inspection) => {
                print(
                    *format,
                    &human(file, &inspection),
                    &as_json(file, &inspection),
                );
                ExitCode::SUCCESS
            }
            Err(failure) => exit::fail(exit::DATA, &format!("{} {failure}", file.display())),
        }
    })
}

fn human(file: &Path, inspection: &Inspection) -> String {
    let Inspection {
        kind,
        contract,
        name,
        version,
        bytes,
        digest,
        tools,
        ..
    } = inspection;
    let mut lines = vec![format!(
        "{name} {version}, a {} ({})",
        kind.words(),
        file.display()
    )];
    let mut row = |head: &str, text: &str| lines.push(format!("  {head:<10} {text}"));
    row(
        "world",
        &format!("moorline:edge/{} {contract}", kind.name()),
    );
    row("size", &format!("{} KiB", bytes / 1024));
    row("sha256", &digest.hex());
    row("signature", &signature(inspection));
    if let Some(schema) = inspection.hand_over_schema {
        row("hand-over", &format!("schema {schema}"));
    }
    row(
        "reaches",
        &or_nothing(&reaches(&inspection.imports).join(", ")),
    );
    let mut head = "grants";
    for want in plugins::wants(&inspection.imports) {
        let names: Vec<_> = want.imports.iter().map(|name| interface(name)).collect();
        let (grant, otherwise) = (want.grant, want.otherwise);
        row(
            head,
            &format!("{grant}, for {}; without it: {otherwise}", names.join(", ")),
        );
        head = "";
    }
    for (head, names) in [
        ("imports", &inspection.imports),
        ("exports", &inspection.exports),
    ] {
        let mut head = head;
        for (package, interfaces) in grouped(names) {
            row(head, &format!("{package}: {}", interfaces.join(", ")));
            head = "";
        }
        if names.is_empty() {
            row(head, "nothing");
        }
    }
    if !inspection.uncalled.is_empty() {
        let hooks = inspection.uncalled.join(", ");
        row("not called", &format!("{hooks}: of a newer version"));
    }
    row("made by", &or_nothing(&tools.join(", ")));
    lines.extend(schema_lines(&inspection.configuration_schema));
    lines.join("\n")
}

fn schema_lines(schema: &str) -> Vec<String> {
    if schema.is_empty() {
        return Vec::new();
    }
    let pretty = serde_json::from_str::<serde_json::Value>(schema)
        .and_then(|schema| serde_json::to_string_pretty(&schema))
        .unwrap_or_else(|_not_json| schema.to_owned());
    let mut lines = vec!["  configuration schema".to_owned()];
    lines.extend(pretty.lines().map(|line| format!("    {line}")));
    lines
}

fn signature(inspection: &Inspection) -> String {
    match &inspection.signature {
        Ok(signer) => signer.to_string(),
        Err(failure) if failure.reason == Reason::UnknownKey => {
            format!("{failure}; --key or --config says whom to believe")
        }
        Err(failure) => failure.to_string(),
    }
}

/// Without its version.
fn interface(import: &str) -> &str {
    import.split('@').next().unwrap_or(import)
}

fn or_nothing(text: &str) -> String {
    if text.is_empty() { "nothing" } else { text }.to_owned()
}

fn reaches(imports: &[String]) -> Vec<&'static str> {
    REACHES
        .iter()
        .filter(|(interface, _)| {
            let is = |import: &String| import.split('@').next() == Some(*interface);
            imports.iter().any(is)
        })
        .map(|(_, words)| *words)
        .collect()
}

/// `package@version` and its interfaces; a name that is no interface stands for itself.
fn grouped(names: &[String]) -> BTreeMap<String, Vec<&str>> {
    let mut groups: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for name in names {
        let (package, interface) = match name.split_once('/') {
            Some((package, rest)) => {
                let (interface, version) = rest.split_once('@').unwrap_or((rest, ""));
                let at = if version.is_empty() { "" } else { "@" };
                (format!("{package}{at}{version}"), interface)
            }
            None => (name.clone(), "itself"),
        };
        groups.entry(package).or_default().push(interface);
    }
    groups
}

fn as_json(file: &Path, inspection: &Inspection) -> serde_json::Value {
    let schema: serde_json::Value =
        serde_json::from_str(&inspection.configuration_schema).unwrap_or_default();
    let signature = match &inspection.signature {
        Ok(signer) => json!({
            "ok": true,
            "signed_by": &*signer.name,
            "key_id": signer.key.to_string(),
            "trusted_comment": signer.trusted_comment,
        }),
        Err(failure) => json!({ "ok": false, "error": failure.to_string() }),
    };
    let wants = plugins::wants(&inspection.imports);
    let grants: Vec<_> = wants
        .iter()
        .map(|want| json!({ "grant": want.grant, "without": want.otherwise, "imports": want.imports }))
        .collect();
    json!({
        "file": file,
        "world": inspection.kind.name(),
        "contract": inspection.contract,
        "name": inspection.name,
        "version": inspection.version,
        "hand_over_schema": inspection.hand_over_schema,
        "reaches": reaches(&inspection.imports),
        "grants": grants,
        "imports": inspection.imports,
        "imports_by_package": grouped(&inspection.imports),
        "exports": inspection.exports,
        "not_called": inspection.uncalled,
        "bytes": inspection.bytes,
        "digest": inspection.digest.hex(),
        "signature": signature,
        "made_by": inspection.tools,
        "configuration_schema": schema,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_are_shown_by_package_and_by_what_they_reach() {
        let imports: Vec<String> = [
            "moorline:edge/log@0.1.0",
            "moorline:edge/streams@0.1.0",
            "wasi:io/poll@0.2.6",
            "env",
        ]
        .map(str::to_owned)
        .to_vec();
        let groups = grouped(&imports);
        assert_eq!(groups["moorline:edge@0.1.0"], ["log", "streams"]);
        assert_eq!(groups["wasi:io@0.2.6"], ["poll"]);
        assert_eq!(groups["env"], ["itself"]);
        assert_eq!(reaches(&imports), ["streams that the configuration grants"]);
    }
}
