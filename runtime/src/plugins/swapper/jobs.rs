//! What takes time: reading, compiling, instantiating, and waiting for instances. Each job answers with one input.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use moorline_core::swap::{Build, Digest, Failure, Generation, Input, NoFile, Reason};
use moorline_core::trust::{self, Origin};
use tokio::sync::{mpsc, oneshot};
use wasmtime::component::Component;

use super::Target;
use super::slot::Source;
use crate::bounded_file::{self, ReadError};
use crate::plugins::bindings::connector::ConnectorPre;
use crate::plugins::bindings::policy::ReconnectPolicyPre;
use crate::plugins::cache::{Cache, digest_of};
use crate::plugins::contract::{self, Contract};
use crate::plugins::engine::{Compiled, Engine, Engines, Kind};
use crate::plugins::grants::Sandbox;
use crate::plugins::guest::{self, Loaded};
use crate::plugins::instance::{Control, CutOverResult, Prepared, TookOver};
use crate::plugins::policy::{self, PolicyGuest, Work};
use crate::plugins::settings::Limits;
use crate::plugins::shelf::{Lies, Shelf, TakenBack};
use crate::plugins::store::{HostState, Memory};
use crate::plugins::world::{self, COMPONENT_BYTES_MAX, Interfaces};
use crate::trust::{Gate, examine};

/// The answer of a job.
pub(super) struct Done {
    pub(super) slot: usize,
    /// The candidate the product belongs to.
    pub(super) build: Option<Build>,
    pub(super) input: Input,
    pub(super) product: Product,
}

/// What a job has made.
pub(super) enum Product {
    Nothing,
    Component {
        component: Component,
        cached: bool,
        origin: Origin,
    },
    Connector {
        loaded: Arc<Loaded>,
        prepared: Vec<Prepared>,
        origin: Origin,
    },
    Policy {
        guest: Box<PolicyGuest>,
        origin: Origin,
    },
    TookOver(TookOver),
}

/// A component whose imports are satisfied.
pub(super) enum Linked {
    Connector(ConnectorPre<HostState>),
    Policy(ReconnectPolicyPre<Memory>),
}

/// What the machine waits for is not there: a defect of ours, not of the candidate.
pub(super) fn lost() -> Failure {
    Failure::new(Reason::Host, "the candidate was lost on the way")
}

#[expect(clippy::unused_async, reason = "takes the place of a job")]
pub(super) async fn answer(slot: usize, input: Input) -> Option<Done> {
    Some(Done {
        slot,
        build: None,
        input,
        product: Product::Nothing,
    })
}

/// Runs `work` where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Failure::new(Reason::Host, error.to_string()))
}

/// Reads a component's file, but no more than a component may have.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    bounded_file::read(path, COMPONENT_BYTES_MAX)
        .map_err(|error| Failure::new(Reason::Unreadable, format!("{}: {error}", path.display())))
}

/// What to begin with, where `proved` is known to have proved itself before this process began.
pub(super) async fn begin(slot: usize, path: Arc<Path>, proved: Digest) -> Option<Done> {
    let shelf = Shelf::new(&path);
    // Who cannot look will not be able to load it, either.
    let lies = blocking(move || shelf.holds(proved))
        .await
        .unwrap_or_default();
    if lies == Some(Lies::Beside) {
        tracing::info!(
            path = %path.display(), %proved,
            "the plugin's file holds a build that had not proved itself when the gateway ended; \
             the one that had, FILE.before, serves first, and the file's takes over on probation"
        );
    }
    answer(slot, Input::Start(lies.map(|_where| proved))).await
}

pub(super) async fn probe(slot: usize, probe: u64, path: Arc<Path>) -> Option<Done> {
    let looked = blocking(move || bounded_file::read(&path, COMPONENT_BYTES_MAX)).await;
    let digest = match looked {
        Ok(Ok(bytes)) => Ok(digest_of(&bytes)),
        Ok(Err(ReadError::Io(error))) if error.kind() == ErrorKind::NotFound => Err(NoFile::Absent),
        Ok(Err(error)) => Err(NoFile::Unreadable(error.to_string())),
        Err(failure) => Err(NoFile::Unreadable(failure.to_string())),
    };
    Some(Done {
        slot,
        build: None,
        input: Input::Probed { probe, digest },
        product: Product::Nothing,
    })
}

/// The next start must not load the build that failed, or that an operator took back. What is kept beside its file comes back if it is one of `good`.
pub(super) async fn take_back(
    slot: usize,
    path: Arc<Path>,
    (failed, reason): (Digest, Reason),
    good: [Option<Digest>; 2],
) -> Option<Done> {
    let end = if reason == Reason::Ordered {
        "was taken back"
    } else {
        "failed"
    };
    let shelf = Shelf::new(&path);
    let done = blocking(move || {
        // Somebody may have put another there.
        let may_stay = |lies| lies != failed;
        shelf.take_back(may_stay, |kept| good.contains(&Some(kept)), |_| false)
    })
    .await;
    let path = path.display();
    match done {
        Ok(Ok(TakenBack::LiesThere)) => {}
        Ok(Ok(TakenBack::Back(digest))) => {
            tracing::info!(%path, %digest, "the plugin's file holds the last good build again, in place of the one that {end}");
            return Some(Done {
                slot,
                build: None,
                input: Input::PutBack(digest),
                product: Product::Nothing,
            });
        }
        Ok(Ok(TakenBack::NotKept)) => tracing::warn!(
            %path,
            %failed,
            "the plugin's file still holds the build that {end}, and no good one is kept beside it: the next start loads it; put another there"
        ),
        Ok(Err(error)) => tracing::warn!(
            %path,
            %failed,
            "the plugin's file still holds the build that {end}, and what is kept beside it cannot be brought back: {error}; the next start loads it; put another there"
        ),
        Err(failure) => tracing::warn!(%path, %failure, "the plugin's file was not looked at"),
    }
    None
}

/// What a component is made with, and by whom it must be signed.
#[derive(Clone)]
pub(super) struct Workshop {
    pub(super) engines: Engines,
    pub(super) cache: Cache,
    pub(super) trust: Arc<trust::Settings>,
    /// For whom, for the log.
    pub(super) component: Arc<str>,
}

pub(super) async fn compile(
    slot: usize,
    build: Build,
    workshop: Workshop,
    kind: Kind,
    from: (Arc<Path>, Source),
    shared: Option<Component>,
) -> Option<Done> {
    let (result, product) = match try_compile(slot, build, workshop, kind, from, shared).await {
        Ok(product) => (Ok(()), product),
        Err(failure) => (Err(failure), Product::Nothing),
    };
    Some(Done {
        slot,
        build: Some(build),
        input: Input::Compiled(build.generation, result),
        product,
    })
}

/// The file is read once: what is signed is what is hashed is what is compiled.
async fn try_compile(
    slot: usize,
    build: Build,
    workshop: Workshop,
    kind: Kind,
    (place, source): (Arc<Path>, Source),
    shared: Option<Component>,
) -> Result<Product, Failure> {
    let Workshop {
        engines,
        cache,
        trust,
        component: whose,
    } = workshop;
    let engine = engines.of(kind).clone();
    let digest = build.digest;
    let (bytes, cached, origin) = {
        let (engine, cache) = (engine.clone(), cache.clone());
        blocking(move || {
            let shelf = Shelf::new(&place);
            let is_beside = || shelf.holds(digest) == Some(Lies::Beside);
            let bytes = if source == Source::Kept && is_beside() {
                read(&shelf.before())?
            } else {
                read(&place)?
            };
            if digest_of(&bytes) != digest {
                return Err(Failure::new(
                    Reason::Unreadable,
                    "the file changed while it was read",
                ));
            }
            world::check_header(&bytes)?;
            let origin = examine(&bytes, digest, &place, &trust)?;
            let cached = shared.or_else(|| cache.load(&engine, digest));
            Ok((Arc::new(bytes), cached, origin))
        })
        .await??
    };
    if let Some(component) = cached {
        return Ok(Product::Component {
            component,
            cached: true,
            origin,
        });
    }
    let Compiled { component, shared } = engines
        .compile_shared(kind, digest, bytes, Some(whose))
        .await
        .map_err(world::explain_compile_error)?;
    if shared {
        return Ok(Product::Component {
            component,
            cached: true,
            origin,
        });
    }
    let kept = component.clone();
    // Nobody waits for it: the component is there.
    drop(tokio::task::spawn_blocking(move || {
        cache.store(&engine, digest, &kept, slot)
    }));
    Ok(Product::Component {
        component,
        cached: false,
        origin,
    })
}

/// Compares names, then types, with the world.
pub(super) fn check(engine: &Engine, kind: Kind, component: &Component) -> Result<Linked, Failure> {
    let contract = world::check(&Interfaces::of(component, engine), kind)?;
    match (contract, kind) {
        (Contract::V0_1, Kind::Connector) => guest::link(engine, component).map(Linked::Connector),
        (Contract::V0_1, Kind::Policy) => policy::link(engine, component).map(Linked::Policy),
    }
    .map_err(contract::explain_types)
}

/// The guests of a connector's candidate: one for each instance.
pub(super) struct Guests {
    pub(super) sandboxes: Vec<Arc<Sandbox>>,
    /// They are made beside those that serve; otherwise only the description is asked for, with nothing granted.
    pub(super) beside: bool,
}

pub(super) async fn warm_connector(
    slot: usize,
    build: Build,
    engine: Engine,
    pre: ConnectorPre<HostState>,
    guests: Guests,
    (gate, origin): (Gate, Origin),
) -> Option<Done> {
    let warmed = async {
        let limits = guests.sandboxes.first().map(|sandbox| sandbox.limits);
        let loaded = describe(build, &engine, pre, limits.unwrap_or_default()).await?;
        let (name, version) = (
            loaded.description.name.clone(),
            loaded.description.version.clone(),
        );
        let origin = blocking(move || gate.pass(origin, &name, &version)).await??;
        let prepared = instantiate(&loaded, guests).await?;
        Ok(Product::Connector {
            loaded,
            prepared,
            origin,
        })
    };
    let (result, product) = match warmed.await {
        Ok(product) => (Ok(()), product),
        Err(failure) => (Err(failure), Product::Nothing),
    };
    Some(Done {
        slot,
        build: Some(build),
        input: Input::Warmed(build.generation, result),
        product,
    })
}

async fn describe(
    build: Build,
    engine: &Engine,
    pre: ConnectorPre<HostState>,
    limits: Limits,
) -> Result<Arc<Loaded>, Failure> {
    let described = Loaded::describe(engine, pre, build, &limits).await;
    described.map(Arc::new)
}

async fn instantiate(loaded: &Arc<Loaded>, guests: Guests) -> Result<Vec<Prepared>, Failure> {
    let Guests { sandboxes, beside } = guests;
    let mut prepared = Vec::with_capacity(sandboxes.len());
    for sandbox in sandboxes {
        let guest = if beside {
            Some(loaded.instantiate(&sandbox).await?)
        } else {
            None
        };
        prepared.push(Prepared {
            loaded: loaded.clone(),
            guest,
        });
    }
    Ok(prepared)
}

pub(super) async fn warm_policy(
    slot: usize,
    build: Build,
    engine: Engine,
    pre: ReconnectPolicyPre<Memory>,
    configuration: Arc<str>,
    (gate, origin): (Gate, Origin),
) -> Option<Done> {
    let prepared = blocking(move || {
        let guest = PolicyGuest::prepare(&engine, pre, build, configuration)?;
        let (name, version) = policy::card(&guest);
        let origin = gate.pass(origin, &name, &version)?;
        Ok((guest, origin))
    })
    .await
    .and_then(|result| result);
    let (result, product) = match prepared {
        Ok((guest, origin)) => {
            let guest = Box::new(guest);
            (Ok(()), Product::Policy { guest, origin })
        }
        Err(failure) => (Err(failure), Product::Nothing),
    };
    Some(Done {
        slot,
        build: Some(build),
        input: Input::Warmed(build.generation, result),
        product,
    })
}

pub(super) async fn cut_over_connector(
    slot: usize,
    build: Build,
    controls: Vec<mpsc::Sender<Control>>,
    prepared: Vec<Prepared>,
    first: bool,
) -> Option<Done> {
    let mut replies = Vec::with_capacity(controls.len());
    for (controls, prepared) in controls.iter().zip(prepared) {
        let (reply, replied) = oneshot::channel();
        let prepared = Box::new(prepared);
        if controls
            .send(Control::CutOver { prepared, reply })
            .await
            .is_err()
        {
            tracing::debug!(%build, "an instance ended before its cut-over");
        }
        replies.push(replied);
    }
    let mut results = Vec::with_capacity(replies.len());
    for replied in replies {
        let ended = Err(Failure::new(Reason::Host, "the instance has ended"));
        results.push(replied.await.unwrap_or(ended));
    }
    let (result, took_over) = judge(&results, first);
    Some(Done {
        slot,
        build: Some(build),
        input: Input::CutOver(build.generation, result),
        product: Product::TookOver(took_over),
    })
}

/// A swap succeeds when every instance made it. A first load has nothing to go back to: it fails only when every
/// instance failed by the component's own doing; an instance that merely refused (its device, its configuration) is
/// tried again by itself.
fn judge(results: &[CutOverResult], first: bool) -> (Result<(), Failure>, TookOver) {
    let mut good = TookOver::default();
    for took_over in results.iter().flatten() {
        good.gap = good.gap.max(took_over.gap);
        good.clean = good.clean.or_else(|| took_over.clean.clone());
    }
    let tolerable = |result: &CutOverResult| match result {
        Ok(_) => true,
        Err(failure) => first && failure.reason == Reason::Refused,
    };
    if first && results.iter().any(tolerable) {
        return (Ok(()), good);
    }
    let failed = results.iter().find_map(|result| result.as_ref().err());
    (failed.map_or(Ok(()), |failure| Err(failure.clone())), good)
}

pub(super) async fn cut_over_policy(
    slot: usize,
    build: Build,
    work: mpsc::Sender<Work>,
    guest: Box<PolicyGuest>,
) -> Option<Done> {
    let (reply, replied) = oneshot::channel();
    let sent = work.send(Work::Replace { guest, reply }).await.is_ok();
    let replied = replied.await.ok().filter(|_| sent);
    let result = replied
        .map(|_gap| ())
        .ok_or_else(|| Failure::new(Reason::Host, "the policy's thread has ended"));
    Some(Done {
        slot,
        build: Some(build),
        input: Input::CutOver(build.generation, result),
        product: Product::TookOver(TookOver {
            gap: replied.unwrap_or_default(),
            clean: None,
        }),
    })
}

pub(super) fn roll_back(
    slot: usize,
    from: Build,
    target: &Target,
) -> impl Future<Output = Option<Done>> + Send + use<> {
    let mut instances = Vec::new();
    let mut policy = None;
    match target {
        Target::Connector {
            instances: handles, ..
        } => {
            instances = handles
                .iter()
                .map(|instance| instance.controls.clone())
                .collect();
        }
        Target::Policy { work, .. } => policy = Some(work.clone()),
    }
    async move {
        let mut replies = Vec::with_capacity(instances.len());
        for controls in instances {
            let (reply, replied) = oneshot::channel();
            if controls
                .send(Control::RollBack {
                    from: from.generation,
                    reply,
                })
                .await
                .is_ok()
            {
                replies.push(replied);
            }
        }
        if let Some(work) = policy {
            let (reply, replied) = oneshot::channel();
            if work
                .send(Work::RollBack {
                    from: from.generation,
                    reply,
                })
                .await
                .is_ok()
            {
                replies.push(replied);
            }
        }
        let mut gap = Duration::ZERO;
        for replied in replies {
            gap = gap.max(replied.await.unwrap_or_default());
        }
        let input = Input::RolledBack(from.generation);
        Some(Done {
            slot,
            build: Some(from),
            input,
            product: Product::TookOver(TookOver { gap, clean: None }),
        })
    }
}

pub(super) fn retire(
    target: &Target,
    old: Generation,
) -> impl Future<Output = Option<Done>> + Send + use<> {
    tell(
        target,
        move || Control::Retire { old },
        move || Some(Work::Retire { old }),
    )
}

pub(super) fn abandon(
    target: &Target,
    generation: Generation,
) -> impl Future<Output = Option<Done>> + Send + use<> {
    tell(target, move || Control::Abandon { generation }, || None)
}

/// Has instances that are down tried again at once. A policy is never down: the built-in one stands in.
pub(super) fn retry(target: &Target) -> impl Future<Output = Option<Done>> + Send + use<> {
    tell(target, || Control::Retry, || None)
}

/// Tells every instance, or the policy's thread. There is nothing to answer.
fn tell<C, W>(
    target: &Target,
    control: C,
    work: W,
) -> impl Future<Output = Option<Done>> + Send + use<C, W>
where
    C: Fn() -> Control + Send + Sync + 'static,
    W: FnOnce() -> Option<Work> + Send + 'static,
{
    let mut instances = Vec::new();
    let mut policy = None;
    match target {
        Target::Connector {
            instances: handles, ..
        } => {
            instances = handles
                .iter()
                .map(|instance| instance.controls.clone())
                .collect();
        }
        Target::Policy { work, .. } => policy = Some(work.clone()),
    }
    async move {
        for controls in instances {
            match controls.send(control()).await {
                // An instance that has ended keeps nothing.
                Ok(()) | Err(_) => {}
            }
        }
        if let (Some(policy), Some(work)) = (policy, work()) {
            match policy.send(work).await {
                // A thread that has ended keeps nothing.
                Ok(()) | Err(_) => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swap_needs_every_instance_and_a_first_load_only_one() {
        let took_over = |ms, clean: Option<&str>| TookOver {
            gap: Duration::from_millis(ms),
            clean: clean.map(Into::into),
        };
        let good = || Ok(took_over(3, None));
        let trap = || Err(Failure::new(Reason::Trapped, "unreachable"));
        let refused = || Err(Failure::new(Reason::Refused, "device: away"));
        let ok = |results: &[CutOverResult], first| judge(results, first).0.is_ok();
        assert!(ok(&[good(), good()], false));
        assert!(!ok(&[good(), trap()], false));
        assert!(!ok(&[good(), refused()], false));
        assert!(ok(&[good(), trap()], true));
        assert!(ok(&[refused()], true));
        assert!(!ok(&[trap(), trap()], true));
        assert_eq!(
            judge(&[good(), Ok(took_over(0, Some("schema 1")))], false).1,
            took_over(3, Some("schema 1"))
        );
    }
}
