//! `moorline plugin test`: whether a component keeps the contract, the same rules for every language.
//!
//! ```text
//!             ┌── fake platform: takes readings, or is behind
//!  rule ──► life of a guest, in the real host: engine, limits, host functions, streams
//!             └── fake device: answers, is silent, garbles, breaks, closes
//! ```
//!
//! Each rule has lives of its own, so that one that is broken does not hide the next. A rule that cannot be judged, for
//! want of a device that answers, or because no life gets as far, is skipped and says so.

mod answers;
mod back_pressure;
mod bench;
mod configurations;
mod connector;
mod device;
mod first_start;
mod hand_over;
mod life;
mod platform;
mod policy;
mod rules;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use moorline_core::swap::{Build, Digest, Failure, Generation, Reason};

pub use answers::Answer;
pub(crate) use first_start::{Unstarted, unstarted};
pub use rules::{Check, Outcome, Rule};

use super::cache::digest_of;
use super::engine::{Engines, Kind};
use super::guest::{self, Loaded};
use super::settings::Limits;
use super::stream_target::StreamTarget;
use super::swapper::read;
use super::world::{self, Interfaces};
use bench::Bench;

/// What a component is tested with.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// A configuration that works.
    pub configuration: serde_json::Value,
    /// The peer at the other end of its stream.
    pub device: Device,
    /// The name of the stream it is granted.
    pub stream: String,
    /// What it may use.
    pub limits: Limits,
}

/// The peer at the other end of a connector's stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// There is none, and no stream is granted.
    None,
    /// A fake one that knows these answers. Without any it listens and never says a word.
    Fake(Vec<Answer>),
    /// A real one, or its simulator; the suite stands between and disturbs.
    Real(StreamTarget),
}

/// How a component did.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Its world.
    pub kind: Kind,
    /// The name it gives itself.
    pub name: String,
    /// The version it gives itself.
    pub version: String,
    /// SHA-256 of its file.
    pub digest: Digest,
    /// Each rule of its world, in order.
    pub checks: Vec<Check>,
}

impl Report {
    /// Whether no rule is broken.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.checks
            .iter()
            .all(|check| !matches!(check.outcome, Outcome::Broken(_)))
    }
}

/// A fake device that listens on its own, for trying a plugin in a gateway without hardware.
#[derive(Debug)]
pub struct Standalone(device::FakeDevice);

impl Standalone {
    /// Listens at `address` and answers as the plan says, until it is dropped.
    ///
    /// # Errors
    /// When an answer is wrong or nothing can listen there.
    pub async fn start(answers: &[Answer], address: SocketAddr) -> Result<Self, String> {
        let rules = answers::rules(answers)?;
        let answering = device::Answering::Rules(rules.into());
        let listening = device::FakeDevice::start(answering, address).await;
        listening.map(Self).map_err(|error| {
            format!("cannot listen at {address}: {error}; --listen 127.0.0.1:0 takes any free port")
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }
}

/// Puts the component at `path` through the rules of its world; `checked` hears of each as it is judged.
///
/// # Errors
/// When a gateway could not load the component either, or the plan's answers are wrong.
pub async fn test(
    path: &Path,
    plan: Plan,
    checked: &mut dyn FnMut(&Check),
) -> Result<Report, Failure> {
    let host = |error: String| Failure::new(Reason::Host, error);
    let owned = path.to_owned();
    let bytes = tokio::task::spawn_blocking(move || read(&owned))
        .await
        .map_err(|error| host(error.to_string()))??;
    world::check_header(&bytes)?;
    let engines = Engines::start()?;
    let build = Build {
        generation: Generation(0),
        digest: digest_of(&bytes),
    };
    let bytes = Arc::new(bytes);
    // The world is not known before it is compiled; most are connectors.
    let compiled = engines.compile(Kind::Connector, bytes.clone()).await;
    let component = compiled.map_err(world::explain_compile_error)?;
    let interfaces = Interfaces::of(&component, engines.of(Kind::Connector));
    let kind = interfaces.kind().unwrap_or(Kind::Connector);
    world::check(&interfaces, kind)?;
    let (name, version, checks) = match kind {
        Kind::Connector => {
            let engine = engines.of(kind);
            let pre = guest::link(engine, &component)?;
            let loaded = Loaded::describe(engine, pre, build, &plan.limits).await?;
            let bench = Bench::set_up(loaded, plan).await?;
            let checks = connector::judge(&bench, checked).await;
            let description = &bench.loaded.description;
            (
                description.name.clone(),
                description.version.clone(),
                checks,
            )
        }
        Kind::Policy => {
            let component = engines.compile(kind, bytes).await?;
            let engine = engines.of(kind).clone();
            let judged = tokio::task::spawn_blocking(move || {
                policy::judge(&engine, &component, build, &plan.configuration)
            });
            let judged = judged.await.map_err(|error| host(error.to_string()))??;
            judged.2.iter().for_each(checked);
            judged
        }
    };
    Ok(Report {
        kind,
        name,
        version,
        digest: build.digest,
        checks,
    })
}
