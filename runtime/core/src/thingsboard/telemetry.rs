//! From spooled messages to publishes: readings of many devices share one publish up to the broker's packet limit.

use std::collections::BTreeMap;

use super::{
    ATTRIBUTES, CONNECT, DISCONNECT, Encoded, GATEWAY_TELEMETRY, LeftOut, Publish, RPC,
    SequenceRange, TELEMETRY, TOPICS, WhyLeftOut, attributes_payload, connect_payload,
    device_payload, gateway_payload, json_string, json_value, reply_payload,
};
use crate::identity::{Identity, Mark};
use crate::message::{DeviceName, Key, Qos, Quality, Reading, Sequence, StreamId, Uplink};

/// Bytes of a PUBLISH besides its payload: fixed header (5), topic length (2), the longest topic here (24), packet id
/// (2), property length (1) and a margin.
const PACKET_OVERHEAD_BYTES: usize = 48;

/// What messages must have in common to share a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Run {
    /// How surely they must arrive.
    pub qos: Qos,
    /// They waited while the link was away.
    pub historical: bool,
    /// Where they come from.
    pub stream: StreamId,
}

/// Where a message stands: in the order in which the link gets them, and in its own stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// In the link's order.
    pub turn: Sequence,
    /// In its stream.
    pub sequence: Sequence,
}

/// With one stream both are the same.
impl From<Sequence> for Place {
    fn from(sequence: Sequence) -> Self {
        Self {
            turn: sequence,
            sequence,
        }
    }
}

/// Packs messages into publishes.
///
/// Order is kept: per device always, and between telemetry and everything else, because a publish under way is closed
/// before a message of another kind. It is closed, too, before a message that is not the next one of its stream, so that
/// its name ([`Identity`]) can be a range.
#[derive(Debug)]
pub struct Encoder {
    payload_bytes_max: usize,
    run: Run,
    /// Where a new publish must begin, the nearest last.
    breaks: Vec<Mark>,
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
    carried: Option<Carried>,
    readings: u32,
}

/// What is in a publish, in both counts.
#[derive(Clone, Copy, Debug)]
struct Carried {
    range: SequenceRange,
    first: Mark,
    last: Sequence,
    through: Option<u32>,
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
            run: Run::default(),
            breaks: Vec::new(),
            open: OpenPublish::default(),
            encoded: Encoded::default(),
            scratch: Vec::new(),
        }
    }

    /// Begins new publishes at these places, which are in order: where they began before.
    pub fn keep_grouping(&mut self, breaks: impl Iterator<Item = Mark>) {
        self.breaks = breaks.collect();
        self.breaks.reverse();
    }

    /// What is pushed from here on has this in common, and shares no publish with what was pushed before.
    pub fn begin(&mut self, run: Run) {
        if run != self.run {
            self.close();
            self.run = run;
        }
    }

    /// Adds the next message of the spool.
    pub fn push(&mut self, place: impl Into<Place>, uplink: &Uplink) {
        let place = place.into();
        match uplink {
            Uplink::Telemetry(devices) => {
                self.keep_range(place);
                let mut index = 0;
                for device in devices {
                    for reading in &device.readings {
                        self.push_reading(place, index, &device.device, reading);
                        index += 1;
                    }
                }
                self.keep_break(place.turn, index);
                // An empty batch must be acknowledged too, or the cursor would stop before it.
                self.open.complete(place, index);
            }
            Uplink::Attributes { device, values } => {
                self.push_single(place, ATTRIBUTES, attributes_payload(device, values), 0);
            }
            Uplink::DeviceConnected { device, profile } => {
                self.push_single(place, CONNECT, connect_payload(device, profile), 0);
            }
            Uplink::DeviceDisconnected { device } => {
                self.push_single(place, DISCONNECT, device_payload(device), 0);
            }
            Uplink::RpcReply {
                device,
                request_id,
                body,
            } => {
                self.push_single(place, RPC, reply_payload(device, *request_id, body), 0);
            }
            Uplink::Gateway { timestamp, values } => {
                self.push_single(
                    place,
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
                    self.push_single(place, topic, payload.clone().into_bytes(), *readings);
                }
                None => {
                    let bytes = payload.clone().into_bytes();
                    let publish = self.single(place, TELEMETRY, bytes, *readings);
                    self.leave_out(place.turn, WhyLeftOut::Topic, publish);
                    self.open.complete(place, 0);
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
    pub fn set_aside(&mut self, place: impl Into<Place>, uplink: &Uplink) {
        let place = place.into();
        self.close();
        let mut apart = Self::new(self.payload_bytes_max + PACKET_OVERHEAD_BYTES);
        apart.run = self.run;
        apart.push(place, uplink);
        let encoded = apart.finish();
        let left_out = encoded.left_out.into_iter().flat_map(|left| left.publishes);
        for publish in encoded.publishes.into_iter().chain(left_out) {
            self.leave_out(place.turn, WhyLeftOut::SetAside, publish);
        }
        self.open.complete(place, 0);
    }

    fn push_single(&mut self, place: Place, topic: &'static str, payload: Vec<u8>, readings: u32) {
        self.close();
        let bytes = payload.len();
        let publish = self.single(place, topic, payload, readings);
        if bytes > self.payload_bytes_max {
            self.leave_out(place.turn, WhyLeftOut::TooLarge { bytes }, publish);
            self.open.complete(place, 0);
        } else {
            self.encoded.publishes.push(publish);
        }
    }

    fn push_reading(&mut self, place: Place, index: u32, device: &DeviceName, reading: &Reading) {
        self.keep_break(place.turn, index);
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
                    let publish = self.single(place, TELEMETRY, alone.payload(), 1);
                    self.leave_out(place.turn, WhyLeftOut::TooLarge { bytes }, publish);
                }
                return;
            }
        }
        let carried = self.open.begin(place, index);
        carried.last = place.sequence;
        carried.through = Some(index + 1);
        self.open.readings += 1;
    }

    /// A name is a range: what does not follow what is in the publish begins the next one.
    fn keep_range(&mut self, place: Place) {
        if self
            .open
            .carried
            .is_some_and(|carried| carried.last.next() != place.sequence)
        {
            self.close();
        }
    }

    fn keep_break(&mut self, turn: Sequence, reading: u32) {
        let here = Mark {
            sequence: turn,
            reading,
        };
        while self.breaks.last().is_some_and(|mark| *mark <= here) {
            self.breaks.pop();
            self.close();
        }
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
        let Some(carried) = open.carried else { return };
        self.encoded.publishes.push(Publish {
            topic: TELEMETRY,
            payload: open.payload(),
            range: Some(carried.range),
            readings: open.readings,
            qos: self.run.qos,
            identity: Some(carried.identity(self.run)),
        });
    }

    /// A publish that carries one message, or a part that is told alone.
    fn single(
        &self,
        place: Place,
        topic: &'static str,
        payload: Vec<u8>,
        readings: u32,
    ) -> Publish {
        let mut carried = Carried::from(place, 0);
        carried.range.last = place.turn;
        Publish {
            topic,
            payload,
            range: Some(carried.range),
            readings,
            qos: self.run.qos,
            identity: Some(carried.identity(self.run)),
        }
    }
}

impl Carried {
    /// Begins here, and ends nothing.
    const fn from(place: Place, reading: u32) -> Self {
        Self {
            range: SequenceRange {
                first: place.turn,
                last: Sequence(place.turn.0.saturating_sub(1)),
            },
            first: Mark {
                sequence: place.sequence,
                reading,
            },
            last: place.sequence,
            through: None,
        }
    }

    const fn identity(&self, run: Run) -> Identity {
        Identity {
            stream: run.stream,
            first: self.first,
            last: self.last,
            through: self.through,
            historical: run.historical,
        }
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

    /// A part of this message is in it, from this reading on.
    fn begin(&mut self, place: Place, reading: u32) -> &mut Carried {
        self.carried
            .get_or_insert_with(|| Carried::from(place, reading))
    }

    /// All of this message, which has so many readings, is in it, or in publishes before it.
    fn complete(&mut self, place: Place, readings: u32) {
        let carried = self.begin(place, readings);
        carried.range.last = place.turn;
        carried.last = place.sequence;
        carried.through = None;
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
