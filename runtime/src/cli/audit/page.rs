//! The audit on a terminal, or as lines.

use super::super::{exit, figures};
use super::{AuditOptions, Report};
use crate::audit::accounts::{DeviceReport, HOLES_NAMED, Sums};
use crate::screen::{Screen, Tone};

/// Devices that are named when nothing is wrong with them.
const DEVICES_NAMED: usize = 20;
/// Holes that are named of each device; the report has more.
const HOLES_SHOWN: usize = 8;

/// Where it is told; nowhere where a script reads.
pub(super) struct Page(Option<Screen>);

impl Page {
    pub(super) fn new(silent: bool) -> Self {
        Self((!silent).then(Screen::new))
    }

    fn say(&mut self, tone: Tone, text: &str) {
        if let Some(screen) = &mut self.0 {
            screen.say(tone, &figures::harmless(text));
        }
    }

    pub(super) fn title(&mut self, broker: &str, client_id: &str, options: &AuditOptions) {
        let (key, topic) = (&options.key, &options.topic);
        self.say(
            Tone::Title,
            &format!("auditing {key} on {topic} at {broker}, as {client_id}"),
        );
    }

    pub(super) fn subscribed(&mut self, times: u64, forgotten: bool) {
        if forgotten {
            self.say(
                Tone::Bad,
                "subscribed again, but the broker did not keep the session: what is missing from here on may be missing only \
                 here",
            );
        } else if times > 1 {
            self.say(Tone::Plain, "connected again; the broker kept the session");
        } else {
            self.say(Tone::Plain, "subscribed");
        }
    }

    pub(super) fn lost(&mut self, why: &str) {
        self.say(Tone::Plain, &format!("not connected: {why}"));
    }

    pub(super) fn refresh(&mut self, sums: &Sums, stands: bool) {
        let Some(screen) = &mut self.0 else { return };
        let away = if stands { "" } else { ", not connected" };
        screen.refresh(&format!("{}{away}", line(sums)));
    }

    pub(super) fn conclude(&mut self, report: &Report) {
        self.say(Tone::Title, &format!("after {:.0} s", report.seconds));
        let bad = |device: &&DeviceReport| device.missing > 0;
        let (wrong, right): (Vec<_>, Vec<_>) = report.by_device.iter().partition(bad);
        let named = wrong.iter().chain(right.iter().take(DEVICES_NAMED));
        for device in named {
            let tone = if device.missing > 0 {
                Tone::Bad
            } else {
                Tone::Plain
            };
            self.say(tone, &device_line(device));
        }
        if right.len() > DEVICES_NAMED {
            let more = figures::count((right.len() - DEVICES_NAMED) as u64);
            self.say(
                Tone::Plain,
                &format!("and {more} devices more of which nothing is missing"),
            );
        }
        self.odd(report);
        self.say(Tone::Plain, &line(&report.sums));
        self.verdict(report);
    }

    /// What makes the figures less than a proof.
    fn odd(&mut self, report: &Report) {
        let notes = [
            (report.malformed, "messages are no gateway telemetry"),
            (report.no_serial, "readings of the key are no whole numbers"),
            (
                report.not_followed,
                "readings are of devices beyond those that are followed",
            ),
            (
                report.from_the_future,
                "readings were measured later than they arrived: one of the clocks is wrong",
            ),
        ];
        for (count, what) in notes {
            if count > 0 {
                self.say(Tone::Plain, &format!("{} {what}", figures::count(count)));
            }
        }
        let forgotten = report.connection.sessions_forgotten;
        if forgotten > 0 {
            self.say(
                Tone::Bad,
                &format!(
                    "the broker did not keep the audit's session {forgotten} times: what is missing may be missing only here"
                ),
            );
        }
    }

    fn verdict(&mut self, report: &Report) {
        let sums = &report.sums;
        let (tone, verdict) = if sums.delivered == 0 {
            (
                Tone::Bad,
                format!(
                    "nothing came with the key {}: nothing is proven",
                    report.key
                ),
            )
        } else if sums.missing > 0 {
            (
                Tone::Bad,
                format!("{} readings are missing", figures::count(sums.missing)),
            )
        } else if report
            .expected
            .is_some_and(|expected| sums.delivered < expected)
        {
            let expected = report.expected.unwrap_or_default();
            (
                Tone::Bad,
                format!(
                    "nothing is missing in between, but {} readings were expected",
                    figures::count(expected)
                ),
            )
        } else {
            (Tone::Good, "nothing is missing".to_owned())
        };
        self.say(tone, &verdict);
        if report.connection.subscribed == 0 {
            exit::progress(&"the subscription never stood");
        }
    }
}

fn line(sums: &Sums) -> String {
    let count = figures::count;
    let mut line = format!(
        "{} devices, {} readings, {} missing, {} twice, {} out of order",
        count(sums.devices),
        count(sums.delivered),
        count(sums.missing),
        count(sums.duplicates),
        count(sums.out_of_order)
    );
    if sums.restarts > 0 {
        line.push_str(&format!(", {} counters began again", count(sums.restarts)));
    }
    if let Some(latency) = sums.latency {
        line.push_str(&format!(
            ", latency p50 {} ms, p99 {} ms, max {} ms",
            latency.p50_ms, latency.p99_ms, latency.max_ms
        ));
    }
    line
}

fn device_line(device: &DeviceReport) -> String {
    let count = figures::count;
    let mut line = format!(
        "{}: {} readings up to {}",
        device.device,
        count(device.delivered),
        device.newest.unwrap_or_default()
    );
    for (what, number) in [
        ("twice", device.duplicates),
        ("out of order", device.out_of_order),
        ("restarts", device.restarts),
    ] {
        if number > 0 {
            line.push_str(&format!(", {} {what}", count(number)));
        }
    }
    if let Some(latency) = device.latency {
        line.push_str(&format!(", p99 {} ms", latency.p99_ms));
    }
    if device.missing > 0 {
        let mut holes: Vec<_> = device
            .holes
            .iter()
            .take(HOLES_SHOWN)
            .map(|hole| {
                if hole.first == hole.last {
                    hole.first.to_string()
                } else {
                    format!("{} to {}", hole.first, hole.last)
                }
            })
            .collect();
        if device.holes.len() > HOLES_SHOWN || device.holes.len() == HOLES_NAMED {
            holes.push("and more".to_owned());
        }
        let missing = count(device.missing);
        line.push_str(&format!("; MISSING {missing}: {}", holes.join(", ")));
    }
    line
}
