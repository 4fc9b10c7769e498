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
use super::host::Resident;
use super::http::Http;
use super::meter::Meter;
use super::settings::Limits;
use super::wasi::{self, Net, Said, Wasi};

/// Handles a guest may hold in the host.
const HANDLES_MAX: usize = 1024;
/// What one host call may make the host allocate: a batch of 1 MiB and 10 000 readings, lifted.
const HOSTCALL_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The data of a Store.
pub(crate) struct HostState {
    pub(crate) resident: Option<Box<Resident>>,
    pub(crate) cpu: Cpu,
    pub(crate) memory: Memory,
    /// What the guest printed, and what was refused to it, in the call under way.
    pub(crate) said: mpsc::Receiver<Said>,
    /// What the guest may connect to by itself.
    pub(crate) net: Net,
    /// The descriptors of the host it holds.
    pub(crate) descriptors: Descriptors,
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
            net,
            descriptors,
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
