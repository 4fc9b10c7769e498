//! Modbus TCP: polls registers in groups, writes by RPC and shared attributes.
//!
//! One instance serves one connection, which may carry several devices (unit ids). Each timer event makes at most one
//! request, so an RPC waits for one response at most and a swap finds a call boundary at once. A device that does not
//! answer is asked less and less often, up to every ten seconds, and delays nobody else. What the host does not take is
//! kept and offered again before anything new is read.

use std::time::Duration;

use moorline_plugin_sdk::{
    AttributeUpdate, Connector, Description, DeviceReadings, EmitError, Event, Fault, FrameRule,
    HandOver, Host, LengthField, Level, Quality, Reading, RpcRequest, Setup, StreamError, StreamId,
    Value, Wake, configuration, export_connector,
};
use serde::{Deserialize, Serialize};

mod configuration;
mod frame;
mod plan;
mod value;
mod write;

use configuration::{Configuration, Device};
use frame::{FrameError, Request};
use plan::Block;
use value::Sample;

const HAND_OVER_SCHEMA: u32 = 1;
/// Failures in a row after which a device counts as gone.
const FAILURES_GONE: u32 = 3;
/// The most a silent device is left alone.
const DEGRADED_MS_MAX: f64 = 10_000.0;
/// Late answers to earlier requests that are skipped before a request is given up.
const LATE_ANSWERS: u32 = 3;
/// The rest of a frame follows bytes 4 and 5 of the header.
const RESPONSE: FrameRule = FrameRule::LengthPrefixed(LengthField {
    offset: 4,
    width: 2,
    big_endian: true,
    adjust: 0,
});

/// Why a request brought nothing.
#[derive(Debug)]
enum Failure {
    /// The stream is not connected.
    Closed(String),
    /// No whole answer in time.
    Silent(&'static str),
    /// An answer that is none, or an exception.
    Answer(FrameError),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed(why) => write!(f, "not connected: {why}"),
            Self::Silent(why) => f.write_str(why),
            Self::Answer(error) => write!(f, "{error}"),
        }
    }
}

/// How a device has been doing.
#[derive(Clone, Debug, Default)]
struct Health {
    failures: u32,
    announced: bool,
    retry_at_ms: f64,
}

/// Readings the host has not taken yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Held {
    device: String,
    at_ms: f64,
    samples: Vec<(String, Sample)>,
}

/// What one generation hands to the next.
#[derive(Debug, Serialize, Deserialize)]
struct Progress {
    transaction: u16,
    held: Option<Held>,
    /// When each block is due, in the order of the plan; used only if the plan has as many.
    due_ms: Vec<f64>,
    /// Devices the platform knows as connected.
    announced: Vec<String>,
}

struct ModbusTcp {
    stream_name: String,
    stream: StreamId,
    deadline_ms: u32,
    devices: Vec<Device>,
    health: Vec<Health>,
    blocks: Vec<Block>,
    held: Option<Held>,
    transaction: u16,
}

impl Connector for ModbusTcp {
    fn describe() -> Description {
        Description {
            name: "modbus-tcp".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            configuration_schema: configuration::SCHEMA.into(),
            hand_over_schema: HAND_OVER_SCHEMA,
        }
    }

    fn start(setup: Setup, host: &mut dyn Host) -> Result<(Self, Wake), Fault> {
        let settings: Configuration = configuration(&setup)?;
        let devices = settings.devices()?;
        let [stream_name] = setup.granted_streams.as_slice() else {
            return Err(Fault::Configuration(
                "give the connector one [[connector.connection]] for each address".into(),
            ));
        };
        let stream = host
            .open(stream_name)
            .map_err(|error| Fault::Device(format!("{stream_name}: {error:?}")))?;
        let blocks = plan::plan(&devices, settings.gap_max, host.monotonic_ms());
        let mut connector = Self {
            stream_name: stream_name.clone(),
            stream,
            deadline_ms: settings.deadline_ms.clamp(10, 60_000),
            health: vec![Health::default(); devices.len()],
            devices,
            blocks,
            held: None,
            transaction: 0,
        };
        if let Some(hand_over) = setup.hand_over {
            connector.take_over(&hand_over)?;
        }
        Ok((connector, Some(Duration::ZERO)))
    }

    fn handle(&mut self, event: Event, host: &mut dyn Host) -> Result<Wake, Fault> {
        match event {
            Event::Timer => return Ok(self.poll(host)),
            Event::StreamConnected(_) => {
                for health in &mut self.health {
                    health.retry_at_ms = 0.0;
                }
            }
            Event::Rpc(request) => self.on_rpc(&request, host),
            Event::AttributesChanged(update) => self.on_attributes(&update, host),
            Event::StreamClosed(_) | Event::StreamData(_) | Event::LinkChanged(_) => {}
        }
        Ok(Some(self.until_due(host.monotonic_ms())))
    }

    fn stop(&mut self, _host: &mut dyn Host) -> HandOver {
        let announced = self
            .devices
            .iter()
            .zip(&self.health)
            .filter(|(_, health)| health.announced);
        let progress = Progress {
            transaction: self.transaction,
            held: self.held.take(),
            due_ms: self.blocks.iter().map(|block| block.due_ms).collect(),
            announced: announced.map(|(device, _)| device.name.clone()).collect(),
        };
        HandOver {
            schema: HAND_OVER_SCHEMA,
            bytes: serde_json::to_vec(&progress).unwrap_or_default(),
        }
    }
}

impl ModbusTcp {
    fn take_over(&mut self, hand_over: &HandOver) -> Result<(), Fault> {
        if hand_over.schema != HAND_OVER_SCHEMA {
            return Err(Fault::HandOver(format!(
                "schema {} is not {HAND_OVER_SCHEMA}",
                hand_over.schema
            )));
        }
        let progress: Progress = serde_json::from_slice(&hand_over.bytes)
            .map_err(|error| Fault::HandOver(error.to_string()))?;
        self.transaction = progress.transaction;
        self.held = progress.held;
        if progress.due_ms.len() == self.blocks.len() {
            for (block, due_ms) in self.blocks.iter_mut().zip(progress.due_ms) {
                block.due_ms = due_ms;
            }
        }
        for (device, health) in self.devices.iter().zip(&mut self.health) {
            health.announced = progress.announced.contains(&device.name);
        }
        Ok(())
    }

    /// One step: offer what is held, or make the request that is most overdue.
    fn poll(&mut self, host: &mut dyn Host) -> Wake {
        if let Some(held) = self.held.take()
            && let Err(wait) = self.offer(held, host)
        {
            return wait;
        }
        let now_ms = host.monotonic_ms();
        let Some(index) = self
            .next_block()
            .filter(|&index| self.ready_at(index) <= now_ms)
        else {
            return Some(self.until_due(now_ms));
        };
        let block = self.blocks[index].clone();
        let request = Request::Read {
            function: block.register.read_function(),
            address: block.address,
            count: block.count,
        };
        let unit = self.devices[block.device].unit;
        let outcome = self.exchange(&request, unit, host);
        self.schedule(index, host.monotonic_ms());
        match outcome {
            Ok(data) => {
                self.on_alive(block.device, host);
                let held = self.readings(&block, &data, host.now_ms());
                if let Err(wait) = self.offer(held, host) {
                    return wait;
                }
            }
            Err(Failure::Answer(FrameError::Exception(2))) if block.points.len() > 1 => {
                self.split(index, host)
            }
            Err(failure) => self.on_failure(block.device, &failure, host),
        }
        Some(self.until_due(host.monotonic_ms()))
    }

    fn exchange(
        &mut self,
        request: &Request,
        unit: u8,
        host: &mut dyn Host,
    ) -> Result<Vec<u8>, Failure> {
        self.transaction = self.transaction.wrapping_add(1);
        let mut bytes = request.encode(self.transaction, unit);
        for _ in 0..=LATE_ANSWERS {
            let frame = host
                .exchange(self.stream, &bytes, &RESPONSE, self.deadline_ms)
                .map_err(|error| self.failed(error, host))?;
            match request.decode(self.transaction, unit, &frame) {
                Ok(data) => return Ok(data.to_vec()),
                // A device slower than the deadline answers the request before: only wait on, ask nothing again.
                Err(FrameError::OtherTransaction) => bytes.clear(),
                Err(error) => return Err(Failure::Answer(error)),
            }
        }
        Err(Failure::Answer(FrameError::OtherTransaction))
    }

    /// What an exchange that failed means. A closed stream is opened again at once; connecting goes on in the background.
    fn failed(&self, error: StreamError, host: &mut dyn Host) -> Failure {
        match error {
            StreamError::Closed(why) => match host.open(&self.stream_name) {
                Ok(_) => Failure::Closed(why),
                Err(error) => Failure::Closed(format!("{why}; {error:?}")),
            },
            StreamError::NotGranted => Failure::Silent("the stream is not granted"),
            StreamError::Timeout => Failure::Silent("no answer in time"),
            StreamError::TooLarge => Failure::Silent("the answer is larger than a Modbus frame"),
            StreamError::BadRule => Failure::Silent("the host refuses the frame rule"),
        }
    }

    fn readings(&self, block: &Block, data: &[u8], at_ms: f64) -> Held {
        let device = &self.devices[block.device];
        let mut samples = Vec::with_capacity(block.points.len());
        for &at in &block.points {
            let point = &device.points[at];
            let offset = usize::from(point.address - block.address);
            let sample = if block.register.is_bits() {
                data.get(offset / 8)
                    .map(|byte| Sample::Boolean(byte >> (offset % 8) & 1 == 1))
            } else {
                let end = offset * 2 + usize::from(point.count) * 2;
                data.get(offset * 2..end)
                    .and_then(|registers| point.format.read(registers))
            };
            samples.extend(sample.map(|sample| (point.key.clone(), sample)));
        }
        Held {
            device: device.name.clone(),
            at_ms,
            samples,
        }
    }

    /// Hands readings to the host, or keeps them and says when to come back.
    fn offer(&mut self, held: Held, host: &mut dyn Host) -> Result<(), Wake> {
        if held.samples.is_empty() {
            return Ok(());
        }
        let readings = held
            .samples
            .iter()
            .map(|(key, sample)| Reading {
                key: key.clone(),
                value: match sample {
                    Sample::Boolean(boolean) => Value::Boolean(*boolean),
                    Sample::Integer(integer) => Value::Integer(*integer),
                    Sample::Double(double) => Value::Double(*double),
                    Sample::Text(text) => Value::Text(text.clone()),
                },
                quality: Quality::Good,
                timestamp: Some(held.at_ms),
            })
            .collect();
        match host.emit(&[DeviceReadings {
            device: held.device.clone(),
            readings,
        }]) {
            Ok(()) => Ok(()),
            Err(EmitError::BackPressure(ms)) => {
                self.held = Some(held);
                Err(Some(Duration::from_millis(u64::from(ms))))
            }
            Err(EmitError::Refused(why)) => {
                host.log(
                    Level::Error,
                    &format!("{}: readings refused: {why}", held.device),
                );
                Ok(())
            }
        }
    }

    fn next_block(&self) -> Option<usize> {
        (0..self.blocks.len()).min_by(|&a, &b| self.ready_at(a).total_cmp(&self.ready_at(b)))
    }

    fn ready_at(&self, index: usize) -> f64 {
        let block = &self.blocks[index];
        block.due_ms.max(self.health[block.device].retry_at_ms)
    }

    fn until_due(&self, now_ms: f64) -> Duration {
        let ready_at = self
            .next_block()
            .map_or(now_ms + 1000.0, |index| self.ready_at(index));
        Duration::from_secs_f64((ready_at - now_ms).max(0.0) / 1000.0)
    }

    /// Keeps the rhythm: the next time is one period after the last one, unless that has passed too.
    fn schedule(&mut self, index: usize, now_ms: f64) {
        let block = &mut self.blocks[index];
        let period = f64::from(block.poll_ms);
        block.due_ms += period;
        if block.due_ms <= now_ms {
            block.due_ms = now_ms + period - (now_ms - block.due_ms) % period;
        }
    }

    /// A device that has no register somewhere inside a shared read is asked point by point from now on.
    fn split(&mut self, index: usize, host: &mut dyn Host) {
        let block = self.blocks.swap_remove(index);
        let device = &self.devices[block.device];
        let message = format!(
            "{}: {} points share registers that do not all exist; reading them one by one",
            device.name,
            block.points.len()
        );
        host.log(Level::Info, &message);
        let singles = block
            .points
            .iter()
            .map(|&at| plan::single(block.device, device, at, host.monotonic_ms()));
        self.blocks.extend(singles.collect::<Vec<_>>());
    }

    fn on_alive(&mut self, device: usize, host: &mut dyn Host) {
        let health = &mut self.health[device];
        let Device { name, profile, .. } = &self.devices[device];
        if health.failures >= FAILURES_GONE {
            host.log(Level::Info, &format!("{name} answers again"));
        }
        health.failures = 0;
        if !health.announced {
            health.announced = host.device_connected(name, profile).is_ok();
        }
    }

    fn on_failure(&mut self, device: usize, failure: &Failure, host: &mut dyn Host) {
        let now_ms = host.monotonic_ms();
        let health = &mut self.health[device];
        let name = &self.devices[device].name;
        health.failures = health.failures.saturating_add(1);
        if health.failures == 1 {
            host.log(Level::Warn, &format!("{name}: {failure}"));
        }
        // A device that says no is alive: only silence is answered with patience.
        if matches!(failure, Failure::Closed(_) | Failure::Silent(_)) {
            let patience = 100.0 * f64::from(1_u32 << health.failures.min(10));
            health.retry_at_ms = now_ms + patience.min(DEGRADED_MS_MAX);
            if health.failures == FAILURES_GONE && health.announced {
                health.announced = host.device_disconnected(name).is_err();
            }
        }
    }

    fn on_rpc(&mut self, request: &RpcRequest, host: &mut dyn Host) {
        let outcome = self.execute(request, host);
        let body = match outcome {
            Ok(value) => value.to_string(),
            Err(why) => serde_json::json!({ "success": false, "error": why }).to_string(),
        };
        if let Err(error) = host.reply(request.id, &body) {
            host.log(
                Level::Warn,
                &format!(
                    "{}: answer to RPC {} not taken: {error:?}",
                    request.device, request.id
                ),
            );
        }
    }

    fn on_attributes(&mut self, update: &AttributeUpdate, host: &mut dyn Host) {
        let Some(device) = self
            .devices
            .iter()
            .position(|device| device.name == update.device)
        else {
            return;
        };
        for attribute in &update.changed {
            let Some(point) = self.devices[device]
                .points
                .iter()
                .position(|point| point.key == attribute.key && point.writable)
            else {
                continue;
            };
            if let Err(why) = self.write_point(device, point, &write::json(&attribute.value), host)
            {
                host.log(
                    Level::Warn,
                    &format!(
                        "{}: shared attribute {:?} not written: {why}",
                        update.device, attribute.key
                    ),
                );
            }
        }
    }
}

export_connector!(ModbusTcp);

#[cfg(test)]
mod tests;
