//! Between the words of `wit/` and those of the core. What enters is checked here, once; behind it everything is typed.

use moorline_core::link::cause::{CauseClass, Fault as LinkFault};
use moorline_core::link::policy::{Decision, Network, Question};
use moorline_core::message::{self, DeviceName, Downlink, Key, NameError};
use moorline_core::time::{TimestampMs, saturating_ms};
use std::borrow::Cow;
use std::time::Duration;
use thiserror::Error;

use super::bindings::connector::exports::moorline::edge::connector_guest::AttributeUpdate;
use super::bindings::connector::moorline::edge::types::{self as wit, Attribute};
use super::bindings::policy::exports::moorline::edge::policy_guest as policy;
use super::names::Names;

/// Readings of one batch.
pub(super) const READINGS_MAX: usize = 10_000;
/// Names, keys and texts of one batch together.
pub(super) const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// The end of the year 9999. Whatever lies beyond it is no time but a mistake.
const TIMESTAMP_MAX_MS: f64 = 253_402_300_799_999.0;
/// What a value that is not text counts for.
pub(super) const SCALAR_BYTES: usize = 8;

/// What is wrong with one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum BadValue {
    #[error("is not a finite number")]
    NotFinite,
    #[error("is not JSON")]
    NotJson,
}

/// Why a batch is refused, and where.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum BadBatch {
    #[error("the batch has more than {READINGS_MAX} readings")]
    TooMany,
    #[error("the batch has more than {BATCH_BYTES_MAX} bytes")]
    TooLarge,
    #[error("batch[{0}]: the device's name {1}")]
    Device(usize, NameError),
    #[error("batch[{0}].readings[{1}]: the key {2}")]
    Key(usize, usize, NameError),
    #[error("batch[{0}].readings[{1}]: the value {2}")]
    Value(usize, usize, BadValue),
    #[error("batch[{0}].readings[{1}]: the timestamp is not a time between 1970 and 9999")]
    Timestamp(usize, usize),
    #[error("values[{0}]: the key {1}")]
    AttributeKey(usize, NameError),
    #[error("values[{0}]: the value {1}")]
    AttributeValue(usize, BadValue),
}

/// Counts what a batch weighs while it is converted.
#[derive(Default)]
struct Weight {
    readings: usize,
    bytes: usize,
}

impl Weight {
    fn add(&mut self, bytes: usize) -> Result<(), BadBatch> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > BATCH_BYTES_MAX {
            return Err(BadBatch::TooLarge);
        }
        Ok(())
    }

    fn add_readings(&mut self, count: usize) -> Result<(), BadBatch> {
        self.readings = self.readings.saturating_add(count);
        if self.readings > READINGS_MAX {
            return Err(BadBatch::TooMany);
        }
        Ok(())
    }
}

/// A value as the guest's memory shows it.
#[derive(Clone, Debug)]
pub(crate) enum Shown<'a> {
    Boolean(bool),
    Integer(i64),
    Double(f64),
    Text(Cow<'a, str>),
    Json(Cow<'a, str>),
}

impl Shown<'_> {
    fn bytes(&self) -> usize {
        match self {
            Self::Text(text) | Self::Json(text) => text.len(),
            Self::Boolean(_) | Self::Integer(_) | Self::Double(_) => SCALAR_BYTES,
        }
    }

    fn checked(self) -> Result<message::Value, BadValue> {
        Ok(match self {
            Self::Boolean(truth) => message::Value::Boolean(truth),
            Self::Integer(number) => message::Value::Integer(number),
            Self::Double(number) if number.is_finite() => message::Value::Double(number),
            Self::Double(_) => return Err(BadValue::NotFinite),
            Self::Text(text) => message::Value::Text(text.into_owned()),
            Self::Json(text) => {
                check_json(&text)?;
                message::Value::Json(text.into_owned())
            }
        })
    }
}

/// A batch of readings, taken over entry by entry. Readings without a timestamp get `now`; entries without readings are
/// dropped.
pub(crate) struct Batch<'n> {
    now: TimestampMs,
    names: &'n mut Names,
    weight: Weight,
    /// The entry and the reading that come next.
    entry: usize,
    at: usize,
    taken: Vec<message::DeviceReadings>,
}

impl<'n> Batch<'n> {
    pub(crate) fn new(entries: usize, now: TimestampMs, names: &'n mut Names) -> Self {
        names.begin();
        Self {
            now,
            names,
            weight: Weight::default(),
            entry: 0,
            at: 0,
            taken: Vec::with_capacity(entries.min(READINGS_MAX)),
        }
    }

    /// The next entry: `count` readings of this device follow.
    pub(crate) fn device(&mut self, name: &str, count: usize) -> Result<(), BadBatch> {
        let entry = self.entry;
        self.entry += 1;
        self.at = 0;
        let named = self.names.device(name);
        let device = named.map_err(|error| BadBatch::Device(entry, error))?;
        self.weight.add(name.len())?;
        self.weight.add_readings(count)?;
        if count > 0 {
            let readings = Vec::with_capacity(count);
            self.taken
                .push(message::DeviceReadings { device, readings });
        }
        Ok(())
    }

    /// The next reading of that device.
    pub(crate) fn reading(
        &mut self,
        key: &str,
        value: Shown<'_>,
        quality: wit::Quality,
        timestamp_ms: Option<f64>,
    ) -> Result<(), BadBatch> {
        let (entry, at) = (self.entry.saturating_sub(1), self.at);
        self.at += 1;
        self.weight.add(key.len() + value.bytes())?;
        let named = self.names.key(key);
        let key = named.map_err(|error| BadBatch::Key(entry, at, error))?;
        let checked = value.checked();
        let value = checked.map_err(|error| BadBatch::Value(entry, at, error))?;
        let timestamp = match timestamp_ms {
            Some(ms) => timestamp(ms).ok_or(BadBatch::Timestamp(entry, at))?,
            None => self.now,
        };
        let quality = match quality {
            wit::Quality::Good => message::Quality::Good,
            wit::Quality::Uncertain => message::Quality::Uncertain,
            wit::Quality::Bad => message::Quality::Bad,
        };
        if let Some(of_device) = self.taken.last_mut() {
            of_device.readings.push(message::Reading {
                key,
                value,
                quality,
                timestamp,
            });
        }
        Ok(())
    }

    /// What was taken over.
    pub(crate) fn finish(self) -> Vec<message::DeviceReadings> {
        self.taken
    }
}

/// As a generated binding has lifted it.
fn shown(value: &wit::Value) -> Shown<'_> {
    match value {
        wit::Value::Boolean(truth) => Shown::Boolean(*truth),
        wit::Value::Integer(number) => Shown::Integer(*number),
        wit::Value::Double(number) => Shown::Double(*number),
        wit::Value::Text(text) => Shown::Text(Cow::Borrowed(text)),
        wit::Value::Json(text) => Shown::Json(Cow::Borrowed(text)),
    }
}

/// Whether `text` is one JSON document.
pub(crate) fn check_json(text: &str) -> Result<(), BadValue> {
    serde_json::from_str::<serde::de::IgnoredAny>(text)
        .map(|_any| ())
        .map_err(|_bad| BadValue::NotJson)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to lie between 0 and the year 9999; fractions of a millisecond are dropped"
)]
pub(super) fn timestamp(ms: f64) -> Option<TimestampMs> {
    (0.0..=TIMESTAMP_MAX_MS)
        .contains(&ms)
        .then_some(TimestampMs(ms as u64))
}

/// Client attributes.
pub(crate) fn attributes(
    values: Vec<Attribute>,
    names: &mut Names,
) -> Result<Vec<(Key, message::Value)>, BadBatch> {
    let mut weight = Weight::default();
    weight.add_readings(values.len())?;
    values
        .into_iter()
        .enumerate()
        .map(|(index, attribute)| {
            let value = shown(&attribute.value);
            weight.add(attribute.key.len() + value.bytes())?;
            let key = names
                .key(&attribute.key)
                .map_err(|error| BadBatch::AttributeKey(index, error))?;
            let checked = value.checked();
            let value = checked.map_err(|error| BadBatch::AttributeValue(index, error))?;
            Ok((key, value))
        })
        .collect()
}

fn wit_value(value: message::Value) -> wit::Value {
    match value {
        message::Value::Boolean(truth) => wit::Value::Boolean(truth),
        message::Value::Integer(number) => wit::Value::Integer(number),
        message::Value::Double(number) => wit::Value::Double(number),
        message::Value::Text(text) => wit::Value::Text(text),
        message::Value::Json(text) => wit::Value::Json(text),
    }
}

/// A downlink as the guest sees it, apart from the number of an RPC, which the instance gives.
pub(crate) enum ForGuest {
    Rpc {
        device: DeviceName,
        request_id: u64,
        method: String,
        params: String,
    },
    Attributes(AttributeUpdate),
}

pub(crate) fn downlink(downlink: Downlink) -> ForGuest {
    match downlink {
        Downlink::Rpc {
            device,
            request_id,
            method,
            params,
        } => ForGuest::Rpc {
            device,
            request_id,
            method,
            params,
        },
        Downlink::SharedAttributes {
            device,
            changed,
            deleted,
        } => ForGuest::Attributes(AttributeUpdate {
            device: device.as_str().to_owned(),
            changed: changed
                .into_iter()
                .map(|(key, value)| Attribute {
                    key: key.as_str().to_owned(),
                    value: wit_value(value),
                })
                .collect(),
            deleted: deleted.iter().map(|key| key.as_str().to_owned()).collect(),
        }),
    }
}

/// What a policy is asked.
pub(crate) fn question(question: &Question) -> policy::Question {
    policy::Question {
        cause: cause(question.cause),
        fault: match question.fault {
            LinkFault::Us => policy::Fault::Us,
            LinkFault::Peer => policy::Fault::Peer,
            LinkFault::Network => policy::Fault::Network,
            LinkFault::Operator => policy::Fault::Operator,
            LinkFault::Nobody => policy::Fault::Nobody,
        },
        reason_code: question.reason_code,
        attempt: question.attempt,
        session_ms: saturating_ms(question.session),
        down_ms: saturating_ms(question.down),
        spool_depth: u32::try_from(question.spool_depth).unwrap_or(u32::MAX),
        network: match question.network {
            Network::Up => policy::Network::Up,
            Network::Down => policy::Network::Down,
            Network::Unknown => policy::Network::Unknown,
        },
        metered: question.metered,
        local_time: question.local_time.map(|time| policy::LocalTime {
            unix_ms: time.utc.0 as f64,
            utc_offset_min: time.offset_min,
        }),
        sessions: u32::try_from(question.sessions).unwrap_or(u32::MAX),
        takeovers: question.takeovers,
        previous_delay_ms: saturating_ms(question.previous_delay),
        floor_ms: saturating_ms(question.floor),
        ceiling_ms: saturating_ms(question.ceiling),
        seed: question.seed,
    }
}

fn cause(class: CauseClass) -> policy::Cause {
    use policy::Cause;
    match class {
        CauseClass::NameResolution => Cause::NameResolution,
        CauseClass::ConnectRefused => Cause::ConnectRefused,
        CauseClass::Unreachable => Cause::Unreachable,
        CauseClass::ConnectTimeout => Cause::ConnectTimeout,
        CauseClass::Tls => Cause::Tls,
        CauseClass::Proxy => Cause::Proxy,
        CauseClass::ConnackTimeout => Cause::ConnackTimeout,
        CauseClass::ClosedBeforeConnack => Cause::ClosedBeforeConnack,
        CauseClass::VersionRefused => Cause::VersionRefused,
        CauseClass::IdentityRefused => Cause::IdentityRefused,
        CauseClass::CredentialsRefused => Cause::CredentialsRefused,
        CauseClass::ServerUnavailable => Cause::ServerUnavailable,
        CauseClass::Quota => Cause::Quota,
        CauseClass::ServerMoved => Cause::ServerMoved,
        CauseClass::OptionUnsupported => Cause::OptionUnsupported,
        CauseClass::ClosedByServer => Cause::ClosedByServer,
        CauseClass::Reset => Cause::Reset,
        CauseClass::TakenOver => Cause::TakenOver,
        CauseClass::ShuttingDown => Cause::ShuttingDown,
        CauseClass::KeepAlive => Cause::KeepAlive,
        CauseClass::Administrative => Cause::Administrative,
        CauseClass::Protocol => Cause::Protocol,
        CauseClass::PacketRefused => Cause::PacketRefused,
        CauseClass::PeerGarbage => Cause::PeerGarbage,
        CauseClass::PingrespTimeout => Cause::PingrespTimeout,
        CauseClass::WriteStalled => Cause::WriteStalled,
        CauseClass::BlackHole => Cause::BlackHole,
        CauseClass::AckTimeout => Cause::AckTimeout,
        CauseClass::Local => Cause::Local,
        CauseClass::HostRestart => Cause::HostRestart,
    }
}

/// What a policy answered.
pub(crate) fn decision(decision: policy::Decision) -> Decision {
    match decision {
        policy::Decision::RetryAfter(ms) => {
            Decision::RetryAfter(Duration::from_millis(u64::from(ms)))
        }
        policy::Decision::RetryNow => Decision::RetryNow,
        policy::Decision::Park => Decision::Park,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(
        entries: Vec<wit::DeviceReadings>,
        now: TimestampMs,
    ) -> Result<Vec<message::DeviceReadings>, BadBatch> {
        take(&entries, now, &mut Names::default())
    }

    fn take(
        entries: &[wit::DeviceReadings],
        now: TimestampMs,
        names: &mut Names,
    ) -> Result<Vec<message::DeviceReadings>, BadBatch> {
        let mut batch = Batch::new(entries.len(), now, names);
        for entry in entries {
            batch.device(&entry.device, entry.readings.len())?;
            for reading in &entry.readings {
                let value = shown(&reading.value);
                batch.reading(&reading.key, value, reading.quality, reading.timestamp)?;
            }
        }
        Ok(batch.finish())
    }

    fn entry(value: wit::Value, timestamp: Option<f64>) -> wit::DeviceReadings {
        let good = wit::Reading {
            key: "a".into(),
            value: wit::Value::Integer(i64::MIN),
            quality: wit::Quality::Good,
            timestamp: None,
        };
        let reading = wit::Reading {
            key: "b".into(),
            value,
            quality: wit::Quality::Uncertain,
            timestamp,
        };
        wit::DeviceReadings {
            device: "press".into(),
            readings: vec![good, reading],
        }
    }

    #[test]
    fn readings_are_stamped_where_the_device_did_not() {
        let now = TimestampMs(5);
        let converted = batch(vec![entry(wit::Value::Double(0.5), Some(7.9))], now).unwrap();
        let readings = &converted[0].readings;
        assert_eq!(
            (readings[0].timestamp, readings[1].timestamp),
            (now, TimestampMs(7))
        );
        assert_eq!(readings[1].value, message::Value::Double(0.5));
        assert_eq!(readings[1].quality, message::Quality::Uncertain);
    }

    /// Names known from before, or so many that they are forgotten, change nothing of what is taken.
    #[test]
    fn a_batch_is_the_same_whatever_names_are_known() {
        let mut known = Names::default();
        for round in 0..300 {
            let entries = || -> Vec<wit::DeviceReadings> {
                let of_device = |turn: i32| {
                    let mut entry = entry(wit::Value::Integer(i64::from(turn)), Some(1.0));
                    entry.device = format!("press-{}", (round + turn) % 7);
                    entry.readings[0].key = format!("key-{}", round * 31 + turn);
                    entry
                };
                (0..31).map(of_device).collect()
            };
            let now = TimestampMs(5);
            let taken = take(&entries(), now, &mut known).unwrap();
            assert_eq!(taken, batch(entries(), now).unwrap());
            let told: Vec<_> = taken.iter().map(|of| of.device.as_str()).collect();
            let offered: Vec<_> = entries().into_iter().map(|of| of.device).collect();
            assert_eq!(told, offered);
        }
    }

    #[test]
    fn a_bad_entry_is_named_and_nothing_is_taken() {
        for (value, timestamp, expected) in [
            (
                wit::Value::Double(f64::NAN),
                None,
                BadBatch::Value(0, 1, BadValue::NotFinite),
            ),
            (
                wit::Value::Double(f64::INFINITY),
                None,
                BadBatch::Value(0, 1, BadValue::NotFinite),
            ),
            (
                wit::Value::Json("{".into()),
                None,
                BadBatch::Value(0, 1, BadValue::NotJson),
            ),
            (
                wit::Value::Json("1 2".into()),
                None,
                BadBatch::Value(0, 1, BadValue::NotJson),
            ),
            (
                wit::Value::Boolean(true),
                Some(-1.0),
                BadBatch::Timestamp(0, 1),
            ),
            (
                wit::Value::Boolean(true),
                Some(f64::NAN),
                BadBatch::Timestamp(0, 1),
            ),
            (
                wit::Value::Boolean(true),
                Some(1e18),
                BadBatch::Timestamp(0, 1),
            ),
        ] {
            assert_eq!(
                batch(vec![entry(value, timestamp)], TimestampMs(0)),
                Err(expected)
            );
        }
        let mut bad = entry(wit::Value::Boolean(true), None);
        bad.readings[1].key = "a\n".into();
        assert_eq!(
            batch(vec![bad], TimestampMs(0)),
            Err(BadBatch::Key(0, 1, NameError::ControlCharacter))
        );
        let mut bad = entry(wit::Value::Boolean(true), None);
        bad.device.clear();
        assert_eq!(
            batch(vec![bad], TimestampMs(0)).unwrap_err().to_string(),
            "batch[0]: the device's name is empty"
        );
    }

    #[test]
    fn a_batch_is_bounded() {
        let many = wit::DeviceReadings {
            device: "press".into(),
            readings: vec![
                entry(wit::Value::Boolean(true), None).readings[0].clone();
                READINGS_MAX + 1
            ],
        };
        assert_eq!(batch(vec![many], TimestampMs(0)), Err(BadBatch::TooMany));
        let large = entry(wit::Value::Text("x".repeat(BATCH_BYTES_MAX)), None);
        assert_eq!(batch(vec![large], TimestampMs(0)), Err(BadBatch::TooLarge));
    }
}
