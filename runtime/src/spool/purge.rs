//! Giving up what waits in a stream, at an operator's word: by whoever holds the spool.
//!
//! A running gateway holds its lock, so it is asked as dead letters are: with a file and a SIGHUP.
//!
//! ```text
//! file `purge`:   somebody waits for everything that waits to be given up; empty
//! file `purged`:  what came of it: {"records": n, "readings": n}, or {"error": "…"}
//! ```
//!
//! The question is removed before it is obeyed: a purge that a crash interrupted is not made up for later, when something
//! else waits and nobody asked.

use std::fs;
use std::io;
use std::path::Path;

use moorline_core::spool::storage::StorageError;
use moorline_core::spool::{self as core_spool, Totals};
use moorline_core::time::TimestampMs;
use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::settings::StreamSetup;
use super::{OpenError, SpoolSettings, TAIL_BYTES};

const QUESTION: &str = "purge";
const ANSWER: &str = "purged";
/// Room for a stream whose bounds nobody knows any more.
const BYTES_UNKNOWN: u64 = 1 << 40;
const ANSWER_DRAFT: &str = "purged.new";

/// What came of a purge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Purged {
    /// So much was given up, and is counted as evicted.
    GivenUp {
        /// Messages.
        records: u64,
        /// Readings in them.
        readings: u64,
    },
    /// Nothing was.
    Refused {
        /// Why.
        error: String,
    },
}

impl From<Result<Totals, StorageError>> for Purged {
    fn from(purged: Result<Totals, StorageError>) -> Self {
        match purged {
            Ok(Totals { records, readings }) => Self::GivenUp { records, readings },
            Err(error) => Self::Refused {
                error: error.to_string(),
            },
        }
    }
}

/// Asks whoever holds the spool in `directory`; he must be told to look.
///
/// # Errors
/// When the directory cannot be written.
pub(crate) fn ask(directory: &Path) -> io::Result<()> {
    remove(&directory.join(ANSWER))?;
    fs::write(directory.join(QUESTION), [])
}

/// The answer, once it is there; it is taken away.
///
/// # Errors
/// When it cannot be read or understood.
pub(crate) fn answer(directory: &Path) -> io::Result<Option<Purged>> {
    let file = directory.join(ANSWER);
    let bytes = match fs::read(&file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    remove(&file)?;
    Ok(Some(serde_json::from_slice(&bytes)?))
}

/// Takes the question back; false when somebody took it up already, so that an answer is under way.
///
/// # Errors
/// When the directory cannot be written.
pub(crate) fn withdraw(directory: &Path) -> io::Result<bool> {
    remove(&directory.join(QUESTION))
}

/// For whoever holds the spool: whether somebody asked. The question is gone then.
pub(super) fn taken_up(directory: &Path) -> bool {
    remove(&directory.join(QUESTION)).unwrap_or_else(|error| {
        tracing::warn!(%error, directory = %directory.display(), "a purge is asked for and cannot be taken up");
        false
    })
}

/// For whoever holds the spool: tells who asked.
pub(super) fn reply(directory: &Path, purged: &Purged) {
    let draft = directory.join(ANSWER_DRAFT);
    let written = serde_json::to_vec(purged)
        .map_err(io::Error::other)
        .and_then(|answer| fs::write(&draft, answer))
        .and_then(|()| fs::rename(&draft, directory.join(ANSWER)));
    if let Err(error) = written {
        tracing::warn!(%error, directory = %directory.display(), "whoever asked for the purge cannot be told what came of it");
    }
}

/// Takes the lock of the stream in `directory`, gives up everything that waits in it, and leaves it to its gateway.
///
/// # Errors
/// When a gateway works on it, or it cannot be opened.
pub(crate) fn stopped(
    settings: &SpoolSettings,
    name: &str,
    directory: &Path,
    now: TimestampMs,
) -> Result<Purged, OpenError> {
    let mut known = settings.streams.iter();
    let setup = known.find(|setup| &*setup.stream.name == name).cloned();
    // One that the configuration no longer names is small enough to be opened with anything.
    let setup = setup.unwrap_or_else(|| StreamSetup::new(name, u8::MAX, BYTES_UNKNOWN));
    let limits = setup.limits(settings, TAIL_BYTES)?;
    let disk = Disk::open(directory)?;
    let window = settings.window_of(&setup, &disk, false);
    let (mut spool, _recovery) = core_spool::Spool::open_with(disk, window, limits, 1)?;
    spool.tell_time(now);
    let purged = Purged::from(spool.purge());
    spool.close()?;
    Ok(purged)
}

/// Whether it was there.
fn remove(file: &Path) -> io::Result<bool> {
    match fs::remove_file(file) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_taken_up_once_and_answered_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert!(!taken_up(path) && answer(path).unwrap().is_none());
        ask(path).unwrap();
        assert!(taken_up(path) && !taken_up(path) && !withdraw(path).unwrap());
        for purged in [
            Purged::GivenUp {
                records: 1,
                readings: 2,
            },
            Purged::Refused {
                error: "no space left".into(),
            },
        ] {
            reply(path, &purged);
            assert_eq!(answer(path).unwrap(), Some(purged));
            assert_eq!(answer(path).unwrap(), None);
        }
        ask(path).unwrap();
        assert!(withdraw(path).unwrap() && !taken_up(path));
    }
}
