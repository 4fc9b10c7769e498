//! Says which of some files may have changed. Whether one has, and whether it is whole, is for others to find out.
//!
//! The operating system's notices are only a hint to look: what counts is what the path leads to (device, inode, length,
//! time), so that a rename onto the path, a write in place and a symlink turned elsewhere (as container orchestrators
//! mount configuration) are all seen, and a look every two seconds sees what no notice came for.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A burst of notices costs one look.
const BURST: Duration = Duration::from_millis(10);
const CHANGES_QUEUED: usize = 64;
const NOTICES_QUEUED: usize = 1;

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    /// What is copied with its time, over a file of its length, changes nothing else.
    changed: (i64, i64),
}

impl Fingerprint {
    fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// Watches `paths`; each message is the place of one that changed. Ends when the receiver is dropped.
pub(crate) fn spawn(paths: Vec<PathBuf>) -> mpsc::Receiver<usize> {
    let (changes, receiver) = mpsc::channel(CHANGES_QUEUED);
    let seen = paths.iter().map(|path| Fingerprint::of(path)).collect();
    tokio::spawn(run(paths, seen, changes));
    receiver
}

async fn run(
    paths: Vec<PathBuf>,
    mut seen: Vec<Option<Fingerprint>>,
    changes: mpsc::Sender<usize>,
) {
    let (notices, mut noticed) = mpsc::channel(NOTICES_QUEUED);
    let _watcher = watch_directories(&paths, notices.clone());
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = look.tick() => {}
            _ = noticed.recv() => tokio::time::sleep(BURST).await,
            () = changes.closed() => return,
        }
        for (index, (path, before)) in paths.iter().zip(&mut seen).enumerate() {
            let now = Fingerprint::of(path);
            if now != *before {
                *before = now;
                if changes.send(index).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Notices end when the watcher is dropped. Without it the regular look remains.
fn watch_directories(paths: &[PathBuf], notices: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let on_event = move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !is_read(event.kind)) {
            match notices.try_send(()) {
                // Full: a look is due anyway. Closed: nobody looks any more.
                Ok(()) | Err(_) => {}
            }
        }
    };
    let mut watcher = match notify::recommended_watcher(on_event) {
        Ok(watcher) => watcher,
        Err(error) => {
            tracing::warn!(%error, "files are looked at every two seconds only");
            return None;
        }
    };
    for directory in directories(paths) {
        if let Err(error) = watcher.watch(&directory, RecursiveMode::NonRecursive) {
            tracing::warn!(directory = %directory.display(), %error, "this directory is looked at every two seconds only");
        }
    }
    Some(watcher)
}

/// Where the paths lie and where they lead.
fn directories(paths: &[PathBuf]) -> BTreeSet<PathBuf> {
    let parent = |path: &Path| match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Some(PathBuf::from(".")),
        Some(parent) => Some(parent.to_owned()),
        None => None,
    };
    paths
        .iter()
        .flat_map(|path| {
            [
                parent(path),
                path.canonicalize().ok().and_then(|real| parent(&real)),
            ]
        })
        .flatten()
        .collect()
}

fn is_read(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
        EventKind::Access(_) => true,
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn changed(changes: &mut mpsc::Receiver<usize>) -> usize {
        tokio::time::timeout(Duration::from_secs(10), changes.recv())
            .await
            .unwrap()
            .unwrap()
    }

    #[tokio::test]
    async fn writes_renames_and_turned_symlinks_are_seen() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir(at("v1")).unwrap();
        std::fs::create_dir(at("v2")).unwrap();
        std::fs::write(at("v1/linked.wasm"), b"1").unwrap();
        std::fs::write(at("v2/linked.wasm"), b"22").unwrap();
        std::os::unix::fs::symlink("v1", at("data")).unwrap();
        std::fs::write(at("plain.wasm"), b"1").unwrap();
        let mut changes = spawn(vec![
            at("plain.wasm"),
            at("data/linked.wasm"),
            at("later.wasm"),
        ]);
        tokio::task::yield_now().await;

        std::fs::write(at("plain.wasm"), b"22").unwrap();
        assert_eq!(changed(&mut changes).await, 0);
        std::fs::write(at("beside"), b"333").unwrap();
        std::fs::rename(at("beside"), at("plain.wasm")).unwrap();
        assert_eq!(changed(&mut changes).await, 0);
        std::os::unix::fs::symlink("v2", at("data.new")).unwrap();
        std::fs::rename(at("data.new"), at("data")).unwrap();
        assert_eq!(changed(&mut changes).await, 1);
        std::fs::write(at("later.wasm"), b"1").unwrap();
        assert_eq!(changed(&mut changes).await, 2);
        std::fs::remove_file(at("plain.wasm")).unwrap();
        assert_eq!(changed(&mut changes).await, 0);
    }
}
