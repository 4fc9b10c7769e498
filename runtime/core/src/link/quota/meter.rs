//! One window of one limit: at most `count` in any `seconds`, whatever the way does to what is under way.
//!
//! ```text
//!  promise   in flight + answered within the window   <= count        never broken
//!  pace      a bucket of (1 - share) / 2 of the count, refilled with share of the count in each window
//! ```
//!
//! A publish arrives at the platform some time between its sending and its answer. So it counts until a whole window after its
//! answer: however a slow line bunches publishes together, the platform never sees more than the count in a window. The pace
//! alone stays a little below; it spreads what the promise would let through in bursts with silence between.

use std::collections::VecDeque;
use std::time::Duration;

use crate::thingsboard::limits::Limit;
use crate::time::Instant;

/// Answers are remembered in this many parts of a window.
const PARTS: u32 = 32;

/// When so much may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// Now.
    Now,
    /// Then, if nothing else goes before.
    At(Instant),
    /// Once something in flight is answered.
    AfterAnswer,
}

/// What was answered in one part of a window.
#[derive(Clone, Copy, Debug)]
struct Part {
    leaves_at: Instant,
    amount: u64,
}

/// One window.
#[derive(Clone, Debug)]
pub(super) struct Meter {
    limit: Limit,
    window: Duration,
    /// Between two of the pace.
    interval_ns: u64,
    /// What the bucket of the pace holds.
    burst: u64,
    /// When it is full again.
    full_at: Instant,
    in_flight: u64,
    answered: u64,
    parts: VecDeque<Part>,
}

impl Meter {
    /// `share_percent` of the limit are used, 1 to 100.
    pub(super) fn new(limit: Limit, share_percent: u32) -> Self {
        let share_percent = u64::from(share_percent.clamp(1, 100));
        let count = u64::from(limit.count.max(1));
        let window = Duration::from_secs(u64::from(limit.seconds.max(1)));
        let window_ns = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX);
        let interval_ns = u128::from(window_ns) * 100 / u128::from(count * share_percent);
        Self {
            limit,
            window,
            interval_ns: u64::try_from(interval_ns).unwrap_or(u64::MAX).max(1),
            burst: (count * (100 - share_percent) / 200).max(1),
            full_at: Instant::ZERO,
            in_flight: 0,
            answered: 0,
            parts: VecDeque::new(),
        }
    }

    pub(super) const fn limit(&self) -> Limit {
        self.limit
    }

    fn count(&self) -> u64 {
        u64::from(self.limit.count.max(1))
    }

    /// So much at a time in the long run, a second.
    pub(super) fn per_s(&self) -> f64 {
        1e9 / Duration::from_nanos(self.interval_ns).as_nanos() as f64
    }

    /// The most that the share lets through in one window.
    pub(super) fn most(&self) -> u64 {
        let window_ns = u64::try_from(self.window.as_nanos()).unwrap_or(u64::MAX);
        (window_ns / self.interval_ns).clamp(1, self.count())
    }

    /// What one publish should count as at most: the pace's bucket, or what comes in a second.
    pub(super) fn portion(&self) -> u64 {
        let in_a_second = 1_000_000_000 / self.interval_ns;
        self.burst.max(in_a_second).clamp(1, self.most())
    }

    /// What takes so many of the pace.
    fn span(&self, amount: u64) -> Duration {
        Duration::from_nanos(self.interval_ns.saturating_mul(amount))
    }

    /// A publish of more than the limit counts as the limit: it goes alone.
    fn capped(&self, amount: u64) -> u64 {
        amount.min(self.count())
    }

    fn forget(&mut self, now: Instant) {
        while let Some(part) = self.parts.front().filter(|part| part.leaves_at <= now) {
            self.answered -= part.amount;
            self.parts.pop_front();
        }
    }

    /// When `amount` may go.
    pub(super) fn room(&mut self, now: Instant, amount: u64) -> Room {
        let amount = self.capped(amount);
        if amount == 0 {
            return Room::Now;
        }
        self.forget(now);
        if self.in_flight + amount > self.count() {
            return Room::AfterAnswer;
        }
        let spare = self.burst - amount.min(self.burst);
        let paced = self.full_at.since_start().saturating_sub(self.span(spare));
        let mut at = Instant::from_start(paced);
        let mut over = (self.in_flight + self.answered + amount).saturating_sub(self.count());
        for part in &self.parts {
            if over == 0 {
                break;
            }
            at = at.max(part.leaves_at);
            over = over.saturating_sub(part.amount);
        }
        if at > now { Room::At(at) } else { Room::Now }
    }

    /// `amount` goes.
    pub(super) fn sent(&mut self, now: Instant, amount: u64) {
        let amount = self.capped(amount);
        self.in_flight += amount;
        self.full_at = self.full_at.max(now) + self.span(amount);
    }

    /// `amount` of what is in flight has arrived, by now at the latest.
    pub(super) fn answered(&mut self, now: Instant, amount: u64) {
        // What went before the limit was known is not in flight here.
        let amount = self.capped(amount).min(self.in_flight);
        self.in_flight -= amount;
        self.settle(now, amount);
    }

    /// Whatever is in flight has arrived by now, or never will.
    pub(super) fn over(&mut self, now: Instant) {
        let amount = std::mem::take(&mut self.in_flight);
        self.settle(now, amount);
    }

    /// The longest that anything waits once nothing is in flight: until the pace is paid for, or the window has passed.
    pub(super) fn wait_max(&self) -> Duration {
        let window = self.window + self.window / PARTS;
        window.max(self.span(self.count() + self.burst))
    }

    fn settle(&mut self, now: Instant, amount: u64) {
        self.forget(now);
        if amount == 0 {
            return;
        }
        let part = self.window / PARTS;
        let index = now.since_start().as_nanos() / part.as_nanos().max(1) + 1;
        let end_ns = u64::try_from(index * part.as_nanos()).unwrap_or(u64::MAX);
        let leaves_at = Instant::from_start(Duration::from_nanos(end_ns)) + self.window;
        self.answered += amount;
        match self.parts.back_mut() {
            Some(last) if last.leaves_at >= leaves_at => last.amount += amount,
            Some(_) | None => self.parts.push_back(Part { leaves_at, amount }),
        }
    }
}
