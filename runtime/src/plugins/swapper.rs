//! The task that owns the swap machine of every component and does what the machines say.
//!
//! It never waits for a guest, a file or a compiler: those are jobs of their own, whose answers come back as inputs, so
//! that one component's slow swap delays no other's.

mod jobs;
mod record;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use moorline_core::swap::{Build, Digest, Failure, Input, Output, Swap};
use moorline_core::time::Instant;
use moorline_core::trust::{self, Origin};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;
use wasmtime::component::Component;

use super::cache::Cache;
use super::engine::{Engines, Kind};
use super::instance::{Control, Prepared, Trouble};
use super::policy::{self, Figures, PolicyGuest};
use super::settings::Limits;
use super::status::{InstanceStatus, PluginsStatus, SwapRecord};
use crate::clock::Clock;
use crate::trust::{Ledger, Place};
pub(crate) use jobs::read;
use jobs::{Done, Linked, Product, Workshop};

/// Answers of jobs on their way back.
const DONE_QUEUED: usize = 64;
/// How often figures are collected.
const REFRESH: Duration = Duration::from_millis(500);

/// One instance, as the swapper sees it.
pub(crate) struct InstanceHandle {
    pub(crate) name: Arc<str>,
    pub(crate) controls: mpsc::Sender<Control>,
    pub(crate) status: watch::Receiver<InstanceStatus>,
}

/// What a component is swapped in.
pub(crate) enum Target {
    Connector {
        instances: Vec<InstanceHandle>,
        limits: Limits,
    },
    Policy {
        work: mpsc::Sender<policy::Work>,
        figures: watch::Receiver<Figures>,
        configuration: Arc<str>,
    },
}

impl Target {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Connector { .. } => Kind::Connector,
            Self::Policy { .. } => Kind::Policy,
        }
    }
}

/// What has been made of a candidate so far.
enum Stock {
    Nothing,
    Compiled(Component),
    Linked(Linked),
    Connector(Vec<Prepared>),
    Policy(Box<PolicyGuest>),
}

struct Candidate {
    build: Build,
    stock: Stock,
    card: Card,
    origin: Origin,
    began: Instant,
    gap: Duration,
    cached: bool,
}

impl Candidate {
    fn new(build: Build, card: Card, now: Instant) -> Self {
        Self {
            build,
            stock: Stock::Nothing,
            card,
            origin: Origin::default(),
            began: now,
            gap: Duration::ZERO,
            cached: false,
        }
    }
}

/// The name and the version a plugin gives itself.
type Card = (Arc<str>, Arc<str>);

fn nobody() -> Card {
    ("".into(), "".into())
}

/// One component and its machine.
pub(crate) struct Slot {
    name: Arc<str>,
    place: Place,
    path: Arc<Path>,
    target: Target,
    machine: Swap,
    candidate: Option<Candidate>,
    /// Name and version of the active generation, and of the one before it.
    card: Card,
    card_before: Card,
    /// Where they come from.
    origin: Origin,
    origin_before: Origin,
    refused: Option<Arc<(Digest, Failure)>>,
    missing_said: bool,
}

impl Slot {
    pub(crate) fn new(name: Arc<str>, path: &Path, target: Target, machine: Swap) -> Self {
        Self {
            place: Place::of(target.kind(), &name),
            name,
            path: path.into(),
            target,
            machine,
            candidate: None,
            card: nobody(),
            card_before: nobody(),
            origin: Origin::default(),
            origin_before: Origin::default(),
            refused: None,
            missing_said: false,
        }
    }
}

/// What the swapper is told from outside.
pub(crate) enum Order {
    /// Stop all instances; answered when the last one has ended.
    Stop { reply: oneshot::Sender<()> },
}

/// What the swapper works with.
pub(crate) struct Swapper {
    pub(crate) slots: Vec<Slot>,
    pub(crate) engines: Engines,
    pub(crate) cache: Cache,
    pub(crate) trust: Arc<trust::Settings>,
    pub(crate) ledger: Ledger,
    pub(crate) clock: Clock,
    pub(crate) status: watch::Sender<PluginsStatus>,
}

/// A file that may have changed, by its place in the list that is watched.
pub(crate) struct Watched {
    pub(crate) slot: usize,
    /// It is not the component but what the component is judged by.
    pub(crate) of_trust: bool,
}

struct Running {
    swapper: Swapper,
    done: mpsc::Sender<Done>,
    /// Swaps that ended and are not in the status yet. They get there together with what they changed.
    concluded: Vec<SwapRecord>,
}

/// Ends after [`Order::Stop`], or when nobody can order anything any more.
pub(crate) async fn run(
    swapper: Swapper,
    mut orders: mpsc::Receiver<Order>,
    (watched, mut changes): (Vec<Watched>, mpsc::Receiver<usize>),
    mut troubles: mpsc::Receiver<Trouble>,
) {
    let (done, mut answers) = mpsc::channel(DONE_QUEUED);
    let mut running = Running {
        swapper,
        done,
        concluded: Vec::new(),
    };
    let clock = running.swapper.clock;
    let mut refresh = tokio::time::interval(REFRESH);
    refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for slot in 0..running.swapper.slots.len() {
        running.input(slot, Input::Start);
    }
    loop {
        let timeout = running.next_timeout();
        tokio::select! {
            order = orders.recv() => {
                running.stop_instances().await;
                match order {
                    Some(Order::Stop { reply }) => match reply.send(()) {
                        // The gateway did not wait.
                        Ok(()) | Err(()) => return,
                    },
                    None => return,
                }
            }
            Some(changed) = changes.recv() => match watched.get(changed) {
                Some(Watched { slot, of_trust: true }) => running.input(*slot, Input::TrustChanged),
                Some(Watched { slot, of_trust: false }) => running.input(*slot, Input::FileChanged),
                None => {}
            },
            Some(Done { slot, build, input, product }) = answers.recv() => {
                running.take(slot, build, product);
                running.input(slot, input);
            }
            Some(Trouble { slot, generation, failure }) = troubles.recv() => {
                running.input(slot, Input::Troubled(generation, failure));
            }
            _ = refresh.tick() => running.collect(),
            () = sleep_until(clock, timeout) => running.time_passes(),
        }
        running.publish();
    }
}

async fn sleep_until(clock: Clock, at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(clock.deadline(at)).await,
        None => std::future::pending().await,
    }
}

fn spawn(done: &mpsc::Sender<Done>, job: impl Future<Output = Option<Done>> + Send + 'static) {
    let done = done.clone();
    tokio::spawn(async move {
        if let Some(answer) = job.await {
            match done.send(answer).await {
                // The swapper has ended.
                Ok(()) | Err(_) => {}
            }
        }
    });
}

impl Running {
    fn next_timeout(&self) -> Option<Instant> {
        self.swapper
            .slots
            .iter()
            .filter_map(|slot| slot.machine.poll_timeout())
            .map(|(at, _why)| at)
            .min()
    }

    fn input(&mut self, slot: usize, input: Input) {
        let now = self.swapper.clock.now();
        if let Some(found) = self.swapper.slots.get_mut(slot) {
            found.machine.handle(now, input);
            self.drain(slot);
        }
    }

    fn time_passes(&mut self) {
        let now = self.swapper.clock.now();
        for slot in 0..self.swapper.slots.len() {
            if let Some(found) = self.swapper.slots.get_mut(slot) {
                found.machine.handle_timeout(now);
                self.drain(slot);
            }
        }
    }

    /// Tells the machines how many calls their active generations have served.
    fn collect(&mut self) {
        for slot in 0..self.swapper.slots.len() {
            let Some(found) = self.swapper.slots.get(slot) else {
                continue;
            };
            let Some(active) = found.machine.active() else {
                continue;
            };
            let calls = match &found.target {
                Target::Connector { instances, .. } => instances
                    .iter()
                    .map(|instance| instance.status.borrow().calls)
                    .sum(),
                Target::Policy { figures, .. } => figures.borrow().answered_by_active,
            };
            self.input(slot, Input::Served(active.generation, calls));
        }
    }

    /// Keeps what a job has made, if its candidate is still wanted.
    fn take(&mut self, slot: usize, build: Option<Build>, product: Product) {
        let candidate = self
            .swapper
            .slots
            .get_mut(slot)
            .and_then(|slot| slot.candidate.as_mut());
        let Some(candidate) = candidate.filter(|candidate| Some(candidate.build) == build) else {
            return;
        };
        match product {
            Product::Nothing => {}
            Product::Component {
                component,
                cached,
                origin,
            } => {
                candidate.stock = Stock::Compiled(component);
                candidate.cached = cached;
                candidate.origin = origin;
            }
            Product::Connector {
                loaded,
                prepared,
                origin,
            } => {
                candidate.origin = origin;
                let description = &loaded.description;
                candidate.card = (
                    description.name.as_str().into(),
                    description.version.as_str().into(),
                );
                candidate.stock = Stock::Connector(prepared);
            }
            Product::Policy { guest, origin } => {
                candidate.origin = origin;
                candidate.card = policy::card(&guest);
                candidate.stock = Stock::Policy(guest);
            }
            Product::Gap(gap) => candidate.gap = gap,
        }
    }

    fn drain(&mut self, slot: usize) {
        while let Some(output) = self
            .swapper
            .slots
            .get_mut(slot)
            .and_then(|slot| slot.machine.poll_output())
        {
            self.act(slot, output);
        }
    }

    fn act(&mut self, slot: usize, output: Output) {
        let now = self.swapper.clock.now();
        let Some(found) = self.swapper.slots.get_mut(slot) else {
            return;
        };
        match output {
            Output::Probe { probe } => {
                spawn(&self.done, jobs::probe(slot, probe, found.path.clone()))
            }
            Output::Compile(build) => {
                found.candidate = Some(Candidate::new(build, nobody(), now));
                let workshop = Workshop {
                    engines: self.swapper.engines.clone(),
                    cache: self.swapper.cache.clone(),
                    trust: self.swapper.trust.clone(),
                };
                let (kind, path) = (found.target.kind(), found.path.clone());
                let job = jobs::compile(slot, build, workshop, kind, path);
                spawn(&self.done, job);
            }
            Output::Check(build) => self.check(slot, build),
            Output::Warm(build) => self.warm(slot, build),
            Output::CutOver(build) => self.cut_over(slot, build),
            Output::RollBack { from, to: _ } => {
                found.candidate = found
                    .candidate
                    .take()
                    .filter(|candidate| candidate.build == from)
                    .or_else(|| Some(Candidate::new(from, found.card.clone(), now)));
                let job = jobs::roll_back(slot, from, &found.target);
                spawn(&self.done, job);
            }
            Output::Discard(build) => {
                if found
                    .candidate
                    .as_ref()
                    .is_some_and(|candidate| candidate.build == build)
                {
                    spawn(&self.done, jobs::abandon(&found.target, build.generation));
                }
            }
            Output::Retire(old) => spawn(&self.done, jobs::retire(&found.target, old.generation)),
            Output::Report(report) => self.record(slot, now, report),
        }
    }

    fn check(&mut self, slot: usize, build: Build) {
        let now = self.swapper.clock.now();
        let Some(found) = self.swapper.slots.get_mut(slot) else {
            return;
        };
        let kind = found.target.kind();
        let checked = match found
            .candidate
            .as_mut()
            .map(|c| std::mem::replace(&mut c.stock, Stock::Nothing))
        {
            Some(Stock::Compiled(component)) => {
                jobs::check(self.swapper.engines.of(kind), kind, &component)
            }
            Some(Stock::Nothing | Stock::Linked(_) | Stock::Connector(_) | Stock::Policy(_))
            | None => Err(jobs::lost()),
        };
        let result = checked.map(|linked| {
            if let Some(candidate) = &mut found.candidate {
                candidate.stock = Stock::Linked(linked);
            }
        });
        found
            .machine
            .handle(now, Input::Checked(build.generation, result));
    }

    fn warm(&mut self, slot: usize, build: Build) {
        let Some(found) = self.swapper.slots.get_mut(slot) else {
            return;
        };
        let engine = self.swapper.engines.of(found.target.kind()).clone();
        let gate = self.swapper.ledger.gate(&found.place, &self.swapper.trust);
        let origin = found.candidate.as_ref().map(|c| c.origin.clone());
        let gate = (gate, origin.unwrap_or_default());
        let stock = found
            .candidate
            .as_mut()
            .map(|c| std::mem::replace(&mut c.stock, Stock::Nothing));
        match (stock, &found.target) {
            (
                Some(Stock::Linked(Linked::Connector(pre))),
                Target::Connector { instances, limits },
            ) => {
                let names = instances
                    .iter()
                    .map(|instance| instance.name.clone())
                    .collect();
                let job = jobs::warm_connector(slot, build, engine, pre, names, *limits, gate);
                spawn(&self.done, job);
            }
            (Some(Stock::Linked(Linked::Policy(pre))), Target::Policy { configuration, .. }) => {
                let job = jobs::warm_policy(slot, build, engine, pre, configuration.clone(), gate);
                spawn(&self.done, job);
            }
            _ => spawn(
                &self.done,
                jobs::answer(slot, Input::Warmed(build.generation, Err(jobs::lost()))),
            ),
        }
    }

    fn cut_over(&mut self, slot: usize, build: Build) {
        let Some(found) = self.swapper.slots.get_mut(slot) else {
            return;
        };
        let stock = found
            .candidate
            .as_mut()
            .map(|c| std::mem::replace(&mut c.stock, Stock::Nothing));
        match (stock, &found.target) {
            (Some(Stock::Connector(prepared)), Target::Connector { instances, .. }) => {
                let first = found.machine.active().is_none();
                let controls = instances
                    .iter()
                    .map(|instance| instance.controls.clone())
                    .collect();
                spawn(
                    &self.done,
                    jobs::cut_over_connector(slot, build, controls, prepared, first),
                );
            }
            (Some(Stock::Policy(guest)), Target::Policy { work, .. }) => {
                spawn(
                    &self.done,
                    jobs::cut_over_policy(slot, build, work.clone(), guest),
                );
            }
            _ => spawn(
                &self.done,
                jobs::answer(slot, Input::CutOver(build.generation, Err(jobs::lost()))),
            ),
        }
    }

    async fn stop_instances(&mut self) {
        let mut controls = Vec::new();
        for slot in &self.swapper.slots {
            if let Target::Connector { instances, .. } = &slot.target {
                controls.extend(instances.iter().map(|instance| instance.controls.clone()));
            }
        }
        let mut replies = Vec::with_capacity(controls.len());
        for instance in controls {
            let (reply, stopped) = oneshot::channel();
            if instance.send(Control::Stop { reply }).await.is_ok() {
                replies.push(stopped);
            }
        }
        for stopped in replies {
            match stopped.await {
                // Ended without a word, which is an end, too.
                Ok(()) | Err(_) => {}
            }
        }
    }
}
