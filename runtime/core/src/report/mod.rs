//! Which readings are worth a message: report strategies, by device and key.
//!
//! ```text
//!  emit ─► offer ──► passes, as it is ──► spool ──► accept │ take_back
//!            └─────► suppressed, counted: the platform can do without it
//! ```
//!
//! A [`Filter`] only ever lets a reading pass or suppresses it. It holds none back, makes none up and changes none: what
//! passes has the time and quality it came with, and what a guest was told is accepted is in the spool and nowhere else.
//! So there is no timer here, nothing to flush when a guest is swapped, and nothing that a kill of the process could lose.
//!
//! What is remembered is, for each pair of device and key, the reading that was last reported. The first reading of a
//! pair passes. **Forgetting is always safe**: it costs one more report. Therefore the table is bounded by forgetting what
//! has been idle, and beyond that readings of further pairs pass unfiltered.
//!
//! **Time order.** A reading older than the last reported one of its pair is not compared with what came after it: it
//! passes, and so does the first one that is again as new as the newest reported. Between the two, late readings are
//! compared among themselves. A device that delivers its past, or whose clock is set back, thus loses nothing.

mod rules;
mod strategy;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::message::{DeviceName, DeviceReadings, Key, Reading, Value};
use crate::time::Instant;

pub use rules::{Pattern, Rule, Rules};
use strategy::Reported;
pub use strategy::{Deadband, Strategy};

/// What one filter may remember: names, values and what it costs to keep them. About 60 000 pairs of a device and a key
/// with numbers.
pub const TRACKED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// When the table is full, a pair without a reading for so long is forgotten.
const IDLE: Duration = Duration::from_secs(3600);
/// How often a full table is looked through for such pairs.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
/// A pair without its text, and a device: what they take in the maps' nodes, which are two thirds full.
const PAIR_BYTES: usize = (size_of::<Key>() + size_of::<Tracked>()) * 3 / 2 + ARC_BYTES;
const DEVICE_BYTES: usize =
    (size_of::<DeviceName>() + size_of::<BTreeMap<Key, Tracked>>()) * 3 / 2 + ARC_BYTES;
/// Counters and the allocator's own before the text of a name.
const ARC_BYTES: usize = 32;

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offered {
    /// Readings that were taken out of it: nobody misses them.
    pub suppressed: u64,
    /// Readings that passed only because there was no room to remember what was reported.
    pub unfiltered: u64,
}

/// Decides for the readings of one connector's instance. It outlives the guests that emit them.
#[derive(Clone, Debug)]
pub struct Filter {
    rules: Rules,
    devices: BTreeMap<DeviceName, BTreeMap<Key, Tracked>>,
    room: Room,
    /// What was remembered before the batch that is offered and not accepted yet.
    undo: Vec<Undo>,
    sweep_at: Instant,
}

/// One pair.
#[derive(Clone, Debug)]
struct Tracked {
    strategy: Strategy,
    last: Option<Reported>,
    seen: Instant,
}

#[derive(Clone, Debug)]
struct Undo {
    device: DeviceName,
    key: Key,
    last: Option<Reported>,
}

/// The bound of the table.
#[derive(Clone, Copy, Debug)]
struct Room {
    bytes: usize,
    bytes_max: usize,
    /// Something found no room since the last sweep.
    full: bool,
}

impl Room {
    fn take(&mut self, bytes: usize) -> bool {
        let fits = self.bytes.saturating_add(bytes) <= self.bytes_max;
        if fits {
            self.bytes += bytes;
        } else {
            self.full = true;
        }
        fits
    }

    fn give_back(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// Bytes of a value beside the pair itself.
fn text_bytes(value: &Value) -> usize {
    match value {
        Value::Text(text) | Value::Json(text) => text.len(),
        Value::Boolean(_) | Value::Integer(_) | Value::Double(_) => 0,
    }
}

fn last_bytes(last: Option<&Reported>) -> usize {
    last.map_or(0, |last| text_bytes(&last.value))
}

fn pair_bytes(key: &Key, tracked: &Tracked) -> usize {
    PAIR_BYTES + key.as_str().len() + last_bytes(tracked.last.as_ref())
}

fn device_bytes(device: &DeviceName) -> usize {
    DEVICE_BYTES + device.as_str().len()
}

impl Filter {
    /// A filter that remembers nothing yet; none where every reading passes, so that it costs nothing.
    #[must_use]
    pub fn new(rules: &Rules) -> Option<Self> {
        (!rules.pass_everything()).then(|| Self::with_room(rules.clone(), TRACKED_BYTES_MAX))
    }

    fn with_room(rules: Rules, bytes_max: usize) -> Self {
        Self {
            rules,
            devices: BTreeMap::new(),
            room: Room {
                bytes: 0,
                bytes_max,
                full: false,
            },
            undo: Vec::new(),
            sweep_at: Instant::ZERO,
        }
    }

    /// Takes out of `batch` what need not be reported, and devices of which nothing is left. The order stays.
    ///
    /// The batch counts as reported only with [`Filter::accept`]. A batch that is neither accepted nor taken back before
    /// the next one is offered is taken back then: nobody can know what became of it, and reporting twice is safe.
    pub fn offer(&mut self, batch: &mut Vec<DeviceReadings>, now: Instant) -> Offered {
        self.take_back();
        if self.room.full && self.sweep_at <= now {
            self.sweep(now);
        }
        let mut offered = Offered::default();
        for DeviceReadings { device, readings } in &mut *batch {
            if !self.devices.contains_key(device) && self.room.take(device_bytes(device)) {
                self.devices.insert(device.clone(), BTreeMap::new());
            }
            let mut keys = self.devices.get_mut(device);
            let mut judging = Judging {
                rules: &self.rules,
                room: &mut self.room,
                undo: &mut self.undo,
                offered: &mut offered,
                device,
                now,
            };
            readings.retain(|reading| judging.passes(keys.as_deref_mut(), reading));
        }
        batch.retain(|device| !device.readings.is_empty());
        offered
    }

    /// What passed of the batch that was offered last has been reported.
    pub fn accept(&mut self) {
        self.undo.clear();
    }

    /// It has not: everything is as if it had not been offered.
    pub fn take_back(&mut self) {
        while let Some(Undo { device, key, last }) = self.undo.pop() {
            let tracked = self
                .devices
                .get_mut(&device)
                .and_then(|keys| keys.get_mut(&key));
            if let Some(tracked) = tracked {
                self.room.give_back(last_bytes(tracked.last.as_ref()));
                // It had its room when the batch was offered.
                self.room.bytes += last_bytes(last.as_ref());
                tracked.last = last;
            }
        }
    }

    /// The device was away: the first reading of each of its keys is reported again.
    pub fn forget(&mut self, device: &DeviceName) {
        if let Some(keys) = self.devices.remove(device) {
            let pairs: usize = keys.iter().map(|(key, pair)| pair_bytes(key, pair)).sum();
            self.room.give_back(pairs + device_bytes(device));
        }
    }

    /// Something that was reported may never arrive: the first reading of everything is reported again.
    pub fn forget_all(&mut self) {
        self.devices.clear();
        self.undo.clear();
        self.room.bytes = 0;
        self.room.full = false;
    }

    /// How many pairs of a device and a key are remembered.
    #[must_use]
    pub fn pairs(&self) -> usize {
        self.devices.values().map(BTreeMap::len).sum()
    }

    fn sweep(&mut self, now: Instant) {
        let room = &mut self.room;
        self.devices.retain(|device, keys| {
            keys.retain(|key, pair| {
                let idle = now.saturating_since(pair.seen) >= IDLE;
                if idle {
                    room.give_back(pair_bytes(key, pair));
                }
                !idle
            });
            if keys.is_empty() {
                room.give_back(device_bytes(device));
            }
            !keys.is_empty()
        });
        room.full = false;
        self.sweep_at = now + SWEEP_INTERVAL;
    }
}

/// The readings of one device on their way through.
struct Judging<'a> {
    rules: &'a Rules,
    room: &'a mut Room,
    undo: &'a mut Vec<Undo>,
    offered: &'a mut Offered,
    device: &'a DeviceName,
    now: Instant,
}

impl Judging<'_> {
    /// `keys` is what is known of the device; none when there was no room for it.
    fn passes(&mut self, keys: Option<&mut BTreeMap<Key, Tracked>>, reading: &Reading) -> bool {
        let key = &reading.key;
        let mut keys = keys;
        if let Some(pair) = keys.as_mut().and_then(|keys| keys.get_mut(key)) {
            return self.judge(pair, reading);
        }
        let mut pair = Tracked {
            strategy: self.rules.strategy(self.device.as_str(), key.as_str()),
            last: None,
            seen: self.now,
        };
        match keys {
            Some(keys) if self.room.take(pair_bytes(key, &pair)) => {
                let passes = self.judge(&mut pair, reading);
                keys.insert(key.clone(), pair);
                passes
            }
            Some(_) | None => {
                if pair.strategy != Strategy::OnReceived {
                    self.offered.unfiltered += 1;
                }
                true
            }
        }
    }

    fn judge(&mut self, pair: &mut Tracked, reading: &Reading) -> bool {
        pair.seen = self.now;
        if pair.strategy == Strategy::OnReceived {
            return true;
        }
        let next = match &pair.last {
            None => Some(Reported::first(pair.strategy, reading, self.now)),
            Some(last) => last.next(pair.strategy, reading, self.now),
        };
        let Some(next) = next else {
            self.offered.suppressed += 1;
            return false;
        };
        self.room.give_back(last_bytes(pair.last.as_ref()));
        let next = self.room.take(text_bytes(&next.value)).then_some(next);
        if next.is_none() {
            self.offered.unfiltered += 1;
        }
        self.undo.push(Undo {
            device: self.device.clone(),
            key: reading.key.clone(),
            last: std::mem::replace(&mut pair.last, next),
        });
        true
    }
}
