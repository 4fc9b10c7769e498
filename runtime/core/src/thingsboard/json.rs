//! The JSON of this dialect, written straight into the payload's bytes.

use crate::message::{DeviceName, Key, Quality, Reading, Value};
use crate::time::TimestampMs;

/// What surrounds a name and a value at most, besides themselves.
const AROUND_BYTES: usize = 8;
/// Digits of the longest number, written as JSON.
const NUMBER_BYTES: usize = 24;

pub(super) fn json_string(text: &str, out: &mut Vec<u8>) {
    // Writing a string into memory cannot fail: serde_json errs only on IO or on maps with odd keys.
    serde_json::to_writer(out, text).unwrap_or_default();
}

fn json_number(number: u64, out: &mut Vec<u8>) {
    serde_json::to_writer(out, &number).unwrap_or_default();
}

fn json_value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Boolean(true) => out.extend_from_slice(b"true"),
        Value::Boolean(false) => out.extend_from_slice(b"false"),
        Value::Integer(integer) => serde_json::to_writer(out, integer).unwrap_or_default(),
        // Finite by the contract of `Value`; serde_json would write null otherwise.
        Value::Double(double) => serde_json::to_writer(out, double).unwrap_or_default(),
        Value::Text(text) => json_string(text, out),
        Value::Json(document) => out.extend_from_slice(document.as_bytes()),
    }
}

/// Appends `{"ts":1,"values":{`: an entry that is left open.
pub(super) fn entry_opening(timestamp: TimestampMs, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"ts\":");
    json_number(timestamp.0, out);
    out.extend_from_slice(b",\"values\":{");
}

/// Appends `"key":value`, and `"key_quality":"bad"` where it is not good.
pub(super) fn json_reading(reading: &Reading, out: &mut Vec<u8>) {
    json_string(reading.key.as_str(), out);
    out.push(b':');
    json_value(&reading.value, out);
    let quality: &[u8] = match reading.quality {
        Quality::Good => return,
        Quality::Uncertain => b"_quality\":\"uncertain\"",
        Quality::Bad => b"_quality\":\"bad\"",
    };
    out.push(b',');
    json_string(reading.key.as_str(), out);
    // The closing quote.
    out.pop();
    out.extend_from_slice(quality);
}

/// The least [`json_reading`] takes: text is never shorter as JSON.
pub(super) fn reading_bytes_min(reading: &Reading) -> usize {
    let value = match &reading.value {
        Value::Text(text) | Value::Json(text) => text.len(),
        Value::Boolean(_) | Value::Integer(_) | Value::Double(_) => 1,
    };
    reading.key.as_str().len() + value
}

pub(super) fn json_object(values: &[(Key, Value)], out: &mut Vec<u8>) {
    out.push(b'{');
    for (index, (key, value)) in values.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        json_string(key.as_str(), out);
        out.push(b':');
        json_value(value, out);
    }
    out.push(b'}');
}

/// About what [`json_object`] takes.
fn object_bytes(values: &[(Key, Value)]) -> usize {
    let value_bytes = |value: &Value| match value {
        Value::Text(text) | Value::Json(text) => text.len(),
        Value::Boolean(_) | Value::Integer(_) | Value::Double(_) => NUMBER_BYTES,
    };
    let pairs = values
        .iter()
        .map(|(key, value)| key.as_str().len() + value_bytes(value) + AROUND_BYTES);
    pairs.sum()
}

pub(super) fn connect_payload(device: &DeviceName, profile: &str) -> Vec<u8> {
    let mut out = device_payload(device);
    if !profile.is_empty() {
        out.pop();
        out.extend_from_slice(b",\"type\":");
        json_string(profile, &mut out);
        out.push(b'}');
    }
    out
}

pub(super) fn device_payload(device: &DeviceName) -> Vec<u8> {
    let mut out = b"{\"device\":".to_vec();
    json_string(device.as_str(), &mut out);
    out.push(b'}');
    out
}

pub(super) fn attributes_payload(device: &DeviceName, values: &[(Key, Value)]) -> Vec<u8> {
    let bytes = device.as_str().len() + AROUND_BYTES + object_bytes(values);
    let mut out = Vec::with_capacity(bytes);
    out.push(b'{');
    json_string(device.as_str(), &mut out);
    out.push(b':');
    json_object(values, &mut out);
    out.push(b'}');
    out
}

pub(super) fn gateway_payload(timestamp: TimestampMs, values: &[(Key, Value)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 * NUMBER_BYTES + AROUND_BYTES + object_bytes(values));
    out.extend_from_slice(b"{\"ts\":");
    json_number(timestamp.0, &mut out);
    out.extend_from_slice(b",\"values\":");
    json_object(values, &mut out);
    out.push(b'}');
    out
}

pub(super) fn reply_payload(device: &DeviceName, request_id: u64, body: &str) -> Vec<u8> {
    let mut out = device_payload(device);
    out.pop();
    out.extend_from_slice(b",\"id\":");
    json_number(request_id, &mut out);
    out.extend_from_slice(b",\"data\":");
    out.extend_from_slice(body.as_bytes());
    out.push(b'}');
    out
}
