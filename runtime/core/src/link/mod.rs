//! The link: the whole managed relation to the broker, across connects.
//!
//! ```text
//!             Start/Unpark                Opened
//!  Stopped ───────────────► Opening ───────────────► Up
//!     ▲                    ▲   │ Ended                │ Ended
//!     │            timeout │   ▼                      ▼
//!     │                 Waiting ◄── ruling ── Consulting ──► Parked ──Unpark──► Opening
//!     │                    │                     ▲  deadline: the built-in policy answers
//!     │ Stop               │ NetworkUp: sooner   │
//!     └── from every state; from Opening and Up through Closing, until the session ended
//! ```
//!
//! The owner calls [`Link::handle`] or [`Link::handle_timeout`], then drains [`Link::poll_output`] to `None`, then asks
//! [`Link::poll_timeout`] when to come back. One input, one drain: never two inputs without a drain between them.
//!
//! The attempt counter starts again only after a session that lasted `stable_after` *and* had a publish acknowledged.
//! Of several brokers each gets its try before the counter moves and the policy is asked: see [`endpoints`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

mod advice;
pub mod answer_time;
pub mod asking;
pub mod backoff;
pub mod batching;
pub mod canary;
pub mod cause;
pub mod classify;
pub mod endpoints;
pub mod happy_eyeballs;
pub mod keep_alive;
pub mod pace;
pub mod packet_size;
pub mod passage;
pub mod poison;
pub mod policy;
pub mod proxy;
pub mod quota;
mod reaction;
pub mod window;

#[cfg(test)]
mod tests;

pub use reaction::{
    DUEL_CEILING, DUEL_FLOOR, GARBAGE_MAX, QUOTA_FLOOR, Remedy, TAKEOVER_FLOOR, TAKEOVER_MEMORY,
};

use crate::time::Instant;
use backoff::{Random, full_jitter};
use cause::{Cause, CauseClass, Certainty, Disconnect, Fault, Inference, Intent, MqttVersion};
use endpoints::{Endpoint, Endpoints, ServerReference, Target};
use policy::{Bounds, Decision, LocalTime, Network, PolicyFault, Question, Ruling, clamp};

/// After a session that ended without a reason the next one must come soon: whether another client has our id shows only
/// by its ending in the same way, soon ([`classify::Classifier`]).
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// A broker that ended a session because it stops takes no connections this much later.
const KNOCK_AFTER: Duration = Duration::from_millis(500);
/// One that is there takes a connection within so much time.
const KNOCK_WITHIN: Duration = Duration::from_secs(3);
/// So many looks without a longer session in between are enough.
const LOOKS_MAX: u32 = 3;

/// Which protocol versions may be spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Versions {
    /// 5.0 first; what is refused is changed for the other, which is kept as long as it is accepted.
    #[default]
    Auto,
    /// 5.0 only.
    V5,
    /// 3.1.1 only.
    V311,
}

/// The host's own limits; no policy moves them.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The least wait between attempts.
    pub floor: Duration,
    /// The most.
    pub ceiling: Duration,
    /// A session must last this long before earlier failures are forgiven.
    pub stable_after: Duration,
    /// How long a policy may think.
    pub policy_deadline: Duration,
    /// Which versions may be spoken, where an endpoint does not say.
    pub versions: Versions,
    /// A session at another broker than the preferred one is given up for that after so long; none = only when it ends by
    /// itself.
    pub fail_back_after: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            floor: Duration::from_secs(1),
            ceiling: Duration::from_secs(120),
            stable_after: Duration::from_secs(30),
            policy_deadline: Duration::from_millis(50),
            versions: Versions::Auto,
            fail_back_after: None,
        }
    }
}

/// Why the link stopped trying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParkReason {
    /// The broker refuses the client id.
    ClientId,
    /// The broker refuses an option of the configuration.
    Option,
    /// The proxy wants credentials.
    Proxy,
    /// Another client keeps taking our client id.
    DuplicateClientId,
    /// The broker speaks none of the versions allowed.
    Version,
    /// The policy asked for it, on a cause only an operator can mend.
    Policy,
}

/// Where the link is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Not started, or stopped for good.
    Stopped,
    /// An attempt is under way.
    Opening {
        /// The version offered.
        version: MqttVersion,
    },
    /// A session is up.
    Up {
        /// Since when.
        since: Instant,
        /// Whether a publish was acknowledged on it.
        acknowledged: bool,
    },
    /// Another client seems to have our id: is the broker there, or was it the broker that went away?
    Doubting {
        /// When no answer is an answer.
        deadline: Instant,
        /// Whether it took one connection already.
        once: bool,
    },
    /// A policy is being asked.
    Consulting {
        /// When the built-in policy answers instead.
        deadline: Instant,
    },
    /// Until the next attempt.
    Waiting {
        /// When it is.
        until: Instant,
    },
    /// The session is being closed by us.
    Closing {
        /// Why.
        intent: Intent,
    },
    /// An operator must act.
    Parked {
        /// Why.
        reason: ParkReason,
    },
}

/// What happens to the link.
#[derive(Clone, Debug)]
pub enum Input {
    /// Begin.
    Start,
    /// The broker accepted us.
    Opened,
    /// A publish was acknowledged.
    Acknowledged,
    /// The attempt failed or the session ended.
    Ended(Box<Disconnect>),
    /// Whether the broker takes a new connection.
    Knocked(bool),
    /// The policy answered, or could not.
    Decided(Result<Decision, PolicyFault>),
    /// The network came back.
    NetworkUp,
    /// An operator un-parks the link, or cuts a wait short.
    Unpark,
    /// The host's limits changed. A session that is up goes on; else this un-parks.
    Reconfigured(Settings),
    /// End it for good.
    Stop(Intent),
}

/// Who chose the wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecidedBy {
    /// The policy.
    Policy,
    /// The built-in policy, because the policy could not.
    Fallback(PolicyFault),
    /// The host: the cause leaves no choice.
    Host,
}

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another attempt after this wait.
    Retry(Duration),
    /// Nothing until an operator acts.
    Parked(ParkReason),
    /// Nothing.
    Stopped,
}

/// One disconnect with everything that follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Why.
    pub disconnect: Disconnect,
    /// When it was noticed.
    pub at: Instant,
    /// Failed attempts since the link was last stable, this one included.
    pub attempt: u32,
    /// What happens next.
    pub next: Next,
    /// Who chose that.
    pub decided_by: DecidedBy,
    /// Whether the host changed what the policy advised.
    pub clamped: bool,
    /// `host:port` of the broker it happened with.
    pub endpoint: Arc<str>,
}

/// Another client uses our client id: an operator must give one of the two another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DuplicateClientId {
    /// Certain once the broker has said so.
    pub certainty: Certainty,
    /// When it first took the id, as far as the link remembers.
    pub since: Instant,
}

/// What the owner must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Dial and send CONNECT.
    Open {
        /// The version to offer.
        version: MqttVersion,
        /// Attempts since the link was last stable, from 1.
        attempt: u32,
        /// The broker to dial.
        endpoint: Target,
    },
    /// Send DISCONNECT, or abandon the attempt; report `Ended` when it is over.
    Close(Intent),
    /// Begin an attempt that still dials anew, with the same version: what it sent so far went into a network that was not
    /// there.
    Redial,
    /// Connect as for a session, but send no CONNECT; report `Knocked`.
    Knock {
        /// Not before so much time has passed.
        after: Duration,
        /// The broker to dial.
        endpoint: Target,
    },
    /// Ask the policy; report `Decided`.
    Consult(Box<Question>),
    /// Tell the operator.
    Report(Box<Record>),
}

/// What the owner knows that a policy should.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Readings waiting in the spool.
    pub spool_depth: u64,
    /// What the kernel says about the way out.
    pub network: Network,
    /// Whether bytes cost money.
    pub metered: bool,
    /// The wall clock, if it can be right.
    pub local_time: Option<LocalTime>,
}

impl Facts {
    /// What is known before anybody has looked.
    pub const NOTHING: Self = Self {
        spool_depth: 0,
        network: Network::Unknown,
        metered: false,
        local_time: None,
    };
}

/// Counts since the link was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sessions the broker accepted.
    pub sessions: u64,
    /// Attempts made.
    pub attempts: u64,
    /// Times the built-in policy stood in.
    pub policy_faults: u64,
    /// Times a policy's advice was changed.
    pub policy_clamped: u64,
}

/// A disconnect on its way to a ruling.
#[derive(Clone, Debug)]
struct Pending {
    disconnect: Disconnect,
    at: Instant,
    bounds: Bounds,
    endpoint: Arc<str>,
}

/// The end of a session of which the broker did not say that another client has our id.
#[derive(Clone, Debug)]
struct Suspected {
    disconnect: Disconnect,
    session: Duration,
    stable: bool,
}

/// What a cause asks of the host.
enum Reaction {
    /// Exactly this.
    Rule(Ruling),
    /// The next broker, soon.
    MoveOn,
    /// All brokers wait as long as the policy says, between these.
    Consult(Bounds),
    /// The same broker at once, if the policy wants it.
    TryAgain,
    /// The brokers this round has left; then what the policy says, parking included where `park` says so.
    TryOthers { park: bool },
}

/// The machine. Drain order: handle, poll_output to `None`, poll_timeout.
#[derive(Clone, Debug)]
pub struct Link {
    settings: Settings,
    state: State,
    facts: Facts,
    random: Random,
    outputs: VecDeque<Output>,
    counters: Counters,
    endpoints: Endpoints,
    /// The broker of the session or attempt under way, or the last one: it may no longer be configured.
    endpoint: Arc<str>,
    attempt: u32,
    /// The session is being given up for a preferred broker.
    failing_back: bool,
    last_now: bool,
    waits_for_network: bool,
    /// However soon the network comes back, the next attempt keeps the floor.
    not_before: Instant,
    /// When the attempt that is under way last began to dial.
    dialled_at: Instant,
    previous_delay: Duration,
    down_since: Option<Instant>,
    /// Sessions in a row that were short and ended without a reason.
    unexplained: u32,
    /// Times in a row that the peer answered as no broker does.
    garbage: u32,
    /// CONNECTs nobody answered in time since the last session that lasted: the broker may read them yet.
    unanswered: u32,
    takeovers: u32,
    duplicate: Option<DuplicateClientId>,
    suspected: Option<Suspected>,
    pending: Option<Pending>,
}

impl Link {
    /// A link to one broker that has not started. `seed` feeds its jitter.
    #[must_use]
    pub fn new(settings: Settings, seed: u64) -> Self {
        Self {
            endpoints: Endpoints::one(settings.versions),
            endpoint: Arc::from(""),
            settings,
            state: State::Stopped,
            facts: Facts::NOTHING,
            random: Random::seeded(seed),
            outputs: VecDeque::new(),
            counters: Counters::default(),
            attempt: 0,
            failing_back: false,
            last_now: false,
            waits_for_network: false,
            not_before: Instant::ZERO,
            dialled_at: Instant::ZERO,
            previous_delay: Duration::ZERO,
            down_since: None,
            unexplained: 0,
            garbage: 0,
            unanswered: 0,
            takeovers: 0,
            duplicate: None,
            suspected: None,
            pending: None,
        }
    }

    /// Where the link is.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// Counts since the link was made.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// The alarm that another client uses our client id. It ends with the end of a session of ten minutes, or when an
    /// operator has acted.
    #[must_use]
    pub const fn duplicate_client_id(&self) -> Option<DuplicateClientId> {
        self.duplicate
    }

    /// The version of the session or attempt under way, or the last one.
    #[must_use]
    pub fn version(&self) -> MqttVersion {
        self.endpoints.version()
    }

    /// `host:port` of the broker of the session or attempt under way, or the last one.
    #[must_use]
    pub fn endpoint(&self) -> Arc<str> {
        Arc::clone(&self.endpoint)
    }

    /// Uses these brokers from the next attempt on. An empty list changes nothing.
    pub fn use_endpoints(&mut self, endpoints: Vec<Endpoint>) {
        self.endpoints
            .replace(endpoints, self.settings.versions, &mut self.random);
    }

    /// Updates what a question will say. Changes nothing else.
    pub const fn note(&mut self, facts: Facts) {
        self.facts = facts;
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Link::handle_timeout`], and what for.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        match &self.state {
            State::Doubting { deadline, .. } => Some((*deadline, "knock deadline")),
            State::Consulting { deadline } => Some((*deadline, "policy deadline")),
            State::Waiting { until } => Some((*until, "next attempt")),
            State::Up { since, .. } => self.fail_back_at(*since).map(|at| (at, "fail back")),
            State::Stopped
            | State::Opening { .. }
            | State::Closing { .. }
            | State::Parked { .. } => None,
        }
    }

    /// Something happened. Inputs that make no sense in the present state are ignored: they are echoes.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Start => {
                if self.state == State::Stopped {
                    self.down_since = Some(now);
                    self.open(now);
                }
            }
            Input::Opened => self.on_opened(now),
            Input::Acknowledged => {
                if let State::Up { acknowledged, .. } = &mut self.state {
                    *acknowledged = true;
                }
            }
            Input::Ended(disconnect) => self.on_ended(now, *disconnect),
            Input::Knocked(is_there) => self.on_knocked(now, is_there),
            Input::Decided(advice) => self.on_decided(now, advice),
            Input::NetworkUp => self.on_network_up(now),
            Input::Unpark => self.on_unpark(now),
            Input::Reconfigured(settings) => {
                if settings.versions != self.settings.versions {
                    self.endpoints.allow(settings.versions);
                }
                self.settings = settings;
                self.on_unpark(now);
            }
            Input::Stop(intent) => self.on_stop(now, intent),
        }
    }

    /// The time of [`Link::poll_timeout`] has come. Calling it early changes nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.state {
            State::Doubting { deadline, .. } if now >= deadline => self.on_knocked(now, false),
            State::Consulting { deadline } if now >= deadline => {
                self.on_decided(now, Err(PolicyFault::Stalled));
            }
            State::Waiting { until } if now >= until => self.open(now),
            State::Up { since, .. } if self.fail_back_at(since).is_some_and(|at| now >= at) => {
                self.failing_back = true;
                self.outputs.push_back(Output::Close(Intent::FailBack));
            }
            State::Doubting { .. }
            | State::Consulting { .. }
            | State::Waiting { .. }
            | State::Stopped
            | State::Opening { .. }
            | State::Up { .. }
            | State::Closing { .. }
            | State::Parked { .. } => {}
        }
    }

    /// When a session that is up since `since` is given up for a preferred broker.
    fn fail_back_at(&self, since: Instant) -> Option<Instant> {
        let after = self.settings.fail_back_after?;
        let preferred = self.endpoints.preferred_at()?;
        (!self.failing_back).then_some(preferred.max(since + after))
    }

    fn open(&mut self, now: Instant) {
        self.endpoints.choose(now);
        self.endpoint = self.endpoints.name();
        self.counters.attempts += 1;
        self.dialled_at = now;
        let version = self.endpoints.version();
        self.state = State::Opening { version };
        self.outputs.push_back(Output::Open {
            version,
            attempt: self.attempt + 1,
            endpoint: self.endpoints.target(),
        });
    }

    fn on_opened(&mut self, now: Instant) {
        if matches!(self.state, State::Opening { .. }) {
            self.counters.sessions += 1;
            self.endpoints.opened();
            self.down_since = None;
            self.state = State::Up {
                since: now,
                acknowledged: false,
            };
        }
    }

    fn on_ended(&mut self, now: Instant, disconnect: Disconnect) {
        match self.state {
            State::Opening { .. } => self.on_failure(now, disconnect, Duration::ZERO, false),
            State::Up {
                since,
                acknowledged,
            } => {
                let session = now.saturating_since(since);
                self.endpoints.session_ended(now);
                let stable = acknowledged && session >= self.settings.stable_after;
                if disconnect.cause == Cause::ClosedByServer(Inference::TakeoverOrAccess) {
                    self.doubt(now, disconnect, session, stable);
                } else {
                    self.on_failure(now, disconnect, session, stable);
                }
            }
            State::Closing { .. } => {
                self.state = State::Stopped;
                let endpoint = self.endpoint();
                let record = self.record(now, disconnect, endpoint, DecidedBy::Host, false);
                self.outputs.push_back(Output::Report(Box::new(record)));
            }
            State::Stopped
            | State::Doubting { .. }
            | State::Consulting { .. }
            | State::Waiting { .. }
            | State::Parked { .. } => {}
        }
    }

    /// To leave the id to another client for ten minutes costs as much if there is none: first see whether the broker is
    /// there. One that went away, twice in a row, closes as silently. Killed, it takes no connection at once, and may be back
    /// soon; told to stop, it closes its sessions first and takes none a moment later.
    fn doubt(&mut self, now: Instant, disconnect: Disconnect, session: Duration, stable: bool) {
        self.down_since.get_or_insert(now);
        self.suspected = Some(Suspected {
            disconnect,
            session,
            stable,
        });
        self.knock(now, Duration::ZERO, false);
    }

    fn knock(&mut self, now: Instant, after: Duration, once: bool) {
        self.state = State::Doubting {
            deadline: now + after + KNOCK_WITHIN,
            once,
        };
        self.outputs.push_back(Output::Knock {
            after,
            endpoint: self.endpoints.target(),
        });
    }

    fn on_knocked(&mut self, now: Instant, is_there: bool) {
        let State::Doubting { once, .. } = self.state else {
            return;
        };
        if is_there && !once {
            return self.knock(now, KNOCK_AFTER, true);
        }
        let Some(Suspected {
            mut disconnect,
            session,
            stable,
        }) = self.suspected.take()
        else {
            return;
        };
        if !is_there {
            disconnect.cause = Cause::ClosedByServer(Inference::Nothing);
            disconnect.certainty = Certainty::Certain;
        }
        self.on_failure(now, disconnect, session, stable);
    }

    fn on_failure(
        &mut self,
        now: Instant,
        disconnect: Disconnect,
        session: Duration,
        stable: bool,
    ) {
        self.failing_back = false;
        if stable {
            self.attempt = 0;
            self.endpoints.was_stable();
        }
        if self.endpoints.round_is_fresh() {
            self.attempt = self.attempt.saturating_add(1);
        }
        self.forget_after(session);
        self.garbage = if disconnect.cause.remedy() == Remedy::BackOffThenSlowLane {
            self.garbage.saturating_add(1)
        } else {
            0
        };
        let unanswered = disconnect.cause == Cause::ConnackTimeout;
        self.unanswered = self.unanswered.saturating_add(u32::from(unanswered));
        self.down_since.get_or_insert(now);
        let endpoint = self.endpoint();
        let most = self
            .look_again(disconnect.cause)
            .unwrap_or(self.settings.ceiling);
        let (retry_now, park) = match self.react(now, &disconnect, session, stable) {
            Reaction::Rule(ruling) => return self.rule(now, disconnect, endpoint, ruling),
            Reaction::MoveOn => return self.move_on(now, disconnect, endpoint),
            Reaction::Consult(bounds) => {
                return self.consult(now, disconnect, endpoint, session, bounds);
            }
            Reaction::TryAgain => (true, false),
            Reaction::TryOthers { park } => (false, park),
        };
        if !retry_now && self.endpoints.round_goes_on(now + self.settings.floor) {
            return self.move_on(now, disconnect, endpoint);
        }
        let lower = self.soonest(now);
        let bounds = Bounds {
            lower,
            upper: most.max(lower),
            retry_now,
            park,
        };
        self.endpoints.begin_round();
        self.consult(now, disconnect, endpoint, session, bounds);
    }

    /// What the cause asks of the host, and what becomes of the broker it happened with.
    fn react(
        &mut self,
        now: Instant,
        disconnect: &Disconnect,
        session: Duration,
        stable: bool,
    ) -> Reaction {
        let Settings {
            floor,
            ceiling,
            versions,
            ..
        } = self.settings;
        let mut park = false;
        let rest = match disconnect.cause.remedy() {
            Remedy::RetryOnceThenBackOff if stable && !self.last_now => {
                return Reaction::TryAgain;
            }
            Remedy::RetryOnceThenBackOff => Duration::ZERO,
            Remedy::BackOff => {
                let closed = disconnect.cause == Cause::ClosedBeforeConnack;
                let silent = closed || disconnect.cause == Cause::ConnackTimeout;
                let guessed = silent && self.endpoints.guess_version(now, versions);
                // Who hangs may be overloaded, and the other version can wait for its turn.
                if guessed && closed {
                    return Reaction::Rule(Ruling::Wait(floor));
                }
                Duration::ZERO
            }
            Remedy::BackOffThenSlowLane if self.garbage >= GARBAGE_MAX => ceiling,
            Remedy::BackOffThenSlowLane => Duration::ZERO,
            Remedy::BackOffFrom(least) => {
                let rest = least.max(floor);
                if self.follow(now, disconnect, rest) {
                    return Reaction::MoveOn;
                }
                rest
            }
            Remedy::SlowLane => {
                park = true;
                ceiling
            }
            Remedy::FallBackVersion if self.endpoints.fall_back(versions) => {
                return Reaction::Rule(Ruling::Wait(Duration::ZERO));
            }
            // The id is ours, whichever broker noticed first: all of them wait.
            Remedy::YieldToTakeover if !self.took_it_ourselves(session) => {
                let bounds = self.note_takeover(now, disconnect.certainty, session);
                self.turn_after_takeover(now + bounds.lower, disconnect.cause);
                return Reaction::Consult(bounds);
            }
            Remedy::YieldToTakeover => Duration::ZERO,
            Remedy::FallBackVersion | Remedy::Park => {
                return if self.endpoints.set_aside() {
                    Reaction::TryOthers { park }
                } else {
                    Reaction::Rule(Ruling::Park)
                };
            }
            // A close of our own that was not a stop: the way back to a preferred broker. Nothing is wrong, so nothing needs
            // to wait.
            Remedy::Nothing => {
                self.endpoints.begin_round();
                return Reaction::Rule(Ruling::Wait(Duration::ZERO));
            }
        };
        self.endpoints.failed(now, rest, &self.settings);
        Reaction::TryOthers { park }
    }

    /// An access rule of one broker looks like a takeover, and the next one may have none: it has its turn `at` the end of the
    /// wait, and the preferred ones do not begin anew before it.
    fn turn_after_takeover(&mut self, at: Instant, cause: Cause) {
        if cause == Cause::ClosedByServer(Inference::TakeoverOrAccess) {
            self.endpoints.failed(at, Duration::ZERO, &self.settings);
            if self.endpoints.round_goes_on(at) {
                return;
            }
        }
        self.endpoints.begin_round();
    }

    /// The least wait until an endpoint can be tried again.
    fn soonest(&self, now: Instant) -> Duration {
        let rested = self.endpoints.rested_at().saturating_since(now);
        rested.max(self.settings.floor)
    }

    /// The next broker of the round has its turn: soon, but not all gateways of a fleet at once.
    fn move_on(&mut self, now: Instant, disconnect: Disconnect, endpoint: Arc<str>) {
        let floor = self.settings.floor;
        let wait = self.random.between(floor, floor.saturating_mul(2));
        self.rule(now, disconnect, endpoint, Ruling::Wait(wait));
    }

    /// Whether the server referred to another one that is tried next.
    fn follow(&mut self, now: Instant, disconnect: &Disconnect, rest: Duration) -> bool {
        let moved = matches!(
            disconnect.cause,
            Cause::UseAnotherServer | Cause::ServerMoved
        );
        let reference = disconnect.evidence.server_reference.as_deref();
        let Some(to) = reference.filter(|_| moved).and_then(ServerReference::parse) else {
            return false;
        };
        self.endpoints.follow(now, to, rest, &self.settings)
    }

    fn consult(
        &mut self,
        now: Instant,
        disconnect: Disconnect,
        endpoint: Arc<str>,
        session: Duration,
        bounds: Bounds,
    ) {
        let question = Question {
            cause: disconnect.cause.class(),
            fault: disconnect.cause.fault(),
            reason_code: disconnect.evidence.reason_code,
            attempt: self.attempt,
            session,
            down: self
                .down_since
                .map_or(Duration::ZERO, |since| now.saturating_since(since)),
            spool_depth: self.facts.spool_depth,
            network: self.facts.network,
            metered: self.facts.metered,
            local_time: self.facts.local_time,
            sessions: self.counters.sessions,
            takeovers: self.takeovers,
            previous_delay: self.previous_delay,
            floor: bounds.lower,
            ceiling: bounds.upper,
            seed: self.random.next_u32(),
            endpoint: Arc::clone(&endpoint),
        };
        self.pending = Some(Pending {
            disconnect,
            at: now,
            bounds,
            endpoint,
        });
        self.state = State::Consulting {
            deadline: now + self.settings.policy_deadline,
        };
        self.outputs.push_back(Output::Consult(Box::new(question)));
    }

    fn on_decided(&mut self, now: Instant, advice: Result<Decision, PolicyFault>) {
        if !matches!(self.state, State::Consulting { .. }) {
            return;
        }
        let Some(Pending {
            disconnect,
            at,
            bounds,
            endpoint,
        }) = self.pending.take()
        else {
            return;
        };
        let (mut ruling, decided_by, clamped) = match advice {
            Ok(decision) => {
                let (ruling, clamped) = clamp(decision, bounds);
                self.counters.policy_clamped += u64::from(clamped);
                (ruling, DecidedBy::Policy, clamped)
            }
            Err(fault) => {
                // A gateway without a policy has none that failed.
                self.counters.policy_faults += u64::from(fault != PolicyFault::Absent);
                let ruling = if bounds.retry_now {
                    Ruling::Now
                } else {
                    let wait =
                        full_jitter(self.attempt, bounds.lower, bounds.upper, &mut self.random);
                    Ruling::Wait(wait)
                };
                (ruling, DecidedBy::Fallback(fault), false)
            }
        };
        // Only this broker is given up while there are others; who has taken our id has it everywhere.
        if ruling == Ruling::Park
            && disconnect.cause.remedy() != Remedy::YieldToTakeover
            && self.endpoints.set_aside()
        {
            self.endpoints.begin_round();
            ruling = Ruling::Wait(self.soonest(now));
        }
        let record = self.record(at, disconnect, endpoint, decided_by, clamped);
        self.carry_out(now, record, ruling);
    }

    /// The host decides by itself.
    fn rule(&mut self, now: Instant, disconnect: Disconnect, endpoint: Arc<str>, ruling: Ruling) {
        let record = self.record(now, disconnect, endpoint, DecidedBy::Host, false);
        self.carry_out(now, record, ruling);
    }

    fn record(
        &self,
        at: Instant,
        disconnect: Disconnect,
        endpoint: Arc<str>,
        decided_by: DecidedBy,
        clamped: bool,
    ) -> Record {
        Record {
            disconnect,
            at,
            attempt: self.attempt,
            next: Next::Stopped,
            decided_by,
            clamped,
            endpoint,
        }
    }

    fn carry_out(&mut self, now: Instant, mut record: Record, ruling: Ruling) {
        self.last_now = ruling == Ruling::Now;
        let cause = record.disconnect.cause;
        self.waits_for_network = cause.fault() == Fault::Network;
        record.next = match ruling {
            Ruling::Wait(wait) => Next::Retry(wait),
            // Gateways of a fleet break together: even "now" is spread a little.
            Ruling::Now => Next::Retry(self.random.between(Duration::ZERO, self.settings.floor)),
            Ruling::Park => Next::Parked(park_reason(cause)),
        };
        match record.next {
            Next::Retry(wait) => {
                self.previous_delay = wait;
                self.not_before = now + wait.min(self.settings.floor);
                self.state = State::Waiting { until: now + wait };
            }
            Next::Parked(reason) => self.state = State::Parked { reason },
            Next::Stopped => self.state = State::Stopped,
        }
        self.outputs.push_back(Output::Report(Box::new(record)));
    }

    fn on_network_up(&mut self, now: Instant) {
        match self.state {
            State::Waiting { until } => {
                // Gateways behind one switch come back together; a second without readings is felt.
                let jitter = self.random.between(Duration::ZERO, self.settings.floor / 2);
                // An interface that flaps must not turn the wait into a storm.
                let soon = (now + jitter).max(self.not_before);
                // A broker that asked for room still gets it: only a wait for the network itself is cut short.
                if soon < until && self.waits_for_network {
                    self.state = State::Waiting { until: soon };
                }
            }
            // The kernel repeats a SYN ever more rarely; the first repetition of a young one is soon enough.
            State::Opening { .. }
                if now.saturating_since(self.dialled_at) >= self.settings.floor =>
            {
                self.dialled_at = now;
                self.outputs.push_back(Output::Redial);
            }
            State::Opening { .. }
            | State::Stopped
            | State::Up { .. }
            | State::Doubting { .. }
            | State::Consulting { .. }
            | State::Closing { .. }
            | State::Parked { .. } => {}
        }
    }

    fn on_unpark(&mut self, now: Instant) {
        self.endpoints.forgive();
        match self.state {
            State::Parked { .. } | State::Waiting { .. } => {
                self.forget_takeovers();
                self.attempt = 0;
                self.open(now);
            }
            State::Doubting { .. } => {
                // Somebody has acted on it.
                if let Some(suspected) = self.suspected.take() {
                    let at_once = Ruling::Wait(Duration::ZERO);
                    self.rule(now, suspected.disconnect, self.endpoint(), at_once);
                }
            }
            State::Consulting { .. } => {
                // Nobody waits for the policy's answer any more.
                if let Some(pending) = self.pending.take() {
                    let at_once = Ruling::Wait(Duration::ZERO);
                    self.rule(now, pending.disconnect, pending.endpoint, at_once);
                }
            }
            State::Stopped | State::Opening { .. } | State::Up { .. } | State::Closing { .. } => {}
        }
    }

    fn on_stop(&mut self, now: Instant, intent: Intent) {
        match self.state {
            State::Opening { .. } | State::Up { .. } => {
                self.state = State::Closing { intent };
                self.outputs.push_back(Output::Close(intent));
            }
            State::Doubting { .. } => {
                self.state = State::Stopped;
                if let Some(suspected) = self.suspected.take() {
                    let endpoint = self.endpoint();
                    let disconnect = suspected.disconnect;
                    let record = self.record(now, disconnect, endpoint, DecidedBy::Host, false);
                    self.outputs.push_back(Output::Report(Box::new(record)));
                }
            }
            State::Consulting { .. } => {
                self.state = State::Stopped;
                if let Some(pending) = self.pending.take() {
                    // The disconnect is told although nobody waits for the ruling any more.
                    let Pending {
                        disconnect,
                        at,
                        endpoint,
                        ..
                    } = pending;
                    let record = self.record(at, disconnect, endpoint, DecidedBy::Host, false);
                    self.outputs.push_back(Output::Report(Box::new(record)));
                }
            }
            State::Waiting { .. } | State::Parked { .. } => self.state = State::Stopped,
            State::Stopped | State::Closing { .. } => {}
        }
        self.down_since.get_or_insert(now);
    }

    /// The most to wait after a session whose end may have been a takeover: whether it was is to be seen soon.
    fn look_again(&mut self, cause: Cause) -> Option<Duration> {
        // Without a network there is nothing to see, and a policy may wait for it.
        let shows = self.facts.network != Network::Down;
        if cause != Cause::ClosedByServer(Inference::Nothing) || !shows {
            return None;
        }
        self.unexplained = self.unexplained.saturating_add(1);
        let Settings { floor, ceiling, .. } = self.settings;
        let soon = LOOK_AGAIN.max(floor.saturating_mul(2)).min(ceiling);
        (self.unexplained <= LOOKS_MAX).then_some(soon)
    }

    /// A broker that hangs answers the last CONNECT and then reads one we gave up: that took the id from us, and nobody
    /// else. Each such CONNECT explains one takeover within seconds of CONNACK.
    fn took_it_ourselves(&mut self, session: Duration) -> bool {
        let ourselves = self.unanswered > 0 && session < classify::soon(self.settings.floor);
        self.unanswered -= u32::from(ourselves);
        ourselves
    }

    /// Remembers a takeover, and says between which bounds to leave the id to the other.
    fn note_takeover(&mut self, now: Instant, certainty: Certainty, session: Duration) -> Bounds {
        self.takeovers = self.takeovers.saturating_add(1);
        let known = self.duplicate.get_or_insert(DuplicateClientId {
            certainty,
            since: now,
        });
        if certainty == Certainty::Certain {
            known.certainty = certainty;
        }
        let Settings { floor, ceiling, .. } = self.settings;
        // What is inferred is so from the third exchange on: taken, taken back, and taken again. And who takes the id
        // back at once does not yield.
        let duel = certainty == Certainty::Inferred
            || self.takeovers > 1
            || session < classify::soon(floor);
        let (least, most) = if duel {
            (DUEL_FLOOR, DUEL_CEILING)
        } else {
            (TAKEOVER_FLOOR, TAKEOVER_FLOOR * 2)
        };
        Bounds {
            lower: least.max(floor),
            upper: most.max(ceiling),
            retry_now: false,
            // What is only inferred may end by itself, and then nobody should have to come.
            park: certainty == Certainty::Certain,
        }
    }

    /// A session that lasted shows that what was suspected before is over.
    fn forget_after(&mut self, session: Duration) {
        if session >= self.settings.stable_after {
            self.unexplained = 0;
        }
        if session >= classify::soon(self.settings.floor) {
            self.unanswered = 0;
        }
        if session >= TAKEOVER_MEMORY {
            self.forget_takeovers();
        }
    }

    fn forget_takeovers(&mut self) {
        self.takeovers = 0;
        self.duplicate = None;
    }
}

fn park_reason(cause: Cause) -> ParkReason {
    match cause.class() {
        CauseClass::IdentityRefused => ParkReason::ClientId,
        CauseClass::OptionUnsupported => ParkReason::Option,
        CauseClass::Proxy => ParkReason::Proxy,
        CauseClass::TakenOver => ParkReason::DuplicateClientId,
        CauseClass::VersionRefused => ParkReason::Version,
        CauseClass::NameResolution
        | CauseClass::ConnectRefused
        | CauseClass::Unreachable
        | CauseClass::ConnectTimeout
        | CauseClass::Tls
        | CauseClass::ConnackTimeout
        | CauseClass::ClosedBeforeConnack
        | CauseClass::CredentialsRefused
        | CauseClass::ServerUnavailable
        | CauseClass::Quota
        | CauseClass::ServerMoved
        | CauseClass::ClosedByServer
        | CauseClass::Reset
        | CauseClass::ShuttingDown
        | CauseClass::KeepAlive
        | CauseClass::Administrative
        | CauseClass::Protocol
        | CauseClass::PacketRefused
        | CauseClass::PeerGarbage
        | CauseClass::PingrespTimeout
        | CauseClass::WriteStalled
        | CauseClass::BlackHole
        | CauseClass::AckTimeout
        | CauseClass::Local
        | CauseClass::HostRestart => ParkReason::Policy,
    }
}
