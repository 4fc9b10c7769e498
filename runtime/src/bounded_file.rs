//! Reading files that somebody else named: a configuration, a secret, a component.
//!
//! What is named may be a pipe nobody writes to, a device that never ends, or larger than memory. None of them may hold
//! the gateway up or eat it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use thiserror::Error;

/// Why a file was not read.
#[derive(Debug, Error)]
pub(crate) enum ReadError {
    /// It is not there, or the operating system refuses.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A directory, a pipe, a device.
    #[error("it is {0}, not a file")]
    NotAFile(&'static str),
    /// Larger than such a file may be.
    #[error("it has more than {bytes_max} bytes, the most such a file may have")]
    TooLarge {
        /// The most that is read.
        bytes_max: u64,
    },
}

/// The contents of the regular file at `path`, if they are at most `bytes_max` bytes. Never waits for a writer.
///
/// # Errors
/// When it cannot be opened or read, is no regular file, or is larger.
pub(crate) fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>, ReadError> {
    // Opening a pipe would wait for somebody to write to it.
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nonblocking)
        .open(path)?;
    read_open(file, bytes_max)
}

/// As [`read`], of a file that was opened so that nothing in it waits.
///
/// # Errors
/// When it cannot be read, is no regular file, or is larger.
pub(crate) fn read_open(file: File, bytes_max: u64) -> Result<Vec<u8>, ReadError> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        let kind = if metadata.is_dir() {
            "a directory"
        } else {
            "a pipe, a socket or a device"
        };
        return Err(ReadError::NotAFile(kind));
    }
    if metadata.len() > bytes_max {
        return Err(ReadError::TooLarge { bytes_max });
    }
    let mut contents = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    // Files of /proc say they are empty: only reading tells.
    file.take(bytes_max.saturating_add(1))
        .read_to_end(&mut contents)?;
    if contents.len() as u64 > bytes_max {
        return Err(ReadError::TooLarge { bytes_max });
    }
    Ok(contents)
}

/// As [`read`], for text.
///
/// # Errors
/// As [`read`], and when it is not UTF-8.
pub(crate) fn read_text(path: &Path, bytes_max: u64) -> Result<String, ReadError> {
    String::from_utf8(read(path, bytes_max)?).map_err(|_not_text| {
        ReadError::Io(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is not UTF-8 text",
        ))
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn what_never_ends_or_never_begins_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, mode).unwrap();
        let begun = Instant::now();
        for path in [Path::new("/dev/zero"), &pipe, directory.path()] {
            let refused = read(path, 1000);
            assert!(
                matches!(refused, Err(ReadError::NotAFile(_))),
                "{}: {refused:?}",
                path.display()
            );
        }
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_file_is_read_up_to_its_bound() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f");
        std::fs::write(&file, "12345").unwrap();
        assert_eq!(read(&file, 5).unwrap(), b"12345");
        assert!(matches!(
            read(&file, 4),
            Err(ReadError::TooLarge { bytes_max: 4 })
        ));
        let missing = read(&directory.path().join("g"), 4);
        assert!(matches!(missing, Err(ReadError::Io(e)) if e.kind() == io::ErrorKind::NotFound));
    }
}
