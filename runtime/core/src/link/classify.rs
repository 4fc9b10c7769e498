//! From what the shell observed to one [`Disconnect`].
//!
//! Causes are found by codes, error numbers and the shell's own deadlines, never by text. Only a close without a reason
//! is interpreted, from the context the classifier remembers between sessions, and is marked as inferred.

use std::time::Duration;

use super::LOOK_AGAIN;
use super::cause::{
    Cause, Certainty, Disconnect, Evidence, Inference, Intent, MqttVersion, Phase, TlsReject,
    TransportEnd,
};
use super::proxy::NO_ANSWER;
use crate::host::StallKind;
use crate::message::Sequence;

/// What it takes to dial, from the end of a wait to CONNECT.
const DIAL: Duration = Duration::from_secs(8);
/// So many closes in a row, the last soon after CONNACK, point to a takeover or an access rule.
const SILENT_CLOSES: u32 = 2;
/// A close counts as "right after" a message sent this recently.
pub(super) const RIGHT_AFTER: Duration = Duration::from_secs(1);
/// So many closes in a row right after the same message point to that message.
const SUSPICIONS: u32 = 2;

/// Far less than any kernel waits for an acknowledgement of bytes.
const SPOKE_JUST_NOW: Duration = Duration::from_secs(1);

// Linux errno numbers, as `std::io::Error::raw_os_error` gives them. The core may not link libc.
const EPERM: i32 = 1;
const ENODEV: i32 = 19;
const EPIPE: i32 = 32;
const EADDRNOTAVAIL: i32 = 99;
const ENETDOWN: i32 = 100;
const ENETUNREACH: i32 = 101;
const ECONNABORTED: i32 = 103;
const ECONNRESET: i32 = 104;
const ETIMEDOUT: i32 = 110;
const ECONNREFUSED: i32 = 111;
const EHOSTDOWN: i32 = 112;
const EHOSTUNREACH: i32 = 113;

/// How long after a stall the host may still be blamed: a last question to the peer fits in between.
const AFTER_A_STALL: Duration = Duration::from_secs(10);
/// A deadline that passes this soon after a stall may have passed in it.
const RIGHT_AFTER_A_STALL: Duration = Duration::from_secs(1);
/// "The server did not hear from us within the keep-alive" (MQTT 5.0 section 3.14.2.1).
const KEEP_ALIVE_TIMEOUT: u8 = 0x8d;

/// The one thing that ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// The name does not resolve.
    Unresolved,
    /// The deadline of the phase passed.
    Timeout,
    /// The kernel reported an error.
    Errno(i32),
    /// The interface or address to connect from cannot be had: this errno.
    Unbound(i32),
    /// TLS was refused, by either side.
    Tls(TlsReject),
    /// The proxy refused, with a code as [`super::proxy::Refusal`] has it.
    ProxyRefused(u16),
    /// The upgrade to a WebSocket was refused with this HTTP status, or 0.
    WebSocketRefused(u16),
    /// A CONNACK in the version that was offered, with a code other than success.
    Refused(u8),
    /// A 3.1.1 CONNACK with code 1 answered a 5.0 CONNECT.
    RefusedInOtherVersion,
    /// The server sent DISCONNECT.
    ServerDisconnect(u8),
    /// The peer closed in good order.
    Fin,
    /// The peer sent what is not MQTT.
    Garbage,
    /// A packet of ours is larger than the server takes: it was not sent.
    Unsendable,
    /// Our deadline for PINGRESP passed, and no kernel says that the question did not arrive.
    PingrespMissing,
    /// Our deadline for the oldest PUBACK passed.
    AckOverdue,
    /// So many canaries in a row did not come back.
    CanaryLost,
    /// Our deadline for a write passed.
    WriteStalled,
    /// Our deadline for a write passed, and the peer's kernel does not even acknowledge what was sent before.
    Unacknowledged,
    /// The server refused a publish for now, with this code; the session was ended to pace ourselves.
    PublishDeferred(u8),
    /// We ended it.
    Local(Intent),
    /// The process before this one died without closing.
    HostRestarted,
}

/// Everything the shell knows at the end of a session or attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// How far it had come.
    pub phase: Phase,
    /// The version spoken or offered.
    pub version: MqttVersion,
    /// What ended it.
    pub observed: Observed,
    /// Ages, packets and words; codes and transport end are filled in from `observed`.
    pub evidence: Evidence,
    /// The oldest message in flight, if any: the suspect of a silent close.
    pub suspect: Option<Sequence>,
}

/// Remembers what a silent close needs to be understood.
///
/// **Takeover or access rule.** A broker that gives a client's id to another and does not say so just closes. The session
/// before may have been long; but the gateway is back at once, thereby takes its id back, and the other, if it paces itself
/// as we do, is back soon after. So the second close, within seconds of CONNACK and without a failed attempt in between,
/// tells it from a broker that was restarted and from a path that breaks now and then.
#[derive(Clone, Debug)]
pub struct Classifier {
    /// How soon after CONNACK the second close must come.
    soon: Duration,
    silent_closes: u32,
    suspect: Option<Sequence>,
    suspicions: u32,
}

impl Default for Classifier {
    fn default() -> Self {
        Self::for_floor(super::Settings::default().floor)
    }
}

impl Classifier {
    /// A classifier that has seen nothing, for a link with this floor.
    #[must_use]
    pub const fn for_floor(floor: Duration) -> Self {
        Self {
            soon: soon(floor),
            silent_closes: 0,
            suspect: None,
            suspicions: 0,
        }
    }

    /// The link's floor has changed.
    pub const fn set_floor(&mut self, floor: Duration) {
        self.soon = soon(floor);
    }

    /// The message that sessions end right after, and how many in a row did. Forgotten when one ends otherwise.
    #[must_use]
    pub fn suspect(&self) -> Option<(Sequence, u32)> {
        self.suspect
            .filter(|_| self.suspicions > 0)
            .map(|suspect| (suspect, self.suspicions))
    }

    /// Says why.
    pub fn classify(&mut self, observation: Observation) -> Disconnect {
        let Observation {
            phase,
            version,
            observed,
            mut evidence,
            suspect,
        } = observation;
        self.remember(phase, observed, &evidence, suspect);
        let (cause, certainty) = blame_host(phase, observed, &evidence)
            .unwrap_or_else(|| self.cause(phase, version, observed, &evidence));
        match observed {
            Observed::Refused(code)
            | Observed::ServerDisconnect(code)
            | Observed::PublishDeferred(code) => {
                evidence.reason_code = Some(code);
            }
            Observed::RefusedInOtherVersion => evidence.reason_code = Some(1),
            Observed::Errno(errno) => {
                evidence.errno = Some(errno);
                evidence.transport_end = Some(match errno {
                    ECONNRESET => TransportEnd::Rst,
                    other => TransportEnd::Errno(other),
                });
            }
            // No transport ended: none was begun.
            Observed::Unbound(errno) => evidence.errno = Some(errno),
            Observed::Fin => evidence.transport_end = Some(TransportEnd::Fin),
            Observed::PingrespMissing
            | Observed::AckOverdue
            | Observed::CanaryLost
            | Observed::WriteStalled
            | Observed::Unacknowledged
            | Observed::Unsendable
            | Observed::Timeout
            | Observed::Local(_) => evidence.transport_end = Some(TransportEnd::Local),
            Observed::Unresolved
            | Observed::Tls(_)
            | Observed::ProxyRefused(_)
            | Observed::WebSocketRefused(_)
            | Observed::Garbage
            | Observed::HostRestarted => {}
        }
        Disconnect {
            cause,
            certainty,
            phase,
            version,
            evidence,
            smaller_publishes: None,
        }
    }

    fn remember(
        &mut self,
        phase: Phase,
        observed: Observed,
        evidence: &Evidence,
        suspect: Option<Sequence>,
    ) {
        if phase != Phase::Session {
            // The broker was not there: what it did before says nothing about other clients.
            self.silent_closes = 0;
            return;
        }
        let session = evidence.session.unwrap_or_default();
        // A reset may come from anybody on the way; a broker that does not want us closes.
        let silent = observed == Observed::Fin
            && !too_silent(evidence)
            && !after_a_refusal(evidence)
            && evidence.unproven_bytes.is_none();
        self.silent_closes = match (silent, session < self.soon) {
            (true, true) => self.silent_closes.saturating_add(1),
            (true, false) => 1,
            (false, _) => 0,
        };
        let pointing = matches!(observed, Observed::Fin | Observed::Errno(_))
            || matches!(observed, Observed::ServerDisconnect(code) if blames_a_packet(code));
        let right_after = evidence.since_sent.is_some_and(|age| age <= RIGHT_AFTER);
        if pointing && right_after && suspect.is_some() {
            self.suspicions = if self.suspect == suspect {
                self.suspicions.saturating_add(1)
            } else {
                1
            };
            self.suspect = suspect;
        } else {
            self.suspicions = 0;
            self.suspect = None;
        }
    }

    fn cause(
        &self,
        phase: Phase,
        version: MqttVersion,
        observed: Observed,
        evidence: &Evidence,
    ) -> (Cause, Certainty) {
        let cause = match observed {
            Observed::Unresolved => Cause::NameResolution,
            Observed::Timeout => timeout(phase),
            // The kernel's timer also runs out on a window that stays shut: a peer that has just spoken is not gone.
            Observed::Errno(ETIMEDOUT)
                if phase == Phase::Session
                    && evidence
                        .silence
                        .is_some_and(|silence| silence < SPOKE_JUST_NOW) =>
            {
                Cause::WriteStalled
            }
            Observed::Errno(ECONNRESET | EPIPE | ECONNABORTED) => return self.reset(phase),
            Observed::Errno(errno) => from_errno(phase, errno),
            Observed::Unbound(EADDRNOTAVAIL | ENODEV) => Cause::Unreachable,
            Observed::Unbound(_) => Cause::LocalResource,
            Observed::Tls(reject) => Cause::Tls(reject),
            Observed::ProxyRefused(code) => Cause::ProxyRefused(code),
            Observed::WebSocketRefused(status) => Cause::WebSocketRefused(status),
            Observed::Refused(code) => Cause::from_connack(version, code),
            Observed::RefusedInOtherVersion => Cause::VersionRefused,
            Observed::ServerDisconnect(code) => Cause::from_disconnect(code),
            Observed::Fin => return self.silent_close(phase, evidence),
            Observed::Garbage => Cause::PeerGarbage,
            Observed::Unsendable => Cause::PacketTooLarge,
            // Whatever we waited for: it had no way to us.
            Observed::PingrespMissing
            | Observed::AckOverdue
            | Observed::WriteStalled
            | Observed::Unacknowledged
                if evidence.without_route.is_some() =>
            {
                Cause::Unreachable
            }
            // The way works, by all that is known: whoever is at its end does not answer. Who that is nobody says.
            Observed::PingrespMissing => return (Cause::PingrespTimeout, Certainty::Inferred),
            Observed::AckOverdue => Cause::AckTimeout,
            Observed::CanaryLost => Cause::CanaryLost,
            Observed::WriteStalled => Cause::WriteStalled,
            Observed::Unacknowledged => Cause::BlackHole,
            Observed::PublishDeferred(code) => Cause::from_disconnect(code),
            Observed::Local(intent) => Cause::Local(intent),
            Observed::HostRestarted => return (Cause::HostRestarted, Certainty::Inferred),
        };
        (cause, Certainty::Certain)
    }

    /// Before CONNACK a reset is a close with bytes left unread. Afterwards anybody on the way may have sent it, unless it
    /// always comes right after the same message.
    fn reset(&self, phase: Phase) -> (Cause, Certainty) {
        match phase {
            Phase::Session if self.suspicions >= SUSPICIONS => (
                Cause::ClosedByServer(Inference::Poison),
                Certainty::Inferred,
            ),
            Phase::Tls => (Cause::Tls(TlsReject::Handshake), Certainty::Inferred),
            Phase::Proxy => (Cause::ProxyRefused(NO_ANSWER), Certainty::Certain),
            Phase::WebSocket => (Cause::WebSocketRefused(NO_ANSWER), Certainty::Certain),
            Phase::Connect => (Cause::ClosedBeforeConnack, Certainty::Certain),
            Phase::Dns | Phase::Tcp | Phase::Session => (Cause::Reset, Certainty::Certain),
        }
    }

    fn silent_close(&self, phase: Phase, evidence: &Evidence) -> (Cause, Certainty) {
        match phase {
            Phase::Session => {}
            Phase::Tls => return (Cause::Tls(TlsReject::Handshake), Certainty::Inferred),
            Phase::Proxy => return (Cause::ProxyRefused(NO_ANSWER), Certainty::Certain),
            Phase::WebSocket => {
                return (Cause::WebSocketRefused(NO_ANSWER), Certainty::Certain);
            }
            Phase::Dns | Phase::Tcp | Phase::Connect => {
                return (Cause::ClosedBeforeConnack, Certainty::Certain);
            }
        }
        let inference = if too_silent(evidence) {
            Inference::KeepAlive
        } else if self.suspicions >= SUSPICIONS {
            Inference::Poison
        } else if self.silent_closes >= SILENT_CLOSES {
            Inference::TakeoverOrAccess
        } else {
            return (
                Cause::ClosedByServer(Inference::Nothing),
                Certainty::Certain,
            );
        };
        (Cause::ClosedByServer(inference), Certainty::Inferred)
    }
}

/// A session that ends before this is so short that whoever ended it was waiting for it: a second look ([`super::Link`])
/// after the other's, plus what it takes to dial.
pub(super) const fn soon(floor: Duration) -> Duration {
    longer(LOOK_AGAIN, floor.saturating_mul(2)).saturating_add(DIAL)
}

const fn longer(a: Duration, b: Duration) -> Duration {
    if a.as_nanos() > b.as_nanos() { a } else { b }
}

/// Whether the broker had not heard from us for longer than it must bear (MQTT 5.0 section 3.1.2.10): we sent nothing, or
/// nothing that we sent was answered, although we ask within each keep-alive.
fn too_silent(evidence: &Evidence) -> bool {
    let Some(keep_alive) = evidence.keep_alive.filter(|it| !it.is_zero()) else {
        return false;
    };
    let quiet = [evidence.since_sent, evidence.silence]
        .into_iter()
        .flatten();
    quiet.max().is_some_and(|quiet| quiet * 2 > keep_alive * 3)
}

/// Whether the broker had just refused a publish: then it closed because of that, and not for another client.
fn after_a_refusal(evidence: &Evidence) -> bool {
    evidence.since_refusal.is_some_and(|age| age <= RIGHT_AFTER)
}

/// The host's own fault, if it did not run us shortly before. A server may end the session of a client that was silent for
/// one and a half keep-alives (MQTT 5.0 section 3.1.2.10), and up to one of them may have passed before the stall.
fn blame_host(phase: Phase, observed: Observed, evidence: &Evidence) -> Option<(Cause, Certainty)> {
    let stall = evidence.stall.filter(|_| phase == Phase::Session)?;
    let (cause, slept) = match stall.kind {
        StallKind::Starved => (Cause::HostStarved, false),
        StallKind::Suspended => (Cause::HostSuspended, true),
    };
    let too_silent = evidence
        .keep_alive
        .is_some_and(|keep_alive| !keep_alive.is_zero() && stall.lasted * 2 >= keep_alive);
    let just_ended = stall.ago <= AFTER_A_STALL;
    let certainty = match observed {
        Observed::ServerDisconnect(KEEP_ALIVE_TIMEOUT) => Some(Certainty::Certain),
        Observed::Fin | Observed::Errno(_) if just_ended && too_silent => Some(Certainty::Inferred),
        Observed::PingrespMissing
        | Observed::AckOverdue
        | Observed::WriteStalled
        | Observed::Unacknowledged
            if just_ended && (too_silent || slept || stall.ago <= RIGHT_AFTER_A_STALL) =>
        {
            Some(Certainty::Inferred)
        }
        Observed::Unresolved
        | Observed::Timeout
        | Observed::Errno(_)
        | Observed::Tls(_)
        | Observed::Unbound(_)
        | Observed::ProxyRefused(_)
        | Observed::WebSocketRefused(_)
        | Observed::Refused(_)
        | Observed::RefusedInOtherVersion
        | Observed::ServerDisconnect(_)
        | Observed::Fin
        | Observed::Garbage
        | Observed::Unsendable
        | Observed::PingrespMissing
        | Observed::AckOverdue
        | Observed::CanaryLost
        | Observed::WriteStalled
        | Observed::Unacknowledged
        | Observed::PublishDeferred(_)
        | Observed::Local(_)
        | Observed::HostRestarted => None,
    };
    certainty.map(|certainty| (cause, certainty))
}

const fn timeout(phase: Phase) -> Cause {
    match phase {
        Phase::Dns => Cause::NameResolution,
        Phase::Tcp => Cause::ConnectTimeout,
        Phase::Proxy => Cause::ProxyRefused(NO_ANSWER),
        Phase::Tls => Cause::Tls(TlsReject::Handshake),
        Phase::WebSocket => Cause::WebSocketRefused(NO_ANSWER),
        Phase::Connect => Cause::ConnackTimeout,
        // The shell has a named deadline for everything it waits for in a session; this one is the write's.
        Phase::Session => Cause::WriteStalled,
    }
}

const fn from_errno(phase: Phase, errno: i32) -> Cause {
    match errno {
        ECONNREFUSED => Cause::ConnectRefused,
        ENETUNREACH | EHOSTUNREACH | ENETDOWN | EHOSTDOWN => Cause::Unreachable,
        // A packet filter that refuses to let us out.
        EPERM => Cause::Unreachable,
        ETIMEDOUT => match phase {
            Phase::Dns | Phase::Tcp => Cause::ConnectTimeout,
            Phase::Proxy | Phase::Tls | Phase::WebSocket | Phase::Connect | Phase::Session => {
                Cause::BlackHole
            }
        },
        _ => Cause::LocalResource,
    }
}

/// DISCONNECT codes that say a packet of ours was at fault: malformed, protocol error, topic name invalid, packet too
/// large, payload format invalid.
const fn blames_a_packet(code: u8) -> bool {
    matches!(code, 0x81 | 0x82 | 0x90 | 0x95 | 0x99)
}

/// What a PUBACK's reason code means for the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PubackVerdict {
    /// Delivered.
    Delivered,
    /// Refused for good: counted and set aside, the link goes on.
    Refused,
    /// Refused for now: keep it and send it again later.
    Deferred,
}

/// Reads a PUBACK's reason code (MQTT 5.0 section 3.4.2.1; 3.1.1 always means success).
#[must_use]
pub const fn puback_verdict(code: u8) -> PubackVerdict {
    match code {
        0x00 | 0x10 => PubackVerdict::Delivered,
        // Quota exceeded passes.
        0x97 => PubackVerdict::Deferred,
        _ => PubackVerdict::Refused,
    }
}

/// Refusals in a row, after which the fault is taken to lie with this client and not with its messages.
const REFUSALS_MAX: u32 = 8;

/// Tells a message that is refused from a client that is. It outlives sessions.
///
/// A broker whose access rules forbid us to publish refuses everything for good. Setting it all aside would empty the
/// spool into the dead letters; so after a few in a row the rest is kept, and the session ends until somebody has
/// acted. One delivery is enough to trust the broker again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// What was refused last. That other topics are allowed says nothing about this one.
    topic: &'static str,
    in_a_row: u32,
}

impl Refusals {
    /// What becomes of the message that was published on `topic` with this verdict.
    #[must_use]
    pub fn judge(&mut self, verdict: PubackVerdict, topic: &'static str) -> PubackVerdict {
        let same = self.topic == topic;
        match verdict {
            PubackVerdict::Delivered if same => self.in_a_row = 0,
            PubackVerdict::Refused if same => self.in_a_row = self.in_a_row.saturating_add(1),
            PubackVerdict::Refused => *self = Self { topic, in_a_row: 1 },
            PubackVerdict::Delivered | PubackVerdict::Deferred => {}
        }
        if verdict == PubackVerdict::Refused && self.in_a_row > REFUSALS_MAX {
            PubackVerdict::Deferred
        } else {
            verdict
        }
    }
}
