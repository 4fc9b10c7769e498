//! `moorline demo`: the whole story on one machine, and the proof that nothing was lost.
//!
//! ```text
//!  simulated connector ─┐
//!                       ├─ gateway ──► fault proxy ──► broker ──► audit
//!  Modbus TCP device ───┘  (child)                     (child)
//! ```
//!
//! The gateway is the product as it ships: a child process of the same binary, judged only by what it leaves on the
//! wire, at the devices and in its status file.

pub mod audit;
pub mod broker;
mod build;
pub mod device;
mod embedded;
pub mod gateway;
pub mod part;
mod report;
mod shelf;
mod stage;
mod story;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;
use tokio::time::Instant;

pub use report::{DemoReport, ReportedDisconnect, ReportedPolicy, ReportedSwap};
pub use shelf::{mark, script};

use broker::BrokerKind;
use part::{BrokerChoice, DemoOptions};
use shelf::Shelf;
use stage::Stage;
use story::Story;

use crate::plugin_build::BuildError;
use crate::screen::{Screen, Tone};
use crate::shutdown::Signals;

/// Why the story could not be told. What went wrong inside it is in the report instead.
#[derive(Debug, Error)]
pub enum DemoError {
    /// The operating system refused something.
    #[error("cannot {what}: {source}")]
    Setup {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A plugin is missing.
    #[error("the plugin {0} was not built")]
    NotBuilt(String),
    /// A plugin could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The plugins' sources are not where this binary was built.
    #[error("the demo builds its plugins from Moorline's sources, and {0} does not hold them")]
    NoSources(PathBuf),
    /// `--broker mosquitto`, but there is none.
    #[error("Mosquitto is not installed; leave out --broker, or say --broker embedded")]
    NoMosquitto,
    /// SIGINT or SIGTERM.
    #[error("interrupted")]
    Interrupted,
}

/// Says what was tried when the operating system refuses.
trait Doing<T> {
    fn doing(self, what: &'static str) -> Result<T, DemoError>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: &'static str) -> Result<T, DemoError> {
        self.map_err(|source| DemoError::Setup { what, source })
    }
}

/// Tells the story and judges it.
///
/// # Errors
/// When the parts cannot be set up. What goes wrong in the story itself is in the report's `problems`.
pub async fn run(options: DemoOptions) -> Result<DemoReport, DemoError> {
    let mut signals = Signals::listen().doing("listen for signals")?;
    // Dropping the story kills its processes.
    tokio::select! {
        told = tell(&options) => told,
        _name = signals.next() => Err(DemoError::Interrupted),
    }
}

async fn tell(options: &DemoOptions) -> Result<DemoReport, DemoError> {
    let mut screen = Screen::new();
    let kind = broker_kind(options.broker)?;
    let temporary = std::env::temp_dir().join(format!("moorline-demo-{}", std::process::id()));
    let directory = options.directory.as_deref().unwrap_or(&temporary);
    std::fs::create_dir_all(directory).doing("create the demo's directory")?;
    screen.say(Tone::Title, &format!("set-up in {}", directory.display()));
    let built = build::build_all(&mut screen).await?;
    let shelf = Shelf::stock(&directory.join("plugins"), built)?;
    let stage = Stage::set(directory, kind, shelf, screen).await?;
    let start = Instant::now();
    let (stage, history) = Story::new(stage, Duration::from_secs(options.seconds))
        .tell()
        .await?;
    let (mut report, mut screen) = stage.report(&history).await;
    report.seconds = start.elapsed().as_secs_f64();
    conclude(&report, &mut screen);
    if let Some(file) = &options.report {
        let json = serde_json::to_vec_pretty(&report).map_err(io::Error::from);
        json.and_then(|json| std::fs::write(file, json))
            .doing("write the report")?;
    }
    if options.directory.is_none() && report.passed() {
        std::fs::remove_dir_all(directory).doing("remove the demo's directory")?;
    }
    Ok(report)
}

fn broker_kind(choice: BrokerChoice) -> Result<BrokerKind, DemoError> {
    match choice {
        BrokerChoice::Auto => BrokerKind::find().doing("find the running binary"),
        BrokerChoice::Mosquitto => broker::find_mosquitto()
            .map(BrokerKind::Mosquitto)
            .ok_or(DemoError::NoMosquitto),
        BrokerChoice::Embedded => std::env::current_exe()
            .map(BrokerKind::Embedded)
            .doing("find the running binary"),
    }
}

fn conclude(report: &DemoReport, screen: &mut Screen) {
    screen.say(
        Tone::Title,
        &format!(
            "the report, after {:.0} s with {}",
            report.seconds, report.broker
        ),
    );
    for line in report.lines() {
        screen.say(Tone::Plain, &line);
    }
    for problem in &report.problems {
        screen.say(Tone::Bad, problem);
    }
    if report.passed() {
        screen.say(Tone::Good, "nothing was lost, and no swap cost a session");
    }
}
