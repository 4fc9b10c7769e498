//! Pauses: of a guest that has used more of the processor than its share or whose state wears the disk, and of streams that
//! carried too much.

use std::sync::Arc;

use moorline_core::confine::Limit;
use moorline_core::time::Instant;

use super::{Body, Instance};
use crate::plugins::streams::{Happened, StreamEvent};

impl Instance {
    /// Charges the guest's share with what its calls have used. Over it, or over what its state may write, the next call
    /// waits.
    pub(super) fn settle(&mut self) {
        let Some(Body::Up(guest)) = &mut self.body else {
            return;
        };
        let used = guest.take_cpu();
        let now = self.clock.now();
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

    /// Says once why its stream is not open, and once that it is again, whatever the guest makes of it.
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
        let instance = &*self.name;
        match &now {
            Some(reason) => tracing::warn!(instance, "its stream is closed: {reason}"),
            None => tracing::info!(instance, "its stream is open again"),
        }
        self.status.send_modify(|status| status.stream_closed = now);
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
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
            self.status.send_if_modified(|status| {
                status.paused_until = None;
                false
            });
        }
    }
}
