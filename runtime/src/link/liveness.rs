//! When an established session counts as dead although the kernel still says nothing. Pure: facts in, verdict out.

use std::time::Duration;

use moorline_core::link::classify::Observed;
use moorline_core::time::Instant;

use super::settings::LivenessLimits;

/// What is known about a session right now.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Facts {
    /// CONNECT went at this time and no CONNACK came yet.
    pub(super) awaiting_connack_since: Option<Instant>,
    /// The oldest PINGREQ that nothing has answered.
    pub(super) pingreq_at: Option<Instant>,
    /// Since when the socket takes no bytes.
    pub(super) blocked_at: Option<Instant>,
    /// When the oldest unacknowledged publish was sent.
    pub(super) oldest_publish_at: Option<Instant>,
    /// When the last acknowledgement of a publish came.
    pub(super) acked_at: Option<Instant>,
    /// A publish of QoS 0, which nothing acknowledges.
    pub(super) told_at: Option<Instant>,
    /// The last byte from the peer.
    pub(super) received_at: Option<Instant>,
    /// A PINGREQ of ours is asked for and not yet sent.
    pub(super) probing: bool,
    /// Until this time our question, or what fills the socket, was seen to move ahead
    /// ([`Passage`](moorline_core::link::passage::Passage)): the peer cannot have answered.
    pub(super) held_until: Option<Instant>,
    /// A time in which this machine did not run us: it is nobody's silence.
    pub(super) stall: Option<Stalled>,
}

/// A time in which we did not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stalled {
    /// When it ended.
    pub(super) until: Instant,
    /// How long.
    pub(super) lasted: Duration,
}

impl Stalled {
    /// Since when something is owed, without this time: a deadline is moved by what the stall took of it and by no more, or
    /// a busy machine would find a dead peer far too late.
    fn leave_out(self, owed: Instant) -> Instant {
        owed.max(self.until.min(owed + self.lasted))
    }
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Look again at this time; none: nothing is awaited.
    Alive(Option<Instant>),
    /// Ask the peer by a PINGREQ whether it lives.
    Probe,
    /// Give it up.
    Dead(Observed),
}

/// Judges. `connack` is the deadline of the handshake.
pub(super) fn judge(
    limits: &LivenessLimits,
    connack: Duration,
    facts: &Facts,
    now: Instant,
) -> Verdict {
    let silent = limits.ack + limits.probe_after + limits.pingresp;
    let held = |owed| later(owed, facts.held_until);
    // The earliest deadline names the cause when several have passed: it is the one that would have fired.
    let deadlines = [
        (facts.awaiting_connack_since, connack, Observed::Timeout),
        (
            held(later(facts.pingreq_at, facts.acked_at)),
            limits.pingresp,
            Observed::PingrespMissing,
        ),
        (
            held(later(facts.blocked_at, facts.received_at)),
            limits.write_stall,
            Observed::WriteStalled,
        ),
        (
            acknowledgement_awaited(facts),
            limits.ack,
            Observed::AckOverdue,
        ),
        // Should the probe never get out.
        (
            held(later(facts.oldest_publish_at, facts.acked_at)),
            silent,
            Observed::PingrespMissing,
        ),
    ];
    let due = deadlines.iter().filter_map(|&(since, limit, observed)| {
        let since = since?;
        let since = facts
            .stall
            .map_or(since, |stalled| stalled.leave_out(since));
        Some((since + limit, observed))
    });
    let first = due.min_by_key(|&(at, _)| at);
    if let Some((at, observed)) = first
        && at <= now
    {
        return Verdict::Dead(observed);
    }
    let probe_at = probe_at(limits, facts);
    if probe_at.is_some_and(|at| at <= now) {
        return Verdict::Probe;
    }
    Verdict::Alive(first.map(|(at, _)| at).into_iter().chain(probe_at).min())
}

/// Since when the peer owes an acknowledgement although it speaks. A peer that has said nothing since the publish went
/// is silent altogether, which is another fault with another cause: the probe finds it, and sooner.
fn acknowledgement_awaited(facts: &Facts) -> Option<Instant> {
    let published = facts.oldest_publish_at?;
    facts
        .received_at
        .is_some_and(|received| received > published)
        .then(|| later(Some(published), facts.acked_at))?
}

/// Since when something is owed, counted from the last sign of life: a peer that works through a long queue is slow, not
/// stuck.
fn later(owed: Option<Instant>, life: Option<Instant>) -> Option<Instant> {
    let owed = owed?;
    Some(life.map_or(owed, |life| life.max(owed)))
}

/// A publish waits, the peer is silent, and no PINGREQ is under way: the next word is ours. Without this a peer that
/// vanished under load is found only by the acknowledgement's much longer deadline, because the client crate pings an
/// idle connection only; and under a load of QoS 0 by no deadline at all.
fn probe_at(limits: &LivenessLimits, facts: &Facts) -> Option<Instant> {
    if facts.pingreq_at.is_some() || facts.blocked_at.is_some() || facts.probing {
        return None;
    }
    let heard_at = facts.received_at?;
    let told_at = facts.told_at.filter(|told| *told >= heard_at);
    let published_at = facts.oldest_publish_at.into_iter().chain(told_at).min()?;
    Some(published_at.max(heard_at) + limits.probe_after)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: LivenessLimits = LivenessLimits {
        pingresp: Duration::from_secs(5),
        probe_after: Duration::from_secs(4),
        ack: Duration::from_secs(30),
        write_stall: Duration::from_secs(15),
        pingresp_max: Duration::from_secs(20),
        tcp_user: Duration::from_secs(10),
    };
    const CONNACK: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Instant {
        Instant::from_start(Duration::from_secs(seconds))
    }

    fn judge_at(seconds: u64, facts: &Facts) -> Verdict {
        judge(&LIMITS, CONNACK, facts, at(seconds))
    }

    #[test]
    fn a_peer_that_need_not_acknowledge_is_asked_too() {
        let facts = Facts {
            received_at: Some(at(1)),
            told_at: Some(at(2)),
            ..Facts::default()
        };
        assert_eq!(judge_at(5, &facts), Verdict::Alive(Some(at(6))));
        assert_eq!(judge_at(6, &facts), Verdict::Probe);
        let heard = Facts {
            received_at: Some(at(3)),
            ..facts
        };
        assert_eq!(judge_at(60, &heard), Verdict::Alive(None));
    }

    #[test]
    fn an_idle_session_is_never_dead() {
        let idle = Facts {
            received_at: Some(at(1)),
            ..Facts::default()
        };
        assert_eq!(judge_at(10_000, &idle), Verdict::Alive(None));
    }

    #[test]
    fn each_deadline_has_its_own_cause() {
        let cases = [
            (
                Facts {
                    awaiting_connack_since: Some(at(0)),
                    ..Facts::default()
                },
                10,
                Observed::Timeout,
            ),
            (
                Facts {
                    pingreq_at: Some(at(0)),
                    ..Facts::default()
                },
                5,
                Observed::PingrespMissing,
            ),
            (
                Facts {
                    blocked_at: Some(at(0)),
                    ..Facts::default()
                },
                15,
                Observed::WriteStalled,
            ),
            (
                Facts {
                    oldest_publish_at: Some(at(0)),
                    received_at: Some(at(28)),
                    pingreq_at: Some(at(29)),
                    ..Facts::default()
                },
                30,
                Observed::AckOverdue,
            ),
        ];
        for (facts, deadline, observed) in cases {
            assert_eq!(
                judge_at(deadline - 1, &facts),
                Verdict::Alive(Some(at(deadline))),
                "{observed:?}"
            );
            assert_eq!(judge_at(deadline, &facts), Verdict::Dead(observed));
        }
    }

    #[test]
    fn the_deadline_that_came_first_names_the_cause() {
        let facts = Facts {
            oldest_publish_at: Some(at(0)),
            pingreq_at: Some(at(8)),
            ..Facts::default()
        };
        assert_eq!(
            judge_at(100, &facts),
            Verdict::Dead(Observed::PingrespMissing)
        );
    }

    #[test]
    fn a_peer_that_is_silent_altogether_is_not_said_to_answer_pings() {
        let limits = LivenessLimits {
            ack: Duration::from_secs(5),
            ..LIMITS
        };
        let facts = Facts {
            oldest_publish_at: Some(at(10)),
            received_at: Some(at(9)),
            pingreq_at: Some(at(14)),
            ..Facts::default()
        };
        assert_eq!(
            judge(&limits, CONNACK, &facts, at(15)),
            Verdict::Alive(Some(at(19)))
        );
        assert_eq!(
            judge(&limits, CONNACK, &facts, at(19)),
            Verdict::Dead(Observed::PingrespMissing)
        );
        let answering = Facts {
            received_at: Some(at(11)),
            ..facts
        };
        assert_eq!(
            judge(&limits, CONNACK, &answering, at(15)),
            Verdict::Dead(Observed::AckOverdue)
        );
    }

    #[test]
    fn silence_under_load_is_probed_once_and_any_byte_starts_it_over() {
        let mut facts = Facts {
            oldest_publish_at: Some(at(10)),
            received_at: Some(at(2)),
            ..Facts::default()
        };
        assert_eq!(judge_at(13, &facts), Verdict::Alive(Some(at(14))));
        assert_eq!(judge_at(14, &facts), Verdict::Probe);
        facts.probing = true;
        assert_eq!(judge_at(14, &facts), Verdict::Alive(Some(at(49))));
        facts.probing = false;
        facts.received_at = Some(at(13));
        assert_eq!(judge_at(14, &facts), Verdict::Alive(Some(at(17))));
        facts.pingreq_at = Some(at(17));
        assert_eq!(judge_at(18, &facts), Verdict::Alive(Some(at(22))));
        assert_eq!(
            judge_at(22, &facts),
            Verdict::Dead(Observed::PingrespMissing)
        );
    }

    /// What a peer that is gone at 1 s is found after, with the settings as shipped.
    #[test]
    fn a_stall_moves_a_deadline_by_what_it_took_and_no_more() {
        let mut facts = Facts {
            oldest_publish_at: Some(at(1)),
            received_at: Some(at(1)),
            pingreq_at: Some(at(4)),
            ..Facts::default()
        };
        assert_eq!(judge_at(4, &facts), Verdict::Alive(Some(at(9))));
        let dead = Verdict::Dead(Observed::PingrespMissing);
        for (until, lasted, deadline) in [
            // In the middle of it, right before its end, over its end, and over the question.
            (6, 1, 10),
            (9, 1, 10),
            (24, 20, 29),
            (10, 8, 15),
            // Before it.
            (3, 2, 9),
        ] {
            facts.stall = Some(Stalled {
                until: at(until),
                lasted: Duration::from_secs(lasted),
            });
            assert_eq!(
                judge_at(deadline - 1, &facts),
                Verdict::Alive(Some(at(deadline))),
                "{until} {lasted}"
            );
            assert_eq!(judge_at(deadline, &facts), dead);
        }
        // A machine that slept: its clock stood still.
        facts.stall = Some(Stalled {
            until: at(8),
            lasted: Duration::from_secs(3_600),
        });
        assert_eq!(judge_at(8, &facts), Verdict::Alive(Some(at(13))));
    }

    #[test]
    fn a_peer_whose_question_was_held_up_gets_its_time_from_then_on() {
        let mut facts = Facts {
            received_at: Some(at(1)),
            pingreq_at: Some(at(4)),
            held_until: Some(at(7)),
            ..Facts::default()
        };
        assert_eq!(judge_at(11, &facts), Verdict::Alive(Some(at(12))));
        assert_eq!(
            judge_at(12, &facts),
            Verdict::Dead(Observed::PingrespMissing)
        );
        facts.pingreq_at = None;
        facts.blocked_at = Some(at(2));
        assert_eq!(judge_at(21, &facts), Verdict::Alive(Some(at(22))));
        assert_eq!(judge_at(22, &facts), Verdict::Dead(Observed::WriteStalled));
    }

    #[test]
    fn a_slow_peer_that_acknowledges_all_the_while_is_alive() {
        let slow = Facts {
            oldest_publish_at: Some(at(0)),
            blocked_at: Some(at(1)),
            acked_at: Some(at(99)),
            received_at: Some(at(99)),
            ..Facts::default()
        };
        assert!(matches!(judge_at(100, &slow), Verdict::Alive(_)));
        assert_eq!(
            judge_at(99 + 15, &slow),
            Verdict::Dead(Observed::WriteStalled)
        );
        let unblocked = Facts {
            blocked_at: None,
            received_at: Some(at(129)),
            ..slow
        };
        assert_eq!(
            judge_at(99 + 30, &unblocked),
            Verdict::Dead(Observed::AckOverdue),
            "it speaks, but its acknowledgements have stopped"
        );
    }
}
