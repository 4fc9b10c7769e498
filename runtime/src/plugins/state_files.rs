//! The files of all instances' state, for backups. A running gateway replaces each as a whole, so that what is read here is
//! always what was kept after some call.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use moorline_core::plugin_state::Entries;
use rustix::fs::{Gid, Uid, fchown, fstat};

use super::host::{Replacement, StateTrouble, instance_of, open_directory, read_state};

/// The instances that have kept anything, with what they keep.
pub(crate) type StateFiles = BTreeMap<String, Result<Entries, StateTrouble>>;

/// More than any configuration lets an instance keep, `state_bytes_max`: nobody is asked which it is.
const BYTES_MAX: usize = 64 * 1024 * 1024;

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
            files.insert(instance, read_state(&entry.path(), BYTES_MAX));
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
        std::fs::create_dir_all(state_dir)?;
        match std::fs::create_dir(&directory) {
            Ok(()) => give_to_owner_of(state_dir, open_directory(&directory)?)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.into()),
        }
        let replacement = Replacement::of(&directory, instance, bytes_max);
        give_to_owner_of(state_dir, replacement.prepare(entries)?)?;
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
        match self.0.withdraw() {
            // Taken up, or left behind for the next one to overwrite.
            Ok(()) | Err(_) => {}
        }
    }
}

/// Root restores for the user the gateway runs as, who must be able to read it. By what was opened and not by its name, which that
/// user can turn elsewhere meanwhile.
fn give_to_owner_of(state_dir: &Path, made: impl AsFd) -> io::Result<()> {
    let (wanted, is) = (std::fs::metadata(state_dir)?, fstat(&made)?);
    if (wanted.uid(), wanted.gid()) == (is.st_uid, is.st_gid) {
        return Ok(());
    }
    let (user, group) = (Uid::from_raw(wanted.uid()), Gid::from_raw(wanted.gid()));
    Ok(fchown(made, Some(user), Some(group))?)
}

#[cfg(test)]
mod tests {
    use rustix::fs::chown;

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

    #[test]
    fn what_root_puts_goes_nowhere_else_by_a_link_that_the_gateways_user_planted() {
        let directory = tempfile::tempdir().unwrap();
        let victim = directory.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        let owner = std::fs::metadata(&victim).unwrap().uid();
        let state_dir = directory.path().join("state");
        std::fs::create_dir_all(state_dir.join("plugins")).unwrap();
        let (user, group) = (Uid::from_raw(65_534), Gid::from_raw(65_534));
        if chown(&state_dir, Some(user), Some(group)).is_err() {
            eprintln!("only root can give a directory away: whose the files are is not tried");
        }
        std::os::unix::fs::symlink(&victim, state_dir.join("plugins/press.restore")).unwrap();
        std::os::unix::fs::symlink(&victim, state_dir.join("plugins/press.state")).unwrap();
        let entries = Entries::from([("run".to_owned(), vec![3, 0])]);
        put(&state_dir, "press", &entries);
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
        assert_eq!(std::fs::metadata(&victim).unwrap().uid(), owner);
        let found = state_files(&state_dir).unwrap();
        assert_eq!(*found["press"].as_ref().unwrap(), entries);
    }
}
