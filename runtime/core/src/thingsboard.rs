//! The ThingsBoard MQTT gateway dialect: topics and payloads, both ways.
//!
//! ```text
//!  up    v1/gateway/connect      {"device":"A","type":"profile"}
//!  up    v1/gateway/disconnect   {"device":"A"}
//!  up    v1/gateway/telemetry    {"A":[{"ts":ms,"values":{"k":v}}],"B":[…]}
//!  up    v1/gateway/attributes   {"A":{"k":v}}
//!  up    v1/gateway/rpc          {"device":"A","id":1,"data":…}
//!  up    v1/devices/me/telemetry {"ts":ms,"values":{"k":v}}          of the gateway itself
//!  up    v1/devices/me/attributes {"k":v}                           of the gateway itself
//!  down  v1/gateway/rpc          {"device":"A","data":{"id":1,"method":"m","params":…}}
//!  down  v1/gateway/attributes   {"device":"A","data":{"k":v}}   or   {"device":"A","data":{"deleted":["k"]}}
//! ```
//!
//! Source: the ThingsBoard "MQTT Gateway API" reference. ThingsBoard knows no quality: a reading that is not good is
//! followed, in the same `values`, by `"<key>_quality":"uncertain"` or `"bad"`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::identity::{Identity, Mark};
use crate::message::{DeviceName, Downlink, Key, NameError, Qos, Sequence, Uplink, Value};

mod json;
pub mod limits;
mod telemetry;
#[cfg(test)]
mod tests;

use json::connect_payload;
use limits::{Cost, Opened};
pub use telemetry::{Encoder, Place, Run, Shape};

const CONNECT: &str = "v1/gateway/connect";
const DISCONNECT: &str = "v1/gateway/disconnect";
const TELEMETRY: &str = "v1/gateway/telemetry";
const ATTRIBUTES: &str = "v1/gateway/attributes";
const RPC: &str = "v1/gateway/rpc";
const GATEWAY_TELEMETRY: &str = "v1/devices/me/telemetry";
const GATEWAY_ATTRIBUTES: &str = "v1/devices/me/attributes";

/// What a gateway publishes on.
const TOPICS: [&str; 7] = [
    CONNECT,
    DISCONNECT,
    TELEMETRY,
    ATTRIBUTES,
    RPC,
    GATEWAY_TELEMETRY,
    GATEWAY_ATTRIBUTES,
];

/// Of these, those on which an empty object says nothing to the platform, the most needed first: what is tried of an access
/// rule can be tried there.
pub const HARMLESS_TOPICS: [&str; 4] =
    [TELEMETRY, ATTRIBUTES, GATEWAY_TELEMETRY, GATEWAY_ATTRIBUTES];

/// What a session subscribes to, with the QoS asked for.
pub const SUBSCRIPTIONS: [(&str, u8); 2] = [(RPC, 1), (ATTRIBUTES, 1)];

/// The spooled messages a publish carries.
///
/// A message too large for one publish is spread over several that all begin with it; only the one that carries its end
/// names it as `last`, so that no acknowledgement of a part settles the whole. The cursor is the highest acknowledged
/// `last`, but before the oldest unacknowledged `first`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceRange {
    /// The first message of which it carries something.
    pub first: Sequence,
    /// The last message that ends in it; the one before `first` when none does.
    pub last: Sequence,
}

/// One PUBLISH, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// The topic.
    pub topic: &'static str,
    /// The payload.
    pub payload: Vec<u8>,
    /// The messages it carries; none for an announcement made after a reconnect.
    pub range: Option<SequenceRange>,
    /// How many readings it carries.
    pub readings: u32,
    /// What it counts as against the platform's limits.
    pub cost: Cost,
    /// How surely it must arrive.
    pub qos: Qos,
    /// What it is called; nothing for an announcement made after a reconnect.
    pub identity: Option<Identity>,
}

impl Publish {
    /// Where it begins and the last turn that is whole in it, for [`Grouping`](crate::identity::Grouping).
    #[must_use]
    pub fn bounds(&self) -> Option<(Mark, Option<Sequence>)> {
        let (range, identity) = (self.range?, self.identity?);
        let begins = Mark {
            sequence: range.first,
            reading: identity.first.reading,
        };
        Some((begins, identity.through.is_none().then_some(range.last)))
    }
}

/// A message, or a part of one, that is not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Its place in the spool.
    pub sequence: Sequence,
    /// Why.
    pub why: WhyLeftOut,
    /// What would have been sent.
    pub publishes: Vec<Publish>,
}

/// Why a message is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyLeftOut {
    /// Its smallest indivisible part takes so many bytes, and no packet the broker takes can carry them.
    TooLarge {
        /// Bytes of the payload.
        bytes: usize,
    },
    /// A dead letter that was changed by hand to a topic a gateway does not publish on.
    Topic,
    /// The caller set it aside.
    SetAside,
}

impl LeftOut {
    /// Readings in it; zero when it is not telemetry.
    #[must_use]
    pub fn readings(&self) -> u32 {
        self.publishes.iter().map(|publish| publish.readings).sum()
    }
}

/// What encoding a run of messages gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// In the order in which they must be sent.
    pub publishes: Vec<Publish>,
    /// What is not sent, for the dead letters; at most one for each message.
    pub left_out: Vec<LeftOut>,
}

/// The devices the platform must know about, so that a new session can announce them again.
///
/// Without it, RPC and shared attributes for quiet devices stop after a reconnect.
#[derive(Clone, Debug, Default)]
pub struct Announced {
    devices: BTreeMap<DeviceName, String>,
}

impl Announced {
    /// Takes note of a message on its way up.
    pub fn observe(&mut self, uplink: &Uplink) {
        match uplink {
            Uplink::DeviceConnected { device, profile } => {
                self.devices.insert(device.clone(), profile.clone());
            }
            Uplink::DeviceDisconnected { device } => {
                self.devices.remove(device);
            }
            Uplink::Telemetry(_)
            | Uplink::Attributes { .. }
            | Uplink::RpcReply { .. }
            | Uplink::Gateway { .. }
            | Uplink::GatewayAttributes { .. }
            | Uplink::Letter { .. } => {}
        }
    }

    /// One announcement for each device that is connected, for the start of a session, which has `opened` no other.
    pub fn announcements<'a>(
        &'a self,
        opened: &'a mut Opened,
    ) -> impl Iterator<Item = Publish> + 'a {
        self.devices.iter().map(|(device, profile)| Publish {
            topic: CONNECT,
            payload: connect_payload(device, profile),
            range: None,
            readings: 0,
            cost: Cost::message().and(opened.open(device)),
            qos: Qos::AtLeastOnce,
            identity: None,
        })
    }
}

/// Why a message from the platform is not understood. It is logged and counted; the link goes on.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// A message of ours: a server that does not know No Local sends them back, because both ways share a topic.
    #[error("our own message came back")]
    Echo,
    /// Nothing is subscribed that would deliver this topic.
    #[error("topic {0:?} is not one of the gateway API")]
    Topic(String),
    /// The payload is not the JSON the topic promises.
    #[error("payload is not what the gateway API promises: {0}")]
    Payload(#[from] serde_json::Error),
    /// The device name or an attribute key cannot be used.
    #[error("device or attribute name {0}")]
    Name(#[from] NameError),
}

#[derive(Deserialize)]
struct RpcEnvelope<'a> {
    device: String,
    /// Only a reply has it here; a request has it inside `data`.
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Deserialize)]
struct RpcData<'a> {
    id: u64,
    method: String,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
}

type OwnAttributes = BTreeMap<String, serde_json::Map<String, serde_json::Value>>;

#[derive(Deserialize)]
struct AttributesEnvelope {
    device: String,
    data: serde_json::Map<String, serde_json::Value>,
}

/// Understands a PUBLISH from the platform.
///
/// # Errors
/// When the topic is foreign or the payload is not what the topic promises.
pub fn decode(topic: &str, payload: &[u8]) -> Result<Downlink, DecodeError> {
    match topic {
        RPC => {
            let envelope: RpcEnvelope<'_> = serde_json::from_slice(payload)?;
            if envelope.id.is_some() {
                return Err(DecodeError::Echo);
            }
            let data: RpcData<'_> = serde_json::from_str(envelope.data.get())?;
            Ok(Downlink::Rpc {
                device: DeviceName::try_new(&envelope.device)?,
                request_id: data.id,
                method: data.method,
                params: data.params.map_or("null", RawValue::get).to_owned(),
            })
        }
        ATTRIBUTES => match serde_json::from_slice(payload) {
            Ok(envelope) => decode_attributes(envelope),
            // Client attributes go up as `{"press-1":{"model":"X"}}`.
            Err(_) if serde_json::from_slice::<OwnAttributes>(payload).is_ok() => {
                Err(DecodeError::Echo)
            }
            Err(error) => Err(error.into()),
        },
        other => Err(DecodeError::Topic(other.chars().take(128).collect())),
    }
}

fn decode_attributes(envelope: AttributesEnvelope) -> Result<Downlink, DecodeError> {
    let device = DeviceName::try_new(&envelope.device)?;
    let mut changed = Vec::new();
    let mut deleted = Vec::new();
    for (key, value) in envelope.data {
        match deletions(&key, &value) {
            Some(keys) => {
                for key in keys {
                    deleted.push(Key::try_new(key)?);
                }
            }
            None => changed.push((Key::try_new(&key)?, value_from_json(value))),
        }
    }
    Ok(Downlink::SharedAttributes {
        device,
        changed,
        deleted,
    })
}

/// The keys named by `"deleted":["k"]`. A shared attribute that is itself called "deleted" is told apart only by not
/// being a list of strings; the platform's API leaves no better way.
fn deletions<'a>(key: &str, value: &'a serde_json::Value) -> Option<Vec<&'a str>> {
    if key != "deleted" {
        return None;
    }
    value
        .as_array()?
        .iter()
        .map(serde_json::Value::as_str)
        .collect()
}

fn value_from_json(value: serde_json::Value) -> Value {
    match value {
        serde_json::Value::Bool(boolean) => Value::Boolean(boolean),
        serde_json::Value::String(text) => Value::Text(text),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => Value::Integer(integer),
            (None, Some(double)) => Value::Double(double),
            (None, None) => Value::Json(number.to_string()),
        },
        document @ (serde_json::Value::Null
        | serde_json::Value::Array(_)
        | serde_json::Value::Object(_)) => Value::Json(document.to_string()),
    }
}
