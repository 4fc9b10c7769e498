//! The media under the streams while they fail: when one works again, what lies there is taken up.
//!
//! ```text
//!  gave nothing at the start ──opens──► the stream goes on in it: what lay there, then what came meanwhile
//!  failed, and the path leads to another directory (repaired, mounted anew) ──► the stream goes on there
//! ```

use moorline_core::message::StreamId;
use moorline_core::spool::storage::StorageError;
use moorline_core::spool::streams::Streams;
use moorline_core::spool::{self as core_spool, Recovery};

use super::TAIL_BYTES;
use super::disk::{DirectoryError, Disk};
use super::settings::{SpoolSettings, StreamSetup};

/// The directory of each stream.
pub(super) struct Media {
    disks: Vec<Disk>,
    draw: u64,
}

impl Media {
    pub(super) fn new(disks: Vec<Disk>, draw: u64) -> Self {
        Self { disks, draw }
    }

    /// Looks whether the medium of a stream that fails has become one to go on with.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn take_up(
        &mut self,
        id: StreamId,
        streams: &mut Streams<Disk>,
        settings: &SpoolSettings,
    ) -> Result<(), StorageError> {
        let index = usize::from(id.0);
        let (Some(disk), Some(setup)) = (self.disks.get_mut(index), settings.streams.get(index))
        else {
            return Ok(());
        };
        let Some(spool) = streams.spool_mut(id) else {
            return Ok(());
        };
        if spool.is_absent() {
            let opened = open(disk, setup, settings, self.draw.wrapping_add(id.0.into()));
            let (opened, recovery) = opened.inspect_err(|why| spool.still_absent(*why))?;
            if streams.continue_in(id, opened).is_some() {
                tell(setup, &recovery);
            }
            return Ok(());
        }
        if disk.is_elsewhere() {
            let found = reopen(disk)?;
            let old_window = settings.window_path_of(disk, &setup.stream.name);
            let window = settings.window_of(setup, &found, false);
            spool.move_to(found.clone(), window)?;
            *disk = found;
            tracing::warn!(
                stream = &*setup.stream.name,
                directory = %disk.path().display(),
                "the spool's directory is another one than before: the stream goes on there"
            );
            if let Some(old) = old_window {
                settings.clear_window(&old);
            }
        }
        Ok(())
    }
}

/// Opens what could not be opened before.
fn open(
    disk: &mut Disk,
    setup: &StreamSetup,
    settings: &SpoolSettings,
    draw: u64,
) -> Result<(core_spool::Spool<Disk>, Recovery), StorageError> {
    if disk.place().is_none() || disk.is_elsewhere() {
        *disk = reopen(disk)?;
    }
    let limits = setup.limits(settings, TAIL_BYTES);
    let limits = limits.map_err(|_checked_before| StorageError::Fault(0))?;
    let window = settings.window_of(setup, disk, true);
    core_spool::Spool::open_with(disk.clone(), window, limits, draw.max(1))
}

fn reopen(disk: &Disk) -> Result<Disk, StorageError> {
    Disk::open(disk.path()).map_err(|error| match &error {
        DirectoryError::InUse { .. } => StorageError::InUse,
        DirectoryError::Unusable { source, .. } => super::disk::translate(source),
    })
}

fn tell(setup: &StreamSetup, recovery: &Recovery) {
    tracing::warn!(
        stream = &*setup.stream.name,
        records = recovery.records,
        readings = recovery.readings,
        damaged_segments = recovery.damaged_segments,
        quarantined_segments = recovery.quarantined_segments,
        "the medium of the spool works: what waited there goes on, and what came meanwhile is written to it"
    );
}
