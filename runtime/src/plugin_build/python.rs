//! Python: CPython and the author's modules in one component, by componentize-py.

use std::path::PathBuf;
use std::process::Command;

use super::files::{Workshop, finish_with};
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
    finish_with(command, "componentize-py", files, traceback)?;
    Ok(draft)
}

/// The author's part of what componentize-py says when it fails: a traceback of its own, then that of the plugin behind the
/// name of its own exception, then what it knows already as a cause, then the backtrace of its native code.
fn traceback(said: &str) -> String {
    let said = said.split("\nStack backtrace:").next().unwrap_or(said);
    let own = said
        .split_once("\nAssertionError: ")
        .map_or(said, |(_, own)| own);
    let (told, caused) = own.split_once("\nCaused by:").unwrap_or((own, ""));
    let shown = if told.trim().is_empty() { caused } else { told };
    // Where the component finds the plugin's directory while it is made.
    shown.replace("File \"/0/", "File \"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_failure_the_authors_traceback_is_shown() {
        let head = "Traceback (most recent call last):\n  File \"/bin/componentize-py\", line 8, in <module>\n    sys.exit(script())\n";
        let tail = "\n\nCaused by:\n    SyntaxError: invalid syntax\n\nStack backtrace:\n   0: <anyhow::Error>::msg\n";
        let own = "  File \"/0/connector.py\", line 27\n    A = = 1\n        ^\nSyntaxError: invalid syntax\n";
        let shown = traceback(&format!("{head}AssertionError: {own}{tail}"));
        assert_eq!(shown.trim_end(), own.trim_end().replace("/0/", ""));
        let shown = traceback(&format!("{head}AssertionError: {tail}"));
        assert_eq!(shown.trim(), "SyntaxError: invalid syntax");
        assert_eq!(traceback("no space left"), "no space left");
    }
}
