//! How the spool is set up.

use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use moorline_core::message::{Qos, StreamId};
use moorline_core::spool::streams::{AfterOutage, StreamSettings};
use moorline_core::spool::{self as core_spool, Keep, Limits, LimitsError};

use super::disk::{Disk, place};
use super::routes::Routes;

/// The stream of what must overtake: replies to RPCs, and whatever a configuration puts there.
pub(super) const URGENT: StreamId = StreamId(0);
/// The stream of everything else.
pub(super) const TELEMETRY: StreamId = StreamId(1);

/// When an append is answered, and what it survives then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// At once; it is in memory only and ends with the process.
    Memory,
    /// When it survives the end of the process; a power cut only after the next group commit.
    Batched,
    /// When it is committed: it survives a power cut.
    Sync,
}

/// What a stream without room does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// It gives up the oldest.
    DropOldest,
    /// It gives up what comes.
    DropNewest,
    /// The fuller it is, the fewer messages of each device it keeps; at last it gives up the oldest.
    ThinOut,
}

/// One stream.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamSetup {
    /// What its place among the others follows from.
    pub stream: StreamSettings,
    /// Bytes of one segment.
    pub segment_bytes: u64,
    /// Bytes of all its files together.
    pub bytes_max: u64,
    /// What happens when they are used up.
    pub full: Full,
    /// What is older is given up; none = never.
    pub age_max: Option<Duration>,
    /// When an append is answered.
    pub durability: Durability,
    /// With which quality of service it is published.
    pub qos: Qos,
}

impl StreamSetup {
    /// A stream of this name and claim with everything else at its default.
    #[must_use]
    pub fn new(name: &str, priority: u8, bytes_max: u64) -> Self {
        Self {
            stream: StreamSettings {
                name: name.into(),
                priority,
                after_outage: AfterOutage::BacklogFirst,
                thin_out: false,
            },
            segment_bytes: 8 * 1024 * 1024,
            bytes_max,
            full: Full::DropOldest,
            age_max: None,
            durability: Durability::Batched,
            qos: Qos::AtLeastOnce,
        }
    }

    pub(super) fn limits(
        &self,
        settings: &SpoolSettings,
        tail_bytes: usize,
    ) -> Result<Limits, LimitsError> {
        let full = match self.full {
            Full::DropNewest => core_spool::Full::DropNewest,
            Full::DropOldest | Full::ThinOut => core_spool::Full::DropOldest,
        };
        let (keep, memory) = match self.durability {
            Durability::Memory => {
                let bytes = usize::try_from(self.bytes_max).unwrap_or(usize::MAX);
                (Keep::InMemory, bytes)
            }
            Durability::Batched | Durability::Sync => (Keep::OnDisk, settings.memory_bytes_max),
        };
        let limits = Limits::new(self.segment_bytes, self.bytes_max, tail_bytes)?;
        Ok(limits
            .in_memory(memory)
            .leaving_free(settings.free_bytes_min)
            .when_full(full)
            .kept(keep))
    }
}

/// How the spool is set up.
#[derive(Clone, Debug, PartialEq)]
pub struct SpoolSettings {
    /// Its directory; made when it is not there. Only one gateway may use it. Each stream has a directory of its own in it.
    pub directory: PathBuf,
    /// The streams, the urgent one and that of telemetry first.
    pub streams: Vec<StreamSetup>,
    /// Which message goes into which.
    pub routes: Routes,
    /// Where what waits for its commit is kept while it may still be acknowledged: a directory on a tmpfs. None, or one
    /// that cannot be used: it is written to segments at once.
    pub window_directory: Option<PathBuf>,
    /// The longest an accepted record waits for its commit.
    pub commit_interval: Duration,
    /// A commit is made earlier when so many bytes wait for it.
    pub commit_bytes: usize,
    /// Or so many records.
    pub commit_records: u64,
    /// Encoded bytes of one stream kept in memory while its medium fails.
    pub memory_bytes_max: usize,
    /// The spool does not grow while fewer bytes are free beside it.
    pub free_bytes_min: u64,
}

impl SpoolSettings {
    /// The two streams every gateway has, in `directory`, everything at its default.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        let mut urgent = StreamSetup::new("urgent", 0, 16 * 1024 * 1024);
        urgent.segment_bytes = 1024 * 1024;
        let telemetry = StreamSetup::new("telemetry", 10, 256 * 1024 * 1024);
        Self {
            directory,
            streams: vec![urgent, telemetry],
            routes: Routes::default(),
            window_directory: Some(PathBuf::from("/dev/shm")),
            commit_interval: Duration::from_millis(50),
            commit_bytes: 1024 * 1024,
            commit_records: 8192,
            memory_bytes_max: 8 * 1024 * 1024,
            free_bytes_min: 16 * 1024 * 1024,
        }
    }

    /// The stream of telemetry, which most settings are about.
    pub fn telemetry_mut(&mut self) -> Option<&mut StreamSetup> {
        self.streams.get_mut(usize::from(TELEMETRY.0))
    }

    /// Where a stream's files are.
    #[must_use]
    pub fn stream_directory(&self, setup: &StreamSetup) -> PathBuf {
        self.directory.join(&*setup.stream.name)
    }

    /// Where dead letters are.
    #[must_use]
    pub fn letters_directory(&self) -> PathBuf {
        self.directory.join("telemetry")
    }

    /// Where the window of the stream in `directory` is, whether or not it is there; none where the directory is not.
    #[must_use]
    pub fn window_path(&self, directory: &Path, stream: &str) -> Option<PathBuf> {
        let parent = self.window_directory.as_ref()?;
        let place = place(&std::fs::metadata(directory).ok()?);
        Some(parent.join(window_name(place, stream)))
    }

    /// Where the window of the stream on `disk` is, whatever its path leads to by now.
    pub(super) fn window_path_of(&self, disk: &Disk, stream: &str) -> Option<PathBuf> {
        let parent = self.window_directory.as_ref()?;
        Some(parent.join(window_name(disk.place()?, stream)))
    }

    /// Takes the window's directories away: everything is committed, and nothing is in them.
    pub(super) fn clear_windows(&self) {
        for setup in &self.streams {
            let path = self.window_path(&self.stream_directory(setup), &setup.stream.name);
            if let Some(path) = path {
                self.clear_window(&path);
            }
        }
    }

    /// Takes one of them away.
    pub(super) fn clear_window(&self, path: &Path) {
        if let Err(error) = std::fs::remove_dir_all(path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::debug!(window = %path.display(), %error, "a window cannot be cleared away");
        }
    }

    /// A directory of the window's for this stream alone, if there is one. `told`: that there is none was said before.
    pub(super) fn window_of(&self, setup: &StreamSetup, disk: &Disk, told: bool) -> Option<Disk> {
        let path = self.window_path(disk.path(), &setup.stream.name)?;
        let opened = make_private(&path).map_err(Some).and_then(|()| {
            // What other users may have put there is none of ours.
            let metadata = std::fs::symlink_metadata(&path).map_err(Some)?;
            let ours = metadata.is_dir() && metadata.uid() == rustix::process::geteuid().as_raw();
            if ours { Ok(()) } else { Err(None) }
        });
        match opened {
            Ok(()) => Disk::open(&path).ok(),
            Err(_) if told => None,
            Err(error) => {
                let why = error.map_or_else(|| "it is not ours".to_owned(), |e| e.to_string());
                tracing::warn!(
                    window = %path.display(),
                    why,
                    "there is no memory that outlives this process: what is accepted is written to the spool at once, and \
                     wears the medium more; set spool.window_dir to a directory on a tmpfs"
                );
                None
            }
        }
    }
}

/// One name for each spool directory: a directory made anew has another inode.
fn window_name((device, inode): (u64, u64), stream: &str) -> String {
    format!("moorline-{device:x}-{inode:x}-{stream}")
}

fn make_private(path: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}
