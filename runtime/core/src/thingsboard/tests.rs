use proptest::prelude::*;

use super::*;
use crate::message::{DeviceReadings, Quality, Reading};
use crate::time::TimestampMs;

mod identity;
mod written;

fn reading(key: &str, value: Value, ms: u64) -> Reading {
    Reading {
        key: Key::try_new(key).unwrap(),
        value,
        quality: Quality::Good,
        timestamp: TimestampMs(ms),
    }
}

fn device(name: &str) -> DeviceName {
    DeviceName::try_new(name).unwrap()
}

fn telemetry(name: &str, readings: Vec<Reading>) -> Uplink {
    Uplink::Telemetry(vec![DeviceReadings {
        device: device(name),
        readings,
    }])
}

fn encode(uplinks: &[Uplink], packet_bytes_max: usize) -> Encoded {
    let mut encoder = Encoder::new(packet_bytes_max);
    for (index, uplink) in uplinks.iter().enumerate() {
        encoder.push(Sequence(index as u64 + 1), uplink);
    }
    encoder.finish()
}

fn texts(encoded: &Encoded) -> Vec<(&str, String)> {
    encoded
        .publishes
        .iter()
        .map(|p| (p.topic, String::from_utf8(p.payload.clone()).unwrap()))
        .collect()
}

#[test]
fn readings_of_many_devices_share_a_publish_in_the_platform_format() {
    let encoded = encode(
        &[
            telemetry(
                "A",
                vec![
                    reading("k", Value::Integer(1), 10),
                    reading("m", Value::Double(2.5), 10),
                ],
            ),
            telemetry("B", vec![reading("on", Value::Boolean(true), 11)]),
            telemetry("A", vec![reading("k", Value::Text("x\"y".into()), 12)]),
        ],
        1024,
    );
    assert_eq!(
        texts(&encoded),
        [(
            "v1/gateway/telemetry",
            r#"{"A":[{"ts":10,"values":{"k":1,"m":2.5}},{"ts":12,"values":{"k":"x\"y"}}],"B":[{"ts":11,"values":{"on":true}}]}"#
                .to_owned()
        )]
    );
    assert_eq!(
        encoded.publishes[0].range,
        Some(SequenceRange {
            first: Sequence(1),
            last: Sequence(3)
        })
    );
    assert_eq!(encoded.publishes[0].readings, 4);
}

#[test]
fn a_repeated_key_at_the_same_time_opens_a_new_entry_and_loses_nothing() {
    let encoded = encode(
        &[telemetry(
            "A",
            vec![
                reading("k", Value::Integer(1), 10),
                reading("k", Value::Integer(2), 10),
            ],
        )],
        1024,
    );
    assert_eq!(
        texts(&encoded)[0].1,
        r#"{"A":[{"ts":10,"values":{"k":1}},{"ts":10,"values":{"k":2}}]}"#
    );
}

#[test]
fn a_reading_that_is_not_good_says_so() {
    let mut bad = reading("k", Value::Integer(1), 10);
    bad.quality = Quality::Bad;
    let encoded = encode(&[telemetry("A", vec![bad])], 1024);
    assert_eq!(
        texts(&encoded)[0].1,
        r#"{"A":[{"ts":10,"values":{"k":1,"k_quality":"bad"}}]}"#
    );
}

#[test]
fn other_messages_keep_their_place_between_telemetry() {
    let encoded = encode(
        &[
            Uplink::DeviceConnected {
                device: device("A"),
                profile: "press".into(),
            },
            telemetry("A", vec![reading("k", Value::Integer(1), 10)]),
            Uplink::Attributes {
                device: device("A"),
                values: vec![(Key::try_new("fw").unwrap(), Value::Text("1".into()))],
            },
            Uplink::RpcReply {
                device: device("A"),
                request_id: 7,
                body: r#"{"ok":true}"#.into(),
            },
            Uplink::DeviceDisconnected {
                device: device("A"),
            },
            Uplink::Gateway {
                timestamp: TimestampMs(9),
                values: vec![
                    (
                        Key::try_new("link_cause").unwrap(),
                        Value::Text("reset".into()),
                    ),
                    (Key::try_new("link_down_s").unwrap(), Value::Double(2.5)),
                ],
            },
            Uplink::GatewayAttributes {
                values: vec![(
                    Key::try_new("connector_press").unwrap(),
                    Value::Json(r#"{"version":"1.2.0"}"#.into()),
                )],
            },
        ],
        1024,
    );
    assert_eq!(
        texts(&encoded),
        [
            (
                "v1/gateway/connect",
                r#"{"device":"A","type":"press"}"#.to_owned()
            ),
            (
                "v1/gateway/telemetry",
                r#"{"A":[{"ts":10,"values":{"k":1}}]}"#.to_owned()
            ),
            ("v1/gateway/attributes", r#"{"A":{"fw":"1"}}"#.to_owned()),
            (
                "v1/gateway/rpc",
                r#"{"device":"A","id":7,"data":{"ok":true}}"#.to_owned()
            ),
            ("v1/gateway/disconnect", r#"{"device":"A"}"#.to_owned()),
            (
                "v1/devices/me/telemetry",
                r#"{"ts":9,"values":{"link_cause":"reset","link_down_s":2.5}}"#.to_owned()
            ),
            (
                "v1/devices/me/attributes",
                r#"{"connector_press":{"version":"1.2.0"}}"#.to_owned()
            ),
        ]
    );
}

#[test]
fn a_reading_no_packet_can_carry_is_reported_and_the_rest_goes_on() {
    let encoded = encode(
        &[telemetry(
            "A",
            vec![
                reading("big", Value::Text("x".repeat(4096)), 1),
                reading("k", Value::Integer(1), 2),
            ],
        )],
        1024,
    );
    assert_eq!(encoded.left_out.len(), 1);
    assert_eq!(encoded.left_out[0].readings(), 1);
    assert_eq!(texts(&encoded)[0].1, r#"{"A":[{"ts":2,"values":{"k":1}}]}"#);
}

#[test]
fn an_oversize_message_alone_still_moves_the_cursor() {
    let encoded = encode(
        &[telemetry(
            "A",
            vec![reading("big", Value::Text("x".repeat(4096)), 1)],
        )],
        1024,
    );
    assert_eq!(
        texts(&encoded)[0].1,
        "{}",
        "an empty publish carries the acknowledgement"
    );
    assert_eq!(
        encoded.publishes[0].range,
        Some(SequenceRange {
            first: Sequence(1),
            last: Sequence(1)
        })
    );
}

#[test]
fn a_new_session_announces_devices_that_are_connected() {
    let mut announced = Announced::default();
    announced.observe(&Uplink::DeviceConnected {
        device: device("A"),
        profile: String::new(),
    });
    announced.observe(&Uplink::DeviceConnected {
        device: device("B"),
        profile: String::new(),
    });
    announced.observe(&Uplink::DeviceDisconnected {
        device: device("A"),
    });
    let payloads: Vec<_> = announced
        .announcements(&mut Opened::default())
        .map(|p| String::from_utf8(p.payload).unwrap())
        .collect();
    assert_eq!(payloads, [r#"{"device":"B"}"#]);
}

#[test]
fn rpc_and_attributes_come_down() {
    assert_eq!(
        decode(
            "v1/gateway/rpc",
            br#"{"device":"A","data":{"id":1,"method":"m","params":{"x":[1, 2]}}}"#
        )
        .unwrap(),
        Downlink::Rpc {
            device: device("A"),
            request_id: 1,
            method: "m".into(),
            params: r#"{"x":[1, 2]}"#.into()
        }
    );
    assert_eq!(
        decode(
            "v1/gateway/attributes",
            br#"{"device":"A","data":{"k":1,"f":1.5,"t":"x"}}"#
        )
        .unwrap(),
        Downlink::SharedAttributes {
            device: device("A"),
            changed: vec![
                (Key::try_new("f").unwrap(), Value::Double(1.5)),
                (Key::try_new("k").unwrap(), Value::Integer(1)),
                (Key::try_new("t").unwrap(), Value::Text("x".into())),
            ],
            deleted: vec![],
        }
    );
    assert_eq!(
        decode(
            "v1/gateway/attributes",
            br#"{"device":"A","data":{"deleted":["k"]}}"#
        )
        .unwrap(),
        Downlink::SharedAttributes {
            device: device("A"),
            changed: vec![],
            deleted: vec![Key::try_new("k").unwrap()]
        }
    );
}

fn shaped(uplinks: &[Uplink], readings_max: u32, cost_max: Cost) -> Encoded {
    let shape = Shape {
        readings_max,
        cost_max,
        ..Shape::of_packets(64 * 1024)
    };
    let mut encoder = Encoder::shaped(shape, Opened::default());
    for (index, uplink) in uplinks.iter().enumerate() {
        encoder.push(Sequence(index as u64 + 1), uplink);
    }
    encoder.finish()
}

fn costs(encoded: &Encoded) -> Vec<(u32, u32, u32)> {
    let of = |cost: Cost| {
        (
            cost.messages,
            cost.telemetry_messages,
            cost.telemetry_points,
        )
    };
    encoded.publishes.iter().map(|p| of(p.cost)).collect()
}

#[test]
fn a_publish_counts_as_the_platform_counts_it() {
    let mut bad = reading("k", Value::Integer(1), 10);
    bad.quality = Quality::Bad;
    let name = device("A");
    let values = vec![(Key::try_new("model").unwrap(), Value::Integer(1))];
    let encoded = encode(
        &[
            telemetry("A", vec![bad, reading("m", Value::Integer(1), 10)]),
            telemetry("B", vec![reading("k", Value::Integer(1), 10)]),
            Uplink::Attributes {
                device: name.clone(),
                values: values.clone(),
            },
            Uplink::DeviceDisconnected {
                device: name.clone(),
            },
            Uplink::RpcReply {
                device: name,
                request_id: 1,
                body: "1".into(),
            },
            Uplink::Gateway {
                timestamp: TimestampMs(1),
                values,
            },
        ],
        1024,
    );
    let expected = [(4, 2, 4), (0, 1, 1), (1, 0, 0), (3, 0, 0), (0, 1, 1)];
    assert_eq!(costs(&encoded), expected);
    let scopes: Vec<_> = encoded.publishes.iter().map(|p| p.cost.scope).collect();
    assert_eq!(scopes[4], limits::Scope::Own);
    assert!(
        scopes[..4]
            .iter()
            .all(|scope| *scope == limits::Scope::Devices)
    );
}

#[test]
fn a_publish_is_closed_before_it_counts_as_more_than_may_go_at_once() {
    let readings = |n: i64| {
        (0..n)
            .map(|i| reading("k", Value::Integer(i), i.unsigned_abs()))
            .collect()
    };
    let most = |telemetry_messages, telemetry_points| Cost {
        telemetry_messages,
        telemetry_points,
        ..Cost::UNBOUNDED
    };
    let one = [telemetry("A", readings(25))];
    let encoded = shaped(&one, u32::MAX, most(9, 10));
    assert_eq!(costs(&encoded), [(2, 1, 10), (0, 1, 10), (0, 1, 5)]);
    let ends: Vec<_> = encoded
        .publishes
        .iter()
        .map(|p| p.range.unwrap().last.0)
        .collect();
    assert_eq!(ends, [0, 0, 1], "only the last part settles the message");
    let encoded = shaped(&one, 7, Cost::UNBOUNDED);
    let readings_of: Vec<_> = encoded.publishes.iter().map(|p| p.readings).collect();
    assert_eq!(readings_of, [7, 7, 7, 4]);
    let many: Vec<_> = ["A", "B", "C"]
        .map(|name| telemetry(name, readings(1)))
        .into();
    assert_eq!(costs(&shaped(&many, 9, most(2, 9))), [(4, 2, 2), (2, 1, 1)]);
    let mut doubled = reading("k", Value::Integer(1), 10);
    doubled.quality = Quality::Uncertain;
    let encoded = shaped(&[telemetry("A", vec![doubled])], 9, most(1, 1));
    assert_eq!(costs(&encoded), [(2, 1, 2)], "alone it goes");
}

#[test]
fn what_is_complete_can_be_taken_while_the_next_publish_is_filled() {
    let mut encoder = Encoder::shaped(
        Shape {
            readings_max: 2,
            ..Shape::of_packets(1024)
        },
        Opened::default(),
    );
    for sequence in 1..=3 {
        let ms = sequence * 10;
        encoder.push(
            Sequence(sequence),
            &telemetry("A", vec![reading("k", Value::Integer(1), ms)]),
        );
    }
    let taken = encoder.take();
    assert_eq!(taken.publishes.len(), 1);
    assert!(encoder.is_filling());
    encoder.close();
    assert!(!encoder.is_filling());
    let rest = encoder.take();
    assert_eq!(rest.publishes[0].range.unwrap().last, Sequence(3));
    assert_eq!(encoder.into_opened().opening(&device("A")).messages, 0);
}

#[test]
fn what_came_back_to_us_is_no_request() {
    let ours = [
        (
            "v1/gateway/rpc",
            r#"{"device":"A","id":7,"data":{"success":true}}"#,
        ),
        ("v1/gateway/rpc", r#"{"device":"A","id":7,"data":"x"}"#),
        ("v1/gateway/attributes", r#"{"A":{"model":"X"},"B":{}}"#),
        ("v1/gateway/attributes", r#"{"device":{"model":"X"}}"#),
    ];
    for (topic, payload) in ours {
        let came_back = decode(topic, payload.as_bytes());
        assert!(matches!(came_back, Err(DecodeError::Echo)), "{payload}");
    }
}

#[test]
fn bad_downlinks_are_told_apart() {
    assert!(matches!(decode("x", b"{}"), Err(DecodeError::Topic(_))));
    assert!(matches!(
        decode("v1/gateway/rpc", b"{"),
        Err(DecodeError::Payload(_))
    ));
    assert!(matches!(
        decode(
            "v1/gateway/rpc",
            br#"{"device":"","data":{"id":1,"method":"m"}}"#
        ),
        Err(DecodeError::Name(NameError::Empty))
    ));
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<bool>().prop_map(Value::Boolean),
        any::<i64>().prop_map(Value::Integer),
        (-1e300..1e300f64).prop_map(Value::Double),
        ".{0,40}".prop_map(Value::Text),
    ]
}

prop_compose! {
    fn any_record()(
        name in "[a-d]",
        entries in prop::collection::vec(("[k-n]", any_value(), 0u64..4), 0..8),
    ) -> Uplink {
        telemetry(&name, entries.into_iter().map(|(key, value, ms)| reading(&key, value, ms)).collect())
    }
}

proptest! {
    #[test]
    fn every_reading_arrives_once_in_order_within_the_limit(records in prop::collection::vec(any_record(), 1..20), limit in 400usize..2000) {
        let encoded = encode(&records, limit);
        let mut arrived: BTreeMap<String, Vec<(u64, String, serde_json::Value)>> = BTreeMap::new();
        let mut cursor = 0;
        for publish in &encoded.publishes {
            prop_assert!(publish.payload.len() <= limit);
            let range = publish.range.unwrap();
            // Parts of a message all begin with it; the one that carries its end names it as its last.
            prop_assert!(range.first.0 == cursor + 1 && range.last.0 + 1 >= range.first.0);
            cursor = range.last.0;
            let json: BTreeMap<String, Vec<serde_json::Value>> = serde_json::from_slice(&publish.payload).unwrap();
            for (name, entries) in json {
                for entry in entries {
                    let ts = entry["ts"].as_u64().unwrap();
                    // serde_json's map sorts keys; order within one entry carries no meaning: same time, distinct keys.
                    for (key, value) in entry["values"].as_object().unwrap() {
                        arrived.entry(name.clone()).or_default().push((ts, key.clone(), value.clone()));
                    }
                }
            }
        }
        prop_assert_eq!(cursor, records.len() as u64);
        let mut expected: BTreeMap<String, Vec<(u64, String)>> = BTreeMap::new();
        for record in &records {
            let Uplink::Telemetry(devices) = record else { unreachable!() };
            for d in devices {
                for r in &d.readings {
                    expected.entry(d.device.to_string()).or_default().push((r.timestamp.0, r.key.to_string()));
                }
            }
        }
        for (name, readings) in expected {
            let mut sent: Vec<_> = arrived.remove(&name).unwrap_or_default().into_iter().map(|(ts, key, _)| (ts, key)).collect();
            for key in ["k", "l", "m", "n"] {
                let of_key = |list: &[(u64, String)]| list.iter().filter(|(_, k)| k == key).cloned().collect::<Vec<_>>();
                prop_assert_eq!(of_key(&sent), of_key(&readings));
            }
            sent.sort();
            let mut readings = readings;
            readings.sort();
            prop_assert_eq!(sent, readings);
        }
        prop_assert!(arrived.is_empty());
    }

    #[test]
    fn decoding_never_panics(topic in "v1/gateway/(rpc|attributes)", payload in prop::collection::vec(any::<u8>(), 0..200)) {
        let outcome = decode(&topic, &payload);
        prop_assert!(outcome.is_err() || !outcome.unwrap().device().as_str().is_empty());
    }
}
