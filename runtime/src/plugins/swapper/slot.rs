//! One component with its machine, and what is being made of its next build.

use std::path::Path;
use std::sync::Arc;

use moorline_core::swap::probation::Served;
use moorline_core::swap::{Build, Digest, Failure, Generation, NoFile, Swap};
use moorline_core::time::Instant;
use moorline_core::trust::Origin;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use wasmtime::component::Component;

use super::codes::Codes;
use super::jobs::Linked;
use super::waiting::Queue;
use crate::plugins::engine::Kind;
use crate::plugins::grants::Sandbox;
use crate::plugins::instance::{Control, Prepared, TookOver};
use crate::plugins::policy::{self, Figures, PolicyGuest};
use crate::plugins::status::{InstanceState, InstanceStatus};
use crate::trust::Place;

/// One instance, as the swapper sees it.
pub(crate) struct InstanceHandle {
    pub(crate) sandbox: Arc<Sandbox>,
    pub(crate) controls: mpsc::Sender<Control>,
    pub(crate) status: watch::Receiver<InstanceStatus>,
}

/// What a component is swapped in.
pub(crate) enum Target {
    Connector {
        instances: Vec<InstanceHandle>,
        /// A generation is gone before the next one is made.
        exclusive: bool,
    },
    Policy {
        work: mpsc::Sender<policy::Work>,
        figures: watch::Receiver<Figures>,
        configuration: Arc<str>,
    },
}

impl Target {
    /// How many instances serve as `generation`, of how many; none if all do.
    pub(super) fn missing(&self, generation: Generation) -> Option<String> {
        let instances = match self {
            Self::Connector { instances, .. } => instances,
            Self::Policy { .. } => return None,
        };
        let serves = |status: &InstanceStatus| {
            status.state == InstanceState::Serving && status.generation == Some(generation)
        };
        let serving = instances.iter().filter(|i| serves(&i.status.borrow()));
        let (serving, all) = (serving.count(), instances.len());
        (serving < all).then(|| format!("{serving} of {all}"))
    }

    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Connector { .. } => Kind::Connector,
            Self::Policy { .. } => Kind::Policy,
        }
    }
}

/// What has been made of a candidate so far.
pub(super) enum Stock {
    Nothing,
    Compiled(Component),
    Linked(Linked),
    Connector(Vec<Prepared>),
    Policy(Box<PolicyGuest>),
}

/// Where a candidate comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The place that the configuration names.
    File,
    /// What is kept beside it, when the gateway starts.
    Kept,
    /// The generation before, by an operator's order.
    Previous,
}

pub(super) struct Candidate {
    pub(super) build: Build,
    pub(super) stock: Stock,
    pub(super) code: Option<Component>,
    pub(super) card: Card,
    pub(super) origin: Origin,
    pub(super) began: Instant,
    pub(super) took_over: TookOver,
    pub(super) cached: bool,
    pub(super) source: Source,
    /// What is made of it at the moment; it ends with the candidate.
    pub(super) making: Option<Making>,
}

/// A job that ends when this is dropped: nobody waits for it any more.
pub(super) struct Making(pub(super) AbortHandle);

impl Drop for Making {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Candidate {
    pub(super) fn new(build: Build, card: Card, now: Instant) -> Self {
        Self {
            build,
            stock: Stock::Nothing,
            code: None,
            card,
            origin: Origin::default(),
            began: now,
            took_over: TookOver::default(),
            cached: false,
            source: Source::File,
            making: None,
        }
    }
}

/// The name and the version a plugin gives itself.
pub(super) type Card = (Arc<str>, Arc<str>);

pub(super) fn nobody() -> Card {
    ("".into(), "".into())
}

/// One component and its machine.
pub(crate) struct Slot {
    pub(super) name: Arc<str>,
    pub(super) place: Place,
    pub(super) path: Arc<Path>,
    pub(super) target: Target,
    pub(super) machine: Swap,
    pub(super) candidate: Option<Candidate>,
    /// The code of the active generation, and of the one before it.
    pub(super) codes: Codes,
    pub(super) waiting: Queue,
    /// Name and version of the generation that was told to serve last, and of the one before it.
    pub(super) card: Card,
    pub(super) card_before: Card,
    /// Where they come from.
    pub(super) origin: Origin,
    pub(super) origin_before: Origin,
    /// The generation that was told to serve last. It is not the active one while a roll-back is under way.
    pub(super) told: Option<Build>,
    pub(super) refused: Option<Arc<(Digest, Failure)>>,
    /// What has proved itself last, or was brought back by an operator. What is in the file at a start needs no proof, unless the
    /// one before it is kept.
    pub(super) proved: Option<Digest>,
    /// What is kept beside the file could not be compiled at this start, for no fault of its own.
    pub(super) kept_waits: bool,
    /// Why there was no file when that was said last.
    pub(super) missing_said: Option<NoFile>,
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
            codes: Codes::default(),
            waiting: Queue::default(),
            card: nobody(),
            card_before: nobody(),
            origin: Origin::default(),
            origin_before: Origin::default(),
            told: None,
            refused: None,
            proved: None,
            kept_waits: false,
            missing_said: None,
        }
    }
}

/// What all instances have done as this generation.
pub(super) fn served(instances: &[InstanceHandle], generation: Generation) -> Served {
    let mut sum = Served::default();
    for instance in instances {
        let status = instance.status.borrow();
        if status.generation == Some(generation) {
            sum.calls += status.served.calls;
            sum.faults += status.served.faults;
            sum.emitted += status.served.emitted;
            sum.turned_back += status.served.turned_back;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use moorline_core::swap::{Digest, Generation};
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_is_made_of_a_candidate_ends_with_it() {
        let (held, dropped) = oneshot::channel::<()>();
        let job = tokio::spawn(async move {
            std::future::pending::<()>().await;
            drop(held);
        });
        let build = Build {
            generation: Generation(2),
            digest: Digest([0; 32]),
        };
        let mut candidate = Candidate::new(build, nobody(), Instant::from_start(Duration::ZERO));
        candidate.making = Some(Making(job.abort_handle()));
        drop(candidate);
        let dropped = tokio::time::timeout(Duration::from_secs(30), dropped).await;
        assert!(matches!(dropped, Ok(Err(_))), "it is still made");
    }
}
