//! Looking at a component without letting it serve.

use std::path::Path;
use std::sync::Arc;

use moorline_core::swap::{Build, Digest, Failure, Generation, Reason};
use moorline_core::trust::{self, Origin, Signer};
use wasmparser::{KnownCustom, Parser, Payload};

use super::cache::digest_of;
use super::contract::{self, Contract};
use super::engine::{Engines, Kind};
use super::guest::{self, Loaded};
use super::policy;
use super::settings::Limits;
use super::swapper::read;
use super::world::{self, Interfaces};
use crate::trust::{signer, signer_of_either};

/// Tools of its making that are shown, and characters of each.
const TOOLS_MAX: usize = 32;
const TOOL_CHARS_MAX: usize = 80;

/// What a component is.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Its world.
    pub kind: Kind,
    /// The version of the contract it was made for, as far as versions must be the same: `0.1`.
    pub contract: String,
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
    /// Of these, those of our package that this host never calls: of a newer version of the contract.
    pub uncalled: Vec<String>,
    /// Who has signed it, or why that is not proven.
    pub signature: Result<Signer, Failure>,
    /// The tools that made it, as they say: language, compiler, bindings.
    pub tools: Vec<String>,
    /// Size of its file.
    pub bytes: u64,
    /// SHA-256 of its file.
    pub digest: Digest,
}

/// Compiles the component at `path`, checks it against its world and lets it describe itself in a Store with nothing
/// behind its imports. Its signature is checked with the keys of `trust`, whatever its policy. Nothing is kept.
///
/// # Errors
/// When it could not be loaded by a gateway that trusts everybody either, with the reason.
pub async fn inspect(path: &Path, trust: &trust::Settings) -> Result<Inspection, Failure> {
    let inspected = inspect_to_start(path, trust).await?;
    Ok(inspected.inspection)
}

/// What was looked at, compiled.
pub(crate) struct Inspected {
    pub(crate) inspection: Inspection,
    /// The connector, if it is one.
    pub(crate) loaded: Option<Loaded>,
}

/// As [`inspect`], for who goes on with it.
pub(crate) async fn inspect_to_start(
    path: &Path,
    trust: &trust::Settings,
) -> Result<Inspected, Failure> {
    let (bytes, digest, signature) = read_signed(path, trust, signer_of_either).await?;
    let engines = Engines::start()?;
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
    let contract = world::check(&interfaces, kind)?;
    let mut inspection = Inspection {
        kind,
        contract: contract.to_string(),
        uncalled: contract::uncalled(&interfaces.exports).cloned().collect(),
        signature,
        tools: tools(&bytes),
        name: String::new(),
        version: String::new(),
        configuration_schema: String::new(),
        hand_over_schema: None,
        imports: interfaces.imports,
        exports: interfaces.exports,
        bytes: length,
        digest,
    };
    let connector = match (contract, kind) {
        (Contract::V0_1, Kind::Connector) => {
            let engine = engines.of(Kind::Connector);
            let pre = guest::link(engine, &component).map_err(contract::explain_types)?;
            let loaded = Loaded::describe(engine, pre, build, &Limits::default()).await?;
            inspection.name.clone_from(&loaded.description.name);
            inspection.version.clone_from(&loaded.description.version);
            inspection
                .configuration_schema
                .clone_from(&loaded.description.configuration_schema);
            inspection.hand_over_schema = Some(loaded.description.hand_over_schema);
            Some(loaded)
        }
        (Contract::V0_1, Kind::Policy) => {
            let component = engines.compile(Kind::Policy, bytes).await?;
            let engine = engines.of(Kind::Policy).clone();
            let pre = policy::link(&engine, &component).map_err(contract::explain_types)?;
            let described = tokio::task::spawn_blocking(move || policy::describe(&engine, &pre));
            let description = described
                .await
                .map_err(|error| Failure::new(Reason::Host, error.to_string()))??;
            inspection.name = description.name;
            inspection.version = description.version;
            inspection.configuration_schema = description.configuration_schema;
            None
        }
    };
    inspection.check_release();
    Ok(Inspected {
        inspection,
        loaded: connector,
    })
}

/// Who has signed the component at `path`, of which nothing is made.
///
/// # Errors
/// When it cannot be read, is none by its header, or that cannot be proven.
pub async fn signer_of(path: &Path, trust: &trust::Settings) -> Result<Signer, Failure> {
    let (_, _, signature) = read_signed(path, trust, signer).await?;
    signature
}

/// What is in the file, and who has signed it, as `look` finds it.
async fn read_signed(
    path: &Path,
    trust: &trust::Settings,
    look: fn(&[u8], Digest, &Path, &trust::Settings) -> Result<Signer, Failure>,
) -> Result<(Vec<u8>, Digest, Result<Signer, Failure>), Failure> {
    let owned = path.to_owned();
    let keys = trust.clone();
    let looked = tokio::task::spawn_blocking(move || {
        let bytes = read(&owned)?;
        world::check_header(&bytes)?;
        let digest = digest_of(&bytes);
        let signature = look(&bytes, digest, &owned, &keys);
        Ok((bytes, digest, signature))
    });
    looked
        .await
        .map_err(|error| Failure::new(Reason::Host, error.to_string()))?
}

impl Inspection {
    /// A signature proves something only of the release that its signer meant.
    fn check_release(&mut self) {
        let meant = self.signature.as_ref().map_or(Ok(()), |signer| {
            signer.claim().check_release(&self.name, &self.version)
        });
        if let Err(failure) = meant {
            self.signature = Err(failure);
        }
    }

    /// What a gateway with these settings makes of its signature.
    ///
    /// # Errors
    /// When it would refuse the component.
    pub fn origin(&self, trust: &trust::Settings) -> Result<Origin, Failure> {
        trust.admit(self.signature.clone())
    }
}

/// What the `producers` sections of the component and the modules in it name, each once. What was compiled is whole, so
/// that nothing is wrong with a file in which none is found.
fn tools(bytes: &[u8]) -> Vec<String> {
    let mut tools = Vec::new();
    for payload in Parser::new(0).parse_all(bytes).map_while(Result::ok) {
        let Payload::CustomSection(section) = payload else {
            continue;
        };
        let KnownCustom::Producers(fields) = section.as_known() else {
            continue;
        };
        let fields = fields.into_iter().map_while(Result::ok);
        for value in fields.flat_map(|field| field.values.into_iter().map_while(Result::ok)) {
            let plain = |c: char| if c.is_control() { ' ' } else { c };
            let tool = format!("{} {}", value.name, value.version);
            let tool: String = tool
                .trim()
                .chars()
                .take(TOOL_CHARS_MAX)
                .map(plain)
                .collect();
            if tools.len() < TOOLS_MAX && !tools.contains(&tool) {
                tools.push(tool);
            }
        }
    }
    tools
}
