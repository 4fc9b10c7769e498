//! Everything a connector may ask of its host.

use crate::{Attribute, DeviceReadings, EmitError, FrameRule, Level, StateError, StreamError};

/// The host's name for an open stream.
pub type StreamId = u32;

/// The host's name for one key of one device. It ends with the guest.
pub type SeriesId = u32;

/// The host, as a connector sees it. Two implementations: the component's imports, and [`crate::FakeHost`] in tests.
pub trait Host {
    /// Hands a batch to the spool, all or nothing. Ok means that it survives a kill of the host.
    ///
    /// # Errors
    /// [`EmitError::BackPressure`]: offer the same batch again later. [`EmitError::Refused`]: it never will be taken.
    fn emit(&mut self, batch: &[DeviceReadings]) -> Result<(), EmitError>;

    /// Opens a series for [`Host::emit_series`]: names are said once instead of with each reading. The same pair has the same id.
    ///
    /// # Errors
    /// [`EmitError::Refused`] when a name is none, or there are 4 096 series already.
    fn series(&mut self, device: &str, key: &str) -> Result<SeriesId, EmitError>;

    /// Hands numbers of good quality to the spool, all or nothing: `values[i]` of the series `ids[i]`. `timestamps_ms` has one for
    /// each value, one for all, or none; then the host stamps the time of this call.
    ///
    /// # Errors
    /// As [`Host::emit`].
    fn emit_series(
        &mut self,
        ids: &[SeriesId],
        values: &[f64],
        timestamps_ms: &[f64],
    ) -> Result<(), EmitError>;

    /// Announces a device. An empty profile leaves the choice to the platform.
    ///
    /// # Errors
    /// As [`Host::emit`].
    fn device_connected(&mut self, device: &str, profile: &str) -> Result<(), EmitError>;

    /// Takes a device back.
    ///
    /// # Errors
    /// As [`Host::emit`].
    fn device_disconnected(&mut self, device: &str) -> Result<(), EmitError>;

    /// Reports client-side attributes.
    ///
    /// # Errors
    /// As [`Host::emit`].
    fn device_attributes(&mut self, device: &str, values: &[Attribute]) -> Result<(), EmitError>;

    /// Answers an RPC with a JSON text.
    ///
    /// # Errors
    /// [`EmitError::Refused`] when the id is unknown or was answered.
    fn reply(&mut self, id: u32, body: &str) -> Result<(), EmitError>;

    /// Opens a granted stream; connecting goes on in the background.
    ///
    /// # Errors
    /// When no such stream is granted.
    fn open(&mut self, name: &str) -> Result<StreamId, StreamError>;

    /// Writes without waiting for an answer.
    ///
    /// # Errors
    /// When the stream is not connected.
    fn write(&mut self, id: StreamId, bytes: &[u8]) -> Result<(), StreamError>;

    /// Writes a request and waits for one whole response.
    ///
    /// # Errors
    /// When the stream is not connected, the deadline passes, or the response breaks the rule.
    fn exchange(
        &mut self,
        id: StreamId,
        request: &[u8],
        rule: &FrameRule,
        deadline_ms: u32,
    ) -> Result<Vec<u8>, StreamError>;

    /// Closes a stream.
    fn close(&mut self, id: StreamId);

    /// Writes a line to the host's log.
    fn log(&mut self, level: Level, message: &str);

    /// Wall clock, milliseconds since the Unix epoch.
    fn now_ms(&mut self) -> f64;

    /// Milliseconds since the host started; never steps.
    fn monotonic_ms(&mut self) -> f64;

    /// Reads a value that outlives restarts.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn state_get(&mut self, key: &str) -> Result<Option<Vec<u8>>, StateError>;

    /// Keeps a value that outlives restarts.
    ///
    /// # Errors
    /// When the store is full or cannot be written.
    fn state_set(&mut self, key: &str, value: &[u8]) -> Result<(), StateError>;

    /// Forgets a value.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn state_delete(&mut self, key: &str) -> Result<(), StateError>;
}
