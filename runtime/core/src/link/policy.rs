//! The words between the link and a reconnect policy. A policy advises; the link clamps.

use std::sync::Arc;
use std::time::Duration;

use super::cause::{CauseClass, Fault};
use crate::time::TimestampMs;

/// What the kernel says about the way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// An interface with an address and a route is up.
    Up,
    /// There is none.
    Down,
    /// Nobody watches.
    Unknown,
}

/// The host's wall clock, and how local time differs from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalTime {
    /// UTC.
    pub utc: TimestampMs,
    /// Minutes east of UTC, daylight saving included.
    pub offset_min: i32,
}

/// A wall clock before this was never set: 2020-01-01.
const PLAUSIBLE_FROM: TimestampMs = TimestampMs(1_577_836_800_000);

impl LocalTime {
    /// The time, if a clock that shows it can be right.
    #[must_use]
    pub fn plausible(self) -> Option<Self> {
        (self.utc >= PLAUSIBLE_FROM).then_some(self)
    }
}

impl Network {
    /// The stable name, the same as in `reconnect-policy.wit`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Unknown => "unknown",
        }
    }
}

/// What a policy is asked after every disconnect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The class of the disconnect.
    pub cause: CauseClass,
    /// Whose fault it was.
    pub fault: Fault,
    /// The reason or return code, if one was received.
    pub reason_code: Option<u8>,
    /// Failed attempts since the link was last stable, from 1.
    pub attempt: u32,
    /// How long the last session lasted; zero = it never came up.
    pub session: Duration,
    /// How long the link has been down.
    pub down: Duration,
    /// Readings waiting in the spool.
    pub spool_depth: u64,
    /// What the kernel says about the way out.
    pub network: Network,
    /// Whether bytes cost money.
    pub metered: bool,
    /// The wall clock, if it can be right.
    pub local_time: Option<LocalTime>,
    /// Sessions the broker has accepted since the link was made.
    pub sessions: u64,
    /// How often another client has taken our client id, as far as the link remembers.
    pub takeovers: u32,
    /// The last delay that was really waited.
    pub previous_delay: Duration,
    /// The least the host will wait.
    pub floor: Duration,
    /// The most the host will wait.
    pub ceiling: Duration,
    /// Fresh random bits.
    pub seed: u32,
    /// `host:port` of the broker it happened with.
    pub endpoint: Arc<str>,
}

/// What a policy advises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Try again after this long.
    RetryAfter(Duration),
    /// Try again at once.
    RetryNow,
    /// Stop until an operator or a configuration change says otherwise.
    Park,
}

/// Why a policy's advice could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyFault {
    /// No policy is loaded.
    Absent,
    /// It trapped.
    Trapped,
    /// It did not answer before the deadline or ran out of fuel.
    Stalled,
}

/// Between what the host lets a policy choose for one disconnect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The least wait.
    pub lower: Duration,
    /// The most.
    pub upper: Duration,
    /// Whether `RetryNow` is heard: a stable session broke, and the last retry was not immediate.
    pub retry_now: bool,
    /// Whether `Park` is heard: only an operator can mend this cause.
    pub park: bool,
}

/// What the host makes of a policy's advice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// Wait this long.
    Wait(Duration),
    /// Go at once; the machine adds a little jitter.
    Now,
    /// Stop until an operator acts.
    Park,
}

/// Brings advice inside the bounds, and says whether it had to be changed.
#[must_use]
pub fn clamp(advice: Decision, bounds: Bounds) -> (Ruling, bool) {
    match advice {
        Decision::RetryAfter(wait) => {
            let clamped = wait.clamp(bounds.lower, bounds.upper);
            (Ruling::Wait(clamped), clamped != wait)
        }
        Decision::RetryNow if bounds.retry_now => (Ruling::Now, false),
        Decision::RetryNow => (Ruling::Wait(bounds.lower), true),
        Decision::Park if bounds.park => (Ruling::Park, false),
        Decision::Park => (Ruling::Wait(bounds.upper), true),
    }
}
