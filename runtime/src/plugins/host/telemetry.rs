//! Readings from the guest to the spool.

use moorline_core::message::Uplink;

use super::edge::telemetry::{EmitError, Host};
use super::edge::types::DeviceReadings;
use super::{no_resident, refused};
use crate::plugins::convert;
use crate::plugins::store::HostState;

impl Host for HostState {
    async fn emit(&mut self, batch: Vec<DeviceReadings>) -> Result<(), EmitError> {
        let resident = self.resident.as_mut().ok_or_else(no_resident)?;
        if batch.is_empty() {
            return Ok(());
        }
        let mut batch =
            convert::batch(batch, resident.clock.wall(), &mut resident.names).map_err(|bad| {
                resident.refused = Some(bad.to_string());
                refused(bad.to_string())
            })?;
        for device in &batch {
            resident.claim(&device.device).await?;
        }
        let now = resident.clock.now();
        resident.report.offer(&resident.instance, &mut batch, now);
        let uplink = Uplink::Telemetry(batch);
        let readings = uplink.readings();
        let answer = if readings == 0 {
            Ok(())
        } else {
            resident.append(uplink).await
        };
        resident.report.settle(answer.is_ok());
        answer?;
        resident.readings += readings;
        Ok(())
    }
}
