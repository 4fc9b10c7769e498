//! `moorline plugin dev`: source to swap in one go.
//!
//! ```text
//!  a file changes ──► build ──► sign ──► rename to where the configuration has the component ──► the gateway swaps
//!        ▲              │ error: shown                                                                │
//!        └──────────────┴─────────────────────────────────────── status file: generation, gap, reason ◄─┘
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use moorline_core::swap::Digest;
use moorline_core::trust::Policy;

use super::keys::{PasswordSource, secret_key};
use super::sign::sign_one;
use super::swap::is_build;
use crate::admin::Client;
use crate::admin::protocol::{Answer, Request};
use crate::cli::reload::status_of_running;
use crate::cli::{ConfigFile, exit};
use crate::config::Settings;
use crate::plugin_build::{self, BuiltPlugin};
use crate::plugins::{Shelf, Stocked};
use crate::status::Status;
use crate::trust::SecretKey;

/// How often the source is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// How long the gateway may take for a swap: to compile the largest component, and to start it.
const SWAP_LIMIT: Duration = Duration::from_secs(120);
/// Files of one plugin that are watched.
const FILES_MAX: usize = 10_000;
/// What builds and editors leave behind.
const NOT_SOURCE: [&str; 5] = ["build", "target", "node_modules", "__pycache__", "dist"];
/// Files that are made here, too.
const MADE: [&str; 4] = [".wasm", ".wasm.new", ".minisig", ".minisig.new"];
/// Where a component waits for its signature, and until what it replaces is kept: the plugin's directory may be where the
/// gateway looks.
const DRAFT: &str = "build/draft";

#[derive(Debug, Args)]
pub(in crate::cli) struct DevOptions {
    /// The plugin's directory.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    #[command(flatten)]
    config: ConfigFile,
    /// The connector it is, or `policy` [default: the only one whose component has its file name].
    #[arg(long, value_name = "NAME")]
    connector: Option<String>,
    /// Sign each build with this secret key, for a gateway that requires signatures.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Where the key's password comes from [default: asked for at the terminal, once].
    #[arg(long, value_name = "env:NAME|file:PATH", requires = "key")]
    password: Option<PasswordSource>,
    /// Build and swap once, then end: with 65 if the build or the gateway refuses it.
    #[arg(long)]
    once: bool,
}

/// Where the component goes, and who loads it there.
struct Place {
    connector: String,
    component: PathBuf,
}

pub(super) fn dev(options: &DevOptions) -> ExitCode {
    let settings = match options.config.settings() {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    let key = options
        .key
        .as_ref()
        .map(|key| secret_key(key, options.password.as_ref()));
    let key = match key.transpose() {
        Ok(key) => key,
        Err(why) => return exit::fail(exit::DATA, &why),
    };
    if key.is_none() && settings.plugins.trust.policy == Policy::Require {
        let why = format!(
            "{} requires signatures, and no build that is made here would be loaded: sign them by --key FILE, with a secret key \
             whose public line is in [plugins.trusted_keys] (`moorline plugin keygen` makes one)",
            options.config.config.display()
        );
        return exit::fail(exit::USAGE, &why);
    }
    let mut seen = None;
    loop {
        let now = sources(&options.directory, &settings.state_dir);
        if seen.as_ref() == Some(&now) {
            std::thread::sleep(LOOK_EVERY);
            continue;
        }
        // What changes while it is built is built next.
        seen = Some(now);
        let done = turn(options, &settings, key.as_ref());
        match &done {
            Ok(words) => exit::print(words),
            Err(words) => exit::progress(&format!("moorline: {words}")),
        }
        if options.once {
            return if done.is_ok() {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(exit::DATA)
            };
        }
    }
}

/// One build and one swap; what came of it.
fn turn(
    options: &DevOptions,
    settings: &Settings,
    key: Option<&SecretKey>,
) -> Result<String, String> {
    let began = Instant::now();
    // Before the build, which may put the component right where the gateway looks.
    let before = status_of_running(settings);
    let directories = [options.directory.clone()];
    let build = plugin_build::BuildOptions {
        out: Some(options.directory.join(DRAFT)),
        ..plugin_build::BuildOptions::default()
    };
    let built =
        plugin_build::build_many(&directories, &build, &mut |step| super::build::show(&step))
            .map_err(|error| error.to_string())?;
    let built = built.first().ok_or("nothing was built")?;
    let took = began.elapsed().as_secs_f64();
    let place = place(settings, built, options.connector.as_deref())?;
    let kib = built.bytes / 1024;
    let mut ready = format!("{} built in {took:.1} s ({kib} KiB)", built.name);
    if let Some(key) = key {
        sign(&built.path, key)?;
        ready.push_str(", signed");
    }
    if let Some(directory) = place.component.parent() {
        std::fs::create_dir_all(directory)
            .map_err(|error| format!("{}: {error}", directory.display()))?;
    }
    let new = Stocked::read(&built.path).map_err(|error| error.to_string())?;
    let digest = new.digest().to_string();
    let shelf = Shelf::new(&place.component);
    let proved = proved(settings, &place.connector);
    let keep = |lies: Digest| match &proved {
        Some(proved) => is_build(proved.as_ref())(lies),
        // Nobody knows whether it has proved itself; it may not push out what has.
        None => !shelf.before().exists(),
    };
    let lay = shelf
        .install(&new, keep)
        .map_err(|error| error.to_string())?;
    let Some(before) = before else {
        let component = place.component.display();
        return Ok(format!(
            "{ready}, put at {component}; no gateway runs with this configuration"
        ));
    };
    if serving(&before, &place.connector) == Some(&digest) {
        return Ok(format!("{ready}; it is what serves already"));
    }
    match outcome(settings, &place.connector, &digest, &before) {
        Fate::Serves(words) => Ok(format!("{ready}; {words}")),
        // The gateway itself brings back what was kept.
        Fate::RolledBack(words) | Fate::Unknown(words) => Err(words),
        Fate::Refused(words) => {
            if let Some(lay) = lay {
                shelf.put_back(&lay).map_err(|error| error.to_string())?;
            }
            Err(words)
        }
    }
}

/// What became of a build, in words.
enum Fate {
    Serves(String),
    Refused(String),
    RolledBack(String),
    Unknown(String),
}

fn sign(component: &Path, key: &SecretKey) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no threads to run on: {error}"))?;
    let signed = runtime.block_on(sign_one(component, key));
    runtime.shutdown_background();
    signed.map(drop)
}

/// The digest of what serves.
fn serving<'a>(status: &'a Status, connector: &str) -> Option<&'a String> {
    if connector == "policy" {
        return Some(&status.policy.digest);
    }
    let entry = status
        .connectors
        .iter()
        .find(|entry| entry.name == connector);
    entry.map(|entry| &entry.digest)
}

/// Waits for the gateway's word about the candidate.
fn outcome(settings: &Settings, connector: &str, digest: &str, before: &Status) -> Fate {
    let known = before.swaps.last().map_or(0, |swap| swap.id);
    let deadline = Instant::now() + SWAP_LIMIT;
    while Instant::now() < deadline {
        std::thread::sleep(LOOK_EVERY);
        let Some(status) = status_of_running(settings) else {
            continue;
        };
        let mut swaps = status.swaps.iter().rev();
        let swap =
            swaps.find(|swap| swap.id > known && swap.connector == connector && swap.to == digest);
        match swap {
            Some(swap) if swap.outcome == "swapped" => {
                let gap_ms = swap.gap_ms;
                return Fate::Serves(format!(
                    "{connector} swapped, no call was taken for {gap_ms} ms"
                ));
            }
            Some(swap) => {
                let (outcome, reason) = (
                    &swap.outcome,
                    swap.reason.as_deref().unwrap_or("no reason given"),
                );
                let words =
                    format!("{connector}: {outcome}, the generation before serves: {reason}");
                return match outcome.as_str() {
                    "refused" => Fate::Refused(words),
                    _rolled_back => Fate::RolledBack(words),
                };
            }
            // The first one is no swap.
            None if serving(&status, connector).is_some_and(|serving| serving == digest) => {
                return Fate::Serves(format!("{connector} serves"));
            }
            None => {}
        }
    }
    let seconds = SWAP_LIMIT.as_secs();
    Fate::Unknown(format!(
        "the gateway has said nothing about {connector} for {seconds} s; its log knows more"
    ))
}

/// Which component of the configuration this plugin is.
fn place(settings: &Settings, built: &BuiltPlugin, named: Option<&str>) -> Result<Place, String> {
    let connectors = settings.connectors.iter().map(|connector| Place {
        connector: connector.name.clone(),
        component: connector.component.clone(),
    });
    let policy = settings.policy.iter().map(|policy| Place {
        connector: "policy".to_owned(),
        component: policy.component.clone(),
    });
    let all: Vec<Place> = connectors.chain(policy).collect();
    let known: Vec<&str> = all.iter().map(|place| place.connector.as_str()).collect();
    let known = known.join(", ");
    let file_name = built.path.file_name().unwrap_or_default();
    let mut fitting: Vec<Place> = all
        .into_iter()
        .filter(|place| match named {
            Some(name) => place.connector == name,
            None => place.component.file_name() == Some(file_name),
        })
        .collect();
    match (fitting.pop(), fitting.is_empty(), named) {
        (Some(place), true, _) => Ok(place),
        (Some(_), false, _) => Err(format!(
            "several connectors have a component named {}: say which by --connector ({known})",
            file_name.display()
        )),
        (None, _, Some(name)) => Err(format!(
            "the configuration has no connector {name:?}; it has {known}"
        )),
        (None, _, None) => Err(format!(
            "no connector of the configuration has a component named {}: say which it is by --connector ({known})",
            file_name.display()
        )),
    }
}

/// The build of this plugin that has proved itself last, if there is one, by a gateway that runs; none if none does.
fn proved(settings: &Settings, name: &str) -> Option<Option<String>> {
    let mut client = Client::connect(&settings.state_dir).ok()?;
    match client.ask(&Request::List).ok()? {
        Answer::Plugins { plugins } => {
            let plugin = plugins.into_iter().find(|plugin| plugin.name == name);
            Some(plugin.and_then(|plugin| plugin.proved))
        }
        Answer::Swap(_)
        | Answer::StateRestored { .. }
        | Answer::Refused { .. }
        | Answer::Pending { .. }
        | Answer::Invalid { .. } => None,
    }
}

type Sources = BTreeMap<PathBuf, (Option<SystemTime>, u64)>;

/// The files of a plugin, with what tells that they changed. Those that cannot be read are left out: they are on their
/// way. What a gateway writes into its `state` directory is no source, wherever that lies.
fn sources(directory: &Path, state: &Path) -> Sources {
    let state = state.canonicalize().ok();
    let mut sources = Sources::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        let entries = std::fs::read_dir(&directory);
        for entry in entries.into_iter().flatten().filter_map(Result::ok) {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if name.starts_with('.') || MADE.iter().any(|ending| name.ends_with(ending)) {
                continue;
            }
            if metadata.is_dir() {
                let path = entry.path();
                let is_state = state.is_some() && path.canonicalize().ok() == state;
                if !NOT_SOURCE.contains(&&*name) && !is_state {
                    directories.push(path);
                }
            } else if sources.len() < FILES_MAX {
                sources.insert(entry.path(), (metadata.modified().ok(), metadata.len()));
            }
        }
    }
    sources
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_source_counts() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::create_dir_all(path("build/wit")).unwrap();
        std::fs::create_dir_all(path("lib")).unwrap();
        for name in [
            "connector.py",
            "lib/a.py",
            "build/wit/a.wit",
            "x.wasm",
            "x.wasm.minisig",
            ".swap",
        ] {
            std::fs::write(path(name), "1").unwrap();
        }
        std::fs::create_dir_all(path("run")).unwrap();
        let look = || sources(directory.path(), &path("run"));
        let before = look();
        assert_eq!(
            before.keys().collect::<Vec<_>>(),
            [&path("connector.py"), &path("lib/a.py")]
        );
        std::fs::write(path("x.wasm"), "22").unwrap();
        std::fs::write(path("run/status.json"), "{}").unwrap();
        assert_eq!(look(), before);
        std::fs::write(path("lib/a.py"), "22").unwrap();
        assert_ne!(look(), before);
    }
}
