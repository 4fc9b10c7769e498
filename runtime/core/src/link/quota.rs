//! How much may go now: the limits the platform has published, and the pace that is left where it has only complained.
//!
//! ```text
//!  publish ─► what it counts as ─┬─► limits of all devices    ┐ each kind, each window: see `meter`
//!                                ├─► limits of the gateway    ┘
//!                                └─► pace, after a quota of which nothing was published
//!             all of them have room ──► it goes, else it waits in the spool
//! ```
//!
//! Limits outlive sessions, because the platform's own counters do. It counts in token buckets of a limit's count that fill at
//! the limit's rate (bucket4j, greedy); what never exceeds the count in any window never empties such a bucket.

use std::fmt;
use std::time::Duration;

mod meter;
#[cfg(test)]
mod tests;

use super::pace::Pace;
use crate::thingsboard::limits::{Cost, Limit, Limits, Scope};
use crate::time::Instant;
use meter::{Meter, Room};

/// What holds a publish back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldBy {
    /// A limit the platform has published.
    Limit {
        /// Of which part of the session.
        scope: Scope,
        /// On what.
        kind: Kind,
        /// How much.
        limit: Limit,
    },
    /// The pace after a quota.
    Pace,
}

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Messages without values.
    Messages,
    /// Messages with values, one for each device.
    TelemetryMessages,
    /// Values.
    TelemetryPoints,
}

impl Kind {
    const ALL: [Self; 3] = [
        Self::Messages,
        Self::TelemetryMessages,
        Self::TelemetryPoints,
    ];

    fn of(self, cost: &Cost) -> u64 {
        u64::from(match self {
            Self::Messages => cost.messages,
            Self::TelemetryMessages => cost.telemetry_messages,
            Self::TelemetryPoints => cost.telemetry_points,
        })
    }

    fn windows(self, limits: &Limits) -> &[Limit] {
        match self {
            Self::Messages => &limits.messages,
            Self::TelemetryMessages => &limits.telemetry_messages,
            Self::TelemetryPoints => &limits.telemetry_points,
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::TelemetryMessages => "telemetry messages",
            Self::TelemetryPoints => "telemetry data points",
        }
    }
}

impl fmt::Display for HeldBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit { scope, kind, limit } => {
                let whose = match scope {
                    Scope::Devices => "",
                    Scope::Own => " of the gateway itself",
                };
                write!(f, "{limit}: {}{whose}", kind.words())
            }
            Self::Pace => f.write_str("the pace after a quota"),
        }
    }
}

/// Whether a publish may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Now.
    Now,
    /// Not before then.
    Held {
        /// None: as soon as something in flight is answered.
        until: Option<Instant>,
        /// By what, of several what holds longest.
        by: HeldBy,
    },
}

/// The limits of one part of a session.
#[derive(Clone, Debug, Default)]
struct Meters {
    limits: Limits,
    meters: Vec<(Kind, Meter)>,
}

impl Meters {
    fn follow(&mut self, limits: &Limits, share_percent: u32, afresh: bool) {
        if self.limits == *limits && !afresh {
            return;
        }
        let old = std::mem::take(&mut self.meters);
        for kind in Kind::ALL {
            for limit in kind.windows(limits) {
                let same = old
                    .iter()
                    .find(|(known, meter)| *known == kind && meter.limit() == *limit);
                let meter = match same {
                    Some((_, meter)) if !afresh => meter.clone(),
                    Some(_) | None => Meter::new(*limit, share_percent),
                };
                self.meters.push((kind, meter));
            }
        }
        self.limits = limits.clone();
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = &Meter> {
        self.meters
            .iter()
            .filter(move |(known, _)| *known == kind)
            .map(|(_, meter)| meter)
    }

    /// The least over the windows on `kind`; none without such a limit.
    fn least(&self, kind: Kind, figure: impl Fn(&Meter) -> u64) -> Option<u64> {
        self.of(kind).map(figure).min()
    }

    fn per_s(&self, kind: Kind) -> f64 {
        self.of(kind).map(Meter::per_s).fold(f64::MAX, f64::min)
    }

    fn admits(&mut self, now: Instant, cost: &Cost) -> Admission {
        let mut latest = None;
        for (kind, meter) in &mut self.meters {
            let by = HeldBy::Limit {
                scope: cost.scope,
                kind: *kind,
                limit: meter.limit(),
            };
            match meter.room(now, kind.of(cost)) {
                Room::Now => {}
                Room::At(at) => {
                    if latest.is_none_or(|(then, _)| then < at) {
                        latest = Some((at, by));
                    }
                }
                Room::AfterAnswer => return Admission::Held { until: None, by },
            }
        }
        latest.map_or(Admission::Now, |(at, by)| Admission::Held {
            until: Some(at),
            by,
        })
    }

    /// What one publish may count as: enough that no limit on messages costs points, and little enough that what waits behind
    /// it does not wait long.
    fn cost_max(&self) -> Cost {
        let whole = |figure: Option<u64>| {
            figure.map_or(u32::MAX, |figure| u32::try_from(figure).unwrap_or(u32::MAX))
        };
        let points = self.least(Kind::TelemetryPoints, Meter::portion);
        let most = self.least(Kind::TelemetryPoints, Meter::most);
        let in_each =
            self.per_s(Kind::TelemetryPoints) / self.per_s(Kind::TelemetryMessages).max(1e-9);
        let points = points
            .zip(most)
            // A float saturates where it does not fit.
            .map(|(points, most)| points.max(in_each.ceil() as u64).min(most));
        Cost {
            scope: Scope::Devices,
            messages: whole(self.least(Kind::Messages, Meter::portion)),
            telemetry_messages: whole(self.least(Kind::TelemetryMessages, Meter::portion)),
            telemetry_points: whole(points),
        }
    }
}

/// How much may go. It outlives sessions.
#[derive(Clone, Debug)]
pub struct Quota {
    pace: Pace,
    share_percent: u32,
    devices: Meters,
    own: Meters,
}

impl Quota {
    /// Nothing is limited yet; of what will be, `share_percent` are used, 1 to 100.
    #[must_use]
    pub fn new(share_percent: u32) -> Self {
        Self {
            pace: Pace::default(),
            share_percent,
            devices: Meters::default(),
            own: Meters::default(),
        }
    }

    /// From now on these limits hold. What is known of those that held before stays known.
    pub fn follow(&mut self, devices: &Limits, own: &Limits, share_percent: u32) {
        let afresh = share_percent != self.share_percent;
        self.share_percent = share_percent;
        self.devices.follow(devices, share_percent, afresh);
        self.own.follow(own, share_percent, afresh);
    }

    fn meters(&mut self, scope: Scope) -> &mut Meters {
        match scope {
            Scope::Devices => &mut self.devices,
            Scope::Own => &mut self.own,
        }
    }

    /// Whether a publish that counts as `cost` may go.
    #[must_use]
    pub fn admits(&mut self, now: Instant, cost: &Cost) -> Admission {
        let admission = self.meters(cost.scope).admits(now, cost);
        let paced = self.pace.ready_at(now);
        match (admission, paced) {
            (Admission::Held { until: None, .. }, _) | (_, None) => admission,
            (
                Admission::Held {
                    until: Some(at), ..
                },
                Some(paced),
            ) if at >= paced => admission,
            (Admission::Held { .. } | Admission::Now, Some(paced)) => Admission::Held {
                until: Some(paced),
                by: HeldBy::Pace,
            },
        }
    }

    /// A publish goes.
    pub fn sent(&mut self, now: Instant, cost: &Cost) {
        self.pace.sent(now);
        for (kind, meter) in &mut self.meters(cost.scope).meters {
            meter.sent(now, kind.of(cost));
        }
    }

    /// A publish is answered, one way or the other.
    pub fn answered(&mut self, now: Instant, cost: &Cost) {
        for (kind, meter) in &mut self.meters(cost.scope).meters {
            meter.answered(now, kind.of(cost));
        }
    }

    /// The session is over: nothing is in flight any more.
    pub fn over(&mut self, now: Instant) {
        for meters in [&mut self.devices, &mut self.own] {
            for (_, meter) in &mut meters.meters {
                meter.over(now);
            }
        }
    }

    /// The broker said that it was too much, whatever it has published.
    pub fn exceeded(&mut self, now: Instant) {
        self.pace.quota(now);
    }

    /// Publishes a second, where a quota of which nothing was published has slowed them down.
    #[must_use]
    pub fn limit_per_s(&self) -> Option<f64> {
        self.pace.limit_per_s()
    }

    /// Whether publishes may have to wait, so that each should carry as much as it can.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        !self.devices.meters.is_empty() || self.pace.limit_per_s().is_some()
    }

    /// What one publish of telemetry should count as at most; a single reading may count as more.
    #[must_use]
    pub fn cost_max(&self) -> Cost {
        self.devices.cost_max()
    }

    /// The longest that any publish waits while nothing is in flight, for tests and for what people are told.
    #[must_use]
    pub fn wait_max(&self) -> Duration {
        let meters = self.devices.meters.iter().chain(&self.own.meters);
        let longest = meters.map(|(_, meter)| meter.wait_max()).max();
        longest.unwrap_or_default().max(super::pace::INTERVAL_MAX)
    }
}
