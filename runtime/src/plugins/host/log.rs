//! The guest's log, limited in rate and length.

use moorline_core::confine::Limit;
use tracing::Level as Importance;

use super::Resident;
use super::edge::log::{Host, Level};
use crate::plugins::store::HostState;

const LINE_BYTES_MAX: usize = 2048;

impl Host for HostState {
    fn write(&mut self, level: Level, message: String) {
        let importance = match level {
            Level::Error => Importance::ERROR,
            Level::Warn => Importance::WARN,
            Level::Info => Importance::INFO,
            Level::Debug => Importance::DEBUG,
        };
        if importance == Importance::ERROR {
            self.last_words.add(&message);
        }
        if let Some(resident) = &mut self.resident {
            resident.log(importance, &message);
        }
    }
}

impl Resident {
    /// A line of the guest's, if it may have one.
    pub(super) fn log(&mut self, importance: Importance, message: &str) {
        let Some(suppressed) = self.confined.log.admit(self.clock.now()) else {
            return self.hit(Limit::Log);
        };
        let instance = &*self.instance;
        if suppressed > 0 {
            let exceeded = self.confined.limits.exceeded(Limit::Log);
            tracing::warn!(target: "moorline::guest", instance, suppressed, "lines of this plugin were held back: {exceeded}");
        }
        let text = shown(message);
        match importance {
            Importance::ERROR => tracing::error!(target: "moorline::guest", instance, "{text}"),
            Importance::WARN => tracing::warn!(target: "moorline::guest", instance, "{text}"),
            Importance::INFO => tracing::info!(target: "moorline::guest", instance, "{text}"),
            Importance::DEBUG | Importance::TRACE => {
                tracing::debug!(target: "moorline::guest", instance, "{text}");
            }
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
