//! What `wit-bindgen` makes of the contract, and the host behind it.

use crate::host::{Host, SeriesId, StreamId};
use crate::{Attribute, DeviceReadings, EmitError, FrameRule, Level, StateError, StreamError};
use connector::moorline::edge;

#[expect(missing_docs, reason = "generated; the contract is documented in wit/")]
pub mod connector {
    wit_bindgen::generate!({
        path: "../wit",
        world: "connector",
        pub_export_macro: true,
        export_macro_name: "export_connector_world",
        additional_derives: [PartialEq],
    });
}

#[expect(missing_docs, reason = "generated; the contract is documented in wit/")]
pub mod policy {
    wit_bindgen::generate!({
        path: "../wit",
        world: "reconnect-policy",
        pub_export_macro: true,
        export_macro_name: "export_policy_world",
        additional_derives: [PartialEq],
    });
}

/// Makes a panic tell its message and place to the host's log. Without it a trap says only where in the module it was.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        edge::log::write(Level::Error, &panic.to_string());
    }));
}

/// The host of the component this crate is linked into.
#[derive(Debug)]
pub struct WasmHost;

impl Host for WasmHost {
    fn emit(&mut self, batch: &[DeviceReadings]) -> Result<(), EmitError> {
        edge::telemetry::emit(batch)
    }
    fn series(&mut self, device: &str, key: &str) -> Result<SeriesId, EmitError> {
        edge::series::open(device, key)
    }
    fn emit_series(
        &mut self,
        ids: &[SeriesId],
        values: &[f64],
        timestamps_ms: &[f64],
    ) -> Result<(), EmitError> {
        edge::series::emit(ids, values, timestamps_ms)
    }
    fn device_connected(&mut self, device: &str, profile: &str) -> Result<(), EmitError> {
        edge::devices::connected(device, profile)
    }
    fn device_disconnected(&mut self, device: &str) -> Result<(), EmitError> {
        edge::devices::disconnected(device)
    }
    fn device_attributes(&mut self, device: &str, values: &[Attribute]) -> Result<(), EmitError> {
        edge::devices::attributes(device, values)
    }
    fn reply(&mut self, id: u32, body: &str) -> Result<(), EmitError> {
        edge::rpc::reply(id, body)
    }
    fn open(&mut self, name: &str) -> Result<StreamId, StreamError> {
        edge::streams::open(name)
    }
    fn write(&mut self, id: StreamId, bytes: &[u8]) -> Result<(), StreamError> {
        edge::streams::write(id, bytes)
    }
    fn exchange(
        &mut self,
        id: StreamId,
        request: &[u8],
        rule: &FrameRule,
        deadline_ms: u32,
    ) -> Result<Vec<u8>, StreamError> {
        edge::streams::exchange(id, request, rule, deadline_ms)
    }
    fn close(&mut self, id: StreamId) {
        edge::streams::close(id);
    }
    fn log(&mut self, level: Level, message: &str) {
        edge::log::write(level, message);
    }
    fn now_ms(&mut self) -> f64 {
        edge::clock::now()
    }
    fn monotonic_ms(&mut self) -> f64 {
        edge::clock::monotonic_ms()
    }
    fn state_get(&mut self, key: &str) -> Result<Option<Vec<u8>>, StateError> {
        edge::state::get(key)
    }
    fn state_set(&mut self, key: &str, value: &[u8]) -> Result<(), StateError> {
        edge::state::set(key, value)
    }
    fn state_delete(&mut self, key: &str) -> Result<(), StateError> {
        edge::state::delete(key)
    }
}
