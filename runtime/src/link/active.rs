//! One session under the driver: feeds it, hears it ([`answers`]), watches whether it lives ([`silence`]).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use moorline_core::host::HostWatch;
use moorline_core::link::answer_time::AnswerTime;
use moorline_core::link::canary::Canary;
use moorline_core::link::cause::{Intent, MqttVersion};
use moorline_core::link::classify::{Observation, Observed, Refusals};
use moorline_core::link::passage::Passage;
use moorline_core::link::quota::{Admission, Quota};
use moorline_core::link::window::Window;
use moorline_core::message::{Qos, Sequence};
use moorline_core::mqtt_frame::Connack;
use moorline_core::thingsboard::Publish;
use moorline_core::thingsboard::limits::Cost;
use moorline_core::time::Instant;
use tokio::sync::mpsc;
use tracing::debug;

use super::dialer::Dialled;
use super::feeder::Batch;
use super::liveness::{Stalled, Verdict};
use super::observe;
use super::session::{AckDue, Message, Received, Session};
use super::settings::LinkSettings;
use super::status::{Held, Liveness};
use super::wire::Wire;
use crate::clock::Clock;

mod answers;
mod silence;

/// How long our own DISCONNECT may take to leave.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// The client crate pings and blocks without telling: the wire is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What the smallest publish counts as.
const LEAST: Cost = Cost {
    telemetry_messages: 1,
    telemetry_points: 1,
    ..Cost::NOTHING
};

/// A publish the broker refused for good.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: u8,
    pub(super) first: Option<Sequence>,
    pub(super) readings: u32,
    pub(super) sent: Option<Sent>,
}

/// A publish as it was sent, kept until it is acknowledged.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) topic: &'static str,
    pub(super) payload: Bytes,
    pub(super) cost: Cost,
    pub(super) qos: Qos,
}

/// What one step brought.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The broker accepted us.
    pub(super) up: Option<Connack>,
    /// Publishes acknowledged, and the readings in them.
    pub(super) delivered_publishes: u64,
    pub(super) delivered_readings: u64,
    /// The spool may forget everything through this one.
    pub(super) cursor: Option<Sequence>,
    /// Refused for good.
    pub(super) refused: Vec<Refusal>,
    /// Messages from the broker.
    pub(super) received: Vec<Received>,
    /// Something was learnt of how the peer answers.
    pub(super) answered: bool,
    /// Something else holds publishes back, or nothing any more.
    pub(super) held: bool,
    /// A publish may go, and none is there.
    pub(super) asks: bool,
    /// A batch for the driver to look at, before its publishes are taken in.
    pub(super) batch: Option<Batch>,
    /// It is over.
    pub(super) over: Option<Observation>,
}

/// What a session begins with.
pub(super) struct Beginning {
    pub(super) version: MqttVersion,
    pub(super) settings: Arc<LinkSettings>,
    /// What CONNECT asks for.
    pub(super) keep_alive: Duration,
    pub(super) refusals: Refusals,
    pub(super) careful: bool,
    pub(super) canary: Option<Canary>,
    /// Whether the platform is asked what it lets us send.
    pub(super) ask_limits: bool,
    /// Most publishes unacknowledged at a time.
    pub(super) inflight_max: u16,
}

/// A session from CONNECT to its end.
pub(super) struct Active {
    session: Session,
    wire: Arc<Wire>,
    /// Our address and the peer's.
    ends: Option<(SocketAddr, SocketAddr)>,
    settings: Arc<LinkSettings>,
    clock: Clock,
    version: MqttVersion,
    connect_at: Instant,
    up_at: Option<Instant>,
    keep_alive: Duration,
    queue: VecDeque<Publish>,
    ask_limits: bool,
    /// A publish was asked for and has not come.
    asked: bool,
    held: Option<Held>,
    taking_in: bool,
    closing: Option<(Intent, Instant)>,
    /// The last acknowledgement of a publish.
    acked_at: Option<Instant>,
    /// The payload of the largest publish that the broker has acknowledged, bytes.
    largest_acknowledged: usize,
    /// The first publish of QoS 0 since the peer was last heard: nothing will acknowledge it.
    told_at: Option<Instant>,
    /// The most the broker takes.
    qos_max: Qos,
    refusals: Refusals,
    /// When a publish was last refused.
    refused_at: Option<Instant>,
    /// The smaller of our limit and the broker's.
    inflight_max: u16,
    /// One publish at a time: one of them may be what the broker ends sessions over.
    careful: bool,
    /// The stall of this machine since the peer was last heard.
    stall: Option<Stalled>,
    /// What becomes of a question that is not answered, and when to look at it next.
    passage: (Passage, Instant),
    answer_time: AnswerTime,
    canary: Option<Canary>,
}

impl Active {
    pub(super) fn open(dialled: Dialled, beginning: Beginning, clock: Clock) -> Self {
        let Beginning {
            version,
            settings,
            keep_alive,
            refusals,
            careful,
            mut canary,
            ask_limits,
            inflight_max,
        } = beginning;
        if let Some(canary) = &mut canary {
            canary.end();
        }
        let wire = Arc::new(Wire::new(clock));
        let (stream, seen_by) = (dialled.stream, Arc::clone(&wire));
        let session = Session::open(stream, version, &settings, keep_alive, seen_by);
        Self {
            session,
            wire,
            ends: dialled.local.zip(Some(dialled.peer)),
            clock,
            version,
            connect_at: clock.now(),
            up_at: None,
            keep_alive,
            refusals,
            refused_at: None,
            inflight_max,
            ask_limits,
            asked: false,
            held: None,
            careful,
            settings,
            queue: VecDeque::new(),
            taking_in: true,
            closing: None,
            acked_at: None,
            largest_acknowledged: 0,
            told_at: None,
            qos_max: Qos::ExactlyOnce,
            stall: None,
            passage: (Passage::default(), Instant::ZERO),
            answer_time: AnswerTime::default(),
            canary,
        }
    }

    /// Takes these publishes; they go as the window admits them.
    pub(super) fn queue(&mut self, publishes: Vec<Publish>) {
        self.asked = false;
        self.queue.extend(publishes);
    }

    /// What holds the next publish back.
    pub(super) const fn held(&self) -> Option<Held> {
        self.held
    }

    /// At most so many publishes at a time from now on.
    pub(super) fn narrow(&mut self, inflight_max: u16, window: &mut Window<Sent>) {
        self.inflight_max = self.inflight_max.min(inflight_max);
        if !self.careful {
            window.resize(self.inflight_max);
        }
    }

    /// Takes nothing new; what is in flight may still be acknowledged.
    pub(super) fn drain(&mut self) {
        self.taking_in = false;
        self.queue.clear();
    }

    /// How many publishes in a row were refused.
    pub(super) const fn refusals(&self) -> Refusals {
        self.refusals
    }

    /// The payload of the largest publish that the broker has acknowledged, bytes; zero without one.
    pub(super) const fn largest_acknowledged(&self) -> usize {
        self.largest_acknowledged
    }

    /// The canary, if it is one of these settings.
    pub(super) fn canary(&self, settings: &LinkSettings) -> Option<&Canary> {
        self.canary
            .as_ref()
            .filter(|_| self.settings.canary == settings.canary)
    }

    /// How the peer has answered so far.
    pub(super) fn liveness(&self) -> Liveness {
        Liveness {
            keep_alive: self.keep_alive,
            answer_time: self.answer_time,
            canary: self.canary.as_ref().map(Canary::seen),
        }
    }

    /// As many publishes at a time as usual again.
    pub(super) fn be_usual(&mut self, window: &mut Window<Sent>) {
        self.careful = false;
        window.resize(self.inflight_max);
    }

    /// Asks the peer by a PINGREQ whether it lives, unless that is asked already.
    pub(super) fn probe(&self) {
        if self.up_at.is_some() && self.wire.pingreq_at().is_none() {
            self.wire.ask_probe();
        }
    }

    /// Acknowledges a message of the broker's.
    pub(super) fn acknowledge(&mut self, due: AckDue) {
        self.session.acknowledge(due);
    }

    /// Sends DISCONNECT, if there is a session to end; either way the next steps end it.
    pub(super) fn close(&mut self, intent: Intent) {
        let now = self.clock.now();
        let sent = self.up_at.is_some() && self.session.close().is_ok();
        self.closing = Some((intent, if sent { now + CLOSE_GRACE } else { now }));
    }

    /// What happens next. May be cancelled.
    pub(super) async fn step(
        &mut self,
        window: &mut Window<Sent>,
        quota: &mut Quota,
        batches: &mut mpsc::Receiver<Batch>,
        host: &mut HostWatch,
    ) -> Progress {
        let mut progress = Progress::default();
        loop {
            if host.look(self.clock.now(), self.clock.all()) {
                self.resume(host);
            }
            let held = self.send(window, quota);
            let hungry = self.up_at.is_some()
                && self.taking_in
                && self.queue.is_empty()
                && window.has_room();
            let held = held.or_else(|| self.ask(hungry, quota, &mut progress));
            self.tell_held(held, &mut progress);
            let held_until = held.and_then(|held| held.until);
            self.take_ping_time(&mut progress);
            self.look_at_passage();
            let verdict = self.judge(window, &mut progress);
            let Verdict::Alive(deadline) = verdict else {
                // The host may have slept: what the peer said meanwhile is heard before it is declared dead.
                tokio::select! {
                    biased;
                    event = self.session.next() => self.hear(event, window, quota, &mut progress),
                    () = std::future::ready(()) => self.act_on(verdict, window, &mut progress),
                }
                if progress.is_something() {
                    return progress;
                }
                continue;
            };
            let look_at = self.clock.now() + LOOK_EVERY;
            if progress.is_something() {
                return progress;
            }
            let awaited = [deadline, held_until].into_iter().flatten().min();
            let look_again = awaited.map_or(look_at, |at| at.min(look_at));
            host.expect(look_again);
            tokio::select! {
                biased;
                event = self.session.next() => self.hear(event, window, quota, &mut progress),
                Some(batch) = batches.recv(), if hungry => progress.batch = Some(batch),
                () = tokio::time::sleep_until(self.clock.deadline(look_again)) => {}
            }
            if progress.is_something() {
                return progress;
            }
        }
    }

    /// Sends what window and quota admit; what holds the next one back, if it is the quota.
    fn send(&mut self, window: &mut Window<Sent>, quota: &mut Quota) -> Option<Held> {
        while window.has_room()
            && self.session.has_room()
            && let Some(publish) = self.queue.front()
        {
            let now = self.clock.now();
            if let Admission::Held { until, by } = quota.admits(now, &publish.cost) {
                return Some(Held { until, by });
            }
            let Some(publish) = self.queue.pop_front() else {
                break;
            };
            let cost = publish.cost;
            let sent = Sent {
                topic: publish.topic,
                payload: Bytes::from(publish.payload),
                cost,
                qos: publish.qos.min(self.qos_max),
            };
            let bytes = sent.payload.len();
            let message = Message {
                topic: sent.topic,
                payload: sent.payload.clone(),
                qos: sent.qos,
                identity: publish.identity,
            };
            let Some(token) = window.admit(publish.range, publish.readings, bytes, sent, now)
            else {
                break;
            };
            quota.sent(now, &cost);
            if let Err(error) = self.session.publish(token.0, message) {
                // The window never exceeds the session's room, so the session is over; its end is on the way.
                debug!(%error, "a publish found no session");
                break;
            }
        }
        None
    }

    /// Asks for a publish once one may go, where they may have to wait: until then it is filled.
    fn ask(&mut self, hungry: bool, quota: &mut Quota, progress: &mut Progress) -> Option<Held> {
        if !hungry || self.asked || !quota.is_limited() {
            return None;
        }
        match quota.admits(self.clock.now(), &LEAST) {
            Admission::Held { until, by } => Some(Held { until, by }),
            Admission::Now => {
                self.asked = true;
                progress.asks = true;
                None
            }
        }
    }

    fn tell_held(&mut self, held: Option<Held>, progress: &mut Progress) {
        let by = |held: Option<Held>| held.map(|held| held.by);
        progress.held |= by(self.held) != by(held);
        self.held = held;
    }

    fn observation(&self, observed: Observed, window: &Window<Sent>) -> Observation {
        let now = self.clock.now();
        let mut evidence = observe::evidence(&self.wire, now);
        evidence.session = self.up_at.map(|at| now.saturating_since(at));
        evidence.ack_age = window.oldest_age(now);
        evidence.since_refusal = self.refused_at.map(|at| now.saturating_since(at));
        evidence.keep_alive = Some(self.keep_alive);
        evidence.answers_within = self.answer_time.expected();
        let back_at = self
            .canary
            .as_ref()
            .and_then(|canary| canary.seen().back_at);
        evidence.canary_age = back_at.map(|at| now.saturating_since(at));
        Observation {
            phase: observe::phase(&self.wire),
            version: self.version,
            observed: self
                .closing
                .map_or(observed, |(intent, _)| Observed::Local(intent)),
            evidence,
            suspect: window.oldest(),
        }
    }
}

impl Progress {
    fn is_something(&self) -> bool {
        self.up.is_some()
            || self.over.is_some()
            || self.batch.is_some()
            || self.answered
            || self.held
            || self.asks
            || self.delivered_publishes > 0
            || !self.refused.is_empty()
            || !self.received.is_empty()
    }
}
