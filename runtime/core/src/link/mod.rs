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

use std::collections::VecDeque;
use std::time::Duration;

mod advice;
pub mod backoff;
pub mod cause;
pub mod classify;
pub mod happy_eyeballs;
pub mod poison;
pub mod policy;
pub mod proxy;
mod reaction;
pub mod window;

#[cfg(test)]
mod tests;

pub use reaction::{QUOTA_FLOOR, Remedy, TAKEOVER_FLOOR, TAKEOVER_MEMORY, TAKEOVERS_MAX};

use crate::time::Instant;
use backoff::{Random, full_jitter};
use cause::{Cause, CauseClass, Disconnect, Fault, Intent, MqttVersion};
use policy::{Bounds, Decision, Network, PolicyFault, Question, Ruling, clamp};

/// Attempts that end before CONNACK without a reason until the other version is tried once.
const SILENT_REFUSALS: u32 = 3;

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
    /// Which versions may be spoken.
    pub versions: Versions,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            floor: Duration::from_secs(1),
            ceiling: Duration::from_secs(120),
            stable_after: Duration::from_secs(30),
            policy_deadline: Duration::from_millis(50),
            versions: Versions::Auto,
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
    },
    /// Send DISCONNECT, or abandon the attempt; report `Ended` when it is over.
    Close(Intent),
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
    version: MqttVersion,
    attempt: u32,
    silent_refusals: u32,
    /// The version was changed since the last session.
    fallen_back: bool,
    last_now: bool,
    waits_for_network: bool,
    /// However soon the network comes back, the next attempt keeps the floor.
    not_before: Instant,
    previous_delay: Duration,
    down_since: Option<Instant>,
    takeovers: VecDeque<Instant>,
    pending: Option<Pending>,
}

impl Link {
    /// A link that has not started. `seed` feeds its jitter.
    #[must_use]
    pub fn new(settings: Settings, seed: u64) -> Self {
        let version = first_version(settings.versions);
        Self {
            settings,
            state: State::Stopped,
            facts: Facts {
                spool_depth: 0,
                network: Network::Unknown,
            },
            random: Random::seeded(seed),
            outputs: VecDeque::new(),
            counters: Counters::default(),
            version,
            attempt: 0,
            silent_refusals: 0,
            fallen_back: false,
            last_now: false,
            waits_for_network: false,
            not_before: Instant::ZERO,
            previous_delay: Duration::ZERO,
            down_since: None,
            takeovers: VecDeque::new(),
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

    /// The version the next attempt offers.
    #[must_use]
    pub const fn version(&self) -> MqttVersion {
        self.version
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
    pub const fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        match &self.state {
            State::Consulting { deadline } => Some((*deadline, "policy deadline")),
            State::Waiting { until } => Some((*until, "next attempt")),
            State::Stopped
            | State::Opening { .. }
            | State::Up { .. }
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
                    self.open();
                }
            }
            Input::Opened => self.on_opened(now),
            Input::Acknowledged => {
                if let State::Up { acknowledged, .. } = &mut self.state {
                    *acknowledged = true;
                }
            }
            Input::Ended(disconnect) => self.on_ended(now, *disconnect),
            Input::Decided(advice) => self.on_decided(now, advice),
            Input::NetworkUp => self.on_network_up(now),
            Input::Unpark => self.on_unpark(now),
            Input::Reconfigured(settings) => {
                if settings.versions != self.settings.versions {
                    self.version = first_version(settings.versions);
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
            State::Consulting { deadline } if now >= deadline => {
                self.on_decided(now, Err(PolicyFault::Stalled));
            }
            State::Waiting { until } if now >= until => self.open(),
            State::Consulting { .. }
            | State::Waiting { .. }
            | State::Stopped
            | State::Opening { .. }
            | State::Up { .. }
            | State::Closing { .. }
            | State::Parked { .. } => {}
        }
    }

    fn open(&mut self) {
        self.counters.attempts += 1;
        self.state = State::Opening {
            version: self.version,
        };
        self.outputs.push_back(Output::Open {
            version: self.version,
            attempt: self.attempt + 1,
        });
    }

    fn on_opened(&mut self, now: Instant) {
        if matches!(self.state, State::Opening { .. }) {
            self.counters.sessions += 1;
            self.silent_refusals = 0;
            self.fallen_back = false;
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
                let stable = acknowledged && session >= self.settings.stable_after;
                self.on_failure(now, disconnect, session, stable);
            }
            State::Closing { .. } => {
                self.state = State::Stopped;
                self.report(now, disconnect, Next::Stopped, DecidedBy::Host, false);
            }
            State::Stopped
            | State::Consulting { .. }
            | State::Waiting { .. }
            | State::Parked { .. } => {}
        }
    }

    fn on_failure(
        &mut self,
        now: Instant,
        disconnect: Disconnect,
        session: Duration,
        stable: bool,
    ) {
        if stable {
            self.attempt = 0;
        }
        self.attempt = self.attempt.saturating_add(1);
        self.down_since.get_or_insert(now);
        let retry_now = stable && !self.last_now;
        let Settings { floor, ceiling, .. } = self.settings;
        let free = Bounds {
            lower: floor,
            upper: ceiling,
            retry_now: false,
            park: false,
        };
        let bounds = match disconnect.cause.remedy() {
            Remedy::RetryOnceThenBackOff => Bounds { retry_now, ..free },
            Remedy::BackOff => {
                if disconnect.cause == Cause::ClosedBeforeConnack && self.try_other_version() {
                    return self.rule(now, disconnect, Ruling::Wait(floor), DecidedBy::Host, false);
                }
                free
            }
            Remedy::BackOffFrom(least) => {
                let lower = least.max(floor);
                Bounds {
                    lower,
                    upper: ceiling.max(lower),
                    ..free
                }
            }
            Remedy::SlowLane => Bounds {
                lower: ceiling,
                upper: ceiling,
                park: true,
                ..free
            },
            Remedy::FallBackVersion => {
                let ruling = if self.fall_back() {
                    Ruling::Wait(Duration::ZERO)
                } else {
                    Ruling::Park
                };
                return self.rule(now, disconnect, ruling, DecidedBy::Host, false);
            }
            Remedy::YieldToTakeover => {
                let Some(lower) = self.note_takeover(now) else {
                    return self.rule(now, disconnect, Ruling::Park, DecidedBy::Host, false);
                };
                Bounds {
                    lower: lower.max(floor),
                    upper: ceiling.max(lower),
                    park: true,
                    ..free
                }
            }
            Remedy::Park => {
                return self.rule(now, disconnect, Ruling::Park, DecidedBy::Host, false);
            }
            // A close of our own that was not a stop: a reload. Nothing is wrong, so nothing needs to wait.
            Remedy::Nothing => {
                return self.rule(
                    now,
                    disconnect,
                    Ruling::Wait(Duration::ZERO),
                    DecidedBy::Host,
                    false,
                );
            }
        };
        self.consult(now, disconnect, session, bounds);
    }

    fn consult(&mut self, now: Instant, disconnect: Disconnect, session: Duration, bounds: Bounds) {
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
            previous_delay: self.previous_delay,
            floor: bounds.lower,
            ceiling: bounds.upper,
            seed: self.random.next_u32(),
        };
        self.pending = Some(Pending {
            disconnect,
            at: now,
            bounds,
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
        }) = self.pending.take()
        else {
            return;
        };
        let (ruling, decided_by, clamped) = match advice {
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
        self.rule_since(now, at, disconnect, ruling, decided_by, clamped);
    }

    fn rule(
        &mut self,
        now: Instant,
        disconnect: Disconnect,
        ruling: Ruling,
        decided_by: DecidedBy,
        clamped: bool,
    ) {
        self.rule_since(now, now, disconnect, ruling, decided_by, clamped);
    }

    fn rule_since(
        &mut self,
        now: Instant,
        at: Instant,
        disconnect: Disconnect,
        ruling: Ruling,
        decided_by: DecidedBy,
        clamped: bool,
    ) {
        self.last_now = ruling == Ruling::Now;
        self.waits_for_network = disconnect.cause.fault() == Fault::Network;
        let next = match ruling {
            Ruling::Wait(wait) => Next::Retry(wait),
            // Gateways of a fleet break together: even "now" is spread a little.
            Ruling::Now => Next::Retry(self.random.between(Duration::ZERO, self.settings.floor)),
            Ruling::Park => Next::Parked(park_reason(disconnect.cause)),
        };
        match next {
            Next::Retry(wait) => {
                self.previous_delay = wait;
                self.not_before = now + wait.min(self.settings.floor);
                self.state = State::Waiting { until: now + wait };
            }
            Next::Parked(reason) => self.state = State::Parked { reason },
            Next::Stopped => self.state = State::Stopped,
        }
        self.report(at, disconnect, next, decided_by, clamped);
    }

    fn report(
        &mut self,
        at: Instant,
        disconnect: Disconnect,
        next: Next,
        decided_by: DecidedBy,
        clamped: bool,
    ) {
        let record = Record {
            disconnect,
            at,
            attempt: self.attempt,
            next,
            decided_by,
            clamped,
        };
        self.outputs.push_back(Output::Report(Box::new(record)));
    }

    fn on_network_up(&mut self, now: Instant) {
        if let State::Waiting { until } = self.state {
            let jitter = self.random.between(Duration::ZERO, self.settings.floor);
            // An interface that flaps must not turn the wait into a storm.
            let soon = (now + jitter).max(self.not_before);
            // A broker that asked for room still gets it: only a wait for the network itself is cut short.
            if soon < until && self.waits_for_network {
                self.state = State::Waiting { until: soon };
            }
        }
    }

    fn on_unpark(&mut self, now: Instant) {
        match self.state {
            State::Parked { .. } | State::Waiting { .. } => {
                self.takeovers.clear();
                self.fallen_back = false;
                self.attempt = 0;
                self.open();
            }
            State::Consulting { .. } => {
                // Nobody waits for the policy's answer any more.
                if let Some(Pending { disconnect, .. }) = self.pending.take() {
                    let at_once = Ruling::Wait(Duration::ZERO);
                    self.rule(now, disconnect, at_once, DecidedBy::Host, false);
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
            State::Consulting { .. } => {
                self.state = State::Stopped;
                if let Some(pending) = self.pending.take() {
                    // The disconnect is told although nobody waits for the ruling any more.
                    self.report(
                        pending.at,
                        pending.disconnect,
                        Next::Stopped,
                        DecidedBy::Host,
                        false,
                    );
                }
            }
            State::Waiting { .. } | State::Parked { .. } => self.state = State::Stopped,
            State::Stopped | State::Closing { .. } => {}
        }
        self.down_since.get_or_insert(now);
    }

    /// Changes to the other version and stays there; false when that is not allowed, or when it was refused, too, since
    /// the last session.
    fn fall_back(&mut self) -> bool {
        let possible = self.settings.versions == Versions::Auto && !self.fallen_back;
        if possible {
            self.fallen_back = true;
            self.version = match self.version {
                MqttVersion::V5 => MqttVersion::V311,
                MqttVersion::V311 => MqttVersion::V5,
            };
        }
        possible
    }

    /// Some brokers just close on a version they do not know: after a few such closes 3.1.1 gets its try. It is a guess:
    /// a broker that refuses 3.1.1 in so many words still gets 5.0 again.
    fn try_other_version(&mut self) -> bool {
        self.silent_refusals = self.silent_refusals.saturating_add(1);
        let guess = self.silent_refusals == SILENT_REFUSALS
            && self.counters.sessions == 0
            && self.settings.versions == Versions::Auto
            && self.version == MqttVersion::V5;
        if guess {
            self.version = MqttVersion::V311;
        }
        guess
    }

    /// The least wait after this takeover, or none when there were too many.
    fn note_takeover(&mut self, now: Instant) -> Option<Duration> {
        while self
            .takeovers
            .front()
            .is_some_and(|&at| now.saturating_since(at) > TAKEOVER_MEMORY)
        {
            self.takeovers.pop_front();
        }
        self.takeovers.push_back(now);
        let count = self.takeovers.len();
        (count < TAKEOVERS_MAX).then(|| TAKEOVER_FLOOR.saturating_mul(1 << (count - 1)))
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

const fn first_version(versions: Versions) -> MqttVersion {
    match versions {
        Versions::Auto | Versions::V5 => MqttVersion::V5,
        Versions::V311 => MqttVersion::V311,
    }
}
