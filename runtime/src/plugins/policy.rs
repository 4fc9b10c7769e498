//! The reconnect policy: one thread, one guest, one question at a time, under fuel and a deadline.
//!
//! A policy keeps no state the host must carry over, so that a swap only puts another guest into its place; the one
//! before waits, instantiated, while the new one is on probation.

use std::sync::Arc;
use std::time::Duration;

use moorline_core::link::policy::{Decision, PolicyFault, Question};
use moorline_core::swap::{Build, Failure, Generation, Reason};
use tokio::sync::{mpsc, oneshot, watch};
use wasmtime::component::{Component, Linker};
use wasmtime::{Store, Trap};

use super::bindings::policy::exports::moorline::edge::policy_guest::Description;
use super::bindings::policy::{ReconnectPolicy, ReconnectPolicyPre};
use super::card;
use super::convert;
use super::engine::Engine;
use super::instance::Trouble;
use super::pulse::TICK;
use super::store::Memory;
use super::words;
use crate::clock::Clock;
use crate::policy_handle::Consultation;

/// Work for one decision: about 5 ms of one core.
const DECISION_FUEL: u64 = 5_000_000;
/// Work for instantiating: language run-times initialise themselves here.
const START_FUEL: u64 = 200_000_000;
const START_DEADLINE: Duration = Duration::from_secs(2);
/// Work for reading the configuration.
const CONFIGURE_FUEL: u64 = 50_000_000;
const CONFIGURE_DEADLINE: Duration = Duration::from_millis(500);
const MEMORY_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Orders and questions on their way to the thread.
const WORK_QUEUED: usize = 4;

/// What the thread has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) answered: u64,
    pub(crate) trapped: u64,
    pub(crate) stalled: u64,
    /// Answers of the generation that serves.
    pub(crate) answered_by_active: u64,
}

/// A policy that is instantiated and waits.
pub(crate) struct PolicyGuest {
    pub(crate) build: Build,
    pub(crate) description: Description,
    engine: Engine,
    pre: ReconnectPolicyPre<Memory>,
    configuration: Arc<str>,
    live: Option<(Store<Memory>, ReconnectPolicy)>,
}

fn wrong_world(error: &wasmtime::Error) -> Failure {
    let detail = words::repeated(&format!("{error:#}"));
    Failure::new(Reason::WrongWorld, detail)
}

/// Checks the component's types against the world.
pub(crate) fn link(
    engine: &Engine,
    component: &Component,
) -> Result<ReconnectPolicyPre<Memory>, Failure> {
    let linker: Linker<Memory> = Linker::new(engine);
    let pre = linker
        .instantiate_pre(component)
        .map_err(|error| wrong_world(&error))?;
    ReconnectPolicyPre::new(pre).map_err(|error| wrong_world(&error))
}

fn ticks(deadline: Duration) -> u64 {
    // One more, because the first tick may come at once.
    u64::try_from(deadline.as_millis().div_ceil(TICK.as_millis()))
        .unwrap_or(u64::MAX)
        .saturating_add(1)
}

fn judge(error: &wasmtime::Error, memory: &Memory) -> Failure {
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => Failure::new(Reason::Stalled, "it ran out of fuel"),
        Some(Trap::Interrupt) => {
            Failure::new(Reason::Stalled, "it did not answer before its deadline")
        }
        Some(trap) if memory.refused.is_some() => Failure::new(
            Reason::OverLimit,
            format!("it may have {MEMORY_BYTES_MAX} bytes of memory: {trap}"),
        ),
        Some(trap) => Failure::new(Reason::Trapped, trap.to_string()),
        None => {
            let detail = words::repeated(&error.root_cause().to_string());
            Failure::new(Reason::Trapped, detail)
        }
    }
}

type Live = (Store<Memory>, ReconnectPolicy);

fn instantiate(engine: &Engine, pre: &ReconnectPolicyPre<Memory>) -> Result<Live, Failure> {
    let mut store = Store::new(engine, Memory::of_bytes(MEMORY_BYTES_MAX));
    store.limiter(|memory| memory);
    store.epoch_deadline_trap();
    store.set_epoch_deadline(ticks(START_DEADLINE));
    store
        .set_fuel(START_FUEL)
        .map_err(|error| wrong_world(&error))?;
    let policy = pre
        .instantiate(&mut store)
        .map_err(|error| judge(&error, store.data()))?;
    Ok((store, policy))
}

/// Gives a fresh instance its configuration, under limits of its own.
fn configure(live: &mut Live, configuration: &str) -> Result<(), Failure> {
    let (store, policy) = live;
    store
        .set_fuel(CONFIGURE_FUEL)
        .map_err(|error| wrong_world(&error))?;
    store.set_epoch_deadline(ticks(CONFIGURE_DEADLINE));
    let configured = policy
        .moorline_edge_policy_guest()
        .call_configure(&mut *store, configuration)
        .map_err(|error| judge(&error, store.data()))?;
    configured.map_err(|why| {
        let detail = format!("its configuration: {}", words::repeated(&why));
        Failure::new(Reason::Refused, detail)
    })
}

/// Asks a fresh instance who it is.
pub(crate) fn describe(
    engine: &Engine,
    pre: &ReconnectPolicyPre<Memory>,
) -> Result<Description, Failure> {
    let _running = engine.running();
    described(&mut instantiate(engine, pre)?)
}

fn described((store, policy): &mut Live) -> Result<Description, Failure> {
    let description = policy
        .moorline_edge_policy_guest()
        .call_describe(&mut *store)
        .map_err(|error| judge(&error, store.data()))?;
    card::check(
        &description.name,
        &description.version,
        &description.configuration_schema,
    )?;
    Ok(description)
}

impl PolicyGuest {
    /// Instantiates, asks for the description and configures. Runs guest code: not for a task that has other things to
    /// do.
    pub(crate) fn prepare(
        engine: &Engine,
        pre: ReconnectPolicyPre<Memory>,
        build: Build,
        configuration: Arc<str>,
    ) -> Result<Self, Failure> {
        let _running = engine.running();
        let mut live = instantiate(engine, &pre)?;
        let description = described(&mut live)?;
        configure(&mut live, &configuration)?;
        Ok(Self {
            build,
            description,
            engine: engine.clone(),
            pre,
            configuration,
            live: Some(live),
        })
    }

    /// Another of the same build that was never asked anything.
    pub(super) fn twin(&self) -> Result<Self, Failure> {
        let (pre, configuration) = (self.pre.clone(), self.configuration.clone());
        Self::prepare(&self.engine, pre, self.build, configuration)
    }

    /// Makes up for a failed decision. It may take longer than the link would wait, so that it has no place in
    /// `decide`.
    pub(super) fn renew(&mut self) {
        if self.live.is_none() {
            let _running = self.engine.running();
            let renewed = instantiate(&self.engine, &self.pre).and_then(|mut live| {
                configure(&mut live, &self.configuration)?;
                Ok(live)
            });
            match renewed {
                Ok(live) => self.live = Some(live),
                Err(failure) => {
                    tracing::error!(digest = %self.build.digest, "the reconnect policy cannot be started again: it {failure}");
                }
            }
        }
    }

    pub(super) fn decide(
        &mut self,
        question: &Question,
        deadline: Duration,
    ) -> Result<Decision, Failure> {
        let Some((mut store, policy)) = self.live.take() else {
            return Err(Failure::new(
                Reason::Trapped,
                "it could not be started again",
            ));
        };
        let _running = self.engine.running();
        store
            .set_fuel(DECISION_FUEL)
            .map_err(|error| wrong_world(&error))?;
        store.set_epoch_deadline(ticks(deadline));
        let question = convert::question(question);
        match policy
            .moorline_edge_policy_guest()
            .call_decide(&mut store, question)
        {
            Ok(decision) => {
                self.live = Some((store, policy));
                Ok(convert::decision(decision))
            }
            // The Store is spoilt: `renew` makes another, when nobody waits for it.
            Err(error) => Err(judge(&error, store.data())),
        }
    }
}

/// What the link is told of a failure.
pub(super) const fn fault_of(failure: &Failure) -> PolicyFault {
    match failure.reason {
        Reason::Stalled => PolicyFault::Stalled,
        Reason::Unreadable
        | Reason::NotAComponent
        | Reason::WrongWorld
        | Reason::Trapped
        | Reason::OverLimit
        | Reason::Refused
        | Reason::Faulty
        | Reason::Silent
        | Reason::Ordered
        | Reason::Unsigned
        | Reason::UnknownKey
        | Reason::BadSignature
        | Reason::Downgrade
        | Reason::Host => PolicyFault::Trapped,
    }
}

/// What the thread is told.
pub(crate) enum Work {
    Ask(Consultation),
    Replace {
        guest: Box<PolicyGuest>,
        reply: oneshot::Sender<Duration>,
    },
    RollBack {
        from: Generation,
        reply: oneshot::Sender<Duration>,
    },
    Retire {
        old: Generation,
    },
}

struct Host {
    slot: usize,
    deadline: Duration,
    clock: Clock,
    active: Option<Box<PolicyGuest>>,
    kept: Option<Box<PolicyGuest>>,
    figures: watch::Sender<Figures>,
    troubles: mpsc::Sender<Trouble>,
}

/// Starts the thread. It ends when every sender of work is gone.
pub(crate) fn spawn(
    slot: usize,
    deadline: Duration,
    clock: Clock,
    consultations: mpsc::Receiver<Consultation>,
    troubles: mpsc::Sender<Trouble>,
) -> std::io::Result<(mpsc::Sender<Work>, watch::Receiver<Figures>)> {
    let (work, queue) = mpsc::channel(WORK_QUEUED);
    let (figures, receiver) = watch::channel(Figures::default());
    let host = Host {
        slot,
        deadline,
        clock,
        active: None,
        kept: None,
        figures,
        troubles,
    };
    std::thread::Builder::new()
        .name("policy".into())
        .spawn(move || host.run(queue))?;
    tokio::spawn(forward(consultations, work.clone()));
    Ok((work, receiver))
}

async fn forward(mut consultations: mpsc::Receiver<Consultation>, work: mpsc::Sender<Work>) {
    while let Some(consultation) = consultations.recv().await {
        if work.send(Work::Ask(consultation)).await.is_err() {
            return;
        }
    }
}

impl Host {
    fn run(mut self, mut queue: mpsc::Receiver<Work>) {
        while let Some(work) = queue.blocking_recv() {
            let began = self.clock.now();
            match work {
                Work::Ask(Consultation { question, answer }) => {
                    let decision = self.decide(&question);
                    reply(answer, decision);
                    if let Some(policy) = &mut self.active {
                        policy.renew();
                    }
                }
                Work::Replace {
                    guest,
                    reply: answer,
                } => {
                    self.kept = self.active.replace(guest);
                    self.fresh();
                    reply(answer, self.clock.now() - began);
                }
                Work::RollBack {
                    from,
                    reply: answer,
                } => {
                    if self
                        .active
                        .as_ref()
                        .is_some_and(|active| active.build.generation == from)
                    {
                        self.active = self.kept.take();
                        self.fresh();
                    }
                    reply(answer, self.clock.now() - began);
                }
                Work::Retire { old } => {
                    self.kept.take_if(|kept| kept.build.generation == old);
                }
            }
        }
    }

    fn fresh(&self) {
        self.figures
            .send_modify(|figures| figures.answered_by_active = 0);
    }

    fn decide(&mut self, question: &Question) -> Result<Decision, PolicyFault> {
        let Some(policy) = &mut self.active else {
            return Err(PolicyFault::Absent);
        };
        let build = policy.build;
        let failure = match policy.decide(question, self.deadline) {
            Ok(decision) => {
                self.figures.send_modify(|figures| {
                    figures.answered += 1;
                    figures.answered_by_active += 1;
                });
                return Ok(decision);
            }
            Err(failure) => failure,
        };
        tracing::error!(generation = %build.generation, digest = %build.digest, "the reconnect policy failed: it {failure}");
        let fault = fault_of(&failure);
        self.figures.send_modify(|figures| match fault {
            PolicyFault::Stalled => figures.stalled += 1,
            PolicyFault::Trapped | PolicyFault::Absent => figures.trapped += 1,
        });
        let trouble = Trouble {
            slot: self.slot,
            generation: build.generation,
            failure,
        };
        match self.troubles.try_send(trouble) {
            // A swapper that is behind learns of the next one.
            Ok(()) | Err(_) => {}
        }
        Err(fault)
    }
}

fn reply<T>(sender: oneshot::Sender<T>, value: T) {
    match sender.send(value) {
        // Whoever asked does not wait any more: the link's deadline has passed.
        Ok(()) | Err(_) => {}
    }
}

/// The description as the status shows it.
pub(crate) fn card(guest: &PolicyGuest) -> (Arc<str>, Arc<str>) {
    (
        guest.description.name.as_str().into(),
        guest.description.version.as_str().into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_trap_stay_on_one_line_and_are_cut() {
        let error = wasmtime::Error::msg(format!("red\nFAKE {}", "x".repeat(1_000_000)));
        let failure = judge(&error, &Memory::of_bytes(MEMORY_BYTES_MAX));
        assert_eq!(failure.reason, Reason::Trapped);
        assert!(failure.detail.starts_with("red FAKE x") && failure.detail.len() < 600);
    }
}
