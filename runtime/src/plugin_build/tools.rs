//! Compilers for other languages, in a directory of our own: nothing of the user's system is changed.
//!
//! ```text
//!  <tools>/componentize-py-0.25.1/   a Python venv
//!          ziglang-0.17.1/           a Python venv
//!          componentize-qjs-0.4.5/   node_modules
//!          NAME.lock                 held while NAME is installed
//! ```
//!
//! A directory counts once its marker is written, last: an installation that was interrupted is made anew. Versions are
//! pinned here, so that a component built today is built the same by everybody with this Moorline.

use std::env;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use thiserror::Error;

/// Overrides where the tools are kept.
pub(crate) const TOOLS_VARIABLE: &str = "MOORLINE_TOOLS";
/// Written into a directory when it is complete.
const MARKER: &str = ".complete";
/// Lines of a failed installer or compiler that are repeated: enough for a traceback.
const LINES_SHOWN: usize = 24;

/// A set of packages from a language's registry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tool {
    /// Its directory, with its version.
    pub(super) directory: &'static str,
    /// The packages, as the installer names them.
    pub(super) packages: &'static [&'static str],
    /// What it costs, for who waits.
    pub(super) size: &'static str,
}

pub(super) const COMPONENTIZE_PY: Tool = Tool {
    directory: "componentize-py-0.25.1",
    packages: &["componentize-py==0.25.1"],
    size: "72 MB",
};
pub(super) const ZIG: Tool = Tool {
    directory: "ziglang-0.17.1",
    packages: &["ziglang==0.17.1"],
    size: "440 MB",
};
pub(super) const COMPONENTIZE_QJS: Tool = Tool {
    directory: "componentize-qjs-0.4.5",
    packages: &["componentize-qjs@0.4.5"],
    size: "40 MB",
};

/// Why a tool cannot be had.
#[derive(Debug, Error)]
pub enum ToolError {
    /// Nowhere to put it.
    #[error(
        "neither {TOOLS_VARIABLE}, XDG_CACHE_HOME nor HOME says where tools may be kept; set {TOOLS_VARIABLE} to a directory"
    )]
    NoPlace,
    /// What installs it is missing.
    #[error("{program} is not on the PATH; {hint}")]
    Missing {
        /// The program.
        program: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// The installer gave up.
    #[error(
        "{packages} could not be installed into {directory}:\n{said}\nIt comes from {registry}: is the network there, and its proxy configured? It is needed once; {TOOLS_VARIABLE} may name a directory that holds it already"
    )]
    Install {
        /// What was to be installed.
        packages: String,
        /// Where.
        directory: PathBuf,
        /// The installer's last lines.
        said: String,
        /// Whence.
        registry: &'static str,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// Where tools are kept.
#[derive(Clone, Debug)]
pub(super) struct Tools(PathBuf);

impl Tools {
    /// The directory that the environment names.
    pub(super) fn open() -> Result<Self, ToolError> {
        let named = |variable| env::var_os(variable).filter(|value| !value.is_empty());
        let cache = || {
            named("XDG_CACHE_HOME")
                .map(PathBuf::from)
                .or_else(|| named("HOME").map(|home| Path::new(&home).join(".cache")))
                .map(|cache| cache.join("moorline/tools"))
        };
        let directory = named(TOOLS_VARIABLE)
            .map(PathBuf::from)
            .or_else(cache)
            .ok_or(ToolError::NoPlace)?;
        std::path::absolute(&directory)
            .map(Self)
            .map_err(|source| ToolError::File {
                path: directory,
                source,
            })
    }

    /// The `bin` directory of a Python venv with `tool` in it.
    pub(super) fn python(
        &self,
        tool: Tool,
        installing: &mut dyn FnMut(&str),
    ) -> Result<PathBuf, ToolError> {
        let venv = self.installed(tool, installing, |directory| {
            let hint = "install Python 3.10 or newer";
            let mut venv = Command::new("python3");
            run(venv.args(["-m", "venv"]).arg(directory), "python3", hint)?.or_fail(
                tool,
                directory,
                "Python itself (Debian: apt-get install python3-venv)",
            )?;
            let pip = directory.join("bin/pip");
            let mut pip = Command::new(pip);
            pip.args([
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--only-binary=:all:",
            ]);
            run(pip.args(tool.packages), "pip", hint)?.or_fail(tool, directory, "PyPI")
        })?;
        Ok(venv.join("bin"))
    }

    /// The directory with the programs of `tool`, out of the npm registry.
    pub(super) fn node(
        &self,
        tool: Tool,
        installing: &mut dyn FnMut(&str),
    ) -> Result<PathBuf, ToolError> {
        let hint = "install Node.js 20 or newer, with npm";
        run(Command::new("node").arg("--version"), "node", hint)?;
        let root = self.installed(tool, installing, |directory| {
            let mut npm = Command::new("npm");
            npm.args([
                "install",
                "--no-audit",
                "--no-fund",
                "--ignore-scripts",
                "--loglevel=error",
                "--prefix",
            ])
            .arg(directory)
            .args(tool.packages);
            run(&mut npm, "npm", hint)?.or_fail(tool, directory, "the npm registry")
        })?;
        Ok(root.join("node_modules/.bin"))
    }

    /// Where `tool` may keep what it makes once for all plugins.
    pub(super) fn cache(&self, tool: Tool) -> PathBuf {
        self.0.join(tool.directory).join("cache")
    }

    fn installed(
        &self,
        tool: Tool,
        installing: &mut dyn FnMut(&str),
        install: impl FnOnce(&Path) -> Result<(), ToolError>,
    ) -> Result<PathBuf, ToolError> {
        let directory = self.0.join(tool.directory);
        let marker = directory.join(MARKER);
        if marker.exists() {
            return Ok(directory);
        }
        let file = |path: &Path| {
            let path = path.to_owned();
            move |source| ToolError::File { path, source }
        };
        std::fs::create_dir_all(&self.0).map_err(file(&self.0))?;
        let path = self.0.join(format!("{}.lock", tool.directory));
        let lock = File::create(&path).map_err(file(&path))?;
        lock.lock().map_err(file(&path))?;
        // Somebody else may have installed it while we waited.
        if !marker.exists() {
            installing(&format!(
                "{} ({}) into {}, once",
                tool.packages.join(" "),
                tool.size,
                directory.display()
            ));
            match std::fs::remove_dir_all(&directory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(file(&directory)(error));
                }
                Ok(()) | Err(_) => {}
            }
            std::fs::create_dir_all(&directory).map_err(file(&directory))?;
            install(&directory)?;
            std::fs::write(&marker, tool.packages.join("\n")).map_err(file(&marker))?;
        }
        Ok(directory)
    }
}

/// What an installer said.
struct Said(Output);

impl Said {
    fn or_fail(
        &self,
        tool: Tool,
        directory: &Path,
        registry: &'static str,
    ) -> Result<(), ToolError> {
        if self.0.status.success() {
            return Ok(());
        }
        Err(ToolError::Install {
            packages: tool.packages.join(" "),
            directory: directory.to_owned(),
            said: last_lines(&text(&self.0)),
            registry,
        })
    }
}

/// What a program said, standard error after standard output.
pub(super) fn text(output: &Output) -> String {
    let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&said).into_owned()
}

/// The end of what a program said.
pub(super) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let skipped = lines.len().saturating_sub(LINES_SHOWN);
    let shown = lines.iter().skip(skipped).map(|line| format!("  {line}"));
    shown.collect::<Vec<_>>().join("\n")
}

fn run(
    command: &mut Command,
    program: &'static str,
    hint: &'static str,
) -> Result<Said, ToolError> {
    let output = isolated(command).stdin(Stdio::null()).output();
    output
        .map(Said)
        .map_err(|_not_started| ToolError::Missing { program, hint })
}

/// Without what an activated venv or a surrounding npm script would slip in.
pub(super) fn isolated(command: &mut Command) -> &mut Command {
    for name in [
        "VIRTUAL_ENV",
        "PYTHONPATH",
        "PYTHONHOME",
        "NODE_OPTIONS",
        "NODE_PATH",
    ] {
        command.env_remove(name);
    }
    command
}
