use moorline_plugin_sdk::FakeHost;
use serde_json::json;

use super::*;

const CONFIGURATION: &str = r#"{
  "poll_ms": 100,
  "devices": [
    {"name": "press", "unit": 1, "points": [
      {"key": "counter", "address": 0, "type": "u32"},
      {"key": "temperature", "address": 2, "type": "i16", "scale": 0.1},
      {"key": "setpoint", "address": 10, "writable": true}]},
    {"name": "pump", "unit": 2, "points": [{"key": "on", "register": "coil", "address": 3, "writable": true}]}
  ]
}"#;

fn setup(hand_over: Option<HandOver>) -> Setup {
    Setup {
        granted_streams: vec!["plc".into()],
        hand_over,
        ..FakeHost::setup(CONFIGURATION)
    }
}

fn host() -> FakeHost {
    FakeHost {
        streams: vec!["plc".into()],
        ..FakeHost::default()
    }
}

fn response(transaction: u16, unit: u8, function: u8, data: &[u8]) -> Result<Vec<u8>, StreamError> {
    let mut frame = transaction.to_be_bytes().to_vec();
    frame.extend_from_slice(&[0, 0]);
    frame.extend_from_slice(&(data.len() as u16 + 2).to_be_bytes());
    frame.extend_from_slice(&[unit, function]);
    frame.extend_from_slice(data);
    Ok(frame)
}

/// Registers 0..11 of the press: counter 70000, temperature 21.5, setpoint 7.
fn press(transaction: u16) -> Result<Vec<u8>, StreamError> {
    let mut data = vec![22];
    for register in [1u16, 4464, 215, 0, 0, 0, 0, 0, 0, 0, 7] {
        data.extend_from_slice(&register.to_be_bytes());
    }
    response(transaction, 1, 3, &data)
}

fn pump(transaction: u16) -> Result<Vec<u8>, StreamError> {
    response(transaction, 2, 1, &[1, 1])
}

#[test]
fn a_poll_reads_neighbours_at_once_and_announces_the_device_first() {
    let mut host = host();
    let (mut connector, _) = ModbusTcp::start(setup(None), &mut host).unwrap();
    host.responses.extend([press(1), pump(2)]);
    connector.handle(Event::Timer, &mut host).unwrap();
    let wake = connector.handle(Event::Timer, &mut host).unwrap();
    assert_eq!(wake, Some(Duration::from_millis(100)));
    assert_eq!(host.devices.keys().collect::<Vec<_>>(), ["press", "pump"]);
    let keys: Vec<_> = host
        .emitted
        .iter()
        .flatten()
        .flat_map(|d| d.readings.iter().map(|r| (r.key.as_str(), r.value.clone())))
        .collect();
    assert_eq!(
        keys,
        [
            ("counter", Value::Integer(70_000)),
            ("temperature", Value::Double(21.5)),
            ("setpoint", Value::Integer(7)),
            ("on", Value::Boolean(true)),
        ]
    );
    assert_eq!(host.sent.len(), 2, "one request a device");
}

#[test]
fn a_dead_device_is_left_alone_more_and_more_and_the_other_goes_on() {
    let mut host = host();
    let (mut connector, _) = ModbusTcp::start(setup(None), &mut host).unwrap();
    let (mut press_asked, mut pump_asked) = (0, 0);
    for _ in 0..2000 {
        let before = host.sent.len();
        let transaction = connector.transaction.wrapping_add(1);
        host.responses = [
            if connector
                .next_block()
                .is_some_and(|index| connector.blocks[index].device == 1)
            {
                pump(transaction)
            } else {
                Err(StreamError::Timeout)
            },
        ]
        .into();
        connector.handle(Event::Timer, &mut host).unwrap();
        if let Some((_, request)) = host.sent.get(before) {
            if request[6] == 1 {
                press_asked += 1
            } else {
                pump_asked += 1
            }
        }
        host.advance(10.0);
    }
    assert!(
        pump_asked >= 195,
        "{pump_asked} polls of the living device in 20 s at 100 ms"
    );
    assert!(press_asked <= 10, "{press_asked} polls of the dead one");
    assert_eq!(host.devices.keys().collect::<Vec<_>>(), ["pump"]);
    assert_eq!(host.log.len(), 1, "said once: {:?}", host.log);
}

#[test]
fn what_the_host_does_not_take_survives_a_swap() {
    let mut host = host();
    let (mut connector, _) = ModbusTcp::start(setup(None), &mut host).unwrap();
    host.responses.push_back(press(1));
    host.emit_answers
        .push_back(Err(EmitError::BackPressure(40)));
    assert_eq!(
        connector.handle(Event::Timer, &mut host).unwrap(),
        Some(Duration::from_millis(40))
    );
    assert!(host.emitted.is_empty());
    let hand_over = connector.stop(&mut host);
    let (mut next, _) = ModbusTcp::start(setup(Some(hand_over)), &mut host).unwrap();
    host.responses.push_back(pump(2));
    next.handle(Event::Timer, &mut host).unwrap();
    assert_eq!(host.emitted[0][0].readings[0].value, Value::Integer(70_000));
    assert_eq!(
        host.emitted[1][0].device, "pump",
        "the press is not due again: nothing is read twice"
    );
}

#[test]
fn a_late_answer_is_skipped_and_not_taken_for_the_new_one() {
    let mut host = host();
    let (mut connector, _) = ModbusTcp::start(setup(None), &mut host).unwrap();
    connector.transaction = 9;
    host.responses.extend([press(9), press(10)]);
    connector.handle(Event::Timer, &mut host).unwrap();
    assert_eq!(host.emitted.len(), 1);
    assert!(host.sent[1].1.is_empty(), "the second exchange only waits");
}

#[test]
fn a_hole_in_the_address_space_splits_the_read() {
    let mut host = host();
    let (mut connector, _) = ModbusTcp::start(setup(None), &mut host).unwrap();
    host.responses.push_back(response(1, 1, 0x83, &[2]));
    connector.handle(Event::Timer, &mut host).unwrap();
    assert_eq!(
        connector
            .blocks
            .iter()
            .filter(|block| block.device == 0)
            .count(),
        3
    );
}

fn rpc(method: &str, params: &serde_json::Value) -> Event {
    Event::Rpc(RpcRequest {
        id: 5,
        device: "press".into(),
        method: method.into(),
        params: params.to_string(),
    })
}

#[test]
fn rpc_writes_reads_and_refuses() {
    let mut host = host();
    let (mut connector, _) = ModbusTcp::start(setup(None), &mut host).unwrap();
    host.responses.push_back(response(1, 1, 6, &[0, 10, 0, 77]));
    connector
        .handle(
            rpc("write", &json!({"key": "setpoint", "value": 77})),
            &mut host,
        )
        .unwrap();
    assert_eq!(host.replies.pop(), Some((5, r#"{"success":true}"#.into())));
    assert_eq!(host.sent[0].1[7..], [6, 0, 10, 0, 77]);
    host.responses.push_back(response(2, 1, 3, &[2, 0, 77]));
    connector
        .handle(rpc("read", &json!({"key": "setpoint"})), &mut host)
        .unwrap();
    assert_eq!(
        host.replies.pop(),
        Some((5, r#"{"success":true,"value":77}"#.into()))
    );
    for (method, params, why) in [
        (
            "write",
            json!({"key": "counter", "value": 1}),
            "not writable",
        ),
        (
            "write",
            json!({"key": "setpoint", "value": 70000}),
            "does not fit",
        ),
        (
            "write",
            json!({"key": "nothing", "value": 1}),
            "there is no point",
        ),
        ("reboot", json!(null), "is not one of"),
        (
            "writeRaw",
            json!({"register": "input", "address": 0, "values": [1]}),
            "only coils and holding",
        ),
    ] {
        connector.handle(rpc(method, &params), &mut host).unwrap();
        let (_, body) = host.replies.pop().unwrap();
        assert!(
            body.contains(why) && body.contains("\"success\":false"),
            "{method}: {body}"
        );
    }
}

#[test]
fn a_configuration_that_cannot_work_names_device_and_point() {
    let mut host = host();
    for (text, why) in [
        (r#"{"devices": []}"#, "there is none"),
        (
            r#"{"devices": [{"name": "a", "points": [{"key": "k", "address": 0, "type": "bool"}]}]}"#,
            r#"device "a", point "k": a bool in a register needs `bit`"#,
        ),
        (
            r#"{"devices": [{"name": "a", "points": [{"key": "k", "adress": 0}]}]}"#,
            "unknown field `adress`",
        ),
        (
            r#"{"devices": [{"name": "a", "points": [{"key": "k", "register": "input", "address": 0, "writable": true}]}]}"#,
            "writable",
        ),
    ] {
        let setup = Setup {
            granted_streams: vec!["plc".into()],
            ..FakeHost::setup(text)
        };
        match ModbusTcp::start(setup, &mut host) {
            Err(Fault::Configuration(message)) => assert!(message.contains(why), "{message}"),
            Err(other) => panic!("{other:?}"),
            Ok(_) => panic!("accepted {text}"),
        }
    }
}
