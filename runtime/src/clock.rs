//! The only reader of clocks in the product.

use std::time::Duration;

use jiff::tz::TimeZone;
use moorline_core::host::Clocks;
use moorline_core::link::policy::LocalTime;
use moorline_core::time::{Instant, TimestampMs};
use rustix::time::{ClockId, clock_gettime};

/// The host's clocks. Cheap to copy; every copy agrees.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: tokio::time::Instant,
}

impl Clock {
    /// A clock that starts now. Uses tokio's time, so that a paused test runtime also pauses the gateway.
    #[must_use]
    pub fn start() -> Self {
        Self {
            start: tokio::time::Instant::now(),
        }
    }

    /// Monotonic time.
    #[must_use]
    pub fn now(&self) -> Instant {
        Instant::from_start(self.start.elapsed())
    }

    /// The tokio instant of a monotonic time, for timers.
    #[must_use]
    pub fn deadline(&self, at: Instant) -> tokio::time::Instant {
        self.start + at.since_start()
    }

    /// All of the host's clocks, to find out what became of the host.
    #[must_use]
    pub fn all(&self) -> Clocks {
        #[cfg(target_os = "linux")]
        let boot = ClockId::Boottime;
        #[cfg(not(target_os = "linux"))]
        let boot = ClockId::Monotonic;
        Clocks {
            monotonic: monotonic(),
            boot: read(boot),
            wall: read(ClockId::Realtime),
        }
    }

    /// Wall-clock time.
    #[must_use]
    pub fn wall(&self) -> TimestampMs {
        let since_epoch = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        TimestampMs(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
    }

    /// The same, as clocks on the wall show it here; none if the clock cannot be right.
    #[must_use]
    pub fn local(&self) -> Option<LocalTime> {
        let utc = self.wall();
        let at = jiff::Timestamp::from_millisecond(i64::try_from(utc.0).ok()?).ok()?;
        let offset_min = TimeZone::system().to_offset(at).seconds() / 60;
        LocalTime { utc, offset_min }.plausible()
    }
}

/// Monotonic time since no time in particular: to be compared with itself.
#[must_use]
pub(crate) fn monotonic() -> Duration {
    read(ClockId::Monotonic)
}

/// CPU time of the calling thread: to be compared with what the same thread was told before.
#[must_use]
pub(crate) fn of_thread() -> Duration {
    read(ClockId::ThreadCPUTime)
}

/// A clock that stands before its own start stands at it.
fn read(clock: ClockId) -> Duration {
    Duration::try_from(clock_gettime(clock)).unwrap_or_default()
}
