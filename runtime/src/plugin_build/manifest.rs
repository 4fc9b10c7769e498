//! What a directory holds: a small `plugin.toml` says so, or the files do.
//!
//! ```toml
//! name = "scpi-multimeter"   # default: the directory's
//! language = "python"        # default: by the files
//! kind = "connector"         # default: by the files
//! ```
//!
//! A crate is told by its `Cargo.toml`. In every other language the entry file is named after the kind: `connector.py`,
//! `policy.js`, `connector.c`.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::Deserialize;

use super::BuildError;
use crate::bounded_file;
use crate::plugins::Kind;

/// The file beside the source.
const MANIFEST: &str = "plugin.toml";
const MANIFEST_BYTES_MAX: u64 = 64 * 1024;
const NAME_BYTES_MAX: usize = 64;

/// What a plugin is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// A crate, compiled by cargo.
    Rust,
    /// CPython inside the component, by componentize-py.
    #[value(alias = "py")]
    #[serde(alias = "py")]
    Python,
    /// QuickJS inside the component, by componentize-qjs.
    #[value(alias = "js")]
    #[serde(alias = "js")]
    Javascript,
    /// Compiled by zig.
    C,
}

impl Language {
    /// All that are built.
    pub const ALL: [Self; 4] = [Self::Rust, Self::Python, Self::Javascript, Self::C];

    /// Its name as authors write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rust => "Rust",
            Self::Python => "Python",
            Self::Javascript => "JavaScript",
            Self::C => "C",
        }
    }

    /// How its source files end; a crate has its own rules.
    const fn extension(self) -> Option<&'static str> {
        match self {
            Self::Rust => None,
            Self::Python => Some("py"),
            Self::Javascript => Some("js"),
            Self::C => Some("c"),
        }
    }
}

/// The stem of the entry file.
pub(crate) const fn stem(kind: Kind) -> &'static str {
    match kind {
        Kind::Connector => "connector",
        Kind::Policy => "policy",
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    name: Option<String>,
    language: Option<Language>,
    kind: Option<Kind>,
}

/// A plugin's source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Cargo knows the rest.
    Crate(PathBuf),
    /// One entry file and what it takes in.
    Files(Files),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Files {
    /// Absolute.
    pub(super) directory: PathBuf,
    pub(super) name: String,
    pub(super) language: Language,
    pub(super) kind: Kind,
    /// Absolute.
    pub(super) entry: PathBuf,
}

impl Files {
    /// Where tools put what lies between source and component.
    pub(super) fn build_directory(&self) -> PathBuf {
        self.directory.join("build")
    }

    /// The component's file name, by the rule cargo has for crates.
    pub(super) fn component(&self) -> String {
        format!("{}.wasm", self.name.replace('-', "_"))
    }
}

/// Looks at `directory`.
pub(super) fn describe(directory: &Path) -> Result<Source, BuildError> {
    let not_a_plugin = |detail: String| BuildError::NotAPlugin {
        path: directory.to_owned(),
        detail,
    };
    let directory = directory
        .canonicalize()
        .map_err(|error| not_a_plugin(error.to_string()))?;
    let manifest = read(&directory)?;
    let by_files = manifest.language.is_none() && directory.join("Cargo.toml").is_file();
    if manifest.language == Some(Language::Rust) || by_files {
        return Ok(Source::Crate(directory));
    }
    let mut entries = entries(&directory, &manifest);
    let (language, kind, entry) = match (entries.pop(), entries.is_empty()) {
        (Some(entry), true) => entry,
        (Some(other), false) => {
            let files: Vec<String> = entries
                .iter()
                .chain([&other])
                .map(|(.., path)| file_name(path))
                .collect();
            return Err(not_a_plugin(format!(
                "it holds {}: one plugin has one directory, or language and kind in {MANIFEST} say which is meant",
                files.join(" and ")
            )));
        }
        (None, _) => return Err(not_a_plugin(nothing(&manifest))),
    };
    let name = match manifest.name {
        Some(name) => name,
        None => file_name(&directory),
    };
    check_name(&name).map_err(|why| not_a_plugin(format!("the name {name:?} {why}")))?;
    Ok(Source::Files(Files {
        directory,
        name,
        language,
        kind,
        entry,
    }))
}

fn nothing(manifest: &Manifest) -> String {
    let language = manifest.language.and_then(Language::extension);
    let extension = language.unwrap_or("{py,js,c}");
    let stem = manifest.kind.map_or("{connector,policy}", stem);
    format!(
        "neither Cargo.toml nor {stem}.{extension} is there; `moorline plugin new` makes a plugin"
    )
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Entry files that are there and that the manifest does not rule out.
fn entries(directory: &Path, manifest: &Manifest) -> Vec<(Language, Kind, PathBuf)> {
    let languages = Language::ALL
        .into_iter()
        .filter(|language| manifest.language.is_none_or(|wanted| wanted == *language));
    let mut entries = Vec::new();
    for language in languages {
        let Some(extension) = language.extension() else {
            continue;
        };
        for kind in [Kind::Connector, Kind::Policy] {
            let path = directory.join(stem(kind)).with_extension(extension);
            if manifest.kind.is_none_or(|wanted| wanted == kind) && path.is_file() {
                entries.push((language, kind, path));
            }
        }
    }
    entries
}

fn read(directory: &Path) -> Result<Manifest, BuildError> {
    let path = directory.join(MANIFEST);
    if !path.exists() {
        return Ok(Manifest::default());
    }
    let wrong = |detail: String| BuildError::Manifest {
        path: path.clone(),
        detail: detail.trim_end().to_owned(),
    };
    let text = bounded_file::read_text(&path, MANIFEST_BYTES_MAX)
        .map_err(|error| wrong(error.to_string()))?;
    toml::from_str(&text).map_err(|error| wrong(error.to_string()))
}

/// A plugin's name becomes a file name, a Rust package and a word in the log.
///
/// # Errors
/// What is wrong with it, as the end of a sentence.
pub(crate) fn check_name(name: &str) -> Result<(), &'static str> {
    let sound = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.len() > NAME_BYTES_MAX {
        Err("has more than 64 letters")
    } else if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        Err("does not begin with a small letter")
    } else if !name.chars().all(sound) {
        Err("has more than small letters, digits and hyphens")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        directory
    }

    fn refusal(files: &[(&str, &str)]) -> String {
        describe(directory(files).path()).unwrap_err().to_string()
    }

    #[test]
    fn the_files_say_what_it_is() {
        let held = directory(&[
            ("policy.js", ""),
            ("other.py", ""),
            ("plugin.toml", "name = \"calm-2\""),
        ]);
        let Source::Files(files) = describe(held.path()).unwrap() else {
            panic!("a crate")
        };
        assert_eq!(
            (files.language, files.kind),
            (Language::Javascript, Kind::Policy)
        );
        assert_eq!(
            (files.name.as_str(), files.component().as_str()),
            ("calm-2", "calm_2.wasm")
        );
        let held = directory(&[("Cargo.toml", ""), ("connector.c", "")]);
        assert!(matches!(describe(held.path()).unwrap(), Source::Crate(_)));
    }

    #[test]
    fn the_manifest_decides_between_files() {
        let files = [("connector.py", ""), ("connector.c", "")];
        assert!(refusal(&files).contains("connector.py and connector.c"));
        let held = directory(&[
            files[0],
            files[1],
            ("plugin.toml", "name = \"a\"\nlanguage = \"c\""),
        ]);
        let Source::Files(files) = describe(held.path()).unwrap() else {
            panic!("a crate")
        };
        assert_eq!(files.language, Language::C);
        let held = directory(&[
            ("connector.js", ""),
            ("plugin.toml", "name = \"a\"\nlanguage = \"js\""),
        ]);
        assert!(
            matches!(describe(held.path()), Ok(Source::Files(files)) if files.language == Language::Javascript)
        );
    }

    #[test]
    fn what_is_no_plugin_says_why() {
        assert!(refusal(&[]).contains("moorline plugin new"));
        assert!(
            refusal(&[("plugin.toml", "language = \"c\"\nkind = \"policy\"")]).contains("policy.c")
        );
        assert!(refusal(&[("plugin.toml", "\nlangage = \"c\"")]).contains("line 2"));
        assert!(
            refusal(&[("connector.py", ""), ("plugin.toml", "name = \"../x\"")])
                .contains("small letter")
        );
    }
}
