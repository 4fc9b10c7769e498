//! The spool's storage on a directory of the file system.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use moorline_core::spool::storage::{Listed, Storage, StorageError};
use thiserror::Error;

use crate::medium;

/// Locked beside the directory itself, where it can be opened.
pub(crate) const LOCK_NAME: &str = "lock";

/// Why a directory cannot be a spool's.
#[derive(Debug, Error)]
pub enum DirectoryError {
    /// Another process (or another spool of this one) works there.
    #[error("the spool directory {} is in use by another gateway", directory.display())]
    InUse {
        /// The directory.
        directory: PathBuf,
    },
    /// It cannot be made or opened.
    #[error("the spool directory {} cannot be used: {source}", directory.display())]
    Unusable {
        /// The directory.
        directory: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
}

impl DirectoryError {
    /// What is wrong with the medium, if that is to blame: a gateway goes on in memory until it works. None where only a
    /// person can help: another gateway, a configuration that names a file, missing permission.
    #[must_use]
    pub fn medium_fault(&self) -> Option<StorageError> {
        match self {
            Self::InUse { .. } => None,
            Self::Unusable { source, .. } => medium::is_at_fault(source).then(|| translate(source)),
        }
    }
}

/// A directory, locked for as long as this or a clone of it lives. The lock goes with the process, however it ends.
///
/// Locked is the directory itself, which needs no right to write, and a file in it, where one can be opened: not every file
/// system locks directories.
#[derive(Clone, Debug)]
pub struct Disk {
    path: PathBuf,
    /// None: it could not be opened.
    held: Option<Arc<Held>>,
}

#[derive(Debug)]
struct Held {
    directory: File,
    _lock: Option<File>,
    place: (u64, u64),
}

impl Disk {
    /// Makes the directory if it is not there, and locks it.
    ///
    /// # Errors
    /// When it cannot be made or opened, or another spool works there.
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        let unusable = |source| DirectoryError::Unusable {
            directory: path.to_owned(),
            source,
        };
        std::fs::create_dir_all(path).map_err(unusable)?;
        let directory = File::open(path).map_err(unusable)?;
        let place = place(&directory.metadata().map_err(unusable)?);
        let whole = lock(&directory, path);
        if let Err(in_use @ DirectoryError::InUse { .. }) = whole {
            return Err(in_use);
        }
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join(LOCK_NAME));
        let file = match (file, whole) {
            (Ok(file), whole) => {
                // Where directories cannot be locked, as on NFS, the file must be.
                match (lock(&file, path), whole) {
                    (Err(in_use @ DirectoryError::InUse { .. }), _) => return Err(in_use),
                    (Err(_), Err(error)) => return Err(error),
                    (Ok(()), _) | (Err(_), Ok(())) => Some(file),
                }
            }
            // Nothing can be written: two readers would do no harm, but the lock is held before it becomes writable.
            (Err(error), Ok(())) if medium::is_at_fault(&error) => None,
            (Err(error), Ok(())) => return Err(unusable(error)),
            (Err(_), Err(error)) => return Err(error),
        };
        Ok(Self {
            path: path.to_owned(),
            held: Some(Arc::new(Held {
                directory,
                _lock: file,
                place,
            })),
        })
    }

    /// A directory that could not be opened: everything is refused.
    #[must_use]
    pub fn absent(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            held: None,
        }
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Device and inode of what is held.
    pub(super) fn place(&self) -> Option<(u64, u64)> {
        self.held.as_ref().map(|held| held.place)
    }

    /// Whether the path leads to a directory that is not the one that is held: it was made anew, or something was mounted.
    #[must_use]
    pub fn is_elsewhere(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|found| Some(place(&found)) != self.place())
    }

    fn file(&self, name: &str) -> Result<PathBuf, StorageError> {
        self.held()?;
        Ok(self.path.join(name))
    }

    fn held(&self) -> Result<&Held, StorageError> {
        self.held.as_deref().ok_or(StorageError::Missing)
    }
}

/// Device and inode: what a directory is, wherever it is found.
pub(super) fn place(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn lock(file: &File, directory: &Path) -> Result<(), DirectoryError> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => DirectoryError::InUse {
            directory: directory.to_owned(),
        },
        TryLockError::Error(source) => DirectoryError::Unusable {
            directory: directory.to_owned(),
            source,
        },
    })
}

/// Reads at `offset` until `bytes` is full or the file ends, and says how many bytes were read.
///
/// # Errors
/// When the file cannot be read there.
pub(crate) fn read_at(file: &File, offset: u64, bytes: &mut [u8]) -> Result<usize, StorageError> {
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(translate(&error)),
        }
    }
    Ok(filled)
}

impl Storage for Disk {
    type File = File;

    fn list(&mut self) -> Result<Vec<Listed>, StorageError> {
        self.held()?;
        let mut listed = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(|e| translate(&e))? {
            let entry = entry.map_err(|e| translate(&e))?;
            let bytes = entry.metadata().map_err(|e| translate(&e))?.len();
            if let Ok(name) = entry.file_name().into_string() {
                listed.push(Listed { name, bytes });
            }
        }
        Ok(listed)
    }

    fn create(&mut self, name: &str) -> Result<File, StorageError> {
        let path = self.file(name)?;
        OpenOptions::new()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(path)
            .map_err(|e| translate(&e))
    }

    fn open(&mut self, name: &str) -> Result<File, StorageError> {
        let path = self.file(name)?;
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|e| translate(&e))
    }

    fn open_read(&mut self, name: &str) -> Result<File, StorageError> {
        File::open(self.file(name)?).map_err(|e| translate(&e))
    }

    fn write_at(&mut self, file: &mut File, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        file.write_all_at(bytes, offset).map_err(|e| translate(&e))
    }

    fn read_at(
        &mut self,
        file: &mut File,
        offset: u64,
        bytes: &mut [u8],
    ) -> Result<usize, StorageError> {
        read_at(file, offset, bytes)
    }

    fn sync(&mut self, file: &mut File) -> Result<(), StorageError> {
        file.sync_data().map_err(|e| translate(&e))
    }

    fn sync_names(&mut self) -> Result<(), StorageError> {
        self.held()?.directory.sync_all().map_err(|e| translate(&e))
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), StorageError> {
        std::fs::rename(self.file(from)?, self.file(to)?).map_err(|e| translate(&e))
    }

    fn remove(&mut self, name: &str) -> Result<(), StorageError> {
        std::fs::remove_file(self.file(name)?).map_err(|e| translate(&e))
    }

    fn free_bytes(&mut self) -> Option<u64> {
        let space = rustix::fs::fstatvfs(&self.held().ok()?.directory).ok()?;
        Some(space.f_bavail.saturating_mul(space.f_frsize))
    }
}

#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "ErrorKind is not ours and grows"
)]
pub(crate) fn translate(error: &io::Error) -> StorageError {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            StorageError::Full
        }
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => StorageError::ReadOnly,
        ErrorKind::NotFound => StorageError::Missing,
        _ => StorageError::Fault(error.raw_os_error().unwrap_or(0)),
    }
}
