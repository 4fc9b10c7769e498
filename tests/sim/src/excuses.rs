//! No disconnect without a fault that explains it: what each fault may be reported as, and for how long.

use std::collections::BTreeMap;
use std::time::Duration;

use moorline_core::link::cause::CauseClass;
use moorline_core::time::Instant;

/// After a fault ended its last consequences are still on their way: the longest deadline of a session, and margin.
const AFTERMATH: Duration = Duration::from_secs(75);

#[derive(Debug, Default)]
pub(crate) struct Excuses {
    until: BTreeMap<CauseClass, Instant>,
    /// Nothing is noticed before.
    delayed_until: Instant,
}

impl Excuses {
    /// Until `end`, and a little longer, these causes are explained.
    pub(crate) fn allow(&mut self, classes: &[CauseClass], end: Instant) {
        let end = end.max(self.delayed_until);
        for class in classes {
            let until = self.until.entry(*class).or_default();
            *until = (*until).max(end + AFTERMATH);
        }
    }

    /// Everything is delayed until `end`, consequences too.
    pub(crate) fn stretch(&mut self, now: Instant, end: Instant) {
        self.delayed_until = self.delayed_until.max(end);
        for until in self.until.values_mut().filter(|until| now <= **until) {
            *until = (*until).max(end + AFTERMATH);
        }
    }

    /// All faults ended at `now`.
    pub(crate) fn end(&mut self, now: Instant) {
        self.delayed_until = self.delayed_until.min(now);
        for until in self.until.values_mut() {
            *until = (*until).min(now + AFTERMATH);
        }
    }

    pub(crate) fn explain(&self, class: CauseClass, now: Instant) -> bool {
        self.until.get(&class).is_some_and(|until| now <= *until)
    }
}
