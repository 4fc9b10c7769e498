//! The directories that an instance may write. One thread does all its writing, one thing at a time, and knows how much is there:
//! so the bound holds whatever streams and calls do at once, and a medium that hangs holds up nobody else. It outlasts the guests:
//! what the one before had under way is done before the next one writes.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use moorline_core::confine::{Limit, Quota};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::io::Errno;
use tokio::sync::{mpsc, oneshot};

use super::grants::Sandbox;
use super::meter::Meter;
use crate::clock;

/// What may be under way beside a write of each descriptor.
const JOBS_QUEUED_MORE: usize = 16;
/// How a directory is opened to be looked through.
const OF_DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);
/// After so much of a place in the file system no more of it is shown.
const PLACE_BYTES_SHOWN: usize = 200;

/// Why nothing, or not all, was written.
#[derive(Debug)]
pub(crate) enum Unwritten {
    /// The guest's share is used up.
    Full(Limit),
    /// The medium, or whoever else answers for it.
    Medium(io::Error),
}

impl From<Limit> for Unwritten {
    fn from(limit: Limit) -> Self {
        Self::Full(limit)
    }
}

impl From<io::Error> for Unwritten {
    fn from(error: io::Error) -> Self {
        Self::Medium(error)
    }
}

type Job = Box<dyn FnOnce(&mut Owner) + Send>;

/// A file, whatever it is called: as `wasi:filesystem` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId(pub(crate) u64, pub(crate) u64);

/// An instance's way to the thread that writes for it.
pub(crate) struct Directories {
    desk: Desk,
    /// Another guest has begun: what is there is counted before anything else.
    anew: bool,
    /// Files that were opened, and whether somebody has them open still.
    open: Vec<(FileId, Weak<File>)>,
}

impl Directories {
    /// None where nothing may be written.
    pub(crate) fn spawn(instance: &str, sandbox: &Sandbox) -> Option<Self> {
        let paths: Vec<PathBuf> = sandbox
            .writable_directories()
            .map(|directory| directory.host)
            .collect();
        if paths.is_empty() {
            return None;
        }
        let limits = &sandbox.limits;
        let (jobs, queue) = mpsc::channel(limits.descriptors.saturating_add(JOBS_QUEUED_MORE));
        let owner = Owner {
            quota: Quota::new(limits.directory_bytes, limits.directory_entries),
            instance: instance.to_owned(),
            paths,
            uncounted: false,
        };
        let thread = std::thread::Builder::new()
            .name("directories".into())
            .spawn(move || owner.run(queue));
        match thread {
            Ok(_handle) => Some(Self {
                desk: Desk { jobs },
                anew: true,
                open: Vec::new(),
            }),
            Err(error) => {
                tracing::error!(instance, %error, "no thread to write the plugin's directories with: it can only read them");
                None
            }
        }
    }

    /// Another guest begins. The one before is gone, and whatever it had open.
    pub(crate) fn begin(&mut self) {
        self.anew = true;
    }

    /// Where its writing is handed in.
    pub(crate) fn desk(&mut self) -> io::Result<Desk> {
        if self.anew {
            self.desk.send(Box::new(Owner::count))?;
            self.anew = false;
        }
        Ok(self.desk.clone())
    }

    /// Somebody has opened this file.
    pub(crate) fn opened(&mut self, id: FileId, file: &Arc<File>) {
        self.open.retain(|(_, file)| file.strong_count() > 0);
        self.open.push((id, Arc::downgrade(file)));
    }

    /// A file that is open takes up its room when it has lost its name.
    pub(crate) fn is_open(&self, id: FileId) -> bool {
        let mut open = self.open.iter();
        open.any(|(other, file)| *other == id && file.strong_count() > 0)
    }
}

/// Hands in what is to be written.
#[derive(Clone)]
pub(crate) struct Desk {
    jobs: mpsc::Sender<Job>,
}

impl Desk {
    fn send(&self, job: Job) -> io::Result<()> {
        self.jobs.try_send(job).map_err(|_full_or_gone| {
            io::Error::new(io::ErrorKind::ResourceBusy, "writing does not end")
        })
    }

    /// Does `work` when everything before it is done. The thread's time counts as that of the call under way, or the next:
    /// whoever does not wait for it pays as well.
    pub(crate) fn hand_in<T: Send + 'static>(
        &self,
        meter: Arc<Meter>,
        work: impl FnOnce(&mut Quota) -> Result<T, Unwritten> + Send + 'static,
    ) -> Result<UnderWay<T>, Unwritten> {
        let (reply, done) = oneshot::channel();
        self.send(Box::new(move |owner| {
            let began = clock::of_thread();
            let result = work(&mut owner.quota);
            meter.charge(clock::of_thread().saturating_sub(began));
            match reply.send(owner.judge(result)) {
                // The guest that wanted it is gone.
                Ok(()) | Err(_) => {}
            }
        }))?;
        Ok(UnderWay { done })
    }
}

/// Work that was handed in.
pub(crate) struct UnderWay<T> {
    done: oneshot::Receiver<Result<T, Unwritten>>,
}

impl<T> Future for UnderWay<T> {
    type Output = Result<T, Unwritten>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let done = Pin::new(&mut self.done).poll(context);
        done.map(|done| done.map_err(io::Error::other)?)
    }
}

/// The thread's side.
struct Owner {
    quota: Quota,
    instance: String,
    paths: Vec<PathBuf>,
    /// Nobody knows what is there: that exceeds no limit.
    uncounted: bool,
}

impl Owner {
    fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        while let Some(job) = queue.blocking_recv() {
            job(&mut self);
        }
    }

    /// What was not counted leaves no room, whatever the limits are.
    fn judge<T>(&self, result: Result<T, Unwritten>) -> Result<T, Unwritten> {
        match result {
            Err(Unwritten::Full(_)) if self.uncounted => Err(Unwritten::Medium(Errno::IO.into())),
            judged => judged,
        }
    }

    /// Counts what is there, as far as it may be there. Links are counted and not followed.
    fn count(&mut self) {
        self.uncounted = false;
        self.quota.empty();
        for path in &self.paths {
            let mut walk = Walk::default();
            match walk.count(path, &mut self.quota) {
                Ok(true) => {}
                Ok(false) => return,
                // The guest was started without it.
                Err(error) if error.kind() == io::ErrorKind::NotFound && walk.levels.is_empty() => {
                }
                Err(error) => {
                    let (instance, directory) = (&*self.instance, walk.place(path));
                    tracing::error!(
                        instance, directory, %error,
                        "what is in a directory of the plugin cannot be counted: it can write nothing until that is mended and it \
                         is started anew"
                    );
                    self.uncounted = true;
                    return self.quota.uncountable();
                }
            }
        }
    }
}

/// On the way through a directory, from each directory into the next. By whole paths there is an end at `PATH_MAX`, and a guest
/// can move directories into one another beyond it; a descriptor for each level would be as many as the guest likes.
#[derive(Default)]
struct Walk {
    levels: Vec<Level>,
}

/// A directory that was looked through, and is again on the way back.
struct Level {
    name: CString,
    /// Which one it is: somebody else may move what lies below it.
    id: (u64, u64),
    /// The directories in it that were not gone into yet.
    waiting: Vec<CString>,
}

impl Walk {
    /// False when there is more than may be.
    fn count(&mut self, path: &Path, quota: &mut Quota) -> io::Result<bool> {
        let mut here = openat(CWD, path, OF_DIRECTORY, Mode::empty())?;
        if !self.enter(&here, CString::default(), quota)? {
            return Ok(false);
        }
        while let Some(level) = self.levels.last_mut() {
            if let Some(name) = level.waiting.pop() {
                let flags = OF_DIRECTORY | OFlags::NOFOLLOW;
                here = match openat(&here, &*name, flags, Mode::empty()) {
                    // Somebody else has taken it away meanwhile, or put something else there.
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                    opened => opened?,
                };
                if !self.enter(&here, name, quota)? {
                    return Ok(false);
                }
                continue;
            }
            self.levels.pop();
            let Some(above) = self.levels.last() else {
                break;
            };
            here = openat(&here, c"..", OF_DIRECTORY, Mode::empty())?;
            if above.id != id(&fstat(&here)?) {
                return Err(io::Error::other("it is being moved"));
            }
        }
        Ok(true)
    }

    /// Counts what lies in this directory itself.
    fn enter(&mut self, here: &OwnedFd, name: CString, quota: &mut Quota) -> io::Result<bool> {
        let mut level = Level {
            name,
            id: id(&fstat(here)?),
            waiting: Vec::new(),
        };
        for entry in Dir::read_from(here)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let found = match statat(here, name, AtFlags::SYMLINK_NOFOLLOW) {
                // Somebody else has taken it away meanwhile.
                Err(Errno::NOENT) => continue,
                found => found?,
            };
            let is_dir = FileType::from_raw_mode(found.st_mode).is_dir();
            let length = u64::try_from(found.st_size).unwrap_or(u64::MAX);
            if !quota.found(if is_dir { 0 } else { length }) {
                return Ok(false);
            }
            if is_dir {
                level.waiting.push(name.to_owned());
            }
        }
        self.levels.push(level);
        Ok(true)
    }

    /// Where it is; its beginning, where that is long.
    fn place(&self, path: &Path) -> String {
        let mut place = path.display().to_string();
        for level in self.levels.iter().skip(1) {
            if place.len() > PLACE_BYTES_SHOWN {
                place.push_str("/…");
                break;
            }
            place.push('/');
            place.push_str(&level.name.to_string_lossy());
        }
        place
    }
}

fn id(found: &Stat) -> (u64, u64) {
    (found.st_dev, found.st_ino)
}

/// Where a write begins.
#[derive(Clone, Copy, Debug)]
pub(crate) enum At {
    Offset(u64),
    End,
}

/// Writes once, and says how much of it the medium took.
pub(crate) fn write(
    quota: &mut Quota,
    file: &File,
    bytes: &[u8],
    at: At,
) -> Result<usize, Unwritten> {
    if bytes.is_empty() {
        return Ok(0);
    }
    let length = file.metadata()?.len();
    let offset = match at {
        At::Offset(offset) => offset,
        At::End => length,
    };
    let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let end = offset.saturating_add(count).max(length);
    quota.reach(length, end)?;
    let written = file.write_at(bytes, offset);
    settle(quota, file, end);
    Ok(written?)
}

/// Writes all of it, and says how much that was.
pub(crate) fn write_all(
    quota: &mut Quota,
    file: &File,
    mut bytes: &[u8],
    mut at: At,
) -> Result<u64, Unwritten> {
    let mut total = 0;
    while !bytes.is_empty() {
        let written = match write(quota, file, bytes, at) {
            Err(Unwritten::Medium(error)) if error.kind() == io::ErrorKind::Interrupted => continue,
            Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
            written => written?,
        };
        bytes = bytes.get(written..).unwrap_or_default();
        let written = u64::try_from(written).unwrap_or(u64::MAX);
        total += written;
        if let At::Offset(offset) = &mut at {
            *offset += written;
        }
    }
    Ok(total)
}

/// Cuts it, or makes it longer by a hole, which counts like what is written.
pub(crate) fn set_length(quota: &mut Quota, file: &File, wanted: u64) -> Result<(), Unwritten> {
    let length = file.metadata()?.len();
    let end = wanted.max(length);
    quota.reach(length, end)?;
    let set = file.set_len(wanted);
    settle(quota, file, end);
    Ok(set?)
}

fn settle(quota: &mut Quota, file: &File, end: u64) {
    // If it does not tell, it may have taken everything.
    if let Ok(found) = file.metadata() {
        quota.settle(end, found.len());
    }
}

#[cfg(test)]
mod tests {
    use moorline_core::confine::Used;

    use super::*;
    use crate::plugins::{DirectoryGrant, Grants, Limits};

    #[test]
    fn a_medium_that_is_full_says_so_and_costs_no_room() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut quota = Quota::new(100, 1);
        for at in [At::Offset(10), At::End] {
            let refused = write_all(&mut quota, &full, b"text", at).unwrap_err();
            let Unwritten::Medium(error) = refused else {
                panic!("{refused:?}");
            };
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
            assert_eq!(quota.used(), Used::default());
        }
    }

    #[tokio::test]
    async fn what_many_streams_write_at_once_is_bounded_together() {
        let directory = tempfile::tempdir().unwrap();
        let sandbox = Sandbox {
            limits: Limits {
                directory_bytes: 1_000,
                ..Limits::default()
            },
            grants: Grants {
                writable_directories: vec![DirectoryGrant {
                    guest: "/data".to_owned(),
                    host: directory.path().to_owned(),
                }],
                ..Grants::default()
            },
            ..Sandbox::default()
        };
        let file = Arc::new(File::create(directory.path().join("file")).unwrap());
        let mut directories = Directories::spawn("line", &sandbox).unwrap();
        let desk = directories.desk().unwrap();
        let under_way: Vec<_> = (0..64)
            .map(|number| {
                let file = file.clone();
                // Half of them the same bytes.
                let at = At::Offset(number / 2 * 70);
                desk.hand_in(Arc::new(Meter::alone(1)), move |quota| {
                    write_all(quota, &file, &[b'x'; 70], at)
                })
                .unwrap()
            })
            .collect();
        let (mut written, mut refused) = (0, 0);
        for one in under_way {
            match one.await {
                Ok(count) => written += count,
                Err(Unwritten::Full(limit)) => {
                    assert_eq!(limit, Limit::DirectoryBytes);
                    refused += 1;
                }
                Err(Unwritten::Medium(error)) => panic!("{error}"),
            }
        }
        assert_eq!((written, refused), (28 * 70, 36));
        assert_eq!(file.metadata().unwrap().len(), 980);
        // Another guest finds it there.
        directories.begin();
        let counted = directories.desk().unwrap();
        let counted = counted.hand_in(Arc::new(Meter::alone(1)), |quota| Ok(quota.used()));
        let used = counted.unwrap().await.unwrap();
        assert_eq!((used.bytes, used.entries), (980, 1));
    }

    fn sandbox(directory: &Path) -> Sandbox {
        let grant = DirectoryGrant {
            guest: "/data".to_owned(),
            host: directory.to_owned(),
        };
        Sandbox {
            grants: Grants {
                writable_directories: vec![grant],
                ..Grants::default()
            },
            ..Sandbox::default()
        }
    }

    #[tokio::test]
    async fn a_tree_is_counted_however_deep_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let name = "d".repeat(200);
        let mut below = openat(CWD, directory.path(), OF_DIRECTORY, Mode::empty()).unwrap();
        for _level in 0..50 {
            rustix::fs::mkdirat(&below, &*name, Mode::RWXU).unwrap();
            let beside = openat(&below, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RWXU);
            File::from(beside.unwrap()).write_at(b"text", 0).unwrap();
            below = openat(&below, &*name, OF_DIRECTORY, Mode::empty()).unwrap();
        }
        let mut directories = Directories::spawn("line", &sandbox(directory.path())).unwrap();
        let counted = directories.desk().unwrap();
        let counted = counted.hand_in(Arc::new(Meter::alone(1)), |quota| Ok(quota.used()));
        let used = counted.unwrap().await.unwrap();
        assert_eq!((used.bytes, used.entries), (200, 100));
    }

    #[tokio::test]
    async fn what_cannot_be_counted_exceeds_no_limit() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("data");
        std::fs::write(&place, "no directory").unwrap();
        let mut directories = Directories::spawn("line", &sandbox(&place)).unwrap();
        let desk = directories.desk().unwrap();
        let refused = desk.hand_in(Arc::new(Meter::alone(1)), |quota| Ok(quota.add_entry()?));
        let refused = refused.unwrap().await.unwrap_err();
        let Unwritten::Medium(error) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(error.raw_os_error(), Some(Errno::IO.raw_os_error()));
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_is_charged() {
        let directory = tempfile::tempdir().unwrap();
        let mut directories = Directories::spawn("line", &sandbox(directory.path())).unwrap();
        let desk = directories.desk().unwrap();
        let meter = Arc::new(Meter::alone(1));
        let work = std::time::Duration::from_millis(20);
        let dropped = desk.hand_in(meter.clone(), move |_quota| {
            let began = clock::of_thread();
            while clock::of_thread() < began + work {}
            Ok(())
        });
        drop(dropped.unwrap());
        let after = desk.hand_in(Arc::new(Meter::alone(1)), |_quota| Ok(()));
        after.unwrap().await.unwrap();
        assert!(meter.running() >= work, "{:?}", meter.running());
    }
}
