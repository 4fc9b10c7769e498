//! What operators order.

use moorline_core::swap::{Build, Input, State};

use super::{Running, Slot, Target};
use crate::plugins::instance::Control;
use crate::plugins::orders::{OrderRefused, Reply, RestoreRefused, RestoreReply, Until};

impl Running {
    pub(super) fn on_swap(&mut self, name: &str, again: bool, until: Until, reply: Reply) {
        let input = if again { Input::Again } else { Input::Ordered };
        let taken = self.slot_of(name).map(|slot| {
            let found = self.swapper.slots.get(slot);
            (slot, found.map(Slot::under_way).unwrap_or_default())
        });
        match taken {
            Ok((slot, not_for)) => {
                if let Some(found) = self.swapper.slots.get_mut(slot) {
                    found.waiting.push(until, not_for, reply);
                }
                tracing::info!(component = name, again, "an operator orders a swap");
                self.input(slot, input);
            }
            Err(refused) => refuse(reply, refused),
        }
    }

    pub(super) fn on_roll_back(&mut self, name: &str, reply: Reply) {
        let taken = self.slot_of(name).and_then(|slot| {
            let found = self.swapper.slots.get(slot);
            let name = name.to_owned();
            match found.map(|found| &found.machine) {
                Some(machine) if machine.can_revert() => Ok(slot),
                Some(machine) if machine.previous().is_some() => {
                    Err(OrderRefused::UnderWay { name })
                }
                Some(_) | None => Err(OrderRefused::NothingBefore { name }),
            }
        });
        match taken {
            Ok(slot) => {
                if let Some(found) = self.swapper.slots.get_mut(slot) {
                    found.waiting.push(Until::Serves, Vec::new(), reply);
                }
                tracing::info!(component = name, "an operator orders a roll-back");
                self.input(slot, Input::Revert);
            }
            Err(refused) => refuse(reply, refused),
        }
    }

    /// The instance does it, between two calls, and answers itself.
    pub(super) fn on_restore_state(&self, instance: String, reply: RestoreReply) {
        let instances = || {
            let slots = self.swapper.slots.iter();
            slots.flat_map(|slot| match &slot.target {
                Target::Connector { instances, .. } => instances.as_slice(),
                Target::Policy { .. } => &[],
            })
        };
        let found = instances().find(|found| *found.status.borrow().name == *instance);
        let Some(controls) = found.map(|found| found.controls.clone()) else {
            let known = instances()
                .map(|found| found.status.borrow().name.to_string())
                .collect();
            let name = instance;
            return match reply.send(Err(RestoreRefused::Unknown { name, known })) {
                // Whoever ordered has gone away.
                Ok(()) | Err(_) => {}
            };
        };
        tracing::info!(instance, "an operator puts a state in place");
        tokio::spawn(async move {
            match controls.send(Control::RestoreState { reply }).await {
                // The instance has ended, and the reply with it: the gateway is stopping.
                Ok(()) | Err(_) => {}
            }
        });
    }

    /// The place of the plugin of this name, if one more order may wait for it.
    fn slot_of(&mut self, name: &str) -> Result<usize, OrderRefused> {
        let found = self
            .swapper
            .slots
            .iter()
            .position(|slot| &*slot.name == name);
        let slots = &mut self.swapper.slots;
        match found {
            Some(slot) if slots.get_mut(slot).is_some_and(|s| s.waiting.has_room()) => Ok(slot),
            Some(_) => Err(OrderRefused::TooMany {
                name: name.to_owned(),
            }),
            None => Err(OrderRefused::Unknown {
                name: name.to_owned(),
                known: slots.iter().map(|slot| slot.name.to_string()).collect(),
            }),
        }
    }
}

fn refuse(reply: Reply, refused: OrderRefused) {
    match reply.send(Err(refused)) {
        // Whoever ordered has gone away.
        Ok(()) | Err(_) => {}
    }
}

impl Slot {
    /// What serves, and what is on its way in or out: an order that comes now is not answered by how these end.
    fn under_way(&self) -> Vec<Build> {
        let moving = matches!(
            self.machine.state(),
            State::Cutover { .. } | State::RollingBack { .. }
        );
        let candidate = self.candidate.as_ref().filter(|_| moving);
        let candidate = candidate.map(|candidate| candidate.build);
        self.machine.active().into_iter().chain(candidate).collect()
    }
}
