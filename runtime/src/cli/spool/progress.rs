//! How far a long look has come, on standard error: results go to standard output.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use moorline_core::time::Instant;

use super::super::{exit, figures};
use crate::clock::Clock;

const ERASE_LINE: &str = "\r\x1b[2K";
/// How often a terminal is told.
const REFRESH: Duration = Duration::from_millis(200);
/// And a file or a pipe, if it takes that long at all.
const PLAIN: Duration = Duration::from_secs(10);

pub(super) struct Progress {
    total: u64,
    done: u64,
    clock: Clock,
    told: Instant,
    terminal: bool,
    shown: bool,
}

impl Progress {
    /// Of `total` bytes.
    pub(super) fn new(total: u64) -> Self {
        Self {
            total,
            done: 0,
            clock: Clock::start(),
            told: Instant::ZERO,
            terminal: std::io::stderr().is_terminal(),
            shown: false,
        }
    }

    /// So many bytes more.
    pub(super) fn add(&mut self, bytes: u64) {
        self.done += bytes;
        let every = if self.terminal { REFRESH } else { PLAIN };
        let now = self.clock.now();
        if now - self.told < every {
            return;
        }
        self.told = now;
        let rate = self.rate();
        let left = self.total.saturating_sub(self.done) as f64 / rate.max(1.0);
        let line = format!(
            "{} of {}, {}/s, {} left",
            figures::size(self.done),
            figures::size(self.total),
            figures::size(rate as u64),
            figures::rough(Duration::from_secs_f64(left.min(1e9)))
        );
        if self.terminal {
            self.shown = true;
            write_raw(&format!("{ERASE_LINE}{line}"));
        } else {
            exit::progress(&line);
        }
    }

    /// Bytes per second so far.
    pub(super) fn rate(&self) -> f64 {
        self.done as f64 / self.clock.now().since_start().as_secs_f64().max(1e-6)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            write_raw(ERASE_LINE);
        }
    }
}

/// A closed standard error stops no look.
fn write_raw(text: &str) {
    let mut out = std::io::stderr();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .unwrap_or_default();
}
