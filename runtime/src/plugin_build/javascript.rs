//! JavaScript: QuickJS and the author's modules in one component, by componentize-qjs.
//!
//! ```text
//!  build/entry.js ──imports──► connector.js or policy.js ──imports──► the author's other modules
//! ```

use std::path::PathBuf;
use std::process::Command;

use super::files::{Workshop, finish_with};
use super::manifest::Files;
use super::tools::{COMPONENTIZE_QJS, Tools};
use super::{BuildError, wit};
use crate::plugins::Kind;

/// What the component exports: it calls what the author's module exports.
const fn entry(kind: Kind) -> &'static str {
    match kind {
        Kind::Connector => include_str!("javascript/connector.js"),
        Kind::Policy => include_str!("javascript/policy.js"),
    }
}

pub(super) fn componentize(
    files: &Files,
    workshop: &Workshop,
    tools: &Tools,
    installing: &mut dyn FnMut(&str),
) -> Result<PathBuf, BuildError> {
    let bin = tools.node(COMPONENTIZE_QJS, installing)?;
    let draft = workshop.draft();
    let entry_path = files.build_directory().join("entry.js");
    std::fs::write(&entry_path, entry(files.kind)).map_err(|source| BuildError::File {
        path: entry_path.clone(),
        source,
    })?;
    let mut command = Command::new(bin.join("componentize-qjs"));
    // Nothing of WASI is left over: a plugin in JavaScript imports the contract and no more.
    command
        .args(["--sync", "--stub-wasi", "--opt-size"])
        .args(["--world", wit::world(files.kind), "--wit"])
        .arg(&workshop.wit)
        .arg("--module-root")
        .arg(&files.directory)
        .arg("--js")
        .arg(&entry_path)
        .arg("--output")
        .arg(&draft);
    finish_with(command, "componentize-qjs", files, advised)?;
    Ok(draft)
}

/// What the compiler said, and what to do where an import names another version of the contract than it builds for.
fn advised(said: &str) -> String {
    let mut words = said.split(['\'', '"']);
    let other = words.find_map(|word| {
        let interface = word.strip_prefix("moorline:edge/")?;
        let named = interface.split_once('@');
        named.filter(|(_, version)| Some(*version) != wit::version())
    });
    match other {
        Some((interface, _)) => format!(
            "{said}\nname no version in an import: \"moorline:edge/{interface}\" is that of the contract the plugin is built for"
        ),
        None => said.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_with_a_version_is_advised_on() {
        let said = "Error resolving module 'moorline:edge/devices@0.1.0' from '/connector.js'";
        let expected = "name no version in an import: \"moorline:edge/devices\"";
        assert!(advised(said).contains(expected), "{}", advised(said));
        let own = format!(
            "'moorline:edge/log@{}' has no export",
            wit::version().unwrap()
        );
        for other in [
            "SyntaxError: expected ';'",
            "no module 'moorline:edge/devices'",
            &own,
        ] {
            assert_eq!(advised(other), other);
        }
    }
}
