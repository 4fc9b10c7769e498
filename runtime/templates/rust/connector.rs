//! A device behind TCP that is asked by a line and answers with one: polls it, emits what it says.

use std::time::Duration;

use moorline_plugin_sdk::{
    Connector, Description, DeviceReadings, Event, Fault, FrameRule, HandOver, Host, Quality, Reading, Setup, Value,
    Wake, configuration, export_connector,
};
use serde::Deserialize;

const SCHEMA: &str = r#"{
  "type": "object", "required": ["device", "poll_ms"], "additionalProperties": false,
  "properties": {"device": {"type": "string", "minLength": 1}, "poll_ms": {"type": "integer", "minimum": 10}}
}"#;
const HAND_OVER_SCHEMA: u32 = 1;
const TIMEOUT_MS: u32 = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Configuration {
    device: String,
    poll_ms: u32,
}

struct Lines {
    configuration: Configuration,
    stream: String,
    /// Read, and not yet taken by the host.
    unsent: Option<f64>,
    /// What was read last.
    last: Option<f64>,
}

impl Connector for Lines {
    fn describe() -> Description {
        Description {
            name: "{{name}}".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            configuration_schema: SCHEMA.into(),
            hand_over_schema: HAND_OVER_SCHEMA,
        }
    }

    fn start(setup: Setup, host: &mut dyn Host) -> Result<(Self, Wake), Fault> {
        let configuration: Configuration = configuration(&setup)?;
        if configuration.device.is_empty() || configuration.poll_ms < 10 {
            return Err(Fault::Configuration("device needs a name, poll_ms at least 10".into()));
        }
        let Some(stream) = setup.granted_streams.first().cloned() else {
            return Err(Fault::Configuration("a [[connector.connection]] with a stream is needed".into()));
        };
        let unsent = setup.hand_over.map_or(Ok(None), taken_over)?;
        host.open(&stream).map_err(|error| Fault::Device(format!("{error:?}")))?;
        host.device_connected(&configuration.device, "").map_err(|error| Fault::Internal(format!("{error:?}")))?;
        let connector = Self { configuration, stream, unsent, last: unsent };
        // The first timer comes at once.
        Ok((connector, Some(Duration::ZERO)))
    }

    fn handle(&mut self, event: Event, host: &mut dyn Host) -> Result<Wake, Fault> {
        match event {
            Event::Timer => self.poll(host),
            Event::Rpc(request) => {
                let answer = serde_json::json!({ "last": self.last }).to_string();
                host.reply(request.id, &answer).map_err(|error| Fault::Internal(format!("{error:?}")))?;
                Ok(None)
            }
            // None leaves the timer as it is.
            _ => Ok(None),
        }
    }

    fn stop(&mut self, _host: &mut dyn Host) -> HandOver {
        HandOver { schema: HAND_OVER_SCHEMA, bytes: serde_json::to_vec(&self.unsent).unwrap_or_default() }
    }
}

impl Lines {
    fn poll(&mut self, host: &mut dyn Host) -> Result<Wake, Fault> {
        let value = match self.unsent {
            Some(value) => value,
            None => self.read(host)?,
        };
        self.last = Some(value);
        let reading = Reading { key: "value".into(), value: Value::Double(value), quality: Quality::Good, timestamp: None };
        let batch = [DeviceReadings { device: self.configuration.device.clone(), readings: vec![reading] }];
        match host.emit(&batch) {
            Ok(()) => {
                self.unsent = None;
                Ok(Some(Duration::from_millis(self.configuration.poll_ms.into())))
            }
            Err(refusal) => {
                // The same reading again, when the host says. One that is refused will never be taken: its operator reads why.
                let again = refusal.retry_after();
                self.unsent = again.map(|_| value);
                again.map(Some).ok_or_else(|| Fault::Internal(format!("{refusal:?}")))
            }
        }
    }

    fn read(&self, host: &mut dyn Host) -> Result<f64, Fault> {
        let device = |error: &dyn std::fmt::Debug| Fault::Device(format!("{error:?}"));
        // A closed stream is dialled again.
        let stream = host.open(&self.stream).map_err(|error| device(&error))?;
        let line = FrameRule::Delimited(b"\n".to_vec());
        let answer = host.exchange(stream, b"READ?\n", &line, TIMEOUT_MS).map_err(|error| device(&error))?;
        number(&answer).ok_or_else(|| device(&String::from_utf8_lossy(&answer)))
    }
}

fn number(answer: &[u8]) -> Option<f64> {
    let value: f64 = std::str::from_utf8(answer).ok()?.trim().parse().ok()?;
    value.is_finite().then_some(value)
}

/// The reading that the generation before could not get rid of.
fn taken_over(hand_over: HandOver) -> Result<Option<f64>, Fault> {
    if hand_over.schema != HAND_OVER_SCHEMA {
        return Err(Fault::HandOver(format!("schema {} is not {HAND_OVER_SCHEMA}", hand_over.schema)));
    }
    serde_json::from_slice(&hand_over.bytes).map_err(|error| Fault::HandOver(error.to_string()))
}

export_connector!(Lines);

#[cfg(test)]
mod tests {
    use moorline_plugin_sdk::{EmitError, FakeHost, RpcRequest};

    use super::*;

    #[test]
    fn what_the_host_does_not_take_is_offered_again() {
        let mut host = FakeHost { streams: vec!["device".into()], ..FakeHost::default() };
        let mut setup = FakeHost::setup(r#"{"device": "d-1", "poll_ms": 1000}"#);
        setup.granted_streams = vec!["device".into()];
        let (mut connector, _wake) = Lines::start(setup, &mut host).unwrap();
        host.responses.push_back(Ok(b"21.5\n".to_vec()));
        host.emit_answers.push_back(Err(EmitError::BackPressure(50)));
        assert_eq!(connector.handle(Event::Timer, &mut host).unwrap(), Some(Duration::from_millis(50)));
        connector.handle(Event::Timer, &mut host).unwrap();
        assert_eq!(host.emitted[0][0].readings[0].value, Value::Double(21.5));
        let request = RpcRequest { id: 7, device: "d-1".into(), method: "get".into(), params: "{}".into() };
        connector.handle(Event::Rpc(request), &mut host).unwrap();
        assert_eq!(host.replies, [(7, r#"{"last":21.5}"#.to_owned())]);
    }

    #[test]
    fn what_the_host_refuses_is_not_offered_again() {
        let mut host = FakeHost { streams: vec!["device".into()], ..FakeHost::default() };
        let mut setup = FakeHost::setup(r#"{"device": "d-1", "poll_ms": 1000}"#);
        setup.granted_streams = vec!["device".into()];
        let (mut connector, _wake) = Lines::start(setup, &mut host).unwrap();
        host.responses.push_back(Ok(b"21.5\n".to_vec()));
        host.emit_answers.push_back(Err(EmitError::Refused("not today".into())));
        let fault = connector.handle(Event::Timer, &mut host).unwrap_err();
        assert!(matches!(fault, Fault::Internal(why) if why.contains("not today")));
        host.responses.push_back(Ok(b"22\n".to_vec()));
        connector.handle(Event::Timer, &mut host).unwrap();
        assert_eq!(host.emitted[0][0].readings[0].value, Value::Double(22.0));
    }

    #[test]
    fn garbage_is_no_number() {
        assert_eq!(number(b"21.5\r\n"), Some(21.5));
        for garbage in [&b"\n"[..], b"nan\n", b"\xff\n"] {
            assert_eq!(number(garbage), None);
        }
    }
}
