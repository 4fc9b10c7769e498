//! A real Modbus device of another make, through the connector, to a subscriber and back.

use std::time::Duration;

use moorline::demo::broker::Broker;
use moorline_tests::configuration::Configuration;
use moorline_tests::device::Device;
use moorline_tests::plugins::{Guest, Place};
use moorline_tests::rig::Running;
use moorline_tests::subscriber::{Message, Subscriber};
use moorline_tests::{mosquitto, python};
use serde_json::json;

const DEADLINE: Duration = Duration::from_secs(30);
const TELEMETRY: &str = "v1/gateway/telemetry";

struct Plant {
    device: Device,
    platform: Subscriber,
    running: Running,
    _broker: Broker,
    _directory: tempfile::TempDir,
}

async fn plant() -> Option<Plant> {
    let (kind, python) = (mosquitto()?, python()?);
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::start(kind, &directory.path().join("broker"))
        .await
        .unwrap();
    let platform = Subscriber::start(broker.address(), "v1/gateway/#").await;
    let device = Device::start(&python).await;
    let place = Place::stock(directory.path().join("modbus.wasm"), Guest::MODBUS);
    let state_dir = directory.path().join("state");
    let configuration = Configuration::new(&state_dir, broker.address()).modbus(
        "modbus",
        place.path(),
        device.address(),
    );
    let running = Running::start(directory.path(), &state_dir, &configuration);
    Some(Plant {
        device,
        platform,
        running,
        _broker: broker,
        _directory: directory,
    })
}

fn has_counter(message: &Message) -> bool {
    message.topic == TELEMETRY && message.json()["press-1"][0]["values"]["counter"].is_u64()
}

#[tokio::test]
async fn telemetry_has_thingsboards_exact_format() {
    let Some(plant) = plant().await else { return };
    let connect = plant
        .platform
        .first("the device is announced", DEADLINE, |message| {
            message.topic == "v1/gateway/connect"
        })
        .await;
    assert_eq!(connect.json()["device"], "press-1");
    let message = plant
        .platform
        .first("telemetry arrives", DEADLINE, has_counter)
        .await;
    assert_eq!(message.qos, 1);
    let document = message.json();
    let devices = document.as_object().unwrap();
    assert_eq!(devices.keys().collect::<Vec<_>>(), ["press-1"]);
    for entry in devices["press-1"].as_array().unwrap() {
        let entry = entry.as_object().unwrap();
        assert_eq!(
            entry.keys().collect::<Vec<_>>(),
            ["ts", "values"],
            "{document}"
        );
        // A time in milliseconds of this century.
        assert!(
            (1_700_000_000_000..4_000_000_000_000).contains(&entry["ts"].as_u64().unwrap()),
            "{document}"
        );
        assert_eq!(entry["values"]["fixed"], json!(1234), "{document}");
        assert_eq!(entry["values"]["negative"], json!(-10), "{document}");
        assert_eq!(entry["values"]["float"], json!(3.5), "{document}");
    }
    // Exactly these bytes: no spaces, ThingsBoard's key order.
    let text = String::from_utf8(message.payload.to_vec()).unwrap();
    assert!(text.starts_with(r#"{"press-1":[{"ts":"#), "{text}");
}

#[tokio::test]
async fn an_rpc_writes_a_register_and_answers() {
    let Some(plant) = plant().await else { return };
    plant
        .platform
        .first("telemetry arrives", DEADLINE, has_counter)
        .await;
    let request = json!({
        "device": "press-1",
        "data": { "id": 41, "method": "write", "params": { "key": "setpoint", "value": 77 } },
    });
    plant.platform.publish("v1/gateway/rpc", &request).await;
    let reply = |message: &Message| {
        message.topic == "v1/gateway/rpc" && message.json()["data"]["method"].is_null()
    };
    let reply = plant
        .platform
        .first("the reply comes", DEADLINE, reply)
        .await
        .json();
    assert_eq!(
        (&reply["device"], &reply["id"]),
        (&json!("press-1"), &json!(41)),
        "{reply}"
    );
    assert_eq!(reply["data"]["success"], json!(true), "{reply}");
    assert_eq!(
        plant.device.said().writes,
        [(12, vec![77])],
        "written once, at the device"
    );
    let read_back =
        |message: &Message| message.json()["press-1"][0]["values"]["setpoint"] == json!(77);
    plant
        .platform
        .first("the new value is read", DEADLINE, read_back)
        .await;
    assert_eq!(plant.device.said().sessions, 1);
    assert!(plant.running.gateway.pid().is_some());
}
