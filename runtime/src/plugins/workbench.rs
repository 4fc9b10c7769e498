//! A component in the host's engine and under its limits, step by step and without a gateway around it: for benches that
//! tell what each step costs, and what it would cost without the limits. Whoever holds it also holds the clock.

use std::path::Path;
use std::time::Duration;

use moorline_core::swap::{Build, Digest, Failure, Generation, Reason};
use wasmtime::Store;
use wasmtime::component::Component;

use super::bindings::connector::exports::moorline::edge::connector_guest::{
    Event, RpcRequest, Setup,
};
use super::bindings::connector::{Connector, ConnectorPre};
use super::cache::{Cache, digest_of};
use super::engine::{self, Engine, Kind};
use super::grants::Sandbox;
use super::guest::{self, Guest, Loaded};
use super::settings::Limits;
use super::store::HostState;
use super::world;

/// Fuel that no measurement uses up.
const FUEL: u64 = u64::MAX / 2;

/// What a guest on the workbench is held by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confinement {
    /// Nothing but the sandbox.
    None,
    /// The clock that interrupts it.
    Epochs,
    /// The bounds of memory, tables, handles and host calls.
    Limiter,
    /// All that a connector is held by in a gateway, with the deadlines around each call.
    Gateway,
    /// The same, and its instructions are counted, as a policy's are.
    Fuel,
}

impl Confinement {
    const fn has_epochs(self) -> bool {
        match self {
            Self::None | Self::Limiter => false,
            Self::Epochs | Self::Gateway | Self::Fuel => true,
        }
    }
}

/// An engine and a cache of compiled components.
#[derive(Debug)]
pub struct Workbench {
    engine: Engine,
    cache: Cache,
    confinement: Confinement,
    limits: Limits,
}

/// A component that was compiled, now or earlier.
#[derive(Debug)]
pub struct Sample {
    component: Component,
    digest: Digest,
}

/// A component that fits its world and can be instantiated.
pub struct Ready {
    pre: ConnectorPre<HostState>,
    loaded: Option<Loaded>,
    engine: Engine,
    confinement: Confinement,
    limits: Limits,
}

/// One guest. Nothing is behind its imports: what it emits is taken over the boundary and refused there.
pub struct Subject(Held);

enum Held {
    ByGateway(Guest),
    Otherwise {
        engine: Engine,
        store: Store<HostState>,
        world: Connector,
    },
}

fn of_host(error: wasmtime::Error) -> Failure {
    Failure::new(Reason::Host, format!("{error:#}"))
}

fn trapped(error: wasmtime::Error) -> Failure {
    Failure::new(Reason::Trapped, format!("{error:#}"))
}

impl Workbench {
    /// Sets one up; compiled components are kept in `directory`.
    ///
    /// # Errors
    /// When the engine cannot start.
    pub fn set_up(
        directory: &Path,
        confinement: Confinement,
        limits: Limits,
    ) -> Result<Self, Failure> {
        let mut config = engine::config(Kind::Connector);
        config
            .epoch_interruption(confinement.has_epochs())
            .consume_fuel(confinement == Confinement::Fuel);
        let [engine] = Engine::start([config])?;
        Ok(Self {
            engine,
            cache: Cache::open(directory, u64::MAX),
            confinement,
            limits,
        })
    }

    /// Compiles.
    ///
    /// # Errors
    /// When it is no component this host knows.
    pub fn compile(&self, bytes: &[u8]) -> Result<Sample, Failure> {
        let component = Component::from_binary(&self.engine, bytes)
            .map_err(of_host)
            .map_err(world::explain_compile_error)?;
        Ok(Sample {
            component,
            digest: digest_of(bytes),
        })
    }

    /// Keeps what was compiled.
    pub fn keep(&self, sample: &Sample) {
        let (component, digest) = (&sample.component, sample.digest);
        self.cache.store(&self.engine, digest, component, 0);
    }

    /// What was kept of this component, checked and loaded.
    #[must_use]
    pub fn load(&self, digest: Digest) -> Option<Sample> {
        let component = self.cache.load(&self.engine, digest)?;
        Some(Sample { component, digest })
    }

    /// Connects it to the host's functions.
    ///
    /// # Errors
    /// When it does not fit the world `connector`, or cannot describe itself.
    pub async fn prepare(&self, sample: &Sample) -> Result<Ready, Failure> {
        let pre = guest::link(&self.engine, &sample.component)?;
        let loaded = match self.confinement {
            Confinement::Gateway => {
                let build = Build {
                    generation: Generation(0),
                    digest: sample.digest,
                };
                let (engine, limits) = (&self.engine, &self.limits);
                Some(Loaded::describe(engine, pre.clone(), build, limits).await?)
            }
            Confinement::None | Confinement::Epochs | Confinement::Limiter | Confinement::Fuel => {
                None
            }
        };
        Ok(Ready {
            pre,
            loaded,
            engine: self.engine.clone(),
            confinement: self.confinement,
            limits: self.limits,
        })
    }
}

impl Sample {
    /// SHA-256 of the component.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

impl Ready {
    /// A guest that was not started.
    ///
    /// # Errors
    /// When it traps or takes more than it may.
    pub async fn instantiate(&self) -> Result<Subject, Failure> {
        if let Some(loaded) = &self.loaded {
            let guest = loaded.instantiate(&Sandbox::closed(&self.limits)).await?;
            return Ok(Subject(Held::ByGateway(guest)));
        }
        let mut store = self.store()?;
        let engine = self.engine.clone();
        let running = engine.running();
        let world = self
            .pre
            .instantiate_async(&mut store)
            .await
            .map_err(trapped)?;
        drop(running);
        Ok(Subject(Held::Otherwise {
            engine,
            store,
            world,
        }))
    }

    fn store(&self) -> Result<Store<HostState>, Failure> {
        // Nothing measures call by call here: to the meter all of them would be one.
        let limits = Limits {
            call_cpu: Duration::MAX,
            ..self.limits
        };
        let state = HostState::new(&self.engine, &Sandbox::closed(&limits));
        Ok(match self.confinement {
            Confinement::None => Store::new(&self.engine, state),
            Confinement::Epochs => {
                let mut store = Store::new(&self.engine, state);
                store.epoch_deadline_async_yield_and_update(1);
                store.set_epoch_deadline(1);
                store
            }
            Confinement::Limiter | Confinement::Gateway => state.into_store(&self.engine),
            Confinement::Fuel => {
                let mut store = state.into_store(&self.engine);
                store.set_fuel(FUEL).map_err(of_host)?;
                store
            }
        })
    }
}

impl Subject {
    /// Starts it with an empty configuration.
    ///
    /// # Errors
    /// When it traps, or refuses.
    pub async fn start(&mut self) -> Result<(), Failure> {
        let setup = Setup {
            instance: "workbench".to_owned(),
            configuration: "{}".to_owned(),
            granted_streams: Vec::new(),
            hand_over: None,
        };
        let refused = match &mut self.0 {
            Held::ByGateway(guest) => guest.start(&setup).await?.err(),
            Held::Otherwise {
                engine,
                store,
                world,
            } => {
                let _running = engine.running();
                store.data_mut().cpu.begin();
                let guest = world.moorline_edge_connector_guest();
                let answer = guest.call_start(store, &setup).await;
                answer.map_err(trapped)?.err()
            }
        };
        match refused {
            Some(fault) => Err(Failure::new(Reason::Refused, format!("{fault:?}"))),
            None => Ok(()),
        }
    }

    /// Tells it of a request, whose answer goes nowhere.
    ///
    /// # Errors
    /// When it traps. A fault is an answer like any other.
    pub async fn ask(&mut self, method: &str, params: &str) -> Result<(), Failure> {
        let event = Event::Rpc(RpcRequest {
            id: 1,
            device: String::new(),
            method: method.to_owned(),
            params: params.to_owned(),
        });
        self.handle(&event).await
    }

    /// Wakes it.
    ///
    /// # Errors
    /// When it traps. A fault is an answer like any other.
    pub async fn wake(&mut self) -> Result<(), Failure> {
        self.handle(&Event::Timer).await
    }

    async fn handle(&mut self, event: &Event) -> Result<(), Failure> {
        match &mut self.0 {
            Held::ByGateway(guest) => drop(guest.handle(event).await?),
            Held::Otherwise {
                engine,
                store,
                world,
            } => {
                let _running = engine.running();
                // As a gateway does before each call; otherwise a long measurement would count as one.
                store.data_mut().cpu.begin();
                let guest = world.moorline_edge_connector_guest();
                let answer = guest.call_handle(store, event).await;
                drop(answer.map_err(trapped)?);
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Ready {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ready")
            .field("confinement", &self.confinement)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subject").finish_non_exhaustive()
    }
}
