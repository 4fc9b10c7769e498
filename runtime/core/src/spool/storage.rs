//! What the spool needs of a place that keeps bytes. Two implementations: the disk of the runtime, and
//! [`sim_storage`](super::sim_storage) which loses power on demand.

use thiserror::Error;

/// Why the storage did not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StorageError {
    /// No space or quota left. Passes by itself when somebody makes room.
    #[error("no space left")]
    Full,
    /// Mounted read-only, or permission is missing.
    #[error("the storage refuses writes")]
    ReadOnly,
    /// The file is not there.
    #[error("no such file")]
    Missing,
    /// Another gateway works there.
    #[error("another gateway works there")]
    InUse,
    /// It holds what another spool wrote, and must not be mixed with ours.
    #[error("it holds another spool")]
    Foreign,
    /// Anything else, with the operating system's error number (0 = unknown).
    #[error("input/output error (os error {0})")]
    Fault(i32),
}

/// A file as [`Storage::list`] finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name inside the spool's directory.
    pub name: String,
    /// Its length.
    pub bytes: u64,
}

/// One directory of files, owned by one spool.
///
/// Writes may be lost by a power cut until [`Storage::sync`] on that file answered; names (creating, renaming,
/// removing) may be lost until [`Storage::sync_names`] answered. After a failed `sync` the fate of everything written
/// since the last good one is unknown for ever: a second `sync` that succeeds proves nothing.
pub trait Storage {
    /// An open file.
    type File;

    /// The files there are.
    ///
    /// # Errors
    /// When the directory cannot be read.
    fn list(&mut self) -> Result<Vec<Listed>, StorageError>;

    /// Makes `name` an empty file, whether or not it existed.
    ///
    /// # Errors
    /// When the storage refuses.
    fn create(&mut self, name: &str) -> Result<Self::File, StorageError>;

    /// Opens an existing file to read and write.
    ///
    /// # Errors
    /// [`StorageError::Missing`] when there is none, or what the storage says.
    fn open(&mut self, name: &str) -> Result<Self::File, StorageError>;

    /// Opens an existing file to read, also where nothing may be written.
    ///
    /// # Errors
    /// [`StorageError::Missing`] when there is none, or what the storage says.
    fn open_read(&mut self, name: &str) -> Result<Self::File, StorageError>;

    /// Writes all of `bytes` at `offset`; after an error any part of them may have been written.
    ///
    /// # Errors
    /// When the storage refuses.
    fn write_at(
        &mut self,
        file: &mut Self::File,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), StorageError>;

    /// Reads at `offset` until `bytes` is full or the file ends, and says how many bytes were read.
    ///
    /// # Errors
    /// When the storage cannot read there.
    fn read_at(
        &mut self,
        file: &mut Self::File,
        offset: u64,
        bytes: &mut [u8],
    ) -> Result<usize, StorageError>;

    /// Makes the contents of `file` survive a power cut.
    ///
    /// # Errors
    /// When the storage could not; never call it on that file again.
    fn sync(&mut self, file: &mut Self::File) -> Result<(), StorageError>;

    /// Makes created, renamed and removed names survive a power cut.
    ///
    /// # Errors
    /// When the storage could not.
    fn sync_names(&mut self) -> Result<(), StorageError>;

    /// Renames a file, replacing `to`.
    ///
    /// # Errors
    /// When the storage refuses.
    fn rename(&mut self, from: &str, to: &str) -> Result<(), StorageError>;

    /// Removes a file.
    ///
    /// # Errors
    /// When the storage refuses.
    fn remove(&mut self, name: &str) -> Result<(), StorageError>;

    /// Bytes that are left for everybody; none where that cannot be told.
    fn free_bytes(&mut self) -> Option<u64>;
}

/// Tries before a read error is believed.
const READ_TRIES: usize = 3;

/// Reads at `offset`, more than once if need be: a start must not put data aside for an error that passes.
pub(crate) fn read_patiently<S: Storage>(
    storage: &mut S,
    file: &mut S::File,
    offset: u64,
    bytes: &mut [u8],
) -> Result<usize, StorageError> {
    let mut outcome = storage.read_at(file, offset, bytes);
    for _ in 1..READ_TRIES {
        if outcome.is_ok() {
            break;
        }
        outcome = storage.read_at(file, offset, bytes);
    }
    outcome
}
