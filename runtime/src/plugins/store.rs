//! What stands behind a guest: its limits, its WASI, and the part of its life that outlasts a Store.

use std::sync::Arc;
use std::time::Duration;

use moorline_core::confine::Limit;
use tokio::sync::mpsc;
use wasmtime::component::ResourceTable;
use wasmtime::{ResourceLimiter, Store, UpdateDeadline};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::descriptors::{AllTaken, Descriptors, Place};
use super::engine::Engine;
use super::grants::Sandbox;
use super::host::{Opened, Resident};
use super::http::Http;
use super::meter::Meter;
use super::settings::Limits;
use super::wasi::{self, Net, Said, Wasi};

/// Handles a guest may hold in the host.
const HANDLES_MAX: usize = 1024;
/// What one host call may make the host allocate: a batch of 1 MiB and 10 000 readings, lifted.
const HOSTCALL_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What is kept of a guest's last words: their end, where interpreters name the error.
const LAST_WORDS_BYTES_MAX: usize = 600;

/// The data of a Store.
pub(crate) struct HostState {
    pub(crate) resident: Option<Box<Resident>>,
    pub(crate) cpu: Cpu,
    pub(crate) memory: Memory,
    /// What the guest printed, and what was refused to it, in the call under way.
    pub(crate) said: mpsc::Receiver<Said>,
    pub(crate) last_words: LastWords,
    /// What the guest may connect to by itself.
    pub(crate) net: Net,
    /// The descriptors of the host it holds.
    pub(crate) descriptors: Descriptors,
    /// The series it has opened.
    pub(crate) series: Opened,
    http: Http,
    wasi: WasiCtx,
    table: ResourceTable,
}

impl HostState {
    /// A Store with nobody behind the imports of our own contract: enough to describe itself.
    pub(crate) fn new(engine: &Engine, sandbox: &Sandbox) -> Self {
        let limits = &sandbox.limits;
        let mut table = ResourceTable::new();
        table.set_max_capacity(HANDLES_MAX);
        let Wasi {
            context,
            said,
            net,
            http,
            descriptors,
        } = wasi::context(sandbox);
        Self {
            resident: None,
            cpu: Cpu {
                meter: Arc::new(engine.meter()),
                call_max: limits.call_cpu,
                exhausted: false,
            },
            memory: Memory::new(limits),
            said,
            last_words: LastWords::default(),
            net,
            descriptors,
            series: Opened::default(),
            http,
            wasi: context,
            table,
        }
    }

    /// A place for a descriptor that is about to be opened.
    pub(crate) fn take_descriptor(&mut self) -> Result<Place, AllTaken> {
        self.descriptors.take(&self.table)
    }

    /// What `wasi:http` works with.
    pub(crate) fn http_parts(&mut self) -> (&mut Http, &mut ResourceTable) {
        self.descriptors.reclaim(&self.table);
        (&mut self.http, &mut self.table)
    }

    /// A Store under all limits.
    pub(crate) fn into_store(self, engine: &Engine) -> Store<Self> {
        let mut store = Store::new(engine, self);
        store.limiter(|state| &mut state.memory);
        store.set_hostcall_fuel(HOSTCALL_BYTES_MAX);
        store.set_max_component_handles(HANDLES_MAX);
        store.epoch_deadline_callback(|mut context| Ok(context.data_mut().cpu.on_tick()));
        store.set_epoch_deadline(1);
        store
    }
}

impl WasiView for HostState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

/// What the guest said of an error in the call under way. A trap has no words; these are the nearest to a reason.
#[derive(Clone, Debug, Default)]
pub(crate) struct LastWords(String);

impl LastWords {
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn add(&mut self, line: &str) {
        for word in line.split(|c: char| c.is_whitespace() || c.is_control()) {
            if word.is_empty() {
                continue;
            }
            if !self.0.is_empty() {
                self.0.push(' ');
            }
            self.0.push_str(word);
        }
        let excess = self.0.len().saturating_sub(LAST_WORDS_BYTES_MAX);
        self.0.drain(..self.0.ceil_char_boundary(excess));
    }

    /// As the end of a sentence about the trap; empty if it said nothing.
    pub(crate) fn clause(&self) -> String {
        match self.0.as_str() {
            "" => String::new(),
            words => format!("; it said: {words}"),
        }
    }
}

/// The deadline of the call under way, looked at with every tick of the epoch clock.
#[derive(Debug)]
pub(crate) struct Cpu {
    pub(crate) meter: Arc<Meter>,
    call_max: Duration,
    exhausted: bool,
}

impl Cpu {
    pub(crate) fn begin(&mut self) {
        self.exhausted = false;
    }

    pub(crate) fn exhausted(&self) -> bool {
        self.exhausted
    }

    fn on_tick(&mut self) -> UpdateDeadline {
        self.exhausted = self.meter.running() > self.call_max;
        if self.exhausted {
            UpdateDeadline::Interrupt
        } else {
            // Lets the other tasks of this thread run, and the wall deadline around the call fire.
            UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now()))
        }
    }
}

/// All memories and tables of one Store, counted together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) bytes: usize,
    bytes_max: usize,
    table_elements: usize,
    table_elements_max: usize,
    instances_max: usize,
    /// The limit at which a growth was refused: what traps next most likely traps for that.
    pub(crate) refused: Option<Limit>,
}

impl Memory {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            bytes: 0,
            bytes_max: limits.memory_bytes,
            table_elements: 0,
            table_elements_max: limits.table_elements,
            instances_max: limits.instances,
            refused: None,
        }
    }
}

impl Memory {
    /// As usual, but for the bytes.
    pub(crate) fn of_bytes(memory_bytes: usize) -> Self {
        Self::new(&Limits {
            memory_bytes,
            ..Limits::default()
        })
    }
}

impl ResourceLimiter for Memory {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let total = self.bytes.saturating_sub(current).saturating_add(desired);
        let granted = total <= self.bytes_max;
        if granted {
            self.bytes = total;
        } else {
            self.refused = Some(Limit::Memory);
        }
        Ok(granted)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let total = self
            .table_elements
            .saturating_sub(current)
            .saturating_add(desired);
        let granted = total <= self.table_elements_max;
        if granted {
            self.table_elements = total;
        } else {
            self.refused = Some(Limit::Tables);
        }
        Ok(granted)
    }

    fn instances(&self) -> usize {
        self.instances_max
    }

    fn tables(&self) -> usize {
        self.instances_max
    }

    fn memories(&self) -> usize {
        self.instances_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_one_line_and_keep_their_end() {
        let mut words = LastWords::default();
        assert_eq!(words.clause(), "");
        words.add("NameError:\n   \u{1b}[1mx");
        words.add("at poll");
        assert_eq!(words.clause(), "; it said: NameError: [1mx at poll");
        words.add(&"ü".repeat(LAST_WORDS_BYTES_MAX));
        words.add("the end");
        let clause = words.clause();
        assert!(clause.ends_with("ü the end") && clause.len() < LAST_WORDS_BYTES_MAX + 20);
        words.clear();
        assert_eq!(words.clause(), "");
    }
}
