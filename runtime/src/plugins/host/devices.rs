//! The device model.

use moorline_core::message::{DeviceName, NAME_BYTES_MAX, Uplink};

use super::edge::devices::{Attribute, EmitError, Host};
use super::{no_resident, refused};
use crate::plugins::convert;
use crate::plugins::store::HostState;

fn device_name(device: &str) -> Result<DeviceName, EmitError> {
    DeviceName::try_new(device).map_err(|error| refused(format!("the device's name {error}")))
}

impl Host for HostState {
    async fn connected(&mut self, device: String, profile: String) -> Result<(), EmitError> {
        let resident = self.resident.as_mut().ok_or_else(no_resident)?;
        let device = device_name(&device)?;
        if profile.len() > NAME_BYTES_MAX || profile.chars().any(char::is_control) {
            return Err(refused(
                "the profile is longer than 255 bytes or contains a control character",
            ));
        }
        // Said aloud, it is claimed again even from an instance that spoke for it later.
        resident.devices.remove(&device);
        resident.claim(&device).await?;
        resident
            .append(Uplink::DeviceConnected { device, profile })
            .await
    }

    async fn disconnected(&mut self, device: String) -> Result<(), EmitError> {
        let resident = self.resident.as_mut().ok_or_else(no_resident)?;
        let device = device_name(&device)?;
        resident.report.forget(&device);
        if resident.devices.remove(&device) {
            resident.claims.release(device.clone()).await;
        }
        resident.append(Uplink::DeviceDisconnected { device }).await
    }

    async fn attributes(
        &mut self,
        device: String,
        values: Vec<Attribute>,
    ) -> Result<(), EmitError> {
        let resident = self.resident.as_mut().ok_or_else(no_resident)?;
        let device = device_name(&device)?;
        let values = convert::attributes(values, &mut resident.names)
            .map_err(|bad| refused(bad.to_string()))?;
        if values.is_empty() {
            return Ok(());
        }
        resident.claim(&device).await?;
        resident.append(Uplink::Attributes { device, values }).await
    }
}
