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
use crate::plugin_build;
use crate::plugins::{Shelf, Stocked};
use crate::status::{Status, SwapEntry};
use crate::trust::SecretKey;

/// How often the source is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// How long the gateway may take for a swap: to compile the largest component, and to start it.
const SWAP_LIMIT: Duration = Duration::from_secs(120);
/// Files of one plugin that are watched.
const FILES_MAX: usize = 10_000;
/// Directories in which builds and editors leave things behind.
const NOT_SOURCE: [&str; 5] = ["build", "target", "node_modules", "__pycache__", "dist"];
/// How source ends, and what is written beside it by hand. Anything else may be written while the plugin is built or runs,
/// and would have it built for ever: a log, `Cargo.lock`, the component itself.
const SOURCE: [&str; 11] = [
    "rs", "toml", "py", "js", "mjs", "cjs", "ts", "json", "c", "h", "wit",
];
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

/// Why no build that is signed by `key` would be loaded.
fn unfit(settings: &Settings, key: Option<&SecretKey>) -> Option<String> {
    let trust = &settings.plugins.trust;
    if trust.policy != Policy::Require {
        return None;
    }
    let Some(key) = key else {
        return Some(
            "no build that is made here would be loaded: sign them by --key FILE, with a secret key whose public line is in \
             [plugins.trusted_keys] (`moorline plugin keygen` makes one)"
                .to_owned(),
        );
    };
    let unknown = trust.keys_of(key.public().id).err()?;
    Some(format!(
        "no build that this key signs would be loaded: {}",
        unknown.detail
    ))
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
    // Who asked for the wrong one need not wait for a compiler to hear it. What is no plugin yet is said by its build.
    if let Ok(file_name) = plugin_build::component_file_name(&options.directory)
        && let Err(why) = place(&settings, Path::new(&file_name), named(options))
    {
        return exit::fail(exit::USAGE, &why);
    }
    if let Some(why) = unfit(&settings, key.as_ref()) {
        let file = options.config.config.display();
        return exit::fail(
            exit::USAGE,
            &format!("{file} requires signatures, and {why}"),
        );
    }
    let mut bench = Bench {
        options,
        settings: &settings,
        key: key.as_ref(),
        probation: None,
        failed: None,
    };
    let mut seen = None;
    loop {
        bench.tell_verdict();
        let now = sources(
            &options.directory,
            &[&settings.state_dir, &settings.status_file],
        );
        if seen.as_ref() == Some(&now) {
            std::thread::sleep(LOOK_EVERY);
            continue;
        }
        // What changes while it is built is built next.
        seen = Some(now);
        let done = bench.turn();
        tell(&done);
        if options.once {
            return if done.is_ok() {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(exit::DATA)
            };
        }
    }
}

fn named(options: &DevOptions) -> Option<&str> {
    options.connector.as_deref()
}

fn tell(said: &Result<String, String>) {
    match said {
        Ok(words) => exit::print(words),
        Err(words) => exit::progress(&format!("moorline: {words}")),
    }
}

/// A build that was swapped in and has not proved itself yet.
struct Probation {
    connector: String,
    digest: String,
    /// The last swap before it.
    known: u64,
}

/// A build that the gateway did not keep.
struct Failed {
    digest: String,
    why: String,
}

/// A build that is not in its place yet.
struct Draft {
    /// What was done, for people.
    ready: String,
    place: Place,
    component: Stocked,
    digest: String,
    path: PathBuf,
}

/// What lasts from turn to turn.
struct Bench<'a> {
    options: &'a DevOptions,
    settings: &'a Settings,
    key: Option<&'a SecretKey>,
    probation: Option<Probation>,
    failed: Option<Failed>,
}

impl Bench<'_> {
    /// One build and one swap; what came of it.
    fn turn(&mut self) -> Result<String, String> {
        let draft = self.build()?;
        // The build may have taken longer than the probation of the one before.
        self.tell_verdict();
        let Draft {
            ready,
            place,
            component,
            digest,
            path,
        } = draft;
        let same = self
            .failed
            .as_ref()
            .filter(|failed| failed.digest == digest);
        if let Some(Failed { why, .. }) = same {
            let (name, path) = (&place.connector, path.display());
            return Err(format!(
                "{ready}; it is the build that failed, again, and is not put there ({why}): change the source, or try it all the \
                 same by `moorline plugin swap {name} --file {path} --again`"
            ));
        }
        if let Some(directory) = place.component.parent() {
            std::fs::create_dir_all(directory)
                .map_err(|error| format!("{}: {error}", directory.display()))?;
        }
        let before = status_of_running(self.settings);
        let shelf = Shelf::new(&place.component);
        let serves = before
            .as_ref()
            .is_some_and(|before| serving(before, &place.connector) == Some(&digest));
        // Nothing is put there: the signature beside what serves is good, and may be somebody else's.
        if serves
            && shelf
                .digest()
                .is_some_and(|lies| lies.to_string() == digest)
        {
            return Ok(format!("{ready}; it is what serves already"));
        }
        let lay = install(self.settings, &place, &shelf, &component)?;
        let Some(before) = before else {
            let component = place.component.display();
            return Ok(format!(
                "{ready}, put at {component}; no gateway runs with this configuration"
            ));
        };
        if serves {
            return Ok(format!("{ready}; it is what serves already"));
        }
        let fate = outcome(self.settings, &place.connector, &digest, &before);
        if let (Fate::Refused(_), Some(lay)) = (&fate, &lay) {
            shelf.put_back(lay).map_err(|error| error.to_string())?;
        }
        match fate {
            Fate::Serves(words) => Ok(format!("{ready}; {words}")),
            Fate::OnProbation(words) => {
                self.failed = None;
                self.probation = Some(Probation {
                    connector: place.connector,
                    digest,
                    known: known(&before),
                });
                Ok(format!("{ready}; {words}"))
            }
            Fate::Unknown(words) => Err(words),
            // Of a roll-back the gateway itself brings back what was kept.
            Fate::RolledBack(why) | Fate::Refused(why) => {
                let words = why.clone();
                self.failed = Some(Failed { digest, why });
                Err(words)
            }
        }
    }

    /// One build, signed if there is a key.
    fn build(&self) -> Result<Draft, String> {
        let began = Instant::now();
        let directories = [self.options.directory.clone()];
        let build = plugin_build::BuildOptions {
            out: Some(self.options.directory.join(DRAFT)),
            ..plugin_build::BuildOptions::default()
        };
        let built =
            plugin_build::build_many(&directories, &build, &mut |step| super::build::show(&step))
                .map_err(|error| error.to_string())?;
        let built = built.into_iter().next().ok_or("nothing was built")?;
        let took = began.elapsed().as_secs_f64();
        let place = place(self.settings, &built.path, named(self.options))?;
        let kib = built.bytes / 1024;
        let mut ready = format!("{} built in {took:.1} s ({kib} KiB)", built.name);
        if let Some(key) = self.key {
            sign(&built.path, key)?;
            ready.push_str(", signed");
        }
        let component = Stocked::read(&built.path).map_err(|error| error.to_string())?;
        Ok(Draft {
            ready,
            place,
            digest: component.digest().to_string(),
            component,
            path: built.path,
        })
    }

    /// Says how a probation ended, once it has.
    fn tell_verdict(&mut self) {
        let Some(probation) = &self.probation else {
            return;
        };
        let Some(status) = status_of_running(self.settings) else {
            return;
        };
        let Probation {
            connector,
            digest,
            known,
        } = probation;
        let rolled_back = later(&status, connector, *known)
            .find(|swap| swap.to == *digest && swap.outcome != "swapped");
        if let Some(swap) = rolled_back {
            let why = lost(&status, swap);
            tell(&Err(why.clone()));
            let digest = digest.clone();
            self.failed = Some(Failed { digest, why });
            self.probation = None;
        } else if proved(self.settings, connector).flatten().as_ref() == Some(digest) {
            tell(&Ok(format!(
                "{connector}: build {digest} has proved itself"
            )));
            self.probation = None;
        } else if later(&status, connector, *known)
            .any(|swap| swap.outcome == "swapped" && swap.to != *digest)
        {
            // Somebody else has put another in its place.
            self.probation = None;
        }
    }
}

/// Puts `new` in its place; what lay there.
fn install(
    settings: &Settings,
    place: &Place,
    shelf: &Shelf,
    new: &Stocked,
) -> Result<Option<Stocked>, String> {
    let proved = proved(settings, &place.connector);
    let keep = |lies: Digest| match &proved {
        Some(proved) => is_build(proved.as_ref())(lies),
        // Nobody knows whether it has proved itself; it may not push out what has.
        None => !shelf.before().exists(),
    };
    let lay = shelf.install(new, &settings.plugins.trust, keep);
    lay.map_err(|error| error.to_string())
}

/// What became of a build, in words.
enum Fate {
    Serves(String),
    OnProbation(String),
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

/// The last swap there was.
fn known(status: &Status) -> u64 {
    status.swaps.last().map_or(0, |swap| swap.id)
}

/// Swaps of the connector after the one that is `known`, newest first.
fn later<'a>(
    status: &'a Status,
    connector: &'a str,
    known: u64,
) -> impl Iterator<Item = &'a SwapEntry> {
    let swaps = status.swaps.iter().rev();
    swaps.filter(move |swap| swap.id > known && swap.connector == connector)
}

/// How a build was lost, and what serves now.
fn lost(status: &Status, swap: &SwapEntry) -> String {
    let connector = &swap.connector;
    let serves = match serving(status, connector).filter(|digest| !digest.is_empty()) {
        Some(digest) => format!("build {digest} serves"),
        None => "nothing serves".to_owned(),
    };
    let reason = swap.reason.as_deref().unwrap_or("no reason given");
    let (outcome, lost) = (swap.outcome.replace('-', " "), &swap.to);
    format!("{connector}: build {lost} was {outcome}, {serves}: {reason}")
}

/// Waits for the gateway's word about the candidate.
fn outcome(settings: &Settings, connector: &str, digest: &str, before: &Status) -> Fate {
    let known = known(before);
    let deadline = Instant::now() + SWAP_LIMIT;
    while Instant::now() < deadline {
        std::thread::sleep(LOOK_EVERY);
        let Some(status) = status_of_running(settings) else {
            continue;
        };
        let fate = fate(&status, connector, digest, known);
        if let Some(fate) = fate {
            return fate;
        }
    }
    let seconds = SWAP_LIMIT.as_secs();
    Fate::Unknown(format!(
        "the gateway has said nothing about {connector} for {seconds} s; its log knows more"
    ))
}

/// What the status says of the candidate, if it says anything yet.
fn fate(status: &Status, connector: &str, digest: &str, known: u64) -> Option<Fate> {
    let swap = later(status, connector, known).find(|swap| swap.to == digest);
    Some(match swap {
        Some(swap) if swap.outcome == "swapped" => {
            let gap_ms = swap.gap_ms;
            Fate::OnProbation(format!(
                "{connector} swapped, no call was taken for {gap_ms} ms, on probation"
            ))
        }
        Some(swap) if swap.outcome == "refused" => Fate::Refused(lost(status, swap)),
        Some(swap) => Fate::RolledBack(lost(status, swap)),
        // The first one is no swap.
        None if serving(status, connector).is_some_and(|serving| serving == digest) => {
            Fate::Serves(format!("{connector} serves"))
        }
        None => return None,
    })
}

/// Which component of the configuration this plugin is.
fn place(settings: &Settings, component: &Path, named: Option<&str>) -> Result<Place, String> {
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
    let file_name = component.file_name().unwrap_or_default();
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
/// way. What a gateway writes is no source, wherever it lies.
fn sources(directory: &Path, written: &[&Path]) -> Sources {
    let written: Vec<PathBuf> = written
        .iter()
        .filter_map(|path| path.canonicalize().ok())
        .collect();
    let is_written = |path: &Path| {
        path.canonicalize()
            .is_ok_and(|path| written.contains(&path))
    };
    let mut sources = Sources::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        let entries = std::fs::read_dir(&directory);
        for entry in entries.into_iter().flatten().filter_map(Result::ok) {
            let (name, path) = (entry.file_name(), entry.path());
            let name = name.to_string_lossy();
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if name.starts_with('.') || is_written(&path) {
                continue;
            }
            if metadata.is_dir() {
                if !NOT_SOURCE.contains(&&*name) {
                    directories.push(path);
                }
            } else if is_source(&path) && sources.len() < FILES_MAX {
                sources.insert(path, (metadata.modified().ok(), metadata.len()));
            }
        }
    }
    sources
}

fn is_source(file: &Path) -> bool {
    let ending = file.extension().map(|ending| ending.to_string_lossy());
    ending.is_some_and(|ending| SOURCE.contains(&&*ending))
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
            "Cargo.lock",
            "gateway.log",
        ] {
            std::fs::write(path(name), "1").unwrap();
        }
        std::fs::create_dir_all(path("run")).unwrap();
        let look = || sources(directory.path(), &[&path("run"), &path("status.json")]);
        let before = look();
        assert_eq!(
            before.keys().collect::<Vec<_>>(),
            [&path("connector.py"), &path("lib/a.py")]
        );
        for name in ["x.wasm", "Cargo.lock", "gateway.log", "status.json"] {
            std::fs::write(path(name), "22").unwrap();
        }
        std::fs::write(path("run/status.json"), "{}").unwrap();
        assert_eq!(look(), before);
        std::fs::write(path("lib/a.py"), "22").unwrap();
        assert_ne!(look(), before);
    }
    fn status(serves: &str, swaps: &[(u64, &str, &str)]) -> Status {
        let swap = |&(id, to, outcome): &(u64, &str, &str)| SwapEntry {
            id,
            connector: "line".to_owned(),
            to: to.to_owned(),
            outcome: outcome.to_owned(),
            reason: (outcome != "swapped").then(|| "probation: trapped".to_owned()),
            gap_ms: 0.5,
            ..SwapEntry::default()
        };
        Status {
            connectors: vec![crate::status::ConnectorEntry {
                name: "line".to_owned(),
                digest: serves.to_owned(),
                ..crate::status::ConnectorEntry::default()
            }],
            swaps: swaps.iter().map(swap).collect(),
            ..Status::default()
        }
    }

    #[test]
    fn a_swap_is_on_probation_until_its_end_is_told() {
        let swapped = status("new", &[(1, "new", "rolled-back"), (2, "new", "swapped")]);
        let Some(Fate::OnProbation(words)) = fate(&swapped, "line", "new", 1) else {
            panic!("{swapped:?}")
        };
        assert!(words.ends_with("on probation"), "{words}");
        let back = status("old", &[(2, "new", "swapped"), (3, "new", "rolled-back")]);
        let Some(Fate::RolledBack(words)) = fate(&back, "line", "new", 1) else {
            panic!("{back:?}")
        };
        assert_eq!(
            words,
            "line: build new was rolled back, build old serves: probation: trapped"
        );
        assert!(fate(&back, "line", "other", 1).is_none());
        let first = fate(&status("new", &[]), "line", "new", 0);
        assert!(matches!(first, Some(Fate::Serves(_))));
    }
}
