//! `moorline plugin swap` and `moorline plugin rollback`: orders to a running gateway, over its admin socket.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use crate::admin::protocol::{Answer, Request, SwapAnswer, WAIT_S, WAIT_S_MAX};
use crate::admin::{Client, ClientError};
use crate::bounded_file::{self, ReadError};
use crate::cli::{ConfigFile, OutputFormat, exit, figures};
use crate::config::{self, Settings};
use crate::journal::HistoryEntry;
use crate::plugins::COMPONENT_BYTES_MAX;
use crate::trust::{SIGNATURE_FILE_BYTES_MAX, signature_path};

/// What both commands take.
#[derive(Debug, Args)]
struct Order {
    /// The connector's name in the configuration, or `policy`.
    name: String,
    #[command(flatten)]
    config: ConfigFile,
    /// How long to wait for the end, in seconds; the order goes on after that.
    #[arg(long, value_name = "S", default_value_t = WAIT_S, value_parser = clap::value_parser!(u64).range(1..=WAIT_S_MAX))]
    wait_s: u64,
    /// How to print it.
    #[arg(long, value_enum, default_value_t = OutputFormat::Human)]
    format: OutputFormat,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct SwapOptions {
    #[command(flatten)]
    order: Order,
    /// Puts this component in the place the configuration names, first, with its signature if FILE.minisig is there. What lay
    /// in the place is kept beside it under an added .before, and comes back if the new one is refused.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Also try a build that failed before.
    #[arg(long)]
    again: bool,
    /// Wait until the new generation has proved itself.
    #[arg(long)]
    proved: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RollBackOptions {
    #[command(flatten)]
    order: Order,
}

pub(super) fn swap(options: &SwapOptions) -> ExitCode {
    let order = &options.order;
    let (settings, mut client) = match order.prepare() {
        Ok(prepared) => prepared,
        Err(code) => return code,
    };
    let installed = match &options.file {
        Some(file) => match install(&settings, &order.name, file) {
            Ok(place) => Some(place),
            Err(trouble) => return trouble.fail(),
        },
        None => None,
    };
    let request = Request::Swap {
        plugin: order.name.clone(),
        again: options.again,
        proved: options.proved,
        wait_s: order.wait_s,
    };
    let answer = match client.ask(&request) {
        Ok(answer) => answer,
        Err(error) => return fail(&error),
    };
    let good = ["loaded", "swapped", "proved", "replaced", "unchanged"];
    let code = order.report(&answer, &good);
    if let (Some(place), Answer::Swap(swap)) = (installed, &answer)
        && matches!(swap.outcome.as_str(), "refused" | "rolled-back" | "shunned")
    {
        put_back(&place);
    }
    code
}

pub(super) fn roll_back(options: &RollBackOptions) -> ExitCode {
    let order = &options.order;
    let (settings, mut client) = match order.prepare() {
        Ok(prepared) => prepared,
        Err(code) => return code,
    };
    let request = Request::RollBack {
        plugin: order.name.clone(),
        wait_s: order.wait_s,
    };
    let answer = match client.ask(&request) {
        Ok(answer) => answer,
        Err(error) => return fail(&error),
    };
    let code = order.report(&answer, &["swapped", "rolled-back"]);
    if let (Some(place), Answer::Swap(swap)) = (place(&settings, &order.name), &answer) {
        keep_at_next_start(&place, swap);
    }
    code
}

fn fail(error: &ClientError) -> ExitCode {
    let code = match error {
        ClientError::NotRunning(_) => exit::DATA,
        ClientError::NotAllowed(_) | ClientError::Broken(..) => exit::OS,
    };
    exit::fail(code, error)
}

impl Order {
    fn prepare(&self) -> Result<(Settings, Client), ExitCode> {
        let settings = config::load(&self.config.config)
            .map_err(|refused| exit::fail(exit::CONFIG, &refused))?;
        let client = Client::connect(&settings.state_dir).map_err(|error| fail(&error))?;
        Ok((settings, client))
    }

    fn report(&self, answer: &Answer, good: &[&str]) -> ExitCode {
        if self.format == OutputFormat::Json {
            exit::print(&serde_json::json!(answer));
        }
        let (swap, words) = match answer {
            Answer::Swap(swap) => (swap, human(&self.name, swap)),
            Answer::Refused { why } | Answer::Pending { why } | Answer::Invalid { why } => {
                return exit::fail(exit::DATA, &figures::harmless(why));
            }
            Answer::Plugins { .. } | Answer::StateRestored { .. } => {
                return exit::fail(exit::SOFTWARE, &"an odd answer");
            }
        };
        if !good.contains(&swap.outcome.as_str()) {
            return exit::fail(exit::DATA, &words);
        }
        if self.format == OutputFormat::Human {
            exit::print(&words);
        }
        ExitCode::SUCCESS
    }
}

fn human(name: &str, swap: &SwapAnswer) -> String {
    let build = swap.digest.as_deref().unwrap_or_default();
    let words = match (&swap.end, swap.outcome.as_str()) {
        (Some(end), outcome) => return ended(end, outcome),
        (None, "unchanged") => format!("{name}: build {build} serves already"),
        (None, "shunned") => format!(
            "{name}: build {build} failed before and is not tried again until the file changes, or with --again: it {}",
            swap.reason.as_deref().unwrap_or("failed")
        ),
        (None, "missing") => format!(
            "{name}: the component's file {}",
            swap.reason
                .as_deref()
                .unwrap_or("is not there or cannot be read")
        ),
        (None, other) => format!("{name}: {other}"),
    };
    figures::harmless(&words)
}

fn ended(end: &HistoryEntry, outcome: &str) -> String {
    let HistoryEntry {
        plugin,
        generation,
        digest,
        name,
        version,
        gap_ms,
        ..
    } = end;
    let reason = end.reason.as_deref().unwrap_or("no reason was given");
    let serves = end.from_generation.map_or_else(
        || "nothing serves".to_owned(),
        |from| format!("generation {from} serves"),
    );
    let mut words = match outcome {
        "loaded" => {
            format!("{plugin}: generation {generation} serves ({name} {version}, build {digest})")
        }
        "swapped" => format!(
            "{plugin}: generation {generation} serves ({name} {version}, build {digest}) after a gap of {gap_ms} ms, on probation"
        ),
        "proved" => format!(
            "{plugin}: generation {generation} serves ({name} {version}, build {digest}) after a gap of {gap_ms} ms, and has proved itself"
        ),
        "replaced" => format!(
            "{plugin}: generation {generation} served, and has been replaced by a later one"
        ),
        "rolled-back" => format!(
            "{plugin}: generation {generation} (build {digest}) was rolled back after a gap of {gap_ms} ms, {serves}; {reason}"
        ),
        _refused => format!("{plugin}: build {digest} was refused, {serves}; {reason}"),
    };
    if let Some(clean) = &end.clean {
        words += &format!("; it did not take the hand-over and began clean: {clean}");
    }
    figures::harmless(&words)
}

/// Where the configuration has a plugin's component.
fn place(settings: &Settings, name: &str) -> Option<PathBuf> {
    let mut connectors = settings.connectors.iter();
    let connector = connectors.find(|connector| connector.name == name);
    let policy = settings.policy.as_ref().filter(|_| name == "policy");
    connector
        .map(|connector| connector.component.clone())
        .or_else(|| policy.map(|policy| policy.component.clone()))
}

enum Trouble {
    Unknown(String),
    Link(PathBuf),
    Read(PathBuf, String),
    Write(PathBuf, io::Error),
}

impl Trouble {
    fn fail(&self) -> ExitCode {
        match self {
            Self::Unknown(name) => exit::fail(
                exit::DATA,
                &format!("the configuration has no connector {name:?}"),
            ),
            Self::Link(place) => exit::fail(
                exit::DATA,
                &format!(
                    "{} is a symbolic link: whoever turns it swaps the plugin; nothing was changed",
                    place.display()
                ),
            ),
            Self::Read(file, error) => {
                exit::fail(exit::DATA, &format!("{}: {error}", file.display()))
            }
            Self::Write(place, error) => exit::fail(
                exit::OS,
                &format!("{} cannot be replaced: {error}", place.display()),
            ),
        }
    }
}

fn beside(place: &Path, ending: &str) -> PathBuf {
    let mut name = place.file_name().map_or_else(OsString::new, OsString::from);
    name.push(ending);
    place.with_file_name(name)
}

fn before(place: &Path) -> PathBuf {
    beside(place, ".before")
}

fn install(settings: &Settings, name: &str, file: &Path) -> Result<PathBuf, Trouble> {
    let place = place(settings, name).ok_or_else(|| Trouble::Unknown(name.to_owned()))?;
    install_at(place, file)
}

/// Puts `file` in the plugin's place in one step, and keeps what lay there.
fn install_at(place: PathBuf, file: &Path) -> Result<PathBuf, Trouble> {
    let metadata = match std::fs::symlink_metadata(&place) {
        Ok(metadata) if metadata.is_symlink() => return Err(Trouble::Link(place)),
        Ok(metadata) => Some(metadata),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(Trouble::Write(place, error)),
    };
    let bytes = bounded_file::read(file, COMPONENT_BYTES_MAX)
        .map_err(|error| Trouble::Read(file.to_owned(), error.to_string()))?;
    let signature = signature_of(file)?;
    install_signature(&place, signature.as_deref())
        .map_err(|error| Trouble::Write(signature_path(&place), error))?;
    let mode = metadata
        .as_ref()
        .map_or(0o644, |metadata| metadata.mode() & 0o777);
    replace(&place, &bytes, mode, metadata.is_some())
        .map_err(|error| Trouble::Write(place.clone(), error))?;
    Ok(place)
}

fn signature_of(file: &Path) -> Result<Option<Vec<u8>>, Trouble> {
    let signature = signature_path(file);
    match bounded_file::read(&signature, SIGNATURE_FILE_BYTES_MAX) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Trouble::Read(signature, error.to_string())),
    }
}

/// Goes first, so that the gateway does not find the component without it. Where `file` has none, what lies there stays:
/// somebody may have put it there for the new build.
fn install_signature(place: &Path, signature: Option<&[u8]>) -> io::Result<()> {
    let lies = signature_path(place);
    remove(&before(&lies))?;
    match (signature, lies.try_exists()?) {
        (Some(bytes), keep) => replace(&lies, bytes, 0o644, keep),
        (None, true) => std::fs::hard_link(&lies, before(&lies)),
        (None, false) => Ok(()),
    }
}

fn replace(place: &Path, bytes: &[u8], mode: u32, keep: bool) -> io::Result<()> {
    let new = beside(place, ".new");
    remove(&new)?;
    let mut draft = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&new)?;
    draft.write_all(bytes)?;
    draft.sync_all()?;
    if keep {
        remove(&before(place))?;
        std::fs::hard_link(place, before(place))?;
    }
    std::fs::rename(new, place)
}

fn remove(file: &Path) -> io::Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn put_back(place: &Path) {
    let words = match std::fs::rename(before(place), place) {
        Ok(()) => match put_signature_back(&signature_path(place)) {
            Ok(()) => format!("{} is again what it was", place.display()),
            Err(error) => format!(
                "{} is again what it was, but its signature is not: {error}",
                place.display()
            ),
        },
        Err(error) => format!(
            "{} still holds the build that failed, which is loaded at the next start: {error}",
            place.display()
        ),
    };
    exit::progress(&words);
}

fn put_signature_back(lies: &Path) -> io::Result<()> {
    match std::fs::rename(before(lies), lies) {
        // What lay there first had none.
        Err(error) if error.kind() == io::ErrorKind::NotFound => remove(lies),
        moved => moved,
    }
}

/// The build that serves after a roll-back must be the one in the file, or the next start loads the other again.
fn keep_at_next_start(place: &Path, swap: &SwapAnswer) {
    let Some((_, serving)) = swap.end.as_ref().and_then(HistoryEntry::serving) else {
        return;
    };
    let holds = |file: &Path| {
        bounded_file::read(file, COMPONENT_BYTES_MAX)
            .is_ok_and(|bytes| crate::plugins::digest_of(&bytes).to_string() == serving)
    };
    let is_link = std::fs::symlink_metadata(place).is_ok_and(|metadata| metadata.is_symlink());
    if holds(place) {
        return;
    }
    if !is_link && holds(&before(place)) {
        return put_back(place);
    }
    exit::progress(&format!(
        "{} holds another build, which is loaded at the next start: put build {serving} there",
        place.display()
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Shelf {
        directory: tempfile::TempDir,
        place: PathBuf,
    }

    impl Shelf {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let place = directory.path().join("line.wasm");
            Self { directory, place }
        }

        fn put(&self, name: &str, content: &str) {
            std::fs::write(self.directory.path().join(name), content).unwrap();
        }

        fn install(&self, name: &str) {
            let file = self.directory.path().join(name);
            assert!(install_at(self.place.clone(), &file).is_ok());
        }

        fn holds(&self) -> (String, Option<String>) {
            let signature = std::fs::read_to_string(signature_path(&self.place));
            let component = std::fs::read_to_string(&self.place).unwrap();
            (component, signature.ok())
        }
    }

    fn pair(component: &str, signature: Option<&str>) -> (String, Option<String>) {
        (component.to_owned(), signature.map(str::to_owned))
    }

    #[test]
    fn a_signature_comes_and_goes_with_its_component() {
        let shelf = Shelf::new();
        shelf.put("line.wasm", "old");
        shelf.put("line.wasm.minisig", "of the old");
        shelf.put("new.wasm", "new");
        shelf.put("new.wasm.minisig", "of the new");
        shelf.install("new.wasm");
        assert_eq!(shelf.holds(), pair("new", Some("of the new")));
        put_back(&shelf.place);
        assert_eq!(shelf.holds(), pair("old", Some("of the old")));
    }

    #[test]
    fn a_component_that_had_no_signature_gets_none_back() {
        let shelf = Shelf::new();
        shelf.put("line.wasm", "old");
        shelf.put("new.wasm", "new");
        shelf.put("new.wasm.minisig", "of the new");
        shelf.install("new.wasm");
        put_back(&shelf.place);
        assert_eq!(shelf.holds(), pair("old", None));
    }

    #[test]
    fn a_component_without_a_signature_leaves_the_one_that_lies_there() {
        let shelf = Shelf::new();
        shelf.put("line.wasm", "old");
        shelf.put("line.wasm.minisig", "of somebody");
        shelf.put("new.wasm", "new");
        shelf.install("new.wasm");
        assert_eq!(shelf.holds(), pair("new", Some("of somebody")));
        put_back(&shelf.place);
        assert_eq!(shelf.holds(), pair("old", Some("of somebody")));
    }
}
