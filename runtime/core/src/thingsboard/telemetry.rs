//! From spooled messages to publishes: readings of many devices share one publish up to the broker's packet limit.

mod open_publish;

use super::json::{
    attributes_payload, connect_payload, device_payload, gateway_payload, json_object,
    reply_payload,
};
use super::limits::{Cost, Opened};
use super::{
    ATTRIBUTES, CONNECT, DISCONNECT, Encoded, GATEWAY_ATTRIBUTES, GATEWAY_TELEMETRY, LeftOut,
    Publish, RPC, SequenceRange, TELEMETRY, TOPICS, WhyLeftOut,
};
use crate::identity::{Identity, Mark};
use crate::message::{DeviceName, DeviceReadings, Qos, Reading, Sequence, StreamId, Uplink};
use open_publish::OpenPublish;

/// Bytes of a PUBLISH besides its payload: fixed header (5), topic length (2), the longest topic here (24), packet id
/// (2), property length (1) and a margin.
const PACKET_OVERHEAD_BYTES: usize = 48;

/// How large a publish may get. A reading that is too much alone goes alone, unless it is its bytes that are too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bytes of the packet.
    pub packet_bytes_max: usize,
    /// Bytes of a packet that carries what can be divided, at most [`Shape::packet_bytes_max`].
    pub packed_bytes_max: usize,
    /// Readings.
    pub readings_max: u32,
    /// What it may count as against the platform's limits.
    pub cost_max: Cost,
}

impl Shape {
    /// Only the packet is bounded: by the smaller of the setting and the broker's Maximum Packet Size.
    #[must_use]
    pub const fn of_packets(packet_bytes_max: usize) -> Self {
        Self {
            packet_bytes_max,
            packed_bytes_max: packet_bytes_max,
            readings_max: u32::MAX,
            cost_max: Cost::UNBOUNDED,
        }
    }

    const fn payload_bytes_max(&self) -> usize {
        self.packet_bytes_max.saturating_sub(PACKET_OVERHEAD_BYTES)
    }

    const fn packed_payload_bytes_max(&self) -> usize {
        self.packed_bytes_max.saturating_sub(PACKET_OVERHEAD_BYTES)
    }

    /// The shape for what cannot be divided.
    const fn undivided(self) -> Self {
        Self {
            packed_bytes_max: self.packet_bytes_max,
            ..self
        }
    }
}

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
    shape: Shape,
    opened: Opened,
    run: Run,
    /// Where a new publish must begin, the nearest last.
    breaks: Vec<Mark>,
    open: OpenPublish,
    /// Bytes of the last payload: the next one begins with as much room.
    payload_bytes: usize,
    encoded: Encoded,
}

/// What is in a publish, in both counts.
#[derive(Clone, Copy, Debug)]
struct Carried {
    range: SequenceRange,
    first: Mark,
    last: Sequence,
    through: Option<u32>,
}

impl Encoder {
    /// An encoder for packets of at most `packet_bytes_max` bytes, without other limits.
    #[must_use]
    pub fn new(packet_bytes_max: usize) -> Self {
        Self::shaped(Shape::of_packets(packet_bytes_max), Opened::default())
    }

    /// An encoder for publishes of this shape, in a session in which the platform has heard of the devices `opened`.
    #[must_use]
    pub fn shaped(shape: Shape, opened: Opened) -> Self {
        Self {
            shape,
            opened,
            run: Run::default(),
            breaks: Vec::new(),
            open: OpenPublish::default(),
            payload_bytes: 0,
            encoded: Encoded::default(),
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
                    index = self.push_readings(place, index, device);
                }
                self.keep_break(place.turn, index);
                // An empty batch must be acknowledged too, or the cursor would stop before it.
                self.open.complete(place, index);
            }
            Uplink::Attributes { device, values } => {
                let cost = Cost::telemetry(values.len()).and(self.opened.open(device));
                let payload = attributes_payload(device, values);
                self.push_single(place, self.single(place, ATTRIBUTES, payload, cost));
            }
            Uplink::DeviceConnected { device, profile } => {
                let cost = Cost::message().and(self.opened.open(device));
                let payload = connect_payload(device, profile);
                self.push_single(place, self.single(place, CONNECT, payload, cost));
            }
            Uplink::DeviceDisconnected { device } => {
                self.opened.close(device);
                let payload = device_payload(device);
                self.push_single(
                    place,
                    self.single(place, DISCONNECT, payload, Cost::message()),
                );
            }
            Uplink::RpcReply {
                device,
                request_id,
                body,
            } => {
                let cost = Cost::message().and(self.opened.open(device));
                let payload = reply_payload(device, *request_id, body);
                self.push_single(place, self.single(place, RPC, payload, cost));
            }
            Uplink::Gateway { timestamp, values } => {
                let cost = Cost::telemetry(values.len()).of_itself();
                let payload = gateway_payload(*timestamp, values);
                self.push_single(place, self.single(place, GATEWAY_TELEMETRY, payload, cost));
            }
            Uplink::GatewayAttributes { values } => {
                let cost = Cost::telemetry(values.len()).of_itself();
                let mut payload = Vec::new();
                json_object(values, &mut payload);
                self.push_single(place, self.single(place, GATEWAY_ATTRIBUTES, payload, cost));
            }
            Uplink::Letter {
                topic,
                payload,
                readings,
            } => self.push_letter(place, topic, payload, *readings),
        }
    }

    /// Closes the publish under way and gives everything out.
    #[must_use]
    pub fn finish(mut self) -> Encoded {
        self.close();
        self.encoded
    }

    /// Gives out what is complete; the publish under way is filled further.
    #[must_use]
    pub fn take(&mut self) -> Encoded {
        std::mem::take(&mut self.encoded)
    }

    /// Whether a publish is under way.
    #[must_use]
    pub const fn is_filling(&self) -> bool {
        self.open.carried.is_some()
    }

    /// The devices the platform has heard of once everything taken in is sent.
    #[must_use]
    pub fn into_opened(self) -> Opened {
        self.opened
    }

    /// Leaves the next message out, whatever it is, and gives out what would have been sent.
    pub fn set_aside(&mut self, place: impl Into<Place>, uplink: &Uplink) {
        let place = place.into();
        self.close();
        let mut apart = Self::new(self.shape.packet_bytes_max);
        apart.run = self.run;
        apart.push(place, uplink);
        let encoded = apart.finish();
        let left_out = encoded.left_out.into_iter().flat_map(|left| left.publishes);
        for publish in encoded.publishes.into_iter().chain(left_out) {
            self.leave_out(place.turn, WhyLeftOut::SetAside, publish);
        }
        self.open.complete(place, 0);
    }

    fn push_single(&mut self, place: Place, publish: Publish) {
        self.close();
        let bytes = publish.payload.len();
        if bytes > self.shape.payload_bytes_max() {
            self.leave_out(place.turn, WhyLeftOut::TooLarge { bytes }, publish);
            self.open.complete(place, 0);
        } else {
            self.encoded.publishes.push(publish);
        }
    }

    fn push_letter(&mut self, place: Place, topic: &str, payload: &str, readings: u32) {
        let known = TOPICS.into_iter().find(|known| *known == topic);
        let cost = match known {
            Some(TELEMETRY | ATTRIBUTES) => Cost::of_text(payload, readings),
            Some(GATEWAY_TELEMETRY | GATEWAY_ATTRIBUTES) => Cost::telemetry(1).of_itself(),
            Some(_) | None => Cost::message(),
        };
        let topic = known.unwrap_or(TELEMETRY);
        let publish = Publish {
            readings,
            ..self.single(place, topic, payload.into(), cost)
        };
        if known.is_some() {
            self.push_single(place, publish);
        } else {
            self.leave_out(place.turn, WhyLeftOut::Topic, publish);
            self.open.complete(place, 0);
        }
    }

    /// Adds the readings of one device, the first of which is number `index` of its message; the number after the last.
    fn push_readings(&mut self, place: Place, mut index: u32, readings: &DeviceReadings) -> u32 {
        let DeviceReadings { device, readings } = readings;
        let mut opening = self.opened.opening(device);
        self.open.turn_to(device);
        for reading in readings {
            self.keep_break(place.turn, index);
            let about = (device, opening);
            let shape = self.shape;
            let added = self.add(reading, about, &shape) || {
                self.close();
                // Alone in its publish, it may be as large as a packet can be.
                self.add(reading, about, &shape.undivided())
            };
            if added {
                if opening != Cost::NOTHING {
                    opening = Cost::NOTHING;
                    self.opened.open(device);
                }
                let carried = self.open.begin(place, index);
                carried.last = place.sequence;
                carried.through = Some(index + 1);
                self.open.readings += 1;
            } else {
                self.leave_out_reading(place, (device, opening), reading);
            }
            index += 1;
        }
        index
    }

    fn add(&mut self, reading: &Reading, about: (&DeviceName, Cost), shape: &Shape) -> bool {
        self.open.try_add(reading, about, shape, self.payload_bytes)
    }

    /// No packet can carry it.
    fn leave_out_reading(&mut self, place: Place, about: (&DeviceName, Cost), reading: &Reading) {
        let mut alone = OpenPublish::default();
        let endless = Shape::of_packets(usize::MAX);
        // With room without end it is always added.
        if alone.try_add(reading, about, &endless, 0) {
            let bytes = open_publish::pair_bytes(reading);
            let cost = alone.cost;
            let publish = Publish {
                readings: 1,
                ..self.single(place, TELEMETRY, alone.into_payload(), cost)
            };
            self.leave_out(place.turn, WhyLeftOut::TooLarge { bytes }, publish);
        }
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

    /// Closes the publish under way.
    pub fn close(&mut self) {
        let open = std::mem::take(&mut self.open);
        let Some(carried) = open.carried else { return };
        let (readings, cost) = (open.readings, open.cost);
        let payload = open.into_payload();
        self.payload_bytes = payload.len();
        self.encoded.publishes.push(Publish {
            topic: TELEMETRY,
            payload,
            range: Some(carried.range),
            readings,
            cost,
            qos: self.run.qos,
            identity: Some(carried.identity(self.run)),
        });
    }

    /// A publish that carries one message, or a part that is told alone.
    fn single(&self, place: Place, topic: &'static str, payload: Vec<u8>, cost: Cost) -> Publish {
        let mut carried = Carried::from(place, 0);
        carried.range.last = place.turn;
        Publish {
            topic,
            payload,
            range: Some(carried.range),
            readings: 0,
            cost,
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
