//! What a stream is told.

use std::sync::Arc;

/// Streams a gateway can have.
pub const STREAMS_MAX: usize = 16;

/// A whole percentage, 0 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Whole(pub u8);

/// In which order a stream goes when it waited for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterOutage {
    /// As it was accepted: what comes waits for what waited.
    BacklogFirst,
    /// What comes goes first, and what waited beside it: each in its own order.
    LiveFirst {
        /// While both wait, so much of what goes is of the backlog.
        backlog_share_percent: Whole,
        /// No more of the backlog than this; none = as much as there is room for.
        backlog_readings_per_s: Option<u32>,
        /// The newest segment of the backlog before the older ones.
        newest_first: bool,
    },
}

/// One stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSettings {
    /// Its name: of its directory, and in the identity of its messages.
    pub name: Arc<str>,
    /// The lowest goes first, whatever waits in others; equal ones take turns.
    pub priority: u8,
    /// Its order after an outage.
    pub after_outage: AfterOutage,
    /// The fuller the spool, the fewer messages of each device are kept.
    pub thin_out: bool,
}

impl StreamSettings {
    /// Of how many messages of a device one is kept while the spool is full by `fill`: all below a half, then one in two,
    /// from three quarters on one in four, and so on, so that it holds a picture of the whole outage.
    #[must_use]
    pub fn keep_one_in(&self, fill: f64) -> u32 {
        if !self.thin_out || fill < 0.5 {
            return 1;
        }
        let left = (1.0 - fill).max(1.0 / 2048.0);
        let halvings = (-left.log2()).floor().clamp(1.0, 10.0);
        2_u32.pow(halvings as u32)
    }
}
