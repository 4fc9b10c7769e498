//! A small file system of its own, that can be filled up and can fail. Needs root.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::missing;

/// What it is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Memory.
    Tmpfs,
    /// ext4 on a loop device.
    Ext4,
}

/// What may be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading.
    ReadOnly,
    /// Everything.
    Writable,
}

/// Mounted at a directory; unmounted when dropped.
#[derive(Debug)]
pub struct Volume {
    kind: Kind,
    mount: PathBuf,
    image: PathBuf,
}

/// The file that [`Volume::fill`] fills it with.
const FILLER: &str = "filler";
const CHUNK_BYTES: usize = 64 * 1024;

impl Volume {
    /// Mounts `mib` MiB at `mount`, which is made. None, after saying so, where this machine does not let us mount.
    ///
    /// # Panics
    /// When mounting is not possible and required, or the directories cannot be made.
    #[must_use]
    pub fn mounted(kind: Kind, mib: u64, mount: &Path) -> Option<Self> {
        std::fs::create_dir_all(mount).unwrap();
        let volume = Self {
            kind,
            mount: mount.to_owned(),
            image: mount.with_extension("image"),
        };
        let made = match kind {
            Kind::Tmpfs => Ok(()),
            Kind::Ext4 => std::fs::File::create(&volume.image)
                .and_then(|image| image.set_len(mib << 20))
                .and_then(|()| run(Command::new("mkfs.ext4").arg("-q").arg(&volume.image))),
        };
        match made.and_then(|()| volume.mount(mib)) {
            Ok(()) => Some(volume),
            Err(error) => {
                missing(&format!("the right to mount a {kind:?} ({error})"));
                None
            }
        }
    }

    fn mount(&self, mib: u64) -> io::Result<()> {
        let mut command = Command::new("mount");
        match self.kind {
            Kind::Tmpfs => command
                .args(["-t", "tmpfs", "-o"])
                .arg(format!("size={mib}m"))
                .arg("tmpfs"),
            Kind::Ext4 => command
                .args(["-o", "loop,errors=remount-ro"])
                .arg(&self.image),
        };
        run(command.arg(&self.mount))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Bytes that are free for somebody who is not root.
    ///
    /// # Panics
    /// When the kernel does not say.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        let figures = rustix::fs::statvfs(&self.mount).unwrap();
        figures.f_bavail * figures.f_frsize
    }

    /// Bytes of the files on it, the filler aside.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        let entries = std::fs::read_dir(&self.mount).unwrap();
        entries
            .map(Result::unwrap)
            .filter(|entry| entry.file_name() != FILLER)
            // A file may go between the list and the look.
            .filter_map(|entry| entry.metadata().ok())
            .filter(std::fs::Metadata::is_file)
            .map(|metadata| metadata.len())
            .sum()
    }

    /// Fills it until `leave_bytes` are free.
    ///
    /// # Panics
    /// When it cannot be written for another reason than that it is full.
    pub fn fill(&self, leave_bytes: u64) {
        use std::io::Write as _;
        let mut filler = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.mount.join(FILLER))
            .unwrap();
        let chunk = [0x5a; CHUNK_BYTES];
        while self.free_bytes() > leave_bytes {
            match filler.write_all(&chunk) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Makes it read-only, or writable again. The kernel does so only while no file on it is open for writing.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn remount(&self, access: Access) {
        let options = match access {
            Access::ReadOnly => "remount,ro",
            Access::Writable => "remount,rw",
        };
        run(Command::new("mount").args(["-o", options]).arg(&self.mount)).unwrap();
    }

    /// An error of ext4, as a worn card causes it: from now on everything that is written meets EROFS, also through files
    /// that are open, until [`Volume::replace`]. False where this kernel cannot be asked for one.
    #[must_use]
    pub fn fail(&self) -> bool {
        let mut command = Command::new("findmnt");
        let Ok(output) = command.args(["-no", "SOURCE"]).arg(&self.mount).output() else {
            return false;
        };
        let device = String::from_utf8_lossy(&output.stdout);
        let device = device.trim().rsplit('/').next().unwrap_or_default();
        let trigger = Path::new("/sys/fs/ext4")
            .join(device)
            .join("trigger_fs_error");
        std::fs::write(trigger, "moorline").is_ok()
    }

    /// Mounts a repaired copy in the place of what failed.
    ///
    /// # Panics
    /// When that is not possible.
    pub fn replace(&mut self) {
        run(Command::new("umount").arg("-l").arg(&self.mount)).unwrap();
        let copy = self.image.with_extension("repaired");
        std::fs::copy(&self.image, &copy).unwrap();
        // It ends with 1 when it has repaired something.
        Command::new("e2fsck")
            .args(["-f", "-y"])
            .arg(&copy)
            .output()
            .unwrap();
        self.image = copy;
        self.mount(0).unwrap();
    }

    /// Hides it behind an empty one that can only be read, as if its medium were not there, until [`Volume::uncover`].
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn cover(&self) {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", "ro", "tmpfs"]);
        run(command.arg(&self.mount)).unwrap();
    }

    /// Brings it back.
    ///
    /// # Panics
    /// When it was not hidden.
    pub fn uncover(&self) {
        run(Command::new("umount").arg("-l").arg(&self.mount)).unwrap();
    }

    /// Takes the filler away.
    ///
    /// # Panics
    /// When there is none.
    pub fn make_room(&self) {
        std::fs::remove_file(self.mount.join(FILLER)).unwrap();
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Lazily: a process that is being killed may still hold a file.
        if let Err(error) = run(Command::new("umount").arg("-l").arg(&self.mount)) {
            eprintln!("{} stays mounted: {error}", self.mount.display());
        }
    }
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(words.trim().to_owned()))
}
