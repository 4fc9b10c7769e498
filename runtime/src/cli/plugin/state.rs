//! `moorline plugin state`: what plugins keep, listed, taken out as a document, and put back.
//!
//! Reading needs no gateway to stop. Putting back is asked of a running one, which starts the plugin anew with it; of a stopped
//! one the files are replaced.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use moorline_core::plugin_state::{Backup, Entries, bytes_of, check};
use serde_json::json;

use super::ListOptions;
use crate::admin::protocol::{Answer, Request};
use crate::admin::{Client, ClientError};
use crate::bounded_file;
use crate::cli::{ConfigFile, OutputFormat, exit, figures, glob, reload};
use crate::config::Settings;
use crate::plugins::{StateFile, StateTrouble, state_files};
use crate::spool::disk::{DirectoryError, Disk};

/// A document: a thousand instances that keep a little, or some that keep as much as they may.
const DOCUMENT_BYTES_MAX: u64 = 256 * 1024 * 1024;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum StateCommand {
    /// Which plugin instances keep how much.
    #[command(
        after_help = "Example:\n  moorline plugin state ls --config gateway.toml --format json"
    )]
    Ls(ListOptions),
    /// Write what they keep as one JSON document.
    ///
    /// Of a running gateway it is what was kept when the last call of each plugin had ended.
    #[command(
        after_help = "Examples:\n  moorline plugin state export --config gateway.toml --to state.json\n  moorline plugin state export --config gateway.toml --instance 'modbus/*'"
    )]
    Export(ExportOptions),
    /// Put back what such a document holds, instance by instance, in the place of all they keep now.
    ///
    /// Everything is checked before anything is changed. A running gateway is asked to do it and starts each plugin anew, without
    /// a hand-over. Instances that the configuration does not have are left out, and said.
    #[command(
        after_help = "Example:\n  moorline plugin state import state.json --config gateway.toml --instance press"
    )]
    Import(ImportOptions),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ExportOptions {
    #[command(flatten)]
    config: ConfigFile,
    /// Only instances whose name matches, with * and ?.
    #[arg(long, value_name = "GLOB")]
    instance: Option<String>,
    /// Write it to this file, which must not be there yet; to standard output otherwise.
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Also if the file is there: it is replaced in one step.
    #[arg(long, requires = "to")]
    force: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ImportOptions {
    /// The document.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    config: ConfigFile,
    /// Only instances whose name matches, with * and ?.
    #[arg(long, value_name = "GLOB")]
    instance: Option<String>,
}

pub(super) fn state(command: StateCommand) -> ExitCode {
    let done = match command {
        StateCommand::Ls(options) => list(&options),
        StateCommand::Export(options) => export(&options),
        StateCommand::Import(options) => import(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(code) => code,
    }
}

/// What there is, and what cannot be read.
type Found = (BTreeMap<String, Entries>, BTreeMap<String, StateTrouble>);

fn read(settings: &Settings) -> Result<Found, ExitCode> {
    let files = state_files(&settings.state_dir).map_err(|error| {
        let directory = settings.state_dir.display();
        exit::fail(exit::OS, &format!("{directory} cannot be read: {error}"))
    })?;
    let (mut kept, mut bad) = Found::default();
    for (instance, entries) in files {
        match entries {
            Ok(entries) => drop(kept.insert(instance, entries)),
            Err(trouble) => drop(bad.insert(instance, trouble)),
        }
    }
    Ok((kept, bad))
}

fn is_meant(pattern: Option<&String>, instance: &str) -> bool {
    pattern.is_none_or(|pattern| glob::matches(pattern, instance))
}

fn list(options: &ListOptions) -> Result<(), ExitCode> {
    let settings = options.config.settings()?;
    let (kept, bad) = read(&settings)?;
    let configured = instances(&settings);
    match options.format {
        OutputFormat::Json => {
            let entry = |(name, entries): (&String, &Entries)| {
                json!({
                    "instance": name,
                    "configured": configured.contains_key(name),
                    "keys": entries.len(),
                    "bytes": bytes_of(entries),
                    "bytes_max": configured.get(name),
                })
            };
            let unreadable = |(name, trouble): (&String, &StateTrouble)| {
                let error = trouble.to_string();
                json!({ "instance": name, "configured": configured.contains_key(name), "error": error })
            };
            let all: Vec<_> = kept
                .iter()
                .map(entry)
                .chain(bad.iter().map(unreadable))
                .collect();
            exit::print(&json!({ "instances": all }));
        }
        OutputFormat::Human if kept.is_empty() && bad.is_empty() => {
            exit::print(&"no plugin keeps anything");
        }
        OutputFormat::Human => {
            let note = |name: &String| {
                if configured.contains_key(name) {
                    ""
                } else {
                    "  (the configuration has no such instance)"
                }
            };
            for (name, entries) in &kept {
                let (keys, bytes) = (entries.len(), bytes_of(entries));
                let name_shown = figures::harmless(name);
                let most = configured.get(name).map(|most| format!(" of {most}"));
                exit::print(&format!(
                    "{name_shown:<32} {keys:>5} keys  {bytes:>8} bytes{}{}",
                    most.unwrap_or_default(),
                    note(name)
                ));
            }
            for (name, trouble) in &bad {
                let name_shown = figures::harmless(name);
                exit::print(&format!("{name_shown:<32} {trouble}{}", note(name)));
            }
        }
    }
    Ok(())
}

/// The instances that the configuration has, and how many bytes each may keep.
fn instances(settings: &Settings) -> BTreeMap<String, usize> {
    let mut instances = BTreeMap::new();
    for connector in &settings.connectors {
        let bytes_max = connector.limits.state_bytes;
        if connector.connections.is_empty() {
            instances.insert(connector.name.clone(), bytes_max);
        }
        for connection in &connector.connections {
            let name = format!("{}/{}", connector.name, connection.name);
            instances.insert(name, bytes_max);
        }
    }
    instances
}

fn export(options: &ExportOptions) -> Result<(), ExitCode> {
    let settings = options.config.settings()?;
    let (mut kept, bad) = read(&settings)?;
    let pattern = options.instance.as_ref();
    // A backup that lacks something and does not say so is worse than none.
    if let Some((name, trouble)) = bad.iter().find(|(name, _)| is_meant(pattern, name)) {
        let why = format!("the state of {name}: {trouble}; leave it out by --instance");
        return Err(exit::fail(exit::DATA, &why));
    }
    kept.retain(|name, _| is_meant(pattern, name));
    let (count, backup) = (kept.len(), Backup { instances: kept });
    let Some(path) = &options.to else {
        exit::print(&backup.to_json().trim_end());
        return Ok(());
    };
    let json = backup.to_json();
    let written = match options.force {
        true => replace(path, json.as_bytes()),
        false => write_new(path, json.as_bytes()),
    };
    written.map_err(|error| {
        let path = path.display();
        let why = if error.kind() == io::ErrorKind::AlreadyExists {
            format!(
                "{path} is there already and is not written over: give --to another name, or --force to replace it"
            )
        } else {
            format!("{path} cannot be written: {error}")
        };
        exit::fail(exit::OS, &why)
    })?;
    exit::progress(&format!(
        "the state of {count} instances to {}",
        path.display()
    ));
    Ok(())
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// The old document is there until the new one is whole.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let draft = PathBuf::from(draft);
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    write_new(&draft, bytes)?;
    std::fs::rename(draft, path)
}

fn import(options: &ImportOptions) -> Result<(), ExitCode> {
    let settings = options.config.settings()?;
    let chosen = chosen(options, &settings)?;
    match Client::connect(&settings.state_dir) {
        Ok(client) => by_the_gateway(&settings, client, &chosen),
        Err(ClientError::NotRunning(_)) => by_file(&settings, &chosen),
        Err(error @ (ClientError::NotAllowed(_) | ClientError::Broken(..))) => {
            Err(exit::fail(exit::OS, &error))
        }
    }
}

/// What an instance is to keep.
struct Chosen {
    instance: String,
    bytes_max: usize,
    entries: Entries,
}

impl Chosen {
    fn shown(&self) -> String {
        figures::harmless(&self.instance)
    }

    fn prepare(&self, settings: &Settings) -> Result<StateFile, ExitCode> {
        let (state_dir, bytes_max) = (&settings.state_dir, self.bytes_max);
        StateFile::prepare(state_dir, &self.instance, bytes_max, &self.entries)
            .map_err(|trouble| self.fail(&trouble))
    }

    fn fail(&self, trouble: &StateTrouble) -> ExitCode {
        let why = format!(
            "{}: {trouble}; what came before it is put back",
            self.shown()
        );
        exit::fail(exit::OS, &why)
    }
}

/// What of the document is meant, has a place, and fits there.
fn chosen(options: &ImportOptions, settings: &Settings) -> Result<Vec<Chosen>, ExitCode> {
    let file = options.file.display();
    let refuse = |why: String| exit::fail(exit::DATA, &why);
    let text = bounded_file::read_text(&options.file, DOCUMENT_BYTES_MAX)
        .map_err(|error| refuse(format!("{file}: {error}")))?;
    let backup = Backup::parse(&text).map_err(|error| refuse(format!("{file} {error}")))?;
    let configured = instances(settings);
    let mut all = Vec::new();
    for (instance, entries) in backup.instances {
        if !is_meant(options.instance.as_ref(), &instance) {
            continue;
        }
        let name = figures::harmless(&instance);
        let Some(bytes_max) = configured.get(&instance).copied() else {
            exit::progress(&format!(
                "{name} is left out: the configuration has no such instance"
            ));
            continue;
        };
        check(&entries, bytes_max).map_err(|error| refuse(format!("{file} {name}: {error}")))?;
        all.push(Chosen {
            instance,
            bytes_max,
            entries,
        });
    }
    if all.is_empty() {
        return Err(refuse(format!(
            "{file} holds nothing for this gateway; nothing was changed"
        )));
    }
    Ok(all)
}

fn by_the_gateway(settings: &Settings, mut client: Client, all: &[Chosen]) -> Result<(), ExitCode> {
    for chosen in all {
        let file = chosen.prepare(settings)?;
        let request = Request::RestoreState {
            instance: chosen.instance.clone(),
        };
        let answer = client.ask(&request);
        let instance = chosen.shown();
        let failed = match answer {
            Ok(Answer::StateRestored { restarted: true }) => {
                exit::print(&format!("{instance}: put back, and started anew with it"));
                continue;
            }
            Ok(Answer::StateRestored { restarted: false }) => {
                exit::print(&format!("{instance}: put back; nothing serves now"));
                continue;
            }
            // The gateway comes to it, and needs the file.
            Ok(Answer::Pending { why }) => {
                let why = format!("{instance}: {}", figures::harmless(&why));
                return Err(exit::fail(exit::DATA, &why));
            }
            Ok(Answer::Refused { why } | Answer::Invalid { why }) => {
                let why = format!("{instance}: {}", figures::harmless(&why));
                exit::fail(exit::DATA, &why)
            }
            Ok(Answer::Plugins { .. } | Answer::Swap(_)) => {
                exit::fail(exit::SOFTWARE, &"an odd answer")
            }
            Err(error) => exit::fail(exit::OS, &error),
        };
        file.withdraw();
        return Err(failed);
    }
    Ok(())
}

fn by_file(settings: &Settings, all: &[Chosen]) -> Result<(), ExitCode> {
    if reload::status_of_running(settings).is_some() {
        let why = "a gateway runs and its admin socket does not answer; its log says why";
        return Err(exit::fail(exit::OS, &why));
    }
    // So that none starts meanwhile, which would read half of it.
    let _locks = lock(settings).map_err(|error| exit::fail(exit::OS, &error))?;
    for chosen in all {
        let file = chosen.prepare(settings)?;
        file.put().map_err(|trouble| chosen.fail(&trouble))?;
        exit::print(&format!("{}: put back, for the next start", chosen.shown()));
    }
    Ok(())
}

/// The locks a gateway would need to start.
fn lock(settings: &Settings) -> Result<Vec<Disk>, DirectoryError> {
    let mut locks = Vec::new();
    for setup in &settings.spool.streams {
        let directory = settings.spool.directory.join(&*setup.stream.name);
        if directory.is_dir() {
            locks.push(Disk::open(&directory)?);
        }
    }
    Ok(locks)
}
