//! The wasmtime engines, with what the guests of each share, and the thread that compiles them.
//!
//! Connectors run under epochs: cheap, and a guest that waits for its device is charged nothing. Policies run under fuel
//! too, so that a decision costs the same work everywhere; that is another engine, because it is a property of the
//! compiled code.

use std::sync::Arc;

use moorline_core::swap::{Digest, Failure, Reason};
use tokio::sync::{mpsc, oneshot};
use wasmtime::Config;
use wasmtime::component::Component;

use super::cache::digest_of;
use super::compiler;
use super::heavy;
use super::meter::{Meter, Turns};
use super::pulse::{Pulse, Running};

/// Native stack a guest may use.
const WASM_STACK_BYTES: usize = 512 * 1024;

/// Stack of the fibre a guest runs on: its own, and room for the host functions it calls.
const ASYNC_STACK_BYTES: usize = 1024 * 1024;

/// Candidates waiting for the compiler.
const COMPILATIONS_QUEUED: usize = 8;

/// What a component is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// World `connector`.
    Connector,
    /// World `reconnect-policy`.
    Policy,
}

impl Kind {
    /// The world's name, for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connector => "connector",
            Self::Policy => "reconnect-policy",
        }
    }

    /// What it is called on the command line.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Connector => "connector",
            Self::Policy => "policy",
        }
    }

    /// What it is, for people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Connector => "connector",
            Self::Policy => "reconnect policy",
        }
    }
}

/// An engine of wasmtime, the clock that interrupts what runs in it, and who takes turns there. Cheap to clone; the ticking
/// ends when the last clone is gone.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    wasmtime: wasmtime::Engine,
    pulse: Arc<Pulse>,
    turns: Arc<Turns>,
}

/// What code is compiled and Stores are made with.
impl std::ops::Deref for Engine {
    type Target = wasmtime::Engine;

    fn deref(&self) -> &Self::Target {
        &self.wasmtime
    }
}

impl Engine {
    /// One for each configuration, under one clock.
    pub(crate) fn start<const N: usize>(configs: [Config; N]) -> Result<[Self; N], Failure> {
        let mut made = Vec::with_capacity(N);
        for config in configs {
            let engine = wasmtime::Engine::new(&config);
            made.push(engine.map_err(|error| Failure::new(Reason::Host, format!("{error:#}")))?);
        }
        let weak = made.iter().map(wasmtime::Engine::weak).collect();
        let pulse = Arc::new(Pulse::start(weak).map_err(|error| no_thread("epochs", &error))?);
        let turns = Arc::new(Turns::new());
        Ok(std::array::from_fn(|at| Self {
            wasmtime: made[at].clone(),
            pulse: Arc::clone(&pulse),
            turns: Arc::clone(&turns),
        }))
    }

    /// For the calls of one guest.
    pub(crate) fn meter(&self) -> Meter {
        Meter::new(Arc::clone(&self.pulse), Arc::clone(&self.turns))
    }

    /// A guest begins to run that has no meter.
    pub(crate) fn running(&self) -> Running<'_> {
        self.pulse.running()
    }
}

/// The engines.
#[derive(Clone)]
pub(crate) struct Engines {
    connectors: Engine,
    policies: Engine,
    compiler: mpsc::Sender<Compilation>,
}

struct Compilation {
    kind: Kind,
    digest: Digest,
    bytes: Arc<Vec<u8>>,
    /// Who waits for it and is told that it begins; one that is only looked at is not.
    whose: Option<Arc<str>>,
    reply: oneshot::Sender<Result<Compiled, Failure>>,
}

/// What the compiler answers with.
#[derive(Clone)]
pub(crate) struct Compiled {
    pub(crate) component: Component,
    /// It was made for whoever asked before, who keeps it on the disk, too.
    pub(crate) shared: bool,
}

impl Engines {
    pub(crate) fn start() -> Result<Self, Failure> {
        let [connectors, policies] =
            Engine::start([config(Kind::Connector), config(Kind::Policy)])?;
        let (compiler, queue) = mpsc::channel(COMPILATIONS_QUEUED);
        let engines = (connectors.clone(), policies.clone());
        std::thread::Builder::new()
            .name("compiler".into())
            .spawn(move || {
                heavy::give_way();
                compile_all(&engines, queue);
            })
            .map_err(|error| no_thread("compiler", &error))?;
        Ok(Self {
            connectors,
            policies,
            compiler,
        })
    }

    pub(crate) fn of(&self, kind: Kind) -> &Engine {
        match kind {
            Kind::Connector => &self.connectors,
            Kind::Policy => &self.policies,
        }
    }

    /// Compiles one component after the other: the link must go on.
    pub(crate) async fn compile(
        &self,
        kind: Kind,
        bytes: Arc<Vec<u8>>,
    ) -> Result<Component, Failure> {
        let digest = digest_of(&bytes);
        let compiled = self.compile_shared(kind, digest, bytes, None).await?;
        Ok(compiled.component)
    }

    /// The same for many who may wait for one component: they get the same code.
    pub(crate) async fn compile_shared(
        &self,
        kind: Kind,
        digest: Digest,
        bytes: Arc<Vec<u8>>,
        whose: Option<Arc<str>>,
    ) -> Result<Compiled, Failure> {
        let gone = || Failure::new(Reason::Host, "the compiler has stopped");
        let (reply, answer) = oneshot::channel();
        let compilation = Compilation {
            kind,
            digest,
            bytes,
            whose,
            reply,
        };
        self.compiler
            .send(compilation)
            .await
            .map_err(|_closed| gone())?;
        answer.await.unwrap_or_else(|_closed| Err(gone()))
    }
}

/// What an engine is like.
pub(crate) fn config(kind: Kind) -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .consume_fuel(kind == Kind::Policy)
        .concurrency_support(false)
        .max_wasm_stack(WASM_STACK_BYTES)
        .async_stack_size(ASYNC_STACK_BYTES);
    config
}

fn no_thread(name: &str, error: &std::io::Error) -> Failure {
    Failure::new(Reason::Host, format!("no thread for {name}: {error}"))
}

/// Ends when the last `Engines` is gone; it keeps the engines themselves alive until then.
fn compile_all(engines: &(Engine, Engine), mut queue: mpsc::Receiver<Compilation>) {
    // A gateway with a hundred connectors of one component starts all at once. It is one component that is kept, and most
    // often one that serves.
    let mut last: Option<(Kind, Digest, Component)> = None;
    while let Some(Compilation {
        kind,
        digest,
        bytes,
        whose,
        reply,
    }) = queue.blocking_recv()
    {
        // Whoever asked has given the candidate up.
        if reply.is_closed() {
            continue;
        }
        let known = last
            .as_ref()
            .filter(|(of, known, _)| (*of, *known) == (kind, digest));
        let compiled = match known {
            Some((_, _, component)) => Ok(Compiled {
                component: component.clone(),
                shared: true,
            }),
            None => {
                if let Some(component) = &whose {
                    let kib = bytes.len() / 1024;
                    tracing::info!(component = &**component, %digest, kib, "compiling the plugin; once for each build");
                }
                compile(engines, kind, &bytes, &|| !reply.is_closed())
            }
        };
        if let Ok(compiled) = &compiled {
            last = Some((kind, digest, compiled.component.clone()));
        }
        match reply.send(compiled) {
            // Whoever asked has given the candidate up.
            Ok(()) | Err(_) => {}
        }
    }
}

fn compile(
    engines: &(Engine, Engine),
    kind: Kind,
    bytes: &[u8],
    waits: &dyn Fn() -> bool,
) -> Result<Compiled, Failure> {
    let engine = match kind {
        Kind::Connector => &engines.0,
        Kind::Policy => &engines.1,
    };
    compiler::compile(engine, kind, bytes, waits).map(|component| Compiled {
        component,
        shared: false,
    })
}
