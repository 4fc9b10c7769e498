//! CPU time of a call, by the clock of the thread it runs on.
//!
//! A call is a future: whatever it does, host functions included, it does while it is polled. So its CPU time is what the
//! thread's clock moved between the beginning and the end of each poll. Waiting for a device costs nothing, and a flood of
//! host calls costs its guest what it costs the host.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock;

/// The call under way. Shared by the guest, which polls it, and the Store, which asks between two instructions whether it is
/// over its deadline: both on the one thread that polls, so that the order of these loads and stores is that of the program.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// Of the polls that ended.
    ended_ns: AtomicU64,
    /// What the thread's clock showed when the poll under way began.
    began_ns: AtomicU64,
}

fn thread_ns() -> u64 {
    u64::try_from(clock::of_thread().as_nanos()).unwrap_or(u64::MAX)
}

impl Meter {
    /// The CPU time of this call so far; to be asked while it is polled.
    pub(crate) fn running(&self) -> Duration {
        let began = self.began_ns.load(Ordering::Relaxed);
        let polled = thread_ns().saturating_sub(began);
        Duration::from_nanos(self.ended_ns.load(Ordering::Relaxed).saturating_add(polled))
    }

    /// The CPU time of the call that ended.
    pub(crate) fn spent(&self) -> Duration {
        Duration::from_nanos(self.ended_ns.load(Ordering::Relaxed))
    }

    /// Work that another thread did for this call; to be said while it is polled.
    pub(crate) fn charge(&self, work: Duration) {
        let work = u64::try_from(work.as_nanos()).unwrap_or(u64::MAX);
        let ended = self.ended_ns.load(Ordering::Relaxed);
        self.ended_ns
            .store(ended.saturating_add(work), Ordering::Relaxed);
    }

    /// Another call: `future`, measured.
    pub(crate) async fn measure<F: Future>(&self, future: F) -> F::Output {
        self.ended_ns.store(0, Ordering::Relaxed);
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|context| {
            self.began_ns.store(thread_ns(), Ordering::Relaxed);
            let polled = future.as_mut().poll(context);
            let spent = self.running();
            let spent = u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX);
            self.ended_ns.store(spent, Ordering::Relaxed);
            polled
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_counts_and_waiting_does_not() {
        let meter = Meter::default();
        let wait = Duration::from_millis(200);
        meter.measure(tokio::time::sleep(wait)).await;
        assert!(meter.spent() < wait / 2, "{:?}", meter.spent());
        let work = Duration::from_millis(30);
        meter
            .measure(async {
                for _ in 0..3 {
                    let begun = meter.running();
                    while meter.running() < begun + work {}
                    tokio::time::sleep(work).await;
                }
            })
            .await;
        assert!(meter.spent() >= work * 3, "{:?}", meter.spent());
        meter.measure(std::future::ready(())).await;
        assert!(meter.spent() < work, "a call counts for itself");
    }
}
