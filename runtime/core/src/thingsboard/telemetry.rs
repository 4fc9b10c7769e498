//! From spooled messages to publishes: readings of many devices share one publish up to the broker's packet limit.

use std::collections::BTreeMap;

use super::{
    ATTRIBUTES, CONNECT, DISCONNECT, Encoded, GATEWAY_TELEMETRY, LeftOut, Publish, RPC,
    SequenceRange, TELEMETRY, TOPICS, WhyLeftOut, attributes_payload, connect_payload,
    device_payload, gateway_payload, json_string, json_value, reply_payload,
};
use crate::message::{DeviceName, Key, Quality, Reading, Sequence, Uplink};

/// Bytes of a PUBLISH besides its payload: fixed header (5), topic length (2), the longest topic here (24), packet id
/// (2), property length (1) and a margin.
const PACKET_OVERHEAD_BYTES: usize = 48;

/// Packs messages into publishes.
///
/// Order is kept: per device always, and between telemetry and everything else, because a publish under way is closed
/// before a message of another kind.
#[derive(Debug)]
pub struct Encoder {
    payload_bytes_max: usize,
    open: OpenPublish,
    encoded: Encoded,
    scratch: Vec<u8>,
}

/// The telemetry publish being filled.
#[derive(Debug, Default)]
struct OpenPublish {
    devices: Vec<DeviceEntries>,
    index: BTreeMap<DeviceName, usize>,
    /// Exact length of the finished payload.
    bytes: usize,
    range: Option<SequenceRange>,
    readings: u32,
}

/// `"A":[{"ts":1,"values":{"k":1` — the last entry is left open for further keys of the same time.
#[derive(Debug)]
struct DeviceEntries {
    json: Vec<u8>,
    timestamp_ms: u64,
    keys: Vec<Key>,
}

/// What closes one device: `}}]`.
const DEVICE_END: &[u8] = b"}}]";

impl Encoder {
    /// An encoder for packets of at most `packet_bytes_max` bytes (the smaller of the setting and the broker's Maximum
    /// Packet Size).
    #[must_use]
    pub fn new(packet_bytes_max: usize) -> Self {
        Self {
            payload_bytes_max: packet_bytes_max.saturating_sub(PACKET_OVERHEAD_BYTES),
            open: OpenPublish::default(),
            encoded: Encoded::default(),
            scratch: Vec::new(),
        }
    }

    /// Adds the next message of the spool.
    pub fn push(&mut self, sequence: Sequence, uplink: &Uplink) {
        match uplink {
            Uplink::Telemetry(devices) => {
                for device in devices {
                    for reading in &device.readings {
                        self.push_reading(sequence, &device.device, reading);
                    }
                }
                // An empty batch must be acknowledged too, or the cursor would stop before it.
                self.open.complete(sequence);
            }
            Uplink::Attributes { device, values } => {
                self.push_single(sequence, ATTRIBUTES, attributes_payload(device, values), 0);
            }
            Uplink::DeviceConnected { device, profile } => {
                self.push_single(sequence, CONNECT, connect_payload(device, profile), 0);
            }
            Uplink::DeviceDisconnected { device } => {
                self.push_single(sequence, DISCONNECT, device_payload(device), 0);
            }
            Uplink::RpcReply {
                device,
                request_id,
                body,
            } => {
                self.push_single(sequence, RPC, reply_payload(device, *request_id, body), 0);
            }
            Uplink::Gateway { timestamp, values } => {
                self.push_single(
                    sequence,
                    GATEWAY_TELEMETRY,
                    gateway_payload(*timestamp, values),
                    0,
                );
            }
            Uplink::Letter {
                topic,
                payload,
                readings,
            } => match TOPICS.into_iter().find(|known| known == topic) {
                Some(topic) => {
                    self.push_single(sequence, topic, payload.clone().into_bytes(), *readings);
                }
                None => {
                    let publish =
                        single(sequence, TELEMETRY, payload.clone().into_bytes(), *readings);
                    self.leave_out(sequence, WhyLeftOut::Topic, publish);
                    self.open.complete(sequence);
                }
            },
        }
    }

    /// Closes the publish under way and gives everything out.
    #[must_use]
    pub fn finish(mut self) -> Encoded {
        self.close();
        self.encoded
    }

    /// Publishes that are complete; the one under way is not among them.
    #[must_use]
    pub fn complete(&self) -> usize {
        self.encoded.publishes.len()
    }

    /// Leaves the next message out, whatever it is, and gives out what would have been sent.
    pub fn set_aside(&mut self, sequence: Sequence, uplink: &Uplink) {
        self.close();
        let mut apart = Self::new(self.payload_bytes_max + PACKET_OVERHEAD_BYTES);
        apart.push(sequence, uplink);
        let encoded = apart.finish();
        let left_out = encoded.left_out.into_iter().flat_map(|left| left.publishes);
        for publish in encoded.publishes.into_iter().chain(left_out) {
            self.leave_out(sequence, WhyLeftOut::SetAside, publish);
        }
        self.open.complete(sequence);
    }

    fn push_single(
        &mut self,
        sequence: Sequence,
        topic: &'static str,
        payload: Vec<u8>,
        readings: u32,
    ) {
        self.close();
        let bytes = payload.len();
        let publish = single(sequence, topic, payload, readings);
        if bytes > self.payload_bytes_max {
            self.leave_out(sequence, WhyLeftOut::TooLarge { bytes }, publish);
            self.open.complete(sequence);
        } else {
            self.encoded.publishes.push(publish);
        }
    }

    fn push_reading(&mut self, sequence: Sequence, device: &DeviceName, reading: &Reading) {
        self.scratch.clear();
        json_string(reading.key.as_str(), &mut self.scratch);
        self.scratch.push(b':');
        json_value(&reading.value, &mut self.scratch);
        let quality = match reading.quality {
            Quality::Good => None,
            Quality::Uncertain => Some("uncertain"),
            Quality::Bad => Some("bad"),
        };
        if let Some(quality) = quality {
            self.scratch.push(b',');
            json_string(&format!("{}_quality", reading.key), &mut self.scratch);
            self.scratch
                .extend_from_slice(format!(":\"{quality}\"").as_bytes());
        }
        if !self
            .open
            .try_add(device, reading, &self.scratch, self.payload_bytes_max)
        {
            self.close();
            if !self
                .open
                .try_add(device, reading, &self.scratch, self.payload_bytes_max)
            {
                let mut alone = OpenPublish::default();
                // With room without end it is always added.
                if alone.try_add(device, reading, &self.scratch, usize::MAX) {
                    let bytes = self.scratch.len();
                    let publish = single(sequence, TELEMETRY, alone.payload(), 1);
                    self.leave_out(sequence, WhyLeftOut::TooLarge { bytes }, publish);
                }
                return;
            }
        }
        self.open.begin(sequence);
        self.open.readings += 1;
    }

    fn leave_out(&mut self, sequence: Sequence, why: WhyLeftOut, publish: Publish) {
        match self.encoded.left_out.last_mut() {
            Some(last) if last.sequence == sequence => last.publishes.push(publish),
            _ => self.encoded.left_out.push(LeftOut {
                sequence,
                why,
                publishes: vec![publish],
            }),
        }
    }

    fn close(&mut self) {
        let open = std::mem::take(&mut self.open);
        let Some(range) = open.range else { return };
        self.encoded.publishes.push(Publish {
            topic: TELEMETRY,
            payload: open.payload(),
            range: Some(range),
            readings: open.readings,
        });
    }
}

/// A publish that carries one message, or a part that is told alone.
fn single(sequence: Sequence, topic: &'static str, payload: Vec<u8>, readings: u32) -> Publish {
    Publish {
        topic,
        payload,
        range: Some(SequenceRange {
            first: sequence,
            last: sequence,
        }),
        readings,
    }
}

impl OpenPublish {
    fn payload(&self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(self.bytes + 2);
        payload.push(b'{');
        for (index, device) in self.devices.iter().enumerate() {
            if index > 0 {
                payload.push(b',');
            }
            payload.extend_from_slice(&device.json);
            payload.extend_from_slice(DEVICE_END);
        }
        payload.push(b'}');
        payload
    }

    /// A part of this message is in it.
    fn begin(&mut self, sequence: Sequence) -> &mut SequenceRange {
        self.range.get_or_insert(SequenceRange {
            first: sequence,
            last: Sequence(sequence.0.saturating_sub(1)),
        })
    }

    /// All of this message is in it, or in publishes before it.
    fn complete(&mut self, sequence: Sequence) {
        self.begin(sequence).last = sequence;
    }

    /// Adds `"key":value` unless the payload would grow past `bytes_max`.
    fn try_add(
        &mut self,
        device: &DeviceName,
        reading: &Reading,
        pair: &[u8],
        bytes_max: usize,
    ) -> bool {
        let timestamp_ms = reading.timestamp.0;
        let braces = 2;
        if let Some(&at) = self.index.get(device) {
            let entries = &mut self.devices[at];
            let same_entry =
                entries.timestamp_ms == timestamp_ms && !entries.keys.contains(&reading.key);
            let opening = if same_entry {
                ",".to_owned()
            } else {
                format!("}}}},{}", entry_opening(timestamp_ms))
            };
            let added = opening.len() + pair.len();
            if self.bytes + added + braces > bytes_max {
                return false;
            }
            if !same_entry {
                entries.keys.clear();
                entries.timestamp_ms = timestamp_ms;
            }
            entries.json.extend_from_slice(opening.as_bytes());
            entries.json.extend_from_slice(pair);
            entries.keys.push(reading.key.clone());
            self.bytes += added;
            return true;
        }
        let mut json = Vec::with_capacity(pair.len() + 64);
        json_string(device.as_str(), &mut json);
        json.extend_from_slice(b":[");
        json.extend_from_slice(entry_opening(timestamp_ms).as_bytes());
        json.extend_from_slice(pair);
        let comma = usize::from(!self.devices.is_empty());
        let added = json.len() + DEVICE_END.len() + comma;
        if self.bytes + added + braces > bytes_max {
            return false;
        }
        self.index.insert(device.clone(), self.devices.len());
        self.devices.push(DeviceEntries {
            json,
            timestamp_ms,
            keys: vec![reading.key.clone()],
        });
        self.bytes += added;
        true
    }
}

fn entry_opening(timestamp_ms: u64) -> String {
    format!("{{\"ts\":{timestamp_ms},\"values\":{{")
}
