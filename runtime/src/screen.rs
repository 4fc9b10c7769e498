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

/// Columns before the text: the time and the mark.
const INDENT: usize = 11;
/// A narrower terminal folds lines by itself.
const COLUMNS_MIN: usize = 40;

/// How a line is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
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
pub(crate) struct Screen {
    start: Instant,
    terminal: bool,
    fresh: bool,
    last_plain: Option<Instant>,
}

impl Screen {
    pub(crate) fn new() -> Self {
        let terminal = std::io::stdout().is_terminal();
        Self {
            start: Instant::now(),
            terminal,
            fresh: false,
            last_plain: None,
        }
    }

    /// A line that stays.
    pub(crate) fn say(&mut self, tone: Tone, text: &str) {
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
        let text = match self.columns() {
            Some(columns) => folded(text, columns.saturating_sub(INDENT)),
            None => text.to_owned(),
        };
        self.write(&format!("{at:6.1}s {before}{mark} {text}{after}\n"));
    }

    /// Replaces the fresh line.
    pub(crate) fn refresh(&mut self, text: &str) {
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

    /// How wide the terminal is.
    fn columns(&self) -> Option<usize> {
        let size = self
            .terminal
            .then(|| rustix::termios::tcgetwinsize(std::io::stdout()).ok())??;
        Some(size.ws_col.into()).filter(|columns| *columns > COLUMNS_MIN)
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

/// Breaks `text` between words so that no line has more than `width` characters, if its words allow that. What follows the
/// first line is indented under it, and two more.
fn folded(text: &str, width: usize) -> String {
    let lead = text.len() - text.trim_start().len();
    let indent = INDENT + lead + 2;
    let mut folded = " ".repeat(lead);
    let mut column = lead;
    for word in text.trim_start().split(' ') {
        let length = word.chars().count();
        if column > lead && column + 1 + length > width {
            folded.push('\n');
            folded.push_str(&" ".repeat(indent));
            column = lead + 2;
        } else if column > lead {
            folded.push(' ');
            column += 1;
        }
        folded.push_str(word);
        column += length;
    }
    folded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_folded_between_words_and_indented() {
        assert_eq!(folded("one two   three", 40), "one two   three");
        let under = " ".repeat(INDENT + 2);
        assert_eq!(folded("one two three", 8), format!("one two\n{under}three"));
        let under = " ".repeat(INDENT + 4);
        assert_eq!(folded("  one two", 6), format!("  one\n{under}two"));
        assert_eq!(folded("unbreakable", 4), "unbreakable");
    }
}
