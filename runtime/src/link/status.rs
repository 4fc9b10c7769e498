//! What others may know about the link, and the one line each disconnect gets in the log.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use moorline_core::link::answer_time::AnswerTime;
use moorline_core::link::canary;
use moorline_core::link::cause::{Certainty, Intent, MqttVersion};
use moorline_core::link::quota::HeldBy;
use moorline_core::link::{
    DecidedBy, DuplicateClientId, Link, Next, Record, State, TAKEOVER_MEMORY,
};
use moorline_core::spool::dead_letter::Reason;
use moorline_core::thingsboard::limits::SessionLimits;
use moorline_core::time::{Instant, TimestampMs, saturating_ms};
use tracing::{info, warn};

use super::certificate::CertificateEnd;
use super::dialer::PhaseTimes;

/// Disconnects that are kept for the status.
const DISCONNECTS_KEPT: usize = 64;

/// What the alarm of a duplicate client id says when the broker has said so,
pub(crate) const DUPLICATE_CERTAIN: &str = "another client uses this gateway's client id";
/// and when it only looks so.
pub(crate) const DUPLICATE_INFERRED: &str =
    "another client seems to use this gateway's client id, or an access rule ends its sessions";
/// What to do about it.
pub(crate) const DUPLICATE_ADVICE: &str = "find the other client and give one of the two another id (link.client_id); \
     until then the link leaves the id to the other for one to fifteen minutes at a time";

/// One disconnect or failed attempt, with everything that followed from it.
#[derive(Clone, Debug)]
pub struct DisconnectRecord {
    /// Counts up from 1 in this process.
    pub id: u64,
    /// When it was noticed.
    pub at: TimestampMs,
    /// The core's record.
    pub record: Record,
    /// The proxy between, by its URL.
    pub via: Option<String>,
    /// One sentence for people.
    pub text: String,
}

/// One session's beginning.
#[derive(Clone, Debug)]
pub struct UpRecord {
    /// Counts sessions from 1 in this process.
    pub session: u64,
    /// When the broker accepted us.
    pub at: TimestampMs,
    /// The same, monotonic.
    pub since: Instant,
    /// The broker, as `host:port`.
    pub endpoint: Arc<str>,
    /// The proxy between, by its URL.
    pub via: Option<String>,
    /// Where the broker, or the proxy, answered.
    pub peer: Option<SocketAddr>,
    /// How long it took to get there.
    pub took: PhaseTimes,
    /// When the broker's certificates end; none without TLS.
    pub certificate_end: Option<CertificateEnd>,
    /// The version spoken.
    pub version: MqttVersion,
    /// Whether the broker says that it still knew us.
    pub session_present: bool,
    /// Whether it was asked to.
    pub session_wanted: bool,
    /// Since the session before ended, or since the start of the process.
    pub down: Duration,
    /// Attempts since then, this one included.
    pub attempts: u64,
}

/// How the peer of a session has answered so far.
#[derive(Clone, Copy, Debug)]
pub struct Liveness {
    /// The keep-alive in force: what was asked for, or the server's own.
    pub keep_alive: Duration,
    /// How long answers take: PUBACK to a publish, PINGRESP to a PINGREQ.
    pub answer_time: AnswerTime,
    /// What canaries have shown in the life of this process, where they are sent.
    pub canary: Option<canary::Seen>,
}

/// What holds the next publish back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// None: until something in flight is acknowledged.
    pub until: Option<Instant>,
    /// By what.
    pub by: HeldBy,
}

/// The link as others see it. Changes of `state` wake those who wait; counters are silently kept current.
#[derive(Clone, Debug)]
pub struct LinkStatus {
    /// Where the link is.
    pub state: State,
    /// The version of the last session; none before the first.
    pub version: Option<MqttVersion>,
    /// Sessions the broker accepted.
    pub sessions: u64,
    /// Attempts made.
    pub attempts: u64,
    /// `host:port` of the broker of the session or attempt under way, or the last one.
    pub endpoint: Arc<str>,
    /// Since when the present session is up.
    pub session_since: Option<Instant>,
    /// When the next attempt is made, while the link waits for it.
    pub next_try_at: Option<Instant>,
    /// The beginning of the last session.
    pub last_up: Option<Arc<UpRecord>>,
    /// The last disconnects and failed attempts, oldest first.
    pub disconnects: VecDeque<Arc<DisconnectRecord>>,
    /// Of the session that is up, or the last one.
    pub liveness: Option<Liveness>,
    /// Our client id.
    pub client_id: Arc<str>,
    /// Whether another client uses it; see [`LinkStatus::duplicate_client_id`].
    pub(super) duplicate: Option<DuplicateClientId>,
    /// Publishes the broker acknowledged.
    pub delivered_publishes: u64,
    /// Readings in them.
    pub delivered_readings: u64,
    /// The most publishes a second, while the broker's quota is kept.
    pub publish_limit_per_s: Option<f64>,
    /// What holds the next publish back; none while nothing waits for a limit.
    pub held: Option<Held>,
    /// The most bytes of a publish that can be divided, where the broker has closed on larger ones
    /// ([`packet_size`](moorline_core::link::packet_size)).
    pub publish_bytes_max: Option<usize>,
    /// What the platform lets us send, where it has said so or the configuration does.
    pub session_limits: Option<Arc<SessionLimits>>,
    /// Publishes that were in flight when a session ended: the broker may get them twice.
    pub duplicates_possible: u64,
    /// Messages set aside: the broker refused them for good, or no packet can carry them.
    pub dead_letters: u64,
    /// Readings in them.
    pub dead_letter_readings: u64,
    /// Why the last of them was set aside.
    pub last_dead_letter: Option<Reason>,
    /// Messages from the broker that were not understood, or that nobody took in time.
    pub downlinks_dropped: u64,
    /// Times the built-in policy stood in for one that failed.
    pub policy_faults: u64,
    /// Times a policy's advice was changed.
    pub policy_clamped: u64,
}

impl LinkStatus {
    pub(super) fn new(client_id: &str) -> Self {
        Self {
            state: State::Stopped,
            version: None,
            sessions: 0,
            attempts: 0,
            endpoint: Arc::from(""),
            session_since: None,
            next_try_at: None,
            last_up: None,
            disconnects: VecDeque::new(),
            liveness: None,
            client_id: client_id.into(),
            duplicate: None,
            delivered_publishes: 0,
            delivered_readings: 0,
            publish_limit_per_s: None,
            held: None,
            publish_bytes_max: None,
            session_limits: None,
            duplicates_possible: 0,
            dead_letters: 0,
            dead_letter_readings: 0,
            last_dead_letter: None,
            downlinks_dropped: 0,
            policy_faults: 0,
            policy_clamped: 0,
        }
    }

    /// Whether a session is up.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        matches!(self.state, State::Up { .. })
    }

    /// The last disconnect or failed attempt.
    #[must_use]
    pub fn last_disconnect(&self) -> Option<&Arc<DisconnectRecord>> {
        self.disconnects.back()
    }

    /// The alarm that another client uses our client id. A session of ten minutes ends it.
    #[must_use]
    pub fn duplicate_client_id(&self, now: Instant) -> Option<DuplicateClientId> {
        let calm = self
            .session_since
            .is_some_and(|since| now.saturating_since(since) >= TAKEOVER_MEMORY);
        self.duplicate.filter(|_| !calm)
    }

    /// Takes over what the link says of itself; true when its state changed.
    pub(super) fn follow(&mut self, link: &Link) -> bool {
        self.follow_alarm(link.duplicate_client_id());
        let counters = link.counters();
        self.sessions = counters.sessions;
        self.attempts = counters.attempts;
        self.policy_faults = counters.policy_faults;
        self.policy_clamped = counters.policy_clamped;
        if self.state == *link.state() {
            return false;
        }
        self.state = link.state().clone();
        self.endpoint = link.endpoint();
        (self.session_since, self.next_try_at) = match self.state {
            State::Up { since, .. } => (Some(since), None),
            State::Waiting { until } => (None, Some(until)),
            State::Stopped
            | State::Opening { .. }
            | State::Doubting { .. }
            | State::Consulting { .. }
            | State::Closing { .. }
            | State::Parked { .. } => (None, None),
        };
        if self.is_up() {
            self.version = Some(link.version());
        }
        true
    }

    /// One line for each alarm, and one more if what was inferred becomes certain.
    fn follow_alarm(&mut self, duplicate: Option<DuplicateClientId>) {
        let known = self.duplicate.map(|known| known.certainty);
        self.duplicate = duplicate;
        let Some(DuplicateClientId { certainty, .. }) = duplicate else {
            return;
        };
        if known != Some(certainty) {
            let client_id = &*self.client_id;
            match certainty {
                Certainty::Certain => {
                    warn!(client_id, "{DUPLICATE_CERTAIN}; {DUPLICATE_ADVICE}")
                }
                Certainty::Inferred => {
                    warn!(client_id, "{DUPLICATE_INFERRED}; {DUPLICATE_ADVICE}")
                }
            }
        }
    }

    pub(super) fn keep(&mut self, record: Record, via: Option<String>, at: TimestampMs) {
        let id = self.last_disconnect().map_or(0, |last| last.id) + 1;
        let text = sentence(&record, via.as_deref());
        log(&record, &text);
        if self.disconnects.len() == DISCONNECTS_KEPT {
            self.disconnects.pop_front();
        }
        self.disconnects.push_back(Arc::new(DisconnectRecord {
            id,
            at,
            record,
            via,
            text,
        }));
    }
}

fn sentence(record: &Record, via: Option<&str>) -> String {
    let Record {
        disconnect,
        next,
        decided_by,
        clamped,
        attempt,
        endpoint,
        ..
    } = record;
    // A process that was killed left no word of where it was.
    let mut place = String::new();
    if !endpoint.is_empty() {
        place += &format!(" at {endpoint}");
    }
    if let Some(via) = via {
        place += &format!(" via {via}");
    }
    let by = match decided_by {
        DecidedBy::Policy if *clamped => "the policy, clamped",
        DecidedBy::Policy => "the policy",
        DecidedBy::Fallback(_) => "the built-in policy",
        DecidedBy::Host => "the host",
    };
    if let Some(bytes) = disconnect.smaller_publishes {
        place += &format!("; publishes to it have at most {bytes} bytes from here on");
    }
    match next {
        Next::Retry(wait) => format!(
            "{disconnect}{place}; attempt {} in {:.1} s, decided by {by}",
            attempt + 1,
            wait.as_secs_f64()
        ),
        Next::Parked(reason) => {
            format!(
                "{disconnect}{place}; parked until an operator acts, decided by {by}: {}",
                reason.advice()
            )
        }
        Next::Stopped => format!("{disconnect}{place}; stopped"),
    }
}

fn log(record: &Record, text: &str) {
    let Record {
        disconnect,
        next,
        decided_by,
        clamped,
        attempt,
        ..
    } = record;
    let cause = disconnect.cause;
    let retry_in_ms = match next {
        Next::Retry(wait) => Some(saturating_ms(*wait)),
        Next::Parked(_) | Next::Stopped => None,
    };
    macro_rules! tell {
        ($level:ident) => {
            $level!(
                cause = cause.name(),
                class = ?cause.class(),
                fault = cause.fault().name(),
                certainty = ?disconnect.certainty,
                phase = disconnect.phase.name(),
                endpoint = &*record.endpoint,
                version = %disconnect.version,
                code = disconnect.evidence.reason_code,
                errno = disconnect.evidence.errno,
                detail = disconnect.evidence.detail,
                attempt,
                retry_in_ms,
                decided_by = ?decided_by,
                clamped,
                "{text}"
            )
        };
    }
    if matches!(
        cause,
        moorline_core::link::cause::Cause::Local(Intent::Shutdown | Intent::FailBack)
    ) {
        tell!(info);
    } else {
        tell!(warn);
    }
}
