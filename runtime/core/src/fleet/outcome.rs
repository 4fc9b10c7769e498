//! What a simulated outage came to.

use std::time::Duration;

use crate::time::Instant;

/// Part of the fleet, in percent, for which the time to come back is told.
pub const MILESTONES_PERCENT: [u32; 3] = [50, 99, 100];

/// Counts while the simulation runs.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    pub(super) lost_at: Instant,
    pub(super) back_at: Instant,
    pub(super) connects: u64,
    pub(super) connects_per_s: Vec<u32>,
    pub(super) questions: u64,
    pub(super) refused: u64,
    pub(super) unanswered: u64,
    /// When each gateway came back, since the broker's return; rising.
    pub(super) returns: Vec<Duration>,
}

impl Tally {
    pub(super) fn new(lost_at: Instant, back_at: Instant) -> Self {
        Self {
            lost_at,
            back_at,
            connects: 0,
            connects_per_s: Vec::new(),
            questions: 0,
            refused: 0,
            unanswered: 0,
            returns: Vec::new(),
        }
    }

    /// An attempt reaches the broker's address.
    pub(super) fn connect(&mut self, now: Instant) {
        self.connects += 1;
        let second = now.saturating_since(self.lost_at).as_secs();
        let second = usize::try_from(second).unwrap_or(usize::MAX);
        if self.connects_per_s.len() <= second {
            self.connects_per_s.resize(second + 1, 0);
        }
        self.connects_per_s[second] += 1;
    }

    pub(super) fn back(&mut self, now: Instant) {
        self.returns.push(now.saturating_since(self.back_at));
    }
}

/// What a simulated outage came to. Attempts while the broker is away are counted as CONNECTs, too: they are what it
/// would have had to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Attempts to connect.
    pub connects: u64,
    /// The same by the second since the broker went away.
    pub connects_per_s: Vec<u32>,
    /// The most attempts in one second.
    pub peak_per_s: u32,
    /// The most attempts in one second after the broker's return.
    pub peak_after_return_per_s: u32,
    /// CONNECTs the broker accepted; more than gateways when some had given up before.
    pub accepted: u64,
    /// CONNECTs the broker refused as it was busy.
    pub refused: u64,
    /// CONNECTs that were not answered in time.
    pub unanswered: u64,
    /// Gateways that came back.
    pub back: u32,
    /// From the broker's return until [`MILESTONES_PERCENT`] of the fleet were back; none = not within
    /// [`super::PATIENCE`].
    pub back_after: [Option<Duration>; 3],
    /// Gateways that wait for an operator.
    pub parked: u32,
    /// Questions the policy was asked.
    pub questions: u64,
    /// Questions it did not answer.
    pub policy_faults: u64,
    /// Answers the host changed.
    pub clamped: u64,
    /// Waits of a client of another make that the host would have changed.
    pub would_be_clamped: u64,
}

impl Outcome {
    pub(super) fn of(tally: &Tally, gateways: usize, accepted: u64) -> Self {
        let outage_s = tally.back_at.saturating_since(tally.lost_at).as_secs();
        let outage_s = usize::try_from(outage_s).unwrap_or(usize::MAX);
        let peak = |seconds: &[u32]| seconds.iter().copied().max().unwrap_or(0);
        let after = tally.connects_per_s.get(outage_s..).unwrap_or_default();
        Self {
            connects: tally.connects,
            peak_per_s: peak(&tally.connects_per_s),
            peak_after_return_per_s: peak(after),
            connects_per_s: tally.connects_per_s.clone(),
            accepted,
            refused: tally.refused,
            unanswered: tally.unanswered,
            back: u32::try_from(tally.returns.len()).unwrap_or(u32::MAX),
            back_after: MILESTONES_PERCENT.map(|percent| milestone(tally, gateways, percent)),
            parked: 0,
            questions: tally.questions,
            policy_faults: 0,
            clamped: 0,
            would_be_clamped: 0,
        }
    }
}

fn milestone(tally: &Tally, gateways: usize, percent: u32) -> Option<Duration> {
    let share = usize::try_from(percent).unwrap_or(100);
    let count = (gateways * share).div_ceil(100).max(1);
    tally.returns.get(count - 1).copied()
}
