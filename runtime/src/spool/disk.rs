//! The spool's storage on a directory of the file system.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use moorline_core::spool::storage::{Listed, Storage, StorageError};
use thiserror::Error;

const LOCK_NAME: &str = "lock";

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

/// A directory, locked for as long as this lives. The lock goes with the process, however it ends.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
    directory: File,
    _lock: File,
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
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join(LOCK_NAME))
            .map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                directory,
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(DirectoryError::InUse {
                directory: path.to_owned(),
            }),
            Err(TryLockError::Error(source)) => Err(unusable(source)),
        }
    }
}

impl Disk {
    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Storage for Disk {
    type File = File;

    fn list(&mut self) -> Result<Vec<Listed>, StorageError> {
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
        let path = self.path.join(name);
        OpenOptions::new()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(path)
            .map_err(|e| translate(&e))
    }

    fn open(&mut self, name: &str) -> Result<File, StorageError> {
        let path = self.path.join(name);
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|e| translate(&e))
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

    fn sync(&mut self, file: &mut File) -> Result<(), StorageError> {
        file.sync_data().map_err(|e| translate(&e))
    }

    fn sync_names(&mut self) -> Result<(), StorageError> {
        self.directory.sync_all().map_err(|e| translate(&e))
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), StorageError> {
        std::fs::rename(self.path.join(from), self.path.join(to)).map_err(|e| translate(&e))
    }

    fn remove(&mut self, name: &str) -> Result<(), StorageError> {
        std::fs::remove_file(self.path.join(name)).map_err(|e| translate(&e))
    }

    fn free_bytes(&mut self) -> Option<u64> {
        let space = rustix::fs::fstatvfs(&self.directory).ok()?;
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
