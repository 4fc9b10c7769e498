//! A connector that misbehaves on demand. What it does stands in `SCRIPT`, which a test overwrites in the finished
//! component: each script is another build with another digest, and nothing need be compiled again.
//!
//! Left alone it counts: every 2 ms, or what the word `period:MS` says, it emits its next number as reading `n` of device
//! `dev-<instance>`, hands the count over, answers every RPC with it, and keeps it in its state every tenth time. With a
//! stream it also asks the device for one byte before each number.

mod hostile;

use std::hint::black_box;
use std::time::Duration;

use moorline_plugin_sdk::{
    AttributeUpdate, Connector, Description, DeviceReadings, EmitError, Event, Fault, FrameRule,
    HandOver, Host, Level, LinkState, Quality, Reading, RpcRequest, SeriesId, Setup, StreamId,
    Value, Wake, export_connector,
};

/// `SCRIPT:` and words, separated and filled up by spaces.
#[used]
static SCRIPT: [u8; 128] = *b"SCRIPT:                                                                                                                         ";

const PERIOD: Duration = Duration::from_millis(2);
const SCHEMA: u32 = 1;
const EXCHANGE_DEADLINE_MS: u32 = 2_000;

fn script() -> String {
    let script = String::from_utf8_lossy(black_box(&SCRIPT));
    script
        .strip_prefix("SCRIPT:")
        .unwrap_or_default()
        .to_owned()
}

fn scripted(word: &str) -> bool {
    script().split_whitespace().any(|w| w == word)
}

/// What follows `key` in a word of the script.
fn scripted_text(key: &str) -> Option<String> {
    let script = script();
    let mut words = script.split_whitespace();
    words.find_map(|word| word.strip_prefix(key).map(str::to_owned))
}

fn period() -> Duration {
    let ms = scripted_text("period:").and_then(|ms| ms.parse().ok());
    ms.map_or(PERIOD, Duration::from_millis)
}

struct Scripted {
    device: String,
    count: i64,
    timers: u32,
    stream: Option<StreamId>,
    waiting: Option<u32>,
    link: Option<LinkState>,
}

fn hang() -> ! {
    let mut n = 0_u64;
    loop {
        n = black_box(n.wrapping_add(1));
    }
}

fn trap(words: &str) -> ! {
    panic!("{words}")
}

#[expect(unconditional_recursion, reason = "that is the point")]
fn recurse(n: u64) -> u64 {
    black_box(recurse(black_box(n + 1)) + 1)
}

/// The count, and the request that waits for its answer, if there is one.
fn handed_over(bytes: &[u8]) -> (i64, Option<u32>) {
    let Some((count, rest)) = bytes.split_first_chunk() else {
        return (0, None);
    };
    let waiting = rest.first_chunk().copied().map(u32::from_le_bytes);
    (i64::from_le_bytes(*count), waiting)
}

/// The count as it was kept last.
fn kept(host: &mut dyn Host) -> Result<i64, Fault> {
    let kept = host
        .state_get("n")
        .map_err(|error| Fault::Internal(format!("{error:?}")))?;
    Ok(kept
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, i64::from_le_bytes))
}

impl Connector for Scripted {
    fn describe() -> Description {
        if scripted("describe:trap") {
            trap("describe");
        }
        if scripted("describe:hang") {
            hang();
        }
        Description {
            name: if scripted("describe:long") {
                "long".repeat(64) + "!"
            } else {
                "scripted".into()
            },
            version: scripted_text("version:").unwrap_or_else(|| env!("CARGO_PKG_VERSION").into()),
            configuration_schema: "{}".into(),
            hand_over_schema: SCHEMA,
        }
    }

    fn start(setup: Setup, host: &mut dyn Host) -> Result<(Self, Wake), Fault> {
        if scripted("start:trap") || (scripted("start:trap-b") && setup.instance.ends_with("/b")) {
            trap("start");
        }
        if scripted("start:hang") {
            hang();
        }
        if scripted("start:eat") {
            hostile::eat();
        }
        if scripted("start:refuse-always") {
            return Err(Fault::HandOver("from another time".into()));
        }
        if scripted("start:configuration") {
            return Err(Fault::Configuration("unit is missing".into()));
        }
        let (count, waiting) = match &setup.hand_over {
            Some(_) if scripted("start:refuse-hand-over") => {
                return Err(Fault::HandOver("from another time".into()));
            }
            Some(hand_over) => handed_over(&hand_over.bytes),
            None if scripted("start:resume") => (kept(host)?, None),
            None => (0, None),
        };
        let stream = match setup.granted_streams.first() {
            Some(name) => Some(
                host.open(name)
                    .map_err(|error| Fault::Device(format!("{error:?}")))?,
            ),
            None => None,
        };
        let device = format!("dev-{}", setup.instance.replace('/', "-"));
        Ok((
            Self {
                device,
                count,
                timers: 0,
                stream,
                waiting,
                link: None,
            },
            // None leaves the timer of the generation before as it is.
            (!scripted("start:no-wake")).then_some(period()),
        ))
    }

    fn handle(&mut self, event: Event, host: &mut dyn Host) -> Result<Wake, Fault> {
        match event {
            Event::Timer => self.timer(host),
            Event::Rpc(request) => self.rpc(&request, host),
            Event::StreamConnected(_) | Event::StreamData(_) | Event::StreamClosed(_) => Ok(None),
            Event::AttributesChanged(update) => self.attributes(update, host),
            Event::LinkChanged(state) => {
                self.link = Some(state);
                Ok(None)
            }
        }
    }

    fn stop(&mut self, _host: &mut dyn Host) -> HandOver {
        if scripted("stop:trap") {
            trap("stop");
        }
        if scripted("stop:hang") {
            hang();
        }
        let mut bytes = self.count.to_le_bytes().to_vec();
        if let Some(request) = self.waiting {
            bytes.extend_from_slice(&request.to_le_bytes());
        }
        HandOver {
            schema: SCHEMA,
            bytes,
        }
    }
}

impl Scripted {
    fn timer(&mut self, host: &mut dyn Host) -> Result<Wake, Fault> {
        self.timers += 1;
        self.misbehave(host)?;
        if scripted("timer:silent") || (scripted("timer:seldom") && !self.timers.is_multiple_of(20))
        {
            return Ok(Some(period()));
        }
        if let Some(stream) = self.stream {
            match host.exchange(stream, b"?", &FrameRule::Fixed(1), EXCHANGE_DEADLINE_MS) {
                Ok(_byte) => {}
                Err(error) => {
                    host.log(Level::Debug, &format!("device: {error:?}"));
                    return Ok(Some(period()));
                }
            }
        }
        let value = if scripted("timer:nan") {
            Value::Double(f64::NAN)
        } else {
            Value::Integer(self.count + 1)
        };
        let reading = Reading {
            key: "n".into(),
            value,
            quality: Quality::Good,
            timestamp: None,
        };
        let batch = [DeviceReadings {
            device: self.device.clone(),
            readings: vec![reading],
        }];
        match host.emit(&batch) {
            Ok(()) if scripted("timer:flood-emit") => {
                self.count += 1;
                return self.count_on(host);
            }
            Ok(()) => self.count += 1,
            Err(refusal) => {
                let Some(wait) = refusal.retry_after() else {
                    return Err(Fault::Internal(format!("{refusal:?}")));
                };
                return Ok(Some(wait));
            }
        }
        if self.count % 10 == 0 {
            host.state_set("n", &self.count.to_le_bytes())
                .map_err(|error| Fault::Internal(format!("{error:?}")))?;
        }
        Ok(Some(period()))
    }

    /// As fast as the host takes it.
    fn count_on(&mut self, host: &mut dyn Host) -> Result<Wake, Fault> {
        loop {
            let (emitted, taken) = hostile::flood(&self.device, self.count, host);
            self.count += taken;
            match emitted {
                Ok(()) => {}
                Err(refusal) => return Ok(refusal.retry_after()),
            }
        }
    }

    fn misbehave(&self, host: &mut dyn Host) -> Result<(), Fault> {
        hostile::die(self.timers, host);
        hostile::annoy(self.stream, host)?;
        if scripted("timer:faulty") {
            return Err(Fault::Device("noise".into()));
        }
        if scripted("timer:fault") && self.timers == 1 {
            return Err(Fault::Device("asleep".into()));
        }
        Ok(())
    }

    /// Says what it was told, as readings.
    fn attributes(&self, update: AttributeUpdate, host: &mut dyn Host) -> Result<Wake, Fault> {
        if scripted("attributes:hang") {
            hang();
        }
        if scripted("attributes:echo") {
            let readings = update.changed.into_iter().map(|attribute| Reading {
                key: format!("told-{}", attribute.key),
                value: attribute.value,
                quality: Quality::Good,
                timestamp: None,
            });
            let batch = [DeviceReadings {
                device: self.device.clone(),
                readings: readings.collect(),
            }];
            host.emit(&batch)
                .map_err(|error| Fault::Internal(format!("{error:?}")))?;
        }
        Ok(None)
    }

    fn rpc(&mut self, request: &RpcRequest, host: &mut dyn Host) -> Result<Wake, Fault> {
        if scripted("rpc:hang") {
            hang();
        }
        match request.method.as_str() {
            "trap" => trap("rpc"),
            "later" => self.waiting = Some(request.id),
            "now" => {
                let waiting = self.waiting.take().unwrap_or(request.id);
                for id in [waiting, request.id] {
                    // The second answer to one request is refused, which is no fault here.
                    drop(host.reply(id, &self.count.to_string()));
                }
            }
            "kept" => {
                let n = kept(host)?;
                drop(host.reply(request.id, &n.to_string()));
            }
            "series" => {
                let device = format!("{}-series", self.device);
                let foreign = request.params.parse().ok();
                let id = series(&device, foreign, host)
                    .map_err(|error| Fault::Internal(format!("{error:?}")))?;
                drop(host.reply(request.id, &id.to_string()));
            }
            "link" => drop(host.reply(request.id, &format!("\"{:?}\"", self.link))),
            other => return Err(Fault::Configuration(format!("no method {other}"))),
        }
        Ok(None)
    }
}

/// Emits 1, 2 and 3 of two series, and 9 of one that another guest has opened. Says the id of the first.
fn series(
    device: &str,
    foreign: Option<SeriesId>,
    host: &mut dyn Host,
) -> Result<SeriesId, EmitError> {
    let (a, b) = (host.series(device, "a")?, host.series(device, "b")?);
    host.emit_series(&[a, b], &[1.0, 2.0], &[7.0])?;
    if let Some(foreign) = foreign {
        match host.emit_series(&[foreign], &[9.0], &[]) {
            Err(EmitError::Refused(_)) => {}
            other => {
                return Err(EmitError::Refused(format!(
                    "{foreign} is not mine: {other:?}"
                )));
            }
        }
    }
    let again = host.series(device, "a")?;
    host.emit_series(&[again], &[3.0], &[])?;
    Ok(again)
}

export_connector!(Scripted);
