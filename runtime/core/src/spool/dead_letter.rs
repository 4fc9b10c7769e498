//! Dead letters: messages that were accepted and that the platform will never take as they are.
//!
//! ```text
//! file `0123456789abcdef.letter`:  one JSON document, a [`Letter`]
//! file `0123456789abcdef.replay`:  the same; an operator wants it sent again
//! file `letter.new`:               one that is being written
//! ```
//!
//! They lie in the spool's directory. A letter is written and synced before the acknowledgement that lets the spool forget
//! its message. Other processes read, rename and remove the files while a gateway runs, so that nothing about them is
//! kept in memory. A number is higher than that of any letter there is; it may be that of one that was removed.

use serde::{Deserialize, Serialize};

use super::segment::number_in;
use super::storage::{Storage, StorageError, read_patiently};
use super::{Refused, Spool};
use crate::message::{Sequence, Uplink};
use crate::time::TimestampMs;

/// Letters that are kept; the oldest goes when another comes.
pub const LETTERS_MAX: usize = 1_000;

/// Bytes of all letters together; the oldest go when another would exceed it.
pub const LETTER_BYTES_MAX: u64 = 16 * 1024 * 1024;

const LETTER: &str = "letter";
const REPLAY: &str = "replay";
const NEW: &str = "letter.new";

/// A message, or the part of one that a publish carries, and why it was set aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// When it was set aside.
    pub at_ms: TimestampMs,
    /// Why.
    pub reason: Reason,
    /// The message's place in the spool it came from.
    pub sequence: Sequence,
    /// How many readings it carries.
    pub readings: u32,
    /// Where it should have gone.
    pub topic: String,
    /// What it says.
    pub payload: String,
}

/// Why a message was set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Reason {
    /// The broker refused it for good, with this reason code (MQTT 5.0 section 3.4.2.1).
    Refused {
        /// The code.
        code: u8,
    },
    /// No packet the broker takes can carry it.
    TooLarge {
        /// Bytes of its smallest indivisible part.
        bytes: u64,
    },
    /// The broker ended so many sessions right after it, the last of them with nothing else in flight.
    Poison {
        /// The sessions.
        sessions: u32,
    },
    /// A gateway publishes nothing on its topic.
    Topic,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused { code } => write!(f, "the broker refused it with 0x{code:02x}"),
            Self::TooLarge { bytes } => {
                write!(
                    f,
                    "its {bytes} bytes are more than the broker takes in a packet"
                )
            }
            Self::Poison { sessions } => {
                write!(f, "the broker ended {sessions} sessions right after it")
            }
            Self::Topic => f.write_str("a gateway publishes nothing on its topic"),
        }
    }
}

/// What keeping a letter did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The letter's number.
    pub number: u64,
    /// Older letters that had to go for it.
    pub dropped: usize,
}

/// What sending letters again did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Letters that are in the spool again.
    pub letters: u64,
    /// Files that are no letter, and stay as letters.
    pub unreadable: u64,
}

/// The number of a letter, from its file's name.
#[must_use]
pub fn number(file_name: &str) -> Option<u64> {
    number_in(file_name, LETTER)
}

/// The name of a letter's file.
#[must_use]
pub fn file_name(number: u64) -> String {
    format!("{number:016x}.{LETTER}")
}

/// The name that asks for a letter to be sent again.
#[must_use]
pub fn replay_name(number: u64) -> String {
    format!("{number:016x}.{REPLAY}")
}

impl Letter {
    /// Reads a letter's file.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

impl<S: Storage> Spool<S> {
    /// Keeps `letter`, and survives a power cut with it.
    ///
    /// # Errors
    /// When the storage refuses, or the letter alone exceeds the bounds.
    pub fn keep(&mut self, letter: &Letter) -> Result<Kept, StorageError> {
        self.refuse_absent()?;
        // A letter is made of strings and numbers: encoding it cannot fail.
        let bytes = serde_json::to_vec(letter).map_err(|_| StorageError::Fault(0))?;
        if bytes.len() as u64 > LETTER_BYTES_MAX {
            return Err(StorageError::Full);
        }
        let mut there = self.letters(LETTER)?;
        let highest = self.letters(REPLAY)?.last().map(|(number, _)| *number);
        let number = there
            .last()
            .map(|(number, _)| *number)
            .max(highest)
            .map_or(1, |highest| highest.saturating_add(1));
        let mut total = bytes.len() as u64 + there.iter().map(|(_, bytes)| bytes).sum::<u64>();
        let mut dropped = 0;
        while there.len() >= LETTERS_MAX || total > LETTER_BYTES_MAX {
            let (oldest, oldest_bytes) = there.remove(0);
            match self.storage.remove(&file_name(oldest)) {
                Ok(()) => dropped += 1,
                // Somebody removed it already.
                Err(StorageError::Missing) => {}
                Err(error) => return Err(error),
            }
            total -= oldest_bytes;
        }
        let mut file = self.storage.create(NEW)?;
        self.storage.write_at(&mut file, 0, &bytes)?;
        self.storage.sync(&mut file)?;
        self.storage.rename(NEW, &file_name(number))?;
        self.storage.sync_names()?;
        Ok(Kept { number, dropped })
    }

    /// Takes the letters that an operator wants to be sent again into the spool, oldest first. One that is not accepted
    /// stays and stops the others; it is tried again at the next call.
    ///
    /// # Errors
    /// When the storage refuses.
    pub fn replay(&mut self) -> Result<Replayed, StorageError> {
        self.refuse_absent()?;
        let mut replayed = Replayed::default();
        for (number, bytes) in self.letters(REPLAY)? {
            let name = replay_name(number);
            let Some(letter) = self.letter(&name, bytes)? else {
                self.storage.rename(&name, &file_name(number))?;
                replayed.unreadable += 1;
                continue;
            };
            let uplink = Uplink::Letter {
                topic: letter.topic,
                payload: letter.payload,
                readings: letter.readings,
            };
            if self.kept_full {
                return Err(StorageError::Full);
            }
            let mut outcomes = Vec::with_capacity(1);
            self.append([uplink], &mut outcomes);
            match outcomes.first() {
                Some(Ok(_accepted)) => {}
                Some(Err(Refused::TooLarge)) | None => {
                    self.storage.rename(&name, &file_name(number))?;
                    replayed.unreadable += 1;
                    continue;
                }
                Some(Err(Refused::Storage(error))) => return Err(*error),
                Some(Err(Refused::Dropped)) => return Err(StorageError::Full),
            }
            // First there for good, then gone here: a crash in between sends it twice.
            self.commit()?;
            self.storage.remove(&name)?;
            replayed.letters += 1;
        }
        self.storage.sync_names()?;
        Ok(replayed)
    }

    /// Numbers and lengths of the files with this extension, lowest number first.
    fn letters(&mut self, extension: &str) -> Result<Vec<(u64, u64)>, StorageError> {
        let listed = self.storage.list()?;
        let mut letters: Vec<_> = listed
            .iter()
            .filter_map(|file| Some((number_in(&file.name, extension)?, file.bytes)))
            .collect();
        letters.sort_unstable();
        Ok(letters)
    }

    fn letter(&mut self, name: &str, bytes: u64) -> Result<Option<Letter>, StorageError> {
        if bytes > LETTER_BYTES_MAX {
            return Ok(None);
        }
        let mut file = self.storage.open_read(name)?;
        let mut contents = vec![0; usize::try_from(bytes).unwrap_or(0)];
        let read = read_patiently(&mut self.storage, &mut file, 0, &mut contents)?;
        contents.truncate(read);
        Ok(Letter::parse(&contents).ok())
    }
}
