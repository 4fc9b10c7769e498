//! Whether a connector takes its configuration: each of its instances is started once, where it reaches nothing.
//!
//! Streams can be opened and are never connected, the network is withheld, what it keeps stays in memory, and the
//! directories it may write are empty ones that are gone afterwards. Whatever it says about its device is true of no
//! device; only what it says about the configuration counts.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moorline_core::swap::Reason;
use tokio::sync::watch;

use super::platform::Platform;
use crate::clock::Clock;
use crate::plugins::bindings::connector::exports::moorline::edge::connector_guest::{Fault, Setup};
use crate::plugins::directories::Directories;
use crate::plugins::grants::Sandbox;
use crate::plugins::guest::Loaded;
use crate::plugins::host::{Confined, KeyValues, PendingRpcs, Reporting, Resident};
use crate::plugins::names::Names;
use crate::plugins::settings::{ConnectionSettings, ConnectorSettings, merged};
use crate::plugins::streams::Streams;

/// What a start may take altogether. A plugin that waits longer waits for its device.
const START_MAX: Duration = Duration::from_secs(10);
/// Characters of a refusal that are repeated.
const REFUSAL_CHARS_MAX: usize = 512;
const PRIVATE: u32 = 0o700;

/// An instance that does not start, for a reason no device could mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unstarted {
    /// Its connection's place in the configuration, if it has one.
    pub(crate) connection: Option<usize>,
    /// Why, for people.
    pub(crate) why: String,
    /// It may be for want of what is granted to it and was withheld here.
    pub(crate) is_doubtful: bool,
}

/// How a start ended.
enum End {
    /// It took the configuration, or got as far as its device.
    Taken,
    Unstarted {
        why: String,
        is_doubtful: bool,
    },
    /// It was not seen.
    Overdue,
}

/// Starts every instance of `connector` once; those that do not start.
pub(crate) async fn unstarted(loaded: &Loaded, connector: &ConnectorSettings) -> Vec<Unstarted> {
    let connections = connector.connections.iter().enumerate();
    let mut instances: Vec<_> = connections
        .map(|(index, connection)| (Some(index), Some(connection)))
        .collect();
    if instances.is_empty() {
        instances.push((None, None));
    }
    let mut unstarted = Vec::new();
    for (index, connection) in instances {
        match start(loaded, connector, connection).await {
            End::Taken => {}
            End::Unstarted { why, is_doubtful } => unstarted.push(Unstarted {
                connection: index,
                why: why.chars().take(REFUSAL_CHARS_MAX).collect(),
                is_doubtful,
            }),
            // The others would wait as long.
            End::Overdue => break,
        }
    }
    unstarted
}

async fn start(
    loaded: &Loaded,
    connector: &ConnectorSettings,
    connection: Option<&ConnectionSettings>,
) -> End {
    let mut sandbox = Sandbox::of(connector, connection);
    let withheld = Withheld::from(&mut sandbox);
    // The bound of a call counts the processor here, and this the time.
    sandbox.limits.call_wall = Duration::MAX;
    let begun = begin(loaded, connector, connection, &sandbox);
    match tokio::time::timeout(START_MAX, begun).await {
        Err(_elapsed) => End::Overdue,
        Ok(Begun { refused: None, .. }) => End::Taken,
        Ok(Begun {
            refused: Some(why),
            denied,
        }) => End::Unstarted {
            why,
            is_doubtful: withheld.directories.is_some() || withheld.network && denied,
        },
    }
}

/// What came of a start.
struct Begun {
    refused: Option<String>,
    /// It wanted something it did not get.
    denied: bool,
}

async fn begin(
    loaded: &Loaded,
    connector: &ConnectorSettings,
    connection: Option<&ConnectionSettings>,
    sandbox: &Sandbox,
) -> Begun {
    let instance: Arc<str> = match connection {
        Some(connection) => format!("{}/{}", connector.name, connection.name).into(),
        None => connector.name.as_str().into(),
    };
    let configuration = connection.map_or_else(
        || connector.configuration.clone(),
        |connection| merged(&connector.configuration, &connection.configuration),
    );
    let mut guest = match loaded.instantiate(sandbox).await {
        Ok(guest) => guest,
        Err(failure) => {
            let of_host = failure.reason == Reason::Host;
            return Begun {
                refused: (!of_host).then(|| format!("the plugin {failure}")),
                denied: false,
            };
        }
    };
    let clock = Clock::start();
    let (_platform, appender, claims) = Platform::start();
    let (_link, gaps) = watch::channel(0);
    let granted = connection.filter(|connection| connection.stream.is_some());
    let granted: Vec<String> = granted
        .map(|connection| connection.name.clone())
        .into_iter()
        .collect();
    guest.adopt(Box::new(Resident {
        instance: instance.clone(),
        clock,
        appender,
        claims,
        rpcs: PendingRpcs::default(),
        streams: Streams::unconnected(&granted),
        state: KeyValues::nowhere(sandbox.limits.state_bytes),
        directories: Directories::spawn(&instance, sandbox),
        confined: Confined::new(clock.now(), sandbox),
        report: Reporting::new(&connector.report, gaps),
        names: Names::default(),
        readings: 0,
        back_pressure: 0,
        refused: None,
        devices: std::collections::BTreeSet::new(),
    }));
    let setup = Setup {
        instance: instance.to_string(),
        configuration: configuration.to_string(),
        granted_streams: granted,
        hand_over: None,
    };
    let refused = match guest.start(&setup).await {
        Ok(Err(Fault::Configuration(words))) => {
            Some(format!("the plugin refuses this configuration: {words}"))
        }
        // The device is not there, and nothing was handed over: what it says of them proves nothing.
        Ok(Ok(_) | Err(Fault::Device(_) | Fault::HandOver(_) | Fault::Internal(_))) => None,
        Err(failure) if failure.reason == Reason::Host => None,
        Err(failure) => Some(format!(
            "started with this configuration, the plugin {failure}"
        )),
    };
    let denied = guest
        .resident()
        .is_some_and(|resident| resident.confined.denied.count > 0);
    Begun { refused, denied }
}

/// What an instance is granted and does not get.
struct Withheld {
    network: bool,
    directories: Option<Scratch>,
}

impl Withheld {
    /// Takes it out of `sandbox`.
    fn from(sandbox: &mut Sandbox) -> Self {
        let grants = &mut sandbox.grants;
        let network = !(grants.tcp.is_empty() && grants.http.is_empty());
        grants.tcp.clear();
        grants.http.clear();
        let written = &mut grants.writable_directories;
        let directories = (!written.is_empty()).then(Scratch::new);
        match &directories {
            Some(Scratch(Some(scratch))) => {
                for (index, directory) in written.iter_mut().enumerate() {
                    directory.host = scratch.join(index.to_string());
                    // One that could not be made is not opened, which the log says.
                    match private(&directory.host) {
                        Ok(()) | Err(_) => {}
                    }
                }
            }
            Some(Scratch(None)) => written.clear(),
            None => {}
        }
        // Its own directory would be made in these.
        sandbox.connection = None;
        Self {
            network,
            directories,
        }
    }
}

fn private(directory: &std::path::Path) -> std::io::Result<()> {
    DirBuilder::new().mode(PRIVATE).create(directory)
}

/// A directory that goes away again; none if none can be made.
struct Scratch(Option<PathBuf>);

impl Scratch {
    fn new() -> Self {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("moorline-check-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        // Never one that is there: it may be somebody's trap.
        Self(private(&path).is_ok().then_some(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            match std::fs::remove_dir_all(path) {
                // What stays of it is nobody's.
                Ok(()) | Err(_) => {}
            }
        }
    }
}
