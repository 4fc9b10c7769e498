//! ThingsBoard's gateway telemetry, as it lies on a broker.

use std::collections::BTreeMap;

use serde::Deserialize;

/// `{"ts":ms,"values":{key:value}}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    ts: u64,
    values: BTreeMap<String, serde_json::Value>,
}

/// The readings of one message.
#[derive(Debug)]
pub(crate) struct Readings(BTreeMap<String, Vec<Entry>>);

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading<'a> {
    pub(crate) device: &'a str,
    pub(crate) key: &'a str,
    /// When it was measured, milliseconds since the Unix epoch.
    pub(crate) ts_ms: u64,
    value: &'a serde_json::Value,
    /// What was measured with it.
    entry: &'a BTreeMap<String, serde_json::Value>,
}

impl Reading<'_> {
    /// The serial number that was measured with it, by the first key that `counts`.
    pub(crate) fn serial_beside(&self, counts: impl Fn(&str) -> bool) -> Option<u64> {
        let mut counted = self.entry.iter().filter(|(key, _)| counts(key));
        counted.find_map(|(_, value)| value.as_u64())
    }

    /// Its value, if that can be a serial number.
    pub(crate) fn serial(&self) -> Option<u64> {
        self.value.as_u64()
    }
}

/// Reads a payload.
///
/// # Errors
/// When it is no telemetry.
pub(crate) fn parse(payload: &[u8]) -> Result<Readings, serde_json::Error> {
    serde_json::from_slice(payload).map(Readings)
}

impl Readings {
    /// All of them: by device, and of each in their order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Reading<'_>> {
        self.0.iter().flat_map(|(device, entries)| {
            entries.iter().flat_map(move |entry| {
                entry.values.iter().map(move |(key, value)| Reading {
                    device,
                    key,
                    ts_ms: entry.ts,
                    value,
                    entry: &entry.values,
                })
            })
        })
    }
}
