//! Whether the session lives: deadlines, keep-alive and probes.

use std::time::Duration;

use moorline_core::link::classify::Observed;
use moorline_core::time::Instant;

use super::World;
use crate::host::{Host, Work};
use crate::liveness::{self, Verdict};
use crate::wire::ClientPacket;

impl World {
    fn verdict(&self) -> Option<(Verdict, Instant)> {
        let host = self.host.as_ref()?;
        let Work::Session(session) = &host.work else {
            return None;
        };
        if let Some((_, deadline)) = session.closing {
            return Some((
                if deadline <= self.now {
                    Verdict::Dead(Observed::Fin)
                } else {
                    Verdict::Alive(Some(deadline))
                },
                deadline,
            ));
        }
        let verdict = liveness::judge(&self.terms.liveness, &session.facts, self.now);
        Some((verdict, self.now))
    }

    pub(super) fn session_deadline(&self) -> Option<Instant> {
        match self.verdict()?.0 {
            Verdict::Alive(deadline) => deadline,
            Verdict::Ping | Verdict::Dead(_) => Some(self.now),
        }
    }

    pub(super) fn session_time(&mut self) {
        // The bytes that are there already are heard first: their events have the same time and came before.
        match self.verdict() {
            Some((Verdict::Ping, _)) => {
                let now = self.now;
                self.say(ClientPacket::Pingreq);
                if let Some(session) = self.host.as_mut().and_then(Host::session) {
                    session.facts.pingreq_at = Some(now);
                }
            }
            Some((Verdict::Dead(observed), _)) => self.session_over(observed, None, None),
            Some((Verdict::Alive(_), _)) | None => {}
        }
    }

    /// One and a half keep-alives.
    pub(super) fn broker_patience(&self) -> Duration {
        self.terms.liveness.keep_alive * 3 / 2
    }
}
