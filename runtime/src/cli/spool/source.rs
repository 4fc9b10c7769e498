//! The spool's directory, read only and without its lock.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use moorline_core::spool::storage::{Listed, Storage, StorageError};
use thiserror::Error;

use crate::spool::disk::{read_at, translate};

/// Why a spool cannot be looked at.
#[derive(Debug, Error)]
pub(super) enum Trouble {
    /// A directory cannot be listed.
    #[error("{}: {source}", directory.display())]
    Directory {
        directory: PathBuf,
        source: io::Error,
    },
    /// Its files cannot be opened.
    #[error("{}: {source}", directory.display())]
    Storage {
        directory: PathBuf,
        source: StorageError,
    },
    /// What was read cannot be written.
    #[error("{target} cannot be written: {source}")]
    Target { target: String, source: io::Error },
}

/// One stream: a directory with segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stream {
    pub(super) name: String,
    pub(super) directory: PathBuf,
}

impl Stream {
    pub(super) fn trouble(&self, source: StorageError) -> Trouble {
        Trouble::Storage {
            directory: self.directory.clone(),
            source,
        }
    }
}

/// The streams below the spool's directory; none where no gateway ever ran.
pub(super) fn streams(spool: &Path) -> Result<Vec<Stream>, Trouble> {
    let trouble = |source| Trouble::Directory {
        directory: spool.to_owned(),
        source,
    };
    let entries = match std::fs::read_dir(spool) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(trouble(error)),
    };
    let mut streams = Vec::new();
    for entry in entries {
        let directory = entry.map_err(trouble)?.path();
        let name = directory.file_name().and_then(|name| name.to_str());
        if let Some(name) = name.filter(|_| directory.is_dir() && holds_a_stream(&directory)) {
            streams.push(Stream {
                name: name.to_owned(),
                directory: directory.clone(),
            });
        }
    }
    streams.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(streams)
}

fn holds_a_stream(directory: &Path) -> bool {
    let mut names = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name());
    names.any(|name| {
        let name = name.to_string_lossy();
        name == "cursor" || name.ends_with(".segment")
    })
}

/// The directory as the spool's storage, of which only the reading half works.
#[derive(Debug)]
pub(super) struct Source(PathBuf);

impl Source {
    pub(super) fn new(directory: &Path) -> Self {
        Self(directory.to_owned())
    }
}

impl Storage for Source {
    type File = File;

    fn list(&mut self) -> Result<Vec<Listed>, StorageError> {
        let mut listed = Vec::new();
        for entry in std::fs::read_dir(&self.0).map_err(|e| translate(&e))? {
            let entry = entry.map_err(|e| translate(&e))?;
            // Gone since: it belongs to somebody who works.
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                let bytes = metadata.len();
                listed.push(Listed { name, bytes });
            }
        }
        Ok(listed)
    }

    fn open(&mut self, name: &str) -> Result<File, StorageError> {
        File::open(self.0.join(name)).map_err(|e| translate(&e))
    }

    fn open_read(&mut self, name: &str) -> Result<File, StorageError> {
        self.open(name)
    }

    fn read_at(
        &mut self,
        file: &mut File,
        offset: u64,
        bytes: &mut [u8],
    ) -> Result<usize, StorageError> {
        read_at(file, offset, bytes)
    }

    fn free_bytes(&mut self) -> Option<u64> {
        None
    }

    fn create(&mut self, _name: &str) -> Result<File, StorageError> {
        Err(StorageError::ReadOnly)
    }

    fn write_at(&mut self, _: &mut File, _: u64, _: &[u8]) -> Result<(), StorageError> {
        Err(StorageError::ReadOnly)
    }

    fn sync(&mut self, _file: &mut File) -> Result<(), StorageError> {
        Err(StorageError::ReadOnly)
    }

    fn sync_names(&mut self) -> Result<(), StorageError> {
        Err(StorageError::ReadOnly)
    }

    fn rename(&mut self, _from: &str, _to: &str) -> Result<(), StorageError> {
        Err(StorageError::ReadOnly)
    }

    fn remove(&mut self, _name: &str) -> Result<(), StorageError> {
        Err(StorageError::ReadOnly)
    }
}
