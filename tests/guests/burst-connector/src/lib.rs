//! A connector for benches: an RPC `burst [BATCH,CALLS]` emits that many batches of that many readings as fast as the
//! host takes them, and answers how long it took by the guest's own clock: `[TAKEN, REFUSED, MICROSECONDS]`.

use moorline_plugin_sdk::{
    Connector, Description, DeviceReadings, Event, Fault, HandOver, Host, Quality, Reading,
    RpcRequest, Setup, Value, Wake, export_connector,
};

const DEVICE: &str = "burst";

struct Burst;

impl Connector for Burst {
    fn describe() -> Description {
        Description {
            name: "burst".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            configuration_schema: "{}".into(),
            hand_over_schema: 1,
        }
    }

    fn start(_setup: Setup, host: &mut dyn Host) -> Result<(Self, Wake), Fault> {
        // The host learns who owns the device, so that the RPC finds us.
        host.device_connected(DEVICE, "")
            .map_err(|error| Fault::Internal(format!("{error:?}")))?;
        Ok((Self, None))
    }

    fn handle(&mut self, event: Event, host: &mut dyn Host) -> Result<Wake, Fault> {
        if let Event::Rpc(request) = event {
            burst(&request, host)?;
        }
        Ok(None)
    }

    fn stop(&mut self, _host: &mut dyn Host) -> HandOver {
        HandOver {
            schema: 1,
            bytes: Vec::new(),
        }
    }
}

fn burst(request: &RpcRequest, host: &mut dyn Host) -> Result<(), Fault> {
    let numbers: Vec<u64> = request
        .params
        .trim_matches(['[', ']'])
        .split(',')
        .filter_map(|number| number.trim().parse().ok())
        .collect();
    let [batch, calls] = numbers[..] else {
        return Err(Fault::Configuration("params are [BATCH,CALLS]".into()));
    };
    let readings = (0..batch)
        .map(|number| Reading {
            key: format!("key-{number}"),
            value: Value::Double(number as f64),
            quality: Quality::Good,
            timestamp: None,
        })
        .collect();
    let batch = [DeviceReadings {
        device: DEVICE.into(),
        readings,
    }];
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
        .map_err(|error| Fault::Internal(format!("{error:?}")))
}

export_connector!(Burst);
