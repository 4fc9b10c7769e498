//! JavaScript: QuickJS and the author's modules in one component, by componentize-qjs.

use std::path::PathBuf;
use std::process::Command;

use super::files::{Workshop, finish};
use super::manifest::Files;
use super::tools::{COMPONENTIZE_QJS, Tools};
use super::{BuildError, wit};

pub(super) fn componentize(
    files: &Files,
    workshop: &Workshop,
    tools: &Tools,
    installing: &mut dyn FnMut(&str),
) -> Result<PathBuf, BuildError> {
    let bin = tools.node(COMPONENTIZE_QJS, installing)?;
    let draft = workshop.draft();
    let mut command = Command::new(bin.join("componentize-qjs"));
    // Nothing of WASI is left over: a plugin in JavaScript imports the contract and no more.
    command
        .args(["--sync", "--stub-wasi", "--opt-size"])
        .args(["--world", wit::world(files.kind), "--wit"])
        .arg(&workshop.wit)
        .arg("--module-root")
        .arg(&files.directory)
        .arg("--js")
        .arg(&files.entry)
        .arg("--output")
        .arg(&draft);
    finish(command, "componentize-qjs", files)?;
    Ok(draft)
}
