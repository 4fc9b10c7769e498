//! `moorline spool dead-letter`: look at what the platform did not take, send it again, or give it up.
//!
//! The letters are files in the spool's directory (`moorline_core::spool::dead_letter`), so that this works whether or not
//! the gateway runs.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use moorline_core::spool::dead_letter::{self, LETTER_BYTES_MAX, Letter, replay_name};
use serde::Serialize;

use super::{ConfigFile, OutputFormat, exit, figures, reload};
use crate::bounded_file;
use crate::config::Settings;

/// Characters of a payload that a list shows.
const EXCERPT_CHARS: usize = 60;

#[derive(Debug, Subcommand)]
pub(super) enum DeadLetterCommand {
    /// List them, oldest first.
    Ls {
        #[command(flatten)]
        config: ConfigFile,
        /// How to print them.
        #[arg(long, value_enum, default_value_t = OutputFormat::Human)]
        format: OutputFormat,
    },
    /// Print what they say: one JSON document a line.
    Show(Choice),
    /// Send them again, in order and with all guarantees. Mend first what they were refused for.
    Replay(Choice),
    /// Give them up for good.
    Drop(Choice),
}

#[derive(Debug, Args)]
pub(super) struct Choice {
    #[command(flatten)]
    config: ConfigFile,
    /// Which, by the numbers that `ls` shows.
    #[arg(value_name = "NUMBER", required_unless_present = "all")]
    numbers: Vec<u64>,
    /// All there are.
    #[arg(long, conflicts_with = "numbers")]
    all: bool,
}

/// What `ls --format json` prints of each.
#[derive(Debug, Serialize)]
struct Entry {
    number: u64,
    #[serde(flatten)]
    letter: Letter,
}

pub(super) fn dead_letter(command: &DeadLetterCommand) -> ExitCode {
    let file = match command {
        DeadLetterCommand::Ls { config, .. } => config,
        DeadLetterCommand::Show(choice)
        | DeadLetterCommand::Replay(choice)
        | DeadLetterCommand::Drop(choice) => &choice.config,
    };
    let settings = match file.settings() {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    let directory = &settings.spool.letters_directory();
    let done = match command {
        DeadLetterCommand::Ls { format, .. } => list(directory, *format),
        DeadLetterCommand::Show(choice) => choice.each(directory, show),
        DeadLetterCommand::Replay(choice) => choice
            .each(directory, |_, path| {
                std::fs::rename(path, path.with_file_name(replay_of(path)))
            })
            .inspect(|count| replayed(&settings, *count)),
        DeadLetterCommand::Drop(choice) => choice
            .each(directory, |_, path| std::fs::remove_file(path))
            .inspect(|count| exit::progress(&format!("{count} given up"))),
    };
    match done {
        Ok(_count) => ExitCode::SUCCESS,
        Err(Trouble::NoSuch(number)) => {
            exit::fail(exit::DATA, &format!("there is no dead letter {number}"))
        }
        Err(Trouble::File(path, error)) => {
            exit::fail(exit::OS, &format!("{}: {error}", path.display()))
        }
    }
}

enum Trouble {
    NoSuch(u64),
    File(PathBuf, io::Error),
}

impl Choice {
    /// Does `work` for each chosen letter and says how many there were.
    fn each(
        &self,
        directory: &Path,
        work: impl Fn(u64, &Path) -> io::Result<()>,
    ) -> Result<u64, Trouble> {
        let there = numbers(directory)?;
        let chosen = if self.all { &there } else { &self.numbers };
        if let Some(missing) = chosen.iter().find(|number| !there.contains(number)) {
            return Err(Trouble::NoSuch(*missing));
        }
        for number in chosen {
            let path = directory.join(dead_letter::file_name(*number));
            work(*number, &path).map_err(|error| Trouble::File(path, error))?;
        }
        Ok(chosen.len() as u64)
    }
}

fn numbers(directory: &Path) -> Result<Vec<u64>, Trouble> {
    let trouble = |error| Trouble::File(directory.to_owned(), error);
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(trouble(error)),
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry.map_err(trouble)?.file_name();
        numbers.extend(name.to_str().and_then(dead_letter::number));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn read(path: &Path) -> io::Result<Letter> {
    let bytes = bounded_file::read(path, LETTER_BYTES_MAX).map_err(io::Error::other)?;
    Letter::parse(&bytes).map_err(io::Error::from)
}

fn show(number: u64, path: &Path) -> io::Result<()> {
    let letter = read(path)?;
    exit::print(&serde_json::json!(Entry { number, letter }));
    Ok(())
}

fn list(directory: &Path, format: OutputFormat) -> Result<u64, Trouble> {
    let numbers = numbers(directory)?;
    let mut entries = Vec::with_capacity(numbers.len());
    for number in numbers {
        let path = directory.join(dead_letter::file_name(number));
        let letter = read(&path).map_err(|error| Trouble::File(path, error))?;
        entries.push(Entry { number, letter });
    }
    let count = entries.len() as u64;
    if format == OutputFormat::Json {
        exit::print(&serde_json::json!(entries));
        return Ok(count);
    }
    if entries.is_empty() {
        exit::progress(&"no dead letters");
        return Ok(0);
    }
    let readings: u64 = entries.iter().map(|e| u64::from(e.letter.readings)).sum();
    exit::print(&format!(
        "{:>6}  {:<19}  {:>8}  why, and what",
        "number", "when", "readings"
    ));
    for Entry { number, letter } in &entries {
        exit::print(&format!(
            "{number:>6}  {}  {:>8}  {}",
            figures::when(letter.at_ms.0),
            letter.readings,
            letter.reason
        ));
        exit::print(&format!(
            "{:>6}  {:<19}  {:>8}  {} {}",
            "",
            "",
            "",
            letter.topic,
            excerpt(&letter.payload)
        ));
    }
    exit::print(&format!("{count} dead letters with {readings} readings"));
    Ok(count)
}

/// The beginning, without anything a terminal would obey.
fn excerpt(payload: &str) -> String {
    let plain = payload
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c });
    let mut shown: String = plain.take(EXCERPT_CHARS).collect();
    if shown.len() < payload.len() {
        shown.push('…');
    }
    shown
}

fn replayed(settings: &Settings, count: u64) {
    let when = match reload::tell_running(settings) {
        Some(Ok(())) => "now",
        Some(Err(_)) | None => "when the gateway starts",
    };
    exit::progress(&format!("{count} will be sent again {when}"));
}

/// The same number, marked to be sent again.
fn replay_of(path: &Path) -> String {
    let name = path.file_name().and_then(|name| name.to_str());
    replay_name(name.and_then(dead_letter::number).unwrap_or_default())
}
