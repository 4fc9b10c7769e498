//! The state directory: made at the start, and looked at while the gateway runs.
//!
//! A medium that cannot be written stops nothing: whoever keeps something there goes on in memory. An alarm says so.

use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Access, access};
use rustix::io::Errno;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tracing::{error, info, warn};

use crate::clock::Clock;
use crate::config::Settings;
use crate::medium;
use crate::plugins;
use crate::shutdown::Shutdown;
use crate::spool::disk;
use crate::status::Unwritable;

const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Files of ours that are there while the gateway runs: to open one to write changes nothing on the medium.
const FILES: [&str; 2] = ["link.running", "journal/link.jsonl"];

/// Makes it where it is not there. It is for the gateway's user alone: it holds plugin state and what was measured.
///
/// # Errors
/// When somebody chose a place that cannot be one. A medium that does not work is told, and no error.
pub(super) fn prepare(directory: &Path) -> io::Result<()> {
    match make(directory) {
        Err(error) if medium::is_at_fault(&error) => {
            error!(
                directory = %directory.display(), %error,
                "the state directory cannot be made: the gateway works in memory until it can be"
            );
            Ok(())
        }
        made => made,
    }
}

fn make(directory: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
}

/// A place below the state directory, or itself, with which a gateway would not start, or not as it should.
#[derive(Debug)]
pub(crate) struct Unfit {
    pub(crate) place: PathBuf,
    pub(crate) error: io::Error,
}

impl Unfit {
    /// The gateway starts all the same and works in memory.
    pub(crate) fn is_borne(&self) -> bool {
        medium::is_at_fault(&self.error)
    }
}

/// Looks where a gateway with these settings would make or open something at its start, and changes nothing: what it would
/// meet there. What lies below a place that does not fit is not looked at.
pub(crate) fn unfit(settings: &Settings) -> Vec<Unfit> {
    let spool = &settings.spool;
    let streams = spool.streams.iter();
    let streams = streams.map(|setup| spool.stream_directory(setup));
    let state = plugins::state_directory(&settings.state_dir);
    let mut found: Vec<Unfit> = Vec::new();
    for place in [settings.state_dir.clone()]
        .into_iter()
        .chain(streams)
        .chain([state])
    {
        if found.iter().any(|above| place.starts_with(&above.place)) {
            continue;
        }
        if let Err(error) = could_be_used(&place) {
            found.push(Unfit { place, error });
        }
    }
    found
}

/// Whether it is a directory we may work in, or could be made one.
fn could_be_used(directory: &Path) -> io::Result<()> {
    match std::fs::metadata(directory) {
        Ok(there) if !there.is_dir() => Err(io::ErrorKind::NotADirectory.into()),
        Ok(_directory) => {
            access(
                directory,
                Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK,
            )?;
            let lock = directory.join(disk::LOCK_NAME);
            match access(&lock, Access::WRITE_OK) {
                Err(Errno::NOENT) | Ok(()) => Ok(()),
                Err(error) => Err(error.into()),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => could_be_made(directory),
        Err(error) => Err(error),
    }
}

fn could_be_made(directory: &Path) -> io::Result<()> {
    // A link that leads nowhere is in the way of whoever makes it.
    if directory.is_symlink() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let above = match directory.parent() {
        Some(above) if above.as_os_str().is_empty() => Path::new("."),
        Some(above) => above,
        None => return Err(io::ErrorKind::NotFound.into()),
    };
    match std::fs::metadata(above) {
        Ok(there) if !there.is_dir() => Err(io::ErrorKind::NotADirectory.into()),
        Ok(_directory) => Ok(access(above, Access::WRITE_OK | Access::EXEC_OK)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => could_be_made(above),
        Err(error) => Err(error),
    }
}

/// Looks at it until told to stop.
pub(super) fn watch(
    tasks: &mut JoinSet<()>,
    directory: &Path,
    clock: Clock,
    stop: &Shutdown,
) -> watch::Receiver<Option<Unwritable>> {
    let (status, seen) = watch::channel(None);
    tasks.spawn(follow(directory.to_owned(), status, clock, stop.clone()));
    seen
}

async fn follow(
    directory: PathBuf,
    status: watch::Sender<Option<Unwritable>>,
    clock: Clock,
    mut stop: Shutdown,
) {
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _at = tick.tick() => {}
            () = stop.wait() => return,
        }
        let place = directory.clone();
        let looked = tokio::task::spawn_blocking(move || look(&place)).await;
        let error = match looked {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(panicked) => Some(panicked.to_string()),
        };
        let was = status.borrow().clone();
        match (&error, &was) {
            (Some(error), None) => {
                warn!(directory = %directory.display(), error, "the state directory cannot be written");
            }
            (None, Some(_)) => {
                info!(directory = %directory.display(), "the state directory can be written again");
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
        status.send_replace(error.map(|error| Unwritable {
            directory: directory.clone(),
            error,
            since_ms: was.map_or_else(|| clock.wall().0, |was| was.since_ms),
        }));
    }
}

/// Whether it could be written, found out without writing.
fn look(directory: &Path) -> io::Result<()> {
    make(directory)?;
    access(directory, Access::WRITE_OK)?;
    for file in FILES {
        match std::fs::OpenOptions::new()
            .write(true)
            .open(directory.join(file))
        {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_cannot_be_one_is_refused_and_one_that_can_is_made() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "in the way").unwrap();
        assert!(prepare(&file.join("state")).is_err());
        let state = directory.path().join("state");
        prepare(&state).unwrap();
        look(&state).unwrap();
        assert!(look(&file).is_err());
    }

    #[test]
    fn what_could_be_made_is_told_from_what_could_not_without_making_it() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("a/b/state");
        could_be_used(&deep).unwrap();
        assert!(!directory.path().join("a").exists());
        let file = directory.path().join("file");
        std::fs::write(&file, "in the way").unwrap();
        let dangling = directory.path().join("dangling");
        std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
        for place in [
            &file,
            &file.join("state"),
            &dangling,
            &dangling.join("state"),
        ] {
            assert!(could_be_used(place).is_err(), "{}", place.display());
            assert!(prepare(place).is_err(), "{}", place.display());
        }
    }
}
