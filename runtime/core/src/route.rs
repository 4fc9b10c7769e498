//! Which connector instance a device belongs to, so that RPC and shared attributes find their way down.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::message::DeviceName;

/// Most devices a gateway routes; beyond it a new device is refused, never an old one forgotten.
pub const DEVICES_MAX: usize = 100_000;

/// What claiming a device changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim<Owner> {
    /// Nobody had it.
    New,
    /// The same owner had it.
    Unchanged,
    /// Another owner had it: two connectors report one device, which an operator should know.
    Moved {
        /// Who had it.
        from: Owner,
    },
}

/// No room for another device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the gateway already routes {DEVICES_MAX} devices")]
pub struct RoutesFull;

/// Device to owner. The last instance that spoke for a device owns it.
#[derive(Clone, Debug)]
pub struct Routes<Owner> {
    owners: BTreeMap<DeviceName, Owner>,
}

impl<Owner> Default for Routes<Owner> {
    fn default() -> Self {
        Self {
            owners: BTreeMap::new(),
        }
    }
}

impl<Owner: Copy + PartialEq> Routes<Owner> {
    /// Gives `device` to `owner`.
    ///
    /// # Errors
    /// When the device is new and [`DEVICES_MAX`] are known already.
    pub fn claim(&mut self, device: &DeviceName, owner: Owner) -> Result<Claim<Owner>, RoutesFull> {
        if let Some(current) = self.owners.get_mut(device) {
            let from = std::mem::replace(current, owner);
            return Ok(if from == owner {
                Claim::Unchanged
            } else {
                Claim::Moved { from }
            });
        }
        if self.owners.len() >= DEVICES_MAX {
            return Err(RoutesFull);
        }
        self.owners.insert(device.clone(), owner);
        Ok(Claim::New)
    }

    /// Forgets `device` if `owner` has it; says whether it had.
    pub fn release(&mut self, device: &DeviceName, owner: Owner) -> bool {
        let owned = self.owners.get(device) == Some(&owner);
        if owned {
            self.owners.remove(device);
        }
        owned
    }

    /// Who has `device`.
    #[must_use]
    pub fn owner(&self, device: &DeviceName) -> Option<Owner> {
        self.owners.get(device).copied()
    }

    /// How many devices are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.owners.len()
    }

    /// Whether no device is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_speaker_owns_a_device_and_only_the_owner_releases_it() {
        let mut routes = Routes::default();
        let device = DeviceName::try_new("press").unwrap();
        assert_eq!(routes.claim(&device, 1), Ok(Claim::New));
        assert_eq!(routes.claim(&device, 1), Ok(Claim::Unchanged));
        assert_eq!(routes.claim(&device, 2), Ok(Claim::Moved { from: 1 }));
        assert!(!routes.release(&device, 1));
        assert_eq!(routes.owner(&device), Some(2));
        assert!(routes.release(&device, 2));
        assert!(routes.is_empty());
    }

    #[test]
    fn a_full_table_refuses_the_new_and_keeps_the_old() {
        let mut routes = Routes::default();
        for index in 0..DEVICES_MAX {
            routes
                .claim(&DeviceName::try_new(&format!("d{index}")).unwrap(), 1)
                .unwrap();
        }
        assert_eq!(
            routes.claim(&DeviceName::try_new("late").unwrap(), 1),
            Err(RoutesFull)
        );
        assert_eq!(routes.len(), DEVICES_MAX);
    }
}
