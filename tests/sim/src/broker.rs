//! The model broker: what it can do to a client, and what it read out of a publish.

use moorline_core::link::cause::MqttVersion;
use moorline_core::time::Instant;

/// How the broker behaves beside what the standard asks of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Refuses CONNECT: the code of 5.0 and that of 3.1.1.
    Refuse(u8, u8),
    /// Answers a 5.0 CONNECT in the form of 3.1.1, code 1.
    RefuseVersionInOldForm,
    CloseBeforeConnack,
    Silent,
    CloseAfterConnack,
    GarbageAfterConnack,
    DropAcks,
    MutePings,
    /// PUBACK 0x97 from some publish on.
    Defer,
    /// PUBACK 0x99 for some publishes.
    RefusePublishes,
    /// Closes on a publish, without a word.
    CloseOnPublish,
    AcknowledgeTwice,
    /// The process is stopped, its memory kept.
    Paused,
    /// It does not read its sockets.
    StallReading,
}

/// One session as the broker sees it.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) version: MqttVersion,
    pub(crate) heard_at: Instant,
    pub(crate) unacknowledged: u32,
    pub(crate) defers: bool,
}

#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) v5: bool,
    pub(crate) v311: bool,
    /// What it speaks when no fault changes that: 5.0, 3.1.1.
    pub(crate) usual: (bool, bool),
    pub(crate) receive_maximum: u16,
    pub(crate) packet_bytes_max: u32,
    pub(crate) ways: Vec<(Way, Instant)>,
    pub(crate) session: Option<(u64, Session)>,
    pub(crate) connacks: u64,
}

impl Broker {
    pub(crate) fn has(&self, now: Instant, way: Way) -> bool {
        self.ways.iter().any(|(w, until)| *w == way && now < *until)
    }

    pub(crate) fn refusal(&self, now: Instant) -> Option<Way> {
        self.ways
            .iter()
            .filter(|(_, until)| now < *until)
            .map(|(way, _)| *way)
            .find(|way| matches!(way, Way::Refuse(..) | Way::RefuseVersionInOldForm))
    }

    /// When the process goes on, if it is stopped.
    pub(crate) fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.until(now, Way::Paused)
    }

    pub(crate) fn stalled_until(&self, now: Instant) -> Option<Instant> {
        self.until(now, Way::StallReading)
    }

    fn until(&self, now: Instant, way: Way) -> Option<Instant> {
        let matching = self.ways.iter().filter(|(w, _)| *w == way);
        matching.map(|(_, until)| *until).filter(|u| now < *u).max()
    }
}

/// The items in a publish: device name and numbers, in the order in which they must have been sent.
///
/// # Errors
/// When it is not what the gateway API promises.
pub(crate) fn read_publish(topic: &str, payload: &[u8]) -> Result<Vec<(String, u64)>, String> {
    let json: serde_json::Value = serde_json::from_slice(payload)
        .map_err(|error| format!("{topic}: {error}: {}", String::from_utf8_lossy(payload)))?;
    let mut items = Vec::new();
    let complete = match topic {
        "v1/gateway/telemetry" => telemetry(&json, &mut items),
        "v1/gateway/attributes" => attributes(&json, &mut items),
        "v1/gateway/rpc" => named(&json, "data", &mut items),
        "v1/gateway/connect" => named(&json, "type", &mut items),
        "v1/gateway/disconnect" => json["device"].as_str().map(|_| ()),
        _ => None,
    };
    match complete {
        Some(()) => Ok(items),
        None => Err(format!("{topic} carries {json}")),
    }
}

fn number(value: &serde_json::Value) -> Option<u64> {
    match value.as_str() {
        // Padded with what is behind the colon.
        Some(text) => text.split(':').next()?.parse().ok(),
        None => value.as_u64(),
    }
}

fn telemetry(json: &serde_json::Value, items: &mut Vec<(String, u64)>) -> Option<()> {
    for (device, entries) in json.as_object()? {
        for entry in entries.as_array()? {
            entry["ts"].as_u64()?;
            let mut numbers = Vec::new();
            for (key, value) in entry["values"].as_object()? {
                if key.ends_with("_quality") {
                    value.as_str()?;
                } else {
                    numbers.push(number(value)?);
                }
            }
            // Keys of one entry have one time and no order; this parser sorts them by name.
            numbers.sort_unstable();
            items.extend(numbers.into_iter().map(|number| (device.clone(), number)));
        }
    }
    Some(())
}

fn attributes(json: &serde_json::Value, items: &mut Vec<(String, u64)>) -> Option<()> {
    for (device, values) in json.as_object()? {
        for value in values.as_object()?.values() {
            items.push((device.clone(), number(value)?));
        }
    }
    Some(())
}

fn named(json: &serde_json::Value, field: &str, items: &mut Vec<(String, u64)>) -> Option<()> {
    items.push((json["device"].as_str()?.to_owned(), number(&json[field])?));
    Some(())
}
