//! The bottom line of a demo: for people and, with the same content, as JSON.

use serde::Serialize;

use super::audit::Balance;
use super::gateway::History;
use crate::status::DisconnectEntry;

/// What `--report FILE` writes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DemoReport {
    /// Readings the gateway accepted, by its own count, over all its processes.
    pub accepted: u64,
    /// Different readings the subscriber saw.
    pub delivered: u64,
    /// Accepted readings that never reached the subscriber through a fault of the gateway.
    pub lost: u64,
    /// Readings the subscriber saw more than once: QoS 1 is at least once.
    pub duplicates: u64,
    /// Sessions of the link, over all processes.
    pub sessions: u64,
    /// Every disconnect and failed attempt, in order.
    pub disconnects: Vec<ReportedDisconnect>,
    /// Every swap, in order.
    pub swaps: Vec<ReportedSwap>,
    /// Readings the broker acknowledged and then lost by its own death. Not in `lost`.
    pub lost_by_broker: u64,
    /// Readings handed to a gateway that was killed before it accepted them. Not in `accepted`.
    pub never_accepted: u64,
    /// Readings evicted because the spool was full.
    pub evicted: u64,
    /// First deliveries that came after a later reading of the same device.
    pub out_of_order: u64,
    /// TCP sessions the Modbus device accepted.
    pub device_sessions: u64,
    /// CONNECT packets on the wire, counted by the proxy.
    pub connects: u64,
    /// Times the built-in policy stood in, and times a policy's answer was clamped.
    pub policy: ReportedPolicy,
    /// Which broker it was.
    pub broker: String,
    /// How long the story took.
    pub seconds: f64,
    /// What was not as it should be; empty = passed.
    pub problems: Vec<String>,
}

/// One disconnect or failed attempt.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ReportedDisconnect {
    /// The cause's stable name.
    pub cause: String,
    /// What proves it, in one sentence.
    pub text: String,
    /// How far it had come.
    pub phase: String,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
}

/// One swap.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ReportedSwap {
    /// What was swapped.
    pub connector: String,
    /// `swapped`, `rolled-back` or `refused`.
    pub outcome: String,
    /// Why it was not.
    pub reason: Option<String>,
    /// How long no generation could take a call.
    pub gap_ms: f64,
    /// Link sessions it cost.
    pub new_sessions: u64,
}

/// What became of bad advice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReportedPolicy {
    /// Times the built-in stood in.
    pub faults: u64,
    /// Times an answer was clamped.
    pub clamped: u64,
}

impl From<&DisconnectEntry> for ReportedDisconnect {
    fn from(entry: &DisconnectEntry) -> Self {
        Self {
            cause: entry.cause.clone(),
            text: entry.text.clone(),
            phase: entry.phase.clone(),
            at_ms: entry.at_ms,
        }
    }
}

impl DemoReport {
    /// Books the gateway's history and the audit's balance.
    pub(super) fn book(&mut self, history: &History, balance: &Balance) {
        self.accepted = history.now.spool.accepted_readings;
        self.evicted = history.now.spool.evicted_readings;
        self.delivered = balance.delivered;
        self.duplicates = balance.duplicates;
        self.out_of_order = balance.out_of_order;
        self.never_accepted = balance.excused;
        self.lost_by_broker = balance.missing_after_ack;
        // Two independent counts: holes in the serials, and the gateway's own total against what arrived.
        let unaccounted = self.accepted.saturating_sub(self.delivered);
        self.lost = balance
            .missing
            .max(unaccounted)
            .saturating_sub(self.lost_by_broker);
        self.sessions = history.sessions();
        self.disconnects = history
            .disconnects()
            .map(ReportedDisconnect::from)
            .collect();
        self.swaps = history
            .swaps()
            .map(|swap| ReportedSwap {
                connector: swap.connector.clone(),
                outcome: swap.outcome.clone(),
                reason: swap.reason.clone(),
                gap_ms: swap.gap_ms,
                new_sessions: swap.new_sessions,
            })
            .collect();
        if self.lost > 0 {
            let holes = if balance.holes.is_empty() {
                String::new()
            } else {
                format!(": {}", balance.holes.join(", "))
            };
            self.problems
                .push(format!("{} accepted readings were lost{holes}", self.lost));
        }
        if self.out_of_order > 0 {
            self.problems
                .push(format!("{} readings came out of order", self.out_of_order));
        }
        let costs: u64 = self.swaps.iter().map(|swap| swap.new_sessions).sum();
        if costs > 0 {
            self.problems
                .push(format!("swaps cost {costs} link sessions"));
        }
    }

    /// Whether nothing was lost, no swap cost a session and every step showed what it should.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.problems.is_empty()
    }

    /// For people.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            format!(
                "accepted {}   delivered {}   lost {}   duplicates {}   out of order {}",
                self.accepted, self.delivered, self.lost, self.duplicates, self.out_of_order
            ),
            format!(
                "link sessions {} (CONNECT packets on the wire {})   Modbus TCP sessions at the device {}",
                self.sessions, self.connects, self.device_sessions
            ),
        ];
        if self.lost_by_broker + self.never_accepted + self.evicted > 0 {
            lines.push(format!(
                "not the gateway's: {} acknowledged and then lost by the broker's own death, {} read but not accepted \
                 when the gateway was killed; evicted {}",
                self.lost_by_broker, self.never_accepted, self.evicted
            ));
        }
        lines.push(format!(
            "policy: clamped {}, replaced by the built-in {}",
            self.policy.clamped, self.policy.faults
        ));
        lines.push("disconnects and failed attempts:".to_owned());
        for run in self
            .disconnects
            .chunk_by(|a, b| a.cause == b.cause && a.phase == b.phase)
        {
            let times = if run.len() > 1 {
                format!(" x{}", run.len())
            } else {
                String::new()
            };
            lines.push(format!(
                "  {}{times} ({}): {}",
                run[0].cause, run[0].phase, run[0].text
            ));
        }
        lines.push("swaps:".to_owned());
        for swap in &self.swaps {
            let reason = swap
                .reason
                .as_deref()
                .map(|reason| format!(": {reason}"))
                .unwrap_or_default();
            lines.push(format!(
                "  {} {}, gap {:.1} ms, new sessions {}{reason}",
                swap.connector, swap.outcome, swap.gap_ms, swap.new_sessions
            ));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Status, SwapEntry};

    fn history(accepted: u64) -> History {
        let mut status = Status::default();
        status.spool.accepted_readings = accepted;
        let mut history = History::default();
        history.merge(status);
        history
    }

    #[test]
    fn a_reading_that_only_the_total_misses_is_lost() {
        let mut report = DemoReport::default();
        report.book(
            &history(10),
            &Balance {
                delivered: 9,
                ..Balance::default()
            },
        );
        assert_eq!(report.lost, 1);
        assert!(!report.passed());
    }

    #[test]
    fn what_the_broker_lost_is_not_the_gateways_loss() {
        let mut report = DemoReport::default();
        let balance = Balance {
            delivered: 8,
            missing: 2,
            missing_after_ack: 2,
            ..Balance::default()
        };
        report.book(&history(10), &balance);
        assert_eq!((report.lost, report.lost_by_broker), (0, 2));
        assert!(report.passed());
    }

    #[test]
    fn a_swap_that_costs_a_session_fails() {
        let mut status = Status::default();
        status.swaps.push(SwapEntry {
            new_sessions: 1,
            ..SwapEntry::default()
        });
        let mut history = History::default();
        history.merge(status);
        let mut report = DemoReport::default();
        report.book(&history, &Balance::default());
        assert_eq!(report.problems, ["swaps cost 1 link sessions"]);
    }

    #[test]
    fn the_keys_of_the_issue_are_in_the_json() {
        let mut report = DemoReport::default();
        report.disconnects.push(ReportedDisconnect::default());
        report.swaps.push(ReportedSwap::default());
        let json = serde_json::to_value(&report).unwrap();
        for key in ["accepted", "delivered", "lost", "duplicates", "sessions"] {
            assert!(json[key].is_u64(), "{key}");
        }
        assert!(json["disconnects"][0]["cause"].is_string());
        assert!(json["swaps"][0]["gap_ms"].is_f64() && json["swaps"][0]["new_sessions"].is_u64());
    }
}
