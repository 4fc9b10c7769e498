//! What the kernel counts: bytes this process had written to storage, and bytes the device was given.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::bounded_file;

/// The kernel's unit in `/sys/block/*/stat`, whatever the device's sectors are (Documentation/block/stat.rst).
const SECTOR_BYTES: u64 = 512;
/// Sectors written are the seventh number.
const SECTORS_WRITTEN: usize = 6;
/// None of these files is longer.
const FILE_BYTES_MAX: u64 = 4096;

const PROCESS_FILE: &str = "/proc/self/io";
const BOOT_FILE: &str = "/proc/sys/kernel/random/boot_id";

/// Bytes this process caused to be written to storage since it started, without those that were taken back before they
/// were written (proc_pid_io(5)): pages and folios that it dirtied, as a whole.
pub(super) fn process_bytes() -> io::Result<u64> {
    let text = text(Path::new(PROCESS_FILE))?;
    let of = |name: &str| {
        let mut lines = text.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")?.parse().ok())
    };
    let written: u64 = of("write_bytes").ok_or(io::ErrorKind::InvalidData)?;
    Ok(written.saturating_sub(of("cancelled_write_bytes").unwrap_or(0)))
}

/// Names this boot of the machine: a device's counter begins with it.
pub(super) fn boot() -> String {
    text(Path::new(BOOT_FILE)).map_or_else(|_| String::new(), |text| text.trim().to_owned())
}

/// A block device as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    /// As the kernel names it.
    pub(super) name: String,
    stat: PathBuf,
}

impl Device {
    /// The device that holds `path`; none where that is no block device of its own: a file system in memory, on a network,
    /// or over several devices.
    pub(super) fn under(path: &Path) -> Option<Self> {
        let number = std::fs::metadata(path).ok()?.dev();
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        Self::at(&PathBuf::from(format!("/sys/dev/block/{major}:{minor}")))
    }

    fn at(link: &Path) -> Option<Self> {
        let mut place = std::fs::canonicalize(link).ok()?;
        // A partition wears the device it is a part of.
        if place.join("partition").is_file() {
            place.pop();
        }
        let device = Self {
            name: place.file_name()?.to_str()?.to_owned(),
            stat: place.join("stat"),
        };
        device.bytes().ok().map(|_bytes| device)
    }

    /// Bytes it was given to write since the machine started, by anybody.
    pub(super) fn bytes(&self) -> io::Result<u64> {
        let text = text(&self.stat)?;
        let sectors = text.split_ascii_whitespace().nth(SECTORS_WRITTEN);
        let sectors: Option<u64> = sectors.and_then(|sectors| sectors.parse().ok());
        Ok(sectors
            .ok_or(io::ErrorKind::InvalidData)?
            .saturating_mul(SECTOR_BYTES))
    }
}

fn text(path: &Path) -> io::Result<String> {
    let bytes = bounded_file::read(path, FILE_BYTES_MAX).map_err(io::Error::other)?;
    String::from_utf8(bytes).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_counts_for_its_device() {
        let directory = tempfile::tempdir().unwrap();
        let part = directory.path().join("sda/sda1");
        std::fs::create_dir_all(&part).unwrap();
        std::fs::write(part.join("partition"), "1\n").unwrap();
        std::fs::write(part.join("stat"), "1 2 3 4 5 6 7 8 9 10 11\n").unwrap();
        let whole = "  100  2  300  4  50  60  70  8  9 10 11 0 0 0 0 0 0\n";
        std::fs::write(directory.path().join("sda/stat"), whole).unwrap();
        let device = Device::at(&part).unwrap();
        assert_eq!(device.name, "sda");
        assert_eq!(device.bytes().unwrap(), 70 * 512);
        std::fs::write(directory.path().join("sda/stat"), "nothing\n").unwrap();
        assert_eq!(Device::at(&part), None);
    }

    #[test]
    fn this_process_is_counted() {
        let before = process_bytes().unwrap();
        let file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        std::fs::write(file.path(), vec![7; 1 << 20]).unwrap();
        assert!(process_bytes().unwrap() >= before + (1 << 20));
    }
}
