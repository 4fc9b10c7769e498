//! Answers to RPC, and the table of requests that wait for one.

use std::collections::BTreeMap;
use std::time::Duration;

use moorline_core::message::{DeviceName, Uplink};
use moorline_core::time::Instant;

use super::edge::rpc::{EmitError, Host};
use super::{no_resident, refused};
use crate::plugins::convert;
use crate::plugins::store::HostState;

/// Requests that may wait at once.
const PENDING_MAX: usize = 256;
/// Nobody on the platform waits longer.
const EXPIRY: Duration = Duration::from_secs(120);

/// A request a guest has not answered yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PendingRpc {
    pub(crate) device: DeviceName,
    pub(crate) request_id: u64,
    expires: Instant,
    /// The guest that was asked has handed over what it knew: its successor may answer.
    handed_over: bool,
}

/// Requests by the number the guest knows them by. It outlasts the guest: a new generation may answer what the old one
/// was asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct PendingRpcs {
    pending: BTreeMap<u32, PendingRpc>,
    last_id: u32,
}

impl PendingRpcs {
    /// Remembers a request; `None` when too many wait already.
    pub(crate) fn remember(
        &mut self,
        device: DeviceName,
        request_id: u64,
        now: Instant,
    ) -> Option<u32> {
        self.pending.retain(|_, pending| pending.expires > now);
        if self.pending.len() >= PENDING_MAX {
            return None;
        }
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            if !self.pending.contains_key(&self.last_id) {
                break;
            }
        }
        let expires = now + EXPIRY;
        self.pending.insert(
            self.last_id,
            PendingRpc {
                device,
                request_id,
                expires,
                handed_over: false,
            },
        );
        Some(self.last_id)
    }

    /// The guest has put all it knows into its hand-over, these requests among it.
    pub(crate) fn hand_over(&mut self) {
        self.set_handed_over(true);
    }

    /// Nobody has taken the hand-over.
    pub(crate) fn forget_hand_over(&mut self) {
        self.set_handed_over(false);
    }

    fn set_handed_over(&mut self, handed_over: bool) {
        for pending in self.pending.values_mut() {
            pending.handed_over = handed_over;
        }
    }

    /// Takes out the requests that only the guest knew which is gone: no other will answer them.
    pub(crate) fn take_lost(&mut self, now: Instant) -> Vec<PendingRpc> {
        self.pending
            .extract_if(.., |_, pending| !pending.handed_over)
            .map(|(_, pending)| pending)
            .filter(|pending| pending.expires > now)
            .collect()
    }

    /// Takes the request out, if it still waits.
    pub(crate) fn take(&mut self, id: u32, now: Instant) -> Option<PendingRpc> {
        self.pending
            .remove(&id)
            .filter(|pending| pending.expires > now)
    }

    fn peek(&self, id: u32, now: Instant) -> Option<PendingRpc> {
        self.pending
            .get(&id)
            .filter(|pending| pending.expires > now)
            .cloned()
    }
}

impl Host for HostState {
    async fn reply(&mut self, id: u32, body: String) -> Result<(), EmitError> {
        let resident = self.resident.as_mut().ok_or_else(no_resident)?;
        convert::check_json(&body).map_err(|bad| refused(format!("the answer {bad}")))?;
        let now = resident.clock.now();
        let Some(pending) = resident.rpcs.peek(id, now) else {
            return Err(refused(format!("no request {id} waits for an answer")));
        };
        let PendingRpc {
            device, request_id, ..
        } = pending;
        resident
            .append(Uplink::RpcReply {
                device,
                request_id,
                body,
            })
            .await?;
        resident.rpcs.take(id, now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Instant {
        Instant::from_start(Duration::from_secs(s))
    }

    #[test]
    fn a_request_is_answered_once_and_not_after_it_expired() {
        let mut rpcs = PendingRpcs::default();
        let device = DeviceName::try_new("press").unwrap();
        let id = rpcs.remember(device.clone(), u64::MAX, at(0)).unwrap();
        let late = rpcs.remember(device, 8, at(0)).unwrap();
        assert_eq!(rpcs.take(id, at(1)).map(|p| p.request_id), Some(u64::MAX));
        assert_eq!(rpcs.take(id, at(1)), None);
        assert_eq!(rpcs.take(late, at(121)), None);
    }

    #[test]
    fn what_a_gone_guest_did_not_hand_over_is_lost() {
        let mut rpcs = PendingRpcs::default();
        let device = DeviceName::try_new("press").unwrap();
        let ids = |lost: Vec<PendingRpc>| lost.iter().map(|p| p.request_id).collect::<Vec<_>>();
        rpcs.remember(device.clone(), 1, at(0)).unwrap();
        rpcs.hand_over();
        rpcs.remember(device, 2, at(0)).unwrap();
        assert_eq!(ids(rpcs.take_lost(at(1))), [2]);
        assert_eq!(ids(rpcs.take_lost(at(1))), [0; 0]);
        rpcs.forget_hand_over();
        assert_eq!(ids(rpcs.take_lost(at(1))), [1]);
    }

    #[test]
    fn a_guest_that_never_answers_fills_a_bounded_table_until_requests_expire() {
        let mut rpcs = PendingRpcs {
            last_id: u32::MAX - 3,
            ..PendingRpcs::default()
        };
        let device = DeviceName::try_new("press").unwrap();
        let remembered = (0..1_000)
            .filter(|n| rpcs.remember(device.clone(), *n, at(0)).is_some())
            .count();
        assert_eq!(remembered, PENDING_MAX);
        assert!(rpcs.remember(device, 1, at(121)).is_some());
    }
}
