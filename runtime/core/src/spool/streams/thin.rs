//! Keeping one message in so many, device by device.

use std::collections::BTreeMap;

use crate::message::{DeviceName, Uplink};

/// Devices that are counted each on its own; further ones share a count.
const DEVICES_MAX: usize = 4096;

/// How many messages of each device came by.
#[derive(Debug, Default)]
pub(super) struct Thinner {
    seen: BTreeMap<DeviceName, u32>,
    others: u32,
}

impl Thinner {
    /// What of `uplink` is kept, and what is not. Only telemetry is thinned out.
    pub(super) fn thin(
        &mut self,
        uplink: Uplink,
        keep_one_in: u32,
    ) -> (Option<Uplink>, Option<Uplink>) {
        let devices = match uplink {
            Uplink::Telemetry(devices) => devices,
            other @ (Uplink::Attributes { .. }
            | Uplink::DeviceConnected { .. }
            | Uplink::DeviceDisconnected { .. }
            | Uplink::RpcReply { .. }
            | Uplink::Gateway { .. }
            | Uplink::GatewayAttributes { .. }
            | Uplink::Letter { .. }) => return (Some(other), None),
        };
        let (kept, dropped): (Vec<_>, Vec<_>) = devices
            .into_iter()
            .partition(|device| self.turn(&device.device).is_multiple_of(keep_one_in));
        let some = |devices: Vec<_>| (!devices.is_empty()).then_some(Uplink::Telemetry(devices));
        (some(kept), some(dropped))
    }

    fn turn(&mut self, device: &DeviceName) -> u32 {
        let known = self.seen.contains_key(device) || self.seen.len() < DEVICES_MAX;
        let seen = if known {
            self.seen.entry(device.clone()).or_default()
        } else {
            &mut self.others
        };
        let turn = *seen;
        *seen = seen.wrapping_add(1);
        turn
    }
}
