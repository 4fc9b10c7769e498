//! The host's side of every import, one file per interface.
//!
//! Everything here works on [`Resident`], which has one owner at a time: the Store of the generation that serves. While
//! a component only describes itself nothing is behind its imports, and they answer accordingly.

mod confined;
mod devices;
mod log;
mod report;
mod rpc;
mod series;
mod state;
mod streams;
mod telemetry;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use moorline_core::confine::Limit;
use moorline_core::message::{DeviceName, Uplink};
use moorline_core::route::DEVICES_MAX;
use moorline_core::time::saturating_ms;
use wasmtime::component::{HasSelf, Linker};

pub(crate) use confined::Confined;
pub(crate) use report::Reporting;
pub(crate) use rpc::PendingRpcs;
pub(crate) use series::Opened;
pub(crate) use state::{
    KeyValues, Replacement, StateTrouble, StateWrite, instance_of, open_directory,
    read as read_state,
};

use super::bindings::connector::moorline::edge;
use super::directories::Directories;
use super::names::Names;
use super::routes::Claims;
use super::store::HostState;
use super::streams::Streams;
use crate::clock::Clock;
use crate::spool::{AppendRefused, Appender};
use edge::telemetry::EmitError;

/// When the disk refuses or the gateway stops, another try is worth it after this long.
const TROUBLE_RETRY: Duration = Duration::from_secs(1);

/// The part of an instance that outlasts its generations.
pub(crate) struct Resident {
    pub(crate) instance: Arc<str>,
    pub(crate) clock: Clock,
    pub(crate) appender: Appender,
    pub(crate) claims: Claims,
    pub(crate) rpcs: PendingRpcs,
    pub(crate) streams: Streams,
    pub(crate) state: KeyValues,
    /// The directories it may write.
    pub(crate) directories: Option<Directories>,
    /// What it has used of its limits.
    pub(crate) confined: Confined,
    pub(crate) report: Reporting,
    pub(crate) names: Names,
    pub(crate) readings: u64,
    pub(crate) back_pressure: u64,
    /// Why the last batch that never can be taken was refused.
    pub(crate) refused: Option<String>,
    /// Devices this instance has claimed, so that a batch costs no message per device.
    pub(crate) devices: BTreeSet<DeviceName>,
}

fn refused(words: impl Into<String>) -> EmitError {
    EmitError::Refused(words.into())
}

fn no_resident() -> EmitError {
    refused("a component that is only asked to describe itself may not do this")
}

impl Resident {
    /// Hands `uplink` to the spool and says in the guest's words how it went.
    async fn append(&mut self, uplink: Uplink) -> Result<(), EmitError> {
        let back_pressure =
            |after: Duration| Err(EmitError::BackPressure(saturating_ms(after).max(1)));
        // A connection, an attribute or an answer is a record of the spool, too.
        let count = uplink.readings().max(1);
        if let Err(wait) = self.confined.take_readings(self.clock.now(), count) {
            self.hit(Limit::Emit);
            self.back_pressure += 1;
            return back_pressure(wait);
        }
        let answer = match self.appender.append(uplink).await {
            Ok(_sequence) => Ok(()),
            Err(AppendRefused::Behind { retry_after }) => back_pressure(retry_after),
            Err(AppendRefused::TooLarge) => {
                Err(refused("the batch is larger than a record of the spool"))
            }
            Err(AppendRefused::Storage(_) | AppendRefused::Closed) => back_pressure(TROUBLE_RETRY),
        };
        if let Err(EmitError::BackPressure(_)) = answer {
            self.back_pressure += 1;
            self.confined.give_back_readings(count);
        }
        answer
    }

    /// From now on downlinks of `device` come to this instance.
    async fn claim(&mut self, device: &DeviceName) -> Result<(), EmitError> {
        if self.devices.contains(device) {
            return Ok(());
        }
        if self.devices.len() >= DEVICES_MAX {
            return Err(refused(format!(
                "this instance already speaks for {DEVICES_MAX} devices"
            )));
        }
        self.devices.insert(device.clone());
        self.claims.claim(device.clone()).await;
        Ok(())
    }
}

/// Offers every interface of the contract to components.
///
/// # Errors
/// When one is offered already.
pub(crate) fn add_to_linker(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    type It = HasSelf<HostState>;
    edge::types::add_to_linker::<_, It>(linker, |state| state)?;
    telemetry::add_to_linker(linker)?;
    edge::series::add_to_linker::<_, It>(linker, |state| state)?;
    edge::devices::add_to_linker::<_, It>(linker, |state| state)?;
    edge::rpc::add_to_linker::<_, It>(linker, |state| state)?;
    edge::streams::add_to_linker::<_, It>(linker, |state| state)?;
    edge::log::add_to_linker::<_, It>(linker, |state| state)?;
    edge::clock::add_to_linker::<_, It>(linker, |state| state)?;
    edge::state::add_to_linker::<_, It>(linker, |state| state)
}

impl edge::types::Host for HostState {}

impl edge::clock::Host for HostState {
    fn now(&mut self) -> f64 {
        let resident = self.resident.as_ref();
        resident
            .filter(|resident| resident.confined.wall_clock)
            .map_or(0.0, |resident| to_f64(resident.clock.wall().0))
    }

    fn monotonic_ms(&mut self) -> f64 {
        self.resident.as_ref().map_or(0.0, |resident| {
            resident.clock.now().since_start().as_secs_f64() * 1000.0
        })
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "milliseconds are exact in f64 for the next 280 000 years"
)]
fn to_f64(ms: u64) -> f64 {
    ms as f64
}
