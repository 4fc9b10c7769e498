//! What ThingsBoard lets a session send, as it says it, and what a publish counts as.
//!
//! ```text
//!  up    v1/devices/me/rpc/request/1    {"method":"getSessionLimits","params":{"timeout":5000}}
//!  down  v1/devices/me/rpc/response/1   {"maxPayloadSize":65536,"maxInflightMessages":100,
//!                                        "rateLimits":{"messages":"200:1,6000:60",…},"gatewayRateLimits":{…}}
//! ```
//!
//! `gatewayRateLimits` bound what goes for all devices of a gateway together, `rateLimits` what it says of itself under
//! `v1/devices/me`. A publish counts once for each device in it: as a telemetry message and its data points where it carries
//! values, telemetry and attributes alike, as a message otherwise. The first word about a device in a session opens it,
//! which is two messages more. Source: `DefaultTransportRateLimitService`, `DefaultTransportService` and
//! `AbstractGatewaySessionHandler` of ThingsBoard 4.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Deserialize;
use serde::de::IgnoredAny;
use thiserror::Error;

use crate::message::DeviceName;

/// Where the session's limits are asked for.
pub const LIMITS_REQUEST: &str = "v1/devices/me/rpc/request/1";
/// How.
pub const LIMITS_QUESTION: &str = r#"{"method":"getSessionLimits","params":{"timeout":5000}}"#;
/// Where the answer comes,
pub const LIMITS_ANSWER: &str = "v1/devices/me/rpc/response/1";
/// and what is subscribed to for it, with the QoS asked for.
pub const LIMITS_SUBSCRIPTION: (&str, u8) = ("v1/devices/me/rpc/response/+", 1);

/// Windows in one text; ThingsBoard's own form offers four.
const WINDOWS_MAX: usize = 8;
/// More in a window is no limit to a gateway.
const COUNT_MAX: u64 = 1_000_000_000;
/// 31 days.
const SECONDS_MAX: u64 = 2_678_400;
/// Messages that open a device: it is looked up, and its session is opened.
const OPENING: u32 = 2;

/// At most `count` in any `seconds`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// 1 to 1 000 000 000.
    pub count: u32,
    /// 1 to 2 678 400.
    pub seconds: u32,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {} s", self.count, self.seconds)
    }
}

/// Why a text names no limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LimitTextError {
    /// Another form.
    #[error(
        "limits are written as count:seconds, several with commas between, such as 200:1,6000:60"
    )]
    Form,
    /// A number that cannot be meant.
    #[error("a limit is a count of 1 to 1000000000 in 1 to 2678400 seconds")]
    Range,
    /// A list without end.
    #[error("at most {WINDOWS_MAX} windows can be named")]
    TooMany,
}

/// Reads `200:1,6000:60`. Nothing, and `0:0`, is no limit.
///
/// # Errors
/// When it is not written so.
pub fn parse_windows(text: &str) -> Result<Vec<Limit>, LimitTextError> {
    let mut windows = Vec::new();
    // The incumbent's client takes ';' too, and texts that end with a comma.
    for part in text.split([',', ';']).map(str::trim) {
        if part.is_empty() {
            continue;
        }
        let (count, seconds) = part.split_once(':').ok_or(LimitTextError::Form)?;
        let number = |digits: &str| {
            digits
                .trim()
                .parse::<u64>()
                .map_err(|_| LimitTextError::Form)
        };
        let (count, seconds) = (number(count)?, number(seconds)?);
        if (count, seconds) == (0, 0) {
            continue;
        }
        if count == 0 || !(1..=SECONDS_MAX).contains(&seconds) {
            return Err(LimitTextError::Range);
        }
        if windows.len() == WINDOWS_MAX {
            return Err(LimitTextError::TooMany);
        }
        windows.push(Limit {
            count: u32::try_from(count.min(COUNT_MAX)).unwrap_or(u32::MAX),
            seconds: u32::try_from(seconds).unwrap_or(u32::MAX),
        });
    }
    Ok(windows)
}

/// What one part of a session may send; an empty list is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Everything that carries no values.
    pub messages: Vec<Limit>,
    /// What carries values: once for each device in it.
    pub telemetry_messages: Vec<Limit>,
    /// The values.
    pub telemetry_points: Vec<Limit>,
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = "";
        for (kind, windows) in [
            ("messages", &self.messages),
            ("telemetry messages", &self.telemetry_messages),
            ("telemetry data points", &self.telemetry_points),
        ] {
            for window in windows {
                write!(f, "{before}{window}: {kind}")?;
                before = ", ";
            }
        }
        if before.is_empty() {
            f.write_str("none")
        } else {
            Ok(())
        }
    }
}

impl Limits {
    /// Whether nothing is limited.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.messages.is_empty()
            && self.telemetry_messages.is_empty()
            && self.telemetry_points.is_empty()
    }
}

/// What a session may send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionLimits {
    /// The most bytes of one packet.
    pub packet_bytes_max: Option<u32>,
    /// The most messages that wait at the server.
    pub inflight_max: Option<u16>,
    /// For all devices of the gateway together.
    pub devices: Limits,
    /// For what the gateway says of itself.
    pub own: Limits,
}

/// Why an answer gives no limits.
#[derive(Debug, Error)]
pub enum LimitsError {
    /// Not the JSON that is promised.
    #[error("the answer is not what getSessionLimits promises: {0}")]
    Payload(#[from] serde_json::Error),
    /// The platform knows the question and has no answer.
    #[error("the platform answers with an error")]
    Refused,
    /// One of its texts is not understood.
    #[error(transparent)]
    Text(#[from] LimitTextError),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    #[serde(default)]
    error: Option<IgnoredAny>,
    max_payload_size: Option<i64>,
    max_inflight_messages: Option<i64>,
    rate_limits: Option<RateLimits>,
    gateway_rate_limits: Option<RateLimits>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RateLimits {
    messages: Option<String>,
    telemetry_messages: Option<String>,
    telemetry_data_points: Option<String>,
}

impl RateLimits {
    fn parse(&self) -> Result<Limits, LimitTextError> {
        let windows = |text: &Option<String>| parse_windows(text.as_deref().unwrap_or_default());
        Ok(Limits {
            messages: windows(&self.messages)?,
            telemetry_messages: windows(&self.telemetry_messages)?,
            telemetry_points: windows(&self.telemetry_data_points)?,
        })
    }
}

/// Understands the answer to [`LIMITS_QUESTION`].
///
/// # Errors
/// When it is none.
pub fn decode_limits(payload: &[u8]) -> Result<SessionLimits, LimitsError> {
    let answer: Answer = serde_json::from_slice(payload)?;
    let (Some(own), None) = (&answer.rate_limits, &answer.error) else {
        return Err(LimitsError::Refused);
    };
    let own = own.parse()?;
    let devices = match &answer.gateway_rate_limits {
        Some(limits) => limits.parse()?,
        // A platform that knows one set of limits means everything by it.
        None => own.clone(),
    };
    let above_zero = |number: Option<i64>| number.filter(|number| *number > 0);
    Ok(SessionLimits {
        packet_bytes_max: above_zero(answer.max_payload_size)
            .map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX)),
        inflight_max: above_zero(answer.max_inflight_messages)
            .map(|messages| u16::try_from(messages).unwrap_or(u16::MAX)),
        devices,
        own,
    })
}

/// Which limits a publish counts against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Those of all devices together.
    #[default]
    Devices,
    /// Those of the gateway itself.
    Own,
}

/// What a publish counts as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Against which limits.
    pub scope: Scope,
    /// Messages without values.
    pub messages: u32,
    /// Messages with values.
    pub telemetry_messages: u32,
    /// Values.
    pub telemetry_points: u32,
}

impl Cost {
    /// Nothing.
    pub const NOTHING: Self = Self {
        scope: Scope::Devices,
        messages: 0,
        telemetry_messages: 0,
        telemetry_points: 0,
    };

    /// No publish counts as more.
    pub const UNBOUNDED: Self = Self {
        scope: Scope::Devices,
        messages: u32::MAX,
        telemetry_messages: u32::MAX,
        telemetry_points: u32::MAX,
    };

    /// A message without values about a device.
    #[must_use]
    pub const fn message() -> Self {
        Self {
            scope: Scope::Devices,
            messages: 1,
            telemetry_messages: 0,
            telemetry_points: 0,
        }
    }

    /// So many values of one device.
    #[must_use]
    pub fn telemetry(points: usize) -> Self {
        Self {
            scope: Scope::Devices,
            messages: 0,
            telemetry_messages: 1,
            telemetry_points: u32::try_from(points).unwrap_or(u32::MAX),
        }
    }

    /// The same, said by the gateway of itself.
    #[must_use]
    pub fn of_itself(self) -> Self {
        Self {
            scope: Scope::Own,
            ..self
        }
    }

    /// The same in a publish with `other`, which counts against the same limits.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            scope: self.scope,
            messages: self.messages.saturating_add(other.messages),
            telemetry_messages: self
                .telemetry_messages
                .saturating_add(other.telemetry_messages),
            telemetry_points: self.telemetry_points.saturating_add(other.telemetry_points),
        }
    }

    /// Whether it is at most `most` in everything.
    #[must_use]
    pub const fn is_within(&self, most: &Self) -> bool {
        self.messages <= most.messages
            && self.telemetry_messages <= most.telemetry_messages
            && self.telemetry_points <= most.telemetry_points
    }

    /// Of a payload of [`TELEMETRY`](super::TELEMETRY) or [`ATTRIBUTES`](super::ATTRIBUTES) that is kept as text: what it
    /// holds of values is known, the devices are its members.
    #[must_use]
    pub(super) fn of_text(payload: &str, values: u32) -> Self {
        let devices = serde_json::from_str::<BTreeMap<String, IgnoredAny>>(payload)
            .map_or(1, |devices| devices.len());
        let devices = u32::try_from(devices).unwrap_or(u32::MAX).max(1);
        Self {
            scope: Scope::Devices,
            messages: devices.saturating_mul(OPENING),
            telemetry_messages: devices,
            telemetry_points: values.max(devices),
        }
    }
}

/// The devices the platform has heard of in this session.
#[derive(Clone, Debug, Default)]
pub struct Opened(BTreeSet<DeviceName>);

impl Opened {
    /// What the next word about this device costs besides itself.
    #[must_use]
    pub fn opening(&self, device: &DeviceName) -> Cost {
        Cost {
            messages: if self.0.contains(device) { 0 } else { OPENING },
            ..Cost::default()
        }
    }

    /// Something is said about it; what that costs besides itself.
    pub fn open(&mut self, device: &DeviceName) -> Cost {
        let cost = self.opening(device);
        if cost.messages > 0 {
            self.0.insert(device.clone());
        }
        cost
    }

    /// The platform forgets it.
    pub fn close(&mut self, device: &DeviceName) {
        self.0.remove(device);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(count: u32, seconds: u32) -> Limit {
        Limit { count, seconds }
    }

    #[test]
    fn limits_are_read_as_the_platform_and_its_client_write_them() {
        let two = vec![limit(200, 1), limit(6000, 60)];
        for text in ["200:1,6000:60", "200:1,6000:60,", " 200:1 ; 6000:60 "] {
            assert_eq!(parse_windows(text), Ok(two.clone()), "{text:?}");
        }
        for text in ["", "0:0,", ","] {
            assert_eq!(parse_windows(text), Ok(Vec::new()), "{text:?}");
        }
        for text in ["200", "200:", ":1", "a:b", "1:1:1", "-1:1", "1.5:1"] {
            assert_eq!(parse_windows(text), Err(LimitTextError::Form), "{text:?}");
        }
        for text in ["0:60", "60:0", "1:99999999"] {
            assert_eq!(parse_windows(text), Err(LimitTextError::Range), "{text:?}");
        }
        assert_eq!(
            parse_windows(&"1:1,".repeat(9)),
            Err(LimitTextError::TooMany)
        );
        assert_eq!(
            parse_windows("18446744073709551615:1"),
            Ok(vec![limit(1_000_000_000, 1)])
        );
    }

    #[test]
    fn an_answer_names_both_sets_of_limits() {
        let answer = br#"{"maxPayloadSize":65536,"maxInflightMessages":100,
            "rateLimits":{"messages":"10:1","telemetryMessages":"","telemetryDataPoints":null},
            "gatewayRateLimits":{"messages":"200:1,6000:60","telemetryMessages":"100:1","telemetryDataPoints":"500:1"}}"#;
        let limits = decode_limits(answer).map_err(|error| error.to_string());
        let devices = Limits {
            messages: vec![limit(200, 1), limit(6000, 60)],
            telemetry_messages: vec![limit(100, 1)],
            telemetry_points: vec![limit(500, 1)],
        };
        let own = Limits {
            messages: vec![limit(10, 1)],
            ..Limits::default()
        };
        let expected = SessionLimits {
            packet_bytes_max: Some(65_536),
            inflight_max: Some(100),
            devices,
            own,
        };
        assert_eq!(limits, Ok(expected));
    }

    #[test]
    fn a_platform_with_one_set_means_everything_and_one_without_says_so() {
        let one = br#"{"maxInflightMessages":0,"rateLimits":{"messages":"10:1"}}"#;
        let limits = decode_limits(one).unwrap_or_default();
        assert_eq!(limits.devices, limits.own);
        assert!(!limits.devices.is_none());
        assert_eq!(limits.inflight_max, None);
        for nothing in [&br#"{"error":"timeout"}"#[..], b"{}"] {
            assert!(matches!(decode_limits(nothing), Err(LimitsError::Refused)));
        }
        assert!(matches!(
            decode_limits(br#"{"rateLimits":{"messages":"many"}}"#),
            Err(LimitsError::Text(LimitTextError::Form))
        ));
    }

    #[test]
    fn the_first_word_about_a_device_opens_it() -> Result<(), crate::message::NameError> {
        let press = DeviceName::try_new("press-1")?;
        let mut opened = Opened::default();
        assert_eq!(opened.open(&press).messages, 2);
        assert_eq!(opened.open(&press).messages, 0);
        opened.close(&press);
        assert_eq!(opened.opening(&press).messages, 2);
        let text = Cost::of_text(r#"{"A":[],"B":[]}"#, 7);
        assert_eq!((text.telemetry_messages, text.telemetry_points), (2, 7));
        assert_eq!(Cost::of_text("no JSON", 0).telemetry_messages, 1);
        Ok(())
    }
}
