//! A fleet of gateways that loses its broker and wants it back, on virtual time.
//!
//! ```text
//!                      wait over           half a round trip
//!  Lost ──► waiting ──────────────► Dial ───────────────────► Arrive: what does the broker say?
//!              ▲                                                  │ half a round trip, the backlog, or the deadline
//!              └──── link, advised ◄── failed ◄── Answer ◄────────┘
//!                                                   └── accepted: back
//! ```
//!
//! Every gateway is the real [`crate::link::Link`] with its classifier, clamp, floor and ceiling, so that a policy is
//! judged by what a gateway would do with it; or, for comparison, a client of another make. The caller advances the
//! clock and answers the policy's questions. Nothing else enters: the same scenario, seed and answers give the same
//! outcome, bit by bit.
//!
//! **The model.** All sessions have lasted an hour when the broker's process dies: each gateway sees a FIN half a round
//! trip later. While the broker is away connects are refused. Back, it accepts what a token bucket lets through, keeps
//! as many CONNECTs more as its backlog holds, in order, and answers the rest with 0x89 or not at all. Refusing costs it
//! nothing, which is kinder to storms than real brokers are. A round trip stands for all of TCP and TLS up to CONNACK.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

mod broker;
mod gateway;
mod outcome;

#[cfg(test)]
mod tests;

pub use broker::{Overload, burst};
pub use gateway::{Pacing, PeerRule};
pub use outcome::{MILESTONES_PERCENT, Outcome};

use crate::link::Settings;
use crate::link::backoff::Random;
use crate::link::policy::{Decision, LocalTime, PolicyFault, Question};
use crate::time::Instant;
use broker::{Broker, Verdict};
use gateway::{Failure, Gateway, Move};
use outcome::Tally;

/// How long after the broker's return a fleet is watched.
pub const PATIENCE: Duration = Duration::from_secs(3600);
/// How long every session had lasted when the broker went away.
const SESSION: Duration = Duration::from_secs(3600);
/// Round trips of the fleet: from a good line to a mobile one.
const ROUND_TRIP_MIN: Duration = Duration::from_millis(20);
const ROUND_TRIP_MAX: Duration = Duration::from_millis(200);

/// Answers a policy's question.
pub type Advise<'a> = dyn FnMut(&Question) -> Result<Decision, PolicyFault> + 'a;

/// What happens to the fleet.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// How many gateways.
    pub gateways: u32,
    /// How long the broker is away.
    pub outage: Duration,
    /// CONNECTs the broker accepts per second, from 1.
    pub accept_per_s: u32,
    /// CONNECTs that may wait for being accepted.
    pub backlog: u32,
    /// What becomes of those the backlog has no place for.
    pub overload: Overload,
    /// How long a gateway waits for CONNACK.
    pub connack_timeout: Duration,
    /// Feeds round trips and jitter.
    pub seed: u64,
    /// The gateways' own limits.
    pub link: Settings,
    /// What the gateways' clocks show when the broker goes away; none = they have none that can be right.
    pub local_time: Option<LocalTime>,
    /// Whether the gateways' links are metered.
    pub metered: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Answer {
    Accepted,
    Failed(Failure),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Lost,
    Dial,
    Arrive,
    Answer(Answer),
}

/// Ordered by time, then by gateway: a gateway has one event at a time, so the order is total.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    at: Instant,
    gateway: usize,
    step: Step,
}

/// The machine. [`Fleet::advance`] it until it says that nothing is left to happen.
#[derive(Debug)]
pub struct Fleet {
    connack_timeout: Duration,
    broker: Broker,
    gateways: Vec<Gateway>,
    /// Half a round trip of each gateway.
    half_trips: Vec<Duration>,
    queue: BinaryHeap<Reverse<Event>>,
    tally: Tally,
}

impl Fleet {
    /// A fleet whose broker is about to go away.
    #[must_use]
    pub fn new(scenario: &Scenario, pacing: Pacing) -> Self {
        let lost_at = Instant::ZERO + SESSION;
        let back_at = lost_at + scenario.outage;
        let mut random = Random::seeded(scenario.seed);
        let mut fleet = Self {
            connack_timeout: scenario.connack_timeout,
            broker: Broker::new(
                back_at,
                scenario.accept_per_s,
                scenario.backlog,
                scenario.overload,
            ),
            gateways: Vec::new(),
            half_trips: Vec::new(),
            queue: BinaryHeap::new(),
            tally: Tally::new(lost_at, back_at),
        };
        for _ in 0..scenario.gateways {
            let gateway = fleet.gateways.len();
            let half_trip = random.between(ROUND_TRIP_MIN, ROUND_TRIP_MAX) / 2;
            let seed = random.next_u64();
            fleet
                .gateways
                .push(Gateway::in_session(pacing, scenario, lost_at, seed));
            fleet.half_trips.push(half_trip);
            fleet.push(lost_at + half_trip, gateway, Step::Lost);
        }
        fleet
    }

    /// Lets everything happen that happens before `until`, counted from the broker's going away. False when nothing is
    /// left to happen: every gateway is back or parked, or [`PATIENCE`] has passed since the broker's return.
    pub fn advance(&mut self, until: Duration, advise: &mut Advise<'_>) -> bool {
        let end = self.tally.back_at + PATIENCE;
        let until = (self.tally.lost_at + until).min(end);
        let mut questions = 0;
        let mut counted = |question: &Question| {
            questions += 1;
            advise(question)
        };
        while let Some(&Reverse(event)) = self.queue.peek()
            && event.at < until
        {
            self.queue.pop();
            self.happen(event, &mut counted);
        }
        self.tally.questions += questions;
        until < end && !self.queue.is_empty()
    }

    /// Gateways that are back.
    #[must_use]
    pub fn back(&self) -> usize {
        self.tally.returns.len()
    }

    /// Attempts so far.
    #[must_use]
    pub const fn connects(&self) -> u64 {
        self.tally.connects
    }

    /// What it came to so far.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        let mut outcome = Outcome::of(&self.tally, self.gateways.len(), self.broker.accepted);
        for figures in self.gateways.iter().map(Gateway::figures) {
            outcome.parked += u32::from(figures.parked);
            outcome.policy_faults += figures.policy_faults;
            outcome.clamped += figures.clamped;
            outcome.would_be_clamped += figures.would_be_clamped;
        }
        outcome
    }

    fn push(&mut self, at: Instant, gateway: usize, step: Step) {
        self.queue.push(Reverse(Event { at, gateway, step }));
    }

    fn happen(&mut self, event: Event, advise: &mut Advise<'_>) {
        let Event { at, gateway, step } = event;
        match step {
            Step::Lost => {
                let next = self.gateways[gateway].lose(at, advise);
                self.schedule(gateway, next);
            }
            Step::Dial => {
                self.gateways[gateway].dial(at);
                self.push(at + self.half_trips[gateway], gateway, Step::Arrive);
            }
            Step::Arrive => self.arrive(at, gateway),
            Step::Answer(Answer::Accepted) => {
                self.gateways[gateway].open(at);
                self.tally.back(at);
            }
            Step::Answer(Answer::Failed(why)) => {
                let next = self.gateways[gateway].fail(at, why, advise);
                self.schedule(gateway, next);
            }
        }
    }

    fn schedule(&mut self, gateway: usize, next: Move) {
        match next {
            Move::DialAt(at) => self.push(at, gateway, Step::Dial),
            Move::Stay => {}
        }
    }

    fn arrive(&mut self, at: Instant, gateway: usize) {
        self.tally.connect(at);
        let half_trip = self.half_trips[gateway];
        // The gateway's clock runs since it dialled.
        let gives_up = Instant::from_start((at - Instant::ZERO).saturating_sub(half_trip))
            + self.connack_timeout;
        let (answered, answer) = match self.broker.offer(at) {
            Verdict::Away => (at + half_trip, Answer::Failed(Failure::Refused)),
            Verdict::Busy => {
                self.tally.refused += 1;
                (at + half_trip, Answer::Failed(Failure::Busy))
            }
            Verdict::Accepted(accepted) if accepted + half_trip <= gives_up => {
                (accepted + half_trip, Answer::Accepted)
            }
            Verdict::Accepted(_) | Verdict::Dropped => {
                self.tally.unanswered += 1;
                (gives_up, Answer::Failed(Failure::Silence))
            }
        };
        self.push(answered, gateway, Step::Answer(answer));
    }
}
