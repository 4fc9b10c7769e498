//! From text to the raw file. The parser stops at its first mistake; so that one run tells as many as can be told apart, a
//! mistake is put aside in a copy, and what comes after it is read again.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, Source};
use super::raw;

/// Mistakes that are looked for; who makes more has taken another program's file.
const MISTAKES_MAX: usize = 20;
/// What a value that cannot be is read as, to go on behind it: the first of these that can be in its place.
const STAND_INS: [&str; 8] = [
    "\"a\"",
    "1",
    "10",
    "1000",
    "true",
    "\"mqtt://a\"",
    "\"tcp://a:1\"",
    "{}",
];

/// What was read.
pub(super) struct Parsed {
    /// None if it could not be read to its end.
    pub(super) raw: Option<raw::File>,
    /// What was put aside on the way.
    pub(super) mistakes: Vec<Diagnostic>,
    /// The text without them: line for line, but not byte for byte.
    pub(super) text: String,
}

pub(super) fn parse(source: &Source<'_>) -> Parsed {
    let mut parsed = Parsed {
        raw: None,
        mistakes: Vec::new(),
        text: source.text.to_owned(),
    };
    loop {
        let error = match toml::from_str(&parsed.text) {
            Ok(raw) => {
                parsed.raw = Some(raw);
                return parsed;
            }
            Err(error) => error,
        };
        let source = Source {
            file: source.file,
            text: &parsed.text,
        };
        parsed.mistakes.push(source.parse_error(&error));
        if parsed.mistakes.len() >= MISTAKES_MAX {
            return parsed;
        }
        match error.span().and_then(|span| without(&parsed.text, span)) {
            Some(text) => parsed.text = text,
            None => return parsed,
        }
    }
}

/// The text without the mistake at `span`; none if nobody can tell how it would go on.
fn without(text: &str, span: Range<usize>) -> Option<String> {
    let root = DeTable::parse(text).ok()?;
    let at = span.start;
    let (key, entry) = entry_at(root.get_ref(), at)?;
    let removed = || {
        let line = text.get(..entry.start)?.rsplit('\n').next()?;
        let stands_alone = line.trim().is_empty();
        stands_alone
            .then(|| replaced(text, entry.clone(), ""))
            .flatten()
    };
    if key == at {
        return removed();
    }
    let goes_on = |text: &String| match toml::from_str::<raw::File>(text).err() {
        None => true,
        Some(error) => {
            DeTable::parse(text).is_ok()
                && error.span().is_some_and(|again| again.start != at)
                && !error.message().starts_with("missing field")
        }
    };
    let mut stood_in = STAND_INS
        .iter()
        .filter_map(|stand_in| replaced(text, span.clone(), stand_in));
    // Without it there may be a default.
    stood_in.find(goes_on).or_else(|| removed().filter(goes_on))
}

/// With as many lines as before.
fn replaced(text: &str, span: Range<usize>, with: &str) -> Option<String> {
    let lines = text.get(span.clone())?.matches('\n').count();
    let (before, after) = (text.get(..span.start)?, text.get(span.end..)?);
    let lines = "\n".repeat(lines);
    Some(format!("{before}{with}{lines}{after}"))
}

/// The entry whose key or value begins at `at`: where its key begins, and all of it.
fn entry_at(table: &DeTable<'_>, at: usize) -> Option<(usize, Range<usize>)> {
    table.iter().find_map(|(key, value)| {
        let key = key.span().start;
        if key == at || value.span().start == at {
            return Some((key, key..value.span().end));
        }
        entry_in(value.get_ref(), at)
    })
}

fn entry_in(value: &DeValue<'_>, at: usize) -> Option<(usize, Range<usize>)> {
    match value {
        DeValue::Table(table) => entry_at(table, at),
        DeValue::Array(elements) => elements
            .iter()
            .find_map(|element| entry_in(element.get_ref(), at)),
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => None,
    }
}
