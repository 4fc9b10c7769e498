//! What is not settled: the ranges of records that the platform still has to get.
//!
//! ```text
//!  settled        backlog          settled         live
//!  ────────┤acked           through├───────┤acked            newest │ appended next ►
//! ```
//!
//! In order of sequences. The last range is open: it holds whatever is appended. A session that begins with records
//! waiting closes it behind them and opens another, so that both can be delivered side by side. A range that is settled
//! through its end is gone.

use super::{Position, Totals};
use crate::message::Sequence;

/// Ranges there can be. With so many, a new session does not divide any more what waits from what comes.
pub const RANGES_MAX: usize = 16;

/// Records that are not settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Range {
    /// Everything before this place is settled, as far as the range before.
    pub acked: Position,
    /// Its last record; none = open.
    pub through: Option<Position>,
}

impl Range {
    /// Its end while `last` is the newest record.
    #[must_use]
    pub fn end(&self, last: Position) -> Position {
        self.through.unwrap_or(last)
    }

    fn holds(&self, sequence: Sequence) -> bool {
        self.acked.sequence < sequence
            && self
                .through
                .is_none_or(|through| sequence <= through.sequence)
    }

    /// What of it lies after `start`, through `end`.
    fn overlap(&self, start: Position, end: Position, last: Position) -> Totals {
        let first = start.latest(self.acked);
        let through = self.end(last);
        let end = if end.sequence < through.sequence {
            end
        } else {
            through
        };
        if end.sequence <= first.sequence {
            return Totals::default();
        }
        end.totals.since(first.totals)
    }
}

/// All ranges of a spool: at least the open one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges(Vec<Range>);

impl Default for Ranges {
    fn default() -> Self {
        Self::after(Position::default())
    }
}

impl Ranges {
    /// Everything after `acked`.
    #[must_use]
    pub fn after(acked: Position) -> Self {
        Self(vec![Range {
            acked,
            through: None,
        }])
    }

    /// These ranges, if they are in order, at most [`RANGES_MAX`], and only the last is open.
    #[must_use]
    pub fn of(ranges: Vec<Range>) -> Option<Self> {
        let (open, closed) = ranges.split_last()?;
        let mut before = Sequence(0);
        for range in closed {
            let through = range.through?;
            if range.acked.sequence < before || through.sequence <= range.acked.sequence {
                return None;
            }
            before = through.sequence;
        }
        let whole =
            open.through.is_none() && open.acked.sequence >= before && ranges.len() <= RANGES_MAX;
        whole.then_some(Self(ranges))
    }

    /// In order.
    pub fn iter(&self) -> std::slice::Iter<'_, Range> {
        self.0.iter()
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Everything before this place is settled.
    #[must_use]
    pub fn acked(&self) -> Position {
        self.0.first().map_or_else(Position::default, |r| r.acked)
    }

    /// The newest place any range knows of.
    #[must_use]
    pub(crate) fn newest(&self) -> Position {
        let open = self.0.last().map_or_else(Position::default, |r| r.acked);
        self.0
            .iter()
            .filter_map(|range| range.through)
            .fold(open, Position::latest)
    }

    pub(crate) fn get(&self, index: usize) -> Option<Range> {
        self.0.get(index).copied()
    }

    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut Range> {
        self.0.get_mut(index)
    }

    /// Which range holds this record.
    #[must_use]
    pub fn index_of(&self, sequence: Sequence) -> Option<usize> {
        self.0.iter().position(|range| range.holds(sequence))
    }

    /// What waits while `last` is the newest record.
    #[must_use]
    pub fn depth(&self, last: Position) -> Totals {
        self.overlap(Position::default(), last, last)
    }

    /// What waits after `start`, through `end`.
    #[must_use]
    pub fn overlap(&self, start: Position, end: Position, last: Position) -> Totals {
        self.0
            .iter()
            .map(|range| range.overlap(start, end, last))
            .fold(Totals::default(), Totals::plus)
    }

    /// Whether a record between these places waits.
    pub(crate) fn meets(&self, start: Sequence, end: Sequence) -> bool {
        self.0.iter().any(|range| {
            let after = start.max(range.acked.sequence);
            let through = range
                .through
                .map_or(end, |through| end.min(through.sequence));
            after < through
        })
    }

    /// Closes the range `index` at `at` and begins another behind it. `false` where there is nothing on one side, or no
    /// room for another range.
    pub(crate) fn split(&mut self, index: usize, at: Position) -> bool {
        let full = self.0.len() >= RANGES_MAX;
        let Some(range) = self.0.get_mut(index).filter(|_| !full) else {
            return false;
        };
        let inside = range.acked.sequence < at.sequence
            && range
                .through
                .is_none_or(|through| at.sequence < through.sequence);
        if !inside {
            return false;
        }
        let through = range.through.replace(at);
        self.0.insert(index + 1, Range { acked: at, through });
        true
    }

    /// Makes one of the closed range `index` and the closed one that follows it at once.
    pub(crate) fn join(&mut self, index: usize) -> bool {
        let (Some(range), Some(next)) = (self.get(index), self.get(index + 1)) else {
            return false;
        };
        let adjacent = range.through == Some(next.acked) && next.through.is_some();
        if adjacent {
            self.0.remove(index + 1);
            if let Some(range) = self.get_mut(index) {
                range.through = next.through;
            }
        }
        adjacent
    }

    /// Takes away a closed range that is settled.
    pub(crate) fn remove_settled(&mut self, index: usize) -> bool {
        let settled = self.0.get(index).is_some_and(|range| {
            range
                .through
                .is_some_and(|through| through.sequence <= range.acked.sequence)
        });
        if settled {
            self.0.remove(index);
        }
        settled
    }

    /// Nothing through `end` waits any more.
    pub(crate) fn settle_before(&mut self, end: Position) {
        for range in &mut self.0 {
            if range.acked.sequence < end.sequence {
                range.acked = match range.through {
                    Some(through) if through.sequence <= end.sequence => through,
                    Some(_) | None => range.acked.latest(end),
                };
            }
        }
        let mut index = 0;
        while index < self.0.len() {
            if !self.remove_settled(index) {
                index += 1;
            }
        }
    }
}
