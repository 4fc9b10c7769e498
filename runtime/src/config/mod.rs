//! Configuration: a TOML file, parsed raw, resolved once, passed on resolved.
//!
//! Unknown keys are refused. Every finding carries file, line and field. Relative paths start at the file's directory.

use std::path::Path;

mod diagnostic;
mod raw;
mod settings;
#[cfg(test)]
mod tests;

pub use diagnostic::{Diagnostic, Refused};
pub use settings::Settings;

use crate::bounded_file;
use diagnostic::Source;

/// The largest configuration file that is read.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Reads and resolves a configuration file, secrets included.
///
/// # Errors
/// With everything that is wrong, not only the first finding; a file that does not parse has exactly one.
pub fn load(file: &Path) -> Result<Settings, Refused> {
    let text = bounded_file::read_text(file, FILE_BYTES_MAX).map_err(|error| {
        Refused(vec![Diagnostic {
            file: file.to_owned(),
            position: None,
            field: String::new(),
            message: format!("cannot be read: {error}"),
        }])
    })?;
    parse(file, &text)
}

fn parse(file: &Path, text: &str) -> Result<Settings, Refused> {
    let source = Source { file, text };
    let raw: raw::File =
        toml::from_str(text).map_err(|error| Refused(vec![source.parse_error(&error)]))?;
    settings::resolve(raw, &source)
}
