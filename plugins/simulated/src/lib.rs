//! Devices that do not exist: any number, any rate, with readings whose order and completeness can be proved.
//!
//! Each device counts: its reading `seq` is `run * 1_000_000_000 + n`, and `n` grows by exactly one. A swap hands the
//! counters over and the run goes on; a start without hand-over begins a new run, so an audit knows that no gap inside a
//! run is excusable. A batch that the host does not take is not counted: it is offered again as it was, its times included,
//! also by the next generation.

use std::time::Duration;

use moorline_plugin_sdk::{
    Connector, Description, DeviceReadings, EmitError, Event, Fault, HandOver, Host, Level,
    Quality, Reading, RpcRequest, Setup, StreamId, Value, Wake, configuration, export_connector,
};
use serde::{Deserialize, Serialize};

const SCHEMA: u32 = 1;
const RUN_KEY: &str = "run";
const RUN_SPAN: i64 = 1_000_000_000;
/// Readings of one call of `emit`; the host takes at most 10 000.
const BATCH_MAX: u64 = 5000;

const CONFIGURATION_SCHEMA: &str = r#"{
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "devices": {"type": "integer", "minimum": 1, "maximum": 10000, "default": 1},
    "readings_per_second": {"type": "number", "exclusiveMinimum": 0, "default": 10, "description": "of all devices together"},
    "device_prefix": {"type": "string", "default": "sim-"},
    "profile": {"type": "string", "default": "simulated"},
    "key": {"type": "string", "default": "seq"},
    "readings_max": {"type": "integer", "minimum": 1, "description": "of all devices together; then no more are made"},
    "period_ms": {"type": "integer", "minimum": 1, "maximum": 60000, "default": 100},
    "witness": {"type": "string", "description": "a granted stream that is told every accepted value"}
  }
}"#;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Configuration {
    devices: u32,
    readings_per_second: f64,
    device_prefix: String,
    profile: String,
    key: String,
    readings_max: Option<u64>,
    period_ms: u32,
    witness: Option<String>,
}

impl Default for Configuration {
    fn default() -> Self {
        Self {
            devices: 1,
            readings_per_second: 10.0,
            device_prefix: "sim-".into(),
            profile: "simulated".into(),
            key: "seq".into(),
            readings_max: None,
            period_ms: 100,
            witness: None,
        }
    }
}

/// What makes a batch, together with the counts. One that meets back-pressure is offered again as it was: readings that
/// are late are not newer for that.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Offer {
    readings: u64,
    made_ms: f64,
}

/// What one generation hands to the next.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Progress {
    run: i64,
    /// Accepted readings of each device.
    counts: Vec<i64>,
    /// The device whose turn it is.
    turn: usize,
    /// Up to which time (host's monotonic clock) readings were made.
    made_until_ms: f64,
    /// The batch that the host did not take. Builds of this schema that know nothing of it make it anew, with later times.
    #[serde(default)]
    offered: Option<Offer>,
}

struct Simulated {
    configuration: Configuration,
    progress: Progress,
    announced: bool,
    witness: Option<StreamId>,
}

impl Connector for Simulated {
    fn describe() -> Description {
        Description {
            name: "simulated".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            configuration_schema: CONFIGURATION_SCHEMA.into(),
            hand_over_schema: SCHEMA,
        }
    }

    fn start(setup: Setup, host: &mut dyn Host) -> Result<(Self, Wake), Fault> {
        let configuration: Configuration = configuration(&setup)?;
        if configuration.devices == 0 || configuration.devices > 10_000 {
            return Err(Fault::Configuration(
                "devices must be between 1 and 10000".into(),
            ));
        }
        if !(configuration.readings_per_second > 0.0 && configuration.readings_per_second <= 1e6) {
            return Err(Fault::Configuration(
                "readings_per_second must be above 0 and at most 1000000".into(),
            ));
        }
        let progress = match setup.hand_over {
            Some(hand_over) if hand_over.schema == SCHEMA => {
                serde_json::from_slice(&hand_over.bytes)
                    .map_err(|error| Fault::HandOver(error.to_string()))?
            }
            Some(hand_over) => {
                return Err(Fault::HandOver(format!(
                    "schema {} is not {SCHEMA}",
                    hand_over.schema
                )));
            }
            None => Progress {
                run: next_run(host)?,
                made_until_ms: host.monotonic_ms(),
                ..Progress::default()
            },
        };
        let witness = match &configuration.witness {
            Some(name) => Some(host.open(name).map_err(|error| {
                Fault::Configuration(format!("witness stream {name:?}: {error:?}"))
            })?),
            None => None,
        };
        let mut simulated = Self {
            configuration,
            progress,
            announced: false,
            witness,
        };
        simulated
            .progress
            .counts
            .resize(simulated.configuration.devices as usize, 0);
        let wake = simulated.period();
        Ok((simulated, wake))
    }

    fn handle(&mut self, event: Event, host: &mut dyn Host) -> Result<Wake, Fault> {
        match event {
            Event::Timer => Ok(self.tick(host)),
            Event::Rpc(request) => {
                self.answer(&request, host);
                Ok(None)
            }
            Event::StreamClosed((id, _)) if self.witness == Some(id) => {
                if let Some(name) = &self.configuration.witness {
                    self.witness = host.open(name).ok();
                }
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
        HandOver {
            schema: SCHEMA,
            bytes: serde_json::to_vec(&self.progress).unwrap_or_default(),
        }
    }
}

fn next_run(host: &mut dyn Host) -> Result<i64, Fault> {
    let unavailable = |error| Fault::Internal(format!("state store: {error:?}"));
    let stored = host.state_get(RUN_KEY).map_err(unavailable)?;
    let last = stored
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, i64::from_le_bytes);
    let run = last + 1;
    host.state_set(RUN_KEY, &run.to_le_bytes())
        .map_err(unavailable)?;
    Ok(run)
}

impl Simulated {
    fn period(&self) -> Wake {
        Some(Duration::from_millis(u64::from(
            self.configuration.period_ms.max(1),
        )))
    }

    fn device(&self, index: usize) -> String {
        format!("{}{index}", self.configuration.device_prefix)
    }

    fn tick(&mut self, host: &mut dyn Host) -> Wake {
        if !self.announced {
            for index in 0..self.progress.counts.len() {
                if let Err(error) =
                    host.device_connected(&self.device(index), &self.configuration.profile)
                {
                    return error.retry_after().or(self.period());
                }
            }
            self.announced = true;
        }
        let Some(offer) = self.progress.offered.or_else(|| self.due(host)) else {
            return if self.left() == 0 {
                None
            } else {
                self.period()
            };
        };
        let batch = self.batch(offer);
        match host.emit(&batch) {
            Ok(()) => {
                self.accepted(offer.readings);
                self.tell_witness(&batch, host);
                if self.due(host).is_some() {
                    Some(Duration::from_millis(1))
                } else {
                    self.period()
                }
            }
            Err(EmitError::BackPressure(ms)) => {
                self.progress.offered = Some(offer);
                Some(Duration::from_millis(u64::from(ms)))
            }
            Err(EmitError::Refused(why)) => {
                host.log(Level::Error, &format!("batch refused: {why}"));
                self.progress.offered = None;
                self.period()
            }
        }
    }

    /// The next batch, once there is a reading in it.
    fn due(&mut self, host: &mut dyn Host) -> Option<Offer> {
        let now_ms = host.monotonic_ms();
        // After a restart of the host its monotonic clock starts again: what was made before stays made.
        self.progress.made_until_ms = self.progress.made_until_ms.min(now_ms);
        let elapsed_s = (now_ms - self.progress.made_until_ms) / 1000.0;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "never negative; what is too large for u64 is as much as there can be"
        )]
        let due = (elapsed_s * self.configuration.readings_per_second).floor() as u64;
        let readings = due.min(BATCH_MAX).min(self.left());
        (readings > 0).then(|| Offer {
            readings,
            made_ms: host.now_ms(),
        })
    }

    /// Readings that are still to be made.
    fn left(&self) -> u64 {
        let made: i64 = self.progress.counts.iter().sum();
        self.configuration
            .readings_max
            .map_or(u64::MAX, |most| most.saturating_sub(made.unsigned_abs()))
    }

    /// The readings of `offer`, one device after the other.
    fn batch(&self, offer: Offer) -> Vec<DeviceReadings> {
        let count = offer.readings;
        let devices = self.progress.counts.len();
        let mut batch: Vec<DeviceReadings> = Vec::with_capacity(devices.min(count as usize));
        for offset in 0..devices.min(count as usize) {
            let index = (self.progress.turn + offset) % devices;
            let share = (count as usize - offset).div_ceil(devices);
            let base = self.progress.run * RUN_SPAN + self.progress.counts[index];
            let readings = (1..=share as i64)
                .map(|n| Reading {
                    key: self.configuration.key.clone(),
                    value: Value::Integer(base + n),
                    quality: Quality::Good,
                    timestamp: Some(offer.made_ms),
                })
                .collect();
            batch.push(DeviceReadings {
                device: self.device(index),
                readings,
            });
        }
        batch
    }

    fn accepted(&mut self, count: u64) {
        self.progress.offered = None;
        let devices = self.progress.counts.len();
        for offset in 0..devices.min(count as usize) {
            let index = (self.progress.turn + offset) % devices;
            self.progress.counts[index] += (count as usize - offset).div_ceil(devices) as i64;
        }
        self.progress.turn = (self.progress.turn + count as usize) % devices;
        self.progress.made_until_ms +=
            count as f64 * 1000.0 / self.configuration.readings_per_second;
    }

    fn tell_witness(&mut self, batch: &[DeviceReadings], host: &mut dyn Host) {
        let Some(stream) = self.witness else { return };
        let mut lines = String::new();
        for device in batch {
            if let Some(Value::Integer(value)) =
                device.readings.last().map(|reading| &reading.value)
            {
                lines.push_str(&format!("{} {value}\n", device.device));
            }
        }
        // A witness that is away hears nothing; the next line tells it the highest value again.
        if host.write(stream, lines.as_bytes()).is_err() {
            self.witness = self
                .configuration
                .witness
                .as_ref()
                .and_then(|name| host.open(name).ok());
        }
    }

    fn answer(&self, request: &RpcRequest, host: &mut dyn Host) {
        let body = match request.method.as_str() {
            "echo" => request.params.clone(),
            "counts" => {
                serde_json::json!({"run": self.progress.run, "counts": self.progress.counts})
                    .to_string()
            }
            other => {
                serde_json::json!({"error": format!("method {other:?} is not one of echo, counts")})
                    .to_string()
            }
        };
        if let Err(error) = host.reply(request.id, &body) {
            host.log(
                Level::Warn,
                &format!("reply to {} not taken: {error:?}", request.id),
            );
        }
    }
}

export_connector!(Simulated);

#[cfg(test)]
mod tests;
