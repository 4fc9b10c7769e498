//! Which of several brokers the next attempt goes to.
//!
//! ```text
//!            failed              its doubt passes, or the round is over
//!  good ─────────────► tried ─────────────────────────────────────────► good
//!    ▲   it asked for room ▼
//!    │ stable session   resting ── its time passes ──► good
//!    │ unparked         set aside: only an operator can mend it
//! ```
//!
//! A **round** tries each endpoint that can be tried once, the preferred ones first. Within a round the next endpoint costs
//! the floor; the whole round is one attempt for the back-off. An endpoint that failed is **doubted** for a while that
//! doubles with each failure: it is then tried after those of which nothing bad is known, so that a preferred broker that
//! is down does not stand in the way each time a session ends. One that asked for room, or would refuse again, **rests**.
//! One whose cause would park the link is **set aside**; the link parks when none is left.
//!
//! A server that refers to another (MQTT 5.0 section 4.11) is followed once per [`FOLLOW_EVERY`], as an endpoint of its own
//! until it fails.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::backoff::Random;
use super::cause::MqttVersion;
use super::{Settings, Versions};
use crate::time::Instant;

/// A reference to another server is followed at most once in this time.
pub const FOLLOW_EVERY: Duration = Duration::from_secs(3600);
/// References of one packet that are looked at.
const REFERENCES_MAX: usize = 4;
/// Attempts that end before CONNACK without a reason until the other version is tried once.
const SILENT_REFUSALS: u32 = 3;
/// A broker that hung when 5.0 was offered to it may speak it after all: so often a guess is looked at again.
const DOUBT_GUESS_EVERY: Duration = Duration::from_secs(3600);
/// Doubling a doubt more often than this changes nothing: the ceiling comes first.
const DOUBLINGS_MAX: u32 = 16;

/// A broker that may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `host:port`, for people.
    pub name: Arc<str>,
    /// The smallest is preferred; equal ones take turns.
    pub priority: u16,
    /// Which versions may be spoken there, where it is not what [`Settings`] say.
    pub versions: Option<Versions>,
}

/// One server of a Server Reference (MQTT 5.0 section 4.11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerReference {
    /// A name, or an address without brackets.
    pub host: String,
    /// The port, where one is given.
    pub port: Option<u16>,
}

/// Which broker an attempt goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The configured endpoint with this number, from 0.
    Configured(usize),
    /// A server the configured endpoint with number `by` referred to: with its settings, but under the name in `to`.
    Referred {
        /// Who referred.
        by: usize,
        /// Whereto.
        to: ServerReference,
    },
}

impl ServerReference {
    /// The first usable server of a reference: names or addresses, each with a port or without, separated by spaces.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        text.split(' ')
            .filter(|word| !word.is_empty())
            .take(REFERENCES_MAX)
            .find_map(Self::parse_one)
    }

    fn parse_one(word: &str) -> Option<Self> {
        let (host, port) = if let Some(rest) = word.strip_prefix('[') {
            let (address, port) = rest.split_once(']')?;
            Ipv6Addr::from_str(address).ok()?;
            let port = match port {
                "" => None,
                port => Some(port.strip_prefix(':')?),
            };
            (address, port)
        } else {
            let (host, port) = match word.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (word, None),
            };
            (is_name(host) || Ipv4Addr::from_str(host).is_ok()).then_some((host, port))?
        };
        let port = match port {
            None => None,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(digits.parse().ok().filter(|&port| port != 0)?)
            }
            Some(_) => return None,
        };
        Some(Self {
            host: host.to_owned(),
            port,
        })
    }
}

/// RFC 1123 section 2.1.
fn is_name(host: &str) -> bool {
    let label = |label: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        (1..=63).contains(&label.len()) && label.bytes().all(plain)
    };
    host.len() <= 253 && host.split('.').all(label)
}

/// One endpoint and what its past says.
#[derive(Clone, Debug)]
struct Candidate {
    endpoint: Endpoint,
    failures: u32,
    /// Failed in this round.
    tried: bool,
    doubted_until: Instant,
    resting_until: Instant,
    set_aside: bool,
    /// Larger, the later it was last tried; at first by chance, so that a fleet spreads over equals.
    turn: u64,
    version: MqttVersion,
    /// The version was changed since the last session.
    fallen_back: bool,
    silent_refusals: u32,
    /// 3.1.1 is spoken although nobody said that 5.0 is not; until then.
    guess_until: Option<Instant>,
    /// It accepted a version that was not guessed.
    ever_up: bool,
}

impl Candidate {
    fn new(endpoint: Endpoint, versions: Versions, turn: u64) -> Self {
        Self {
            version: first_version(endpoint.versions.unwrap_or(versions)),
            endpoint,
            failures: 0,
            tried: false,
            doubted_until: Instant::ZERO,
            resting_until: Instant::ZERO,
            set_aside: false,
            turn,
            fallen_back: false,
            silent_refusals: 0,
            guess_until: None,
            ever_up: false,
        }
    }
}

/// A server we were referred to.
#[derive(Clone, Debug)]
struct Referred {
    by: usize,
    to: ServerReference,
    candidate: Candidate,
}

/// The brokers of one link. There is always at least one.
#[derive(Clone, Debug)]
pub struct Endpoints {
    configured: Vec<Candidate>,
    current: usize,
    referred: Option<Referred>,
    followed_at: Option<Instant>,
    turns: u64,
}

/// Every turn that was taken is later than one that was not.
const FIRST_TURN: u64 = 1 << 32;

impl Endpoints {
    /// One endpoint without a name.
    #[must_use]
    pub(super) fn one(versions: Versions) -> Self {
        let endpoint = Endpoint {
            name: Arc::from(""),
            priority: 0,
            versions: None,
        };
        Self {
            configured: vec![Candidate::new(endpoint, versions, 0)],
            current: 0,
            referred: None,
            followed_at: None,
            turns: FIRST_TURN,
        }
    }

    /// Uses these from now on; what is known of those that stay is kept. An empty list changes nothing.
    pub(super) fn replace(
        &mut self,
        endpoints: Vec<Endpoint>,
        versions: Versions,
        random: &mut Random,
    ) {
        if endpoints.is_empty() {
            return;
        }
        let current = self.name();
        let known = std::mem::take(&mut self.configured);
        self.configured = endpoints
            .into_iter()
            .map(|endpoint| {
                let known = known.iter().find(|known| known.endpoint == endpoint);
                let turn = u64::from(random.next_u32());
                known
                    .cloned()
                    .unwrap_or_else(|| Candidate::new(endpoint, versions, turn))
            })
            .collect();
        self.referred = None;
        self.current = self
            .configured
            .iter()
            .position(|candidate| candidate.endpoint.name == current)
            .unwrap_or(0);
    }

    /// Other versions may be spoken from now on.
    pub(super) fn allow(&mut self, versions: Versions) {
        for candidate in &mut self.configured {
            candidate.version = first_version(candidate.endpoint.versions.unwrap_or(versions));
        }
    }

    fn present(&self) -> &Candidate {
        match &self.referred {
            Some(referred) => &referred.candidate,
            None => &self.configured[self.current],
        }
    }

    fn present_mut(&mut self) -> &mut Candidate {
        match &mut self.referred {
            Some(referred) => &mut referred.candidate,
            None => &mut self.configured[self.current],
        }
    }

    /// The name of the present endpoint: of the attempt or session under way, or the last one.
    #[must_use]
    pub fn name(&self) -> Arc<str> {
        Arc::clone(&self.present().endpoint.name)
    }

    /// Which the present endpoint is.
    #[must_use]
    pub fn target(&self) -> Target {
        match &self.referred {
            Some(Referred { by, to, .. }) => Target::Referred {
                by: *by,
                to: to.clone(),
            },
            None => Target::Configured(self.current),
        }
    }

    /// The version the present endpoint is offered.
    #[must_use]
    pub fn version(&self) -> MqttVersion {
        self.present().version
    }

    /// Makes the endpoint of the next attempt the present one.
    pub(super) fn choose(&mut self, now: Instant) {
        if self.referred.is_some() {
            return;
        }
        let best = self
            .configured
            .iter()
            .enumerate()
            .min_by_key(|(_, candidate)| {
                (
                    candidate.set_aside,
                    candidate.resting_until.max(now),
                    candidate.tried,
                    candidate.doubted_until > now,
                    candidate.endpoint.priority,
                    candidate.turn,
                )
            });
        if let Some((index, _)) = best {
            self.current = index;
        }
        self.turns += 1;
        let turns = self.turns;
        self.present_mut().turn = turns;
    }

    /// The broker accepted us.
    pub(super) fn opened(&mut self) {
        let candidate = self.present_mut();
        candidate.silent_refusals = 0;
        candidate.fallen_back = false;
        candidate.ever_up = candidate.guess_until.is_none();
    }

    /// A session ended. One of a guessed version may be followed by a try of 5.0; if that fails as before, the guess is
    /// taken up again at once.
    pub(super) fn session_ended(&mut self, now: Instant) {
        let candidate = self.present_mut();
        if candidate.guess_until.is_some_and(|until| now >= until) {
            candidate.guess_until = None;
            candidate.version = MqttVersion::V5;
            candidate.silent_refusals = SILENT_REFUSALS - 1;
        }
    }

    /// The session that ends was stable: all that was before it is forgotten.
    pub(super) fn was_stable(&mut self) {
        let candidate = self.present_mut();
        candidate.failures = 0;
        candidate.doubted_until = Instant::ZERO;
        self.begin_round();
    }

    /// Whether nothing failed in this round.
    pub(super) fn round_is_fresh(&self) -> bool {
        self.configured.iter().all(|candidate| !candidate.tried)
    }

    pub(super) fn begin_round(&mut self) {
        for candidate in &mut self.configured {
            candidate.tried = false;
        }
    }

    /// The attempt or session at the present endpoint failed; it is not tried again for `rest`.
    pub(super) fn failed(&mut self, now: Instant, rest: Duration, settings: &Settings) {
        // A server we were referred to gets no second chance: whoever referred may do so again.
        if self.referred.take().is_some() {
            return;
        }
        let candidate = self.present_mut();
        candidate.tried = true;
        candidate.failures = candidate.failures.saturating_add(1);
        let doubt = settings
            .floor
            .saturating_mul(1 << candidate.failures.min(DOUBLINGS_MAX));
        candidate.doubted_until = now + doubt.min(settings.ceiling);
        candidate.resting_until = now + rest;
    }

    /// Only an operator can mend what the present endpoint failed of. False when no other is left: the link parks.
    pub(super) fn set_aside(&mut self) -> bool {
        if self.referred.take().is_none() {
            let candidate = self.present_mut();
            candidate.set_aside = true;
            candidate.tried = true;
        }
        self.configured.iter().any(|candidate| !candidate.set_aside)
    }

    /// Whether this round has an endpoint left that can be tried at `at`.
    pub(super) fn round_goes_on(&self, at: Instant) -> bool {
        self.configured.iter().any(|candidate| {
            !candidate.tried && !candidate.set_aside && candidate.resting_until <= at
        })
    }

    /// The earliest time at which an endpoint can be tried again.
    pub(super) fn rested_at(&self) -> Instant {
        self.configured
            .iter()
            .filter(|candidate| !candidate.set_aside)
            .map(|candidate| candidate.resting_until)
            .min()
            .unwrap_or(Instant::ZERO)
    }

    /// Somebody acted: everything is worth a try again.
    pub(super) fn forgive(&mut self) {
        for candidate in &mut self.configured {
            candidate.set_aside = false;
            candidate.tried = false;
            candidate.fallen_back = false;
            candidate.resting_until = Instant::ZERO;
            candidate.doubted_until = Instant::ZERO;
        }
    }

    /// When a session at the present endpoint may be given up for a preferred one; none when it is at the best there is.
    pub(super) fn preferred_at(&self) -> Option<Instant> {
        let present = match &self.referred {
            // Its server wants us there.
            Some(_) => return None,
            None => &self.configured[self.current],
        };
        self.configured
            .iter()
            .filter(|other| other.endpoint.priority < present.endpoint.priority && !other.set_aside)
            .map(|other| other.resting_until.max(other.doubted_until))
            .min()
    }

    /// Goes to the server that is referred to, unless one was followed less than [`FOLLOW_EVERY`] ago. The endpoint that
    /// referred rests for `rest`.
    pub(super) fn follow(
        &mut self,
        now: Instant,
        to: ServerReference,
        rest: Duration,
        settings: &Settings,
    ) -> bool {
        let recently = self
            .followed_at
            .is_some_and(|at| now.saturating_since(at) < FOLLOW_EVERY);
        if recently || self.referred.is_some() {
            return false;
        }
        let by = self.current;
        let name = match to.port {
            Some(port) if to.host.contains(':') => format!("[{}]:{port}", to.host),
            Some(port) => format!("{}:{port}", to.host),
            None => to.host.clone(),
        };
        let referrer = &self.configured[by];
        let endpoint = Endpoint {
            name: name.into(),
            ..referrer.endpoint.clone()
        };
        let candidate = Candidate {
            version: referrer.version,
            ..Candidate::new(endpoint, settings.versions, 0)
        };
        self.failed(now, rest, settings);
        self.followed_at = Some(now);
        self.referred = Some(Referred { by, to, candidate });
        true
    }

    /// Changes to the other version and stays there; false when that is not allowed, or when it was refused, too, since
    /// the last session.
    pub(super) fn fall_back(&mut self, versions: Versions) -> bool {
        let candidate = self.present_mut();
        let versions = candidate.endpoint.versions.unwrap_or(versions);
        let possible = versions == Versions::Auto && !candidate.fallen_back;
        if possible {
            candidate.fallen_back = true;
            candidate.guess_until = None;
            candidate.version = match candidate.version {
                MqttVersion::V5 => MqttVersion::V311,
                MqttVersion::V311 => MqttVersion::V5,
            };
        }
        possible
    }

    /// Some brokers just close on a version they do not know, or leave it without an answer: after a few such attempts
    /// 3.1.1 gets one. A broker that hangs looks the same, so that this is a guess: if 3.1.1 fails, too, or is refused in so
    /// many words, 5.0 is offered again.
    pub(super) fn guess_version(&mut self, now: Instant, versions: Versions) -> bool {
        let candidate = self.present_mut();
        let versions = candidate.endpoint.versions.unwrap_or(versions);
        if candidate.ever_up || candidate.fallen_back || versions != Versions::Auto {
            return false;
        }
        candidate.silent_refusals = candidate.silent_refusals.saturating_add(1);
        let guess =
            candidate.version == MqttVersion::V5 && candidate.silent_refusals >= SILENT_REFUSALS;
        if guess {
            candidate.version = MqttVersion::V311;
            candidate.guess_until = Some(now + DOUBT_GUESS_EVERY);
        } else if candidate.version == MqttVersion::V311 {
            candidate.version = MqttVersion::V5;
            candidate.guess_until = None;
            candidate.silent_refusals = 0;
        }
        guess
    }
}

const fn first_version(versions: Versions) -> MqttVersion {
    match versions {
        Versions::Auto | Versions::V5 => MqttVersion::V5,
        Versions::V311 => MqttVersion::V311,
    }
}
