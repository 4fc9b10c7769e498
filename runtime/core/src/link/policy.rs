//! The words between the link and a reconnect policy. A policy advises; the link clamps.

use std::time::Duration;

use super::cause::{CauseClass, Fault};

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
    /// The last delay that was really waited.
    pub previous_delay: Duration,
    /// The least the host will wait.
    pub floor: Duration,
    /// The most the host will wait.
    pub ceiling: Duration,
    /// Fresh random bits.
    pub seed: u32,
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
