//! The limits of a plugin, by the names an operator knows them by.

use std::fmt;
use std::time::Duration;

use crate::time::Instant;

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    /// Bytes of all linear memories.
    Memory,
    /// Elements of all tables.
    Tables,
    /// Core instances, memories and tables of the component.
    Instances,
    /// CPU time of one call.
    Call,
    /// Share of one core.
    Cpu,
    /// Readings for the spool.
    Emit,
    /// Lines for the log.
    Log,
    /// Bytes over its streams.
    Stream,
    /// Bytes of its key-value state.
    State,
    /// Bytes a second of its state on their way to the disk.
    StateWrite,
    /// Descriptors of the host it has open.
    Descriptors,
    /// Bytes in the directories it may write.
    DirectoryBytes,
    /// Files and directories in them.
    DirectoryEntries,
}

impl Limit {
    /// Every limit.
    pub const ALL: [Self; 13] = [
        Self::Memory,
        Self::Tables,
        Self::Instances,
        Self::Call,
        Self::Cpu,
        Self::Emit,
        Self::Log,
        Self::Stream,
        Self::State,
        Self::StateWrite,
        Self::Descriptors,
        Self::DirectoryBytes,
        Self::DirectoryEntries,
    ];

    /// The key in `[connector.limits]`.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Memory => "memory_bytes_max",
            Self::Tables => "table_elements_max",
            Self::Instances => "instances_max",
            Self::Call => "call_deadline_ms",
            Self::Cpu => "cpu_percent",
            Self::Emit => "emit_readings_per_s",
            Self::Log => "log_lines_per_s",
            Self::Stream => "stream_bytes_per_s",
            Self::State => "state_bytes_max",
            Self::StateWrite => "state_write_bytes_per_s",
            Self::Descriptors => "descriptors_max",
            Self::DirectoryBytes => "directory_bytes_max",
            Self::DirectoryEntries => "directory_entries_max",
        }
    }

    /// What becomes of a guest that exceeds it.
    #[must_use]
    pub const fn consequence(self) -> &'static str {
        match self {
            Self::Memory | Self::Tables | Self::Instances | Self::Call => "it is ended",
            Self::Cpu | Self::StateWrite => "its next call waits",
            Self::Emit => "it is told to wait",
            Self::Log => "lines are held back",
            Self::Stream => "it waits for its stream",
            Self::State => "the value is not kept",
            Self::Descriptors => "nothing more is opened for it",
            Self::DirectoryBytes => "nothing more is written for it",
            Self::DirectoryEntries => "nothing more is made for it",
        }
    }
}

/// A limit that was exceeded, and what it stood at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// Which.
    pub limit: Limit,
    /// Its value, in the unit of its key.
    pub value: u64,
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, value) = (self.limit.key(), self.value);
        write!(f, "{key} = {value} of [connector.limits]")
    }
}

/// While a limit goes on being exceeded, it is said again after this long.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// How often each limit was exceeded, and which one last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hits {
    entries: [Hit; Limit::ALL.len()],
    last: Option<Exceeded>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Hit {
    count: u64,
    value: u64,
    said: Option<Instant>,
}

impl Hits {
    /// Counts. True if it is to be said aloud: the first time, and then once a minute.
    pub fn hit(&mut self, now: Instant, exceeded: Exceeded) -> bool {
        self.last = Some(exceeded);
        let Some(hit) = self.entries.get_mut(exceeded.limit as usize) else {
            return false;
        };
        hit.count = hit.count.saturating_add(1);
        hit.value = exceeded.value;
        let due = hit
            .said
            .is_none_or(|said| now.saturating_since(said) >= SAID_EVERY);
        if due {
            hit.said = Some(now);
        }
        due
    }

    /// Those that were exceeded, and how often.
    pub fn iter(&self) -> impl Iterator<Item = (Exceeded, u64)> + '_ {
        Limit::ALL
            .into_iter()
            .zip(&self.entries)
            .filter(|(_, hit)| hit.count > 0)
            .map(|(limit, hit)| {
                let value = hit.value;
                (Exceeded { limit, value }, hit.count)
            })
    }

    /// How often this one was exceeded.
    #[must_use]
    pub fn count(&self, limit: Limit) -> u64 {
        self.entries.get(limit as usize).map_or(0, |hit| hit.count)
    }

    /// The last one.
    #[must_use]
    pub fn last(&self) -> Option<Exceeded> {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_has_its_place_and_its_key() {
        let mut keys = std::collections::BTreeSet::new();
        for (at, limit) in Limit::ALL.into_iter().enumerate() {
            assert_eq!(limit as usize, at);
            assert!(keys.insert(limit.key()));
        }
        let exceeded = Exceeded {
            limit: Limit::Emit,
            value: 100,
        };
        assert_eq!(
            exceeded.to_string(),
            "emit_readings_per_s = 100 of [connector.limits]"
        );
    }

    #[test]
    fn hits_are_counted_and_said_once_a_minute() {
        let at = |s| Instant::from_start(Duration::from_secs(s));
        let (limit, value) = (Limit::Log, 20);
        let exceeded = Exceeded { limit, value };
        let mut hits = Hits::default();
        assert_eq!((hits.iter().count(), hits.last()), (0, None));
        let said: Vec<bool> = [0, 1, 59, 60, 61, 120]
            .map(|s| hits.hit(at(s), exceeded))
            .to_vec();
        assert_eq!(said, [true, false, false, true, false, true]);
        assert_eq!(hits.iter().collect::<Vec<_>>(), [(exceeded, 6)]);
        assert_eq!((hits.count(limit), hits.count(Limit::Cpu)), (6, 0));
        assert_eq!(hits.last(), Some(exceeded));
    }
}
