//! How soon a failed instance is tried again, and when nobody should wait for it any more.

use std::time::Duration;

use crate::time::Instant;

const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Failures in a row that open the circuit.
const FAILURES_MAX: u32 = 8;
/// With an open circuit one attempt is made this often, in case the fault lay outside.
const CIRCUIT_WAIT: Duration = Duration::from_secs(300);
/// A guest that served this long without failing has its failures forgiven.
const FORGIVEN_AFTER: Duration = Duration::from_secs(60);

/// What to do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// When to try again.
    pub wait: Duration,
    /// The circuit is open: nobody should wait for this instance.
    pub open: bool,
}

/// Counts failures of one instance.
#[derive(Clone, Copy, Debug, Default)]
pub struct Restart {
    failures: u32,
    serving_since: Option<Instant>,
}

impl Restart {
    /// A guest was started and serves.
    pub fn on_started(&mut self, now: Instant) {
        self.serving_since = Some(now);
    }

    /// The guest failed, or could not be started.
    #[must_use]
    pub fn on_failure(&mut self, now: Instant) -> Verdict {
        let served = self
            .serving_since
            .take()
            .map_or(Duration::ZERO, |since| now - since);
        if served >= FORGIVEN_AFTER {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        let open = self.failures >= FAILURES_MAX;
        let wait = if open {
            CIRCUIT_WAIT
        } else {
            FIRST_WAIT
                .saturating_mul(1 << (self.failures - 1))
                .min(LONGEST_WAIT)
        };
        Verdict { wait, open }
    }

    /// Another generation, or an operator's order: a clean slate.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_until_the_circuit_opens_and_a_minute_of_service_forgives() {
        let mut restart = Restart::default();
        let mut now = Instant::ZERO;
        let mut waits = Vec::new();
        loop {
            let verdict = restart.on_failure(now);
            waits.push(verdict.wait.as_millis());
            if verdict.open {
                break;
            }
            now = now + verdict.wait;
            restart.on_started(now);
        }
        assert_eq!(
            waits,
            [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 300_000]
        );
        restart.on_started(now);
        let verdict = restart.on_failure(now + Duration::from_secs(60));
        assert_eq!(
            verdict,
            Verdict {
                wait: FIRST_WAIT,
                open: false
            }
        );
    }
}
