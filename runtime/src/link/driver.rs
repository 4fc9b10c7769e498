//! Moves bytes and time for the core's link machine: dials, runs sessions, asks the policy, tells the status.
//!
//! One input, one drain. What an input means is decided in `moorline_core::link`; here it is only carried out.

use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use moorline_core::host::HostWatch;
use moorline_core::link::canary::Canary;
use moorline_core::link::cause::{Cause, Evidence, Intent, MqttVersion, Phase};
use moorline_core::link::classify::{Classifier, Observation, Observed, Refusals};
use moorline_core::link::endpoints::Target;
use moorline_core::link::keep_alive::KeepAlive;
use moorline_core::link::packet_size::{PacketSize, Publishes, Verdict};
use moorline_core::link::poison::Poison;
use moorline_core::link::policy::{Decision, PolicyFault, Question};
use moorline_core::link::quota::Quota;
use moorline_core::link::window::Window;
use moorline_core::link::{DecidedBy, Facts, Input, Link, Next, Output, Record, Remedy, State};
use moorline_core::message::{Downlink, Sequence};
use moorline_core::mqtt_frame::Connack;
use moorline_core::network::Seen;
use moorline_core::spool::dead_letter::{Letter, Reason};
use moorline_core::thingsboard::limits::LIMITS_ANSWER;
use moorline_core::thingsboard::{self, DecodeError, LeftOut, WhyLeftOut};
use moorline_core::time::{Instant, rounded_ms};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::active::{Active, Beginning, Progress, Refusal, Sent};
use super::boot_marker::BootMarker;
use super::certificate::CertificateEnd;
use super::dialer::{DialError, DialFailure, Dialers, Dialled, PhaseTimes};
use super::door::{Arrival, Door, Receipt};
use super::feeder::{Batch, Order};
use super::limits::PlatformLimits;
use super::session::Received;
use super::settings::LinkSettings;
use super::status::{LinkStatus, UpRecord};
use super::{LinkCommand, Reconfiguration, observe};
use crate::clock::Clock;
use crate::log_gate::LogGate;
use crate::policy_handle::PolicyHandle;
use crate::spool::SpoolStatus;

type Dialling = Pin<Box<dyn Future<Output = Result<Dialled, DialFailure>> + Send>>;
type Knocking = Pin<Box<dyn Future<Output = bool> + Send>>;
type Consulting = Pin<Box<dyn Future<Output = Result<Decision, PolicyFault>> + Send>>;

/// Lines in a row about messages that are dropped or set aside; the other side decides how many there are.
const LINES_BURST: u32 = 20;
/// After that, one line per this long.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
/// Characters of the peer's that a line repeats.
const WORDS_MAX: usize = 128;
/// Below this not even our SUBSCRIBE fits: the session is about to end, and no reading may be given up for it.
const PACKET_BYTES_MIN: usize = 128;
/// Messages from the broker that wait for room in the inbox. A broker that speaks MQTT 5.0 sends no more than its Receive
/// Maximum unacknowledged.
const HELD_MAX: usize = 1024;

mod flow;

/// What the driver is doing about the broker.
enum Work {
    Idle,
    Dialling {
        version: MqttVersion,
        target: Target,
        dialling: Dialling,
    },
    Session(Box<Active>),
}

/// What came of it.
enum Happened {
    Dialled(MqttVersion, Result<Dialled, DialFailure>),
    Progress(Box<Progress>),
}

/// The ends of the channels the driver holds.
pub(super) struct Ends {
    pub(super) commands: mpsc::Receiver<LinkCommand>,
    pub(super) status: watch::Sender<LinkStatus>,
    pub(super) door: Door,
    pub(super) orders: watch::Sender<Order>,
    pub(super) batches: mpsc::Receiver<Batch>,
    pub(super) letters: mpsc::Sender<Letter>,
    pub(super) spool: watch::Receiver<SpoolStatus>,
    pub(super) network: watch::Receiver<Seen>,
}

/// The one owner of the link.
pub(super) struct Driver {
    settings: Arc<LinkSettings>,
    clock: Clock,
    dialers: Dialers,
    policy: PolicyHandle,
    ends: Ends,
    link: Link,
    classifier: Classifier,
    poison: Poison,
    packet_size: PacketSize,
    quota: Quota,
    limits: PlatformLimits,
    /// Publishes the sessions have asked for.
    asked: u64,
    /// The Maximum Packet Size of the session.
    offered: Option<u32>,
    refusals: Refusals,
    keep_alive: KeepAlive,
    canary: Option<Canary>,
    window: Window<Sent>,
    work: Work,
    /// Sessions begun, whatever became of them: a receipt is for one of them.
    begun: u64,
    /// Messages from the broker that found no room. They outlast their session: the broker may not send them again.
    held: VecDeque<Arrival>,
    knocking: Option<Knocking>,
    consulting: Option<Consulting>,
    /// A stop was asked for.
    stopping: bool,
    /// When it no longer waits for what is in flight.
    drain_until: Option<Instant>,
    /// Where the last dial went and how long it took.
    dialled: Option<(SocketAddr, PhaseTimes)>,
    /// Of the peer's certificates, on the last connection.
    certificate_end: Option<CertificateEnd>,
    /// When the last session ended, or the process started, and the attempts made by then.
    lost: (Instant, u64),
    /// Messages after the cursor that are left out and counted: a new session meets them again.
    left_out_counted: BTreeSet<Sequence>,
    /// Whether this machine runs us.
    host: HostWatch,
    /// How often the way to the broker had been upset, and had come back, when it was last looked at.
    network: (u64, u64),
    /// Lines about messages from the platform that go nowhere.
    dropped: LogGate,
    /// Lines about messages the platform does not take.
    set_aside: LogGate,
}

impl Driver {
    pub(super) fn new(
        settings: LinkSettings,
        dialers: Dialers,
        policy: PolicyHandle,
        ends: Ends,
        clock: Clock,
    ) -> Self {
        let acked = ends.orders.borrow().acked;
        let seed = RandomState::new().hash_one(std::process::id());
        let mut link = Link::new(settings.limits(), seed);
        link.use_endpoints(settings.endpoints());
        let limits = PlatformLimits::new(&settings);
        let quota = Quota::new(settings.rate_limit_percent);
        Self {
            link,
            classifier: Classifier::for_floor(settings.pace.floor),
            poison: Poison::default(),
            packet_size: PacketSize::default(),
            quota,
            limits,
            asked: 0,
            offered: None,
            refusals: Refusals::default(),
            keep_alive: keep_alive(&settings),
            canary: canary(&settings),
            window: Window::new(settings.inflight_max, settings.inflight_bytes_max, acked),
            settings: Arc::new(settings),
            clock,
            dialers,
            policy,
            ends,
            work: Work::Idle,
            begun: 0,
            held: VecDeque::new(),
            knocking: None,
            consulting: None,
            stopping: false,
            drain_until: None,
            dialled: None,
            certificate_end: None,
            lost: (clock.now(), 0),
            left_out_counted: BTreeSet::new(),
            host: HostWatch::default(),
            network: (0, 0),
            dropped: LogGate::new(clock.now(), LINES_BURST, LINE_INTERVAL),
            set_aside: LogGate::new(clock.now(), LINES_BURST, LINE_INTERVAL),
        }
    }

    pub(super) async fn run(mut self) {
        let (marker, unclean) = BootMarker::lay(&self.settings.state_directory);
        if unclean {
            self.tell_restart();
        }
        self.apply_limits();
        self.input(Input::Start);
        while !(self.stopping && *self.link.state() == State::Stopped) {
            self.turn().await;
        }
        marker.remove();
    }

    async fn turn(&mut self) {
        let deadline = self.deadline();
        tokio::select! {
            command = self.ends.commands.recv(), if !self.stopping => self.command(command),
            happened = happens(&mut self.work, &mut self.window, &mut self.quota, &mut self.ends.batches, &mut self.host) => match happened {
                Happened::Dialled(version, result) => self.dialled(version, result),
                Happened::Progress(progress) => self.progress(*progress),
            },
            is_there = answer(&mut self.knocking) => {
                self.knocking = None;
                self.input(Input::Knocked(is_there));
            }
            advice = answer(&mut self.consulting) => {
                self.consulting = None;
                self.input(Input::Decided(advice));
            }
            Some(receipt) = self.ends.door.receipts.recv() => self.acknowledge(receipt),
            true = has_room(&self.ends.door.arrivals), if !self.held.is_empty() => self.hand_in_held(),
            Ok(()) = self.ends.network.changed() => self.network_changed(),
            () = sleep_until(self.clock, deadline) => self.time(),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.link
            .poll_timeout()
            .map(|(at, _why)| at)
            .into_iter()
            .chain(self.drain_until)
            .chain(self.limits.asking.hold_until())
            .min()
    }

    fn time(&mut self) {
        let now = self.clock.now();
        self.link.handle_timeout(now);
        self.drain();
        self.stop_waiting_for_limits(now);
        if self.drain_until.is_some_and(|until| until <= now) {
            self.stop_now();
        }
    }

    fn network_changed(&mut self) {
        let seen = self.ends.network.borrow_and_update();
        let now = (seen.upsets, seen.returns);
        drop(seen);
        let (upsets, returns) = std::mem::replace(&mut self.network, now);
        if now != (upsets, returns) {
            self.keep_alive.another_way();
        }
        // No change of the network ends a session, but it is worth a question whether the peer still hears us.
        if now.0 != upsets
            && let Work::Session(active) = &self.work
        {
            active.probe();
        }
        if now.1 != returns {
            self.input(Input::NetworkUp);
        }
    }

    fn command(&mut self, command: Option<LinkCommand>) {
        match command {
            Some(LinkCommand::Unpark) => self.input(Input::Unpark),
            Some(LinkCommand::Reconfigure(new)) => {
                let Reconfiguration { settings, dialers } = *new;
                self.dialers = dialers;
                let limits = settings.limits();
                self.link.use_endpoints(settings.endpoints());
                self.classifier.set_floor(limits.floor);
                self.keep_alive = keep_alive(&settings);
                self.packet_size = PacketSize::default();
                self.count(|status| status.publish_bytes_max = None);
                if self.settings.canary != settings.canary {
                    self.canary = canary(&settings);
                }
                let before = Arc::clone(&self.settings);
                self.count(|status| status.client_id = settings.client_id.as_str().into());
                self.settings = Arc::new(settings);
                self.reconfigure_limits(&before);
                self.input(Input::Reconfigured(limits));
            }
            Some(LinkCommand::Stop { grace }) => self.stop(grace),
            // Nobody holds the link any more.
            None => self.stop(Duration::ZERO),
        }
    }

    fn stop(&mut self, grace: Duration) {
        self.stopping = true;
        self.order(|order| order.running = false);
        match &mut self.work {
            Work::Session(active) if !self.window.is_empty() => {
                active.drain();
                self.drain_until = Some(self.clock.now() + grace);
            }
            Work::Session(_) | Work::Idle | Work::Dialling { .. } => self.stop_now(),
        }
    }

    fn stop_now(&mut self) {
        self.drain_until = None;
        self.input(Input::Stop(Intent::Shutdown));
    }

    /// One input, one drain.
    fn input(&mut self, input: Input) {
        let spool_depth = self.ends.spool.borrow().depth_readings;
        self.link.note(Facts {
            spool_depth,
            network: self.ends.network.borrow().verdict,
            metered: self.settings.metered,
            // Only then a policy is asked.
            local_time: if matches!(input, Input::Ended(_)) {
                self.clock.local()
            } else {
                None
            },
        });
        self.link.handle(self.clock.now(), input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.link.poll_output() {
            match output {
                Output::Open {
                    version,
                    attempt,
                    endpoint,
                } => self.open(version, attempt, endpoint),
                Output::Close(intent) => self.close(intent),
                Output::Redial => self.redial(),
                Output::Knock { after, endpoint } => self.knock(after, &endpoint),
                Output::Consult(question) => self.consult(*question),
                Output::Report(record) => self.report(*record),
            }
        }
        if !matches!(self.link.state(), State::Doubting { .. }) {
            self.knocking = None;
        }
        if !matches!(self.link.state(), State::Consulting { .. }) {
            self.consulting = None;
        }
        self.tell_state();
    }

    fn open(&mut self, version: MqttVersion, attempt: u32, target: Target) {
        let endpoint = &*self.link.endpoint();
        let via = self.settings.proxy.as_ref().map(ToString::to_string);
        info!(endpoint, via, %version, attempt, "connecting");
        self.dial(version, target);
    }

    fn redial(&mut self) {
        // Once CONNECT is out, a second one would look like another client of our name.
        if let Work::Dialling {
            version, target, ..
        } = &self.work
        {
            let (version, target) = (*version, target.clone());
            let endpoint = &*self.link.endpoint();
            info!(endpoint, "connecting anew: the network is back");
            self.dial(version, target);
        }
    }

    fn knock(&mut self, after: Duration, target: &Target) {
        let dialer = self.dialers.to(target);
        self.knocking = Some(Box::pin(async move {
            tokio::time::sleep(after).await;
            match dialer {
                Some(dialer) => dialer.knock().await,
                None => false,
            }
        }));
    }

    fn dial(&mut self, version: MqttVersion, target: Target) {
        let endpoint = self.link.endpoint();
        let dialer = self.dialers.to(&target);
        let dialling: Dialling = Box::pin(async move {
            match dialer {
                Some(dialer) => dialer.dial().await,
                None => Err(DialFailure {
                    phase: Phase::Dns,
                    error: DialError::Unresolved,
                    detail: format!("no way is configured to {endpoint}"),
                }),
            }
        });
        self.work = Work::Dialling {
            version,
            target,
            dialling,
        };
    }

    fn close(&mut self, intent: Intent) {
        match &mut self.work {
            Work::Session(active) => active.close(intent),
            Work::Dialling { version, .. } => {
                let observation = Observation {
                    phase: Phase::Tcp,
                    version: *version,
                    observed: Observed::Local(intent),
                    evidence: Evidence::default(),
                    suspect: None,
                };
                self.over(observation);
            }
            Work::Idle => {}
        }
    }

    fn consult(&mut self, question: Question) {
        let policy = self.policy.clone();
        self.consulting = Some(Box::pin(async move { policy.consult(question).await }));
    }

    fn dialled(&mut self, version: MqttVersion, result: Result<Dialled, DialFailure>) {
        match result {
            Ok(dialled) => {
                let took = dialled.took;
                info!(peer = %dialled.peer, dns_ms = rounded_ms(took.dns), tcp_ms = rounded_ms(took.tcp), proxy_ms = rounded_ms(took.proxy), tls_ms = rounded_ms(took.tls), websocket_ms = rounded_ms(took.websocket), "connected");
                self.dialled = Some((dialled.peer, took));
                self.certificate_end = dialled.certificate_end;
                let beginning = Beginning {
                    version,
                    settings: Arc::clone(&self.settings),
                    keep_alive: self.keep_alive.ask(),
                    refusals: self.refusals,
                    careful: self.poison.careful_through().is_some(),
                    canary: self.canary.clone(),
                    ask_limits: self.limits.asking.asks(),
                    inflight_max: self.limits.inflight_max(&self.settings),
                };
                self.begun += 1;
                let active = Active::open(dialled, beginning, self.clock);
                self.work = Work::Session(Box::new(active));
            }
            Err(failure) => self.over(observe::dial_failure(version, failure)),
        }
    }

    fn progress(&mut self, progress: Progress) {
        if let Some(connack) = progress.up {
            self.up(&connack);
        }
        if progress.delivered_publishes > 0 {
            self.input(Input::Acknowledged);
        }
        self.follow_quota(progress.asks);
        let limit_per_s = self.quota.limit_per_s();
        let (liveness, held) = match &self.work {
            Work::Session(active) => (Some(active.liveness()), active.held()),
            Work::Idle | Work::Dialling { .. } => (None, None),
        };
        self.count(|status| {
            status.liveness = liveness.or(status.liveness);
            status.held = held;
            status.publish_limit_per_s = limit_per_s;
            status.delivered_publishes += progress.delivered_publishes;
            status.delivered_readings += progress.delivered_readings;
        });
        for refusal in progress.refused {
            self.refused(refusal);
        }
        // After the letters: what is acknowledged may be forgotten by the spool.
        if let Some(cursor) = progress.cursor {
            self.settled(cursor);
        }
        for received in progress.received {
            self.received(received);
        }
        if let Some(batch) = progress.batch {
            self.batch(batch);
        }
        if let Some(observation) = progress.over {
            self.over(observation);
        } else if self.drain_until.is_some() && self.window.is_empty() {
            self.stop_now();
        }
    }

    fn up(&mut self, connack: &Connack) {
        self.session_limits_begin();
        self.offered = connack.properties.packet_bytes_max;
        let shape = self.shape();
        let packet_bytes_max = shape.packed_bytes_max;
        let learnt = self.packet_size.bytes_max(&self.link.endpoint());
        self.count(|status| status.publish_bytes_max = learnt);
        info!(
            version = %self.link.version(),
            session = session_words(&self.settings, connack.session_present),
            receive_maximum = connack.properties.receive_maximum,
            packet_bytes_max,
            "the link is up"
        );
        self.warn_of_end();
        self.input(Input::Opened);
        self.tell_up(connack.session_present);
        if self.limits.asking.hold_until().is_none() {
            self.begin_feeding();
        }
    }

    fn warn_of_end(&self) {
        let now = self.clock.wall();
        if let Some(end) = self.certificate_end.filter(|end| end.is_near(now)) {
            let endpoint = &*self.link.endpoint();
            let words = end.words(now);
            warn!(
                endpoint,
                "the broker's certificate {words}: renew it there, or the link will be refused"
            );
        }
    }

    fn tell_up(&mut self, session_present: bool) {
        let (since, attempts_before) = self.lost;
        let counters = self.link.counters();
        let record = UpRecord {
            session: counters.sessions,
            at: self.clock.wall(),
            since: self.clock.now(),
            endpoint: self.link.endpoint(),
            via: self.settings.proxy.as_ref().map(ToString::to_string),
            peer: self.dialled.map(|(peer, _)| peer),
            took: self.dialled.map(|(_, took)| took).unwrap_or_default(),
            certificate_end: self.certificate_end,
            version: self.link.version(),
            session_present,
            session_wanted: !self.settings.clean_start(),
            down: self.clock.now().saturating_since(since),
            attempts: counters.attempts - attempts_before,
        };
        self.ends
            .status
            .send_modify(|status| status.last_up = Some(Arc::new(record)));
    }

    fn batch(&mut self, batch: Batch) {
        if batch.generation != self.ends.orders.borrow().generation {
            return;
        }
        for left_out in batch.left_out {
            if self.left_out_counted.insert(left_out.sequence) {
                self.left_out(left_out);
            }
        }
        if let Work::Session(active) = &mut self.work {
            active.queue(batch.publishes);
        }
    }

    /// Everything through `cursor` is acknowledged.
    fn settled(&mut self, cursor: Sequence) {
        self.order(|order| order.acked = cursor);
        if !self.left_out_counted.is_empty() {
            self.left_out_counted = self.left_out_counted.split_off(&Sequence(cursor.0 + 1));
        }
        if self.poison.settled(cursor) {
            info!("messages go many at a time again");
            self.order(|order| order.careful_through = None);
            if let Work::Session(active) = &mut self.work {
                active.be_usual(&mut self.window);
            }
        }
    }

    fn refused(&mut self, refusal: Refusal) {
        let Refusal {
            code,
            first,
            readings,
            sent,
        } = refusal;
        let reason = Reason::Refused { code };
        self.dead_letter(reason, first, readings);
        // An announcement is made anew in each session: it is no message that could be lost.
        if let (Some(sequence), Some(sent)) = (first, sent) {
            self.keep(reason, sequence, readings, sent.topic, &sent.payload);
        }
    }

    fn left_out(&mut self, left_out: LeftOut) {
        let reason = match left_out.why {
            WhyLeftOut::TooLarge { bytes } => Reason::TooLarge {
                bytes: bytes as u64,
            },
            WhyLeftOut::Topic => Reason::Topic,
            WhyLeftOut::SetAside => Reason::Poison {
                sessions: self.poison.guilty().map_or(0, |guilty| guilty.sessions),
            },
        };
        self.dead_letter(reason, Some(left_out.sequence), left_out.readings());
        for publish in left_out.publishes {
            let (topic, readings) = (publish.topic, publish.readings);
            self.keep(reason, left_out.sequence, readings, topic, &publish.payload);
        }
    }

    /// Hands a dead letter to the spool, ahead of the acknowledgement that lets it forget the message.
    fn keep(
        &mut self,
        reason: Reason,
        sequence: Sequence,
        readings: u32,
        topic: &str,
        payload: &[u8],
    ) {
        let letter = Letter {
            at_ms: self.clock.wall(),
            reason,
            sequence,
            readings,
            topic: topic.to_owned(),
            payload: String::from_utf8_lossy(payload).into_owned(),
        };
        if self.ends.letters.try_send(letter).is_err() {
            warn!(
                sequence = sequence.0,
                readings,
                "what a dead letter says is lost: more come than the disk takes; its readings are counted"
            );
        }
    }

    fn dead_letter(&mut self, reason: Reason, sequence: Option<Sequence>, readings: u32) {
        if let Some(more) = self.set_aside.admit(self.clock.now()) {
            warn!(
                sequence = sequence.map(|sequence| sequence.0),
                readings, more, "a message is set aside: {reason}"
            );
        }
        self.count(|status| {
            status.dead_letters += 1;
            status.dead_letter_readings += u64::from(readings);
            status.last_dead_letter = Some(reason);
        });
        self.order(|order| order.set_aside_readings += u64::from(readings));
    }

    fn received(&mut self, received: Received) {
        let topic = String::from_utf8_lossy(&received.topic);
        let session = self.begun;
        let receipt = received.due.map(|due| Receipt { session, due });
        if topic == LIMITS_ANSWER {
            self.limits_answered(&received.payload);
            if let Some(receipt) = receipt {
                self.acknowledge(receipt);
            }
            return;
        }
        let dropped = match thingsboard::decode(&topic, &received.payload) {
            Err(DecodeError::Echo) => None,
            // It would be carried out again at each reconnect.
            Ok(Downlink::Rpc { .. }) if received.retained => {
                Some("an RPC is for now, and the broker kept this one".into())
            }
            Ok(downlink) if self.held.len() < HELD_MAX => {
                let redelivered = received.redelivered;
                return self.hand_in(Arrival {
                    downlink,
                    redelivered,
                    receipt,
                });
            }
            Ok(_downlink) => Some("too many wait for room in the inbox".to_owned()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(why) = dropped {
            if let Some(more) = self.dropped.admit(self.clock.now()) {
                let topic: String = topic.chars().take(WORDS_MAX).collect();
                let why: String = why.chars().take(WORDS_MAX).collect();
                warn!(topic, why, more, "a message from the platform is dropped");
            }
            self.count(|status| status.downlinks_dropped += 1);
        }
        if let Some(receipt) = receipt {
            self.acknowledge(receipt);
        }
    }

    /// Into the inbox, behind what waits for room there. It is acknowledged when the inbox says so.
    fn hand_in(&mut self, arrival: Arrival) {
        if self.held.is_empty() {
            match self.ends.door.arrivals.try_send(arrival) {
                Ok(()) => {}
                Err(TrySendError::Full(arrival) | TrySendError::Closed(arrival)) => {
                    self.held.push_back(arrival);
                }
            }
        } else {
            self.held.push_back(arrival);
        }
    }

    fn hand_in_held(&mut self) {
        while let Ok(room) = self.ends.door.arrivals.try_reserve() {
            let Some(arrival) = self.held.pop_front() else {
                return;
            };
            room.send(arrival);
        }
    }

    fn acknowledge(&mut self, receipt: Receipt) {
        if let Work::Session(active) = &mut self.work
            && receipt.session == self.begun
        {
            active.acknowledge(receipt.due);
        }
    }

    /// The attempt or session is over: what was in flight goes again from the spool.
    fn over(&mut self, mut observation: Observation) {
        if matches!(self.link.state(), State::Up { .. }) {
            self.lost = (self.clock.now(), self.link.counters().attempts);
        }
        let mut publishes = Publishes {
            in_flight: self.window.largest_bytes(),
            acknowledged: 0,
        };
        if let Work::Session(active) = &self.work {
            publishes.acknowledged = active.largest_acknowledged();
            self.refusals = active.refusals();
            if let Some(canary) = active.canary(&self.settings) {
                self.canary = Some(canary.clone());
            }
        }
        self.work = Work::Idle;
        self.order(|order| order.running = false);
        let in_flight = self.window.in_flight() as u64;
        let newest = self.window.newest();
        self.window.lost();
        self.session_limits_end(&observation.observed);
        self.count(|status| {
            status.duplicates_possible += in_flight;
            status.held = None;
        });
        self.explain(&mut observation.evidence);
        let (broker, bytes_max) = (self.link.endpoint(), self.shape().packed_bytes_max);
        self.packet_size
            .explain(&broker, &mut observation, publishes, bytes_max);
        let mut disconnect = self.classifier.classify(observation);
        if disconnect.cause.remedy() == Remedy::YieldToTakeover {
            disconnect.evidence.client_id = Some(self.settings.client_id.clone());
        }
        // What is left out has been counted, and must be known again by its turn, too.
        let met = newest.max(self.left_out_counted.last().copied());
        self.order(|order| order.sent = order.sent.max(met.unwrap_or_default()));
        match self.packet_size.ended(&broker, &disconnect) {
            Verdict::Innocent => self.look_for_poison(newest),
            Verdict::Suspected => {}
            Verdict::Smaller(bytes_max) => {
                disconnect.smaller_publishes = Some(bytes_max);
                self.count(|status| status.publish_bytes_max = Some(bytes_max));
            }
        }
        self.slow_down(disconnect.cause);
        if let Some(shorter) = self.keep_alive.ended(&disconnect) {
            warn!(
                keep_alive_s = shorter.as_secs(),
                "sessions end at the first word after a silence: something on the way forgets idle connections, so the next \
                 session asks for a shorter keep-alive"
            );
        }
        self.input(Input::Ended(Box::new(disconnect)));
        // A stop that waited for what was in flight has nothing left to wait for.
        if self.drain_until.is_some() {
            self.stop_now();
        }
    }

    /// Who says that we send too much gets less.
    fn slow_down(&mut self, cause: Cause) {
        if matches!(cause, Cause::QuotaExceeded | Cause::MessageRateTooHigh) {
            self.quota.exceeded(self.clock.now());
            let limit_per_s = self.quota.limit_per_s();
            warn!(
                limit_per_s,
                "the broker says that we send too much: half as many publishes as before, and then slowly more"
            );
        }
    }

    /// What became of this machine and its network shortly before.
    fn explain(&mut self, evidence: &mut Evidence) {
        let now = self.clock.now();
        self.host.look(now, self.clock.all());
        evidence.stall = self.host.stall(now);
        evidence.clock_step = self.host.clock_step(now);
        let network = self.ends.network.borrow();
        evidence.without_route = network.without_route(now);
        evidence.network = network.explain(now);
    }

    fn look_for_poison(&mut self, newest: Option<Sequence>) {
        let careful = self.poison.careful_through().is_some();
        if self.poison.ended(self.classifier.suspect(), newest)
            && let Some(guilty) = self.poison.guilty()
        {
            warn!(
                sequence = guilty.sequence.0,
                sessions = guilty.sessions,
                "the broker ends each session right after this message, alone as it was: it will be set aside"
            );
        }
        if !careful && let Some(through) = self.poison.careful_through() {
            warn!(
                through = through.0,
                "sessions keep ending right after the same message: messages go one at a time until the one is found"
            );
        }
    }

    fn tell_restart(&mut self) {
        let observation = Observation {
            phase: Phase::Session,
            version: self.link.version(),
            observed: Observed::HostRestarted,
            evidence: Evidence::default(),
            suspect: None,
        };
        let record = Record {
            disconnect: self.classifier.classify(observation),
            at: self.clock.now(),
            attempt: 0,
            next: Next::Retry(Duration::ZERO),
            decided_by: DecidedBy::Host,
            clamped: false,
            endpoint: self.link.endpoint(),
        };
        self.report(record);
    }

    /// State and record in one step, so that nobody sees a disconnect without what follows from it.
    fn report(&mut self, record: Record) {
        let at = self.clock.wall();
        let via = self.settings.proxy.as_ref().map(ToString::to_string);
        let Self { link, ends, .. } = self;
        ends.status.send_modify(|status| {
            status.follow(link);
            status.keep(record, via, at);
        });
    }

    fn tell_state(&mut self) {
        let Self { link, ends, .. } = self;
        ends.status.send_if_modified(|status| status.follow(link));
    }

    fn count(&mut self, change: impl FnOnce(&mut LinkStatus)) {
        self.ends.status.send_if_modified(|status| {
            change(status);
            false
        });
    }

    fn order(&mut self, change: impl FnOnce(&mut Order)) {
        self.ends.orders.send_modify(change);
    }
}

/// What became of what the broker knew of us.
const fn session_words(settings: &LinkSettings, present: bool) -> &'static str {
    match (settings.clean_start(), present) {
        (true, _) => "new, as asked",
        (false, true) => "the broker kept it",
        (false, false) => "the broker did not keep it",
    }
}

fn keep_alive(settings: &LinkSettings) -> KeepAlive {
    KeepAlive::new(settings.keep_alive, settings.keep_alive_min)
}

fn canary(settings: &LinkSettings) -> Option<Canary> {
    let wanted = settings.canary.as_ref()?;
    let tag = RandomState::new().hash_one(&wanted.topic);
    Some(Canary::new(wanted.timing, tag))
}

async fn happens(
    work: &mut Work,
    window: &mut Window<Sent>,
    quota: &mut Quota,
    batches: &mut mpsc::Receiver<Batch>,
    host: &mut HostWatch,
) -> Happened {
    match work {
        Work::Idle => std::future::pending().await,
        Work::Dialling {
            version, dialling, ..
        } => Happened::Dialled(*version, dialling.await),
        Work::Session(active) => {
            Happened::Progress(Box::new(active.step(window, quota, batches, host).await))
        }
    }
}

/// False when nobody takes anything any more.
async fn has_room(arrivals: &mpsc::Sender<Arrival>) -> bool {
    arrivals.reserve().await.is_ok()
}

/// What was asked, once it is answered.
async fn answer<F: Future + Unpin>(asked: &mut Option<F>) -> F::Output {
    match asked {
        Some(asked) => asked.await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(clock: Clock, at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(clock.deadline(at)).await,
        None => std::future::pending().await,
    }
}
