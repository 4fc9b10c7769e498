//! One gateway of the fleet: the real link machine, or a client of another make.

use std::time::Duration;

use super::{Advise, Scenario};
use crate::link::cause::{Disconnect, Evidence, MqttVersion, Phase};
use crate::link::classify::{Classifier, Observation, Observed};
use crate::link::policy::{Bounds, Decision, LocalTime, clamp};
use crate::link::{Facts, Input, Link, Output, State};
use crate::time::{Instant, TimestampMs, saturating_ms};

const ECONNREFUSED: i32 = 111;
const SERVER_BUSY: u8 = 0x89;

/// How a client of another make paces its reconnects: no jitter, and nobody who clamps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerRule {
    /// The same wait each time; zero = at once.
    Fixed(Duration),
    /// Doubles from the first to the most.
    Exponential {
        /// Before the first attempt.
        first: Duration,
        /// Never longer than this.
        most: Duration,
    },
}

impl PeerRule {
    /// The wait before attempt number `attempt`, from 1.
    #[must_use]
    pub fn wait(self, attempt: u32) -> Duration {
        match self {
            Self::Fixed(wait) => wait,
            Self::Exponential { first, most } => {
                let doublings = attempt.saturating_sub(1).min(20);
                first.saturating_mul(1 << doublings).min(most)
            }
        }
    }
}

/// Whose reconnects the fleet makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pacing {
    /// Moorline's link machine, advised and clamped.
    Link,
    /// Clients of another make.
    Peer(PeerRule),
}

/// How an attempt ends without a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Failure {
    /// Nobody listens.
    Refused,
    /// CONNACK 0x89.
    Busy,
    /// No CONNACK before the deadline.
    Silence,
}

/// What a gateway does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Move {
    DialAt(Instant),
    Stay,
}

#[derive(Debug)]
pub(super) enum Gateway {
    Moorline(Box<Moorline>),
    Peer(Peer),
}

#[derive(Debug)]
pub(super) struct Moorline {
    link: Link,
    classifier: Classifier,
    lost_at: Instant,
    metered: bool,
    /// The wall clock at a time of the virtual one.
    local_time: Option<(Instant, LocalTime)>,
}

#[derive(Debug)]
pub(super) struct Peer {
    rule: PeerRule,
    attempt: u32,
    bounds: Bounds,
    /// Waits that Moorline's floor and ceiling would not have granted.
    would_be_clamped: u64,
}

/// What a gateway has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Figures {
    pub(super) policy_faults: u64,
    pub(super) clamped: u64,
    pub(super) would_be_clamped: u64,
    pub(super) parked: bool,
}

impl Gateway {
    /// A gateway whose session began at the start of the clock. The broker goes away at `lost_at`.
    pub(super) fn in_session(
        pacing: Pacing,
        scenario: &Scenario,
        lost_at: Instant,
        seed: u64,
    ) -> Self {
        let settings = scenario.link;
        match pacing {
            Pacing::Link => {
                let mut link = Link::new(settings, seed);
                for input in [Input::Start, Input::Opened, Input::Acknowledged] {
                    link.handle(Instant::ZERO, input);
                    while link.poll_output().is_some() {}
                }
                Self::Moorline(Box::new(Moorline {
                    link,
                    classifier: Classifier::default(),
                    lost_at: Instant::ZERO,
                    metered: scenario.metered,
                    local_time: scenario.local_time.map(|time| (lost_at, time)),
                }))
            }
            Pacing::Peer(rule) => Self::Peer(Peer {
                rule,
                attempt: 0,
                bounds: Bounds {
                    lower: settings.floor,
                    upper: settings.ceiling,
                    retry_now: false,
                    park: false,
                },
                would_be_clamped: 0,
            }),
        }
    }

    /// The broker's FIN has come.
    pub(super) fn lose(&mut self, now: Instant, advise: &mut Advise<'_>) -> Move {
        match self {
            Self::Moorline(gateway) => {
                gateway.lost_at = now;
                let session = now.saturating_since(Instant::ZERO);
                gateway.end(now, Phase::Session, Observed::Fin, Some(session), advise)
            }
            Self::Peer(peer) => peer.wait(now),
        }
    }

    /// The attempt under way has failed.
    pub(super) fn fail(&mut self, now: Instant, why: Failure, advise: &mut Advise<'_>) -> Move {
        match self {
            Self::Moorline(gateway) => {
                let (phase, observed) = match why {
                    Failure::Refused => (Phase::Tcp, Observed::Errno(ECONNREFUSED)),
                    Failure::Busy => (Phase::Connect, Observed::Refused(SERVER_BUSY)),
                    Failure::Silence => (Phase::Connect, Observed::Timeout),
                };
                gateway.end(now, phase, observed, None, advise)
            }
            Self::Peer(peer) => peer.wait(now),
        }
    }

    /// The wait is over.
    pub(super) fn dial(&mut self, now: Instant) {
        match self {
            Self::Moorline(gateway) => {
                gateway.link.handle_timeout(now);
                while gateway.link.poll_output().is_some() {}
            }
            Self::Peer(_) => {}
        }
    }

    /// The broker has accepted it.
    pub(super) fn open(&mut self, now: Instant) {
        match self {
            Self::Moorline(gateway) => gateway.link.handle(now, Input::Opened),
            Self::Peer(peer) => peer.attempt = 0,
        }
    }

    pub(super) fn figures(&self) -> Figures {
        match self {
            Self::Moorline(gateway) => {
                let counters = gateway.link.counters();
                Figures {
                    policy_faults: counters.policy_faults,
                    clamped: counters.policy_clamped,
                    would_be_clamped: 0,
                    parked: matches!(gateway.link.state(), State::Parked { .. }),
                }
            }
            Self::Peer(peer) => Figures {
                would_be_clamped: peer.would_be_clamped,
                ..Figures::default()
            },
        }
    }
}

impl Moorline {
    fn end(
        &mut self,
        now: Instant,
        phase: Phase,
        observed: Observed,
        session: Option<Duration>,
        advise: &mut Advise<'_>,
    ) -> Move {
        let disconnect = self.classify(phase, observed, session);
        self.link.note(Facts {
            // A reading per second waits for the broker.
            spool_depth: now.saturating_since(self.lost_at).as_secs(),
            metered: self.metered,
            local_time: self.local_time.map(|(since, time)| LocalTime {
                utc: TimestampMs(
                    time.utc.0 + u64::from(saturating_ms(now.saturating_since(since))),
                ),
                ..time
            }),
            ..Facts::NOTHING
        });
        self.link.handle(now, Input::Ended(Box::new(disconnect)));
        while let Some(output) = self.link.poll_output() {
            match output {
                Output::Consult(question) => {
                    let advice = advise(&question);
                    self.link.handle(now, Input::Decided(advice));
                }
                // Where gateways here lose a session, the broker is gone.
                Output::Knock { .. } => self.link.handle(now, Input::Knocked(false)),
                Output::Open { .. } | Output::Close(_) | Output::Redial | Output::Report(_) => {}
            }
        }
        match *self.link.state() {
            State::Waiting { until } => Move::DialAt(until),
            State::Stopped
            | State::Opening { .. }
            | State::Up { .. }
            | State::Doubting { .. }
            | State::Consulting { .. }
            | State::Closing { .. }
            | State::Parked { .. } => Move::Stay,
        }
    }

    fn classify(
        &mut self,
        phase: Phase,
        observed: Observed,
        session: Option<Duration>,
    ) -> Disconnect {
        self.classifier.classify(Observation {
            phase,
            version: MqttVersion::V5,
            observed,
            evidence: Evidence {
                session,
                ..Evidence::default()
            },
            suspect: None,
        })
    }
}

impl Peer {
    fn wait(&mut self, now: Instant) -> Move {
        self.attempt = self.attempt.saturating_add(1);
        let wait = self.rule.wait(self.attempt);
        let (_ruling, clamped) = clamp(Decision::RetryAfter(wait), self.bounds);
        self.would_be_clamped += u64::from(clamped);
        Move::DialAt(now + wait)
    }
}
