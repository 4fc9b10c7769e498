//! What a session makes of silence: who owes an answer, who is excused, and what the kernel says before anybody is given up.

use moorline_core::host::HostWatch;
use moorline_core::link::canary::Step;
use moorline_core::link::classify::Observed;
use moorline_core::link::passage::Seen;
use moorline_core::link::window::Window;
use moorline_core::time::Instant;
use tracing::{debug, warn};

use super::super::kernel::{self, Stuck};
use super::super::liveness::{self, Facts, Stalled, Verdict};
use super::super::settings::LivenessLimits;
use super::{Active, LOOK_EVERY, Progress, Sent};

impl Active {
    /// The host did not run us. That time does not count against the peer, but once per silence: a host that never runs us
    /// in time must not keep a dead session alive.
    pub(super) fn resume(&mut self, host: &HostWatch) {
        let now = self.clock.now();
        let heard_since = self.stall.is_none_or(|stall| {
            self.wire
                .received_at()
                .is_some_and(|heard| heard > stall.until)
        });
        if heard_since && let Some(stall) = host.stall(now) {
            self.stall = Some(Stalled {
                until: now,
                lasted: stall.lasted,
            });
        }
        self.probe();
    }

    pub(super) fn take_ping_time(&mut self, progress: &mut Progress) {
        if let Some(took) = self.wire.take_ping_time() {
            self.answer_time.measured(took);
            progress.answered = true;
        }
    }

    pub(super) fn judge(&mut self, window: &Window<Sent>, progress: &mut Progress) -> Verdict {
        let now = self.clock.now();
        if let Some((_, deadline)) = self.closing {
            return if deadline <= now {
                Verdict::Dead(Observed::Fin)
            } else {
                Verdict::Alive(Some(deadline))
            };
        }
        let facts = Facts {
            awaiting_connack_since: self.up_at.is_none().then_some(self.connect_at),
            pingreq_at: self.wire.pingreq_at(),
            blocked_at: self.wire.blocked_at(),
            oldest_publish_at: window.oldest_sent_at(),
            acked_at: self.acked_at,
            told_at: self.told_at,
            received_at: self.wire.received_at(),
            probing: self.wire.probe_wanted(),
            held_until: self.passage.0.held_until(),
            stall: self.stall,
        };
        let least = self.settings.liveness;
        let limits = LivenessLimits {
            pingresp: self
                .answer_time
                .deadline(least.pingresp, least.pingresp_max),
            ..least
        };
        let connack = self.settings.timeouts.connack;
        match liveness::judge(&limits, connack, &facts, now) {
            Verdict::Alive(deadline) => self.tend_canary(deadline, now, progress),
            verdict @ (Verdict::Probe | Verdict::Dead(_)) => verdict,
        }
    }

    /// Sends a canary that is due and counts one that is lost. `deadline` is when to look again otherwise.
    fn tend_canary(
        &mut self,
        deadline: Option<Instant>,
        now: Instant,
        progress: &mut Progress,
    ) -> Verdict {
        let (Some(canary), Some(wanted)) = (&mut self.canary, &self.settings.canary) else {
            return Verdict::Alive(deadline);
        };
        let lost = canary.seen().lost;
        let verdict = loop {
            match canary.poll(now, self.stall.map(|stall| stall.until)) {
                None => break Verdict::Alive(deadline),
                Some(Step::Wait(until)) => {
                    break Verdict::Alive(deadline.into_iter().chain([until]).min());
                }
                Some(Step::Send) => {
                    let sent = self.session.publish_own(&wanted.topic, canary.payload());
                    if let Err(error) = sent {
                        debug!(%error, "a canary found no session");
                        break Verdict::Alive(deadline);
                    }
                    canary.sent(now);
                }
                Some(Step::NeverBack) => warn!(
                    topic = wanted.topic,
                    "no canary has ever come back: the broker does not lead link.canary's topic back to this gateway, so that \
                     canaries prove nothing; the link goes on without their word"
                ),
                Some(Step::Dead) => break Verdict::Dead(Observed::CanaryLost),
            }
        };
        progress.answered |= canary.seen().lost != lost;
        verdict
    }

    pub(super) fn act_on(
        &mut self,
        verdict: Verdict,
        window: &Window<Sent>,
        progress: &mut Progress,
    ) {
        match verdict {
            Verdict::Alive(_) => {}
            Verdict::Probe => self.wire.ask_probe(),
            Verdict::Dead(observed) => {
                progress.over = Some(self.observation(self.look_closer(observed), window));
            }
        }
    }

    /// While the peer owes an answer the kernel is asked, now and then, whether the question has got through.
    pub(super) fn look_at_passage(&mut self) {
        let now = self.clock.now();
        let written = self.wire.written();
        let asked = match (self.wire.pingreq_at(), self.wire.blocked_at()) {
            (Some(at), _) => Some((at, self.wire.pingreq_written())),
            // Nothing goes meanwhile.
            (None, Some(at)) => Some((at, written)),
            (None, None) => None,
        };
        let (passage, look_at) = &mut self.passage;
        let Some((asked_at, asked)) = asked else {
            return passage.forget();
        };
        // Most answers come before anybody needs to look.
        if now < (*look_at).max(asked_at + LOOK_EVERY) {
            return;
        }
        *look_at = now + LOOK_EVERY;
        let queue = self
            .ends
            .and_then(|(local, peer)| kernel::send_queue(local, peer));
        if let Some(queue) = queue {
            let seen = Seen {
                written,
                queued: queue.bytes,
            };
            passage.look(now, asked_at, asked, seen);
        }
    }

    /// Silence and a full socket are the peer's fault or the network's: the kernel knows. What its peer has acknowledged has
    /// arrived, and the peer owes the answer.
    pub(super) fn look_closer(&self, observed: Observed) -> Observed {
        if observed != Observed::WriteStalled && observed != Observed::PingrespMissing {
            return observed;
        }
        let queue = self
            .ends
            .and_then(|(local, peer)| kernel::send_queue(local, peer));
        match queue.and_then(|queue| queue.stuck) {
            Some(Stuck::Retransmitted) => Observed::Unacknowledged,
            Some(Stuck::NoRoom) => Observed::WriteStalled,
            None => observed,
        }
    }
}
