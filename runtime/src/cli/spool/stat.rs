//! `moorline spool stat`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;
use moorline_core::message::{Sequence, Uplink};
use moorline_core::spool::inspect::Contents;
use serde::Serialize;

use super::super::{exit, figures, reload};
use super::look::{Record, Seen};
use super::source::Trouble;
use super::{Found, Which, fail};
use crate::clock::Clock;
use crate::status::{Status, WearSection};
use crate::wear;

/// Devices that are told apart; what more there are is counted together.
const DEVICES_MAX: usize = 10_000;

#[derive(Debug, Args)]
pub(in crate::cli) struct StatOptions {
    #[command(flatten)]
    which: Which,
    /// Devices to name, those with the most readings first.
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// What is printed with `--json`.
#[derive(Debug, Serialize)]
struct Page {
    directory: String,
    /// Of the gateway that works on it; none when none does.
    pid: Option<u32>,
    streams: Vec<StreamStat>,
    wear: Option<WearSection>,
}

#[derive(Debug, Default, Serialize)]
struct StreamStat {
    stream: String,
    segments: u64,
    spares: u64,
    quarantined_segments: u64,
    bytes: u64,
    waiting_records: u64,
    waiting_readings: u64,
    waiting_bytes: u64,
    /// Records that wait and cannot be read.
    waiting_damaged_records: u64,
    oldest_ms: Option<u64>,
    newest_ms: Option<u64>,
    first_sequence: Option<u64>,
    last_sequence: Option<u64>,
    acked_sequence: u64,
    evicted_records: u64,
    evicted_readings: u64,
    damaged_records: u64,
    damaged_readings: u64,
    dead_lettered_readings: u64,
    cursor_readable: bool,
    /// The devices with the most waiting readings.
    devices: Vec<DeviceStat>,
    devices_total: u64,
}

#[derive(Debug, Serialize)]
struct DeviceStat {
    device: String,
    readings: u64,
    oldest_ms: u64,
    newest_ms: u64,
}

pub(super) fn stat(options: &StatOptions) -> Result<ExitCode, ExitCode> {
    let found = options.which.find()?;
    let mut streams = Vec::new();
    for stream in &found.streams {
        let seen = Seen::new(stream, &found.settings.spool).map_err(|trouble| fail(&trouble))?;
        streams.push(count(seen, options.top).map_err(|trouble| fail(&trouble))?);
    }
    let running = reload::status_of_running(&found.settings);
    let page = Page {
        directory: found.settings.spool.directory.display().to_string(),
        pid: running.as_ref().map(|status| status.pid),
        streams,
        wear: wear_section(&found, running),
    };
    if options.json {
        exit::print(&serde_json::json!(page));
    } else {
        print(&page);
    }
    Ok(ExitCode::SUCCESS)
}

/// From the gateway that runs, or what one kept.
fn wear_section(found: &Found, running: Option<Status>) -> Option<WearSection> {
    let settings = &found.settings;
    running.map(|status| status.wear).or_else(|| {
        let now = Clock::start().wall();
        let kept = wear::kept(&settings.state_dir, settings.wear, now)?;
        Some(WearSection::from(&kept))
    })
}

fn count(mut seen: Seen, top: usize) -> Result<StreamStat, Trouble> {
    let mut stat = figures_of(&seen.stream.name, &seen.contents);
    let mut devices: BTreeMap<String, (u64, u64, u64)> = BTreeMap::new();
    let mut more = 0;
    seen.each_record(Sequence(0), false, &mut |record: &Record<'_>| {
        stat.waiting_records += 1;
        stat.waiting_readings += record.uplink.readings();
        stat.waiting_bytes += record.bytes;
        stat.first_sequence.get_or_insert(record.sequence.0);
        stat.last_sequence = Some(record.sequence.0);
        let Uplink::Telemetry(telemetry) = record.uplink else {
            return Ok(true);
        };
        for of_device in telemetry {
            let name = of_device.device.as_str();
            if !devices.contains_key(name) && devices.len() >= DEVICES_MAX {
                more += 1;
                continue;
            }
            let entry = devices.entry(name.to_owned()).or_insert((0, u64::MAX, 0));
            for reading in &of_device.readings {
                let at_ms = reading.timestamp.0;
                *entry = (entry.0 + 1, entry.1.min(at_ms), entry.2.max(at_ms));
            }
        }
        Ok(true)
    })?;
    stat.oldest_ms = devices.values().map(|(_, oldest, _)| *oldest).min();
    stat.newest_ms = devices.values().map(|(_, _, newest)| *newest).max();
    stat.devices_total = devices.len() as u64 + u64::from(more > 0);
    let mut named: Vec<_> = devices
        .into_iter()
        .map(|(device, (readings, oldest_ms, newest_ms))| DeviceStat {
            device,
            readings,
            oldest_ms,
            newest_ms,
        })
        .collect();
    named.sort_by(|a, b| b.readings.cmp(&a.readings).then(a.device.cmp(&b.device)));
    named.truncate(top);
    stat.devices = named;
    Ok(stat)
}

fn figures_of(stream: &str, contents: &Contents) -> StreamStat {
    let cursor = contents.cursor.as_ref();
    let cursor = cursor.map(|(_, cursor)| cursor.clone()).unwrap_or_default();
    let evicted = cursor.evicted.plus(cursor.dropped);
    StreamStat {
        stream: stream.to_owned(),
        segments: contents.segments.len() as u64,
        spares: contents.spares,
        quarantined_segments: contents.quarantined.len() as u64,
        bytes: contents.bytes,
        acked_sequence: cursor.unsettled.acked().sequence.0,
        evicted_records: evicted.records,
        evicted_readings: evicted.readings,
        damaged_records: cursor.damaged.records,
        damaged_readings: cursor.damaged.readings,
        dead_lettered_readings: cursor.set_aside_readings,
        cursor_readable: contents.cursor.is_some(),
        ..StreamStat::default()
    }
}

fn print(page: &Page) {
    let runs = match page.pid {
        Some(pid) => format!("a gateway works on it, process {pid}"),
        None => "no gateway works on it".to_owned(),
    };
    exit::print(&format!("{}: {runs}", page.directory));
    if page.streams.is_empty() {
        exit::print(&"nothing was ever accepted here");
    }
    for stat in &page.streams {
        print_stream(stat);
    }
    if let Some(wear) = &page.wear {
        exit::print(&wear_line(wear));
    }
}

fn print_stream(stat: &StreamStat) {
    let count = figures::count;
    exit::print(&format!("\nstream {}", stat.stream));
    line(
        "files",
        format!(
            "{} in {} segments, {} spares, {} put aside",
            figures::size(stat.bytes),
            stat.segments,
            stat.spares,
            stat.quarantined_segments
        ),
    );
    line(
        "waiting",
        format!(
            "{} readings in {} records, {}",
            count(stat.waiting_readings),
            count(stat.waiting_records),
            figures::size(stat.waiting_bytes)
        ),
    );
    if let (Some(oldest), Some(newest)) = (stat.oldest_ms, stat.newest_ms) {
        let (oldest, newest) = (figures::when(oldest), figures::when(newest));
        line("measured", format!("from {oldest} to {newest}"));
    }
    line(
        "evicted",
        format!(
            "{} readings in {} records, since it was made",
            count(stat.evicted_readings),
            count(stat.evicted_records)
        ),
    );
    line(
        "damaged",
        format!(
            "{} readings in {} records, since it was made",
            count(stat.damaged_readings),
            count(stat.damaged_records)
        ),
    );
    line(
        "dead letters",
        format!(
            "{} readings, since it was made",
            count(stat.dead_lettered_readings)
        ),
    );
    if !stat.cursor_readable {
        line(
            "cursor",
            "cannot be read: everything counts as waiting".to_owned(),
        );
    }
    print_devices(stat);
}

fn line(name: &str, text: String) {
    exit::print(&format!("  {name:<12} {text}"));
}

fn print_devices(stat: &StreamStat) {
    let count = figures::count;
    for device in &stat.devices {
        line(
            "device",
            format!(
                "{:>12} readings  {} to {}  {}",
                count(device.readings),
                figures::when(device.oldest_ms),
                figures::when(device.newest_ms),
                figures::harmless(&device.device)
            ),
        );
    }
    let named = stat.devices.len() as u64;
    if stat.devices_total > named {
        let more = count(stat.devices_total - named);
        line("", format!("and {more} devices more"));
    }
}

/// The line about the medium.
fn wear_line(wear: &WearSection) -> String {
    let size = figures::medium_size;
    let seen = std::time::Duration::from_secs(wear.seen_s);
    let mut line = match &wear.device {
        Some(device) => format!(
            "\nwear of {}: {} written in the last 24 h ({} of them seen), at most {} of it by this gateway",
            device,
            size(wear.bytes_last_day),
            figures::rough(seen),
            size(wear.own_bytes_last_day.min(wear.bytes_last_day))
        ),
        None => format!(
            "\nwear: at most {} written by this gateway in the last 24 h ({} of them seen)",
            size(wear.bytes_last_day),
            figures::rough(seen)
        ),
    };
    if let Some(projected) = wear.projected_bytes_per_day {
        line.push_str(&format!("; {} a day at this rate", size(projected)));
    }
    match (wear.budget_bytes_per_day, wear.level.as_str()) {
        (None, _) => line.push_str("; no budget is set ([wear])"),
        (Some(budget), "over") => {
            line.push_str(&format!("; OVER the budget of {} a day", size(budget)));
        }
        (Some(budget), level) => {
            line.push_str(&format!("; the budget is {} a day", size(budget)));
            if level == "nearing" {
                line.push_str(" and will NOT be kept");
            }
        }
    }
    if let Some(years) = wear.life_years {
        line.push_str(&format!(
            "; such a medium lives {years:.1} years at this rate"
        ));
    }
    line
}
