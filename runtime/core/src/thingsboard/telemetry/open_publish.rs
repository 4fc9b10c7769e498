//! The telemetry publish being filled.
//!
//! ```text
//!  {"A":[{"ts":1,"values":{"k":1,"m":2}},{"ts":2,"values":{"k":1   }}]  ,"B":[{"ts":1,"values":{"k":1   }}]  }
//!  └──────────────── entries of A, open for more ──────────────┘ end    └────────── of B ───────────┘ end  end
//! ```
//!
//! Each reading is written once, where it stays: behind what its device has already.

use std::collections::BTreeMap;

use super::super::json::{entry_opening, json_reading, json_string, reading_bytes_min};
use super::super::limits::Cost;
use super::{Carried, Place, Shape};
use crate::message::{DeviceName, Quality, Reading};

/// What closes one device.
const DEVICE_END: &[u8] = b"}}]";
/// What opens and closes the payload.
const BRACES_BYTES: usize = 2;
/// The first room of a device, where nothing says how much it will need.
const DEVICE_BYTES: usize = 256;

#[derive(Debug, Default)]
pub(super) struct OpenPublish {
    devices: Vec<DeviceEntries>,
    index: BTreeMap<DeviceName, usize>,
    /// Where the device is whose readings are being added; none: it is not in here yet.
    current: Option<usize>,
    /// Exact length of the finished payload, without its braces.
    bytes: usize,
    pub(super) carried: Option<Carried>,
    pub(super) readings: u32,
    pub(super) cost: Cost,
}

/// `{"A":[{"ts":1,"values":{"k":1`, with a comma for a brace where it is not the first: the last entry is left open for
/// further keys of the same time.
#[derive(Debug)]
struct DeviceEntries {
    json: Vec<u8>,
    timestamp_ms: u64,
    /// Checksums of the keys in the last entry. A key whose checksum is here begins another entry, as a key must that is
    /// here: where two keys have one checksum that costs some bytes and changes nothing.
    keys: Vec<u32>,
}

impl OpenPublish {
    /// What is added next is about this device.
    pub(super) fn turn_to(&mut self, device: &DeviceName) {
        self.current = self.index.get(device).copied();
    }

    /// A part of this message is in it, from this reading on.
    pub(super) fn begin(&mut self, place: Place, reading: u32) -> &mut Carried {
        self.carried
            .get_or_insert_with(|| Carried::from(place, reading))
    }

    /// All of this message, which has so many readings, is in it, or in publishes before it.
    pub(super) fn complete(&mut self, place: Place, readings: u32) {
        let carried = self.begin(place, readings);
        carried.range.last = place.turn;
        carried.last = place.sequence;
        carried.through = None;
    }

    /// Adds `reading` unless the publish would grow out of its shape. `device` is the one [`OpenPublish::turn_to`] named, and
    /// `opening` what the first word about it costs; a payload of about `bytes` is expected.
    pub(super) fn try_add(
        &mut self,
        reading: &Reading,
        (device, opening): (&DeviceName, Cost),
        shape: &Shape,
        bytes: usize,
    ) -> bool {
        let telemetry_points = if reading.quality == Quality::Good {
            1
        } else {
            2
        };
        let cost = Cost {
            telemetry_messages: u32::from(self.current.is_none()),
            telemetry_points,
            ..opening
        };
        let room = shape
            .packed_payload_bytes_max()
            .saturating_sub(BRACES_BYTES);
        // A text that is too long is not even written.
        if self.bytes + reading_bytes_min(reading) > room || !self.admits(cost, shape) {
            return false;
        }
        let room = room - self.bytes;
        let added = match self.current.and_then(|at| self.devices.get_mut(at)) {
            Some(entries) => entries.try_add(reading, room),
            None => self.try_add_device(device, reading, room, bytes),
        };
        let Some(added) = added else { return false };
        self.bytes += added;
        self.cost = self.cost.and(cost);
        true
    }

    /// Whether it may count for `cost` more and carry another reading.
    fn admits(&self, cost: Cost, shape: &Shape) -> bool {
        self.readings == 0
            || (self.readings < shape.readings_max
                && self.cost.and(cost).is_within(&shape.cost_max))
    }

    /// Adds the first reading of `device`; how many bytes more that makes, if it has room.
    fn try_add_device(
        &mut self,
        device: &DeviceName,
        reading: &Reading,
        room: usize,
        bytes: usize,
    ) -> Option<usize> {
        let is_first = self.devices.is_empty();
        let expected = if is_first { bytes } else { 0 };
        let mut json = Vec::with_capacity(expected.clamp(DEVICE_BYTES, room.max(DEVICE_BYTES)));
        json.push(if is_first { b'{' } else { b',' });
        json_string(device.as_str(), &mut json);
        json.extend_from_slice(b":[");
        entry_opening(reading.timestamp, &mut json);
        json_reading(reading, &mut json);
        let added = json.len() - usize::from(is_first) + DEVICE_END.len();
        if added > room {
            return None;
        }
        self.current = Some(self.devices.len());
        self.index.insert(device.clone(), self.devices.len());
        self.devices.push(DeviceEntries {
            json,
            timestamp_ms: reading.timestamp.0,
            keys: vec![checksum(reading)],
        });
        Some(added)
    }

    /// The finished payload.
    pub(super) fn into_payload(self) -> Vec<u8> {
        let mut devices = self.devices.into_iter();
        let mut payload = match devices.next() {
            Some(first) => first.json,
            None => return b"{}".to_vec(),
        };
        payload.reserve_exact((self.bytes + BRACES_BYTES).saturating_sub(payload.len()));
        payload.extend_from_slice(DEVICE_END);
        for device in devices {
            payload.extend_from_slice(&device.json);
            payload.extend_from_slice(DEVICE_END);
        }
        payload.push(b'}');
        // It waits for an acknowledgement: with what it needs, not with what was expected.
        if payload.capacity() > 2 * payload.len() {
            payload.shrink_to_fit();
        }
        payload
    }
}

impl DeviceEntries {
    /// Adds `reading`; how many bytes more that makes, if it has room.
    fn try_add(&mut self, reading: &Reading, room: usize) -> Option<usize> {
        let before = self.json.len();
        let key = checksum(reading);
        let same_entry = self.timestamp_ms == reading.timestamp.0 && !self.keys.contains(&key);
        if same_entry {
            self.json.push(b',');
        } else {
            self.json.extend_from_slice(b"}},");
            entry_opening(reading.timestamp, &mut self.json);
        }
        json_reading(reading, &mut self.json);
        let added = self.json.len() - before;
        if added > room {
            self.json.truncate(before);
            return None;
        }
        if !same_entry {
            self.keys.clear();
            self.timestamp_ms = reading.timestamp.0;
        }
        self.keys.push(key);
        Some(added)
    }
}

fn checksum(reading: &Reading) -> u32 {
    crc32c::crc32c(reading.key.as_str().as_bytes())
}

/// Bytes of a reading as it is written, without its time.
pub(super) fn pair_bytes(reading: &Reading) -> usize {
    let mut json = Vec::new();
    json_reading(reading, &mut json);
    json.len()
}
