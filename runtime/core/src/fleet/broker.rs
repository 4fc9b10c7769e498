//! The model of a broker that went away and is back: a token bucket behind a backlog.

use std::collections::VecDeque;
use std::time::Duration;

use crate::time::Instant;

const NANOS_PER_S: u64 = 1_000_000_000;
/// The bucket holds what the broker accepts in this part of a second.
const BURST_PARTS: u32 = 10;

/// What becomes of a CONNECT for which the backlog has no place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overload {
    /// CONNACK 0x89, server busy, at once.
    #[default]
    Busy,
    /// No answer: the gateway's CONNACK deadline passes.
    Silent,
}

impl Overload {
    /// The stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Silent => "silent",
        }
    }
}

/// What the broker makes of one CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nobody listens.
    Away,
    /// Accepted at this time, now or after a wait in the backlog.
    Accepted(Instant),
    /// Refused with 0x89.
    Busy,
    /// Never answered.
    Dropped,
}

/// How many CONNECTs the bucket holds when it is full.
#[must_use]
pub const fn burst(accept_per_s: u32) -> u32 {
    let part = accept_per_s / BURST_PARTS;
    if part == 0 { 1 } else { part }
}

/// Accepts CONNECTs in the order in which they come. The place in the backlog is kept although the gateway may have
/// given up: a broker learns of that only when it answers.
#[derive(Clone, Debug)]
pub(super) struct Broker {
    back_at: Instant,
    interval: Duration,
    /// How far ahead of an even pace the full bucket lets the broker be.
    tolerance: Duration,
    /// When the next CONNECT is due at an even pace.
    due: Instant,
    overload: Overload,
    backlog_max: usize,
    /// When those that wait will be accepted, rising.
    backlog: VecDeque<Instant>,
    pub(super) accepted: u64,
}

impl Broker {
    pub(super) fn new(
        back_at: Instant,
        accept_per_s: u32,
        backlog_max: u32,
        overload: Overload,
    ) -> Self {
        // Rounded up, so that the limit holds to the last CONNECT.
        let interval = Duration::from_nanos(NANOS_PER_S.div_ceil(u64::from(accept_per_s.max(1))));
        Self {
            back_at,
            interval,
            tolerance: interval * (burst(accept_per_s) - 1),
            due: back_at,
            overload,
            backlog_max: usize::try_from(backlog_max).unwrap_or(usize::MAX),
            backlog: VecDeque::new(),
            accepted: 0,
        }
    }

    /// A CONNECT arrives. Calls must come in the order of time.
    pub(super) fn offer(&mut self, now: Instant) -> Verdict {
        if now < self.back_at {
            return Verdict::Away;
        }
        while self.backlog.front().is_some_and(|&at| at <= now) {
            self.backlog.pop_front();
        }
        let earliest = Instant::from_start(self.due.since_start().saturating_sub(self.tolerance));
        let at = earliest.max(now);
        if at > now {
            if self.backlog.len() >= self.backlog_max {
                return match self.overload {
                    Overload::Busy => Verdict::Busy,
                    Overload::Silent => Verdict::Dropped,
                };
            }
            self.backlog.push_back(at);
        }
        self.due = self.due.max(at) + self.interval;
        self.accepted += 1;
        Verdict::Accepted(at)
    }
}
