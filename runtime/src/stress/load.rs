//! Readings at a steady rate into the spool, as connectors would emit them.

use std::time::Duration;

use moorline_core::message::{
    DeviceName, DeviceReadings, Key, NameError, Quality, Reading, Uplink, Value,
};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::clock::Clock;
use crate::spool::{AppendRefused, Appender};

/// A batch is emitted this often.
const TICK: Duration = Duration::from_millis(100);
const TICKS_PER_S: u32 = 10;
/// The readings' key; its values count up.
const KEY: &str = "serial";
/// The devices' names begin with this, so that they are found on the platform afterwards.
pub(crate) const DEVICE_PREFIX: &str = "moorline-stress-";

/// What became of the load so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Loaded {
    /// Readings the spool accepted.
    pub(super) accepted: u64,
    /// Times a batch had to be offered again: the spool was behind.
    pub(super) back_pressure: u64,
    /// Readings given up because the disk refused them.
    pub(super) refused: u64,
}

/// A steady source.
#[derive(Debug)]
pub(super) struct Load {
    devices: Vec<DeviceName>,
    key: Key,
    readings_per_s: u32,
    serial: i64,
    /// Readings owed, in tenths.
    owed: u32,
}

impl Load {
    /// `readings_per_s` over `devices` devices.
    pub(super) fn new(readings_per_s: u32, devices: u32) -> Result<Self, NameError> {
        let names =
            (1..=devices).map(|number| DeviceName::try_new(&format!("{DEVICE_PREFIX}{number}")));
        Ok(Self {
            devices: names.collect::<Result<_, _>>()?,
            key: Key::try_new(KEY)?,
            readings_per_s,
            serial: 0,
            owed: 0,
        })
    }

    /// Emits until the spool is closed.
    pub(super) async fn run(
        mut self,
        appender: Appender,
        clock: Clock,
        told: watch::Sender<Loaded>,
    ) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            let Some(batch) = self.batch(clock) else {
                continue;
            };
            if !offer(&appender, batch, &told).await {
                return;
            }
        }
    }

    /// What is due now, spread over the devices.
    fn batch(&mut self, clock: Clock) -> Option<Uplink> {
        self.owed += self.readings_per_s;
        let count = self.owed / TICKS_PER_S;
        self.owed %= TICKS_PER_S;
        if count == 0 {
            return None;
        }
        let timestamp = clock.wall();
        let mut batch: Vec<DeviceReadings> = Vec::new();
        for _ in 0..count {
            self.serial += 1;
            let index = usize::try_from(self.serial).unwrap_or(0) % self.devices.len();
            let device = &self.devices[index];
            let reading = Reading {
                key: self.key.clone(),
                value: Value::Integer(self.serial),
                quality: Quality::Good,
                timestamp,
            };
            match batch.iter_mut().find(|entry| entry.device == *device) {
                Some(entry) => entry.readings.push(reading),
                None => batch.push(DeviceReadings {
                    device: device.clone(),
                    readings: vec![reading],
                }),
            }
        }
        Some(Uplink::Telemetry(batch))
    }
}

/// Offers until it is taken or can never be; false when the spool is closed.
async fn offer(appender: &Appender, batch: Uplink, told: &watch::Sender<Loaded>) -> bool {
    let readings = batch.readings();
    loop {
        match appender.append(batch.clone()).await {
            Ok(_sequence) => {
                told.send_modify(|loaded| loaded.accepted += readings);
                return true;
            }
            Err(AppendRefused::Behind { retry_after }) => {
                told.send_modify(|loaded| loaded.back_pressure += 1);
                tokio::time::sleep(retry_after).await;
            }
            Err(AppendRefused::Closed) => return false,
            Err(AppendRefused::TooLarge | AppendRefused::Storage(_)) => {
                told.send_modify(|loaded| loaded.refused += readings);
                return true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_of_ticks_gives_a_second_of_readings() {
        for rate in [1, 9, 10, 99, 1_000] {
            let mut load = Load::new(rate, 3).unwrap();
            let clock = Clock::start();
            let readings: u64 = (0..TICKS_PER_S)
                .filter_map(|_tick| load.batch(clock))
                .map(|batch| batch.readings())
                .sum();
            assert_eq!(readings, u64::from(rate));
        }
    }
}
