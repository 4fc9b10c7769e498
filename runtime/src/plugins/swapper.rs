//! The task that owns the swap machine of every component and does what the machines say.
//!
//! It never waits for a guest, a file or a compiler: those are jobs of their own, whose answers come back as inputs, so
//! that one component's slow swap delays no other's.

mod codes;
mod jobs;
mod orders;
mod record;
mod slot;
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use moorline_core::swap::probation::Served;
use moorline_core::swap::{Build, Digest, Input, Output};
use moorline_core::time::Instant;
use moorline_core::trust;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::MissedTickBehavior;
use wasmtime::component::Component;

use super::cache::Cache;
use super::engine::{Engines, Kind};
use super::instance::{Control, Trouble};
use super::orders::{Reply, RestoreReply, Until};
use super::policy;
use super::status::{PluginsStatus, SwapRecord};
use crate::clock::Clock;
use crate::trust::Ledger;
pub(crate) use jobs::read;
use jobs::{Done, Guests, Linked, Product, Workshop};
use slot::{Candidate, Making, Source, Stock, nobody, served};
pub(crate) use slot::{InstanceHandle, Slot, Target};

/// Answers of jobs on their way back.
const DONE_QUEUED: usize = 64;
/// How often figures are collected.
const REFRESH: Duration = Duration::from_millis(500);

/// What the swapper is told from outside.
pub(crate) enum Order {
    /// Stop all instances; answered when the last one has ended.
    Stop { reply: oneshot::Sender<()> },
    /// Look at the file of the plugin of this name.
    Swap {
        name: String,
        again: bool,
        until: Until,
        reply: Reply,
    },
    /// Go back to the generation before.
    RollBack { name: String, reply: Reply },
    /// Have an instance keep what was put beside its state instead.
    RestoreState {
        instance: String,
        reply: RestoreReply,
    },
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
    concluded: Vec<Arc<SwapRecord>>,
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
        running.start(slot);
    }
    loop {
        let timeout = running.next_timeout();
        tokio::select! {
            order = orders.recv() => match order {
                Some(Order::Swap { name, again, until, reply }) => {
                    running.on_swap(&name, again, until, reply);
                }
                Some(Order::RollBack { name, reply }) => running.on_roll_back(&name, reply),
                Some(Order::RestoreState { instance, reply }) => {
                    running.on_restore_state(instance, reply);
                }
                Some(Order::Stop { reply }) => {
                    running.stop_instances(troubles).await;
                    return match reply.send(()) {
                        // The gateway did not wait.
                        Ok(()) | Err(()) => {}
                    };
                }
                None => return running.stop_instances(troubles).await,
            },
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
    begin(done, job);
}

/// The same, for who may want to end it before its time.
fn begin(
    done: &mpsc::Sender<Done>,
    job: impl Future<Output = Option<Done>> + Send + 'static,
) -> AbortHandle {
    let done = done.clone();
    tokio::spawn(async move {
        if let Some(answer) = job.await {
            match done.send(answer).await {
                // The swapper has ended.
                Ok(()) | Err(_) => {}
            }
        }
    })
    .abort_handle()
}

impl Running {
    /// The code of a component that another connector, or the same one, has in use.
    fn code_of_another(&self, kind: Kind, digest: Digest) -> Option<Component> {
        let slots = self.swapper.slots.iter();
        let mut same_kind = slots.filter(|slot| slot.target.kind() == kind);
        same_kind.find_map(|slot| slot.codes.of(digest))
    }

    fn start(&mut self, slot: usize) {
        let Some(found) = self.swapper.slots.get_mut(slot) else {
            return;
        };
        found.proved = self.swapper.ledger.proved(&found.place);
        match found.proved {
            Some(proved) => spawn(&self.done, jobs::begin(slot, found.path.clone(), proved)),
            None => self.input(slot, Input::Start(None)),
        }
    }

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

    /// Tells the machines what their active generations have done.
    fn collect(&mut self) {
        for slot in 0..self.swapper.slots.len() {
            let Some(found) = self.swapper.slots.get(slot) else {
                continue;
            };
            let Some(active) = found.machine.active() else {
                continue;
            };
            let served = match &found.target {
                Target::Connector { instances, .. } => served(instances, active.generation),
                Target::Policy { figures, .. } => Served {
                    calls: figures.borrow().answered_by_active,
                    ..Served::default()
                },
            };
            self.input(slot, Input::Served(active.generation, served));
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
                candidate.code = Some(component.clone());
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
            Product::TookOver(took_over) => candidate.took_over = took_over,
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
            Output::Compile(build) => self.compile(slot, build, Source::File),
            Output::CompileKept(build) => self.compile(slot, build, Source::Kept),
            Output::Recall(build) => {
                let mut candidate = Candidate::new(build, found.card_before.clone(), now);
                candidate.code = found.codes.of(build.digest);
                candidate.cached = true;
                candidate.origin = found.origin_before.clone();
                candidate.source = Source::Previous;
                let recalled = candidate.code.clone();
                let result = match recalled {
                    Some(component) => {
                        candidate.stock = Stock::Compiled(component);
                        Ok(())
                    }
                    None => Err(jobs::lost()),
                };
                found.candidate = Some(candidate);
                let compiled = Input::Compiled(build.generation, result);
                found.machine.handle(now, compiled);
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
                if let Some(candidate) = &mut found.candidate
                    && candidate.build == build
                {
                    candidate.making = None;
                    spawn(&self.done, jobs::abandon(&found.target, build.generation));
                }
            }
            Output::Retire(old) => spawn(&self.done, jobs::retire(&found.target, old.generation)),
            Output::Report(report) => self.record(slot, now, report),
        }
    }

    fn compile(&mut self, slot: usize, build: Build, source: Source) {
        let now = self.swapper.clock.now();
        let Some(found) = self.swapper.slots.get(slot) else {
            return;
        };
        let workshop = Workshop {
            engines: self.swapper.engines.clone(),
            cache: self.swapper.cache.clone(),
            trust: self.swapper.trust.clone(),
            component: found.name.clone(),
        };
        let kind = found.target.kind();
        let place = found.path.clone();
        let shared = self.code_of_another(kind, build.digest);
        let job = jobs::compile(slot, build, workshop, kind, (place, source), shared);
        let mut candidate = Candidate::new(build, nobody(), now);
        candidate.source = source;
        candidate.making = Some(Making(begin(&self.done, job)));
        if let Some(found) = self.swapper.slots.get_mut(slot) {
            found.candidate = Some(candidate);
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
        let candidate = found.candidate.as_ref();
        let gate = match candidate {
            // It served before: who brings it back means the older version.
            Some(candidate) if candidate.source != Source::File => gate.open_to_older(),
            Some(_) | None => gate,
        };
        let origin = candidate.map(|candidate| candidate.origin.clone());
        let gate = (gate, origin.unwrap_or_default());
        let stock = found
            .candidate
            .as_mut()
            .map(|c| std::mem::replace(&mut c.stock, Stock::Nothing));
        match (stock, &found.target) {
            (
                Some(Stock::Linked(Linked::Connector(pre))),
                Target::Connector {
                    instances,
                    exclusive,
                },
            ) => {
                let guests = Guests {
                    sandboxes: instances.iter().map(|i| i.sandbox.clone()).collect(),
                    beside: !exclusive,
                };
                let job = jobs::warm_connector(slot, build, engine, pre, guests, gate);
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

    /// Nothing is rolled back from here on: an instance that fails has nobody to tell, and must not wait for a place in a
    /// queue that nobody empties before it takes its order.
    async fn stop_instances(&mut self, troubles: mpsc::Receiver<Trouble>) {
        drop(troubles);
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
