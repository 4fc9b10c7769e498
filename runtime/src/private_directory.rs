//! A directory that belongs to us alone, and files in it that nobody else had a hand in.
//!
//! Everything goes through one descriptor, opened without following a symlink, so that what was examined is what is used,
//! whatever becomes of the path.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};

const PRIVATE_DIRECTORY: u32 = 0o700;
const PRIVATE_FILE: u32 = 0o600;
const OTHERS: u32 = 0o077;
/// Files looked at; nobody puts more there.
const ENTRIES_MAX: usize = 100_000;

/// The directory, open.
#[derive(Debug)]
pub(crate) struct PrivateDirectory {
    directory: OwnedFd,
    was_open_to_others: bool,
}

/// One file of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    /// Seconds and nanoseconds.
    pub(crate) modified: (i64, i64),
    pub(crate) name: String,
    pub(crate) bytes: u64,
}

fn denied(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

impl PrivateDirectory {
    /// Opens the directory, or makes it. One that others could enter is closed to them.
    ///
    /// # Errors
    /// When it is a symlink, belongs to somebody else, or the operating system refuses.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(PRIVATE_DIRECTORY)
            .create(path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|error| {
            if path.is_symlink() {
                denied("it is a symbolic link, and must be the directory itself".to_owned())
            } else {
                error.into()
            }
        })?;
        let found = rustix::fs::fstat(&directory)?;
        ours(&found)?;
        let was_open_to_others = found.st_mode & OTHERS != 0;
        if was_open_to_others {
            rustix::fs::fchmod(&directory, Mode::from_raw_mode(PRIVATE_DIRECTORY))?;
        }
        Ok(Self {
            directory,
            was_open_to_others,
        })
    }

    /// Whether others could enter when it was opened: then its files may be theirs.
    pub(crate) const fn was_open_to_others(&self) -> bool {
        self.was_open_to_others
    }

    /// The contents of a file.
    ///
    /// # Errors
    /// When it is not there, is larger than `bytes_max`, is no regular file, or not ours alone.
    pub(crate) fn read(&self, name: &str, bytes_max: u64) -> io::Result<Vec<u8>> {
        // Opening a pipe would wait for somebody to write to it.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&self.directory, name, flags, Mode::empty());
        let file = opened.map_err(|error| match error {
            rustix::io::Errno::LOOP => denied("it is a symbolic link".to_owned()),
            other => other.into(),
        })?;
        let found = rustix::fs::fstat(&file)?;
        ours(&found)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Err(denied("it is no regular file".to_owned()));
        }
        if found.st_mode & OTHERS != 0 {
            return Err(denied("others than its owner may use it".to_owned()));
        }
        let mut contents = Vec::new();
        File::from(file)
            .take(bytes_max.saturating_add(1))
            .read_to_end(&mut contents)?;
        if contents.len() as u64 > bytes_max {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        Ok(contents)
    }

    /// Writes a file as `draft` and renames it, so that nobody ever reads half of it.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub(crate) fn write(&self, name: &str, draft: &str, parts: &[&[u8]]) -> io::Result<()> {
        self.remove(draft)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(PRIVATE_FILE);
        let mut file = File::from(rustix::fs::openat(&self.directory, draft, flags, mode)?);
        for part in parts {
            file.write_all(part)?;
        }
        file.sync_data()?;
        Ok(rustix::fs::renameat(
            &self.directory,
            draft,
            &self.directory,
            name,
        )?)
    }

    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.directory, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The files whose names end in `suffix`, in any order.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub(crate) fn entries(&self, suffix: &str) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for found in Dir::read_from(self.directory.as_fd())?.take(ENTRIES_MAX) {
            let found = found?;
            let name = OsStr::from_bytes(found.file_name().to_bytes());
            let Some(name) = name.to_str().filter(|name| name.ends_with(suffix)) else {
                continue;
            };
            match rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => entries.push(Entry {
                    modified: (
                        stat.st_mtime,
                        i64::try_from(stat.st_mtime_nsec).unwrap_or(0),
                    ),
                    name: name.to_owned(),
                    bytes: u64::try_from(stat.st_size).unwrap_or(0),
                }),
                // Somebody else was tidying up, too.
                Err(rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(entries)
    }
}

fn ours(found: &Stat) -> io::Result<()> {
    let us = rustix::process::geteuid().as_raw();
    if found.st_uid == us {
        Ok(())
    } else {
        let owner = found.st_uid;
        Err(denied(format!(
            "it belongs to user {owner}, and this process runs as user {us}"
        )))
    }
}
