//! The guest's log, limited in rate and length.

use std::time::Duration;

use moorline_core::time::Instant;

use super::edge::log::{Host, Level};
use crate::log_gate::LogGate;
use crate::plugins::store::HostState;

/// Lines in a row.
const LINES_BURST: u32 = 50;
/// After that, one line per this long.
const LINE_INTERVAL: Duration = Duration::from_millis(50);
const LINE_BYTES_MAX: usize = 2048;

/// A fresh limit for one instance.
pub(crate) fn gate(now: Instant) -> LogGate {
    LogGate::new(now, LINES_BURST, LINE_INTERVAL)
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
    fn a_line_cannot_forge_another() {
        assert_eq!(shown("a\nERROR b\u{1b}[2J"), "a ERROR b [2J");
        assert!(shown(&"ü".repeat(5_000)).len() < LINE_BYTES_MAX + 10);
    }
}
