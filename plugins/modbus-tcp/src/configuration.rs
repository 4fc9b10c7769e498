//! What an operator writes, checked once.

use moorline_plugin_sdk::Fault;
use serde::Deserialize;

use crate::value::{ByteOrder, Format, Kind};

/// Shown by `moorline plugin inspect`.
pub(crate) const SCHEMA: &str = r#"{
  "type": "object",
  "additionalProperties": false,
  "required": ["devices"],
  "properties": {
    "deadline_ms": {"type": "integer", "minimum": 10, "maximum": 60000, "default": 1000, "description": "for one response"},
    "poll_ms": {"type": "integer", "minimum": 10, "maximum": 86400000, "default": 1000},
    "byte_order": {"enum": ["ABCD", "BADC", "CDAB", "DCBA"], "default": "ABCD"},
    "gap_max": {"type": "integer", "minimum": 0, "maximum": 100, "default": 8, "description": "unused registers read along to save a request"},
    "devices": {"type": "array", "items": {
      "type": "object",
      "additionalProperties": false,
      "required": ["name", "points"],
      "properties": {
        "name": {"type": "string"},
        "profile": {"type": "string", "default": ""},
        "unit": {"type": "integer", "minimum": 0, "maximum": 255, "default": 1},
        "points": {"type": "array", "items": {
          "type": "object",
          "additionalProperties": false,
          "required": ["key", "address"],
          "properties": {
            "key": {"type": "string"},
            "register": {"enum": ["coil", "discrete", "holding", "input"], "default": "holding"},
            "address": {"type": "integer", "minimum": 0, "maximum": 65535, "description": "from 0, as on the wire"},
            "type": {"enum": ["bool", "i16", "u16", "i32", "u32", "i64", "u64", "f32", "f64", "string"], "default": "u16, bool for coils and discretes"},
            "registers": {"type": "integer", "minimum": 1, "maximum": 123, "description": "length of a string"},
            "bit": {"type": "integer", "minimum": 0, "maximum": 15, "description": "of a register, for a bool"},
            "byte_order": {"enum": ["ABCD", "BADC", "CDAB", "DCBA"]},
            "scale": {"type": "number", "default": 1},
            "offset": {"type": "number", "default": 0},
            "poll_ms": {"type": "integer", "minimum": 10, "maximum": 86400000},
            "writable": {"type": "boolean", "default": false}
          }
        }}
      }
    }}
  }
}"#;

const PERIOD_MS: std::ops::RangeInclusive<u32> = 10..=86_400_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Configuration {
    #[serde(default = "deadline_ms")]
    pub(crate) deadline_ms: u32,
    #[serde(default = "poll_ms")]
    poll_ms: u32,
    #[serde(default)]
    byte_order: ByteOrder,
    #[serde(default = "gap_max")]
    pub(crate) gap_max: u16,
    devices: Vec<RawDevice>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDevice {
    name: String,
    #[serde(default)]
    profile: String,
    #[serde(default = "unit")]
    unit: u8,
    points: Vec<RawPoint>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPoint {
    key: String,
    #[serde(default)]
    register: Register,
    address: u16,
    #[serde(rename = "type")]
    kind: Option<Kind>,
    registers: Option<u16>,
    bit: Option<u8>,
    byte_order: Option<ByteOrder>,
    #[serde(default = "one")]
    scale: f64,
    #[serde(default)]
    offset: f64,
    poll_ms: Option<u32>,
    #[serde(default)]
    writable: bool,
}

const fn deadline_ms() -> u32 {
    1000
}
const fn poll_ms() -> u32 {
    1000
}
const fn gap_max() -> u16 {
    8
}
const fn unit() -> u8 {
    1
}
const fn one() -> f64 {
    1.0
}

/// Which of the four tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Register {
    Coil,
    Discrete,
    #[default]
    Holding,
    Input,
}

impl Register {
    /// The function that reads it.
    pub(crate) const fn read_function(self) -> u8 {
        match self {
            Self::Coil => 1,
            Self::Discrete => 2,
            Self::Holding => 3,
            Self::Input => 4,
        }
    }

    /// Whether it holds bits.
    pub(crate) const fn is_bits(self) -> bool {
        match self {
            Self::Coil | Self::Discrete => true,
            Self::Holding | Self::Input => false,
        }
    }
}

/// A device behind the connection.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Device {
    pub(crate) name: String,
    pub(crate) profile: String,
    pub(crate) unit: u8,
    pub(crate) points: Vec<Point>,
}

/// One value of a device.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Point {
    pub(crate) key: String,
    pub(crate) register: Register,
    pub(crate) address: u16,
    /// Registers, or bits, it takes.
    pub(crate) count: u16,
    pub(crate) format: Format,
    pub(crate) poll_ms: u32,
    pub(crate) writable: bool,
}

impl Configuration {
    /// The devices, every point with its defaults filled in.
    pub(crate) fn devices(&self) -> Result<Vec<Device>, Fault> {
        if self.devices.is_empty() {
            return Err(Fault::Configuration("devices: there is none".into()));
        }
        self.devices.iter().map(|raw| self.device(raw)).collect()
    }

    fn device(&self, raw: &RawDevice) -> Result<Device, Fault> {
        let points = raw
            .points
            .iter()
            .map(|point| {
                self.point(point).map_err(|why| {
                    Fault::Configuration(format!(
                        "device {:?}, point {:?}: {why}",
                        raw.name, point.key
                    ))
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        for (index, point) in points.iter().enumerate() {
            if points[..index]
                .iter()
                .any(|earlier| earlier.key == point.key)
            {
                return Err(Fault::Configuration(format!(
                    "device {:?}: key {:?} is there twice",
                    raw.name, point.key
                )));
            }
        }
        Ok(Device {
            name: raw.name.clone(),
            profile: raw.profile.clone(),
            unit: raw.unit,
            points,
        })
    }

    fn point(&self, raw: &RawPoint) -> Result<Point, String> {
        let bits = raw.register.is_bits();
        let kind = raw
            .kind
            .unwrap_or(if bits { Kind::Bool } else { Kind::U16 });
        if bits && (kind != Kind::Bool || raw.bit.is_some()) {
            return Err("a coil or discrete input is a bool by itself".into());
        }
        if !bits && kind == Kind::Bool && raw.bit.is_none() {
            return Err("a bool in a register needs `bit`".into());
        }
        if raw.bit.is_some_and(|bit| bit > 15 || kind != Kind::Bool) {
            return Err("`bit` is 0 to 15 and belongs to a bool".into());
        }
        if (kind == Kind::String) != raw.registers.is_some() {
            return Err("`registers` belongs to a string, and a string needs it".into());
        }
        let count = raw.registers.unwrap_or_else(|| kind.registers());
        if count == 0 || count > 123 || u32::from(raw.address) + u32::from(count) > 65_536 {
            return Err("it does not fit the address space".into());
        }
        if raw.scale == 0.0 || !raw.scale.is_finite() || !raw.offset.is_finite() {
            return Err("scale must be a number other than 0".into());
        }
        let poll_ms = raw.poll_ms.unwrap_or(self.poll_ms);
        if !PERIOD_MS.contains(&poll_ms) {
            return Err("poll_ms must be between 10 and 86400000".into());
        }
        let writable_register = matches!(raw.register, Register::Coil | Register::Holding);
        if raw.writable && (!writable_register || raw.bit.is_some()) {
            return Err("only coils and whole holding registers are writable".into());
        }
        let order = raw.byte_order.unwrap_or(self.byte_order);
        let format = Format {
            kind,
            order,
            bit: raw.bit,
            scale: raw.scale,
            offset: raw.offset,
        };
        Ok(Point {
            key: raw.key.clone(),
            register: raw.register,
            address: raw.address,
            count,
            format,
            poll_ms,
            writable: raw.writable,
        })
    }
}
