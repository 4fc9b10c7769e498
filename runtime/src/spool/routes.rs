//! Which message goes into which stream.

use std::sync::Arc;

use moorline_core::message::{DeviceReadings, StreamId, Uplink};

use super::settings::{TELEMETRY, URGENT};

/// A name in which `*` stands for any characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Arc<str>);

impl Pattern {
    /// The pattern as it is written.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// Whether it fits all of `name`.
    #[must_use]
    pub fn fits(&self, name: &str) -> bool {
        let mut pieces = self.0.split('*');
        let first = pieces.next().unwrap_or_default();
        let Some(mut rest) = name.strip_prefix(first) else {
            return false;
        };
        let mut pieces = pieces.peekable();
        if pieces.peek().is_none() {
            return rest.is_empty();
        }
        while let Some(piece) = pieces.next() {
            if pieces.peek().is_none() {
                return rest.ends_with(piece);
            }
            match rest.find(piece) {
                Some(at) => rest = &rest[at + piece.len()..],
                None => return false,
            }
        }
        true
    }
}

/// Readings that go into a stream. What is empty does not matter.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// The stream.
    pub stream: StreamId,
    /// Connectors, by name.
    pub connectors: Vec<Pattern>,
    /// Devices.
    pub devices: Vec<Pattern>,
    /// Keys.
    pub keys: Vec<Pattern>,
}

impl Rule {
    fn fits(&self, connector: Option<&str>, device: &str, key: &str) -> bool {
        let any = |patterns: &[Pattern], name: &str| {
            patterns.is_empty() || patterns.iter().any(|pattern| pattern.fits(name))
        };
        any(&self.connectors, connector.unwrap_or_default())
            && any(&self.devices, device)
            && any(&self.keys, key)
    }
}

/// The rules in their order; the first that fits counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routes(pub Vec<Rule>);

impl Routes {
    /// Divides `uplink` among the streams: usually into one part. Readings of a device for one stream keep their order.
    pub(super) fn divide(
        &self,
        uplink: Uplink,
        connector: Option<&str>,
    ) -> Vec<(StreamId, Uplink)> {
        match uplink {
            Uplink::Telemetry(devices) if !self.0.is_empty() => self.telemetry(devices, connector),
            Uplink::RpcReply { .. } => vec![(URGENT, uplink)],
            Uplink::Telemetry(_)
            | Uplink::Attributes { .. }
            | Uplink::DeviceConnected { .. }
            | Uplink::DeviceDisconnected { .. }
            | Uplink::Gateway { .. }
            | Uplink::GatewayAttributes { .. }
            | Uplink::Letter { .. } => vec![(TELEMETRY, uplink)],
        }
    }

    fn telemetry(
        &self,
        devices: Vec<DeviceReadings>,
        connector: Option<&str>,
    ) -> Vec<(StreamId, Uplink)> {
        let mut parts: Vec<(StreamId, Vec<DeviceReadings>)> = Vec::new();
        for DeviceReadings { device, readings } in devices {
            for reading in readings {
                let rule = self
                    .0
                    .iter()
                    .find(|rule| rule.fits(connector, device.as_str(), reading.key.as_str()));
                let stream = rule.map_or(TELEMETRY, |rule| rule.stream);
                let index = parts.iter().position(|(other, _)| *other == stream);
                let index = index.unwrap_or_else(|| {
                    parts.push((stream, Vec::new()));
                    parts.len() - 1
                });
                let Some((_, part)) = parts.get_mut(index) else {
                    continue;
                };
                match part.last_mut().filter(|last| last.device == device) {
                    Some(last) => last.readings.push(reading),
                    None => part.push(DeviceReadings {
                        device: device.clone(),
                        readings: vec![reading],
                    }),
                }
            }
        }
        parts
            .into_iter()
            .map(|(stream, devices)| (stream, Uplink::Telemetry(devices)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use moorline_core::message::{DeviceName, Key, Quality, Reading, Value};
    use moorline_core::time::TimestampMs;

    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        let fits = |pattern: &str, name: &str| Pattern::new(pattern).fits(name);
        assert!(fits("alarm", "alarm") && !fits("alarm", "alarms") && !fits("alarm", "an alarm"));
        assert!(fits("alarm*", "alarms") && fits("*alarm", "an alarm") && fits("*", ""));
        assert!(fits("a*b*c", "a-b-b-c") && !fits("a*b*c", "a-c-b"));
        assert!(!fits("ab*ba", "aba"), "both ends need their own letters");
    }

    #[test]
    fn readings_go_where_the_first_rule_says() {
        let alarms = StreamId(2);
        let routes = Routes(vec![Rule {
            stream: alarms,
            connectors: vec![],
            devices: vec![Pattern::new("press-*")],
            keys: vec![Pattern::new("alarm*")],
        }]);
        let reading = |key: &str| Reading {
            key: Key::try_new(key).unwrap(),
            value: Value::Boolean(true),
            quality: Quality::Good,
            timestamp: TimestampMs(1),
        };
        let device = |name: &str, keys: &[&str]| DeviceReadings {
            device: DeviceName::try_new(name).unwrap(),
            readings: keys.iter().map(|key| reading(key)).collect(),
        };
        let uplink = Uplink::Telemetry(vec![
            device("press-1", &["t", "alarm-1", "p"]),
            device("oven", &["alarm-2"]),
        ]);
        let parts = routes.divide(uplink, None);
        let plain = Uplink::Telemetry(vec![
            device("press-1", &["t", "p"]),
            device("oven", &["alarm-2"]),
        ]);
        let urgent = Uplink::Telemetry(vec![device("press-1", &["alarm-1"])]);
        assert_eq!(parts, [(TELEMETRY, plain), (alarms, urgent)]);
    }
}
