//! `moorline spool purge`.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use moorline_core::message::Sequence;

use super::super::{exit, figures, reload};
use super::look::{Record, Seen};
use super::source::Stream;
use super::{Found, Which, fail};
use crate::clock::Clock;
use crate::config::Settings;
use crate::spool::OpenError;
use crate::spool::disk::DirectoryError;
use crate::spool::purge::{self, Purged};

/// A gateway that was told answers within this; its disk may be slow.
const PATIENCE: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub(in crate::cli) struct PurgeOptions {
    #[command(flatten)]
    which: Which,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

pub(super) fn purge(options: &PurgeOptions) -> Result<ExitCode, ExitCode> {
    let found = options.which.find()?;
    if found.streams.is_empty() {
        exit::progress(&"nothing waits: no gateway ever ran here");
        return Ok(ExitCode::SUCCESS);
    }
    if !options.yes && !wanted(&found)? {
        return Err(exit::fail(
            exit::USAGE,
            &"nothing was given up; say --yes if what waits may be lost",
        ));
    }
    for stream in &found.streams {
        match purge_one(&found.settings, stream)? {
            Purged::GivenUp { records, readings } => exit::print(&format!(
                "stream {}: {} readings in {} records given up, and counted as evicted",
                stream.name,
                figures::count(readings),
                figures::count(records)
            )),
            Purged::Refused { error } => {
                let refused = format!("stream {}: nothing was given up: {error}", stream.name);
                return Err(exit::fail(exit::OS, &refused));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What is gone is gone: somebody must want that.
fn wanted(found: &Found) -> Result<bool, ExitCode> {
    let mut stderr = std::io::stderr();
    if !std::io::stdin().is_terminal() || !stderr.is_terminal() {
        return Ok(false);
    }
    let (mut records, mut readings) = (0, 0);
    for stream in &found.streams {
        let mut seen =
            Seen::new(stream, &found.settings.spool).map_err(|trouble| fail(&trouble))?;
        seen.each_record(Sequence(0), false, &mut |record: &Record<'_>| {
            records += 1;
            readings += record.uplink.readings();
            Ok(true)
        })
        .map_err(|trouble| fail(&trouble))?;
    }
    let question = format!(
        "Give up about {} readings in {} records for good? [y/N] ",
        figures::count(readings),
        figures::count(records)
    );
    // A question that cannot be asked is not answered with yes.
    if write!(stderr, "{question}")
        .and_then(|()| stderr.flush())
        .is_err()
    {
        return Ok(false);
    }
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    Ok(read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn purge_one(settings: &Settings, stream: &Stream) -> Result<Purged, ExitCode> {
    if reload::status_of_running(settings).is_some() {
        return ask(settings, &stream.directory);
    }
    let now = Clock::start().wall();
    purge::stopped(&settings.spool, &stream.name, &stream.directory, now).map_err(|error| {
        let hint = match &error {
            OpenError::Directory(DirectoryError::InUse { .. }) => {
                "; its status file is not fresh, so that it cannot be asked: is gateway.status_file the one it writes?"
            }
            OpenError::Directory(DirectoryError::Unusable { .. })
            | OpenError::Limits(_)
            | OpenError::Storage(_)
            | OpenError::Thread(_) => "",
        };
        exit::fail(exit::OS, &format!("{error}{hint}"))
    })
}

/// Has the gateway that runs do it.
fn ask(settings: &Settings, directory: &Path) -> Result<Purged, ExitCode> {
    let unusable =
        |error: std::io::Error| exit::fail(exit::OS, &format!("{}: {error}", directory.display()));
    purge::ask(directory).map_err(unusable)?;
    match reload::tell_running(settings) {
        Some(Ok(())) => {}
        Some(Err(error)) => {
            purge::withdraw(directory).map_err(unusable)?;
            return Err(exit::fail(
                exit::OS,
                &format!("the gateway cannot be told: {error}"),
            ));
        }
        None => {
            purge::withdraw(directory).map_err(unusable)?;
            return Err(exit::fail(
                exit::OS,
                &"the gateway has just ended; say it again",
            ));
        }
    }
    let mut waited = Duration::ZERO;
    loop {
        if let Some(purged) = purge::answer(directory).map_err(unusable)? {
            return Ok(purged);
        }
        // Once it was taken up, the answer comes.
        if waited >= PATIENCE
            && (waited >= 2 * PATIENCE || purge::withdraw(directory).map_err(unusable)?)
        {
            return Err(exit::fail(
                exit::SOFTWARE,
                &"the gateway runs and does not answer; nothing more is asked of it, and its log says what it does",
            ));
        }
        std::thread::sleep(LOOK_EVERY);
        waited += LOOK_EVERY;
    }
}
