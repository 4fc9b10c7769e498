//! Is this file a component of the world it is meant for? Answered before anything of it runs.

use moorline_core::swap::{Failure, Reason};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::engine::Kind;

/// Larger files are refused before they are compiled.
pub(crate) const COMPONENT_BYTES_MAX: u64 = 64 * 1024 * 1024;

const WASM_MAGIC: &[u8; 4] = b"\0asm";
const COMPONENT_LAYER: [u8; 4] = [0x0d, 0, 1, 0];
const CORE_MODULE_LAYER: [u8; 4] = [1, 0, 0, 0];

const PACKAGE: &str = "moorline:edge/";
/// What this host speaks. An import of any 0.1.x fits; an export must be of exactly the version the bindings name.
const CONNECTOR_EXPORT: &str = "moorline:edge/connector-guest@0.1.0";
const POLICY_EXPORT: &str = "moorline:edge/policy-guest@0.1.0";
const CONTRACT: (u64, u64) = (0, 1);

/// Interfaces of `moorline:edge` a connector may import.
const CONNECTOR_IMPORTS: [&str; 8] = [
    "types",
    "telemetry",
    "devices",
    "rpc",
    "streams",
    "log",
    "clock",
    "state",
];

/// Packages of WASI that are there for the sake of language run-times, with nothing behind them that reaches out:
/// no directory, no network, no environment.
const WASI_PACKAGES: [&str; 6] = [
    "wasi:io/",
    "wasi:clocks/",
    "wasi:random/",
    "wasi:cli/",
    "wasi:filesystem/",
    "wasi:sockets/",
];

fn not_a_component(detail: impl Into<String>) -> Failure {
    Failure::new(Reason::NotAComponent, detail)
}

fn wrong_world(detail: impl Into<String>) -> Failure {
    Failure::new(Reason::WrongWorld, detail)
}

/// Looks at the first bytes: catches what a compiler would report in words nobody understands.
pub(crate) fn check_header(bytes: &[u8]) -> Result<(), Failure> {
    let Some((magic, rest)) = bytes.split_first_chunk::<4>() else {
        return Err(not_a_component(format!(
            "the file has {} bytes and ends before its header",
            bytes.len()
        )));
    };
    if magic != WASM_MAGIC {
        return Err(not_a_component("the file is not WebAssembly"));
    }
    match rest.first_chunk::<4>() {
        Some(&COMPONENT_LAYER) => Ok(()),
        Some(&CORE_MODULE_LAYER) => Err(not_a_component(
            "it is a core module; `moorline plugin build` makes a component of a plugin crate",
        )),
        Some(layer) => Err(not_a_component(format!(
            "its header names an unknown kind of WebAssembly ({layer:02x?})"
        ))),
        None => Err(not_a_component("the file ends in the middle of its header")),
    }
}

/// Turns a compiler's refusal into words about the file.
pub(crate) fn explain_compile_error(failure: Failure) -> Failure {
    let cut_off = ["unexpected end", "end-of-file", "is out of bounds (bound"];
    if cut_off.iter().any(|words| failure.detail.contains(words)) {
        return not_a_component(format!("the file is cut off: {}", failure.detail));
    }
    failure
}

/// The names a component imports and exports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interfaces {
    pub(crate) imports: Vec<String>,
    pub(crate) exports: Vec<String>,
}

impl Interfaces {
    pub(crate) fn of(component: &Component, engine: &Engine) -> Self {
        let ty = component.component_type();
        Self {
            imports: ty
                .imports(engine)
                .map(|(name, _)| name.to_owned())
                .collect(),
            exports: ty
                .exports(engine)
                .map(|(name, _)| name.to_owned())
                .collect(),
        }
    }

    /// The world it was made for, if it is one of ours.
    pub(crate) fn kind(&self) -> Option<Kind> {
        let exports = |wanted: &str| {
            self.exports
                .iter()
                .any(|name| unversioned(name) == unversioned(wanted))
        };
        if exports(CONNECTOR_EXPORT) {
            Some(Kind::Connector)
        } else if exports(POLICY_EXPORT) {
            Some(Kind::Policy)
        } else {
            None
        }
    }
}

fn unversioned(name: &str) -> &str {
    name.split_once('@').map_or(name, |(name, _)| name)
}

/// Compares exports and imports with the world `kind`. Says what is missing or too much, by name.
pub(crate) fn check(interfaces: &Interfaces, kind: Kind) -> Result<(), Failure> {
    let (world, export) = match kind {
        Kind::Connector => ("connector", CONNECTOR_EXPORT),
        Kind::Policy => ("reconnect-policy", POLICY_EXPORT),
    };
    if !interfaces.exports.iter().any(|name| name == export) {
        let other = |name: &&String| unversioned(name) == unversioned(export);
        return Err(wrong_world(
            if let Some(other) = interfaces.exports.iter().find(other) {
                format!("it exports {other}; this host speaks {export}")
            } else if let Some(kind) = interfaces.kind() {
                let is = match kind {
                    Kind::Connector => "a connector",
                    Kind::Policy => "a reconnect policy",
                };
                format!("it is {is}; world {world} needs the export {export}")
            } else {
                let exports = interfaces.exports.join(", ");
                format!("it does not export {export}, but [{exports}]")
            },
        ));
    }
    interfaces
        .imports
        .iter()
        .try_for_each(|import| check_import(import, kind, world))
}

fn check_import(import: &str, kind: Kind, world: &str) -> Result<(), Failure> {
    if kind == Kind::Policy {
        return Err(wrong_world(format!(
            "it imports {import}; a reconnect policy may import nothing"
        )));
    }
    if WASI_PACKAGES
        .iter()
        .any(|package| import.starts_with(package))
    {
        return Ok(());
    }
    let refused = || {
        wrong_world(format!(
            "it imports {import}, which world {world} does not grant"
        ))
    };
    let ours = import.strip_prefix(PACKAGE).ok_or_else(refused)?;
    let (interface, version) = ours.split_once('@').unwrap_or((ours, "0.1.0"));
    if !CONNECTOR_IMPORTS.contains(&interface) {
        return Err(refused());
    }
    let mut numbers = version
        .split('.')
        .map_while(|part| part.parse::<u64>().ok());
    if (numbers.next(), numbers.next()) == (Some(CONTRACT.0), Some(CONTRACT.1)) {
        Ok(())
    } else {
        Err(wrong_world(format!(
            "it imports {import}; this host speaks {PACKAGE}{interface}@{}.{}",
            CONTRACT.0, CONTRACT.1
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interfaces(imports: &[&str], exports: &[&str]) -> Interfaces {
        Interfaces {
            imports: imports.iter().map(|s| (*s).to_owned()).collect(),
            exports: exports.iter().map(|s| (*s).to_owned()).collect(),
        }
    }

    fn detail(result: Result<(), Failure>) -> String {
        result.unwrap_err().detail
    }

    #[test]
    fn headers_tell_components_from_everything_else() {
        assert_eq!(check_header(b"\0asm\x0d\0\x01\0rest"), Ok(()));
        assert!(detail(check_header(b"\0asm\x01\0\0\0")).contains("core module"));
        assert!(detail(check_header(b"#!/bin/sh")).contains("not WebAssembly"));
        assert!(detail(check_header(b"\0a")).contains("2 bytes"));
        assert!(detail(check_header(b"\0asm\x0d\0")).contains("middle of its header"));
    }

    #[test]
    fn a_connector_may_import_the_contract_and_the_harmless_half_of_wasi() {
        let good = interfaces(
            &["moorline:edge/log@0.1.7", "wasi:io/streams@0.2.3"],
            &[CONNECTOR_EXPORT],
        );
        assert_eq!(check(&good, Kind::Connector), Ok(()));
        for (import, words) in [
            (
                "wasi:http/outgoing-handler@0.2.0",
                "wasi:http/outgoing-handler@0.2.0",
            ),
            (
                "moorline:edge/telemetry@0.2.0",
                "this host speaks moorline:edge/telemetry@0.1",
            ),
            ("moorline:edge/firmware@0.1.0", "does not grant"),
            ("env", "does not grant"),
        ] {
            let bad = interfaces(&[import], &[CONNECTOR_EXPORT]);
            assert!(
                detail(check(&bad, Kind::Connector)).contains(words),
                "{import}"
            );
        }
    }

    #[test]
    fn a_component_of_another_world_is_named() {
        let policy = interfaces(&[], &[POLICY_EXPORT]);
        assert!(detail(check(&policy, Kind::Connector)).contains("it is a reconnect policy"));
        let newer = interfaces(&[], &["moorline:edge/connector-guest@0.2.0"]);
        assert!(detail(check(&newer, Kind::Connector)).contains("@0.2.0; this host speaks"));
        let alien = interfaces(&[], &["wasi:cli/run@0.2.0"]);
        assert!(detail(check(&alien, Kind::Connector)).contains("[wasi:cli/run@0.2.0]"));
        let curious = interfaces(&["moorline:edge/log@0.1.0"], &[POLICY_EXPORT]);
        assert!(detail(check(&curious, Kind::Policy)).contains("may import nothing"));
    }
}
