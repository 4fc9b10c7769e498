//! The inbox's file. What it holds is defined in [`moorline_core::inbox::frame`].

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use moorline_core::inbox::Record;
use moorline_core::inbox::frame::{self, MAGIC};
use tracing::{error, warn};

use crate::bounded_file;

const NAME: &str = "log";
const NEW_NAME: &str = "log.new";
const DAMAGED_NAME: &str = "log.damaged";
/// More than a log can have grown to: it is rewritten long before.
const FILE_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// The file, and how far it is good.
#[derive(Debug)]
pub(super) struct LogFile {
    directory: PathBuf,
    file: Arc<File>,
    pub(super) bytes: u64,
    synced_bytes: u64,
}

/// What the last process left. What is no log is put aside, what is torn is cut off. None: nothing could be read, nor put
/// aside; it must not be overwritten.
pub(super) fn read(directory: &Path) -> Option<Vec<Record>> {
    let path = directory.join(NAME);
    let contents = match bounded_file::read(&path, FILE_BYTES_MAX) {
        Ok(contents) => contents,
        Err(bounded_file::ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
            return Some(Vec::new());
        }
        Err(error) => {
            error!(path = %path.display(), %error, "the inbox cannot be read: messages of the last process that were not handled are put aside");
            return set_aside(directory).then(Vec::new);
        }
    };
    match frame::decode(&contents) {
        Some(log) => {
            if log.torn {
                warn!(
                    good_bytes = log.good_bytes,
                    "the inbox's last record was cut, as by a power loss; it was not acknowledged"
                );
            }
            Some(log.records)
        }
        None if contents.is_empty() => Some(Vec::new()),
        None => {
            error!(path = %path.display(), "the inbox is damaged: messages of the last process that were not handled are lost");
            set_aside(directory).then(Vec::new)
        }
    }
}

/// Puts aside what could not be read; false when that is not possible now.
pub(super) fn set_aside(directory: &Path) -> bool {
    match std::fs::rename(directory.join(NAME), directory.join(DAMAGED_NAME)) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => {
            warn!(%error, "the damaged inbox cannot be put aside");
            false
        }
    }
}

/// Writes a log that says `records`, and puts it in the old one's place.
///
/// # Errors
/// When the disk refuses; the old log is untouched then.
pub(super) fn replace(directory: &Path, frames: &[u8]) -> io::Result<LogFile> {
    std::fs::create_dir_all(directory)?;
    let new = directory.join(NEW_NAME);
    let file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    (&file).write_all(MAGIC)?;
    (&file).write_all(frames)?;
    file.sync_all()?;
    std::fs::rename(&new, directory.join(NAME))?;
    File::open(directory)?.sync_all()?;
    let bytes = file.metadata()?.len();
    Ok(LogFile {
        directory: directory.to_owned(),
        file: Arc::new(file),
        bytes,
        synced_bytes: bytes,
    })
}

impl LogFile {
    /// Appends; on the disk, too, if `sync`.
    ///
    /// # Errors
    /// When the disk refuses. The file ends where it ended before, or is of no more use.
    pub(super) async fn append(&mut self, frames: Vec<u8>, sync: bool) -> io::Result<()> {
        let length = frames.len() as u64;
        let (file, good_bytes) = (Arc::clone(&self.file), self.bytes);
        let written = blocking(move || {
            let written = (&*file)
                .write_all(&frames)
                .and_then(|()| if sync { file.sync_data() } else { Ok(()) });
            if written.is_err() {
                file.set_len(good_bytes)?;
                let mut file = &*file;
                io::Seek::seek(&mut file, io::SeekFrom::Start(good_bytes))?;
            }
            written
        })
        .await;
        written?;
        self.bytes += length;
        if sync {
            self.synced_bytes = self.bytes;
        }
        Ok(())
    }

    /// Whether something would not survive a power cut.
    pub(super) const fn is_behind(&self) -> bool {
        self.synced_bytes < self.bytes
    }

    /// Takes what was appended to the disk.
    ///
    /// # Errors
    /// When the disk refuses: what the kernel held is in doubt then, and the file of no more use.
    pub(super) async fn sync(&mut self) -> io::Result<()> {
        let (file, bytes) = (Arc::clone(&self.file), self.bytes);
        blocking(move || file.sync_data()).await?;
        self.synced_bytes = bytes;
        Ok(())
    }

    /// See [`replace`].
    ///
    /// # Errors
    /// When the disk refuses.
    pub(super) async fn replaced(&self, frames: Vec<u8>) -> io::Result<Self> {
        let directory = self.directory.clone();
        blocking(move || replace(&directory, &frames)).await
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|panicked| Err(io::Error::other(panicked)))
}
