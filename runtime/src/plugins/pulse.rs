//! The clock that interrupts guests: it ticks while one runs, and rests while none does.
//!
//! ```text
//!           a guest begins to run
//!   resting ────────────────────► ticking, every millisecond
//!           ◄────────────────────
//!            none ran for a few ticks
//! ```
//!
//! A tick must be short: until the next one a guest that computes keeps its thread for itself. A clock that never rested
//! would wake an idle processor a thousand times a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::Duration;

use wasmtime::EngineWeak;

/// One tick.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// Ticks at which no guest ran, after which the clock rests. A guest that is called often does not wake it each time.
const IDLE_TICKS_MAX: u32 = 4;

/// The clock. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Pulse {
    shared: Arc<Shared>,
    ticker: Thread,
}

#[derive(Debug, Default)]
struct Shared {
    /// Guests that run at this moment.
    running: AtomicUsize,
    resting: AtomicBool,
    ended: AtomicBool,
}

/// While this lives, a guest runs and the clock ticks.
#[derive(Debug)]
pub(crate) struct Running<'a>(&'a Shared);

impl Pulse {
    /// Starts the clock of `engines`.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub(crate) fn start(engines: Vec<EngineWeak>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("epochs".into())
            .spawn(move || of_thread.tick(&engines))?;
        Ok(Self {
            shared,
            ticker: thread.thread().clone(),
        })
    }

    /// A guest begins to run.
    pub(crate) fn running(&self) -> Running<'_> {
        // In one order with what the clock does before it rests: either it sees the guest, or the guest sees it rest.
        self.shared.running.fetch_add(1, Ordering::SeqCst);
        if self.shared.resting.load(Ordering::SeqCst) {
            self.ticker.unpark();
        }
        Running(&self.shared)
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.ticker.unpark();
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Shared {
    fn ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    fn is_idle(&self) -> bool {
        self.running.load(Ordering::SeqCst) == 0
    }

    fn tick(&self, engines: &[EngineWeak]) {
        let mut idle_ticks = 0;
        while !self.ended() {
            idle_ticks = if self.is_idle() { idle_ticks + 1 } else { 0 };
            if idle_ticks > IDLE_TICKS_MAX {
                self.rest();
                idle_ticks = 0;
            }
            std::thread::sleep(TICK);
            for engine in engines.iter().filter_map(EngineWeak::upgrade) {
                engine.increment_epoch();
            }
        }
    }

    fn rest(&self) {
        self.resting.store(true, Ordering::SeqCst);
        while self.is_idle() && !self.ended() {
            std::thread::park();
        }
        self.resting.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    fn until(pulse: &Pulse, resting: bool) {
        let begun = std::time::Instant::now();
        while pulse.shared.resting.load(Ordering::SeqCst) != resting {
            assert!(begun.elapsed() < DEADLINE, "resting is not {resting}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn it_rests_while_no_guest_runs_and_ticks_while_one_does() {
        let pulse = Pulse::start(Vec::new()).unwrap();
        until(&pulse, true);
        for _ in 0..3 {
            let one = pulse.running();
            until(&pulse, false);
            drop(pulse.running());
            assert!(!pulse.shared.is_idle(), "the first still runs");
            drop(one);
            until(&pulse, true);
        }
    }

    #[test]
    fn its_thread_ends_with_it() {
        let pulse = Pulse::start(Vec::new()).unwrap();
        until(&pulse, true);
        let shared = Arc::downgrade(&pulse.shared);
        drop(pulse);
        let begun = std::time::Instant::now();
        while shared.strong_count() > 0 {
            assert!(begun.elapsed() < DEADLINE, "the thread goes on");
            std::thread::yield_now();
        }
    }
}
