//! What is written is what serde_json would write, and reads back as what went in.

use super::*;

/// The entries of one device: their time, their keys, and `"key":value` of each.
type Entries = Vec<(u64, Vec<Key>, Vec<String>)>;

/// The same telemetry, put together from values that serde_json writes.
fn reference(uplinks: &[Uplink]) -> String {
    let text = |value: &str| serde_json::to_string(value).unwrap();
    let mut devices: Vec<(String, Entries)> = Vec::new();
    for uplink in uplinks {
        let Uplink::Telemetry(batch) = uplink else {
            unreachable!("only telemetry is made here")
        };
        for DeviceReadings { device, readings } in batch {
            for reading in readings {
                let name = text(device.as_str());
                let at = devices.iter().position(|(known, _)| *known == name);
                let at = at.unwrap_or_else(|| {
                    devices.push((name, Vec::new()));
                    devices.len() - 1
                });
                let ms = reading.timestamp.0;
                let entries = &mut devices[at].1;
                let same = entries
                    .last()
                    .is_some_and(|(ts, keys, _)| *ts == ms && !keys.contains(&reading.key));
                if !same {
                    entries.push((ms, Vec::new(), Vec::new()));
                }
                let (_, keys, pairs) = entries.last_mut().unwrap();
                keys.push(reading.key.clone());
                let value = match &reading.value {
                    Value::Boolean(truth) => serde_json::to_string(truth).unwrap(),
                    Value::Integer(number) => serde_json::to_string(number).unwrap(),
                    Value::Double(number) => serde_json::to_string(number).unwrap(),
                    Value::Text(words) => text(words),
                    Value::Json(document) => document.clone(),
                };
                pairs.push(format!("{}:{value}", text(reading.key.as_str())));
                let quality = match reading.quality {
                    Quality::Good => continue,
                    Quality::Uncertain => "uncertain",
                    Quality::Bad => "bad",
                };
                let key = text(&format!("{}_quality", reading.key));
                pairs.push(format!("{key}:\"{quality}\""));
            }
        }
    }
    let devices: Vec<_> = devices
        .into_iter()
        .map(|(name, entries)| {
            let entries: Vec<_> = entries
                .into_iter()
                .map(|(ts, _, pairs)| format!("{{\"ts\":{ts},\"values\":{{{}}}}}", pairs.join(",")))
                .collect();
            format!("{name}:[{}]", entries.join(","))
        })
        .collect();
    format!("{{{}}}", devices.join(","))
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{0,20}",
        "\\PC{0,20}",
        any::<String>(),
        "[\"\\\\\u{0}-\u{1f}]{0,8}",
    ]
}

fn any_name() -> impl Strategy<Value = String> {
    prop_oneof![3 => "[a-c]", 1 => "[\"\\\\ -~]{1,12}", 1 => "\\PC{1,12}"]
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<bool>().prop_map(Value::Boolean),
        any::<i64>().prop_map(Value::Integer),
        prop::num::f64::NORMAL.prop_map(Value::Double),
        prop_oneof![
            Just(0.0),
            Just(-0.0),
            Just(f64::MIN_POSITIVE / 2.0),
            Just(f64::MAX)
        ]
        .prop_map(Value::Double),
        any_text().prop_map(Value::Text),
        any_text().prop_map(|text| Value::Json(
            serde_json::json!({ "a": [text, null, 1.5] }).to_string()
        )),
    ]
}

prop_compose! {
    fn any_reading()(
        key in any_name(),
        value in any_value(),
        quality in prop_oneof![4 => Just(Quality::Good), 1 => Just(Quality::Uncertain), 1 => Just(Quality::Bad)],
        ms in prop_oneof![4 => 0u64..3, 1 => any::<u64>()],
    ) -> Option<Reading> {
        let key = Key::try_new(&key).ok()?;
        Some(Reading { key, value, quality, timestamp: TimestampMs(ms) })
    }
}

prop_compose! {
    fn any_batch()(
        devices in prop::collection::vec((any_name(), prop::collection::vec(any_reading(), 0..12)), 0..4),
    ) -> Uplink {
        let devices = devices.into_iter().filter_map(|(name, readings)| {
            let device = DeviceName::try_new(&name).ok()?;
            Some(DeviceReadings { device, readings: readings.into_iter().flatten().collect() })
        });
        Uplink::Telemetry(devices.collect())
    }
}

/// Device, time, key and value of everything that is said, in the order of keys.
fn said(payload: &[u8]) -> Vec<(String, u64, String, serde_json::Value)> {
    let devices: BTreeMap<String, Vec<serde_json::Value>> =
        serde_json::from_slice(payload).unwrap();
    let mut said = Vec::new();
    for (device, entries) in devices {
        for entry in entries {
            let ts = entry["ts"].as_u64().unwrap();
            for (key, value) in entry["values"].as_object().unwrap() {
                said.push((device.clone(), ts, key.clone(), value.clone()));
            }
        }
    }
    said
}

fn sorted(
    mut said: Vec<(String, u64, String, serde_json::Value)>,
) -> Vec<(String, u64, String, String)> {
    let mut sorted: Vec<_> = said
        .drain(..)
        .map(|(device, ts, key, value)| (device, ts, key, value.to_string()))
        .collect();
    sorted.sort();
    sorted
}

proptest! {
    #[test]
    fn a_payload_is_byte_for_byte_what_serde_json_writes(uplinks in prop::collection::vec(any_batch(), 1..6)) {
        let encoded = encode(&uplinks, 1 << 20);
        prop_assert_eq!(encoded.publishes.len(), 1);
        let written = String::from_utf8(encoded.publishes[0].payload.clone()).unwrap();
        prop_assert_eq!(written, reference(&uplinks));
    }

    #[test]
    fn divided_among_small_packets_everything_is_said_once(
        uplinks in prop::collection::vec(any_batch(), 1..6),
        limit in 300usize..900,
    ) {
        let encoded = encode(&uplinks, limit);
        let mut all = Vec::new();
        for publish in &encoded.publishes {
            prop_assert!(publish.payload.len() + 48 <= limit, "{} bytes", publish.payload.len());
            all.extend(said(&publish.payload));
        }
        for left_out in &encoded.left_out {
            for publish in &left_out.publishes {
                prop_assert!(publish.payload.len() + 48 > limit);
                all.extend(said(&publish.payload));
            }
        }
        prop_assert_eq!(sorted(all), sorted(said(reference(&uplinks).as_bytes())));
    }

    #[test]
    fn attributes_are_what_serde_json_reads(name in any_name(), values in prop::collection::vec((any_name(), any_value()), 0..8)) {
        let Ok(device) = DeviceName::try_new(&name) else { return Ok(()) };
        let values: Vec<_> = values
            .into_iter()
            .filter_map(|(key, value)| Some((Key::try_new(&key).ok()?, value)))
            .collect();
        let mut expected = serde_json::Map::new();
        for (key, value) in &values {
            let value = match value {
                Value::Boolean(truth) => (*truth).into(),
                Value::Integer(number) => (*number).into(),
                // Read by the same reader: the last digit of a double is its business.
                Value::Double(number) => {
                    serde_json::from_str(&serde_json::to_string(number).unwrap()).unwrap()
                }
                Value::Text(words) => words.clone().into(),
                Value::Json(document) => serde_json::from_str(document).unwrap(),
            };
            expected.insert(key.to_string(), value);
        }
        let encoded = encode(&[Uplink::Attributes { device, values }], 1 << 20);
        let written: serde_json::Value = serde_json::from_slice(&encoded.publishes[0].payload).unwrap();
        prop_assert_eq!(written, serde_json::json!({ name: expected }));
    }
}
