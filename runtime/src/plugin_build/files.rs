//! The way that all languages but Rust have in common: a tool turns an entry file into a component.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::manifest::{Files, Language};
use super::tools::{Tools, isolated, last_lines, text};
use super::{
    BuildError, BuildOptions, BuiltPlugin, Progress, c, component, javascript, python, wit,
};

/// Where a plugin is put together: `build/` beside its source.
pub(super) struct Workshop {
    directory: PathBuf,
    /// The contract.
    pub(super) wit: PathBuf,
    component: String,
}

impl Workshop {
    fn set_up(files: &Files) -> Result<Self, BuildError> {
        let directory = files.build_directory();
        let wit = directory.join("wit");
        wit::write(&wit).map_err(|source| BuildError::File {
            path: wit.clone(),
            source,
        })?;
        Ok(Self {
            directory,
            wit,
            component: files.component(),
        })
    }

    /// Where the tool puts its component.
    pub(super) fn draft(&self) -> PathBuf {
        self.directory.join(format!("{}.draft", self.component))
    }
}

/// Builds one plugin.
pub(super) fn build(
    files: &Files,
    options: &BuildOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<BuiltPlugin, BuildError> {
    let tools = Tools::open()?;
    let workshop = Workshop::set_up(files)?;
    progress(Progress::Compiling(std::slice::from_ref(&files.name)));
    let mut installing = |what: &str| progress(Progress::Installing(what));
    let draft = match files.language {
        Language::Python => python::componentize(files, &workshop, &tools, &mut installing)?,
        Language::Javascript => {
            javascript::componentize(files, &workshop, &tools, &mut installing)?
        }
        Language::C => c::componentize(files, &workshop, &tools, &mut installing)?,
        // `describe` calls that a crate.
        Language::Rust => {
            return Err(BuildError::NotACrate {
                path: files.directory.clone(),
                detail: "Cargo.toml is missing".to_owned(),
            });
        }
    };
    let out = options.out.clone().unwrap_or(workshop.directory);
    let plugin = component::publish(&files.name, &draft, &out.join(files.component()))?;
    progress(Progress::Built(&plugin));
    Ok(plugin)
}

/// Runs a tool in the plugin's directory. What it says is shown only if it fails.
pub(super) fn finish(
    command: Command,
    tool: &'static str,
    files: &Files,
) -> Result<(), BuildError> {
    finish_with(command, tool, files, str::to_owned)
}

/// Like [`finish`]; `relevant` is the part of what the tool said that is the author's.
pub(super) fn finish_with(
    mut command: Command,
    tool: &'static str,
    files: &Files,
    relevant: impl FnOnce(&str) -> String,
) -> Result<(), BuildError> {
    let output = isolated(&mut command)
        .current_dir(&files.directory)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| BuildError::File {
            path: Path::new(command.get_program()).to_owned(),
            source,
        })?;
    if output.status.success() {
        return Ok(());
    }
    Err(BuildError::Refused {
        tool,
        plugin: files.name.clone(),
        said: last_lines(&relevant(&text(&output))),
    })
}
