//! Follows what is written to the medium of the state directory, and warns before a budget is exceeded.
//!
//! Two counters are followed: what the device was given to write, by anybody, and what this process had written to storage
//! anywhere. The first is what wears the medium: it holds the file system's own journal and whatever else runs on this
//! machine. The second bounds what share of it is ours, and stands in where the directory lies on no block device of its own;
//! it is no more than a bound, because the kernel counts what was dirtied in whole pages, or folios of many of them, of which
//! only the dirty blocks are written.
//! What is known is kept in one small file, written once an hour, so that keeping it wears nothing.

mod counters;

use std::path::{Path, PathBuf};
use std::time::Duration;

use moorline_core::time::TimestampMs;
use moorline_core::wear::{Budget, Figures, Input, Kept, Level, Output, Wear};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tracing::{debug, info, warn};

use crate::bounded_file;
use crate::clock::Clock;
use crate::shutdown::Shutdown;
use counters::Device;

/// The file's name in the state directory.
const FILE: &str = "wear.json";
const DRAFT: &str = "wear.json.new";
const FILE_BYTES_MAX: u64 = 64 * 1024;

const SAMPLE_EVERY: Duration = Duration::from_secs(10);
const KEEP_EVERY: Duration = Duration::from_secs(3600);
/// A gap in the counting, while no gateway ran, is booked up to this long ago.
const GAP_MAX: Duration = Duration::from_secs(24 * 3600);

/// What is known of the wear.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct WearStatus {
    /// The block device under the state directory, as the kernel names it, and what it was given to write; none where
    /// there is no such device.
    pub device: Option<(String, Figures)>,
    /// What this process had written to storage, on whatever device.
    pub process: Figures,
    /// Since when the budget stands as it does, milliseconds since the Unix epoch.
    pub level_since_ms: u64,
}

impl WearStatus {
    /// What the budget is held against.
    #[must_use]
    pub fn judged(&self) -> &Figures {
        match &self.device {
            Some((_name, figures)) => figures,
            None => &self.process,
        }
    }
}

/// The file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Page {
    written_at_ms: u64,
    device: Option<DevicePage>,
    process: Kept,
}

#[derive(Debug, Serialize, Deserialize)]
struct DevicePage {
    name: String,
    boot: String,
    /// Its counter, when the page was written.
    counter_bytes: u64,
    kept: Kept,
}

/// A counter that is followed.
#[derive(Debug)]
struct Followed {
    last_bytes: u64,
    wear: Wear,
}

impl Followed {
    fn sample(&mut self, bytes: u64, took: Duration, now: TimestampMs) {
        let more = bytes.saturating_sub(self.last_bytes);
        self.last_bytes = bytes;
        self.wear.handle(now, Input::Written { bytes: more, took });
    }
}

/// Follows until told to stop, then keeps what is known.
pub(crate) struct Watcher {
    state_dir: PathBuf,
    clock: Clock,
    boot: String,
    device: Option<(Device, Followed)>,
    process: Followed,
    status: watch::Sender<WearStatus>,
    level_since_ms: u64,
    /// Said once.
    failing: bool,
}

impl Watcher {
    /// Goes on from what an earlier process kept in `state_dir`.
    pub(crate) fn new(
        state_dir: &Path,
        budget: Option<Budget>,
        clock: Clock,
    ) -> (Self, watch::Receiver<WearStatus>) {
        let (status, known) = watch::channel(WearStatus::default());
        let page = read(state_dir);
        let boot = counters::boot();
        let device = Device::under(state_dir).map(|device| {
            follow_device(
                device,
                page.device,
                page.written_at_ms,
                &boot,
                budget,
                clock,
            )
        });
        let own_budget = budget.filter(|_budget| device.is_none());
        let watcher = Self {
            state_dir: state_dir.to_owned(),
            clock,
            boot,
            device,
            process: Followed {
                last_bytes: 0,
                wear: Wear::new(page.process, own_budget),
            },
            status,
            level_since_ms: clock.wall().0,
            failing: false,
        };
        (watcher, known)
    }

    pub(crate) async fn run(mut self, mut shutdown: Shutdown) {
        let mut tick = tokio::time::interval(SAMPLE_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sampled = self.clock.now();
        let mut kept = sampled;
        loop {
            let last = tokio::select! {
                _at = tick.tick() => false,
                () = shutdown.wait() => true,
            };
            let now = self.clock.now();
            self.sample(now - sampled);
            sampled = now;
            if last || now - kept >= KEEP_EVERY {
                kept = now;
                self.keep().await;
            }
            if last {
                return;
            }
        }
    }

    fn sample(&mut self, took: Duration) {
        let now = self.clock.wall();
        if let Some((device, followed)) = &mut self.device {
            match device.bytes() {
                Ok(bytes) => followed.sample(bytes, took, now),
                Err(error) => debug!(%error, device = device.name, "its counter cannot be read"),
            }
        }
        match counters::process_bytes() {
            Ok(bytes) => self.process.sample(bytes, took, now),
            Err(error) => debug!(%error, "what this process writes cannot be read"),
        }
        self.tell(now);
        let status = WearStatus {
            device: self
                .device
                .as_ref()
                .map(|(device, followed)| (device.name.clone(), followed.wear.figures(now))),
            process: self.process.wear.figures(now),
            level_since_ms: self.level_since_ms,
        };
        self.status.send_replace(status);
    }

    /// Each crossing of the budget, once.
    fn tell(&mut self, now: TimestampMs) {
        let since_ms = &mut self.level_since_ms;
        let (name, wear) = match &mut self.device {
            Some((device, followed)) => (device.name.as_str(), &mut followed.wear),
            None => ("this process", &mut self.process.wear),
        };
        while let Some(Output::Changed(level)) = wear.poll_output() {
            let figures = wear.figures(now);
            let projected = figures.projected_bytes_per_day;
            let budget = figures.budget_bytes_per_day;
            let last_day = figures.bytes_last_day;
            *since_ms = now.0;
            match level {
                Level::Within => {
                    info!(
                        medium = name,
                        bytes_last_day = last_day,
                        budget_bytes_per_day = budget,
                        "the wear budget is kept again"
                    );
                }
                Level::Nearing => {
                    let hours = figures.exceeded_in.map(|left| left.as_secs() / 3600);
                    warn!(
                        medium = name,
                        bytes_last_day = last_day,
                        projected_bytes_per_day = projected,
                        budget_bytes_per_day = budget,
                        exceeded_in_hours = hours,
                        "at this rate more is written in a day than [wear] allows; raise spool.commit_interval_ms, emit less, or find who else writes to this device"
                    );
                }
                Level::Over => {
                    warn!(
                        medium = name,
                        bytes_last_day = last_day,
                        projected_bytes_per_day = projected,
                        budget_bytes_per_day = budget,
                        "more was written in the last 24 hours than [wear] allows"
                    );
                }
            }
        }
    }

    async fn keep(&mut self) {
        let page = Page {
            written_at_ms: self.clock.wall().0,
            device: self.device.as_ref().map(|(device, followed)| DevicePage {
                name: device.name.clone(),
                boot: self.boot.clone(),
                counter_bytes: followed.last_bytes,
                kept: followed.wear.kept().clone(),
            }),
            process: self.process.wear.kept().clone(),
        };
        let state_dir = self.state_dir.clone();
        let written = tokio::task::spawn_blocking(move || write(&state_dir, &page)).await;
        match written.unwrap_or_else(|panicked| Err(std::io::Error::other(panicked))) {
            Ok(()) => self.failing = false,
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    warn!(file = %self.state_dir.join(FILE).display(), %error, "the wear that was measured cannot be kept; the next start begins at nothing");
                }
            }
        }
    }
}

/// What was written since the page, while no gateway ran, counts too: the counter goes on until the machine is restarted.
fn follow_device(
    device: Device,
    page: Option<DevicePage>,
    written_at_ms: u64,
    boot: &str,
    budget: Option<Budget>,
    clock: Clock,
) -> (Device, Followed) {
    let now_bytes = device.bytes().unwrap_or(0);
    let Some(page) = page.filter(|page| page.name == device.name) else {
        let followed = Followed {
            last_bytes: now_bytes,
            wear: Wear::new(Kept::default(), budget),
        };
        return (device, followed);
    };
    let goes_on = page.boot == boot && page.counter_bytes <= now_bytes;
    let mut followed = Followed {
        last_bytes: if goes_on {
            page.counter_bytes
        } else {
            now_bytes
        },
        wear: Wear::new(page.kept, budget),
    };
    let wall = clock.wall();
    let gap = Duration::from_millis(wall.0.saturating_sub(written_at_ms));
    if goes_on && gap <= GAP_MAX {
        followed.sample(now_bytes, gap, wall);
    }
    followed.last_bytes = now_bytes;
    (device, followed)
}

/// What was kept; a page that cannot be read is none.
fn read(state_dir: &Path) -> Page {
    let file = state_dir.join(FILE);
    let bytes = match bounded_file::read(&file, FILE_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) => {
            debug!(file = %file.display(), %error, "no wear was kept");
            return Page::default();
        }
    };
    serde_json::from_slice(&bytes).unwrap_or_else(|error| {
        warn!(file = %file.display(), %error, "the wear that was measured cannot be read; it begins at nothing");
        Page::default()
    })
}

fn write(state_dir: &Path, page: &Page) -> std::io::Result<()> {
    let draft = state_dir.join(DRAFT);
    std::fs::write(&draft, serde_json::to_vec(page)?)?;
    std::fs::rename(draft, state_dir.join(FILE))
}

/// What an earlier or running gateway kept: the device's name, or none, and the figures as of now.
pub(crate) fn kept(
    state_dir: &Path,
    budget: Option<Budget>,
    now: TimestampMs,
) -> Option<WearStatus> {
    let page = read(state_dir);
    let figures = |kept: Kept| Wear::new(kept, budget).figures(now);
    (page.written_at_ms > 0).then(|| WearStatus {
        device: page
            .device
            .map(|device| (device.name, figures(device.kept))),
        process: figures(page.process),
        level_since_ms: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_read_again_and_the_gap_is_booked() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let clock = Clock::start();
        let (mut watcher, status) = Watcher::new(directory.path(), None, clock);
        watcher.sample(Duration::from_secs(10));
        std::fs::write(directory.path().join("load"), vec![1; 1 << 20]).unwrap();
        watcher.sample(Duration::from_secs(10));
        let seen = status.borrow().process;
        assert!(seen.bytes_last_day >= 1 << 20, "{seen:?}");
        let page = Page {
            written_at_ms: clock.wall().0,
            device: None,
            process: watcher.process.wear.kept().clone(),
        };
        write(directory.path(), &page).unwrap();
        let again = kept(directory.path(), None, clock.wall()).unwrap();
        assert_eq!(again.process.bytes_total, seen.bytes_total);
        std::fs::write(directory.path().join(FILE), "{").unwrap();
        assert_eq!(kept(directory.path(), None, clock.wall()), None);
    }

    #[test]
    fn a_counter_of_another_boot_books_nothing() {
        let directory = env!("CARGO_MANIFEST_DIR");
        // Without a block device under the sources there is nothing to try.
        let Some(device) = Device::under(Path::new(directory)) else {
            return;
        };
        let page = |boot: &str| DevicePage {
            name: device.name.clone(),
            boot: boot.to_owned(),
            counter_bytes: 0,
            kept: Kept::default(),
        };
        let clock = Clock::start();
        let at = clock.wall().0 - 60_000;
        let follow = |page| follow_device(device.clone(), Some(page), at, "now", None, clock);
        let total = |(_, followed): (Device, Followed)| followed.wear.kept().bytes_total;
        assert!(total(follow(page("now"))) > 0);
        assert_eq!(total(follow(page("then"))), 0);
    }
}
