//! A connector for benches. Its device has the instance's name.
//!
//! An RPC `burst [BATCH,CALLS]` emits that many batches of that many readings as fast as the host takes them, and answers
//! how long it took by the guest's own clock: `[TAKEN, REFUSED, MICROSECONDS]`. `flood [BATCH,BATCHES]` puts new values into
//! its batch each time, goes on in turns of the timer, and bears back-pressure until all are taken; `flood-series` does so by series.
//! `burst-c` does the same, `burst-javascript` and `burst-python` but for the series.

use std::time::Duration;

use moorline_plugin_sdk::{
    Connector, Description, DeviceReadings, EmitError, Event, Fault, HandOver, Host, Quality,
    Reading, RpcRequest, SeriesId, Setup, Value, Wake, export_connector,
};

/// Batches of a flood in one call of the host, after which it waits a millisecond at least. The interpreters need longer for
/// a batch and make a tenth of it.
const CALLS_A_TURN: u64 = 1_000;

struct Burst {
    device: String,
    /// What a flood emits, the one or the other, and how often yet.
    batch: [DeviceReadings; 1],
    series: Vec<SeriesId>,
    values: Vec<f64>,
    left: u64,
}

impl Connector for Burst {
    fn describe() -> Description {
        Description {
            name: "burst".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            configuration_schema: "{}".into(),
            hand_over_schema: 1,
        }
    }

    fn start(setup: Setup, host: &mut dyn Host) -> Result<(Self, Wake), Fault> {
        let device = setup.instance;
        // The host learns who owns the device, so that the RPC finds us. On a workbench there is nobody to learn it.
        match host.device_connected(&device, "") {
            Ok(()) | Err(_) => {}
        }
        let batch = batch(&device, 0);
        Ok((
            Self {
                device,
                batch,
                series: Vec::new(),
                values: Vec::new(),
                left: 0,
            },
            None,
        ))
    }

    fn handle(&mut self, event: Event, host: &mut dyn Host) -> Result<Wake, Fault> {
        match event {
            Event::Timer => self.flood(host),
            Event::Rpc(request) if request.method == "flood" => {
                let [size, left] = numbers(&request)?;
                (self.batch, self.left) = (batch(&self.device, size), left);
                self.series.clear();
                Ok(Some(Duration::ZERO))
            }
            Event::Rpc(request) if request.method == "flood-series" => {
                let [size, left] = numbers(&request)?;
                self.series = (0..size)
                    .map(|number| host.series(&self.device, &format!("key-{number}")))
                    .collect::<Result<_, _>>()
                    .map_err(|error| Fault::Internal(format!("{error:?}")))?;
                self.left = left;
                Ok(Some(Duration::ZERO))
            }
            Event::Rpc(request) => self.burst(&request, host),
            Event::StreamConnected(_)
            | Event::StreamData(_)
            | Event::StreamClosed(_)
            | Event::AttributesChanged(_)
            | Event::LinkChanged(_) => Ok(None),
        }
    }

    fn stop(&mut self, _host: &mut dyn Host) -> HandOver {
        HandOver {
            schema: 1,
            bytes: Vec::new(),
        }
    }
}

fn numbers(request: &RpcRequest) -> Result<[u64; 2], Fault> {
    let numbers: Vec<u64> = request
        .params
        .trim_matches(['[', ']'])
        .split(',')
        .filter_map(|number| number.trim().parse().ok())
        .collect();
    numbers
        .try_into()
        .map_err(|_other| Fault::Configuration("params are two numbers".into()))
}

fn batch(device: &str, size: u64) -> [DeviceReadings; 1] {
    let readings = (0..size)
        .map(|number| Reading {
            key: format!("key-{number}"),
            value: Value::Double(number as f64),
            quality: Quality::Good,
            timestamp: None,
        })
        .collect();
    [DeviceReadings {
        device: device.to_owned(),
        readings,
    }]
}

impl Burst {
    fn burst(&self, request: &RpcRequest, host: &mut dyn Host) -> Result<Wake, Fault> {
        let [size, calls] = numbers(request)?;
        let batch = batch(&self.device, size);
        let (mut taken, mut refused) = (0_u64, 0_u64);
        let start = host.monotonic_ms();
        for _ in 0..calls {
            match host.emit(&batch) {
                Ok(()) => taken += 1,
                Err(_back_pressure) => refused += 1,
            }
        }
        let took_us = (host.monotonic_ms() - start) * 1_000.0;
        let answer = format!("[{taken},{refused},{took_us:.0}]");
        host.reply(request.id, &answer)
            .map_err(|error| Fault::Internal(format!("{error:?}")))?;
        Ok(None)
    }

    fn emit(&mut self, host: &mut dyn Host) -> Result<(), EmitError> {
        let [of_device] = &mut self.batch;
        for (number, reading) in of_device.readings.iter_mut().enumerate() {
            reading.value = Value::Double((self.left + number as u64) as f64);
        }
        host.emit(&self.batch)
    }

    fn emit_series(&mut self, host: &mut dyn Host) -> Result<(), EmitError> {
        self.values.clear();
        let numbers = 0..self.series.len() as u64;
        self.values
            .extend(numbers.map(|number| (self.left + number) as f64));
        host.emit_series(&self.series, &self.values, &[])
    }

    fn flood(&mut self, host: &mut dyn Host) -> Result<Wake, Fault> {
        for _ in 0..self.left.min(CALLS_A_TURN) {
            let emitted = if self.series.is_empty() {
                self.emit(host)
            } else {
                self.emit_series(host)
            };
            match emitted {
                Ok(()) => self.left -= 1,
                Err(EmitError::BackPressure(ms)) => {
                    return Ok(Some(Duration::from_millis(u64::from(ms))));
                }
                Err(EmitError::Refused(why)) => return Err(Fault::Internal(why)),
            }
        }
        Ok((self.left > 0).then_some(Duration::ZERO))
    }
}

export_connector!(Burst);
