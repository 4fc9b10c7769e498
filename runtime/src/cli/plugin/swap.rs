//! `moorline plugin swap` and `moorline plugin rollback`: orders to a running gateway, over its admin socket.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use moorline_core::swap::Digest;

use crate::admin::protocol::{Answer, PluginEntry, Request, SwapAnswer, WAIT_S, WAIT_S_MAX};
use crate::admin::{Client, ClientError};
use crate::cli::{ConfigFile, OutputFormat, exit, figures};
use crate::config::Settings;
use crate::journal::HistoryEntry;
use crate::plugins::{Shelf, ShelfError, Stocked, TakenBack};

/// How long the gateway may take to put back what lay in the place before a build that it rolled back.
const PUT_BACK_MAX: Duration = Duration::from_secs(2);
const PUT_BACK_LOOK: Duration = Duration::from_millis(100);

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
    /// in the place comes back if the new one is refused. The last build that proved itself is kept beside it under an added
    /// .before, and comes back if the new one is rolled back.
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
    let before = match listed(&mut client, &order.name) {
        Ok(before) => before,
        Err(code) => return code,
    };
    let proved = before.as_ref().and_then(|plugin| plugin.proved.as_ref());
    let installed = options
        .file
        .as_ref()
        .map(|file| Installed::new(&settings, proved, &order.name, file));
    let installed = match installed.transpose() {
        Ok(installed) => installed,
        Err(code) => return code,
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
    if let (Some(installed), Answer::Swap(swap)) = (&installed, &answer)
        && swap.outcome == "unchanged"
        && !is_build(swap.digest.as_ref())(installed.build)
    {
        let (name, place) = (&order.name, installed.shelf.place().display());
        let words = format!(
            "{name}: somebody has put another build at {place} meanwhile, and that serves already; nothing was swapped"
        );
        return exit::fail(exit::DATA, &figures::harmless(&words));
    }
    let good = ["loaded", "swapped", "proved", "replaced", "unchanged"];
    let code = order.report(&answer, &good);
    if let (Some(before), Answer::Swap(swap)) = (&before, &answer)
        && let Some(words) = another_plugin(before, swap)
    {
        exit::progress(&words);
    }
    if let (Some(installed), Answer::Swap(swap)) = (installed, &answer) {
        match swap.outcome.as_str() {
            "refused" | "shunned" => installed.put_back(),
            "rolled-back" => keep_at_next_start(installed.shelf.place(), swap, None),
            _serves => {}
        }
    }
    code
}

pub(super) fn roll_back(options: &RollBackOptions) -> ExitCode {
    let order = &options.order;
    let (settings, mut client) = match order.prepare() {
        Ok(prepared) => prepared,
        Err(code) => return code,
    };
    let proved = match listed(&mut client, &order.name) {
        Ok(plugin) => plugin.and_then(|plugin| plugin.proved),
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
        keep_at_next_start(&place, swap, proved.as_ref());
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
        let settings = self.config.settings()?;
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

/// That what serves now calls itself otherwise than what served: perhaps somebody took the wrong file.
fn another_plugin(before: &PluginEntry, swap: &SwapAnswer) -> Option<String> {
    let end = swap.end.as_ref()?;
    let serves = matches!(swap.outcome.as_str(), "swapped" | "proved");
    let (now, then) = (&end.name, &before.plugin);
    if !serves || now.is_empty() || then.is_empty() || now == then {
        return None;
    }
    let words = format!(
        "{}: {now} serves, before it was {then}; if that was not meant, `moorline plugin rollback {0}` goes back",
        end.plugin
    );
    Some(figures::harmless(&words))
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

/// What a running gateway says of this plugin.
fn listed(client: &mut Client, name: &str) -> Result<Option<PluginEntry>, ExitCode> {
    match client.ask(&Request::List).map_err(|error| fail(&error))? {
        Answer::Plugins { plugins } => Ok(plugins.into_iter().find(|plugin| plugin.name == name)),
        Answer::Refused { why } | Answer::Pending { why } | Answer::Invalid { why } => {
            Err(exit::fail(exit::DATA, &figures::harmless(&why)))
        }
        Answer::Swap(_) | Answer::StateRestored { .. } => {
            Err(exit::fail(exit::SOFTWARE, &"an odd answer"))
        }
    }
}

/// Whether a build is this one, as people are shown it.
pub(super) fn is_build(shown: Option<&String>) -> impl Fn(Digest) -> bool + use<'_> {
    move |digest| shown.is_some_and(|shown| *shown == digest.to_string())
}

fn refuse(error: &ShelfError) -> ExitCode {
    let code = match error {
        ShelfError::Link(_) | ShelfError::Read(..) => exit::DATA,
        ShelfError::Write(..) => exit::OS,
    };
    exit::fail(code, error)
}

/// What was put in the place, to be taken away again.
struct Installed {
    shelf: Shelf,
    build: Digest,
    /// What lay there.
    lay: Option<Stocked>,
}

impl Installed {
    fn new(
        settings: &Settings,
        proved: Option<&String>,
        name: &str,
        file: &Path,
    ) -> Result<Self, ExitCode> {
        let Some(place) = place(settings, name) else {
            let why = format!("the configuration has no connector {name:?}");
            return Err(exit::fail(exit::DATA, &why));
        };
        let shelf = Shelf::new(&place);
        let installed = Stocked::read(file).and_then(|new| {
            let trust = &settings.plugins.trust;
            let lay = shelf.install(&new, trust, is_build(proved))?;
            Ok((new.digest(), lay))
        });
        let (build, lay) = installed.map_err(|error| refuse(&error))?;
        Ok(Self { shelf, build, lay })
    }

    fn put_back(&self) {
        let place = self.shelf.place().display();
        let words = match self.lay.as_ref().map(|lay| self.shelf.put_back(lay)) {
            Some(Ok(())) => format!("{place} is again what it was"),
            Some(Err(error)) => format!(
                "{place} still holds the build that failed, which is loaded at the next start: {error}"
            ),
            None => format!("{place} holds the build that failed; before it nothing was there"),
        };
        exit::progress(&words);
    }
}

/// The build that serves after a roll-back must be the one in the file, or the next start loads the other again. The gateway
/// looks after it, too, but may not be allowed to write there. `proved` is kept if it is taken out of the place.
fn keep_at_next_start(place: &Path, swap: &SwapAnswer, proved: Option<&String>) {
    let Some((_, serving)) = swap.end.as_ref().and_then(HistoryEntry::serving) else {
        return;
    };
    let serving = serving.to_owned();
    let shelf = Shelf::new(place);
    let good = is_build(Some(&serving));
    let place = place.display();
    let mut taken_back = shelf.take_back(&good, &good, is_build(proved));
    if swap.outcome == "rolled-back" {
        // The gateway is at it, too, and may do what is not allowed here.
        let until = Instant::now() + PUT_BACK_MAX;
        while matches!(&taken_back, Ok(TakenBack::NotKept) | Err(_)) && Instant::now() < until {
            std::thread::sleep(PUT_BACK_LOOK);
            if shelf.digest().is_some_and(&good) {
                taken_back = Ok(TakenBack::LiesThere);
            }
        }
    }
    let words = match taken_back {
        Ok(TakenBack::LiesThere) => format!("{place} holds build {serving}, which serves"),
        Ok(TakenBack::Back(_)) => format!("{place} is again what it was"),
        Ok(TakenBack::NotKept) => format!(
            "{place} holds another build, which is loaded at the next start: put build {serving} there"
        ),
        Err(error) => format!(
            "{place} holds another build, which is loaded at the next start: {error}; put build {serving} there, from {}",
            shelf.before().display()
        ),
    };
    exit::progress(&words);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_plugin_in_the_place_of_one_is_named() {
        let before = PluginEntry {
            plugin: "chiller".to_owned(),
            ..PluginEntry::default()
        };
        let swap = |name: &str, outcome: &str| SwapAnswer {
            outcome: outcome.to_owned(),
            end: Some(HistoryEntry {
                plugin: "line".to_owned(),
                name: name.to_owned(),
                ..HistoryEntry::default()
            }),
            ..SwapAnswer::default()
        };
        let words = |name, outcome| another_plugin(&before, &swap(name, outcome));
        let said = words("press-counter", "swapped").unwrap();
        assert!(
            said.starts_with("line: press-counter serves, before it was chiller"),
            "{said}"
        );
        assert_eq!(words("chiller", "swapped"), None);
        assert_eq!(words("press-counter", "refused"), None);
    }
}
