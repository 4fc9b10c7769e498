//! Pauses: of a guest that has used more of the processor than its share or whose state wears the disk, and of streams that
//! carried too much.

use std::sync::Arc;
use std::time::Duration;

use moorline_core::confine::Limit;
use moorline_core::time::Instant;

use super::{Body, Instance};
use crate::log_gate::LogGate;
use crate::plugins::streams::{Happened, StreamEvent};

/// A stream that opens, closes and opens is told at once; one that goes on so, no faster than this.
const STREAM_LINES_BURST: u32 = 4;
const STREAM_LINE_INTERVAL: Duration = Duration::from_secs(5);

/// How long it stays on nicer threads after it has paid back what its calls computed for long.
const HEAVY_FOR: Duration = Duration::from_secs(60);

/// When the log is told how a stream is.
pub(super) struct StreamNews {
    lines: LogGate,
    /// When what was held back last is told.
    untold: Option<Instant>,
}

impl StreamNews {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            lines: LogGate::new(now, STREAM_LINES_BURST, STREAM_LINE_INTERVAL),
            untold: None,
        }
    }

    /// It has changed: whether that is told now, and how many changes before it were not.
    fn changed(&mut self, now: Instant) -> Option<u64> {
        let more = self.lines.admit(now);
        self.untold = more.is_none().then(|| now + STREAM_LINE_INTERVAL);
        more
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.untold
    }

    /// Whether the last change is told now, late: or the log would end with what is no longer true.
    fn overdue(&mut self, now: Instant) -> Option<u64> {
        self.untold.take_if(|at| *at <= now)?;
        // What is told now is among what was held back.
        Some(self.changed(now)?.saturating_sub(1))
    }
}

impl Instance {
    /// Charges the guest's share with what its calls have used. Over it, or over what its state may write, the next call
    /// waits.
    pub(super) fn settle(&mut self) {
        let Some(Body::Up(guest)) = &mut self.body else {
            return;
        };
        let used = guest.take_cpu();
        let now = self.clock.now();
        if guest.is_heavy() {
            self.heavy_until = Some(now + HEAVY_FOR);
        }
        let mut pause = self.cpu.charge(now, used);
        if let Some(resident) = guest.resident() {
            let rest = resident.confined.state_rest(now);
            for (waits, limit) in [(pause, Limit::Cpu), (rest, Limit::StateWrite)] {
                if !waits.is_zero() {
                    resident.hit(limit);
                }
            }
            pause = pause.max(rest);
        }
        let until = (!pause.is_zero()).then(|| now + pause);
        self.paused_until = until;
        self.status.send_if_modified(|status| {
            status.cpu += used;
            status.paused_until = until;
            false
        });
    }

    /// What the device sent counts, whether the guest wants it or not.
    pub(super) fn count_received(&mut self, event: &StreamEvent) {
        let Happened::Data(bytes) = &event.happened else {
            return;
        };
        let (count, now) = (bytes.len(), self.clock.now());
        if let Some(resident) = self.resident() {
            resident.confined.count_stream_bytes(now, count);
            if !resident.confined.stream_rest(now).is_zero() {
                resident.hit(Limit::Stream);
            }
        }
    }

    /// Says once why its stream is not open, and once that it is again, whatever the guest makes of it, and whatever peer
    /// may open and close it in a circle.
    pub(super) fn note_stream(&mut self, event: &StreamEvent) {
        let now: Option<Arc<str>> = match &event.happened {
            Happened::Data(_) => return,
            Happened::Connected => None,
            Happened::Closed(reason) => Some(reason.as_str().into()),
        };
        let before = self.status.borrow().stream_closed.clone();
        if before == now {
            return;
        }
        self.status.send_modify(|status| status.stream_closed = now);
        if let Some(more) = self.stream_news.changed(self.clock.now()) {
            self.tell_stream(more);
        }
    }

    fn tell_stream(&self, more: u64) {
        let instance = &*self.name;
        match (&self.status.borrow().stream_closed, more) {
            (Some(reason), 0) => tracing::warn!(instance, "its stream is closed: {reason}"),
            (Some(reason), more) => tracing::warn!(
                instance,
                more,
                "its stream is closed, after so many changes that were not logged: {reason}"
            ),
            (None, 0) => tracing::info!(instance, "its stream is open again"),
            (None, more) => tracing::info!(
                instance,
                more,
                "its stream is open again, after so many changes that were not logged"
            ),
        }
    }

    /// Until when nothing more is taken from its streams, if they carried too much. Their sockets fill up meanwhile, and the
    /// device waits.
    pub(super) fn streams_rest_until(&mut self) -> Option<Instant> {
        let now = self.clock.now();
        let rest = self.resident()?.confined.stream_rest(now);
        (!rest.is_zero()).then(|| now + rest)
    }

    pub(super) fn on_rested(&mut self) {
        let now = self.clock.now();
        if let Some(more) = self.stream_news.overdue(now) {
            self.tell_stream(more);
        }
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
            self.status.send_if_modified(|status| {
                status.paused_until = None;
                false
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_opens_and_closes_in_a_circle_is_told_every_few_seconds_and_how_it_is_at_last()
    {
        let at = |ms| Instant::from_start(Duration::from_millis(ms));
        let mut news = StreamNews::new(at(0));
        // 190 changes a second, a minute long.
        let changes = 60 * 190;
        let told: Vec<u64> = (0..changes)
            .filter_map(|n| news.changed(at(n * 1_000 / 190)))
            .collect();
        assert_eq!(told.len(), 4 + 11, "{told:?}");
        let due = news.due().unwrap();
        assert_eq!(news.overdue(at(59_999)), None, "not before it is due");
        let more = news.overdue(due).unwrap();
        let lines = u64::try_from(told.len()).unwrap() + 1;
        let counted: u64 = told.iter().sum();
        assert_eq!(lines + counted + more, changes, "each is told or counted");
        assert_eq!(news.due(), None);
        assert_eq!(news.changed(at(600_000)), Some(0));
    }
}
