//! What stands behind a guest: its limits, its empty WASI, and the part of its life that outlasts a Store.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;
use wasmtime::component::ResourceTable;
use wasmtime::{ResourceLimiter, Store, UpdateDeadline};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::engine::EPOCH;
use super::host::Resident;
use super::settings::Limits;

/// Elements of all tables together.
const TABLE_ELEMENTS_MAX: usize = 100_000;
/// Core instances, memories and tables of one component.
const INSTANCES_MAX: usize = 64;
/// Handles a guest may hold in the host.
const HANDLES_MAX: usize = 1024;
/// Random bytes of one request.
const RANDOM_BYTES_MAX: u64 = 4096;
/// What one host call may make the host allocate: a batch of 1 MiB and 10 000 readings, lifted.
const HOSTCALL_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The data of a Store.
pub(crate) struct HostState {
    pub(crate) resident: Option<Box<Resident>>,
    pub(crate) cpu: Cpu,
    pub(crate) memory: Memory,
    wasi: WasiCtx,
    table: ResourceTable,
}

impl HostState {
    /// A Store without anything behind its imports: enough to describe itself.
    pub(crate) fn new(instance: &Arc<str>, limits: &Limits) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(HANDLES_MAX);
        let output = LogOutput {
            instance: instance.clone(),
        };
        let wasi = WasiCtx::builder()
            .stdout(output.clone())
            .stderr(output)
            .max_random_size(RANDOM_BYTES_MAX)
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .build();
        let ticks = limits.call_cpu.as_millis().div_ceil(EPOCH.as_millis());
        Self {
            resident: None,
            cpu: Cpu {
                ticks_max: u32::try_from(ticks).unwrap_or(u32::MAX),
                ..Cpu::default()
            },
            memory: Memory::new(limits.memory_bytes),
            wasi,
            table,
        }
    }

    /// A Store under all limits.
    pub(crate) fn into_store(self, engine: &wasmtime::Engine) -> Store<Self> {
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

/// CPU time of the call under way, in ticks of the epoch clock. The clock also ticks while a host function waits for a
/// device; the first tick seen after that belongs to the wait and is not charged.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cpu {
    ticks: u32,
    ticks_max: u32,
    waited: bool,
}

impl Cpu {
    pub(crate) fn begin(&mut self) {
        self.ticks = 0;
        self.waited = true;
    }

    pub(crate) fn waited(&mut self) {
        self.waited = true;
    }

    pub(crate) fn exhausted(&self) -> bool {
        self.ticks > self.ticks_max
    }

    fn on_tick(&mut self) -> UpdateDeadline {
        if !std::mem::take(&mut self.waited) {
            self.ticks += 1;
        }
        if self.exhausted() {
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
    pub(crate) bytes_max: usize,
    table_elements: usize,
    /// A growth was refused: what traps next most likely traps for that.
    pub(crate) refused: bool,
}

impl Memory {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            bytes: 0,
            bytes_max,
            table_elements: 0,
            refused: false,
        }
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
            self.refused = true;
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
        let granted = total <= TABLE_ELEMENTS_MAX;
        if granted {
            self.table_elements = total;
        } else {
            self.refused = true;
        }
        Ok(granted)
    }

    fn instances(&self) -> usize {
        INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        INSTANCES_MAX
    }

    fn memories(&self) -> usize {
        INSTANCES_MAX
    }
}

/// A guest's stdout and stderr: lines of the log, at the level where nobody minds.
#[derive(Clone)]
struct LogOutput {
    instance: Arc<str>,
}

impl IsTerminal for LogOutput {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogOutput {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

/// Bytes of one write that are shown.
const OUTPUT_BYTES_SHOWN: usize = 1024;

impl AsyncWrite for LogOutput {
    fn poll_write(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let shown = bytes.get(..OUTPUT_BYTES_SHOWN).unwrap_or(bytes);
        let text = String::from_utf8_lossy(shown);
        tracing::debug!(instance = %self.instance, "{}", text.trim_end().escape_debug());
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
