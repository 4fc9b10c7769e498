//! What a guest would do that is careless, broken or hostile, within what its imports let it do.

use std::hint::black_box;

use moorline_plugin_sdk::{
    DeviceReadings, EmitError, Fault, Host, Level, Quality, Reading, StreamId, Value,
};

use super::{hang, recurse, scripted, trap};

/// A test overwrites it in the finished component, with bytes that are no UTF-8.
static TEXT: &str = "TEXT:0123456789";

/// The most a host lets through in one piece is less.
const HUGE: usize = 16 * 1024 * 1024;
const STREAM_CHUNK: usize = 32 * 1024;
/// More than any test's limits let through.
const MANY: usize = 10_000;

pub(crate) fn eat() {
    let mut eaten = Vec::new();
    loop {
        eaten.push(black_box(vec![1_u8; 1024 * 1024]));
    }
}

/// Offers the thousand numbers after `count`. Says how many were taken.
pub(crate) fn flood(device: &str, count: i64, host: &mut dyn Host) -> (Result<(), EmitError>, i64) {
    let mut batch = batch(device, 1_000, None);
    for reading in &mut batch[0].readings {
        if let Value::Integer(number) = &mut reading.value {
            *number += count + 1;
        }
    }
    let emitted = host.emit(&batch);
    let taken = if emitted.is_ok() { 1_000 } else { 0 };
    (emitted, taken)
}

fn batch(device: &str, readings: usize, timestamp: Option<f64>) -> [DeviceReadings; 1] {
    let reading = |number| Reading {
        key: "n".into(),
        value: Value::Integer(number),
        quality: Quality::Good,
        timestamp,
    };
    [DeviceReadings {
        device: device.to_owned(),
        readings: (0..).take(readings).map(reading).collect(),
    }]
}

/// That the host refuses a batch for good, and says what is wrong with it.
fn refused(result: Result<(), EmitError>, words: &str) -> Result<(), Fault> {
    match result {
        Err(EmitError::Refused(why)) if why.contains(words) => Ok(()),
        other => Err(Fault::Internal(format!("{words}: {other:?}"))),
    }
}

fn absurd_series(host: &mut dyn Host) -> Result<(), Fault> {
    for (device, key, words) in [
        ("", "n", "name"),
        ("dev-line", "", "the key"),
        ("dev-line", "a\nb", "the key"),
    ] {
        refused(host.series(device, key).map(drop), words)?;
    }
    let id = host
        .series("dev-line", "n")
        .map_err(|error| Fault::Internal(format!("{error:?}")))?;
    refused(
        host.emit_series(&[id, u32::MAX], &[1.0, 2.0], &[]),
        "was not opened",
    )?;
    refused(host.emit_series(&[id], &[], &[]), "0 values")?;
    refused(
        host.emit_series(&[id; 10_001], &[1.0; 10_001], &[]),
        "readings",
    )?;
    for wrong in [f64::NAN, f64::INFINITY] {
        refused(host.emit_series(&[id], &[wrong], &[]), "values[0]")?;
        refused(host.emit_series(&[id], &[1.0], &[wrong]), "timestamps[0]")?;
    }
    for number in 0..MANY {
        if let Err(refusal) = host.series("dev-line", &format!("made-up-{number}")) {
            return refused(Err(refusal), "4096 series");
        }
    }
    Err(Fault::Internal("series without end".into()))
}

/// What ends a guest.
pub(crate) fn die(timers: u32, host: &mut dyn Host) {
    if scripted("timer:trap")
        || (timers == 3 && scripted("timer:trap-3"))
        || (timers == 50 && scripted("timer:trap-50"))
    {
        trap("timer");
    }
    if scripted("timer:hang") {
        hang();
    }
    if scripted("timer:eat") {
        eat();
    }
    if scripted("timer:recurse") {
        black_box(recurse(0));
    }
    if scripted("timer:flood-clock") {
        loop {
            black_box(host.monotonic_ms());
        }
    }
    if scripted("timer:flood-empty") {
        loop {
            drop(black_box(host.emit(&[])));
        }
    }
    if scripted("timer:huge-string") {
        host.log(Level::Info, &"x".repeat(HUGE));
    }
    if scripted("timer:huge-list") {
        drop(host.emit(&batch("dev-line", 400_000, None)));
    }
    if scripted("timer:huge-series") {
        drop(host.emit_series(&vec![0; HUGE / 8], &[], &[]));
    }
    if scripted("timer:text") {
        host.log(Level::Info, black_box(TEXT));
    }
}

/// What a guest survives.
pub(crate) fn annoy(stream: Option<StreamId>, host: &mut dyn Host) -> Result<(), Fault> {
    if scripted("timer:flood-log") {
        for _ in 0..MANY {
            host.log(Level::Info, "flood");
        }
    }
    if scripted("timer:flood-devices") {
        for number in 0..MANY {
            if host
                .device_connected(&format!("made-up-{number}"), "")
                .is_err()
            {
                break;
            }
        }
    }
    if scripted("timer:flood-state") {
        // Another value each time, or it would be written once.
        let fill = host.monotonic_ms().to_le_bytes();
        let value = fill.repeat(2 * 1024);
        for number in 0..64 {
            match host.state_set(&format!("key-{number}"), &value) {
                // Refused sooner or later, which is no reason to stop.
                Ok(()) | Err(_) => {}
            }
        }
    }
    if scripted("timer:flood-stream")
        && let Some(stream) = stream
    {
        for _ in 0..8 {
            drop(host.write(stream, &vec![0; STREAM_CHUNK]));
        }
    }
    if scripted("timer:busy") {
        let end = host.monotonic_ms() + 20.0;
        while host.monotonic_ms() < end {}
    }
    if scripted("timer:absurd") {
        for timestamp in [-1.0, 1e300, f64::NAN, f64::INFINITY] {
            refused(
                host.emit(&batch("dev-line", 1, Some(timestamp))),
                "timestamp",
            )?;
        }
        for device in ["", "a\nb", "a\u{0}b", &"x".repeat(256)] {
            refused(host.emit(&batch(device, 1, None)), "name")?;
            refused(host.device_connected(device, ""), "name")?;
        }
        refused(host.emit(&batch("dev-line", 10_001, None)), "readings")?;
        absurd_series(host)?;
        // No topic is made of it: it is a name like any other.
        host.device_connected("../+/#", "")
            .map_err(|error| Fault::Internal(format!("{error:?}")))?;
    }
    Ok(())
}
