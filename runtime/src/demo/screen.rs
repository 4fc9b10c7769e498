//! What people see: lines that stay, and on a terminal one last line that is kept fresh.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use tokio::time::Instant;

/// Without a terminal the fresh line is printed this often.
const PLAIN_EVERY: Duration = Duration::from_secs(10);
const ERASE_LINE: &str = "\r\x1b[2K";
const BOLD: &str = "\x1b[1m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const RESET: &str = "\x1b[0m";

/// How a line is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    /// A new chapter.
    Title,
    /// Something happened.
    Plain,
    /// As it should be.
    Good,
    /// Not as it should be.
    Bad,
}

/// Standard output.
#[derive(Debug)]
pub(super) struct Screen {
    start: Instant,
    terminal: bool,
    fresh: bool,
    last_plain: Option<Instant>,
}

impl Screen {
    pub(super) fn new() -> Self {
        let terminal = std::io::stdout().is_terminal();
        Self {
            start: Instant::now(),
            terminal,
            fresh: false,
            last_plain: None,
        }
    }

    /// A line that stays.
    pub(super) fn say(&mut self, tone: Tone, text: &str) {
        let at = self.start.elapsed().as_secs_f64();
        let (before, after) = match (self.terminal, tone) {
            (false, _) | (true, Tone::Plain) => ("", ""),
            (true, Tone::Title) => (BOLD, RESET),
            (true, Tone::Good) => (GREEN, RESET),
            (true, Tone::Bad) => (RED, RESET),
        };
        let mark = match tone {
            Tone::Title => "==",
            Tone::Plain => "  ",
            Tone::Good => "ok",
            Tone::Bad => "!!",
        };
        self.erase();
        self.write(&format!("{at:6.1}s {before}{mark} {text}{after}\n"));
    }

    /// Replaces the fresh line.
    pub(super) fn refresh(&mut self, text: &str) {
        let now = Instant::now();
        if self.terminal {
            self.erase();
            self.write(text);
            self.fresh = true;
        } else if self.last_plain.is_none_or(|last| now - last >= PLAIN_EVERY) {
            self.last_plain = Some(now);
            self.say(Tone::Plain, text);
        }
    }

    fn erase(&mut self) {
        if std::mem::take(&mut self.fresh) {
            self.write(ERASE_LINE);
        }
    }

    /// A closed pipe stops no demo: the report still counts.
    #[expect(clippy::unused_self, reason = "the screen owns standard output")]
    fn write(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .unwrap_or_default();
    }
}
