//! `moorline spool export`.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use moorline_core::message::{Quality, Reading, Sequence, Uplink, Value};
use serde_json::json;

use super::super::{exit, figures, glob};
use super::look::{Record, Seen};
use super::source::Trouble;
use super::{Filter, Which, fail};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One JSON object a line.
    Ndjson,
    /// With a heading; text in quotes as RFC 4180 says.
    Csv,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ExportOptions {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    filter: Filter,
    /// What waits, and nothing else: as it is without --all.
    #[arg(long, conflicts_with = "all")]
    waiting: bool,
    /// How to write them.
    #[arg(long, value_enum, default_value_t = Format::Ndjson)]
    format: Format,
    /// Write them to this file, which must not be there yet; to standard output otherwise.
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

/// Where they go.
struct Sheet {
    out: Box<dyn Write>,
    target: String,
    format: Format,
    readings: u64,
    /// Messages without readings, which are left out.
    others: u64,
}

const HEADING: &str = "ts,device,key,value,quality,stream,sequence\r\n";

pub(super) fn export(options: &ExportOptions) -> Result<ExitCode, ExitCode> {
    let found = options.which.find()?;
    let mut sheet = Sheet::new(options).map_err(|trouble| fail(&trouble))?;
    let filter = &options.filter;
    for stream in &found.streams {
        let mut seen =
            Seen::new(stream, &found.settings.spool).map_err(|trouble| fail(&trouble))?;
        seen.each_record(Sequence(filter.after), filter.all, &mut |record| {
            sheet.record(record, filter)
        })
        .map_err(|trouble| fail(&trouble))?;
    }
    sheet.finish().map_err(|trouble| fail(&trouble))?;
    Ok(ExitCode::SUCCESS)
}

impl Sheet {
    fn new(options: &ExportOptions) -> Result<Self, Trouble> {
        let (out, target): (Box<dyn Write>, String) = match &options.to {
            None => (Box::new(io::stdout().lock()), "standard output".to_owned()),
            Some(path) => {
                let target = path.display().to_string();
                let made = File::options().write(true).create_new(true).open(path);
                let made = made.map_err(|source| Trouble::Target {
                    target: target.clone(),
                    source,
                })?;
                (Box::new(made), target)
            }
        };
        let mut sheet = Self {
            out: Box::new(BufWriter::new(out)),
            target,
            format: options.format,
            readings: 0,
            others: 0,
        };
        match options.format {
            Format::Ndjson => {}
            Format::Csv => sheet.write(HEADING)?,
        }
        Ok(sheet)
    }

    /// Writes a record's readings; false when there are enough.
    fn record(&mut self, record: &Record<'_>, filter: &Filter) -> Result<bool, Trouble> {
        let Uplink::Telemetry(devices) = record.uplink else {
            self.others += 1;
            return Ok(true);
        };
        for of_device in devices {
            let device = of_device.device.as_str();
            if filter
                .device
                .as_deref()
                .is_some_and(|pattern| !glob::matches(pattern, device))
            {
                continue;
            }
            for reading in &of_device.readings {
                if self.readings >= filter.limit {
                    return Ok(false);
                }
                self.readings += 1;
                let line = match self.format {
                    Format::Ndjson => ndjson(record, device, reading),
                    Format::Csv => csv(record, device, reading),
                };
                self.write(&line)?;
            }
        }
        Ok(true)
    }

    fn write(&mut self, line: &str) -> Result<(), Trouble> {
        let written = self.out.write_all(line.as_bytes());
        written.map_err(|source| self.trouble(source))
    }

    fn trouble(&self, source: io::Error) -> Trouble {
        Trouble::Target {
            target: self.target.clone(),
            source,
        }
    }

    fn finish(mut self) -> Result<(), Trouble> {
        self.out.flush().map_err(|source| self.trouble(source))?;
        exit::progress(&format!(
            "{} readings to {}",
            figures::count(self.readings),
            self.target
        ));
        if self.others > 0 {
            exit::progress(&format!(
                "{} messages that carry no readings are left out; moorline spool dump shows them",
                figures::count(self.others)
            ));
        }
        Ok(())
    }
}

fn quality(quality: Quality) -> &'static str {
    match quality {
        Quality::Good => "good",
        Quality::Uncertain => "uncertain",
        Quality::Bad => "bad",
    }
}

fn ndjson(record: &Record<'_>, device: &str, reading: &Reading) -> String {
    let value = match &reading.value {
        Value::Boolean(value) => json!(value),
        Value::Integer(value) => json!(value),
        Value::Double(value) => json!(value),
        Value::Text(value) => json!(value),
        Value::Json(text) => serde_json::from_str(text).unwrap_or_else(|_| json!(text)),
    };
    let line = json!({
        "ts": reading.timestamp.0,
        "device": device,
        "key": reading.key.as_str(),
        "value": value,
        "quality": quality(reading.quality),
        "stream": record.stream,
        "sequence": record.sequence.0,
    });
    format!("{line}\n")
}

fn csv(record: &Record<'_>, device: &str, reading: &Reading) -> String {
    let value = match &reading.value {
        Value::Boolean(value) => value.to_string(),
        Value::Integer(value) => value.to_string(),
        Value::Double(value) => value.to_string(),
        Value::Text(text) | Value::Json(text) => field(text),
    };
    format!(
        "{},{},{},{value},{},{},{}\r\n",
        reading.timestamp.0,
        field(device),
        field(reading.key.as_str()),
        quality(reading.quality),
        field(record.stream),
        record.sequence.0
    )
}

/// In quotes where RFC 4180 wants them.
fn field(text: &str) -> String {
    if text.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}
