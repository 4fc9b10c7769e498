//! The examination on a terminal, or as lines.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use moorline_core::doctor::{Finding, Verdict};
use moorline_core::time::rounded_ms;

use super::super::exit;
use super::Places;
use crate::doctor::{Examination, Progress};

const BOLD: &str = "\x1b[1m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const DIM: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";
const ERASE_LINE: &str = "\r\x1b[2K";
/// Where the sentence of a probe begins: behind mark, name and time.
const SENTENCE_COLUMN: usize = 29;
/// Where it is not told how wide the terminal is, or nobody sees it.
const COLUMNS: usize = 120;
const COLUMNS_MIN: usize = 60;

/// Text from a broker without anything a terminal would obey.
fn harmless(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// Where it is told.
pub(super) struct Page {
    silent: bool,
    terminal: bool,
    colour: bool,
    columns: usize,
    /// What was not tried for one and the same reason, until something else is told.
    skipped: Vec<&'static str>,
    why_skipped: String,
}

impl Page {
    pub(super) fn new(silent: bool) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
        let columns = size.map_or(COLUMNS, |size| usize::from(size.ws_col));
        Self {
            silent,
            terminal,
            colour: terminal && std::env::var_os("NO_COLOR").is_none(),
            columns: if columns < COLUMNS_MIN {
                COLUMNS
            } else {
                columns
            },
            skipped: Vec::new(),
            why_skipped: String::new(),
        }
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colour {
            format!("{colour}{text}{RESET}")
        } else {
            text.to_owned()
        }
    }

    fn mark(&self, verdict: Verdict) -> String {
        let (colour, mark) = match verdict {
            Verdict::Fits => (GREEN, "✓"),
            Verdict::Warns => (YELLOW, "!"),
            Verdict::Fails => (RED, "✗"),
            Verdict::NotTried => (DIM, "–"),
        };
        self.paint(colour, mark)
    }

    pub(super) fn title(&self, broker: &str, client_id: &str, as_gateway: bool) {
        if self.silent {
            return;
        }
        let id = if as_gateway {
            format!("as {client_id}")
        } else {
            format!("as {client_id}-doctor-…, beside a gateway that may run")
        };
        let title = self.paint(BOLD, &format!("examining {broker}"));
        exit::print(&format!("{title} {id}\n"));
    }

    pub(super) fn tell(&mut self, progress: &Progress<'_>) {
        if self.silent {
            return;
        }
        match progress {
            Progress::Began(probe) if self.terminal => {
                let line = format!("{ERASE_LINE}… {}", probe.name());
                let mut out = std::io::stdout();
                // A closed pipe stops no examination.
                out.write_all(line.as_bytes())
                    .and_then(|()| out.flush())
                    .unwrap_or_default();
            }
            Progress::Began(_) => {}
            Progress::Found(finding, None) => self.skip(finding),
            Progress::Found(finding, Some(took)) => {
                self.tell_skipped();
                self.line(finding, *took);
            }
        }
    }

    fn skip(&mut self, finding: &Finding) {
        if self.why_skipped != finding.seen {
            self.tell_skipped();
            self.why_skipped.clone_from(&finding.seen);
        }
        self.skipped.push(finding.probe.name());
    }

    fn tell_skipped(&mut self) {
        let skipped = std::mem::take(&mut self.skipped);
        if skipped.is_empty() {
            return;
        }
        let text = format!(
            "not tried, {}: {}",
            std::mem::take(&mut self.why_skipped),
            skipped.join(", ")
        );
        let text = self.paint(DIM, &wrapped(&text, self.columns, 2));
        exit::print(&format!("{} {text}", self.mark(Verdict::NotTried)));
    }

    fn line(&self, finding: &Finding, took: Duration) {
        let name = finding.probe.name();
        let time = shown(took);
        let sentence = match finding.verdict {
            Verdict::NotTried => format!("not tried, {}", finding.seen),
            Verdict::Fits | Verdict::Warns | Verdict::Fails => finding.seen.clone(),
        };
        let sentence = wrapped(&harmless(&sentence), self.columns, SENTENCE_COLUMN);
        let sentence = match finding.verdict {
            Verdict::NotTried => self.paint(DIM, &sentence),
            Verdict::Fits | Verdict::Warns | Verdict::Fails => sentence,
        };
        let erase = if self.terminal { ERASE_LINE } else { "" };
        let mark = self.mark(finding.verdict);
        exit::print(&format!("{erase}{mark} {name:<15} {time:>9}  {sentence}"));
    }

    pub(super) fn summary(&mut self, examination: &Examination, places: &Places) {
        self.tell_skipped();
        let of = |verdict: Verdict| {
            let findings = examination.findings.iter().map(|(finding, _)| finding);
            findings.filter(move |finding| finding.verdict == verdict)
        };
        for (verdict, heading) in [
            (Verdict::Fails, "What does not fit"),
            (Verdict::Warns, "What to know"),
        ] {
            if of(verdict).next().is_none() {
                continue;
            }
            exit::print(&format!("\n{}", self.paint(BOLD, heading)));
            for finding in of(verdict) {
                self.remedy(finding, places);
            }
        }
        let (fails, warns) = (of(Verdict::Fails).count(), of(Verdict::Warns).count());
        let untried = of(Verdict::NotTried).count();
        let count = |n: usize, what: &str| format!("{n} {what}");
        let tally = [
            count(of(Verdict::Fits).count(), "fit"),
            count(fails, if fails == 1 { "does not" } else { "do not" }),
            count(warns, "to know"),
            count(untried, "not tried"),
        ];
        let verdict = if fails > 0 {
            self.paint(RED, "the gateway does not work with this broker as it is")
        } else {
            self.paint(GREEN, "the gateway works with this broker")
        };
        exit::print(&format!("\n{verdict} ({})", tally.join(", ")));
    }

    fn remedy(&self, finding: &Finding, places: &Places) {
        const INDENT: usize = 5;
        let seen = harmless(&finding.seen);
        let seen = wrapped(
            &format!("{}: {seen}", finding.probe.name()),
            self.columns,
            2,
        );
        exit::print(&format!("{} {seen}", self.mark(finding.verdict)));
        if let Some(remedy) = &finding.remedy {
            let order = harmless(&places.order(remedy));
            exit::print(&format!("  → {}", self.paint(BOLD, &order)));
            let words = wrapped(&harmless(&remedy.words), self.columns, INDENT - 1);
            exit::print(&format!("    {words}"));
        }
    }
}

/// As people read times.
fn shown(took: Duration) -> String {
    if took >= Duration::from_secs(1) {
        format!("{:.1} s", took.as_secs_f64())
    } else {
        format!("{:.1} ms", rounded_ms(took))
    }
}

/// Breaks `text` between words at `columns`; further lines begin at `indent`, as the first does without saying so.
fn wrapped(text: &str, columns: usize, indent: usize) -> String {
    let mut out = String::new();
    let mut column = indent;
    for word in text.split(' ') {
        let width = word.chars().count();
        if column > indent {
            if column + 1 + width > columns {
                out.push('\n');
                out.push_str(&" ".repeat(indent));
                column = indent;
            } else {
                out.push(' ');
                column += 1;
            }
        }
        out.push_str(word);
        column += width;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_sentence_stays_under_its_beginning() {
        let text = wrapped("one two three four", 12, 3);
        assert_eq!(text, "one two\n   three\n   four");
        assert_eq!(wrapped("unbreakably", 5, 3), "unbreakably");
    }

    #[test]
    fn what_a_broker_says_does_not_move_the_cursor() {
        assert_eq!(harmless("\x1b[2Jevil\n"), "?[2Jevil?");
    }
}
