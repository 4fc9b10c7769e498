//! The driver: carries out what the link machine says, as the runtime does.

use std::time::Duration;

use moorline_core::link::cause::{Evidence, Intent, MqttVersion, Phase};
use moorline_core::link::classify::{Observation, Observed};
use moorline_core::link::policy::{Decision, Network, PolicyFault, Question};
use moorline_core::link::{DecidedBy, Facts, Input, Next, Output, Record, State};
use moorline_core::spool::Totals;
use moorline_core::time::Instant;

use super::{Event, World};
use crate::host::{Host, Work};

const CLOSE_GRACE: Duration = Duration::from_secs(1);

impl World {
    pub(super) fn boot(&mut self) {
        self.lives += 1;
        for ledger in &mut self.ledgers {
            ledger.begin_life();
        }
        let streams = self.open_streams();
        let host = Host::new(
            self.lives,
            self.now,
            streams,
            self.terms.link,
            self.terms.inflight_max,
            self.terms.inflight_bytes_max,
            self.seed ^ self.lives,
        );
        self.host = Some(host);
        for (stream, before) in std::mem::take(&mut self.closed).into_iter().enumerate() {
            self.follow_eviction(stream, &before, Totals::default());
        }
        self.note("host", format!("life {} begins", self.lives));
        if std::mem::take(&mut self.unclean) {
            self.tell_restart();
        }
        self.arm();
        self.input(Input::Start);
    }

    fn tell_restart(&mut self) {
        let Some(host) = self.host.as_mut() else {
            return;
        };
        let disconnect = host.classifier.classify(Observation {
            phase: Phase::Session,
            version: host.link.version(),
            observed: Observed::HostRestarted,
            evidence: Evidence::default(),
            suspect: None,
        });
        let record = Record {
            disconnect,
            at: self.now,
            attempt: 0,
            next: Next::Retry(Duration::ZERO),
            decided_by: DecidedBy::Host,
            clamped: false,
            endpoint: host.link.endpoint(),
        };
        self.check_cause(&record);
    }

    /// One input, one drain.
    pub(super) fn input(&mut self, input: Input) {
        let (now, network) = (self.now, self.kernel_says());
        let Some(host) = self.host.as_mut() else {
            return;
        };
        host.link.note(Facts {
            spool_depth: host
                .streams
                .spools()
                .map(|(_, spool)| spool.status().depth_readings)
                .sum(),
            network,
            ..Facts::NOTHING
        });
        host.link.handle(now, input);
        self.drain();
    }

    fn kernel_says(&self) -> Network {
        if self.now < self.network.no_route_until {
            Network::Down
        } else {
            Network::Up
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.host.as_mut().and_then(|host| host.link.poll_output()) {
            match output {
                Output::Open {
                    version, attempt, ..
                } => self.open(version, attempt),
                Output::Close(intent) => self.close(intent),
                // What becomes of a dial here is decided when it begins.
                Output::Redial => {}
                Output::Knock { after, .. } => {
                    let took = self.one_way() * 2;
                    self.after(after + took, Event::Knocked(self.lives));
                }
                Output::Consult(question) => self.consult(&question),
                Output::Report(record) => self.report(&record),
            }
        }
    }

    fn open(&mut self, version: MqttVersion, attempt: u32) {
        self.check_pace();
        let now = self.now;
        let faults = &mut self.network.dial_faults;
        faults.retain(|fault| now < fault.until);
        let slow = self.network.broker_lost_until > now || self.network.black_hole_until > now;
        let fails_late = faults
            .first()
            .is_some_and(|fault| fault.observed == Observed::Timeout);
        let at_once = self.network.no_route_until > now;
        let took = if (slow || fails_late) && !at_once {
            self.terms.liveness.connect
        } else {
            self.one_way() * 2
        };
        self.note("link", format!("opens {version}, attempt {attempt}"));
        let Some(host) = self.host.as_mut() else {
            return;
        };
        host.tally.opens += 1;
        let attempt = host.life * 1_000_000 + host.tally.opens;
        host.work = Work::Dialling { attempt, version };
        self.after(took, Event::Dialled(attempt));
    }

    pub(super) fn dialled(&mut self, attempt: u64) {
        let Some(version) = self.host.as_ref().and_then(|host| match host.work {
            Work::Dialling {
                attempt: current,
                version,
            } if current == attempt => Some(version),
            Work::Dialling { .. } | Work::Idle | Work::Session(_) => None,
        }) else {
            return;
        };
        let now = self.now;
        let fault = self
            .network
            .dial_faults
            .first()
            .filter(|fault| now < fault.until)
            .map(|fault| (fault.phase, fault.observed));
        let failed = if self.network.no_route_until > now {
            Some((Phase::Tcp, Observed::Errno(101)))
        } else if let Some(fault) = fault {
            Some(fault)
        } else if self.network.broker_lost_until > now || self.network.black_hole_until > now {
            Some((Phase::Tcp, Observed::Timeout))
        } else if self.network.broker_down_until > now {
            Some((Phase::Tcp, Observed::Errno(111)))
        } else {
            None
        };
        match failed {
            Some((phase, observed)) => self.over(Observation {
                phase,
                version,
                observed,
                evidence: Evidence {
                    detail: Some("the dialer's words".into()),
                    ..Evidence::default()
                },
                suspect: None,
            }),
            None => self.begin_session(version),
        }
    }

    fn close(&mut self, intent: Intent) {
        let now = self.now;
        let Some(host) = self.host.as_mut() else {
            return;
        };
        let dialling = match &host.work {
            Work::Dialling { version, .. } => Some(*version),
            Work::Session(_) => None,
            Work::Idle => self.fail("a close without an attempt or a session"),
        };
        if let Some(version) = dialling {
            self.over(Observation {
                phase: Phase::Tcp,
                version,
                observed: Observed::Local(intent),
                evidence: Evidence::default(),
                suspect: None,
            });
            return;
        }
        let sent = self.say_goodbye();
        if let Some(Work::Session(session)) = self.host.as_mut().map(|host| &mut host.work) {
            let grace = if sent { CLOSE_GRACE } else { Duration::ZERO };
            session.closing = Some((intent, now + grace));
        }
    }

    fn consult(&mut self, question: &Question) {
        let answer = self.policy.answer(question, &mut self.plan);
        let Some(host) = self.host.as_mut() else {
            return;
        };
        host.question += 1;
        let (life, number) = (host.life, host.question);
        if let Some((delay, advice)) = answer {
            self.after(delay, Event::Advice(life, number, advice));
        }
    }

    /// The driver drops a knock when the link no longer waits for it.
    pub(super) fn knocked(&mut self, life: u64) {
        let waits = self.host.as_ref().is_some_and(|host| {
            host.life == life && matches!(host.link.state(), State::Doubting { .. })
        });
        let now = self.now;
        let gone = self.network.broker_lost_until > now
            || self.network.black_hole_until > now
            || self.network.no_route_until > now
            || self
                .network
                .dial_faults
                .iter()
                .any(|fault| now < fault.until);
        if waits {
            self.input(Input::Knocked(!gone));
        }
    }

    /// The driver drops a consultation when the link no longer waits for it.
    pub(super) fn advised(
        &mut self,
        life: u64,
        question: u64,
        advice: Result<Decision, PolicyFault>,
    ) {
        let waits = self.host.as_ref().is_some_and(|host| {
            host.life == life
                && host.question == question
                && matches!(host.link.state(), State::Consulting { .. })
        });
        if waits {
            self.input(Input::Decided(advice));
        }
    }

    fn report(&mut self, record: &Record) {
        self.note(
            "link",
            format!(
                "{} → {:?} by {:?}{}",
                record.disconnect,
                record.next,
                record.decided_by,
                if record.clamped { ", clamped" } else { "" }
            ),
        );
        self.check_report(record);
    }

    /// The attempt or session is over: what was in flight goes again from the spool.
    pub(super) fn over(&mut self, observation: Observation) {
        let now = self.now;
        let Some(host) = self.host.as_mut() else {
            return;
        };
        let expected = matches!(
            host.link.state(),
            State::Opening { .. } | State::Up { .. } | State::Closing { .. }
        );
        if !expected {
            let state = host.link.state().clone();
            self.fail(&format!("an end in {state:?}"));
        }
        if let Work::Session(session) = std::mem::replace(&mut host.work, Work::Idle) {
            self.network.close_client(session.connection);
        }
        host.tally.ends += 1;
        host.pace.last_end = Some(now);
        host.pace.was_stable = observation
            .evidence
            .session
            .is_some_and(|session| session >= self.terms.link.stable_after);
        host.queue.clear();
        host.order.running = false;
        let sent = host.window.newest().max(Some(host.left_out));
        host.order.sent = host.order.sent.max(sent.unwrap_or_default());
        host.window.lost();
        let disconnect = host.classifier.classify(observation);
        self.input(Input::Ended(Box::new(disconnect)));
        self.feed_soon();
    }

    pub(super) fn network_up(&mut self) {
        self.input(Input::NetworkUp);
    }

    pub(super) fn unpark(&mut self) {
        let Some(host) = self.host.as_mut() else {
            return;
        };
        if matches!(
            host.link.state(),
            State::Parked { .. } | State::Waiting { .. }
        ) {
            host.pace.excused = true;
            self.cover("operator unparks");
            self.input(Input::Unpark);
        }
    }

    /// When the host next has something to do without being told.
    pub(super) fn host_deadline(&self) -> Option<Instant> {
        let host = self.host.as_ref()?;
        let link = host.link.poll_timeout().map(|(at, _why)| at);
        let session = self.session_deadline();
        let all = [link, session, host.commit_at, host.prepare_at, host.read_at];
        let first = all.into_iter().flatten().chain([host.cursor_sync_at]).min();
        first.map(|at| at.max(host.frozen_until))
    }

    pub(super) fn host_time(&mut self) {
        let now = self.now;
        self.store_time();
        if let Some(host) = self.host.as_mut() {
            host.link.handle_timeout(now);
        }
        self.drain();
        self.session_time();
    }
}
