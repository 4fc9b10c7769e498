//! Configuration: a TOML file, parsed raw, resolved once, passed on resolved.
//!
//! Unknown keys are refused. Every finding carries file, line and field. Relative paths start at the file's directory.

use std::path::Path;

mod diagnostic;
mod grants;
mod limits;
mod parse;
mod place;
mod plugins;
mod probation;
mod raw;
mod report;
mod settings;
mod streams;
#[cfg(test)]
mod tests;

pub use diagnostic::{Diagnostic, Refused};
pub use place::{Place, locate};
pub use plugins::PluginsSection;
pub use settings::Settings;

use crate::bounded_file;
use diagnostic::Source;

/// The largest configuration file that is read.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Whether the values behind `env:` and `file:` are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Secrets {
    Resolved,
    /// Every secret is empty; a file that holds a private key is not opened.
    LeftAlone,
}

/// Reads and resolves a configuration file, secrets included: for who connects, or says whether one could.
///
/// # Errors
/// With everything that is wrong, as far as it can be told: what cannot be parsed may hide what comes after it.
pub fn load(file: &Path) -> Result<Settings, Refused> {
    read(file, Secrets::Resolved)
}

/// As [`load`], but every secret is empty: for who connects to no broker, and need not have what it asks for.
///
/// # Errors
/// As [`load`], secrets aside.
pub fn load_without_secrets(file: &Path) -> Result<Settings, Refused> {
    read(file, Secrets::LeftAlone)
}

fn read(file: &Path, secrets: Secrets) -> Result<Settings, Refused> {
    let text = bounded_file::read_text(file, FILE_BYTES_MAX).map_err(|error| {
        Refused(vec![Diagnostic {
            file: file.to_owned(),
            position: None,
            field: String::new(),
            message: format!("cannot be read: {error}"),
        }])
    })?;
    resolve(file, &text, secrets)
}

/// As [`load`], for a text that was put together and lies in no file: findings have no line.
///
/// # Errors
/// As [`load`].
pub(crate) fn from_text(text: &str) -> Result<Settings, Refused> {
    parse(Path::new("command line"), text).map_err(|Refused(mut findings)| {
        for finding in &mut findings {
            finding.position = None;
        }
        Refused(findings)
    })
}

fn parse(file: &Path, text: &str) -> Result<Settings, Refused> {
    resolve(file, text, Secrets::Resolved)
}

fn resolve(file: &Path, text: &str, secrets: Secrets) -> Result<Settings, Refused> {
    let parsed = parse::parse(&Source { file, text });
    let mut findings = parsed.mistakes;
    let source = Source {
        file,
        text: &parsed.text,
    };
    let resolved = match parsed.raw {
        Some(raw) => settings::resolve(raw, &source, secrets),
        None => return Err(Refused(findings)),
    };
    if findings.is_empty() {
        return resolved;
    }
    findings.sort_by_key(|finding| finding.position);
    if let Err(Refused(others)) = resolved {
        // In the table of a mistake they may be there only for what was put aside.
        let tables: Vec<String> = findings.iter().map(table_of).collect();
        let others = others.into_iter();
        findings.extend(others.filter(|other| !tables.contains(&table_of(other))));
    }
    Err(Refused(findings))
}

/// The table that a finding is about.
fn table_of(finding: &Diagnostic) -> String {
    let table = finding.field.rsplit_once('.');
    table.map_or_else(String::new, |(table, _key)| table.to_owned())
}
