//! A host in memory, for native tests of a connector's logic.

use std::collections::{BTreeMap, VecDeque};

use crate::host::{Host, SeriesId, StreamId};
use crate::{
    Attribute, DeviceReadings, EmitError, FrameRule, Level, Quality, Reading, Setup, StateError,
    StreamError, Value,
};

/// Records what a connector does and answers as scripted. All fields are open: set them up, look at them.
#[derive(Debug, Default)]
pub struct FakeHost {
    /// Batches that were taken, those of series included.
    pub emitted: Vec<Vec<DeviceReadings>>,
    /// Answers for the next calls of `emit` and `emit_series`; when empty, batches are taken.
    pub emit_answers: VecDeque<Result<(), EmitError>>,
    /// Series opened, device and key; the position is the id.
    pub series: Vec<(String, String)>,
    /// Devices announced and not taken back, with their profile.
    pub devices: BTreeMap<String, String>,
    /// Attributes reported.
    pub attributes: Vec<(String, Vec<Attribute>)>,
    /// RPC answers, by request id.
    pub replies: Vec<(u32, String)>,
    /// Names of streams that may be opened; the position is the id.
    pub streams: Vec<String>,
    /// Requests of `exchange` and bytes of `write`, in order.
    pub sent: Vec<(StreamId, Vec<u8>)>,
    /// Answers for the next calls of `exchange`; when empty, they time out.
    pub responses: VecDeque<Result<Vec<u8>, StreamError>>,
    /// Log lines.
    pub log: Vec<(Level, String)>,
    /// The wall clock.
    pub now_ms: f64,
    /// The monotonic clock.
    pub monotonic_ms: f64,
    /// The key-value store.
    pub state: BTreeMap<String, Vec<u8>>,
}

impl FakeHost {
    /// A setup with this configuration and no streams.
    #[must_use]
    pub fn setup(configuration: &str) -> Setup {
        Setup {
            instance: "test".into(),
            configuration: configuration.into(),
            granted_streams: Vec::new(),
            hand_over: None,
        }
    }

    /// Moves both clocks.
    pub fn advance(&mut self, ms: f64) {
        self.now_ms += ms;
        self.monotonic_ms += ms;
    }
}

impl Host for FakeHost {
    fn emit(&mut self, batch: &[DeviceReadings]) -> Result<(), EmitError> {
        self.emit_answers.pop_front().unwrap_or(Ok(()))?;
        self.emitted.push(batch.to_vec());
        Ok(())
    }
    fn series(&mut self, device: &str, key: &str) -> Result<SeriesId, EmitError> {
        if device.is_empty() || key.is_empty() {
            return Err(EmitError::Refused("a name that is empty".into()));
        }
        let pair = (device.to_owned(), key.to_owned());
        let known = self.series.iter().position(|series| *series == pair);
        let at = known.unwrap_or_else(|| {
            self.series.push(pair);
            self.series.len() - 1
        });
        SeriesId::try_from(at).map_err(|_too_many| EmitError::Refused("too many series".into()))
    }
    fn emit_series(
        &mut self,
        ids: &[SeriesId],
        values: &[f64],
        timestamps_ms: &[f64],
    ) -> Result<(), EmitError> {
        let refused = |what: &str| EmitError::Refused(what.to_owned());
        if ids.len() != values.len() || ![0, 1, ids.len()].contains(&timestamps_ms.len()) {
            return Err(refused("lists of different lengths"));
        }
        if values.iter().any(|value| !value.is_finite()) {
            return Err(refused("a value that is not finite"));
        }
        if values.is_empty() {
            return Ok(());
        }
        let mut batch: Vec<DeviceReadings> = Vec::new();
        for (at, (id, value)) in ids.iter().zip(values).enumerate() {
            let series = usize::try_from(*id).ok().and_then(|at| self.series.get(at));
            let (device, key) = series.ok_or_else(|| refused("a series that was not opened"))?;
            let stamp = timestamps_ms.get(at).or(timestamps_ms.first());
            let reading = Reading {
                key: key.clone(),
                value: Value::Double(*value),
                quality: Quality::Good,
                timestamp: stamp.copied(),
            };
            match batch.last_mut().filter(|of| of.device == *device) {
                Some(of_device) => of_device.readings.push(reading),
                None => batch.push(DeviceReadings {
                    device: device.clone(),
                    readings: vec![reading],
                }),
            }
        }
        self.emit(&batch)
    }
    fn device_connected(&mut self, device: &str, profile: &str) -> Result<(), EmitError> {
        self.devices.insert(device.into(), profile.into());
        Ok(())
    }
    fn device_disconnected(&mut self, device: &str) -> Result<(), EmitError> {
        self.devices.remove(device);
        Ok(())
    }
    fn device_attributes(&mut self, device: &str, values: &[Attribute]) -> Result<(), EmitError> {
        self.attributes.push((device.into(), values.to_vec()));
        Ok(())
    }
    fn reply(&mut self, id: u32, body: &str) -> Result<(), EmitError> {
        self.replies.push((id, body.into()));
        Ok(())
    }
    fn open(&mut self, name: &str) -> Result<StreamId, StreamError> {
        let position = self.streams.iter().position(|stream| stream == name);
        position
            .and_then(|position| u32::try_from(position).ok())
            .ok_or(StreamError::NotGranted)
    }
    fn write(&mut self, id: StreamId, bytes: &[u8]) -> Result<(), StreamError> {
        self.sent.push((id, bytes.to_vec()));
        Ok(())
    }
    fn exchange(
        &mut self,
        id: StreamId,
        request: &[u8],
        _rule: &FrameRule,
        _deadline_ms: u32,
    ) -> Result<Vec<u8>, StreamError> {
        self.sent.push((id, request.to_vec()));
        self.responses
            .pop_front()
            .unwrap_or(Err(StreamError::Timeout))
    }
    fn close(&mut self, _id: StreamId) {}
    fn log(&mut self, level: Level, message: &str) {
        self.log.push((level, message.into()));
    }
    fn now_ms(&mut self) -> f64 {
        self.now_ms
    }
    fn monotonic_ms(&mut self) -> f64 {
        self.monotonic_ms
    }
    fn state_get(&mut self, key: &str) -> Result<Option<Vec<u8>>, StateError> {
        Ok(self.state.get(key).cloned())
    }
    fn state_set(&mut self, key: &str, value: &[u8]) -> Result<(), StateError> {
        self.state.insert(key.into(), value.to_vec());
        Ok(())
    }
    fn state_delete(&mut self, key: &str) -> Result<(), StateError> {
        self.state.remove(key);
        Ok(())
    }
}
