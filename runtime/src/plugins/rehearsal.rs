//! A reconnect policy that is asked outside a gateway, on somebody else's clock.
//!
//! One instance answers for a whole fleet, because a policy keeps no state (see `policy.rs`). That is not taken on
//! trust: some questions are put to a fresh instance, too, and the answers must be the same.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use moorline_core::link::policy::{Decision, PolicyFault, Question};
use moorline_core::swap::{Build, Digest, Failure, Generation, Reason};

use super::cache::digest_of;
use super::contract::{self, Contract};
use super::engine::{Engines, Kind};
use super::policy::{self, PolicyGuest, fault_of};
use super::swapper::read;
use super::world::{self, Interfaces};

/// Fuel alone ends a decision, so that the same question ends the same on a busy machine; this is for what fuel cannot
/// see.
const DEADLINE: Duration = Duration::from_secs(60);
/// The first questions are all put to a fresh instance, too, and of the others one in [`TWIN_EVERY`].
const TWIN_FIRST: u64 = 16;
const TWIN_EVERY: u64 = 256;
/// A policy that has failed so often is taken to fail for ever: a fleet would wait for each of its failures.
const FAILURES_MAX: u64 = 1_000;

/// A policy under rehearsal.
pub struct Rehearsal {
    guest: PolicyGuest,
    asked: u64,
    failures: u64,
    first_failure: Option<Failure>,
    last_fault: PolicyFault,
    contradiction: Option<Contradiction>,
    /// Their clock interrupts the guest.
    _engines: Engines,
}

/// What one policy answered to one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contradiction {
    /// Which attempt the question was about.
    pub attempt: u32,
    /// The answer of the instance that had been asked before; none = it failed.
    pub used: Option<Decision>,
    /// The answer of a fresh one.
    pub fresh: Option<Decision>,
}

impl std::fmt::Debug for Rehearsal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rehearsal")
            .field("name", &self.name())
            .field("asked", &self.asked)
            .field("failures", &self.failures)
            .finish_non_exhaustive()
    }
}

impl Rehearsal {
    /// Compiles the component at `path`, checks it against its world, lets it describe itself and configures it.
    ///
    /// # Errors
    /// When a gateway could not load it either, with the reason.
    pub async fn load(path: &Path, configuration: &serde_json::Value) -> Result<Self, Failure> {
        let configuration: Arc<str> = configuration.to_string().into();
        let host = |error: tokio::task::JoinError| Failure::new(Reason::Host, error.to_string());
        let owned = path.to_owned();
        let bytes = tokio::task::spawn_blocking(move || read(&owned))
            .await
            .map_err(host)??;
        world::check_header(&bytes)?;
        let engines = Engines::start()?;
        let build = Build {
            generation: Generation(0),
            digest: digest_of(&bytes),
        };
        let compiled = engines.compile(Kind::Policy, Arc::new(bytes)).await;
        let component = compiled.map_err(world::explain_compile_error)?;
        let engine = engines.of(Kind::Policy).clone();
        let pre = match world::check(&Interfaces::of(&component, &engine), Kind::Policy)? {
            Contract::V0_1 => policy::link(&engine, &component).map_err(contract::explain_types)?,
        };
        let prepared = tokio::task::spawn_blocking(move || {
            PolicyGuest::prepare(&engine, pre, build, configuration)
        });
        Ok(Self {
            guest: prepared.await.map_err(host)??,
            asked: 0,
            failures: 0,
            first_failure: None,
            last_fault: PolicyFault::Absent,
            contradiction: None,
            _engines: engines,
        })
    }

    /// The name it gives itself.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.guest.description.name
    }

    /// The version it gives itself.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.guest.description.version
    }

    /// SHA-256 of its file.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.guest.build.digest
    }

    /// What it failed of first.
    #[must_use]
    pub const fn first_failure(&self) -> Option<&Failure> {
        self.first_failure.as_ref()
    }

    /// The proof that it keeps state, if there is one.
    #[must_use]
    pub const fn contradiction(&self) -> Option<Contradiction> {
        self.contradiction
    }

    /// Asks it, as a gateway does. Runs guest code: not for a task that has other things to do.
    ///
    /// # Errors
    /// When it trapped or stalled.
    pub fn decide(&mut self, question: &Question) -> Result<Decision, PolicyFault> {
        if self.failures >= FAILURES_MAX {
            return Err(self.last_fault);
        }
        self.asked += 1;
        let answer = self.guest.decide(question, DEADLINE);
        if self.asked <= TWIN_FIRST || self.asked.is_multiple_of(TWIN_EVERY) {
            self.compare(question, answer.as_ref().ok().copied());
        }
        answer.map_err(|failure| {
            self.guest.renew();
            self.failures += 1;
            self.last_fault = fault_of(&failure);
            self.first_failure.get_or_insert(failure);
            self.last_fault
        })
    }

    fn compare(&mut self, question: &Question, used: Option<Decision>) {
        let fresh = self
            .guest
            .twin()
            .and_then(|mut twin| twin.decide(question, DEADLINE))
            .ok();
        if fresh != used && self.contradiction.is_none() {
            self.contradiction = Some(Contradiction {
                attempt: question.attempt,
                used,
                fresh,
            });
        }
    }
}
