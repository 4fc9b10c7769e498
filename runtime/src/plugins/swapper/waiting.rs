//! Orders that wait for their end.

use std::sync::Arc;

use moorline_core::swap::{Build, Step};

use crate::plugins::orders::{OrderEnd, Reply, Until};
use crate::plugins::status::{SwapOutcome, SwapRecord};

/// Orders that may wait for one plugin.
const WAITING_MAX: usize = 8;

/// One order that waits.
pub(super) struct Waiting {
    until: Until,
    /// What served, or was taking over, when the order came: how that ends is not the order's end.
    not_for: Vec<Build>,
    /// It took over; now it must prove itself.
    serves: Option<Arc<SwapRecord>>,
    reply: Reply,
}

/// The orders that wait for one plugin.
#[derive(Default)]
pub(super) struct Queue(Vec<Waiting>);

impl Queue {
    /// Whether one more may wait.
    pub(super) fn has_room(&mut self) -> bool {
        self.0.retain(|waiting| !waiting.reply.is_closed());
        self.0.len() < WAITING_MAX
    }

    pub(super) fn push(&mut self, until: Until, not_for: Vec<Build>, reply: Reply) {
        self.0.push(Waiting {
            until,
            not_for,
            serves: None,
            reply,
        });
    }

    /// A look at the file came to nothing new.
    pub(super) fn nothing_new(&mut self, end: &OrderEnd) {
        self.answer(|waiting| waiting.serves.is_none().then(|| end.clone()));
    }

    pub(super) fn concluded(&mut self, record: &Arc<SwapRecord>) {
        self.answer(|waiting| waiting.on_concluded(record));
    }

    pub(super) fn proved(&mut self, build: Build) {
        self.answer(|waiting| {
            let record = waiting.serves.as_ref()?;
            (record.to == build).then(|| OrderEnd::Proved(record.clone()))
        });
    }

    fn answer(&mut self, mut end: impl FnMut(&mut Waiting) -> Option<OrderEnd>) {
        let mut waiting = Vec::new();
        for mut order in self.0.drain(..) {
            match end(&mut order) {
                Some(end) => match order.reply.send(Ok(end)) {
                    // Whoever ordered has gone away.
                    Ok(()) | Err(_) => {}
                },
                None => waiting.push(order),
            }
        }
        self.0 = waiting;
    }
}

impl Waiting {
    fn on_concluded(&mut self, record: &Arc<SwapRecord>) -> Option<OrderEnd> {
        if let Some(serves) = self.serves.take() {
            return Some(match &record.outcome {
                SwapOutcome::RolledBack(Step::Probation, _) if record.to == serves.to => {
                    OrderEnd::Concluded(record.clone())
                }
                // A later candidate that failed: the one that serves is still on probation, or over it.
                SwapOutcome::Refused(..) | SwapOutcome::RolledBack(..) => {
                    self.serves = Some(serves);
                    return None;
                }
                SwapOutcome::Loaded | SwapOutcome::Swapped => OrderEnd::Replaced(serves),
            });
        }
        if self.not_for.contains(&record.to) {
            return None;
        }
        if self.until == Until::Proved && record.outcome == SwapOutcome::Swapped {
            self.serves = Some(record.clone());
            return None;
        }
        Some(OrderEnd::Concluded(record.clone()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use moorline_core::swap::{Digest, Failure, Generation, NoFile, Reason};
    use moorline_core::time::Instant;
    use tokio::sync::oneshot;

    use super::*;

    fn build(n: u8) -> Build {
        Build {
            generation: Generation(n.into()),
            digest: Digest([n; 32]),
        }
    }

    fn record(to: u8, outcome: SwapOutcome) -> Arc<SwapRecord> {
        Arc::new(SwapRecord {
            component: "line".into(),
            from: None,
            to: build(to),
            plugin: "".into(),
            version: "".into(),
            outcome,
            clean: None,
            gap: Duration::ZERO,
            cached: false,
            took: Duration::ZERO,
            at: Instant::ZERO,
        })
    }

    fn rolled_back(to: u8) -> Arc<SwapRecord> {
        let failure = Failure::new(Reason::Trapped, "unreachable");
        record(to, SwapOutcome::RolledBack(Step::Probation, failure))
    }

    /// What was answered, by the generation it is about.
    fn answers(until: Until, events: impl FnOnce(&mut Queue)) -> Option<(&'static str, u64)> {
        let (reply, mut answer) = oneshot::channel();
        let mut queue = Queue::default();
        assert!(queue.has_room());
        queue.push(until, vec![build(1)], reply);
        events(&mut queue);
        let end = answer.try_recv().ok()?.ok()?;
        Some(match end {
            OrderEnd::Concluded(record) => ("concluded", record.to.generation.0),
            OrderEnd::Proved(record) => ("proved", record.to.generation.0),
            OrderEnd::Replaced(record) => ("replaced", record.to.generation.0),
            OrderEnd::Unchanged(build) => ("unchanged", build.generation.0),
            OrderEnd::Shunned(..) => ("shunned", 0),
            OrderEnd::Missing(_) => ("missing", 0),
        })
    }

    #[test]
    fn an_order_is_answered_by_its_own_candidate() {
        // What served when it came fails on its own probation meanwhile.
        let end = answers(Until::Serves, |queue| {
            queue.concluded(&rolled_back(1));
            queue.concluded(&record(2, SwapOutcome::Swapped));
        });
        assert_eq!(end, Some(("concluded", 2)));
    }

    #[test]
    fn an_order_that_waits_for_the_proof_is_answered_by_it_or_by_what_prevents_it() {
        let swapped = |queue: &mut Queue| queue.concluded(&record(2, SwapOutcome::Swapped));
        assert_eq!(answers(Until::Proved, swapped), None);
        let proved = answers(Until::Proved, |queue| {
            swapped(queue);
            queue.nothing_new(&OrderEnd::Missing(NoFile::Absent));
            queue.proved(build(2));
        });
        assert_eq!(proved, Some(("proved", 2)));
        let failed = answers(Until::Proved, |queue| {
            swapped(queue);
            queue.concluded(&rolled_back(2));
        });
        assert_eq!(failed, Some(("concluded", 2)));
        let replaced = answers(Until::Proved, |queue| {
            swapped(queue);
            queue.concluded(&record(3, SwapOutcome::Swapped));
        });
        assert_eq!(replaced, Some(("replaced", 2)));
    }

    #[test]
    fn only_so_many_wait_and_those_who_went_away_do_not_count() {
        let mut queue = Queue::default();
        let mut kept = Vec::new();
        for _ in 0..WAITING_MAX {
            assert!(queue.has_room());
            let (reply, answer) = oneshot::channel();
            queue.push(Until::Serves, Vec::new(), reply);
            kept.push(answer);
        }
        assert!(!queue.has_room());
        kept.pop();
        assert!(queue.has_room());
    }
}
