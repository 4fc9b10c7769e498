//! Looking at a component without letting it serve.

use std::path::Path;
use std::sync::Arc;

use moorline_core::swap::{Build, Digest, Failure, Generation, Reason};

use super::cache::digest_of;
use super::engine::{Engines, Kind};
use super::guest::{self, Loaded};
use super::policy;
use super::settings::Limits;
use super::swapper::read;
use super::world::{self, Interfaces};

/// What a component is.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Its world.
    pub kind: Kind,
    /// The name it gives itself.
    pub name: String,
    /// The version it gives itself.
    pub version: String,
    /// JSON Schema of its configuration; empty if it takes none.
    pub configuration_schema: String,
    /// Version of the hand-over bytes it writes; `None` for a policy.
    pub hand_over_schema: Option<u32>,
    /// Interfaces it imports: all it can reach.
    pub imports: Vec<String>,
    /// Interfaces it exports.
    pub exports: Vec<String>,
    /// Size of its file.
    pub bytes: u64,
    /// SHA-256 of its file.
    pub digest: Digest,
}

/// Compiles the component at `path`, checks it against its world and lets it describe itself in a Store with nothing
/// behind its imports. Nothing is kept.
///
/// # Errors
/// When it could not be loaded by a gateway either, with the reason.
pub async fn inspect(path: &Path) -> Result<Inspection, Failure> {
    let owned = path.to_owned();
    let bytes = tokio::task::spawn_blocking(move || read(&owned))
        .await
        .map_err(|error| Failure::new(Reason::Host, error.to_string()))??;
    world::check_header(&bytes)?;
    let engines = Engines::start()?;
    let digest = digest_of(&bytes);
    let length = bytes.len() as u64;
    let build = Build {
        generation: Generation(0),
        digest,
    };
    // The world is not known before it is compiled; most are connectors.
    let bytes = Arc::new(bytes);
    let compiled = engines.compile(Kind::Connector, bytes.clone()).await;
    let component = compiled.map_err(world::explain_compile_error)?;
    let interfaces = Interfaces::of(&component, engines.of(Kind::Connector));
    let kind = interfaces.kind().unwrap_or(Kind::Connector);
    world::check(&interfaces, kind)?;
    let mut inspection = Inspection {
        kind,
        name: String::new(),
        version: String::new(),
        configuration_schema: String::new(),
        hand_over_schema: None,
        imports: interfaces.imports,
        exports: interfaces.exports,
        bytes: length,
        digest,
    };
    match kind {
        Kind::Connector => {
            let engine = engines.of(Kind::Connector);
            let pre = guest::link(engine, &component)?;
            let loaded =
                Loaded::describe(engine, pre, build, &"inspect".into(), &Limits::default()).await?;
            inspection.name.clone_from(&loaded.description.name);
            inspection.version.clone_from(&loaded.description.version);
            inspection
                .configuration_schema
                .clone_from(&loaded.description.configuration_schema);
            inspection.hand_over_schema = Some(loaded.description.hand_over_schema);
        }
        Kind::Policy => {
            let component = engines.compile(Kind::Policy, bytes).await?;
            let engine = engines.of(Kind::Policy).clone();
            let pre = policy::link(&engine, &component)?;
            let described = tokio::task::spawn_blocking(move || policy::describe(&engine, &pre));
            let description = described
                .await
                .map_err(|error| Failure::new(Reason::Host, error.to_string()))??;
            inspection.name = description.name;
            inspection.version = description.version;
            inspection.configuration_schema = description.configuration_schema;
        }
    }
    Ok(inspection)
}
