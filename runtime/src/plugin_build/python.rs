//! Python: CPython and the author's modules in one component, by componentize-py.

use std::path::PathBuf;
use std::process::Command;

use super::files::{Workshop, finish};
use super::manifest::{Files, stem};
use super::tools::{COMPONENTIZE_PY, Tools};
use super::{BuildError, wit};
use crate::plugins::Kind;

pub(super) fn componentize(
    files: &Files,
    workshop: &Workshop,
    tools: &Tools,
    installing: &mut dyn FnMut(&str),
) -> Result<PathBuf, BuildError> {
    let bin = tools.python(COMPONENTIZE_PY, installing)?;
    let draft = workshop.draft();
    let mut command = Command::new(bin.join("componentize-py"));
    command
        .arg("--quiet")
        .arg("--wit-path")
        .arg(&workshop.wit)
        .args(["--world", wit::world(files.kind)])
        .args(["componentize", stem(files.kind)])
        .arg("--python-path")
        .arg(&files.directory)
        .arg("--output")
        .arg(&draft);
    if files.kind == Kind::Policy {
        // A policy imports nothing. CPython's own use of WASI becomes a trap, its hash seed a constant.
        command.arg("--stub-wasi");
    }
    finish(command, "componentize-py", files)?;
    Ok(draft)
}
