//! What travels: readings and attributes up, RPC and shared attributes down.
//!
//! These are dialect-neutral: the spool keeps them, and a dialect (`thingsboard`) turns them into topics and payloads
//! only when they leave.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::time::TimestampMs;

/// Most bytes in a device name or a key.
pub const NAME_BYTES_MAX: usize = 255;

/// Why a device name or a key is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// It has no characters.
    #[error("is empty")]
    Empty,
    /// It is longer than [`NAME_BYTES_MAX`].
    #[error("is longer than {NAME_BYTES_MAX} bytes")]
    TooLong,
    /// It holds a control character, which no dialect can carry.
    #[error("contains a control character")]
    ControlCharacter,
}

fn validate(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(NameError::TooLong);
    }
    let plain = name.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if !plain && name.chars().any(char::is_control) {
        return Err(NameError::ControlCharacter);
    }
    Ok(())
}

/// Takes a name from the bytes it is read from, without a copy in between.
struct NameVisitor<N>(fn(&str) -> Result<N, NameError>);

impl<N> Visitor<'_> for NameVisitor<N> {
    type Value = N;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<N, E> {
        self.0(name).map_err(E::custom)
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and keeps `name`.
            ///
            /// # Errors
            /// When `name` is empty, too long or holds a control character.
            pub fn try_new(name: &str) -> Result<Self, NameError> {
                validate(name)?;
                Ok(Self(name.into()))
            }

            /// The text itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(NameVisitor(Self::try_new))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}

name_type! {
    /// A device as the platform knows it.
    DeviceName
}

name_type! {
    /// The key of a reading or an attribute.
    Key
}

/// One typed value. Doubles are finite: the host refuses NaN and infinities where they enter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// A truth value.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// A finite number.
    Double(f64),
    /// Text.
    Text(String),
    /// A JSON document, checked to be one where it enters.
    Json(String),
}

/// How far the device vouches for a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Quality {
    /// Measured as it should be.
    Good,
    /// Measured, but with doubt.
    Uncertain,
    /// Not to be relied on.
    Bad,
}

/// One key, value and time of one device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// The key.
    pub key: Key,
    /// The value.
    pub value: Value,
    /// How far the device vouches for it.
    pub quality: Quality,
    /// When it was measured.
    pub timestamp: TimestampMs,
}

/// The readings of one device, in the order they were emitted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceReadings {
    /// The device.
    pub device: DeviceName,
    /// Its readings.
    pub readings: Vec<Reading>,
}

/// A message towards the platform: the unit the spool keeps and acknowledges.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Uplink {
    /// Readings of one or more devices.
    Telemetry(Vec<DeviceReadings>),
    /// Client-side attributes of one device.
    Attributes {
        /// The device.
        device: DeviceName,
        /// Keys and values.
        values: Vec<(Key, Value)>,
    },
    /// A device is here.
    DeviceConnected {
        /// The device.
        device: DeviceName,
        /// ThingsBoard's device profile; empty = the platform's default.
        profile: String,
    },
    /// A device is gone.
    DeviceDisconnected {
        /// The device.
        device: DeviceName,
    },
    /// The answer to an RPC.
    RpcReply {
        /// The device that answered.
        device: DeviceName,
        /// The platform's request id.
        request_id: u64,
        /// A JSON document.
        body: String,
    },
    /// What the gateway says of itself.
    Gateway {
        /// When it was so.
        timestamp: TimestampMs,
        /// Keys and values.
        values: Vec<(Key, Value)>,
    },
    /// A dead letter that is sent again, as it was.
    Letter {
        /// Where it goes.
        topic: String,
        /// What it says.
        payload: String,
        /// How many readings it carries.
        readings: u32,
    },
    /// What the gateway says of itself and what has no time: client-side attributes of its own.
    GatewayAttributes {
        /// Keys and values.
        values: Vec<(Key, Value)>,
    },
}

impl Uplink {
    /// How many readings this message carries; messages other than telemetry count none.
    #[must_use]
    pub fn readings(&self) -> u64 {
        match self {
            Self::Telemetry(devices) => devices.iter().map(|d| d.readings.len() as u64).sum(),
            Self::Attributes { .. }
            | Self::DeviceConnected { .. }
            | Self::DeviceDisconnected { .. }
            | Self::RpcReply { .. }
            | Self::Gateway { .. }
            | Self::GatewayAttributes { .. } => 0,
            Self::Letter { readings, .. } => u64::from(*readings),
        }
    }
}

/// A message from the platform.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Downlink {
    /// A request to a device.
    Rpc {
        /// The device asked.
        device: DeviceName,
        /// The platform's request id.
        request_id: u64,
        /// The method.
        method: String,
        /// A JSON document.
        params: String,
    },
    /// Shared attributes of a device changed or were deleted.
    SharedAttributes {
        /// The device.
        device: DeviceName,
        /// New values.
        changed: Vec<(Key, Value)>,
        /// Keys that are gone.
        deleted: Vec<Key>,
    },
}

impl Downlink {
    /// The device this message is for.
    #[must_use]
    pub fn device(&self) -> &DeviceName {
        match self {
            Self::Rpc { device, .. } | Self::SharedAttributes { device, .. } => device,
        }
    }
}

/// How surely a publish arrives, in the words of the standard (MQTT 5.0 section 4.3).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Qos {
    /// QoS 0: written to the socket once.
    AtMostOnce,
    /// QoS 1: until the broker acknowledges it.
    #[default]
    AtLeastOnce,
    /// QoS 2: until the broker completes it; within one session the broker takes it once.
    ExactlyOnce,
}

/// One of the gateway's streams, by its place in the configuration.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct StreamId(pub u8);

/// The place of a message in the spool. Strictly increasing, never reused, starts at 1.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Sequence(pub u64);

impl Sequence {
    /// The sequence after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}
