//! Is this file a component of the world it is meant for? Answered before anything of it runs.

use moorline_core::swap::{Failure, Reason};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::contract::{self, Contract};
use super::engine::Kind;

/// Larger files are refused before they are compiled.
pub(crate) const COMPONENT_BYTES_MAX: u64 = 64 * 1024 * 1024;

const WASM_MAGIC: &[u8; 4] = b"\0asm";
const COMPONENT_LAYER: [u8; 4] = [0x0d, 0, 1, 0];
const CORE_MODULE_LAYER: [u8; 4] = [1, 0, 0, 0];

/// Packages of WASI that are there for the sake of language run-times, with nothing behind them that reaches out unless it
/// is granted: no directory, no network, no environment.
const WASI_PACKAGES: [&str; 8] = [
    "wasi:io/",
    "wasi:clocks/",
    "wasi:random/",
    "wasi:cli/",
    "wasi:filesystem/",
    "wasi:sockets/",
    "wasi:http/types",
    "wasi:http/outgoing-handler",
];

fn not_a_component(detail: impl Into<String>) -> Failure {
    Failure::new(Reason::NotAComponent, detail)
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

    /// The world it was made for, if it is one of ours, whatever its version.
    pub(crate) fn kind(&self) -> Option<Kind> {
        contract::kind_of(&self.exports)
    }
}

/// Compares exports and imports with the world `kind`. Says which version of it the component was made for, or what is
/// missing or too much, by name.
pub(crate) fn check(interfaces: &Interfaces, kind: Kind) -> Result<Contract, Failure> {
    let contract = contract::of_exports(&interfaces.exports, kind)?;
    interfaces
        .imports
        .iter()
        .try_for_each(|import| check_import(import, kind, contract))?;
    Ok(contract)
}

fn check_import(import: &str, kind: Kind, contract: Contract) -> Result<(), Failure> {
    let of_a_run_time = WASI_PACKAGES
        .iter()
        .any(|package| import.starts_with(package));
    if kind == Kind::Connector && of_a_run_time {
        return Ok(());
    }
    contract::check_import(import, kind, contract)
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

    fn detail<T: std::fmt::Debug>(result: Result<T, Failure>) -> String {
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
        let guest = ["moorline:edge/connector-guest@0.1.0"];
        let good = interfaces(
            &["moorline:edge/log@0.1.7", "wasi:io/streams@0.2.3"],
            &guest,
        );
        assert_eq!(check(&good, Kind::Connector), Ok(Contract::V0_1));
        let client = interfaces(&["wasi:http/outgoing-handler@0.2.0"], &guest);
        assert_eq!(check(&client, Kind::Connector), Ok(Contract::V0_1));
        let store = interfaces(&["wasi:keyvalue/store@0.2.0"], &guest);
        let words = "wasi:keyvalue/store@0.2.0, which world connector does not grant";
        assert!(detail(check(&store, Kind::Connector)).contains(words));
        let clock = interfaces(
            &["wasi:clocks/wall-clock@0.2.3"],
            &["moorline:edge/policy-guest@0.1.0"],
        );
        assert!(detail(check(&clock, Kind::Policy)).contains("may import nothing"));
    }
}
