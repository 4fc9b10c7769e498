//! The devices: readings, attributes, replies and announcements on their way into the spool.

use moorline_core::message::{DeviceName, DeviceReadings, Key, Quality, Reading, Uplink, Value};
use moorline_core::time::TimestampMs;

use super::{Event, World};
use crate::dice::Dice;
use crate::ledger::Item;

/// The wall clock at the start.
const EPOCH_MS: u64 = 1_700_000_000_000;

pub(super) fn device_name(device: usize) -> String {
    format!("device-{device}")
}

fn name(device: usize) -> DeviceName {
    DeviceName::try_new(&device_name(device)).expect("a good name")
}

fn key(dice: &mut Dice) -> Key {
    Key::try_new(dice.pick(&["a", "b", "c", "temperature"])).expect("a good key")
}

impl World {
    fn item(&mut self, device: usize, ordered: bool) -> Item {
        self.next_number[device] += 1;
        Item {
            device,
            number: self.next_number[device],
            ordered,
        }
    }

    /// A value that carries its number, sometimes with much padding.
    fn value(&mut self, number: u64, padding: usize) -> Value {
        if padding == 0 {
            Value::Integer(i64::try_from(number).unwrap_or(0))
        } else {
            Value::Text(format!("{number}:{}", "\u{e9}\"x".repeat(padding / 4)))
        }
    }

    fn readings(
        &mut self,
        device: usize,
        count: u64,
        padding: usize,
    ) -> (DeviceReadings, Vec<Item>) {
        let mut items = Vec::new();
        let mut readings = Vec::new();
        for _ in 0..count {
            let item = self.item(device, true);
            let millis = u64::try_from(self.now.since_start().as_millis()).unwrap_or(0);
            readings.push(Reading {
                key: key(&mut self.dice),
                value: self.value(item.number, padding),
                quality: self.dice.pick(&[
                    Quality::Good,
                    Quality::Good,
                    Quality::Uncertain,
                    Quality::Bad,
                ]),
                timestamp: TimestampMs(EPOCH_MS + millis),
            });
            items.push(item);
        }
        let device = name(device);
        (DeviceReadings { device, readings }, items)
    }

    fn uplink(&mut self, device: usize) -> (Uplink, Vec<Item>) {
        match self.dice.below(40) {
            0..=24 => {
                let count = 1 + self.dice.below(6);
                let (readings, items) = self.readings(device, count, 0);
                (Uplink::Telemetry(vec![readings]), items)
            }
            25..=27 => {
                // More than one publish, for most brokers.
                let (readings, items) = self.readings(device, 8, 300);
                (Uplink::Telemetry(vec![readings]), items)
            }
            28..=31 => {
                let (first, mut items) = self.readings(device, 2, 0);
                let other = (device + 1) % self.terms.devices;
                let (second, more) = self.readings(other, 3, 40);
                items.extend(more);
                (Uplink::Telemetry(vec![first, second]), items)
            }
            32 => {
                // No packet of a small broker can carry it.
                let (readings, items) = self.readings(device, 1, 3000);
                (Uplink::Telemetry(vec![readings]), items)
            }
            33 => (Uplink::Telemetry(Vec::new()), Vec::new()),
            34..=35 => self.single(device, |device, number| Uplink::Attributes {
                device,
                values: vec![(
                    Key::try_new("attribute").expect("a good key"),
                    Value::Integer(i64::try_from(number).unwrap_or(0)),
                )],
            }),
            36..=37 => self.single(device, |device, number| Uplink::RpcReply {
                device,
                request_id: number,
                body: number.to_string(),
            }),
            38 => {
                let item = self.item(device, false);
                let uplink = Uplink::DeviceConnected {
                    device: name(device),
                    profile: item.number.to_string(),
                };
                (uplink, vec![item])
            }
            _ => {
                let device = name(device);
                (Uplink::DeviceDisconnected { device }, Vec::new())
            }
        }
    }

    fn single(
        &mut self,
        device: usize,
        make: fn(DeviceName, u64) -> Uplink,
    ) -> (Uplink, Vec<Item>) {
        let item = self.item(device, true);
        (make(name(device), item.number), vec![item])
    }

    pub(super) fn produce(&mut self, device: usize) {
        let pause = self.dice.ms(200, 5000);
        self.after(pause, Event::Produce(device));
        if self.host.as_ref().is_none_or(|host| host.stopping) {
            return;
        }
        let count = if self.dice.chance(5) { 20 } else { 1 };
        let batch: Vec<_> = (0..count).map(|_| self.uplink(device)).collect();
        let streams = self.terms.streams.len() as u64;
        if streams == 1 {
            return self.append(0, batch);
        }
        // Replies overtake; the rest of a batch goes into one stream.
        let other = 1 + usize::try_from(self.dice.below(streams - 1)).unwrap_or(0);
        let (replies, rest): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .partition(|(uplink, _)| matches!(uplink, Uplink::RpcReply { .. }));
        for (stream, batch) in [(0, replies), (other, rest)] {
            if !batch.is_empty() {
                self.append(stream, batch);
            }
        }
    }
}
