//! What one instance has used of its limits. It outlasts the guests: a restart forgives nothing.

use std::time::Duration;

use moorline_core::confine::{Bucket, Hits, Limit};
use moorline_core::time::Instant;

use super::Resident;
use crate::log_gate::LogGate;
use crate::plugins::grants::Sandbox;
use crate::plugins::settings::Limits;
use crate::plugins::status::Denied;
use crate::plugins::wasi::Said;

/// Lines of the log in a row, beyond the rate.
const LINES_BURST: u32 = 50;
/// Readings that are always let through at once: what one call may hold.
const READINGS_BURST: u64 = 10_000;

/// Seconds' worth of its state that may be written at once.
const STATE_BURST_S: u64 = 10;

/// The limits of an instance, and how they stand.
#[derive(Clone, Debug)]
pub(crate) struct Confined {
    pub(crate) limits: Limits,
    /// The guest may know what time it is.
    pub(super) wall_clock: bool,
    pub(crate) hits: Hits,
    pub(crate) denied: Denied,
    pub(super) log: LogGate,
    emit: Bucket,
    stream: Bucket,
    state: Bucket,
}

impl Confined {
    /// Nothing is used yet.
    pub(crate) fn new(now: Instant, sandbox: &Sandbox) -> Self {
        let limits = &sandbox.limits;
        let per_s = limits.log_lines_per_s.max(1);
        let interval = Duration::from_nanos((1_000_000_000 / per_s).max(1));
        let emit = limits.emit_readings_per_s;
        let stream = limits.stream_bytes_per_s;
        let state = limits.state_write_bytes_per_s;
        Self {
            limits: *limits,
            wall_clock: sandbox.grants.wall_clock,
            denied: Denied::default(),
            hits: Hits::default(),
            log: LogGate::new(now, LINES_BURST, interval),
            emit: Bucket::new(now, emit, emit.max(READINGS_BURST)),
            stream: Bucket::new(now, stream, stream),
            state: Bucket::new(now, state, state.saturating_mul(STATE_BURST_S)),
        }
    }

    /// Room for so many readings, or how long to wait for it.
    pub(super) fn take_readings(&mut self, now: Instant, readings: u64) -> Result<(), Duration> {
        self.emit.take(now, readings)
    }

    /// They were not taken after all.
    pub(super) fn give_back_readings(&mut self, readings: u64) {
        self.emit.give_back(readings);
    }

    /// Bytes went over a stream.
    pub(crate) fn count_stream_bytes(&mut self, now: Instant, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.stream.charge(now, bytes);
    }

    /// Its state went to the disk, or was tried to.
    pub(crate) fn count_state_written(&mut self, now: Instant, bytes: u64) {
        self.state.charge(now, bytes);
    }

    /// How long its state has to rest; zero within the limit.
    pub(crate) fn state_rest(&mut self, now: Instant) -> Duration {
        self.state.debt(now)
    }

    /// How long its streams have to rest; zero within the limit.
    pub(crate) fn stream_rest(&mut self, now: Instant) -> Duration {
        self.stream.debt(now)
    }
}

impl Resident {
    /// A limit was exceeded: counts it, and says it now and then.
    pub(crate) fn hit(&mut self, limit: Limit) {
        let exceeded = self.confined.limits.exceeded(limit);
        let said = self.confined.hits.hit(self.clock.now(), exceeded);
        // What is held back of the log is said with the next line.
        if said && limit != Limit::Log {
            tracing::warn!(
                instance = &*self.instance,
                "the plugin exceeds {exceeded}: {}",
                limit.consequence()
            );
        }
    }

    /// What the guest printed goes the way of what it logs.
    pub(crate) fn hear(&mut self, said: &Said) {
        match said {
            Said::Out(text) => self.log(tracing::Level::DEBUG, text),
            Said::Err(text) => self.log(tracing::Level::INFO, text),
            Said::Denied(what) => self.deny(what),
            Said::Exceeded(limit) => self.hit(*limit),
        }
    }

    /// The guest wanted what is not granted to it.
    pub(super) fn deny(&mut self, what: &str) {
        let words = format!("not granted: {what}");
        self.log(tracing::Level::WARN, &words);
        self.confined.denied.count += 1;
        self.confined.denied.last = Some(words.into());
    }
}
