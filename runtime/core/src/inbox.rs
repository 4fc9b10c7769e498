//! Messages from the platform between their acknowledgement and their handling.
//!
//! ```text
//!  arrive ──► written ──► acknowledged to the broker
//!     │
//!     └─► due ──► handed ──► settled
//!          ▲        │ refused
//!          └─ later ◄┘
//! ```
//!
//! - What is acknowledged is in the log ([`frame`]) first, so that the end of the process loses nothing: a new process hands
//!   out again what was not settled.
//! - The shared attributes of a device go one update at a time, in order: a late try must not put an old value over a new one.
//! - A request is for now. It expires; one whose age cannot be told has expired.
//! - A redelivery (DUP) of a request that is remembered is a duplicate. Without DUP it is not: platforms count their
//!   requests anew when they restart.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::message::{DeviceName, Downlink};
use crate::time::{Instant, TimestampMs};

pub mod frame;
#[cfg(test)]
mod tests;

/// Requests that are remembered for duplicates.
pub const REMEMBERED_MAX: usize = 512;
/// For how long.
pub const REMEMBERED_FOR: Duration = Duration::from_secs(600);
/// After a refusal.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// A device may show up so long after a message for it.
const ADOPTED_WITHIN: Duration = Duration::from_secs(10);
/// After the start, connectors have so long to find their devices.
const STARTED_WITHIN: Duration = Duration::from_secs(60);
/// A connector that is busy or fails is tried for so long, and a device awaited that a message of the last process is for.
const TRIED_FOR: Duration = Duration::from_secs(300);
/// Calls that may fail over one message.
const FAILURES_MAX: u8 = 3;

/// Bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Messages that wait.
    pub messages_max: usize,
    /// Their bytes in the log; one message always fits.
    pub bytes_max: usize,
    /// A request older than this is not carried out.
    pub rpc_expiry: Duration,
}

/// Names a message, across processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Number(pub u64);

/// Tells one request from another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RpcKey {
    device: DeviceName,
    request_id: u64,
    /// Of method and parameters.
    digest: u32,
}

impl RpcKey {
    fn of(downlink: &Downlink) -> Option<Self> {
        match downlink {
            Downlink::Rpc {
                device,
                request_id,
                method,
                params,
            } => Some(Self {
                device: device.clone(),
                request_id: *request_id,
                digest: crc32c::crc32c_append(crc32c::crc32c(method.as_bytes()), params.as_bytes()),
            }),
            Downlink::SharedAttributes { .. } => None,
        }
    }
}

/// What the log holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Record {
    /// A message arrived.
    Kept {
        /// Its name.
        number: Number,
        /// When.
        at: TimestampMs,
        /// The message.
        downlink: Downlink,
    },
    /// It need not be handed out again.
    Settled {
        /// Its name.
        number: Number,
    },
    /// A request that was carried out, for duplicates.
    Answered {
        /// When it arrived.
        at: TimestampMs,
        /// Which.
        key: RpcKey,
    },
}

/// What became of an arrival.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// It is kept: write this, then acknowledge.
    New {
        /// Its name.
        number: Number,
        /// Its record.
        frame: Vec<u8>,
    },
    /// It was here before: acknowledge.
    Duplicate,
    /// No room: do not acknowledge; ask again when something was settled.
    Full,
}

/// Why a message could not be handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No connector has the device.
    UnknownDevice,
    /// Its connector has too much to do.
    Busy,
    /// Its connector broke over it.
    Failed,
}

/// What follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is tried again.
    Later,
    /// It is dropped and counted.
    Dropped,
    /// Nobody waits for it any more.
    Gone,
}

/// The end of a request's time, by both clocks: one stands still while the machine sleeps, the other may be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// Monotonic.
    pub at: Instant,
    /// On the wall.
    pub wall: TimestampMs,
}

impl Deadline {
    /// Whether it is too late.
    #[must_use]
    pub fn is_over(&self, now: Instant, wall: TimestampMs) -> bool {
        now >= self.at || wall >= self.wall
    }
}

/// A message to hand on.
#[derive(Clone, Debug, PartialEq)]
pub struct Due {
    /// Its name.
    pub number: Number,
    /// The message.
    pub downlink: Downlink,
    /// A request must not be carried out after this.
    pub deadline: Option<Deadline>,
    /// The process before this one had it.
    pub recovered: bool,
}

/// Counted since the process started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Figures {
    /// Messages that arrived and were kept.
    pub arrived: u64,
    /// Redeliveries that were here before.
    pub duplicates: u64,
    /// Requests that expired before a connector had them.
    pub rpcs_expired: u64,
    /// Updates of shared attributes given up.
    pub dropped: u64,
}

#[derive(Clone, Debug)]
struct Entry {
    downlink: Downlink,
    at: TimestampMs,
    bytes: usize,
    handed: bool,
    recovered: bool,
    failures: u8,
    /// Its device may show up until then.
    adopted_until: Instant,
    until: Instant,
}

#[derive(Clone, Debug)]
struct Remembered {
    key: RpcKey,
    at: TimestampMs,
    since: Instant,
}

/// The messages between acknowledgement and handling.
#[derive(Clone, Debug)]
pub struct Inbox {
    limits: Limits,
    started: Instant,
    last: Number,
    entries: BTreeMap<Number, Entry>,
    bytes: usize,
    due: BTreeSet<Number>,
    later: BTreeSet<(Instant, Number)>,
    /// Requests by their end.
    expiring: BTreeSet<(Instant, Number)>,
    /// Updates of shared attributes of one device: only the first is due.
    updates: BTreeMap<DeviceName, VecDeque<Number>>,
    remembered: VecDeque<Remembered>,
    figures: Figures,
}

impl Inbox {
    /// An empty one.
    #[must_use]
    pub fn new(limits: Limits, now: Instant) -> Self {
        Self {
            limits,
            started: now,
            last: Number(0),
            entries: BTreeMap::new(),
            bytes: 0,
            due: BTreeSet::new(),
            later: BTreeSet::new(),
            expiring: BTreeSet::new(),
            updates: BTreeMap::new(),
            remembered: VecDeque::new(),
            figures: Figures::default(),
        }
    }

    /// What a process left; with it the requests that have expired, which are settled and counted. `wall` is `now`.
    #[must_use]
    pub fn recover(
        limits: Limits,
        records: impl IntoIterator<Item = Record>,
        wall: TimestampMs,
        now: Instant,
    ) -> (Self, Vec<Downlink>) {
        let mut inbox = Self::new(limits, now);
        let mut kept = BTreeMap::new();
        for record in records {
            match record {
                Record::Kept {
                    number,
                    at,
                    downlink,
                } => {
                    if let Some(key) = RpcKey::of(&downlink) {
                        inbox.remember(key, at, now);
                    }
                    inbox.last = inbox.last.max(number);
                    kept.insert(number, (at, downlink));
                }
                Record::Settled { number } => {
                    inbox.last = inbox.last.max(number);
                    kept.remove(&number);
                }
                Record::Answered { at, key } => inbox.remember(key, at, now),
            }
        }
        let mut expired = Vec::new();
        for (number, (at, downlink)) in kept {
            match inbox.left_of(&downlink, at, wall) {
                Some(left) => {
                    inbox.admit(number, at, downlink, true, now + left, now);
                }
                None => {
                    inbox.figures.rpcs_expired += 1;
                    expired.push(downlink);
                }
            }
        }
        (inbox, expired)
    }

    /// How long it may still be tried; none for a request that is too old, or from a time that is not yet.
    fn left_of(&self, downlink: &Downlink, at: TimestampMs, wall: TimestampMs) -> Option<Duration> {
        match downlink {
            Downlink::SharedAttributes { .. } => Some(TRIED_FOR),
            Downlink::Rpc { .. } => {
                let age = Duration::from_millis(wall.0.checked_sub(at.0)?);
                self.limits
                    .rpc_expiry
                    .checked_sub(age)
                    .filter(|left| !left.is_zero())
            }
        }
    }

    /// A message came; `redelivered`: the broker says that it may have sent it before.
    pub fn arrive(
        &mut self,
        downlink: &Downlink,
        redelivered: bool,
        wall: TimestampMs,
        now: Instant,
    ) -> Arrived {
        self.forget(now);
        let key = RpcKey::of(downlink);
        if redelivered
            && self
                .remembered
                .iter()
                .any(|known| Some(&known.key) == key.as_ref())
        {
            self.figures.duplicates += 1;
            return Arrived::Duplicate;
        }
        let number = Number(self.last.0 + 1);
        let frame = frame::encode(&Record::Kept {
            number,
            at: wall,
            downlink: downlink.clone(),
        });
        let no_room = self.entries.len() >= self.limits.messages_max
            || self.bytes + frame.len() > self.limits.bytes_max;
        if no_room && !self.entries.is_empty() {
            return Arrived::Full;
        }
        if let Some(key) = key {
            self.remember(key, wall, now);
        }
        self.last = number;
        let left = match downlink {
            Downlink::Rpc { .. } => self.limits.rpc_expiry,
            Downlink::SharedAttributes { .. } => TRIED_FOR,
        };
        self.figures.arrived += 1;
        self.admit(number, wall, downlink.clone(), false, now + left, now);
        Arrived::New { number, frame }
    }

    fn admit(
        &mut self,
        number: Number,
        at: TimestampMs,
        downlink: Downlink,
        recovered: bool,
        until: Instant,
        now: Instant,
    ) {
        match &downlink {
            Downlink::Rpc { .. } => {
                self.expiring.insert((until, number));
                self.due.insert(number);
            }
            Downlink::SharedAttributes { device, .. } => {
                let queue = self.updates.entry(device.clone()).or_default();
                queue.push_back(number);
                if queue.len() == 1 {
                    self.due.insert(number);
                }
            }
        }
        let adopted_until = if recovered {
            until
        } else {
            (now + ADOPTED_WITHIN).max(self.started + STARTED_WITHIN)
        };
        let bytes = frame::length(&downlink);
        self.bytes += bytes;
        self.entries.insert(
            number,
            Entry {
                downlink,
                at,
                bytes,
                handed: false,
                recovered,
                failures: 0,
                adopted_until,
                until,
            },
        );
    }

    /// The next message to hand on.
    pub fn next_due(&mut self, now: Instant) -> Option<Due> {
        self.wake(now);
        let number = self.due.pop_first()?;
        let rpc_expiry_ms = u64::try_from(self.limits.rpc_expiry.as_millis()).unwrap_or(u64::MAX);
        let entry = self.entries.get_mut(&number)?;
        entry.handed = true;
        let is_request = matches!(entry.downlink, Downlink::Rpc { .. });
        Some(Due {
            number,
            downlink: entry.downlink.clone(),
            deadline: is_request.then_some(Deadline {
                at: entry.until,
                wall: TimestampMs(entry.at.0.saturating_add(rpc_expiry_ms)),
            }),
            recovered: entry.recovered,
        })
    }

    /// What was refused may be tried again, if it is time.
    pub fn wake(&mut self, now: Instant) {
        while let Some(&(at, number)) = self.later.first()
            && at <= now
        {
            self.later.pop_first();
            self.due.insert(number);
        }
    }

    /// Whether [`Inbox::next_due`] has something; after [`Inbox::wake`], whether it is so now.
    #[must_use]
    pub fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// It was handled, or answered by the gateway; the record to write, if it was not settled before.
    pub fn settled(&mut self, number: Number) -> Option<Vec<u8>> {
        self.remove(number)?;
        Some(frame::encode(&Record::Settled { number }))
    }

    /// It could not be handed on. Of a message that is dropped, [`Inbox::settled`] makes the record.
    pub fn refused(&mut self, number: Number, refusal: Refusal, now: Instant) -> Verdict {
        let Some(entry) = self.entries.get_mut(&number) else {
            return Verdict::Gone;
        };
        entry.handed = false;
        let again = match refusal {
            Refusal::UnknownDevice => now < entry.adopted_until,
            Refusal::Busy => now < entry.until,
            Refusal::Failed => {
                entry.failures += 1;
                entry.failures < FAILURES_MAX
            }
        };
        if again {
            self.later.insert((now + RETRY_AFTER, number));
            return Verdict::Later;
        }
        match entry.downlink {
            Downlink::Rpc { .. } => self.figures.rpcs_expired += 1,
            Downlink::SharedAttributes { .. } => self.figures.dropped += 1,
        }
        Verdict::Dropped
    }

    /// The requests whose time is over, with whether a connector has them; each is to be settled.
    pub fn expire(&mut self, now: Instant) -> Vec<(Number, Downlink, bool)> {
        let mut expired = Vec::new();
        while let Some(&(at, number)) = self.expiring.first()
            && at <= now
        {
            self.expiring.pop_first();
            if let Some(entry) = self.entries.get(&number) {
                self.figures.rpcs_expired += u64::from(!entry.handed);
                expired.push((number, entry.downlink.clone(), entry.handed));
            }
        }
        expired
    }

    /// When to look again.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let first = |set: &BTreeSet<(Instant, Number)>| set.first().map(|&(at, _)| at);
        first(&self.later)
            .into_iter()
            .chain(first(&self.expiring))
            .min()
    }

    /// Messages that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of what waits, as the log holds it.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// What was counted.
    #[must_use]
    pub const fn figures(&self) -> Figures {
        self.figures
    }

    /// A log that says no more than is still needed.
    pub fn snapshot(&self) -> impl Iterator<Item = Record> + '_ {
        let answered = self.remembered.iter().map(|known| Record::Answered {
            at: known.at,
            key: known.key.clone(),
        });
        let kept = self.entries.iter().map(|(&number, entry)| Record::Kept {
            number,
            at: entry.at,
            downlink: entry.downlink.clone(),
        });
        // The last number is not given again: what a connector still holds must not settle another message.
        let last = Record::Settled { number: self.last };
        let last = (!self.entries.contains_key(&self.last)).then_some(last);
        answered.chain(last).chain(kept)
    }

    fn remove(&mut self, number: Number) -> Option<()> {
        let entry = self.entries.remove(&number)?;
        self.bytes -= entry.bytes;
        self.due.remove(&number);
        self.later.retain(|&(_, later)| later != number);
        self.expiring.remove(&(entry.until, number));
        if let Downlink::SharedAttributes { device, .. } = &entry.downlink
            && let Some(queue) = self.updates.get_mut(device)
        {
            queue.retain(|&other| other != number);
            match queue.front() {
                Some(&next) => {
                    if self.entries.get(&next).is_some_and(|next| !next.handed)
                        && !self.later.iter().any(|&(_, later)| later == next)
                    {
                        self.due.insert(next);
                    }
                }
                None => {
                    self.updates.remove(device);
                }
            }
        }
        Some(())
    }

    fn remember(&mut self, key: RpcKey, at: TimestampMs, now: Instant) {
        if self.remembered.len() >= REMEMBERED_MAX {
            self.remembered.pop_front();
        }
        self.remembered.push_back(Remembered {
            key,
            at,
            since: now,
        });
    }

    fn forget(&mut self, now: Instant) {
        while let Some(oldest) = self.remembered.front()
            && now.saturating_since(oldest.since) >= REMEMBERED_FOR
        {
            self.remembered.pop_front();
        }
    }
}
