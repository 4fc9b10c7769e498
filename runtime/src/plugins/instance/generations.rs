//! Starting, replacing, putting back and stopping the guest.

use std::sync::Arc;
use std::time::Duration;

use moorline_core::swap::probation::Served;
use moorline_core::swap::{Failure, Generation};
use moorline_core::time::Instant;

use super::calls::refused;
use super::{Body, Control, CutOverResult, Down, Instance, Prepared, Serving, TookOver, answer};
use crate::plugins::bindings::connector::exports::moorline::edge::connector_guest::{
    Fault, HandOver, Setup,
};
use crate::plugins::guest::{Guest, Loaded};
use crate::plugins::orders::{RestoreRefused, Restored};
use crate::plugins::status::InstanceState;
use crate::plugins::words;

/// The answer to a request that was lost with the guest it was meant for.
const REPLACED: &str = "the connector was replaced before it had an answer";
const RESTORED: &str = "the connector was started anew before it had an answer";

impl Instance {
    pub(super) async fn on_control(&mut self, control: Control) {
        match control {
            Control::CutOver { prepared, reply } => {
                let result = self.cut_over(*prepared).await;
                answer(reply, result);
            }
            Control::RollBack { from, reply } => {
                let gap = self.roll_back(from).await;
                answer(reply, gap);
            }
            Control::Retire { old } => {
                if self
                    .kept
                    .as_ref()
                    .is_some_and(|kept| kept.build().generation == old)
                {
                    self.kept = None;
                }
            }
            Control::Abandon { generation } => {
                if self
                    .serving
                    .as_ref()
                    .is_some_and(|serving| serving.build().generation == generation)
                {
                    self.serving = None;
                    self.go_down(None);
                    self.status.send_modify(|status| {
                        status.state = InstanceState::Waiting;
                        status.generation = None;
                        status.retry_at = None;
                    });
                }
            }
            Control::RestoreState { reply } => {
                let restored = self.restore_state().await;
                answer(reply, restored);
            }
            Control::Retry => {
                if self.retry().is_some() {
                    self.restart.reset();
                    self.on_retry().await;
                }
            }
            // Taken care of where the task can end.
            Control::Stop { reply } => answer(reply, ()),
        }
    }

    /// Between two calls: the old guest hands over, the new one takes over. The gap is all that lies between.
    async fn cut_over(&mut self, prepared: Prepared) -> CutOverResult {
        let began = self.away();
        let hand_over = self.hand_over().await;
        let timer = self.timer();
        self.go_down(None);
        self.refuse_lost(REPLACED).await;
        self.kept = self.serving.take().map(|old| Serving {
            loaded: old.loaded,
            hand_over: hand_over.clone(),
            timer,
        });
        self.serving = Some(Serving {
            loaded: prepared.loaded.clone(),
            hand_over,
            timer,
        });
        self.restart.reset();
        self.heavy_until = None;
        let guest = match prepared.guest {
            Some(guest) => guest,
            None => self.instantiate(&prepared.loaded).await?,
        };
        let clean = self.start(guest).await?;
        // A first load, or one after a failure, has no generation whose absence could be measured.
        let gap = if self.kept.is_some() {
            self.clock.now() - began
        } else {
            Duration::ZERO
        };
        Ok(TookOver { gap, clean })
    }

    /// When the guest is to be woken; of one that is down, when that was before it was started.
    fn timer(&self) -> Option<Instant> {
        match self.body {
            Some(Body::Up(_)) => self.wake,
            Some(Body::Down(_)) | None => self.serving.as_ref().and_then(|serving| serving.timer),
        }
    }

    /// Another guest of the serving generation.
    async fn instantiate(&mut self, loaded: &Loaded) -> Result<Guest, Failure> {
        let instantiated = loaded.instantiate(&self.sandbox).await;
        if let Err(failure) = &instantiated {
            self.on_failure(failure.clone()).await;
        }
        instantiated
    }

    /// The bytes of the guest that serves; if it cannot give any, those it was started with.
    async fn hand_over(&mut self) -> Option<HandOver> {
        let last = self
            .serving
            .as_ref()
            .and_then(|serving| serving.hand_over.clone());
        let Some(Body::Up(guest)) = &mut self.body else {
            return last;
        };
        match guest.stop().await {
            Ok(hand_over) => {
                self.flush_state().await;
                self.show();
                if let Some(resident) = self.resident() {
                    resident.rpcs.hand_over();
                }
                Some(hand_over)
            }
            Err(failure) => {
                tracing::warn!(
                    instance = &*self.name,
                    "the old generation hands nothing over: it {failure}"
                );
                last
            }
        }
    }

    /// Starts `guest` as what `self.serving` says. Says why it began with nothing, if it did. On failure the instance
    /// stays down; the swapper decides.
    async fn start(&mut self, guest: Guest) -> Result<Option<Arc<str>>, Failure> {
        let mut clean = None;
        let started = match self.try_start(guest).await {
            Ok(Err(Fault::HandOver(words))) if self.has_hand_over() && !self.hand_over_required => {
                let words = words::repeated(&words);
                if let Some(resident) = self.resident() {
                    resident.warn(&format!(
                        "the plugin does not understand the hand-over and starts clean: {words}"
                    ));
                }
                clean = Some(words.into());
                self.start_clean().await
            }
            other @ (Ok(Ok(()) | Err(_)) | Err(_)) => other,
        };
        let failure = match started {
            Ok(Ok(())) => return Ok(clean),
            Ok(Err(fault)) => refused(&fault),
            Err(failure) => failure,
        };
        self.on_failure(failure.clone()).await;
        Err(failure)
    }

    fn has_hand_over(&self) -> bool {
        self.serving
            .as_ref()
            .is_some_and(|serving| serving.hand_over.is_some())
    }

    /// `start` is called once in the life of a guest, so that the second try needs another guest.
    async fn start_clean(&mut self) -> Result<Result<(), Fault>, Failure> {
        self.go_down(None);
        if let Some(resident) = self.resident() {
            resident.rpcs.forget_hand_over();
        }
        self.refuse_lost(REPLACED).await;
        let Some(serving) = &mut self.serving else {
            return Ok(Ok(()));
        };
        serving.hand_over = None;
        let loaded = serving.loaded.clone();
        let guest = loaded.instantiate(&self.sandbox).await?;
        self.try_start(guest).await
    }

    async fn try_start(&mut self, mut guest: Guest) -> Result<Result<(), Fault>, Failure> {
        let Some(serving) = self.serving.clone() else {
            return Ok(Ok(()));
        };
        match self.body.take() {
            Some(Body::Down(down)) => guest.adopt(down.resident),
            // A guest that serves is never replaced without going down first.
            other @ (Some(Body::Up(_)) | None) => {
                self.body = other;
                return Ok(Ok(()));
            }
        }
        let setup = Setup {
            instance: self.name.to_string(),
            configuration: self.configuration.clone(),
            granted_streams: guest
                .resident()
                .map(|resident| resident.streams.names())
                .unwrap_or_default(),
            hand_over: serving.hand_over,
        };
        let result = guest.start(&setup).await;
        let now = self.clock.now();
        self.body = Some(Body::Up(guest));
        let wake = match result? {
            Ok(wake) => wake,
            Err(fault) => return Ok(Err(fault)),
        };
        self.flush_state().await;
        self.wake = wake.map(|after| now + after).or(serving.timer);
        self.started = true;
        self.restart.on_started(now);
        self.away_since = None;
        let generation = serving.loaded.build.generation;
        if self.status.borrow().generation != Some(generation) {
            self.begin_count();
        }
        self.status.send_modify(|status| {
            status.state = InstanceState::Serving;
            status.retry_at = None;
            status.generation = Some(generation);
        });
        self.show();
        Ok(Ok(()))
    }

    /// From here on readings are the new generation's.
    fn begin_count(&mut self) {
        let before = self.resident().map(|resident| Served {
            emitted: resident.readings + resident.report.total().suppressed,
            turned_back: resident.back_pressure,
            ..Served::default()
        });
        self.before = before.unwrap_or_default();
        self.status.send_if_modified(|status| {
            status.served = Served::default();
            false
        });
    }

    /// Puts the kept generation back with the bytes it handed over. An instance that never came to `from` has nothing
    /// to do.
    async fn roll_back(&mut self, from: Generation) -> Duration {
        if self
            .serving
            .as_ref()
            .is_none_or(|serving| serving.build().generation != from)
        {
            return Duration::ZERO;
        }
        let began = self.away();
        self.go_down(None);
        self.refuse_lost(REPLACED).await;
        self.serving = self.kept.take();
        self.restart.reset();
        self.on_retry().await;
        self.clock.now() - began
    }

    /// Starts the serving generation anew, with the bytes it was started with.
    pub(super) async fn on_retry(&mut self) {
        let Some(serving) = self.serving.clone() else {
            return self.go_down(None);
        };
        self.status.send_modify(|status| status.restarts += 1);
        match serving.loaded.instantiate(&self.sandbox).await {
            Ok(guest) => match self.start(guest).await {
                Ok(_clean) => {
                    tracing::info!(instance = &*self.name, generation = %serving.build().generation, "plugin serves again")
                }
                // Said and planned where it happened.
                Err(_failure) => {}
            },
            Err(failure) => self.on_failure(failure).await,
        }
    }

    /// Puts another state in the place of what is kept. The guest that serves has built on what was before, and so have the
    /// bytes of any hand-over; so it is started anew, without.
    async fn restore_state(&mut self) -> Result<Restored, RestoreRefused> {
        let Some(replacement) = self.resident().map(|resident| resident.state.replacement()) else {
            return Err(RestoreRefused::Stopping);
        };
        let replaced = tokio::task::spawn_blocking(move || replacement.run()).await;
        let disk = |error: String| RestoreRefused::NotReplaced(error);
        replaced
            .map_err(|error| disk(error.to_string()))?
            .map_err(|trouble| disk(trouble.to_string()))?;
        let was_up = self.is_up();
        if was_up {
            self.away();
            self.go_down(None);
            if let Some(resident) = self.resident() {
                resident.rpcs.forget_hand_over();
            }
            self.refuse_lost(RESTORED).await;
        }
        if let Some(resident) = self.resident() {
            resident.state.forget();
        }
        for generation in [&mut self.serving, &mut self.kept].into_iter().flatten() {
            generation.hand_over = None;
        }
        if was_up {
            self.on_retry().await;
        }
        Ok(if self.is_up() {
            Restored::Restarted
        } else {
            Restored::Kept
        })
    }

    /// The end of the instance: a last word for the guest, then everything is closed.
    pub(super) async fn stop(&mut self) {
        let hand_over = self.hand_over().await;
        tracing::debug!(
            instance = &*self.name,
            bytes = hand_over.map_or(0, |h| h.bytes.len()),
            "plugin stopped"
        );
        self.retry_state().await;
        if let Some(resident) = self.resident() {
            resident.streams.end().await;
        }
        if let Some(Body::Down(Down { .. }) | Body::Up(_)) = self.body.take() {
            self.status
                .send_modify(|status| status.state = InstanceState::Waiting);
        }
    }
}
