//! A file that is there while the link runs: found at start, the process before this one died without closing.

use std::fs;
use std::io;
use std::path::PathBuf;

use tracing::warn;

const FILE: &str = "link.running";

/// Laid at start, removed by a stop in good order.
#[derive(Debug)]
pub(super) struct BootMarker {
    path: PathBuf,
}

impl BootMarker {
    /// Lays the marker; true when one lay there already. A directory that cannot be written costs only this knowledge.
    pub(super) fn lay(directory: &std::path::Path) -> (Self, bool) {
        let path = directory.join(FILE);
        let unclean = path.exists();
        let laid = fs::create_dir_all(directory)
            .and_then(|()| fs::write(&path, std::process::id().to_string()));
        if let Err(error) = laid {
            warn!(path = %path.display(), %error, "an unclean stop of this process will not be noticed by the next");
        }
        (Self { path }, unclean)
    }

    pub(super) fn remove(self) {
        match fs::remove_file(&self.path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                warn!(path = %self.path.display(), %error, "the marker of a running link stays")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_stop_in_good_order_leaves_nothing_behind() {
        let directory = tempfile::tempdir().expect("a directory");
        let (_dead, unclean) = BootMarker::lay(directory.path());
        assert!(!unclean);
        let (marker, unclean) = BootMarker::lay(directory.path());
        assert!(unclean);
        marker.remove();
        assert!(!BootMarker::lay(directory.path()).1);
    }
}
