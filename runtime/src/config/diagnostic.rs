//! What is wrong with a configuration file, and where.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One finding: file, line, field, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file.
    pub file: PathBuf,
    /// The line and column, from 1; none when the file could not be read at all.
    pub position: Option<(usize, usize)>,
    /// The dotted name of the field, as far as it is known.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some((line, column)) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Everything that is wrong with a configuration.
#[derive(Debug)]
pub struct Refused(pub Vec<Diagnostic>);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refused {}

/// A file's text, to turn byte spans into lines and fields.
pub(super) struct Source<'a> {
    pub(super) file: &'a Path,
    pub(super) text: &'a str,
}

impl Source<'_> {
    pub(super) fn at(&self, span: Range<usize>, message: impl Into<String>) -> Diagnostic {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.matches('\n').count() + 1;
        let column = before[line_start..].chars().count() + 1;
        Diagnostic {
            file: self.file.to_owned(),
            position: Some((line, column)),
            field: self.field(line),
            message: message.into(),
        }
    }

    pub(super) fn parse_error(&self, error: &toml::de::Error) -> Diagnostic {
        self.at(error.span().unwrap_or(0..0), error.message())
    }

    /// The dotted name of the field on `line`: the nearest table header above it, and the key before the `=`.
    fn field(&self, line: usize) -> String {
        let lines: Vec<&str> = self.text.lines().take(line).collect();
        let header = |text: &str| {
            let text = text.trim();
            text.starts_with('[').then(|| {
                text.split(']')
                    .next()
                    .unwrap_or("")
                    .trim_matches('[')
                    .to_owned()
            })
        };
        let key = lines
            .last()
            .filter(|text| header(text).is_none())
            .and_then(|text| text.split_once('='))
            .map(|(key, _value)| key.trim().to_owned());
        let table = lines.iter().rev().find_map(|text| header(text));
        match (table, key) {
            (Some(table), Some(key)) => format!("{table}.{key}"),
            (Some(name), None) | (None, Some(name)) => name,
            (None, None) => String::new(),
        }
    }
}
