//! The guest's log, limited in rate and length.

use moorline_core::confine::Limit;
use tracing::Level as Importance;

use super::Resident;
use super::edge::log::{Host, Level};
use crate::plugins::store::HostState;
use crate::plugins::words;

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
        if !self.may_log() {
            return;
        }
        let instance = &*self.instance;
        let text = words::shown(message, LINE_BYTES_MAX);
        match importance {
            Importance::ERROR => tracing::error!(target: "moorline::guest", instance, "{text}"),
            Importance::WARN => tracing::warn!(target: "moorline::guest", instance, "{text}"),
            Importance::INFO => tracing::info!(target: "moorline::guest", instance, "{text}"),
            Importance::DEBUG | Importance::TRACE => {
                tracing::debug!(target: "moorline::guest", instance, "{text}");
            }
        }
    }

    /// A line of the host's that the guest brings about as often as it likes: it counts as one of the guest's.
    pub(crate) fn warn(&mut self, words: &str) {
        if self.may_log() {
            tracing::warn!(instance = &*self.instance, "{words}");
        }
    }

    /// Whether the log takes another line for the guest. Those that were held back are told first.
    fn may_log(&mut self) -> bool {
        let Some(suppressed) = self.confined.log.admit(self.clock.now()) else {
            self.hit(Limit::Log);
            return false;
        };
        if suppressed > 0 {
            let exceeded = self.confined.limits.exceeded(Limit::Log);
            tracing::warn!(target: "moorline::guest", instance = &*self.instance, suppressed, "lines of this plugin were held back: {exceeded}");
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_cannot_forge_another() {
        let shown = |message: &str| words::shown(message, LINE_BYTES_MAX);
        assert_eq!(shown("a\nERROR b\u{1b}[2J"), "a ERROR b [2J");
        assert!(shown(&"ü".repeat(5_000)).len() < LINE_BYTES_MAX + 10);
    }
}
