//! A journal's two files: one grows, the other is the one before.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Bytes after which a new file is begun.
pub const FILE_BYTES_MAX: u64 = 512 * 1024;

pub(super) const DIRECTORY: &str = "journal";
const VERSION: u32 = 1;
/// No entry is longer; a file with longer lines is not ours.
pub(super) const LINE_BYTES_MAX: u64 = 64 * 1024;

pub(super) fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join(DIRECTORY)
}

pub(super) fn file(name: &str) -> String {
    format!("{name}.jsonl")
}

pub(super) fn old_file(name: &str) -> String {
    format!("{name}.old.jsonl")
}

#[derive(Serialize)]
struct Written<'a, T> {
    v: u32,
    #[serde(flatten)]
    entry: &'a T,
}

#[derive(Deserialize)]
struct Line<T> {
    v: u32,
    #[serde(flatten)]
    entry: T,
}

/// The files of one journal.
#[derive(Debug)]
pub(super) struct Pages {
    directory: PathBuf,
    name: &'static str,
    /// The one that grows, and its length.
    page: Option<(File, u64)>,
}

impl Pages {
    pub(super) fn new(state_dir: &Path, name: &'static str) -> Self {
        Self {
            directory: directory(state_dir),
            name,
            page: None,
        }
    }

    pub(super) fn append<T: Serialize>(&mut self, entries: &[T]) -> io::Result<()> {
        let mut text = Vec::new();
        for entry in entries {
            serde_json::to_writer(&mut text, &Written { v: VERSION, entry })?;
            text.push(b'\n');
        }
        let written = self.write(&text);
        if written.is_err() {
            // Half a line may be there: the next page is opened anew and begins on a line of its own.
            self.page = None;
        }
        written
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        let (mut page, bytes) = match self.page.take() {
            Some(page) => page,
            None => self.open()?,
        };
        page.write_all(text)?;
        // What is written here is rare, and often the last thing before the power goes.
        page.sync_data()?;
        let bytes = bytes + text.len() as u64;
        if bytes < FILE_BYTES_MAX {
            self.page = Some((page, bytes));
            return Ok(());
        }
        drop(page);
        fs::rename(
            self.directory.join(file(self.name)),
            self.directory.join(old_file(self.name)),
        )
    }

    fn open(&self) -> io::Result<(File, u64)> {
        fs::create_dir_all(&self.directory)?;
        let mut page = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(self.directory.join(file(self.name)))?;
        let bytes = page.seek(SeekFrom::End(0))?;
        if bytes > 0 {
            let mut last = [0];
            page.seek(SeekFrom::End(-1))?;
            page.read_exact(&mut last)?;
            if last != *b"\n" {
                page.write_all(b"\n")?;
            }
        }
        Ok((page, bytes))
    }
}

/// Reads the entries of a journal, oldest first, and how many lines could not be read.
pub(super) fn read<T: DeserializeOwned>(state_dir: &Path, name: &str) -> io::Result<(Vec<T>, u64)> {
    let mut entries = Vec::new();
    let mut skipped = 0;
    for file in [old_file(name), file(name)] {
        match File::open(directory(state_dir).join(file)) {
            Ok(file) => take(BufReader::new(file), &mut entries, &mut skipped)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok((entries, skipped))
}

fn take<T: DeserializeOwned>(
    mut file: impl io::BufRead,
    entries: &mut Vec<T>,
    skipped: &mut u64,
) -> io::Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = io::Read::take(&mut file, LINE_BYTES_MAX);
        if limited.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        match serde_json::from_slice(&line) {
            Ok(Line { v, entry }) if v == VERSION => entries.push(entry),
            Ok(Line { .. }) | Err(_) => *skipped += 1,
        }
    }
}
