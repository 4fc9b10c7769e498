//! `moorline spool dump`.

use std::process::ExitCode;

use clap::Args;
use moorline_core::message::{DeviceReadings, Key, Quality, Sequence, Uplink, Value};

use super::super::{exit, figures, glob};
use super::look::{Record, Seen};
use super::{Filter, Which, fail};

#[derive(Debug, Args)]
pub(in crate::cli) struct DumpOptions {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    filter: Filter,
}

pub(super) fn dump(options: &DumpOptions) -> Result<ExitCode, ExitCode> {
    let found = options.which.find()?;
    let filter = &options.filter;
    let mut left = filter.limit;
    for stream in &found.streams {
        let mut seen =
            Seen::new(stream, &found.settings.spool).map_err(|trouble| fail(&trouble))?;
        let after = Sequence(filter.after);
        let mut each = |record: &Record<'_>| {
            if left == 0 {
                return Ok(false);
            }
            let lines = lines(record.uplink, filter.device.as_deref());
            if !lines.is_empty() {
                left -= 1;
                exit::print(&format!(
                    "{} {}  {}",
                    record.stream,
                    record.sequence.0,
                    lines.join("\n    ")
                ));
            }
            Ok(true)
        };
        seen.each_record(after, filter.all, &mut each)
            .map_err(|trouble| fail(&trouble))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What a record says, a heading first; nothing where it is of other devices.
fn lines(uplink: &Uplink, device: Option<&str>) -> Vec<String> {
    let wanted = |name: &str| device.is_none_or(|pattern| glob::matches(pattern, name));
    let of = |name: &str, what: String| {
        let named = format!("{}: {what}", figures::harmless(name));
        if wanted(name) {
            vec![named]
        } else {
            Vec::new()
        }
    };
    match uplink {
        Uplink::Telemetry(devices) => {
            let chosen: Vec<_> = devices
                .iter()
                .filter(|readings| wanted(readings.device.as_str()))
                .collect();
            if chosen.is_empty() {
                return Vec::new();
            }
            let count: usize = chosen.iter().map(|readings| readings.readings.len()).sum();
            let mut lines = vec![format!("telemetry, {count} readings")];
            lines.extend(chosen.into_iter().flat_map(readings));
            lines
        }
        Uplink::Attributes { device, values } => {
            of(device.as_str(), format!("attributes {}", pairs(values)))
        }
        Uplink::DeviceConnected { device, profile } => of(
            device.as_str(),
            format!("connected, profile {:?}", figures::harmless(profile)),
        ),
        Uplink::DeviceDisconnected { device } => of(device.as_str(), "disconnected".to_owned()),
        Uplink::RpcReply {
            device,
            request_id,
            body,
        } => of(
            device.as_str(),
            format!("reply to request {request_id}: {}", figures::harmless(body)),
        ),
        Uplink::Gateway { timestamp, values } if device.is_none() => vec![format!(
            "the gateway at {}: {}",
            figures::when(timestamp.0),
            pairs(values)
        )],
        Uplink::GatewayAttributes { values } if device.is_none() => {
            vec![format!("attributes of the gateway: {}", pairs(values))]
        }
        Uplink::Letter {
            topic,
            payload,
            readings,
        } if device.is_none() => vec![format!(
            "a dead letter with {readings} readings to {}: {}",
            figures::harmless(topic),
            figures::harmless(payload)
        )],
        // They are of no device.
        Uplink::Gateway { .. } | Uplink::GatewayAttributes { .. } | Uplink::Letter { .. } => {
            Vec::new()
        }
    }
}

fn readings(of_device: &DeviceReadings) -> impl Iterator<Item = String> + '_ {
    of_device.readings.iter().map(|reading| {
        let doubt = match reading.quality {
            Quality::Good => "",
            Quality::Uncertain => ", uncertain",
            Quality::Bad => ", bad",
        };
        format!(
            "{}.{:03} {} {} = {}{doubt}",
            figures::when(reading.timestamp.0),
            reading.timestamp.0 % 1000,
            of_device.device,
            reading.key,
            shown(&reading.value)
        )
    })
}

fn pairs(values: &[(Key, Value)]) -> String {
    let pairs: Vec<_> = values
        .iter()
        .map(|(key, value)| format!("{key} = {}", shown(value)))
        .collect();
    pairs.join(", ")
}

fn shown(value: &Value) -> String {
    match value {
        Value::Boolean(value) => value.to_string(),
        Value::Integer(value) => value.to_string(),
        Value::Double(value) => value.to_string(),
        Value::Text(value) => format!("{value:?}"),
        Value::Json(value) => figures::harmless(value),
    }
}
