//! Everything that exists in one run, and the clock that moves it.

mod checks;
mod faults;
mod link;
mod produce;
mod serve;
mod session;
mod store;
mod watch;

use std::collections::BTreeMap;
use std::time::Duration;

use moorline_core::link::Versions;
use moorline_core::link::cause::CauseClass;
use moorline_core::link::policy::{Decision, PolicyFault};
use moorline_core::spool::sim_storage::SimStorage;
use moorline_core::time::Instant;

use crate::broker::Broker;
use crate::dice::Dice;
use crate::excuses::Excuses;
use crate::host::Host;
use crate::ledger::Ledger;
use crate::network::Network;
use crate::policy::{POLICIES, Policy};
use crate::terms::{Terms, newest_first, terms};
use crate::{DiskWork, Outcome};
use store::Figures;

/// After the faults this is how long it may take until everything is delivered: the longest pace there is, and the
/// time to send.
const CONVERGE_WITHIN: Duration = Duration::from_secs(900);
/// After that nothing may happen for so long but keep-alives and new readings.
const CALM: Duration = Duration::from_secs(200);
/// More steps than any seed needs: something spins.
const STEPS_MAX: u64 = 2_000_000;

#[derive(Debug)]
pub(crate) enum Event {
    /// The next packet on this connection.
    ToBroker(u64),
    ToClient(u64),
    Ack(u64, u16, u8),
    /// The client's end of a connection learns that it is over: this errno, or FIN.
    ClientEnd(u64, Option<i32>),
    /// The broker's end learns it.
    BrokerEnd(u64),
    Unblocked(u64),
    Dialled(u64),
    Knocked(u64),
    Advice(u64, u64, Result<Decision, PolicyFault>),
    Feed(u64),
    KeepAlive(u64),
    Takeover(u64),
    Produce(usize),
    NextFault,
    /// The host's machine is up again.
    Boot,
    NetworkUp,
    Unpark,
    OnlyVersionEnds,
    DiskHeals,
    SlowEnds,
}

pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) now: Instant,
    events: BTreeMap<(Instant, u64), Event>,
    event_count: u64,
    pub(crate) terms: Terms,
    pub(crate) dice: Dice,
    pub(crate) latency: Dice,
    pub(crate) plan: Dice,
    /// One for each stream.
    pub(crate) disks: Vec<SimStorage>,
    /// Outlive the process but not the power; none, or one for each stream.
    pub(crate) journals: Vec<SimStorage>,
    /// How the streams were left by an orderly end.
    pub(crate) closed: Vec<Figures>,
    pub(crate) host: Option<Host>,
    pub(crate) lives: u64,
    pub(crate) unclean: bool,
    pub(crate) network: Network,
    pub(crate) broker: Broker,
    pub(crate) policy: Policy,
    /// One for each stream.
    pub(crate) ledgers: Vec<Ledger>,
    pub(crate) next_number: Vec<u64>,
    pub(crate) excuses: Excuses,
    pub(crate) takeovers_due: u64,
    pub(crate) healed: bool,
    /// Of each stream: records and readings given up before they got a place.
    pub(crate) dropped: Vec<(u64, u64)>,
    /// Records refused or lost with power make the counters of evictions inexact.
    pub(crate) inexact: bool,
    pub(crate) trace: Vec<String>,
    pub(crate) coverage: BTreeMap<String, u64>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed, 1);
        let terms = terms(&mut dice);
        let mut plan = Dice::new(seed, 3);
        let latency = dice.pick(&[(1, 3), (10, 60), (100, 400)]);
        let speaks = dice.pick(&[(true, true), (true, true), (true, false), (false, true)]);
        let (mut v5, mut v311) = speaks;
        // A broker and a gateway with no version in common are an operator's mistake, not a fault that heals.
        v5 |= terms.link.versions == Versions::V5;
        v311 |= terms.link.versions == Versions::V311;
        let broker = Broker {
            v5,
            v311,
            usual: (v5, v311),
            receive_maximum: dice.pick(&[1, 5, 20, 65535]),
            packet_bytes_max: dice.pick(&[600, 2000, 100_000]),
            ways: Vec::new(),
            session: None,
            connacks: 0,
        };
        Self {
            seed,
            now: Instant::ZERO,
            events: BTreeMap::new(),
            event_count: 0,
            ledgers: terms
                .streams
                .iter()
                .map(|stream| {
                    let keeps_order = !newest_first(stream.settings.after_outage);
                    Ledger::new(terms.devices, keeps_order)
                })
                .collect(),
            next_number: vec![0; terms.devices],
            latency: Dice::new(seed, 2),
            policy: plan.pick(&POLICIES),
            plan,
            dice,
            disks: storages(seed, terms.streams.len()),
            journals: storages(
                !seed,
                if terms.journal {
                    terms.streams.len()
                } else {
                    0
                },
            ),
            closed: Vec::new(),
            host: None,
            lives: 0,
            unclean: false,
            network: Network::new(latency),
            broker,
            excuses: Excuses::default(),
            takeovers_due: 0,
            healed: false,
            dropped: vec![(0, 0); terms.streams.len()],
            inexact: false,
            trace: Vec::new(),
            coverage: BTreeMap::new(),
            terms,
        }
    }

    pub(crate) fn run(mut self) -> Outcome {
        self.note(
            "world",
            format!(
                "seed {}: {:?} {:?} {:?}",
                self.seed, self.terms, self.policy, self.broker
            ),
        );
        if !self.broker.v5 || !self.broker.v311 {
            let until = Instant::ZERO + self.terms.fault_phase + CONVERGE_WITHIN;
            self.excuses.allow(&[CauseClass::VersionRefused], until);
        }
        self.boot();
        self.start_producing();
        self.after(Duration::from_secs(3), Event::NextFault);
        let heal_at = Instant::ZERO + self.terms.fault_phase;
        self.run_until(heal_at, |_| false);
        self.heal();
        let deadline = self.now + CONVERGE_WITHIN;
        if !self.run_until(deadline, Self::converged) {
            let statuses: Vec<_> = (0..self.terms.streams.len())
                .map(|stream| self.status(stream))
                .collect();
            let state = self.host.as_ref().map(|host| host.link.state().clone());
            let owed: Vec<_> = self.ledgers.iter().map(Ledger::owed).collect();
            self.fail(&format!(
                "it does not converge: {state:?}, {statuses:?}, owed {owed:?}"
            ));
        }
        self.note("world", "converged");
        self.start_producing();
        let calm_until = self.now + CALM;
        self.run_until(calm_until, |_| false);
        self.stop_producing();
        let settled_until = self.now + Duration::from_secs(60);
        if !self.run_until(settled_until, Self::converged) {
            self.fail("it does not stay converged");
        }
        self.check_at_the_end();
        self.stop_host();
        Outcome {
            virtual_s: self.now.since_start().as_secs(),
            trace: self.trace,
            coverage: self.coverage,
        }
    }

    /// Without faults, over a line that answers within the commit window.
    pub(crate) fn keep_up(mut self) -> (DiskWork, DiskWork, u64) {
        self.terms.journal = true;
        for stream in &mut self.terms.streams {
            stream.limits = stream.limits.in_memory(1 << 20);
        }
        self.terms.inflight_max = 100;
        self.terms.inflight_bytes_max = usize::MAX;
        self.terms.packet_bytes_max = 65_536;
        self.journals = storages(!self.seed, self.terms.streams.len());
        (self.broker.v5, self.broker.v311) = (true, true);
        self.broker.receive_maximum = 100;
        self.broker.packet_bytes_max = 65_536;
        self.network = Network::new((1, 20));
        self.boot();
        self.start_producing();
        self.run_until(Instant::ZERO + Duration::from_secs(60), |_| false);
        let (before, delivered) = (self.disk_work(), self.delivered());
        self.run_until(Instant::ZERO + Duration::from_secs(660), |_| false);
        let (after, delivered) = (self.disk_work(), self.delivered() - delivered);
        self.stop_producing();
        let settled_until = self.now + Duration::from_secs(60);
        if !self.run_until(settled_until, Self::converged) {
            self.fail("it does not converge");
        }
        self.check_at_the_end();
        (before, after, delivered)
    }

    fn disk_work(&self) -> DiskWork {
        DiskWork {
            writes: self.disks.iter().map(SimStorage::writes).sum(),
            syncs: self.disks.iter().map(SimStorage::syncs).sum(),
            files: self.disks.iter().map(|disk| disk.files().len()).sum(),
        }
    }

    fn delivered(&self) -> u64 {
        self.ledgers.iter().map(|ledger| ledger.delivered).sum()
    }

    /// Moves on until `done` or `until`; says whether it was done.
    fn run_until(&mut self, until: Instant, done: fn(&Self) -> bool) -> bool {
        for _ in 0..STEPS_MAX {
            if done(self) {
                return true;
            }
            let event_at = self.events.first_key_value().map(|((at, _), _)| *at);
            let timer_at = self.host_deadline();
            let Some(at) = event_at.into_iter().chain(timer_at).min() else {
                break;
            };
            if at > until {
                break;
            }
            self.now = self.now.max(at);
            if event_at == Some(at)
                && let Some((_, event)) = self.events.pop_first()
            {
                self.happen(event);
            } else {
                self.host_time();
            }
            self.check_always();
        }
        let spinning = self
            .events
            .first_key_value()
            .is_some_and(|((at, _), _)| *at <= until);
        if spinning {
            self.fail("time does not move any more");
        }
        self.now = self.now.max(until);
        done(self)
    }

    fn happen(&mut self, event: Event) {
        if let Some(until) = self.host.as_ref().map(|host| host.frozen_until)
            && self.now < until
            && event.is_for_host()
        {
            self.at(until, event);
            return;
        }
        match event {
            Event::ToBroker(connection) => self.broker_hears(connection),
            Event::ToClient(connection) => self.client_hears(connection),
            Event::Ack(connection, id, code) => self.broker_acks(connection, id, code),
            Event::ClientEnd(connection, errno) => self.client_end(connection, errno),
            Event::BrokerEnd(connection) => self.broker_end(connection),
            Event::Unblocked(connection) => self.unblocked(connection),
            Event::Dialled(attempt) => self.dialled(attempt),
            Event::Knocked(life) => self.knocked(life),
            Event::Advice(life, question, advice) => self.advised(life, question, advice),
            Event::Feed(life) => self.feed(life),
            Event::KeepAlive(connection) => self.broker_keep_alive(connection),
            Event::Takeover(connection) => self.takeover(connection),
            Event::Produce(device) => self.produce(device),
            Event::NextFault => self.next_fault(),
            Event::Boot => self.boot(),
            Event::NetworkUp => self.network_up(),
            Event::Unpark => self.unpark(),
            Event::OnlyVersionEnds => self.restore_versions(),
            Event::DiskHeals => self.disk_heals(),
            Event::SlowEnds => self.network.latency_ms = (5, 40),
        }
    }

    pub(crate) fn after(&mut self, delay: Duration, event: Event) {
        self.at(self.now + delay, event);
    }

    pub(crate) fn at(&mut self, at: Instant, event: Event) {
        self.event_count += 1;
        self.events.insert((at, self.event_count), event);
    }

    fn start_producing(&mut self) {
        for device in 0..self.terms.devices {
            self.after(Duration::from_millis(device as u64), Event::Produce(device));
        }
    }

    pub(crate) fn stop_producing(&mut self) {
        self.events
            .retain(|_, event| !matches!(event, Event::Produce(_)));
    }

    pub(crate) fn one_way(&mut self) -> Duration {
        let (low, high) = self.network.latency_ms;
        self.latency.ms(low, high)
    }

    pub(crate) fn note(&mut self, who: &str, what: impl Into<String>) {
        self.trace
            .push(format!("{:?} {who}: {}", self.now, what.into()));
    }

    pub(crate) fn cover(&mut self, what: impl Into<String>) {
        *self.coverage.entry(what.into()).or_default() += 1;
    }

    /// Ends the run with the seed and the end of the trace.
    pub(crate) fn fail(&self, why: &str) -> ! {
        const SHOWN: usize = 60;
        let from = self.trace.len().saturating_sub(SHOWN);
        panic!(
            "seed {} at {:?}: {why}\n(replay with MOORLINE_SEED={})\n{}\n… {}",
            self.seed,
            self.now,
            self.seed,
            self.trace.first().map_or("", String::as_str),
            self.trace[from..].join("\n")
        );
    }
}

fn storages(seed: u64, count: usize) -> Vec<SimStorage> {
    (0..count as u64)
        .map(|index| SimStorage::new(seed ^ (index << 32), 1 << 24))
        .collect()
}

impl Event {
    const fn is_for_host(&self) -> bool {
        match self {
            Self::ToClient(_)
            | Self::ClientEnd(..)
            | Self::Unblocked(_)
            | Self::Dialled(_)
            | Self::Knocked(_)
            | Self::Advice(..)
            | Self::Feed(_)
            | Self::Produce(_)
            | Self::NetworkUp
            | Self::Unpark => true,
            Self::ToBroker(_)
            | Self::Ack(..)
            | Self::BrokerEnd(_)
            | Self::KeepAlive(_)
            | Self::Takeover(_)
            | Self::NextFault
            | Self::Boot
            | Self::OnlyVersionEnds
            | Self::DiskHeals
            | Self::SlowEnds => false,
        }
    }
}
