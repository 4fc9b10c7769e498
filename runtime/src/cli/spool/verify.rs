//! `moorline spool verify`.

use std::process::ExitCode;

use clap::Args;
use moorline_core::spool::inspect::Damage;
use serde::Serialize;

use super::super::{exit, figures};
use super::look::Seen;
use super::progress::Progress;
use super::source::Trouble;
use super::{Which, fail};

/// Places of damage that are named in each stream; the rest is counted.
const NAMED_MAX: usize = 1_000;

#[derive(Debug, Args)]
pub(in crate::cli) struct VerifyOptions {
    #[command(flatten)]
    which: Which,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Default, Serialize)]
struct Page {
    damaged: bool,
    bytes_per_s: u64,
    streams: Vec<StreamPage>,
}

#[derive(Debug, Default, Serialize)]
struct StreamPage {
    stream: String,
    segments: u64,
    /// Segments that were used again, or put to use, while this looked.
    passed_over: u64,
    bytes: u64,
    records: u64,
    readings: u64,
    /// Slots of the cursor that cannot be read; one is usual after a power cut, two lose what was acknowledged.
    cursor_slots_damaged: usize,
    /// The newest segment ends in something unfinished: where.
    torn: Option<Torn>,
    damages_total: u64,
    lost_records: u64,
    lost_readings: u64,
    damages: Vec<Place>,
}

#[derive(Debug, Serialize)]
struct Torn {
    file: String,
    offset: u64,
}

#[derive(Debug, Serialize)]
struct Place {
    file: String,
    offset: u64,
    bytes: u64,
    what: String,
    lost_records: u64,
    lost_readings: u64,
    /// Whether what is lost was still to be delivered.
    waited: bool,
}

impl Place {
    fn new(file: String, damage: &Damage) -> Self {
        Self {
            file,
            offset: damage.offset,
            bytes: damage.bytes,
            what: damage.wrong.to_string(),
            lost_records: damage.lost.records,
            lost_readings: damage.lost.readings,
            waited: damage.lost.records > 0,
        }
    }
}

pub(super) fn verify(options: &VerifyOptions) -> Result<ExitCode, ExitCode> {
    let found = options.which.find()?;
    let mut seen = Vec::new();
    for stream in &found.streams {
        seen.push(Seen::new(stream, &found.settings.spool).map_err(|trouble| fail(&trouble))?);
    }
    let total = seen.iter().flat_map(|seen| &seen.contents.segments);
    let mut progress = Progress::new(total.map(|segment| segment.bytes).sum());
    let mut page = Page::default();
    for seen in &mut seen {
        let stream = check(seen, &mut progress).map_err(|trouble| fail(&trouble))?;
        page.damaged |= stream.damages_total > 0 || stream.cursor_slots_damaged > 1;
        page.streams.push(stream);
    }
    page.bytes_per_s = progress.rate() as u64;
    drop(progress);
    if options.json {
        exit::print(&serde_json::json!(page));
    } else {
        print(&page);
    }
    Ok(if page.damaged {
        ExitCode::from(exit::DATA)
    } else {
        ExitCode::SUCCESS
    })
}

fn check(seen: &mut Seen, progress: &mut Progress) -> Result<StreamPage, Trouble> {
    let mut page = StreamPage {
        stream: seen.stream.name.clone(),
        cursor_slots_damaged: seen.contents.cursor_slots_damaged,
        ..StreamPage::default()
    };
    for segment in seen.segments(true) {
        let looked = seen.look(&segment)?;
        progress.add(segment.bytes);
        let Some(looked) = looked else {
            page.passed_over += 1;
            continue;
        };
        page.segments += 1;
        page.bytes += segment.bytes;
        page.records += looked.good.records;
        page.readings += looked.good.readings;
        if let Some(offset) = looked.torn_at {
            let file = segment.name();
            page.torn = Some(Torn { file, offset });
        }
        for damage in &looked.damages {
            page.damages_total += 1;
            page.lost_records += damage.lost.records;
            page.lost_readings += damage.lost.readings;
            if page.damages.len() < NAMED_MAX {
                page.damages.push(Place::new(segment.name(), damage));
            }
        }
    }
    Ok(page)
}

fn print(page: &Page) {
    let count = figures::count;
    for stream in &page.streams {
        exit::print(&format!(
            "stream {}: {} readings in {} records are whole, in {} segments with {} ({}/s)",
            stream.stream,
            count(stream.readings),
            count(stream.records),
            stream.segments,
            figures::size(stream.bytes),
            figures::size(page.bytes_per_s)
        ));
        if stream.passed_over > 0 {
            exit::print(&format!(
                "  {} segments were empty or used again meanwhile",
                stream.passed_over
            ));
        }
        if let Some(Torn { file, offset }) = &stream.torn {
            exit::print(&format!(
                "  {file} ends at {offset} in a record that was never finished, as by a power loss; what came after it, if \
                 anything, was not promised"
            ));
        }
        match stream.cursor_slots_damaged {
            0 => {}
            1 => exit::print(
                &"  one half of the cursor cannot be read, as after a power loss; the other one counts",
            ),
            _ => exit::print(
                &"  DAMAGED cursor: what was acknowledged is not known and will be sent again",
            ),
        }
        for place in &stream.damages {
            exit::print(&format!(
                "  DAMAGED {} at {}, {} bytes: {}; {} readings in {} records that wait are lost",
                place.file,
                place.offset,
                place.bytes,
                place.what,
                place.lost_readings,
                place.lost_records
            ));
        }
        let unnamed = stream.damages_total - stream.damages.len() as u64;
        if unnamed > 0 {
            exit::print(&format!("  and {} places more", count(unnamed)));
        }
    }
    let verdict = if page.damaged {
        "damage was found: the gateway passes over it, counts it, and puts the segment aside"
    } else {
        "no damage"
    };
    exit::print(&verdict);
}
