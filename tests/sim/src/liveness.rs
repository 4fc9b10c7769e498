//! When a session counts as dead: the rules of the runtime's driver, restated.

use std::time::Duration;

use moorline_core::link::classify::Observed;
use moorline_core::time::Instant;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) connect: Duration,
    pub(crate) connack: Duration,
    pub(crate) keep_alive: Duration,
    pub(crate) pingresp: Duration,
    pub(crate) probe_after: Duration,
    pub(crate) ack: Duration,
    pub(crate) write_stall: Duration,
    pub(crate) tcp_user: Duration,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) awaiting_connack_since: Option<Instant>,
    pub(crate) pingreq_at: Option<Instant>,
    pub(crate) blocked_at: Option<Instant>,
    pub(crate) oldest_publish_at: Option<Instant>,
    pub(crate) received_at: Option<Instant>,
    pub(crate) sent_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Alive(Option<Instant>),
    Ping,
    Dead(Observed),
}

pub(crate) fn judge(limits: &Limits, facts: &Facts, now: Instant) -> Verdict {
    let deadlines = [
        (
            facts.awaiting_connack_since,
            limits.connack,
            Observed::Timeout,
        ),
        (facts.pingreq_at, limits.pingresp, Observed::PingrespMissing),
        (facts.blocked_at, limits.write_stall, Observed::WriteStalled),
        (facts.oldest_publish_at, limits.ack, Observed::AckOverdue),
    ];
    let first = deadlines
        .iter()
        .filter_map(|&(since, limit, observed)| Some((since? + limit, observed)))
        .min_by_key(|&(at, _)| at);
    if let Some((at, observed)) = first
        && at <= now
    {
        return Verdict::Dead(observed);
    }
    let ping_at = ping_at(limits, facts);
    if ping_at.is_some_and(|at| at <= now) {
        return Verdict::Ping;
    }
    Verdict::Alive(first.map(|(at, _)| at).into_iter().chain(ping_at).min())
}

/// The next PINGREQ: when nothing went for a keep-alive, or when an answer is awaited and the peer is silent.
fn ping_at(limits: &Limits, facts: &Facts) -> Option<Instant> {
    if facts.pingreq_at.is_some()
        || facts.blocked_at.is_some()
        || facts.awaiting_connack_since.is_some()
    {
        return None;
    }
    let idle = facts.sent_at? + limits.keep_alive;
    let probe = match (facts.oldest_publish_at, facts.received_at) {
        (Some(publish), Some(received)) => Some(publish.max(received) + limits.probe_after),
        (None, _) | (_, None) => None,
    };
    Some(probe.map_or(idle, |probe| probe.min(idle)))
}
