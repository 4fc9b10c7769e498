//! The guest's log, limited in rate and length.

use std::time::Duration;

use moorline_core::time::Instant;

use super::edge::log::{Host, Level};
use crate::plugins::store::HostState;

/// Lines in a row.
const LINES_BURST: u32 = 50;
/// After that, one line per this long.
const LINE_INTERVAL: Duration = Duration::from_millis(50);
const LINE_BYTES_MAX: usize = 2048;

/// Counts lines and holds back what is too much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gate {
    lines: u32,
    refilled: Instant,
    suppressed: u64,
}

impl Gate {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            lines: LINES_BURST,
            refilled: now,
            suppressed: 0,
        }
    }

    /// Whether a line may pass, and how many were held back before it.
    pub(crate) fn admit(&mut self, now: Instant) -> Option<u64> {
        let earned = now.saturating_since(self.refilled).as_nanos() / LINE_INTERVAL.as_nanos();
        if let Ok(earned) = u32::try_from(earned) {
            self.refilled = self.refilled + LINE_INTERVAL * earned;
            self.lines = self.lines.saturating_add(earned).min(LINES_BURST);
        } else {
            self.refilled = now;
            self.lines = LINES_BURST;
        }
        if self.lines == 0 {
            self.suppressed += 1;
            return None;
        }
        self.lines -= 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

impl Host for HostState {
    fn write(&mut self, level: Level, message: String) {
        let Some(resident) = &mut self.resident else {
            return;
        };
        let Some(suppressed) = resident.log.admit(resident.clock.now()) else {
            return;
        };
        let instance = &*resident.instance;
        if suppressed > 0 {
            tracing::warn!(target: "moorline::guest", instance, suppressed, "lines of this plugin were held back");
        }
        let text = shown(&message);
        match level {
            Level::Error => tracing::error!(target: "moorline::guest", instance, "{text}"),
            Level::Warn => tracing::warn!(target: "moorline::guest", instance, "{text}"),
            Level::Info => tracing::info!(target: "moorline::guest", instance, "{text}"),
            Level::Debug => tracing::debug!(target: "moorline::guest", instance, "{text}"),
        }
    }
}

/// The line as it may be printed: of bounded length, and without a way to forge another line or move a cursor.
fn shown(message: &str) -> String {
    let end = message.floor_char_boundary(LINE_BYTES_MAX);
    let (kept, cut) = message.split_at(end);
    let mut line: String = kept
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if !cut.is_empty() {
        line.push_str(" [cut]");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_held_back_counted_and_forgiven() {
        let at = |ms| Instant::from_start(Duration::from_millis(ms));
        let mut gate = Gate::new(at(0));
        let passed = (0..1_000).filter(|_| gate.admit(at(0)).is_some()).count();
        assert_eq!(passed, 50);
        assert_eq!(gate.admit(at(50)), Some(950));
        assert_eq!(gate.admit(at(50)), None);
        let passed = (0..1_000)
            .filter(|_| gate.admit(at(3_600_000)).is_some())
            .count();
        assert_eq!(passed, 50);
    }

    #[test]
    fn a_line_cannot_forge_another() {
        assert_eq!(shown("a\nERROR b\u{1b}[2J"), "a ERROR b [2J");
        assert!(shown(&"ü".repeat(5_000)).len() < LINE_BYTES_MAX + 10);
    }
}
