//! The in-flight window: which publishes are on their way, and how far the spool may forget.
//!
//! ```text
//!  admit ──► [ t5 ✓ │ t6 · │ t7 ✓ │ t8 · ] ◄── newest
//!              └ popped when acknowledged; the cursor follows the front
//! ```
//!
//! Acknowledgements may come in any order; the cursor only moves over a contiguous prefix. A message spread over several
//! publishes counts once all of them are acknowledged: each part begins with it, and only the last names its end, so
//! that parts which still wait for room count, too.

use std::collections::VecDeque;
use std::time::Duration;

use crate::message::Sequence;
use crate::thingsboard::SequenceRange;
use crate::time::Instant;

/// Names a publish within one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

#[derive(Clone, Debug)]
struct Entry<C> {
    range: Option<SequenceRange>,
    readings: u32,
    bytes: usize,
    sent_at: Instant,
    acknowledged: bool,
    carried: Option<C>,
}

/// What an acknowledgement changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledged<C> {
    /// Readings of the publish.
    pub readings: u32,
    /// The messages it carried.
    pub range: Option<SequenceRange>,
    /// When it was sent.
    pub sent_at: Instant,
    /// The new cursor, if it moved: everything up to it is acknowledged.
    pub cursor: Option<Sequence>,
    /// What was kept with the publish.
    pub carried: Option<C>,
}

/// The window of one link. It outlives sessions; [`Window::lost`] empties it. `C` is what the caller keeps with each
/// publish until it is acknowledged.
#[derive(Clone, Debug)]
pub struct Window<C> {
    entries: VecDeque<Entry<C>>,
    front: u64,
    limit: usize,
    bytes_max: usize,
    bytes: usize,
    cursor: Sequence,
    /// Highest message of an acknowledged publish that was popped.
    popped: Sequence,
}

impl<C> Window<C> {
    /// An empty window over a spool acknowledged up to `cursor`: at most `limit` publishes, and no further one once their
    /// payloads have `bytes_max` bytes together.
    ///
    /// The bytes matter where the peer is slow: what a full window holds must be read by it before an answer to anything
    /// behind it can come.
    #[must_use]
    pub fn new(limit: u16, bytes_max: usize, cursor: Sequence) -> Self {
        let limit = usize::from(limit.max(1));
        Self {
            entries: VecDeque::with_capacity(limit),
            front: 0,
            limit,
            bytes_max,
            bytes: 0,
            cursor,
            popped: cursor,
        }
    }

    /// Changes the limit, as each session's Receive Maximum demands. A shrunk window admits nothing until it has
    /// drained below the new limit.
    pub fn resize(&mut self, limit: u16) {
        self.limit = usize::from(limit.max(1));
    }

    /// Whether another publish may go.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.entries.len() < self.limit && self.bytes < self.bytes_max.max(1)
    }

    /// Takes a publish in, unless the window is full.
    pub fn admit(
        &mut self,
        range: Option<SequenceRange>,
        readings: u32,
        bytes: usize,
        carried: C,
        now: Instant,
    ) -> Option<Token> {
        if !self.has_room() {
            return None;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.entries.push_back(Entry {
            range,
            readings,
            bytes,
            sent_at: now,
            acknowledged: false,
            carried: Some(carried),
        });
        Some(Token(self.front + self.entries.len() as u64 - 1))
    }

    /// What is kept with a publish that is in flight.
    #[must_use]
    pub fn carried(&self, token: Token) -> Option<&C> {
        let index = usize::try_from(token.0.checked_sub(self.front)?).ok()?;
        self.entries.get(index)?.carried.as_ref()
    }

    /// When a publish that is in flight was sent.
    #[must_use]
    pub fn sent_at(&self, token: Token) -> Option<Instant> {
        let index = usize::try_from(token.0.checked_sub(self.front)?).ok()?;
        self.entries.get(index).map(|entry| entry.sent_at)
    }

    /// Notes an acknowledgement; none for a token that is not in flight, which is the peer's mistake and harmless.
    pub fn acknowledge(&mut self, token: Token) -> Option<Acknowledged<C>> {
        let index = usize::try_from(token.0.checked_sub(self.front)?).ok()?;
        let entry = self.entries.get_mut(index)?;
        if entry.acknowledged {
            return None;
        }
        entry.acknowledged = true;
        self.bytes = self.bytes.saturating_sub(entry.bytes);
        let (readings, range, sent_at) = (entry.readings, entry.range, entry.sent_at);
        let carried = entry.carried.take();
        while let Some(entry) = self.entries.front().filter(|entry| entry.acknowledged) {
            if let Some(range) = entry.range {
                self.popped = self.popped.max(range.last);
            }
            self.entries.pop_front();
            self.front += 1;
        }
        let waiting = self.entries.iter().find_map(|entry| entry.range);
        let reached = match waiting {
            Some(range) => self.popped.min(Sequence(range.first.0.saturating_sub(1))),
            None => self.popped,
        };
        let moved = reached > self.cursor;
        self.cursor = self.cursor.max(reached);
        Some(Acknowledged {
            readings,
            range,
            sent_at,
            cursor: moved.then_some(self.cursor),
            carried,
        })
    }

    /// The session is over: nothing is in flight any more. Returns the cursor after which sending starts again.
    pub fn lost(&mut self) -> Sequence {
        self.front += self.entries.len() as u64;
        self.entries.clear();
        self.bytes = 0;
        self.popped = self.cursor;
        self.cursor
    }

    /// Everything up to here is acknowledged.
    #[must_use]
    pub const fn cursor(&self) -> Sequence {
        self.cursor
    }

    /// Publishes that wait for their acknowledgement or for one before them.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is in flight.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How long the oldest publish has waited.
    #[must_use]
    pub fn oldest_age(&self, now: Instant) -> Option<Duration> {
        self.entries
            .front()
            .map(|entry| now.saturating_since(entry.sent_at))
    }

    /// When the oldest publish was sent.
    #[must_use]
    pub fn oldest_sent_at(&self) -> Option<Instant> {
        self.entries.front().map(|entry| entry.sent_at)
    }

    /// The payload of the largest publish that waits for its acknowledgement, bytes; zero without one.
    #[must_use]
    pub fn largest_bytes(&self) -> usize {
        self.entries
            .iter()
            .filter(|entry| !entry.acknowledged)
            .map(|entry| entry.bytes)
            .max()
            .unwrap_or_default()
    }

    /// The newest message in flight.
    #[must_use]
    pub fn newest(&self) -> Option<Sequence> {
        self.entries
            .iter()
            .rev()
            .find_map(|entry| entry.range)
            .map(|range| range.last.max(range.first))
    }

    /// The oldest message in flight.
    #[must_use]
    pub fn oldest(&self) -> Option<Sequence> {
        self.entries
            .iter()
            .find_map(|entry| entry.range)
            .map(|range| range.first)
    }
}
