//! Readings from the guest to the spool.
//!
//! Bound by hand. The generated binding would make a `String` of every key of every reading only for it to be looked up;
//! here keys and texts are read where they lie in the guest's memory. What may go wrong in a batch is the same.

use moorline_core::message::{self, Uplink};
use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, Linker, WasmStr};

use super::edge::telemetry::EmitError;
use super::edge::types::Quality;
use super::{no_resident, refused};
use crate::plugins::convert::{BadBatch, Batch, Shown};
use crate::plugins::store::HostState;

/// As `wit/host.wit` names it. Components of older versions of the same contract are linked to it, too.
const INTERFACE: &str = "moorline:edge/telemetry@0.1.1";

#[derive(ComponentType, Lift)]
#[component(record)]
struct DeviceReadings {
    device: WasmStr,
    readings: Vec<Reading>,
}

#[derive(ComponentType, Lift)]
#[component(record)]
struct Reading {
    key: WasmStr,
    value: Value,
    quality: Quality,
    timestamp: Option<f64>,
}

#[derive(ComponentType, Lift)]
#[component(variant)]
enum Value {
    #[component(name = "boolean")]
    Boolean(bool),
    #[component(name = "integer")]
    Integer(i64),
    #[component(name = "double")]
    Double(f64),
    #[component(name = "text")]
    Text(WasmStr),
    #[component(name = "json")]
    Json(WasmStr),
}

/// Offers the interface to components.
///
/// # Errors
/// When it is offered already.
pub(crate) fn add_to_linker(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    linker.instance(INTERFACE)?.func_wrap_async(
        "emit",
        |mut store: StoreContextMut<'_, HostState>, (batch,): (Vec<DeviceReadings>,)| {
            let taken = take(&mut store, &batch);
            Box::new(async move {
                let answer = match taken? {
                    Ok(batch) => emit(store.data_mut(), batch).await,
                    Err(error) => Err(error),
                };
                Ok((answer,))
            })
        },
    )
}

/// The batch as it lies in the guest's memory, checked. An error ends the guest: a text is none.
fn take(
    store: &mut StoreContextMut<'_, HostState>,
    batch: &[DeviceReadings],
) -> wasmtime::Result<Result<Vec<message::DeviceReadings>, EmitError>> {
    let Some(resident) = store.data_mut().resident.as_mut() else {
        return Ok(Err(no_resident()));
    };
    let now = resident.clock.wall();
    // Lent, because the store is borrowed for its memory meanwhile.
    let mut names = std::mem::take(&mut resident.names);
    let mut taken = Batch::new(batch.len(), now, &mut names);
    let outcome = read(store, batch, &mut taken);
    let batch = taken.finish();
    let Some(resident) = store.data_mut().resident.as_mut() else {
        return Ok(Err(no_resident()));
    };
    resident.names = names;
    Ok(match outcome? {
        Ok(()) => Ok(batch),
        Err(bad) => {
            resident.refused = Some(bad.to_string());
            Err(refused(bad.to_string()))
        }
    })
}

fn read(
    store: &StoreContextMut<'_, HostState>,
    batch: &[DeviceReadings],
    taken: &mut Batch<'_>,
) -> wasmtime::Result<Result<(), BadBatch>> {
    for entry in batch {
        if let Err(bad) = taken.device(&entry.device.to_str(store)?, entry.readings.len()) {
            return Ok(Err(bad));
        }
        for reading in &entry.readings {
            let value = match &reading.value {
                Value::Boolean(truth) => Shown::Boolean(*truth),
                Value::Integer(number) => Shown::Integer(*number),
                Value::Double(number) => Shown::Double(*number),
                Value::Text(text) => Shown::Text(text.to_str(store)?),
                Value::Json(text) => Shown::Json(text.to_str(store)?),
            };
            let key = reading.key.to_str(store)?;
            if let Err(bad) = taken.reading(&key, value, reading.quality, reading.timestamp) {
                return Ok(Err(bad));
            }
        }
    }
    Ok(Ok(()))
}

/// Hands over what was taken from the guest.
pub(super) async fn emit(
    state: &mut HostState,
    mut batch: Vec<message::DeviceReadings>,
) -> Result<(), EmitError> {
    let resident = state.resident.as_mut().ok_or_else(no_resident)?;
    if batch.is_empty() {
        return Ok(());
    }
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
