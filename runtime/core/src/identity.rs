//! What a publish is called, so that a receiver can tell a repetition from news.
//!
//! ```text
//!  12-14       messages 12, 13 and 14 of the stream, whole
//!  12-15.3     the same, and the first three readings of 15
//!  15.3-15.7   readings four to seven of 15
//! ```
//!
//! The name says exactly what is inside, so that two publishes of one name carry the same, and overlapping names tell how much
//! of a publish was there before. A message keeps its place in its stream for ever; what is grouped with it is remembered
//! until the broker has acknowledged it ([`Grouping`]), for one process.

use std::collections::BTreeSet;
use std::fmt;

use crate::message::{Sequence, StreamId};

/// Bytes that the user properties of a named publish take at most, with a gateway's and a stream's name of 64 bytes each.
pub const PROPERTIES_BYTES_MAX: usize = 256;

/// A place between two readings: before this one (from 0) of this message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// The message.
    pub sequence: Sequence,
    /// How many of its readings come before.
    pub reading: u32,
}

/// What a publish carries, in the stream's own count. `Display` writes it as above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The stream its messages come from.
    pub stream: StreamId,
    /// Where it begins.
    pub first: Mark,
    /// The last message it carries something of.
    pub last: Sequence,
    /// How many readings of the last message are told by its end; none: all of them.
    pub through: Option<u32>,
    /// Its messages waited while the link was away.
    pub historical: bool,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first.sequence.0)?;
        if self.first.reading > 0 {
            write!(f, ".{}", self.first.reading)?;
        }
        write!(f, "-{}", self.last.0)?;
        match self.through {
            Some(reading) => write!(f, ".{reading}"),
            None => Ok(()),
        }
    }
}

/// Where publishes began and ended that are not acknowledged, in turns: encoded again, the same messages are grouped as
/// before, and keep their names.
///
/// It holds two marks for each publish that is encoded and not acknowledged: the window and what is read ahead bound it.
#[derive(Clone, Debug, Default)]
pub struct Grouping {
    marks: BTreeSet<Mark>,
}

impl Grouping {
    /// A publish was encoded that begins here; `ends` is the last turn that is whole in it, if one is.
    pub fn note(&mut self, begins: Mark, ends: Option<Sequence>) {
        self.marks.insert(begins);
        if let Some(last) = ends {
            self.marks.insert(before(last.next()));
        }
    }

    /// Everything through this turn is acknowledged.
    pub fn settled(&mut self, through: Sequence) {
        if self
            .marks
            .first()
            .is_some_and(|mark| mark.sequence <= through)
        {
            self.marks = self.marks.split_off(&before(through.next()));
        }
    }

    /// Where to begin a new publish among the turns after this one, in order.
    pub fn after(&self, turn: Sequence) -> impl Iterator<Item = Mark> + '_ {
        self.marks.range(before(turn.next())..).copied()
    }

    /// How many marks are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.marks.len()
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }
}

const fn before(sequence: Sequence) -> Mark {
    Mark {
        sequence,
        reading: 0,
    }
}
