//! Calling the guest, and what follows from how a call ends.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use moorline_core::inbox::Refusal;
use moorline_core::message::{DeviceName, Uplink};
use moorline_core::swap::{Failure, Reason};

use super::{Body, Down, Instance, Trouble};
use crate::inbox::Delivery;
use crate::plugins::bindings::connector::exports::moorline::edge::connector_guest::{
    Event, Fault, RpcRequest,
};
use crate::plugins::convert::{self, ForGuest};
use crate::plugins::guest::Answer;
use crate::plugins::host::StateWrite;
use crate::plugins::status::{InstanceState, LongCall};
use crate::plugins::words;

/// A guest that answered its timer with a fault is woken again after this long.
const WAKE_AFTER_FAULT: Duration = Duration::from_secs(1);

/// A call that lasts longer is shown while it lasts: what is ordered of its instance waits for its end.
const LONG: Duration = Duration::from_secs(1);

/// What could not be written of its state is tried again after this long, if no change comes before.
const STATE_RETRY: Duration = Duration::from_secs(5);

/// The call of `handle` with this event, as the contract names it.
pub(crate) const fn call_with(event: &Event) -> &'static str {
    match event {
        Event::Timer => "handle(timer)",
        Event::StreamConnected(_) => "handle(stream-connected)",
        Event::StreamData(_) => "handle(stream-data)",
        Event::StreamClosed(_) => "handle(stream-closed)",
        Event::Rpc(_) => "handle(rpc)",
        Event::AttributesChanged(_) => "handle(attributes-changed)",
        Event::LinkChanged(_) => "handle(link-changed)",
    }
}

/// The words of a fault as they may be shown, with whose it is.
fn fault_words(fault: &Fault) -> String {
    let (whose, words) = match fault {
        Fault::Configuration(words) => ("configuration", words),
        Fault::Device(words) => ("device", words),
        Fault::HandOver(words) => ("hand-over", words),
        Fault::Internal(words) => ("internal", words),
    };
    format!("{whose}: {}", words::repeated(words))
}

impl Instance {
    /// Calls `handle`.
    pub(super) async fn on_event(&mut self, event: Event) {
        match self.call(event).await {
            // What went wrong was said where it did.
            Ok(()) | Err(_) => {}
        }
    }

    /// Calls `handle` and says what went wrong, if anything did.
    async fn call(&mut self, event: Event) -> Result<(), String> {
        let Some(Body::Up(guest)) = &mut self.body else {
            return Err("the connector is not running".to_owned());
        };
        let since = self.clock.now();
        let result = {
            let mut calling = pin!(guest.handle(&event));
            tokio::select! {
                biased;
                result = &mut calling => result,
                () = tokio::time::sleep(LONG) => {
                    let call = call_with(&event);
                    self.status
                        .send_modify(|status| status.long_call = Some(LongCall { call, since }));
                    let result = calling.await;
                    self.status.send_modify(|status| status.long_call = None);
                    result
                }
            }
        };
        match result {
            Ok(answer) => self.on_answer(answer).await,
            Err(failure) => {
                let words = failure.to_string();
                self.on_failure(failure).await;
                Err(words)
            }
        }
    }

    async fn on_answer(&mut self, answer: Answer) -> Result<(), String> {
        self.flush_state().await;
        let answer = answer.map_err(|fault| fault_words(&fault));
        if let (Err(words), Some(resident)) = (&answer, self.resident()) {
            resident.warn(&format!("the plugin reports a fault: {words}"));
        }
        self.show();
        match answer {
            Ok(wake) => {
                if let Some(after) = wake {
                    self.wake = Some(self.clock.now() + after);
                }
                self.status.send_if_modified(|status| {
                    status.served.calls += 1;
                    false
                });
                Ok(())
            }
            Err(words) => {
                // A fault is an answer, not a failure: the guest goes on. It could not say when to wake it.
                self.wake = self.wake.or(Some(self.clock.now() + WAKE_AFTER_FAULT));
                self.status.send_modify(|status| {
                    status.faults += 1;
                    status.served.faults += 1;
                    status.last_error = Some(words.as_str().into());
                });
                Err(words)
            }
        }
    }

    /// Takes the changes of a call that ended well to the disk.
    pub(super) async fn flush_state(&mut self) {
        let Some(write) = self
            .resident()
            .and_then(|resident| resident.state.take_changes())
        else {
            return;
        };
        self.write_state(write).await;
    }

    /// Tries again what could not be written.
    pub(super) async fn retry_state(&mut self) {
        let write = self
            .resident()
            .and_then(|resident| resident.state.unwritten());
        match write {
            Some(write) => self.write_state(write).await,
            // Another state was put in its place meanwhile.
            None => self.state_is_on_the_disk(),
        }
    }

    async fn write_state(&mut self, write: StateWrite) {
        let (cost_bytes, now) = (write.cost_bytes(), self.clock.now());
        if let Some(resident) = self.resident() {
            resident.confined.count_state_written(now, cost_bytes);
        }
        let written = tokio::task::spawn_blocking(move || write.run()).await;
        let error: Arc<str> = match written {
            Ok(Ok(())) => {
                if let Some(resident) = self.resident() {
                    resident.state.written();
                }
                return self.state_is_on_the_disk();
            }
            Ok(Err(error)) => error.to_string().into(),
            Err(error) => error.to_string().into(),
        };
        let due = self.clock.now() + STATE_RETRY;
        if self.state_due.replace(due).is_none() {
            tracing::error!(
                instance = &*self.name, %error,
                "the plugin's state is not on the disk; it is tried again until it is"
            );
        }
        self.status.send_if_modified(|status| {
            let changed = status.state_unwritten.as_ref() != Some(&error);
            status.state_unwritten = Some(error);
            changed
        });
    }

    fn state_is_on_the_disk(&mut self) {
        if self.state_due.take().is_some() {
            tracing::info!(
                instance = &*self.name,
                "the plugin's state is on the disk again"
            );
            self.status
                .send_modify(|status| status.state_unwritten = None);
        }
    }

    /// Brings the figures up to date without waking anybody.
    pub(super) fn show(&mut self) {
        self.settle();
        let Some(Body::Up(guest)) = &mut self.body else {
            return;
        };
        let memory_bytes = guest.memory_bytes();
        let Some(resident) = guest.resident() else {
            return;
        };
        let state_damaged = resident.state.damaged();
        let (readings, back_pressure) = (resident.readings, resident.back_pressure);
        let report = resident.report.total();
        let emitted = readings + report.suppressed;
        let before = self.before;
        let hits = (resident.confined.hits != self.status.borrow().limits)
            .then(|| resident.confined.hits.clone());
        let denied = (resident.confined.denied != self.status.borrow().denied)
            .then(|| resident.confined.denied.clone());
        self.status.send_if_modified(|status| {
            if let Some(hits) = hits {
                status.limits = hits;
            }
            if let Some(denied) = denied {
                status.denied = denied;
            }
            status.state_damaged = state_damaged;
            status.memory_bytes = memory_bytes;
            status.readings = readings;
            status.suppressed_readings = report.suppressed;
            status.unfiltered_readings = report.unfiltered;
            status.back_pressure = back_pressure;
            status.served.emitted = emitted.saturating_sub(before.emitted);
            status.served.turned_back = back_pressure.saturating_sub(before.turned_back);
            false
        });
    }

    /// The guest is spoilt: drops it, says so, and plans what comes next. On probation that is the swapper's business;
    /// the planned restart only stands in for it.
    pub(super) async fn on_failure(&mut self, failure: Failure) {
        let now = self.clock.now();
        let verdict = self.restart.on_failure(now);
        let Some(serving) = &self.serving else {
            return;
        };
        let build = serving.build();
        let words: Arc<str> = failure.to_string().into();
        tracing::error!(
            instance = &*self.name,
            generation = %build.generation,
            digest = %build.digest,
            retry_ms = u64::try_from(verdict.wait.as_millis()).unwrap_or(u64::MAX),
            circuit_open = verdict.open,
            "plugin failed: it {words}"
        );
        if verdict.open {
            tracing::error!(
                instance = &*self.name,
                "plugin failed: so often that it is tried only now and then: until its file changes, it is rolled back, or \
                 somebody says moorline plugin swap"
            );
        }
        // What it has done until then counts, the limit it may have exceeded among it.
        self.show();
        self.go_down(Some(now + verdict.wait));
        self.refuse_lost(&words).await;
        self.status.send_modify(|status| {
            status.traps += 1;
            status.retry_at = Some(now + verdict.wait);
            status.last_error = Some(words);
            status.memory_bytes = 0;
            status.state = if verdict.open {
                InstanceState::CircuitOpen
            } else {
                InstanceState::Restarting
            };
        });
        let trouble = Trouble {
            slot: self.slot,
            generation: build.generation,
            failure,
        };
        match self.troubles.send(trouble).await {
            // Without a swapper nobody can roll back; the restart does what can be done.
            Ok(()) | Err(_) => {}
        }
    }

    /// Calls cannot be taken from now on, unless that has begun already. Says since when.
    pub(super) fn away(&mut self) -> moorline_core::time::Instant {
        *self.away_since.get_or_insert(self.clock.now())
    }

    pub(super) fn go_down(&mut self, retry: Option<moorline_core::time::Instant>) {
        self.away();
        self.wake = None;
        self.body = match self.body.take() {
            Some(Body::Up(guest)) => guest.release().map(|mut resident| {
                resident.state.discard_changes();
                Body::Down(Down { resident, retry })
            }),
            Some(Body::Down(down)) => Some(Body::Down(Down { retry, ..down })),
            None => None,
        };
    }

    /// Hands a message of the platform to the guest. It is settled when the guest's call has ended, so that another process
    /// hands out what this one did not come to; an update the guest broke over is tried again.
    pub(super) async fn on_downlink(&mut self, delivery: Delivery) {
        let Delivery {
            downlink,
            deadline,
            ticket,
            ..
        } = delivery;
        let is_late = deadline.is_some_and(|end| end.is_over(self.clock.now(), self.clock.wall()));
        let refusal = match convert::downlink(downlink) {
            ForGuest::Attributes(update) => {
                let was_up = self.is_up();
                self.on_event(Event::AttributesChanged(update)).await;
                match (was_up, self.is_up()) {
                    (false, _) => Some(Refusal::Busy),
                    (true, false) => Some(Refusal::Failed),
                    (true, true) => None,
                }
            }
            ForGuest::Rpc {
                device, request_id, ..
            } if is_late => {
                let body = error_body("the request waited for too long");
                let reply = Uplink::RpcReply {
                    device,
                    request_id,
                    body,
                };
                self.refuse_rpc(reply).await;
                None
            }
            ForGuest::Rpc {
                device,
                request_id,
                method,
                params,
            } => {
                self.on_rpc(device, request_id, method, params).await;
                None
            }
        };
        match (ticket, refusal) {
            (Some(ticket), Some(refusal)) => ticket.refuse(refusal).await,
            (Some(ticket), None) => ticket.settle().await,
            (None, _) => {}
        }
    }

    async fn on_rpc(
        &mut self,
        device: DeviceName,
        request_id: u64,
        method: String,
        params: String,
    ) {
        let now = self.clock.now();
        let numbered = self
            .resident()
            .and_then(|resident| resident.rpcs.remember(device.clone(), request_id, now));
        let Some(id) = numbered else {
            let body = error_body("too many requests wait for an answer");
            return self
                .refuse_rpc(Uplink::RpcReply {
                    device,
                    request_id,
                    body,
                })
                .await;
        };
        let request = RpcRequest {
            id,
            device: device.as_str().to_owned(),
            method,
            params,
        };
        if let Err(words) = self.call(Event::Rpc(request)).await {
            let now = self.clock.now();
            let unanswered = self
                .resident()
                .and_then(|resident| resident.rpcs.take(id, now));
            if unanswered.is_some() {
                let body = error_body(&words);
                self.refuse_rpc(Uplink::RpcReply {
                    device,
                    request_id,
                    body,
                })
                .await;
            }
        }
    }

    /// What only the guest knew that is gone, nobody else will answer.
    pub(super) async fn refuse_lost(&mut self, words: &str) {
        let now = self.clock.now();
        let lost = self
            .resident()
            .map(|resident| resident.rpcs.take_lost(now))
            .unwrap_or_default();
        for request in lost {
            self.refuse_rpc(Uplink::RpcReply {
                device: request.device,
                request_id: request.request_id,
                body: error_body(words),
            })
            .await;
        }
    }

    /// The platform gets an answer even when the guest gave none.
    async fn refuse_rpc(&mut self, reply: Uplink) {
        let Some(resident) = self.resident() else {
            return;
        };
        let appender = resident.appender.clone();
        if let Err(error) = appender.append(reply).await {
            tracing::warn!(instance = &*self.name, %error, "a request stays without an answer");
        }
    }
}

fn error_body(words: &str) -> String {
    serde_json::json!({ "error": words }).to_string()
}

/// A fault that `start` answered with, as a reason against the candidate.
pub(super) fn refused(fault: &Fault) -> Failure {
    Failure::new(Reason::Refused, fault_words(fault))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_fault_are_cut_and_stay_on_one_line() {
        let fault = Fault::Device("red\nFAKE LINE\r".to_owned());
        assert_eq!(fault_words(&fault), "device: red FAKE LINE ");
        let long = Fault::Internal("x".repeat(3_900_000));
        assert!(fault_words(&long).ends_with("x [cut]"));
        assert!(fault_words(&long).len() < 600 && refused(&long).detail.len() < 600);
    }
}
