//! CPU time of a call, and turns for calls that compute long.
//!
//! A call is a future: whatever it does, host functions included, it does while it is polled. So its CPU time is what the
//! thread's clock moved between the beginning and the end of each poll. Waiting for a device costs nothing, and a flood of
//! host calls costs its guest what it costs the host.
//!
//! To ask for that clock is a system call, and dear beside a poll of a few microseconds. A poll that is shorter than
//! [`SAMPLE_AGE`] is charged what passed on the monotonic clock, which costs nothing to read; a longer one, during which the
//! thread may have stood still, at most what the thread's clock moved since it was last looked at, no longer ago than that.
//!
//! ```text
//!                  polls of a tick and more use up what it has free
//!   runs at any time ────────────────────────────────────────────► runs in its turn
//!                    ◄────────────────────────────────────────────
//!                                  earned again, a hundredth of a core
//! ```
//!
//! Guests that compute for long take turns, so that however many there are, half of the processors are free for everybody
//! else: for the link, and for guests that have little to do. Between two calls they move to threads of less priority
//! ([`super::heavy`]).

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use moorline_core::confine::Bucket;
use moorline_core::time::Instant;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::pulse::Pulse;
use crate::clock;

/// How old what is known of the thread's clock may be.
const SAMPLE_AGE: Duration = Duration::from_micros(200);
/// Polls that others wait for: half a tick.
const LONG_POLL: Duration = Duration::from_micros(500);
/// Nanoseconds of long polls a guest has free each second: a hundredth of a core.
const FREE_NS_PER_S: u64 = 10_000_000;
/// What it owes of that is paid after this at the latest: who computed for an hour need not be good for days.
const DEBT_MAX: Duration = Duration::from_secs(60);
/// And at once: what it takes to be made and started, so that no candidate waits for those it is to replace.
const FREE_NS: u64 = 250_000_000;
/// A call that waits for its turns may take so many times longer than one that does not.
const WALL_TIMES_MAX: u32 = 10;

thread_local! {
    /// What the monotonic clock and that of this thread showed when the latter was last looked at, in nanoseconds.
    static SAMPLE: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// Who may compute for long at the moment.
#[derive(Debug)]
pub(crate) struct Turns(Semaphore);

/// Half of this machine's processors.
pub(super) fn turns() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (processors / 2).max(1)
}

impl Turns {
    /// For half of this machine's processors.
    pub(crate) fn new() -> Self {
        Self(Semaphore::new(turns()))
    }
}

/// What a guest has free before it has to take turns.
#[derive(Debug)]
pub(crate) struct Free(Bucket);

impl Free {
    /// All of it.
    pub(crate) fn new() -> Self {
        Self(Bucket::new(now(), FREE_NS_PER_S, FREE_NS))
    }

    pub(super) fn is_used_up(&mut self) -> bool {
        !self.0.debt(now()).is_zero()
    }

    fn charge(&mut self, poll: Duration) {
        if poll >= LONG_POLL && self.0.debt(now()) < DEBT_MAX {
            self.0.charge(now(), nanoseconds(poll));
        }
    }
}

/// The call under way. Shared by the guest, which polls it, and the Store, which asks between two instructions whether it is
/// over its deadline: both on the one thread that polls, so that the order of these loads and stores is that of the program. What
/// other threads do for it they only add to one sum, of which nothing is lost in whatever order.
#[derive(Debug)]
pub(crate) struct Meter {
    pulse: Arc<Pulse>,
    turns: Arc<Turns>,
    /// Of the polls that ended.
    ended_ns: AtomicU64,
    /// Work of other threads that no poll has taken over yet.
    owed_ns: AtomicU64,
    /// What the monotonic clock showed when the poll under way began.
    began_ns: AtomicU64,
    /// What the thread's clock showed then, or a little earlier.
    began_cpu_ns: AtomicU64,
    /// How long this call waited for turns that it got.
    waited_ns: AtomicU64,
    /// Since when it waits for one; zero while it does not.
    waiting_from_ns: AtomicU64,
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn now() -> Instant {
    Instant::from_start(clock::monotonic())
}

fn monotonic_ns() -> u64 {
    nanoseconds(clock::monotonic())
}

impl Meter {
    pub(crate) fn new(pulse: Arc<Pulse>, turns: Arc<Turns>) -> Self {
        Self {
            pulse,
            turns,
            ended_ns: AtomicU64::new(0),
            owed_ns: AtomicU64::new(0),
            began_ns: AtomicU64::new(0),
            began_cpu_ns: AtomicU64::new(0),
            waited_ns: AtomicU64::new(0),
            waiting_from_ns: AtomicU64::new(0),
        }
    }

    fn begin(&self) {
        let now_ns = monotonic_ns();
        let (mut seen_ns, mut cpu_ns) = SAMPLE.get();
        if now_ns.saturating_sub(seen_ns) > nanoseconds(SAMPLE_AGE) {
            (seen_ns, cpu_ns) = (now_ns, nanoseconds(clock::of_thread()));
            SAMPLE.set((seen_ns, cpu_ns));
        }
        self.began_ns.store(now_ns, Ordering::Relaxed);
        self.began_cpu_ns.store(cpu_ns, Ordering::Relaxed);
    }

    /// Of the poll under way.
    fn polled_ns(&self) -> u64 {
        let passed_ns = monotonic_ns().saturating_sub(self.began_ns.load(Ordering::Relaxed));
        if passed_ns < nanoseconds(SAMPLE_AGE) {
            return passed_ns;
        }
        let cpu_ns = nanoseconds(clock::of_thread());
        cpu_ns
            .saturating_sub(self.began_cpu_ns.load(Ordering::Relaxed))
            .min(passed_ns)
    }

    /// The CPU time of this call so far; to be asked while it is polled.
    pub(crate) fn running(&self) -> Duration {
        let ended_ns = self.ended_ns.load(Ordering::Relaxed);
        let owed_ns = self.owed_ns.load(Ordering::Relaxed);
        let others_ns = ended_ns.saturating_add(owed_ns);
        Duration::from_nanos(others_ns.saturating_add(self.polled_ns()))
    }

    /// The CPU time of the call that ended.
    pub(crate) fn spent(&self) -> Duration {
        Duration::from_nanos(self.ended_ns.load(Ordering::Relaxed))
    }

    /// Work that another thread did for the guest. It counts in the call under way, or in the next: work that the guest does
    /// not wait for costs it no less.
    pub(crate) fn charge(&self, work: Duration) {
        self.owed_ns.fetch_add(nanoseconds(work), Ordering::Relaxed);
    }

    fn poll<F: Future>(
        &self,
        free: &mut Free,
        future: Pin<&mut F>,
        context: &mut Context<'_>,
    ) -> Poll<F::Output> {
        let _running = self.pulse.running();
        self.begin();
        let polled = future.poll(context);
        let spent_ns = self.polled_ns();
        let owed_ns = self.owed_ns.swap(0, Ordering::Relaxed);
        let both_ns = spent_ns.saturating_add(owed_ns);
        self.ended_ns.fetch_add(both_ns, Ordering::Relaxed);
        free.charge(Duration::from_nanos(spent_ns));
        polled
    }

    /// Another call, that may take `wall`. To wait for a turn is no fault of the guest's: it does not count, up to a bound.
    pub(crate) async fn measure_within<F: Future>(
        &self,
        free: &mut Free,
        wall: Duration,
        future: F,
    ) -> Result<F::Output, Elapsed> {
        let mut call = pin!(self.measure(free, future));
        let (mut left, mut granted) = (wall, Duration::ZERO);
        loop {
            match timeout(left, call.as_mut()).await {
                Ok(output) => return Ok(output),
                Err(elapsed) => {
                    let waited = self.waited().min(wall * (WALL_TIMES_MAX - 1));
                    left = waited.saturating_sub(granted);
                    if left.is_zero() {
                        return Err(elapsed);
                    }
                    granted = waited;
                }
            }
        }
    }

    async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.waiting_from_ns
            .store(monotonic_ns(), Ordering::Relaxed);
        let turn = self.turns.0.acquire().await.ok();
        let waited_ns = nanoseconds(self.waited());
        self.waiting_from_ns.store(0, Ordering::Relaxed);
        self.waited_ns.store(waited_ns, Ordering::Relaxed);
        turn
    }

    /// How long this call has waited for turns, the wait under way included.
    fn waited(&self) -> Duration {
        let waiting_ns = match self.waiting_from_ns.load(Ordering::Relaxed) {
            0 => 0,
            from_ns => monotonic_ns().saturating_sub(from_ns),
        };
        let ended_ns = self.waited_ns.load(Ordering::Relaxed);
        Duration::from_nanos(ended_ns.saturating_add(waiting_ns))
    }

    /// Another call: `future`, measured, and in turns with others where what is `free` is used up.
    async fn measure<F: Future>(&self, free: &mut Free, future: F) -> F::Output {
        self.ended_ns.store(0, Ordering::Relaxed);
        self.waited_ns.store(0, Ordering::Relaxed);
        self.waiting_from_ns.store(0, Ordering::Relaxed);
        let mut future = pin!(future);
        loop {
            let turn = if free.is_used_up() {
                self.turn().await
            } else {
                None
            };
            let polled = poll_fn(|context| Poll::Ready(self.poll(free, future.as_mut(), context)));
            if let Poll::Ready(output) = polled.await {
                return output;
            }
            drop(turn);
            hand_back().await;
        }
    }
}

/// Gives the task back to its executor. What was polled before has its waker.
async fn hand_back() {
    let mut handed_back = false;
    poll_fn(|_context| {
        if std::mem::replace(&mut handed_back, true) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

#[cfg(test)]
impl Meter {
    /// Of a guest that has so many turns for itself.
    pub(crate) fn alone(turns: usize) -> Self {
        let pulse = Pulse::start(Vec::new()).unwrap();
        let turns = Turns(Semaphore::new(turns));
        Self::new(Arc::new(pulse), Arc::new(turns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compute(meter: &Meter, work: Duration) {
        let begun = meter.running();
        while meter.running() < begun + work {}
    }

    #[tokio::test]
    async fn work_counts_and_waiting_does_not() {
        let meter = Meter::alone(1);
        let mut free = Free::new();
        let wait = Duration::from_millis(200);
        meter.measure(&mut free, tokio::time::sleep(wait)).await;
        assert!(meter.spent() < wait / 2, "{:?}", meter.spent());
        let work = Duration::from_millis(30);
        let call = async {
            for _ in 0..3 {
                compute(&meter, work);
                tokio::time::sleep(work).await;
            }
        };
        meter.measure(&mut free, call).await;
        assert!(meter.spent() >= work * 3, "{:?}", meter.spent());
        meter.measure(&mut free, std::future::ready(())).await;
        assert!(meter.spent() < work, "a call counts for itself");
    }

    #[tokio::test]
    async fn work_of_others_counts_once_and_in_the_next_call_if_this_has_ended() {
        let meter = Meter::alone(1);
        let mut free = Free::new();
        let work = Duration::from_secs(1);
        let call = async {
            meter.charge(work);
            assert!(meter.running() >= work);
        };
        meter.measure(&mut free, call).await;
        assert!(meter.spent() >= work && meter.spent() < work * 2);
        meter.charge(work);
        meter.measure(&mut free, std::future::ready(())).await;
        assert!(meter.spent() >= work && meter.spent() < work * 2);
        meter.measure(&mut free, std::future::ready(())).await;
        assert!(meter.spent() < work, "it was charged before");
    }

    #[tokio::test]
    async fn many_short_polls_count_as_well() {
        let meter = Meter::alone(1);
        let short = Duration::from_micros(50);
        let call = async {
            for _ in 0..400 {
                compute(&meter, short);
                tokio::task::yield_now().await;
            }
        };
        let mut free = Free::new();
        meter.measure(&mut free, call).await;
        assert!(meter.spent() >= short * 400, "{:?}", meter.spent());
        assert!(!free.is_used_up(), "nobody waited for them");
    }

    #[tokio::test]
    async fn who_computes_long_waits_for_a_turn_and_who_does_not_never() {
        let meter = Meter::alone(1);
        // More than it has earned again by the end, however slow the machine.
        let long = async {
            compute(&meter, Duration::from_nanos(FREE_NS) * 2);
            tokio::task::yield_now().await;
        };
        let mut free = Free::new();
        meter.measure(&mut free, long).await;
        assert!(free.is_used_up());
        let taken = meter.turns.0.acquire().await.unwrap();
        let waits = Duration::from_millis(300);
        let call = meter.measure(&mut free, std::future::ready(()));
        let waited = timeout(waits, call).await;
        assert!(waited.is_err(), "it ran while another had the turn");
        let mut fresh = Free::new();
        meter.measure(&mut fresh, std::future::ready(())).await;
        let call = meter.measure_within(&mut free, waits, std::future::ready(()));
        let gives_back = async {
            tokio::time::sleep(waits * 2).await;
            drop(taken);
        };
        let (called, ()) = tokio::join!(call, gives_back);
        assert!(called.is_ok(), "waiting for a turn used up its time");
        assert!(free.is_used_up(), "or it did not wait");
        let stuck = std::future::pending::<()>();
        let mut fresh = Free::new();
        let call = meter.measure_within(&mut fresh, waits, stuck).await;
        assert!(call.is_err(), "a call without an end");
        assert_eq!(meter.turns.0.available_permits(), 1, "it was given back");
    }
}
