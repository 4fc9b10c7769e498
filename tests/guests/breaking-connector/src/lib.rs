//! A connector that keeps every rule of the contract but the one its script names: what `moorline plugin test` must find.
//!
//! Left alone it asks its device for a line every 20 ms and emits what it answers. The words of `SCRIPT`, which a test
//! overwrites in the finished component, break one rule each.

use std::cell::Cell;
use std::hint::black_box;
use std::time::Duration;

use moorline_plugin_sdk::{
    Connector, Description, DeviceReadings, EmitError, Event, Fault, FrameRule, HandOver, Host,
    Quality, Reading, Setup, Value, Wake, export_connector,
};

/// `SCRIPT:` and words, separated and filled up by spaces.
#[used]
static SCRIPT: [u8; 128] = *b"SCRIPT:                                                                                                                         ";

const PERIOD: Duration = Duration::from_millis(20);
const SCHEMA: &str = r#"{"type":"object","required":["device"],"additionalProperties":false,"properties":{"device":{"type":"string"}}}"#;
const HAND_OVER_SCHEMA: u32 = 3;

thread_local! {
    static DESCRIBED: Cell<u32> = const { Cell::new(0) };
}

fn breaks(word: &str) -> bool {
    String::from_utf8_lossy(black_box(&SCRIPT))
        .strip_prefix("SCRIPT:")
        .unwrap_or_default()
        .split_whitespace()
        .any(|w| w == word)
}

struct Breaking {
    device: String,
    stream: String,
    count: u8,
    unsent: Option<f64>,
}

/// The name in `{"device":"NAME"}`, and nothing else.
fn device(configuration: &str) -> Option<String> {
    let rest = configuration.strip_prefix("{\"device\":\"")?;
    let name = rest.strip_suffix("\"}")?;
    (!name.is_empty() && !name.contains('"')).then(|| name.to_owned())
}

impl Connector for Breaking {
    fn describe() -> Description {
        DESCRIBED.set(DESCRIBED.get() + 1);
        let version = if breaks("version") {
            "first".to_owned()
        } else if breaks("describe") {
            format!("1.0.{}", DESCRIBED.get())
        } else {
            "1.0.0".to_owned()
        };
        Description {
            name: "breaking".into(),
            version,
            configuration_schema: SCHEMA.into(),
            hand_over_schema: HAND_OVER_SCHEMA,
        }
    }

    fn start(setup: Setup, host: &mut dyn Host) -> Result<(Self, Wake), Fault> {
        let device = match device(&setup.configuration) {
            Some(device) => device,
            None if breaks("configuration-taken") => "anything".to_owned(),
            None if breaks("configuration-trap") => panic!("no device"),
            None => return Err(Fault::Configuration("device: a name is needed".into())),
        };
        let unsent = match setup.hand_over {
            None => None,
            Some(other) if other.schema != HAND_OVER_SCHEMA && !breaks("schema") => {
                return Err(Fault::HandOver(format!("schema {}", other.schema)));
            }
            Some(HandOver { bytes, .. }) => match <[u8; 9]>::try_from(bytes) {
                Ok([1, value @ ..]) => Some(f64::from_le_bytes(value)),
                Ok(_) | Err(_) if breaks("schema") => None,
                Ok([0, ..]) => None,
                Ok(_) | Err(_) if breaks("hand-over") => panic!("not my bytes"),
                Ok(_) | Err(_) => return Err(Fault::HandOver("not my bytes".into())),
            },
        };
        let Some(stream) = setup.granted_streams.first().cloned() else {
            return Err(Fault::Configuration("a stream is needed".into()));
        };
        host.open(&stream)
            .map_err(|error| Fault::Device(format!("{error:?}")))?;
        host.device_connected(&device, "")
            .map_err(|error| Fault::Internal(format!("{error:?}")))?;
        let started = Self {
            device,
            stream,
            count: 0,
            unsent,
        };
        Ok((started, (!breaks("idle")).then_some(PERIOD)))
    }

    fn handle(&mut self, event: Event, host: &mut dyn Host) -> Result<Wake, Fault> {
        match event {
            Event::Timer if breaks("restless") => Ok(Some(Duration::ZERO)),
            Event::Timer => self.poll(host),
            Event::Rpc(request) if breaks("rpc") => {
                drop(request);
                Ok(None)
            }
            Event::Rpc(request) => {
                drop(host.reply(request.id, "{\"error\":\"no methods\"}"));
                Ok(None)
            }
            Event::AttributesChanged(update) if breaks("attributes") => {
                // The first one, whether there is one or not.
                drop(black_box(update.changed[0].key.clone()));
                Ok(None)
            }
            Event::LinkChanged(state) if breaks("link") => {
                let down = format!("{state:?}").contains("Down");
                self.count = self.count.saturating_add(u8::from(down) * 200);
                Ok(None)
            }
            Event::StreamConnected(_)
            | Event::StreamData(_)
            | Event::StreamClosed(_)
            | Event::AttributesChanged(_)
            | Event::LinkChanged(_) => Ok(None),
        }
    }

    fn stop(&mut self, _host: &mut dyn Host) -> HandOver {
        let value = self.unsent.unwrap_or_default().to_le_bytes();
        let mut bytes = vec![u8::from(self.unsent.is_some())];
        bytes.extend(value);
        HandOver {
            schema: HAND_OVER_SCHEMA,
            bytes,
        }
    }
}

impl Breaking {
    fn poll(&mut self, host: &mut dyn Host) -> Result<Wake, Fault> {
        if self.count >= 200 {
            // The link was down once: what for should it go on?
            return Ok(Some(PERIOD));
        }
        let value = match self.unsent {
            Some(value) => value,
            None => self.read(host)?,
        };
        let sent = if breaks("nan") { f64::NAN } else { value };
        let reading = Reading {
            key: "value".into(),
            value: Value::Double(sent),
            quality: Quality::Good,
            timestamp: None,
        };
        let batch = [DeviceReadings {
            device: self.device.clone(),
            readings: vec![reading],
        }];
        match host.emit(&batch) {
            Ok(()) => {
                self.unsent = None;
                Ok(Some(PERIOD))
            }
            Err(EmitError::BackPressure(_)) if breaks("lose") => {
                self.unsent = None;
                Ok(Some(Duration::from_millis(200)))
            }
            Err(EmitError::BackPressure(_)) if breaks("hasty") => {
                self.unsent = Some(value);
                Ok(Some(PERIOD))
            }
            Err(EmitError::BackPressure(ms)) => {
                self.unsent = Some(value);
                Ok(Some(Duration::from_millis(u64::from(ms))))
            }
            Err(EmitError::Refused(_)) => Ok(Some(PERIOD)),
        }
    }

    fn read(&mut self, host: &mut dyn Host) -> Result<f64, Fault> {
        let device = |words: String| Fault::Device(words);
        let stream = host
            .open(&self.stream)
            .map_err(|error| device(format!("{error:?}")))?;
        let line = FrameRule::Delimited(b"\n".to_vec());
        let answer = match host.exchange(stream, b"READ?\n", &line, 300) {
            Ok(answer) => answer,
            Err(error) if breaks("closed") => panic!("{error:?}"),
            Err(error) if breaks("silent") => return Err(Fault::Internal(format!("{error:?}"))),
            Err(error) => return Err(device(format!("{error:?}"))),
        };
        let text = String::from_utf8_lossy(&answer);
        let number = text.trim().parse::<f64>();
        match number {
            Ok(number) if number.is_finite() && number < 1e12 => {
                // A number that counts, so that none can stand for another.
                self.count = self.count.wrapping_add(1) % 100;
                Ok(number + f64::from(self.count))
            }
            Ok(_) | Err(_) if breaks("garbled") => panic!("{text}"),
            Ok(_) | Err(_) => Err(device(format!("no number: {text}"))),
        }
    }
}

export_connector!(Breaking);
