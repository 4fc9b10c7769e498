//! The files of all instances' state, for backups. A running gateway replaces each as a whole, so that what is read here is
//! always what was kept after some call.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use moorline_core::plugin_state::Entries;
use rustix::fs::{Gid, Uid, chown};

use super::host::{Replacement, StateTrouble, instance_of, read_state};

/// The instances that have kept anything, with what they keep.
pub(crate) type StateFiles = BTreeMap<String, Result<Entries, StateTrouble>>;

/// Where the gateway with this state directory has them.
pub(crate) fn state_directory(state_dir: &Path) -> PathBuf {
    state_dir.join("plugins")
}

/// Reads all that the gateway with this state directory has. One that cannot be read does not hide the others.
///
/// # Errors
/// When the directory is there and cannot be read.
pub(crate) fn state_files(state_dir: &Path) -> io::Result<StateFiles> {
    let listed = match std::fs::read_dir(state_directory(state_dir)) {
        Ok(listed) => listed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(StateFiles::new()),
        Err(error) => return Err(error),
    };
    let mut files = StateFiles::new();
    for entry in listed {
        let entry = entry?;
        if let Some(instance) = entry.file_name().to_str().and_then(instance_of) {
            files.insert(instance, read_state(&entry.path()));
        }
    }
    Ok(files)
}

/// What an instance is to keep, on its way into its place.
pub(crate) struct StateFile(Replacement);

impl StateFile {
    /// Puts it beside what the instance keeps, of which it may have `bytes_max`. A running gateway puts it in its place when it
    /// is asked to.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn prepare(
        state_dir: &Path,
        instance: &str,
        bytes_max: usize,
        entries: &Entries,
    ) -> Result<Self, StateTrouble> {
        let directory = state_directory(state_dir);
        if !directory.is_dir() {
            std::fs::create_dir_all(&directory)?;
            give_to_owner_of(state_dir, &directory)?;
        }
        let replacement = Replacement::of(&directory, instance, bytes_max);
        replacement.prepare(entries)?;
        give_to_owner_of(state_dir, &replacement.draft())?;
        Ok(Self(replacement))
    }

    /// Puts it in its place. Only while no gateway runs: it would know nothing of it.
    ///
    /// # Errors
    /// When the disk refuses, or it is more than the instance may keep.
    pub(crate) fn put(self) -> Result<(), StateTrouble> {
        self.0.run()
    }

    /// Takes it back.
    pub(crate) fn withdraw(self) {
        match std::fs::remove_file(self.0.draft()) {
            // Taken up, or left behind for the next one to overwrite.
            Ok(()) | Err(_) => {}
        }
    }
}

/// Root restores for the user the gateway runs as, who must be able to read it.
fn give_to_owner_of(state_dir: &Path, path: &Path) -> io::Result<()> {
    let (wanted, is) = (std::fs::metadata(state_dir)?, std::fs::metadata(path)?);
    if (wanted.uid(), wanted.gid()) == (is.uid(), is.gid()) {
        return Ok(());
    }
    let (user, group) = (Uid::from_raw(wanted.uid()), Gid::from_raw(wanted.gid()));
    Ok(chown(path, Some(user), Some(group))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(state_dir: &Path, instance: &str, entries: &Entries) {
        let file = StateFile::prepare(state_dir, instance, 100, entries).unwrap();
        file.put().unwrap();
    }

    #[test]
    fn what_was_put_is_found_and_one_that_is_damaged_hides_no_other() {
        let directory = tempfile::tempdir().unwrap();
        assert!(state_files(directory.path()).unwrap().is_empty());
        let entries = Entries::from([("run".to_owned(), vec![3, 0])]);
        put(directory.path(), "modbus/oven 1", &entries);
        std::fs::write(directory.path().join("plugins/bad.state"), [255; 9]).unwrap();
        std::fs::write(directory.path().join("plugins/other"), "x").unwrap();
        let found = state_files(directory.path()).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(*found["modbus/oven 1"].as_ref().unwrap(), entries);
        assert!(matches!(found["bad"], Err(StateTrouble::Damaged)));
    }

    #[test]
    fn what_root_puts_belongs_to_who_owns_the_gateways_directory() {
        let directory = tempfile::tempdir().unwrap();
        let (user, group) = (Uid::from_raw(65_534), Gid::from_raw(65_534));
        if chown(directory.path(), Some(user), Some(group)).is_err() {
            eprintln!("SKIPPED: only root can give a directory away");
            return;
        }
        put(directory.path(), "press", &Entries::new());
        for made in ["plugins", "plugins/press.state"] {
            let owner = std::fs::metadata(directory.path().join(made)).unwrap();
            assert_eq!((owner.uid(), owner.gid()), (65_534, 65_534), "{made}");
        }
    }
}
