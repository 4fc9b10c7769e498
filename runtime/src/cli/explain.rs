//! `moorline explain link`: the status and the journal, as a person asks for them.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use moorline_core::time::TimestampMs;
use serde_json::json;

use super::{ConfigFile, OutputFormat, exit};
use crate::clock::Clock;
use crate::journal::{Journal, Transition, UpEntry};
use crate::link::CertificateEnd;
use crate::status::{
    AlarmEntry, CanarySection, DisconnectEntry, LinkSection, NetworkSection, Status,
};

const BOLD: &str = "\x1b[1m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const RESET: &str = "\x1b[0m";

/// What `moorline explain link` takes.
#[derive(Debug, Args)]
pub(super) struct LinkOptions {
    #[command(flatten)]
    config: ConfigFile,
    /// The state directory itself, without a configuration.
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    state_dir: Option<PathBuf>,
    /// How many transitions to show.
    #[arg(long, value_name = "N", default_value_t = 10)]
    last: usize,
    /// How to print it.
    #[arg(long, value_enum, default_value_t = OutputFormat::Human)]
    format: OutputFormat,
}

pub(super) fn link(options: &LinkOptions) -> ExitCode {
    let (state_dir, status_file) = match &options.state_dir {
        Some(state_dir) => (
            state_dir.clone(),
            state_dir.join(crate::status::STATUS_FILE),
        ),
        None => match options.config.settings() {
            Ok(settings) => (settings.state_dir, settings.status_file),
            Err(code) => return code,
        },
    };
    let journal = match Journal::read(&state_dir, options.last) {
        Ok(journal) => journal,
        Err(error) => {
            return exit::fail(
                exit::OS,
                &format!(
                    "the journal in {} cannot be read: {error}",
                    state_dir.display()
                ),
            );
        }
    };
    let status = match Status::read_file(&status_file) {
        Ok(status) => Some(status),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            return exit::fail(
                exit::OS,
                &format!("{} cannot be read: {error}", status_file.display()),
            );
        }
    };
    if status.is_none() && journal.transitions.is_empty() {
        return exit::fail(exit::DATA, &nothing(&state_dir));
    }
    let now = Clock::start().wall();
    match options.format {
        OutputFormat::Json => exit::print(&as_json(status.as_ref(), &journal, now)),
        OutputFormat::Human => {
            let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            let page = Page {
                now,
                colour,
                zone: TimeZone::system(),
            };
            exit::print(&page.human(status.as_ref(), &journal));
        }
    }
    ExitCode::SUCCESS
}

fn nothing(state_dir: &Path) -> String {
    format!(
        "no gateway has run with the state directory {}: neither status nor journal is there",
        state_dir.display()
    )
}

fn as_json(status: Option<&Status>, journal: &Journal, now: TimestampMs) -> serde_json::Value {
    json!({
        "running": status.is_some_and(|status| status.is_fresh(now)),
        "alarms": status.map(|status| &status.alarms),
        "link": status.map(|status| &status.link),
        "network": status.map(|status| &status.network),
        "transitions": journal.transitions,
        "skipped_lines": journal.skipped,
    })
}

/// What it takes to tell it to a person.
struct Page {
    now: TimestampMs,
    colour: bool,
    zone: TimeZone,
}

/// The broker of a session, the address that answered, and the proxy between.
fn place(up: &UpEntry) -> String {
    let mut words = String::new();
    if !up.endpoint.is_empty() {
        words += &format!(", to {}", up.endpoint);
    }
    match &up.peer {
        Some(peer) if up.endpoint.is_empty() => words += &format!(", to {peer}"),
        Some(peer) if up.via.is_none() && *peer != up.endpoint => words += &format!(" at {peer}"),
        Some(_) | None => {}
    }
    if let Some(via) = &up.via {
        words += &format!(" via {via}");
    }
    words
}

impl Page {
    fn human(&self, status: Option<&Status>, journal: &Journal) -> String {
        let mut lines = vec![self.now(status, journal)];
        for alarm in status.iter().flat_map(|status| &status.alarms) {
            lines.push(self.paint(RED, &self.alarm(alarm)));
        }
        let running = status.filter(|status| status.is_fresh(self.now));
        lines.extend(running.and_then(|status| self.network(&status.network)));
        let last = journal
            .transitions
            .iter()
            .rev()
            .find_map(|transition| match transition {
                Transition::Ended(ended) => Some(ended),
                Transition::Up(_) => None,
            });
        if let Some(ended) = last {
            lines.push(format!("\n{} {}", self.bold("why"), ended.text));
            lines.push(format!("{} {}", self.bold("do "), ended.advice));
        }
        if !journal.transitions.is_empty() {
            lines.push(String::new());
            lines.extend(self.table(&journal.transitions));
        }
        if journal.skipped > 0 {
            lines.push(format!(
                "({} lines of the journal could not be read)",
                journal.skipped
            ));
        }
        lines.join("\n")
    }

    fn alarm(&self, alarm: &AlarmEntry) -> String {
        let mark = if alarm.certainty == "inferred" {
            "?"
        } else {
            ""
        };
        let about = if alarm.client_id.is_empty() {
            String::new()
        } else {
            format!(" ({:?})", alarm.client_id)
        };
        format!(
            "alarm {}{mark} since {}: {}{about}\n      {}",
            alarm.name,
            self.time(alarm.since_ms),
            alarm.text,
            alarm.advice
        )
    }

    /// What the link is doing, in one line.
    fn now(&self, status: Option<&Status>, journal: &Journal) -> String {
        let Some(status) = status else {
            return "the gateway has left no status; this is what its journal holds".to_owned();
        };
        if !status.is_fresh(self.now) {
            let end = if status.link.state == "stopped" {
                "was stopped"
            } else {
                "does not run, and was not stopped in good order"
            };
            return self.paint(
                RED,
                &format!(
                    "the gateway {end}: its last status is of {}, {} ago",
                    self.time(status.written_at_ms),
                    ago(self.now.0.saturating_sub(status.written_at_ms))
                ),
            );
        }
        let link = &status.link;
        match link.state.as_str() {
            "up" => self.paint(GREEN, &self.up(link, journal)),
            "waiting" => match link.next_try_ms {
                Some(at) => self.paint(
                    RED,
                    &format!(
                        "the link is down; the next attempt is at {}, in {}",
                        self.time(at),
                        ago(at.saturating_sub(self.now.0))
                    ),
                ),
                None => self.paint(
                    RED,
                    "the link is down, and when it tries again is being decided",
                ),
            },
            "parked" => self.paint(
                RED,
                "the link is parked: it does not try again until somebody acts",
            ),
            other => format!("the link is {other}"),
        }
    }

    /// The way out, in one line; nothing where nobody watches it.
    fn network(&self, network: &NetworkSection) -> Option<String> {
        let since = network.since_ms.map_or_else(String::new, |since| {
            format!(
                " since {}, for {}",
                self.time(since),
                ago(self.now.0.saturating_sub(since))
            )
        });
        let mut words = match network.verdict.as_str() {
            "up" => format!("the network is up{since}"),
            "down" => self.paint(
                RED,
                &format!("this machine has no way to the broker{since}"),
            ),
            _ => return None,
        };
        if let Some(interface) = &network.interface {
            words += &format!("; over {interface}");
        }
        if let Some(source) = &network.source {
            words += &format!(" from {source}");
        }
        if let Some(gateway) = &network.gateway {
            words += &format!(" by {gateway}");
        }
        if let Some(dbm) = network.wireless_dbm {
            words += &format!("; wireless signal {dbm} dBm");
        }
        if let Some(last) = network.changes.last() {
            words += &format!("; last change {}: {}", self.time(last.at_ms), last.text);
        }
        Some(words)
    }

    fn up(&self, link: &LinkSection, journal: &Journal) -> String {
        let last = journal
            .transitions
            .iter()
            .rev()
            .find_map(|transition| match transition {
                Transition::Up(up) => Some(up),
                Transition::Ended(_) => None,
            });
        let mut words = "the link is up".to_owned();
        if let Some(since) = link.since_ms {
            words += &format!(
                " since {}, for {}",
                self.time(since),
                ago(self.now.0.saturating_sub(since))
            );
        }
        words += &format!(
            "; MQTT {}, session {} of this process",
            link.mqtt_version, link.sessions
        );
        if let Some(up) = last {
            words += &place(up);
        }
        match link.session_kept {
            Some(true) => words += "; the broker kept our session",
            Some(false) => words += "; the broker did not keep our session",
            None => {}
        }
        if link.duplicates_possible > 0 {
            words += &format!(
                "; {} publishes may have arrived twice",
                link.duplicates_possible
            );
        }
        if let Some(answer_ms) = link.answer_ms {
            words += &format!("; answers take {answer_ms:.1} ms");
        }
        words += &self.held_words(link);
        if let Some(bytes) = link.publish_bytes_max {
            words += &format!(
                "; publishes have at most {bytes} bytes: the broker closed on larger ones (link.packet_bytes_max)"
            );
        }
        if let Some(seconds) = link.keep_alive_s {
            words += &format!("; keep-alive {seconds} s");
        }
        if let Some(canary) = &link.canary {
            words += &canary_words(canary);
        }
        let end = link
            .certificate_end_ms
            .map(|end_ms| CertificateEnd(TimestampMs(end_ms)))
            .filter(|end| end.is_near(self.now));
        if let Some(end) = end {
            words += &format!("; the broker's certificate {}", end.words(self.now));
        }
        words
    }

    fn held_words(&self, link: &LinkSection) -> String {
        let Some(by) = &link.held_by else {
            return String::new();
        };
        match link.held_until_ms {
            Some(until) => format!(
                "; held back by the platform's limit ({by}) until {}",
                self.time(until)
            ),
            None => format!(
                "; held back by the platform's limit ({by}) until what is under way is acknowledged"
            ),
        }
    }

    fn table(&self, transitions: &[Transition]) -> Vec<String> {
        let header = format!(
            "{:<19}  {:<8}  {:<9}  {:<24}  {:<8}  {:<5}  {}",
            "when", "what", "lasted", "cause", "fault", "code", "then"
        );
        let mut lines = vec![self.bold(&header)];
        lines.extend(transitions.iter().map(|transition| match transition {
            Transition::Up(up) => self.row(up.at_ms, GREEN, &up_cells(up)),
            Transition::Ended(ended) => self.row(ended.at_ms, RED, &ended_cells(ended)),
        }));
        lines
    }

    fn row(&self, at_ms: u64, colour: &str, cells: &[String; 6]) -> String {
        let [what, lasted, cause, fault, code, then] = cells;
        format!(
            "{:<19}  {}  {lasted:<9}  {cause:<24}  {fault:<8}  {code:<5}  {then}",
            self.time(at_ms),
            self.paint(colour, &format!("{what:<8}"))
        )
    }

    /// Local time, to the second.
    fn time(&self, at_ms: u64) -> String {
        i64::try_from(at_ms)
            .ok()
            .and_then(|ms| Timestamp::from_millisecond(ms).ok())
            .map_or_else(
                || "?".to_owned(),
                |at| {
                    at.to_zoned(self.zone.clone())
                        .strftime("%Y-%m-%d %H:%M:%S")
                        .to_string()
                },
            )
    }

    fn bold(&self, text: &str) -> String {
        self.paint(BOLD, text)
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colour {
            format!("{colour}{text}{RESET}")
        } else {
            text.to_owned()
        }
    }
}

fn canary_words(canary: &CanarySection) -> String {
    let CanarySection { back, lost, .. } = canary;
    match canary.round_trip_ms {
        Some(ms) => format!("; canaries come back within {ms:.1} ms ({back} back, {lost} lost)"),
        None => format!("; no canary has come back yet ({lost} lost)"),
    }
}

fn up_cells(up: &UpEntry) -> [String; 6] {
    let attempts = if up.attempts == 1 {
        "1 attempt".to_owned()
    } else {
        format!("{} attempts", up.attempts)
    };
    let session = if up.session_present {
        ", session resumed"
    } else {
        ""
    };
    [
        "up".to_owned(),
        String::new(),
        String::new(),
        String::new(),
        String::new(),
        format!(
            "MQTT {} after {:.1} s down, {attempts}{session}",
            up.mqtt_version,
            up.down_ms / 1e3
        ),
    ]
}

fn ended_cells(ended: &DisconnectEntry) -> [String; 6] {
    let in_session = ended.phase == "session";
    let what = match (in_session, ended.fault.as_str()) {
        (_, "nobody") => "ended",
        (true, _) => "lost",
        (false, _) => "failed",
    };
    let lasted = if in_session {
        ago(ended.session_ms)
    } else {
        String::new()
    };
    let code = match (ended.evidence.reason_code, ended.evidence.errno) {
        (Some(code), _) => format!("0x{code:02x}"),
        (None, Some(errno)) => format!("e{errno}"),
        (None, None) => String::new(),
    };
    let by = match (ended.decided_by.as_str(), ended.clamped) {
        ("policy", true) => "the policy, clamped",
        ("policy", false) => "the policy",
        ("fallback", _) => "the built-in policy",
        _ => "the host",
    };
    let then = match (ended.retry_in_ms, &ended.parked) {
        (Some(wait_ms), _) => format!("again after {:.1} s, by {by}", wait_ms as f64 / 1e3),
        (None, Some(reason)) => format!("parked ({reason}), by {by}"),
        (None, None) => "stopped".to_owned(),
    };
    let mut cause = ended.cause.clone();
    if ended.certainty == "inferred" {
        cause.push('?');
    }
    [
        what.to_owned(),
        lasted,
        cause,
        ended.fault.clone(),
        code,
        then,
    ]
}

/// A length of time in its two largest units.
fn ago(ms: u64) -> String {
    let s = ms / 1_000;
    match s {
        0..60 => format!("{:.1} s", ms as f64 / 1e3),
        60..3_600 => format!("{} min {} s", s / 60, s % 60),
        3_600..86_400 => format!("{} h {} min", s / 3_600, s % 3_600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_700_000_100_000;

    fn page() -> Page {
        Page {
            now: TimestampMs(NOW_MS),
            colour: false,
            zone: TimeZone::UTC,
        }
    }

    fn status(state: &str) -> Status {
        let mut status = Status {
            written_at_ms: NOW_MS - 300,
            ..Status::default()
        };
        state.clone_into(&mut status.link.state);
        status
    }

    fn journal() -> Journal {
        let ended = DisconnectEntry {
            at_ms: NOW_MS - 30_000,
            cause: "taken-over".into(),
            fault: "operator".into(),
            certainty: "certain".into(),
            phase: "session".into(),
            session_ms: 3_725_000,
            text: "another client took our client id".into(),
            advice: "find the other client".into(),
            retry_in_ms: Some(60_000),
            decided_by: "host".into(),
            evidence: crate::status::EvidenceEntry {
                reason_code: Some(0x8e),
                ..Default::default()
            },
            ..DisconnectEntry::default()
        };
        let up = UpEntry {
            at_ms: NOW_MS - 3_755_000,
            session: 1,
            mqtt_version: "5.0".into(),
            down_ms: 12_345.0,
            attempts: 3,
            ..UpEntry::default()
        };
        Journal {
            transitions: vec![Transition::Up(up), Transition::Ended(Box::new(ended))],
            skipped: 0,
        }
    }

    #[test]
    fn a_link_that_sends_smaller_publishes_says_how_small_and_why() {
        let mut status = status("up");
        status.link.publish_bytes_max = Some(15_000);
        let text = page().human(Some(&status), &journal());
        assert!(
            text.contains("; publishes have at most 15000 bytes: the broker closed on larger ones"),
            "{text}"
        );
    }

    #[test]
    fn a_waiting_link_says_until_when_why_and_what_to_do() {
        let mut status = status("waiting");
        status.link.next_try_ms = Some(NOW_MS + 30_000);
        let text = page().human(Some(&status), &journal());
        let expected = "\
the link is down; the next attempt is at 2023-11-14 22:15:30, in 30.0 s

why another client took our client id
do  find the other client

when                 what      lasted     cause                     fault     code   then
2023-11-14 21:12:25  up                                                              MQTT 5.0 after 12.3 s down, 3 attempts
2023-11-14 22:14:30  lost      1 h 2 min  taken-over                operator  0x8e   again after 60.0 s, by the host";
        let trimmed: Vec<_> = text.lines().map(str::trim_end).collect();
        assert_eq!(trimmed.join("\n"), expected);
    }

    #[test]
    fn an_alarm_names_the_client_id_and_whether_it_is_certain() {
        let mut status = status("waiting");
        status.alarms.push(AlarmEntry {
            name: "duplicate-client-id".into(),
            since_ms: NOW_MS - 30_000,
            certainty: "inferred".into(),
            client_id: "line-7".into(),
            text: "another client seems to use it".into(),
            advice: "find it".into(),
        });
        let text = page().human(Some(&status), &journal());
        let told = "alarm duplicate-client-id? since 2023-11-14 22:14:30: another client seems to use it (\"line-7\")\n      find it\n";
        assert!(text.contains(told), "{text}");
        assert_eq!(
            as_json(Some(&status), &journal(), TimestampMs(NOW_MS))["alarms"][0]["client_id"],
            "line-7"
        );
    }

    #[test]
    fn a_machine_without_a_way_to_the_broker_says_so_beside_the_link() {
        let mut status = status("waiting");
        status.network = NetworkSection {
            verdict: "up".into(),
            since_ms: Some(NOW_MS - 90_000),
            interface: Some("wlan0".into()),
            source: Some("10.0.0.2".into()),
            gateway: Some("10.0.0.1".into()),
            wireless_dbm: Some(-61),
            ..NetworkSection::default()
        };
        let text = page().human(Some(&status), &Journal::default());
        assert_eq!(
            text.lines().nth(1),
            Some(
                "the network is up since 2023-11-14 22:13:30, for 1 min 30 s; over wlan0 from 10.0.0.2 by 10.0.0.1; wireless signal -61 dBm"
            )
        );
        status.network = NetworkSection {
            verdict: "down".into(),
            since_ms: Some(NOW_MS - 9_000),
            changes: vec![crate::status::NetworkChange {
                at_ms: NOW_MS - 9_000,
                text: "wlan0 went down".into(),
            }],
            ..NetworkSection::default()
        };
        let text = page().human(Some(&status), &Journal::default());
        assert_eq!(
            text.lines().nth(1),
            Some(
                "this machine has no way to the broker since 2023-11-14 22:14:51, for 9.0 s; last change 2023-11-14 22:14:51: wlan0 went down"
            )
        );
    }

    #[test]
    fn a_gateway_that_died_is_not_said_to_be_up() {
        let mut status = status("up");
        status.written_at_ms = NOW_MS - 7_200_000;
        let text = page().human(Some(&status), &journal());
        assert!(
            text.starts_with(
                "the gateway does not run, and was not stopped in good order: its last status is of 2023-11-14 20:15:00, 2 h 0 min ago"
            ),
            "{text}"
        );
        assert_eq!(
            as_json(Some(&status), &journal(), TimestampMs(NOW_MS))["running"],
            false
        );
    }
}
