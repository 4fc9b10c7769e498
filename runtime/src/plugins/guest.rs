//! One guest: a Store with one component in it, called under deadlines.

use std::sync::Arc;
use std::time::Duration;

use moorline_core::confine::Limit;
use moorline_core::swap::{Build, Failure, Reason};
use tokio::time::error::Elapsed;
use wasmtime::component::{Component, Linker};
use wasmtime::{Store, Trap, WasmBacktrace};

use super::bindings::connector::exports::moorline::edge::connector_guest::{
    Description, Event, Fault, HandOver, Setup,
};
use super::bindings::connector::{Connector, ConnectorPre};
use super::card;
use super::engine::Engine;
use super::grants::Sandbox;
use super::host::{self, Resident};
use super::meter::{Free, Meter};
use super::settings::Limits;
use super::store::HostState;
use super::wasi::{self, Said};
use super::words;

/// Hand-over bytes of one instance.
pub(crate) const HAND_OVER_BYTES_MAX: usize = 1024 * 1024;
/// How wasmtime begins when a component would be too many instances, memories or tables. It has no type for that.
const TOO_MANY: &str = "resource limit exceeded: ";
/// Frames of a backtrace that are shown.
const FRAMES_SHOWN: usize = 4;
/// Lines of what wasmtime says of a trap that are logged at `debug`, its frames among them.
const TRACE_LINES_MAX: usize = 64;

/// The shortest wait for a timer: a guest that asks for zero gets the next turn, not this one.
const WAKE_MIN: Duration = Duration::from_millis(1);

/// When to wake the guest; `None` = only events do.
pub(crate) type Wake = Option<Duration>;

/// A component that fits its world, ready to be instantiated any number of times.
pub(crate) struct Loaded {
    pub(crate) build: Build,
    pub(crate) description: Description,
    pre: ConnectorPre<HostState>,
    engine: Engine,
}

/// How a call that reached the guest's code and came back can end.
pub(crate) type Answer = Result<Wake, Fault>;

fn wake(ms: Option<u32>) -> Wake {
    ms.map(|ms| Duration::from_millis(u64::from(ms)).max(WAKE_MIN))
}

/// Connects a component to the host's functions. This is the second half of the world check: names were compared
/// before, here the types are.
pub(crate) fn link(
    engine: &Engine,
    component: &Component,
) -> Result<ConnectorPre<HostState>, Failure> {
    let wrong = |error: wasmtime::Error| {
        let detail = words::repeated(&format!("{error:#}"));
        Failure::new(Reason::WrongWorld, detail)
    };
    let mut linker: Linker<HostState> = Linker::new(engine);
    wasi::add_to_linker(&mut linker).map_err(wrong)?;
    host::add_to_linker(&mut linker).map_err(wrong)?;
    let pre = linker.instantiate_pre(component).map_err(wrong)?;
    ConnectorPre::new(pre).map_err(wrong)
}

impl Loaded {
    /// Instantiates the component in a throw-away Store and asks for its description.
    pub(crate) async fn describe(
        engine: &Engine,
        pre: ConnectorPre<HostState>,
        build: Build,
        limits: &Limits,
    ) -> Result<Self, Failure> {
        let closed = Sandbox::closed(limits);
        let mut guest = Guest::instantiate_pre(engine, &pre, &closed).await?;
        let description = guest.describe().await?;
        card::check(
            &description.name,
            &description.version,
            &description.configuration_schema,
        )?;
        Ok(Self {
            build,
            description,
            pre,
            engine: engine.clone(),
        })
    }

    /// A fresh guest that was not started.
    pub(crate) async fn instantiate(&self, sandbox: &Sandbox) -> Result<Guest, Failure> {
        Guest::instantiate_pre(&self.engine, &self.pre, sandbox).await
    }
}

/// What stands behind a Store. To open directories could take as long as their medium likes. That is no fault of the build: where
/// they are not opened it does without, as without a directory that is not there.
async fn state_of(engine: &Engine, sandbox: &Sandbox) -> HostState {
    if !sandbox.has_directories() {
        return HostState::new(engine, sandbox);
    }
    let (its_engine, its_sandbox) = (engine.clone(), sandbox.clone());
    let opening = move || HostState::new(&its_engine, &its_sandbox);
    match sandbox.opener.open(opening).await {
        Ok(state) => state,
        Err(error) => {
            let host = sandbox.opener.place();
            tracing::error!(
                host = %host.display(), %error,
                "a directory that is granted to a plugin cannot be opened: the plugin is started without all of its directories"
            );
            HostState::new(engine, &sandbox.without_directories())
        }
    }
}

/// A guest. After any [`Failure`] its Store is spoilt: drop it, keep what [`Guest::release`] gives back.
pub(crate) struct Guest {
    store: Store<HostState>,
    world: Connector,
    limits: Box<Limits>,
    free: Free,
    /// CPU time of calls that ended since the last [`Guest::take_cpu`].
    cpu: Duration,
}

impl Guest {
    async fn instantiate_pre(
        engine: &Engine,
        pre: &ConnectorPre<HostState>,
        sandbox: &Sandbox,
    ) -> Result<Self, Failure> {
        let limits = &sandbox.limits;
        let mut store = state_of(engine, sandbox).await.into_store(engine);
        let meter = store.data().cpu.meter.clone();
        let mut free = Free::new();
        let call = pre.instantiate_async(&mut store);
        let world = meter.measure_within(&mut free, limits.call_wall, call);
        let world = world.await;
        let world = judge(&store, world, limits).map_err(|ended| ended.failure)?;
        Ok(Self {
            store,
            world,
            limits: Box::new(*limits),
            free,
            cpu: meter.spent(),
        })
    }

    /// Gives the guest what outlasts it.
    pub(crate) fn adopt(&mut self, mut resident: Box<Resident>) {
        if let Some(directories) = &mut resident.directories {
            directories.begin();
        }
        self.store.data_mut().resident = Some(resident);
        self.hear();
    }

    /// Ends the guest and gives back what outlasts it.
    pub(crate) fn release(self) -> Option<Box<Resident>> {
        self.store.into_data().resident
    }

    pub(crate) fn resident(&mut self) -> Option<&mut Resident> {
        self.store.data_mut().resident.as_deref_mut()
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.store.data().memory.bytes
    }

    /// Its calls compute for so long that others wait for it.
    pub(crate) fn is_heavy(&mut self) -> bool {
        self.free.is_used_up()
    }

    /// The CPU time it has used since this was asked last.
    pub(crate) fn take_cpu(&mut self) -> Duration {
        std::mem::take(&mut self.cpu)
    }

    pub(crate) async fn describe(&mut self) -> Result<Description, Failure> {
        let meter = self.begin();
        let guest = self.world.moorline_edge_connector_guest();
        let call = guest.call_describe(&mut self.store);
        let wall = self.limits.call_wall;
        let result = meter.measure_within(&mut self.free, wall, call).await;
        self.end(result)
    }

    pub(crate) async fn start(&mut self, setup: &Setup) -> Result<Answer, Failure> {
        let meter = self.begin();
        let guest = self.world.moorline_edge_connector_guest();
        let call = guest.call_start(&mut self.store, setup);
        let wall = self.limits.call_wall;
        let result = meter.measure_within(&mut self.free, wall, call).await;
        self.end(result).map(|answer| answer.map(wake))
    }

    pub(crate) async fn handle(&mut self, event: &Event) -> Result<Answer, Failure> {
        let meter = self.begin();
        let guest = self.world.moorline_edge_connector_guest();
        let call = guest.call_handle(&mut self.store, event);
        let wall = self.limits.call_wall;
        let result = meter.measure_within(&mut self.free, wall, call).await;
        self.end(result).map(|answer| answer.map(wake))
    }

    pub(crate) async fn stop(&mut self) -> Result<HandOver, Failure> {
        let meter = self.begin();
        let guest = self.world.moorline_edge_connector_guest();
        let call = guest.call_stop(&mut self.store);
        let wall = self.limits.call_wall;
        let result = meter.measure_within(&mut self.free, wall, call).await;
        let hand_over = self.end(result)?;
        if hand_over.bytes.len() > HAND_OVER_BYTES_MAX {
            let detail = format!("its hand-over has more than {HAND_OVER_BYTES_MAX} bytes");
            return Err(Failure::new(Reason::Refused, detail));
        }
        Ok(hand_over)
    }

    fn begin(&mut self) -> Arc<Meter> {
        let state = self.store.data_mut();
        state.cpu.begin();
        state.last_words.clear();
        self.store.set_epoch_deadline(1);
        self.store.data().cpu.meter.clone()
    }

    /// Accounts for the call that ended, and says how.
    fn end<T>(&mut self, result: Result<wasmtime::Result<T>, Elapsed>) -> Result<T, Failure> {
        self.cpu += self.store.data().cpu.meter.spent();
        self.hear();
        let judged = judge(&self.store, result, &self.limits);
        let limit = match &judged {
            // It was refused memory and lives with it.
            Ok(_answer) => self.store.data_mut().memory.refused.take(),
            Err(ended) => ended.limit,
        };
        if let (Some(limit), Some(resident)) = (limit, self.resident()) {
            resident.hit(limit);
        }
        judged.map_err(|ended| {
            let mut failure = ended.failure;
            if failure.reason == Reason::Trapped {
                failure
                    .detail
                    .push_str(&self.store.data().last_words.clause());
            }
            failure
        })
    }

    /// Takes what the guest said in its call to the log.
    fn hear(&mut self) {
        let state = self.store.data_mut();
        while let Ok(said) = state.said.try_recv() {
            if let Said::Err(line) = &said {
                state.last_words.add(line);
            }
            match &mut state.resident {
                Some(resident) => resident.hear(&said),
                None => tracing::debug!(?said, "said by a component that does not serve yet"),
            }
        }
    }
}

/// How a call came to its end before its time.
struct Ended {
    failure: Failure,
    limit: Option<Limit>,
}

/// Turns what wasmtime says into what happened.
fn judge<T>(
    store: &Store<HostState>,
    result: Result<wasmtime::Result<T>, Elapsed>,
    limits: &Limits,
) -> Result<T, Ended> {
    let state = store.data();
    let error = match result {
        Ok(Ok(value)) => return Ok(value),
        Err(_elapsed) => {
            let waited = limits.call_wall.as_secs_f32();
            let detail = format!("the call had not ended after {waited} s");
            let failure = Failure::new(Reason::Stalled, detail);
            let limit = None;
            return Err(Ended { failure, limit });
        }
        Ok(Err(error)) => error,
    };
    trace(&error);
    let instances = || {
        let words = error.root_cause().to_string();
        words.starts_with(TOO_MANY).then_some(Limit::Instances)
    };
    let limit = if state.cpu.exhausted() {
        Some(Limit::Call)
    } else {
        state.memory.refused.or_else(instances)
    };
    let place = place(&error);
    let (reason, detail) = match limit {
        Some(Limit::Call) => {
            let exceeded = limits.exceeded(Limit::Call);
            let detail = format!("the call used up its CPU time, {exceeded} {place}");
            (Reason::Stalled, detail)
        }
        Some(limit) => {
            let exceeded = limits.exceeded(limit);
            let detail = format!("{exceeded}: {} {place}", cause(&error));
            (Reason::OverLimit, detail)
        }
        None => (Reason::Trapped, format!("{} {place}", cause(&error))),
    };
    Err(Ended {
        failure: Failure::new(reason, detail.trim_end()),
        limit,
    })
}

/// All that is known of a trap. Line by line, because functions are called what the guest likes.
fn trace(error: &wasmtime::Error) {
    if tracing::enabled!(tracing::Level::DEBUG) {
        for line in format!("{error:?}").lines().take(TRACE_LINES_MAX) {
            tracing::debug!("backtrace of what follows: {}", words::repeated(line));
        }
    }
}

fn cause(error: &wasmtime::Error) -> String {
    error.downcast_ref::<Trap>().map_or_else(
        || words::repeated(&error.root_cause().to_string()),
        ToString::to_string,
    )
}

/// Where it happened: see [`authored`].
fn place(error: &wasmtime::Error) -> String {
    error
        .downcast_ref::<WasmBacktrace>()
        .map_or_else(String::new, |backtrace| authored(&backtrace.to_string()))
}

/// The innermost frames of a backtrace that are the author's, innermost first, on one line. Those of Rust's own library
/// (how a panic unwinds, how bindings call) name no place anybody could mend; a guest that has only such frames shows
/// them after all.
///
/// The text is one line per frame, `0: 0x1a5 - module!function`, with demangled names.
fn authored(backtrace: &str) -> String {
    let functions = || {
        backtrace
            .lines()
            .filter_map(|line| line.split_once(" - ").map(|(_, function)| function.trim()))
    };
    let own = |function: &&str| {
        let name = function.split_once('!').map_or(*function, |(_, name)| name);
        let name = name.trim_start_matches(['<', '&']);
        let foreign = [
            "__rustc", "std[", "std::", "core[", "core::", "alloc[", "alloc::", "rust_",
        ];
        !foreign.iter().any(|prefix| name.starts_with(prefix)) && !name.contains("_export_")
    };
    let mut frames: Vec<&str> = functions().filter(own).take(FRAMES_SHOWN).collect();
    if frames.is_empty() {
        frames = functions().take(FRAMES_SHOWN).collect();
    }
    if frames.is_empty() {
        String::new()
    } else {
        format!("(at {})", words::repeated(&frames.join(" < ")))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::mpsc;

    use wasmtime_wasi::filesystem::WasiFilesystemView as _;
    use wasmtime_wasi::p2::bindings::filesystem::preopens::Host as _;

    use super::super::engine::{Engines, Kind};
    use super::*;
    use crate::plugins::{DirectoryGrant, Grants};

    async fn directories(engine: &Engine, sandbox: &Sandbox) -> usize {
        let mut state = state_of(engine, sandbox).await;
        state.filesystem().get_directories().unwrap().len()
    }

    #[tokio::test]
    async fn a_guest_is_made_without_directories_that_do_not_answer() {
        let engine = Engines::start().unwrap().of(Kind::Connector).clone();
        let directory = tempfile::tempdir().unwrap();
        let grant = DirectoryGrant {
            guest: "/maps".to_owned(),
            host: directory.path().to_owned(),
        };
        let sandbox = Sandbox {
            grants: Grants {
                directories: vec![grant],
                ..Grants::default()
            },
            ..Sandbox::default()
        };
        assert_eq!(directories(&engine, &sandbox).await, 1);
        let (medium, hung) = mpsc::channel::<()>();
        let before = sandbox.opener.clone();
        let before = tokio::spawn(async move {
            let silent = before.clone();
            let opening = move || {
                silent.goes_to(Path::new("/mnt/silent"));
                hung.recv().unwrap_err();
            };
            before.open(opening).await
        });
        while sandbox.opener.place() != Path::new("/mnt/silent") {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Another attempt, and one more: neither fails, neither opens anything.
        let attempts = [&sandbox, &sandbox].map(|sandbox| directories(&engine, sandbox));
        let [first, second] = attempts;
        assert_eq!(tokio::join!(first, second), (0, 0));
        assert!(before.await.unwrap().is_err());
        drop(medium);
        assert_eq!(directories(&engine, &sandbox).await, 1);
    }

    #[test]
    fn a_trap_names_the_authors_functions_and_not_the_librarys() {
        let backtrace = "error while executing at wasm backtrace:
    0:  0x99a - m.wasm!__rustc[b7974e]::__rust_abort
    1:  0x8f1 - m.wasm!std[a54399]::panicking::panic_with_hook
    2:  0x7aa - m.wasm!core[c5930c]::panicking::panic_fmt
    3:  0x1a5 - m.wasm!press::read_counter
    4:  0x1b0 - m.wasm!<press::Press as moorline_plugin_sdk::Connector>::handle
    5:  0x1c0 - m.wasm!press::bindings::_export_handle_cabi";
        assert_eq!(
            authored(backtrace),
            "(at m.wasm!press::read_counter < m.wasm!<press::Press as moorline_plugin_sdk::Connector>::handle)"
        );
        let library = "  0: 0x1 - m.wasm!std[a5]::rt::abort";
        assert_eq!(authored(library), "(at m.wasm!std[a5]::rt::abort)");
        assert_eq!(authored(""), "");
    }

    #[test]
    fn what_a_guest_calls_its_functions_forges_no_line_and_is_cut() {
        let backtrace = "  0: 0x1 - m.wasm!red\rFAKE LINE\x1b[2J";
        assert_eq!(authored(backtrace), "(at m.wasm!red FAKE LINE [2J)");
        let long = format!("  0: 0x1 - m.wasm!{}", "x".repeat(1_000_000));
        assert!(authored(&long).len() < 600 && authored(&long).ends_with("x [cut])"));
        let error = wasmtime::Error::msg(format!("red\nFAKE {}", "x".repeat(1_000_000)));
        assert!(cause(&error).starts_with("red FAKE x") && cause(&error).len() < 600);
    }
}
