//! The guest's key-value state: one small file per instance.
//!
//! Changes live in memory until the call that made them has ended well; then the file is replaced as a whole. A call
//! that traps leaves no trace.

use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use moorline_core::confine::Limit;
use moorline_core::plugin_state::{Entries, KEY_BYTES_MAX, OutOfBounds, check};

use super::edge::state::{Host, StateError};
use crate::plugins::cache::write_private;
use crate::plugins::store::HostState;

/// How the files end.
const FILE: &str = ".state";
const PRIVATE_FILE: u32 = 0o600;
/// What another than the guest wants to be kept instead, beside the file.
const REPLACEMENT: &str = "restore";

/// Why the state is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateTrouble {
    #[error("{0}")]
    File(#[from] io::Error),
    #[error("the file is damaged")]
    Damaged,
    #[error("{0}")]
    OutOfBounds(#[from] OutOfBounds),
}

/// One instance's state.
#[derive(Debug)]
pub(crate) struct KeyValues {
    path: PathBuf,
    /// Keys and values together.
    bytes_max: usize,
    /// As in the file; `None` = not read yet, or unreadable.
    kept: Option<Entries>,
    /// With the changes of the call under way.
    changed: Option<Entries>,
}

impl KeyValues {
    /// The state of `instance` in `directory`, of at most `bytes_max`. Reads nothing yet.
    pub(crate) fn of(directory: &Path, instance: &str, bytes_max: usize) -> Self {
        Self {
            path: directory.join(file_name(instance)),
            bytes_max,
            kept: None,
            changed: None,
        }
    }

    fn entries(&mut self) -> Result<&Entries, StateError> {
        let kept = match self.kept.take() {
            Some(kept) => kept,
            None => read(&self.path).map_err(|error| {
                tracing::error!(path = %self.path.display(), %error, "a plugin's state cannot be read");
                StateError::Unavailable
            })?,
        };
        let kept = self.kept.insert(kept);
        Ok(self.changed.as_ref().unwrap_or(kept))
    }

    fn change(
        &mut self,
        change: impl FnOnce(&mut Entries) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        let mut entries = match self.changed.take() {
            Some(changed) => changed,
            None => self.entries()?.clone(),
        };
        let result = change(&mut entries);
        self.changed = Some(entries);
        result
    }

    fn set(&mut self, key: String, value: Vec<u8>) -> Result<(), StateError> {
        let bytes_max = self.bytes_max;
        if key.is_empty() || key.len() > KEY_BYTES_MAX || value.len() > bytes_max {
            return Err(StateError::TooLarge);
        }
        self.change(|entries| {
            let others: usize = entries
                .iter()
                .filter(|(other, _)| **other != key)
                .map(|(key, value)| key.len() + value.len())
                .sum();
            if others + key.len() + value.len() > bytes_max {
                return Err(StateError::Full);
            }
            entries.insert(key, value);
            Ok(())
        })
    }

    fn delete(&mut self, key: &str) -> Result<(), StateError> {
        self.change(|entries| {
            entries.remove(key);
            Ok(())
        })
    }

    /// The changes of a call that ended well, to be written; `None` if there are none.
    pub(crate) fn take_changes(&mut self) -> Option<StateWrite> {
        let changed = self.changed.take()?;
        if self.kept.as_ref() == Some(&changed) {
            return None;
        }
        let write = StateWrite {
            path: self.path.clone(),
            entries: changed.clone(),
        };
        self.kept = Some(changed);
        Some(write)
    }

    /// What another than the guest wants to be kept instead, to be put in place. [`KeyValues::forget`] comes next.
    pub(crate) fn replacement(&self) -> Replacement {
        Replacement {
            path: self.path.clone(),
            bytes_max: self.bytes_max,
        }
    }

    /// Reads the file again before anything else is answered.
    pub(crate) fn forget(&mut self) {
        (self.kept, self.changed) = (None, None);
    }

    /// Forgets the changes of a call that did not end well.
    pub(crate) fn discard_changes(&mut self) {
        self.changed = None;
    }
}

/// A file to be replaced.
#[derive(Debug)]
pub(crate) struct StateWrite {
    path: PathBuf,
    entries: Entries,
}

impl StateWrite {
    /// Writes the disk: not for a task that has other things to do.
    pub(crate) fn run(&self) -> Result<(), StateTrouble> {
        let bytes = postcard::to_stdvec(&self.entries).map_err(|_refused| StateTrouble::Damaged)?;
        let directory = self.path.parent().unwrap_or(Path::new("."));
        match write_private(&self.path, &[&bytes]) {
            // At the start the medium did not work.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir_all(directory)?;
                write_private(&self.path, &[&bytes])?;
            }
            written => written?,
        }
        sync(directory)
    }
}

/// Without this a loss of power could bring the file before back.
fn sync(directory: &Path) -> Result<(), StateTrouble> {
    Ok(std::fs::File::open(directory)?.sync_all()?)
}

/// A state that takes the place of another.
#[derive(Debug)]
pub(crate) struct Replacement {
    path: PathBuf,
    bytes_max: usize,
}

impl Replacement {
    /// For the state of `instance` in `directory`, which may have `bytes_max`.
    pub(crate) fn of(directory: &Path, instance: &str, bytes_max: usize) -> Self {
        KeyValues::of(directory, instance, bytes_max).replacement()
    }

    /// Where it waits.
    pub(crate) fn draft(&self) -> PathBuf {
        self.path.with_extension(REPLACEMENT)
    }

    /// Puts it beside the file it is to replace. Writes the disk.
    pub(crate) fn prepare(&self, entries: &Entries) -> Result<(), StateTrouble> {
        let bytes = postcard::to_stdvec(entries).map_err(|_refused| StateTrouble::Damaged)?;
        // Not by way of a draft of its own, whose name the gateway uses for the state.
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(PRIVATE_FILE)
            .open(self.draft())?;
        file.write_all(&bytes)?;
        Ok(file.sync_all()?)
    }

    /// Puts it in place, if it is one that the instance may keep. Works on the disk: not for a task that has other things to
    /// do.
    pub(crate) fn run(&self) -> Result<(), StateTrouble> {
        let draft = self.draft();
        // What is not there would be read as an empty one.
        std::fs::symlink_metadata(&draft)?;
        check(&read(&draft)?, self.bytes_max)?;
        std::fs::rename(draft, &self.path)?;
        sync(self.path.parent().unwrap_or(Path::new(".")))
    }
}

/// What the file at `path` holds; nothing where there is none.
pub(crate) fn read(path: &Path) -> Result<Entries, StateTrouble> {
    match std::fs::read(path) {
        Ok(bytes) => postcard::from_bytes(&bytes).map_err(|_bad| StateTrouble::Damaged),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Entries::new()),
        Err(error) => Err(StateTrouble::File(error)),
    }
}

/// A name every file system takes: what is not plain is written as `%` and two digits.
fn file_name(instance: &str) -> String {
    let mut name = String::new();
    for byte in instance.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02x}"));
        }
    }
    name.push_str(FILE);
    name
}

/// The instance whose file has this name; none if it is no such file.
pub(crate) fn instance_of(file_name: &str) -> Option<String> {
    let mut rest = file_name.strip_suffix(FILE)?;
    let mut name = Vec::new();
    while let Some(first) = rest.chars().next() {
        let after = if first == '%' {
            let digits = rest.get(1..3)?;
            name.push(u8::from_str_radix(digits, 16).ok()?);
            rest.get(3..)
        } else {
            name.extend_from_slice(first.encode_utf8(&mut [0; 4]).as_bytes());
            rest.get(first.len_utf8()..)
        };
        rest = after?;
    }
    String::from_utf8(name).ok()
}

impl Host for HostState {
    fn get(&mut self, key: String) -> Result<Option<Vec<u8>>, StateError> {
        let resident = self.resident.as_mut().ok_or(StateError::Unavailable)?;
        Ok(resident.state.entries()?.get(&key).cloned())
    }

    fn set(&mut self, key: String, value: Vec<u8>) -> Result<(), StateError> {
        let resident = self.resident.as_mut().ok_or(StateError::Unavailable)?;
        let set = resident.state.set(key, value);
        if let Err(StateError::Full | StateError::TooLarge) = set {
            resident.hit(Limit::State);
        }
        set
    }

    fn delete(&mut self, key: String) -> Result<(), StateError> {
        let resident = self.resident.as_mut().ok_or(StateError::Unavailable)?;
        resident.state.delete(&key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATE_BYTES_MAX: usize = 256 * 1024;

    #[test]
    fn changes_are_kept_when_the_call_ends_well_and_only_then() {
        let directory = tempfile::tempdir().unwrap();
        let mut state = KeyValues::of(directory.path(), "modbus/press 1", STATE_BYTES_MAX);
        assert_eq!(state.set("n".into(), vec![1]), Ok(()));
        assert_eq!(state.entries().unwrap().get("n"), Some(&vec![1]));
        state.discard_changes();
        assert_eq!(state.entries().unwrap().get("n"), None);
        assert_eq!(state.set("n".into(), vec![2]), Ok(()));
        state.take_changes().unwrap().run().unwrap();
        assert!(state.take_changes().is_none());
        let mut again = KeyValues::of(directory.path(), "modbus/press 1", STATE_BYTES_MAX);
        assert_eq!(again.entries().unwrap().get("n"), Some(&vec![2]));
        assert!(directory.path().join("modbus%2fpress%201.state").exists());
    }

    #[test]
    fn the_state_is_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let mut state = KeyValues::of(directory.path(), "a", STATE_BYTES_MAX);
        assert_eq!(state.set(String::new(), vec![]), Err(StateError::TooLarge));
        assert_eq!(
            state.set("k".into(), vec![0; STATE_BYTES_MAX + 1]),
            Err(StateError::TooLarge)
        );
        assert_eq!(state.set("k".into(), vec![0; STATE_BYTES_MAX - 10]), Ok(()));
        assert_eq!(state.set("l".into(), vec![0; 10]), Err(StateError::Full));
        assert_eq!(state.set("k".into(), vec![0; STATE_BYTES_MAX - 1]), Ok(()));
        assert_eq!(state.delete("k"), Ok(()));
        assert_eq!(state.set("l".into(), vec![0; 10]), Ok(()));
    }

    #[test]
    fn a_file_tells_whose_it_is() {
        for instance in ["press", "modbus/press 1", "ofen-ä_%2f", "%"] {
            assert_eq!(instance_of(&file_name(instance)).as_deref(), Some(instance));
        }
        for other in ["press.new", "press", "%2.state", "%zz.state", "%ff.state"] {
            assert_eq!(instance_of(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_put_in_its_place_is_read_before_the_next_answer() {
        let directory = tempfile::tempdir().unwrap();
        let mut state = KeyValues::of(directory.path(), "a", 10);
        assert_eq!(state.set("n".into(), vec![1]), Ok(()));
        state.take_changes().unwrap().run().unwrap();
        assert_eq!(state.set("n".into(), vec![2]), Ok(()));
        let replacement = state.replacement();
        assert!(
            matches!(replacement.run(), Err(StateTrouble::File(_))),
            "nothing is there"
        );
        let large = Entries::from([("m".to_owned(), vec![0; 10])]);
        replacement.prepare(&large).unwrap();
        assert!(matches!(
            replacement.run(),
            Err(StateTrouble::OutOfBounds(_))
        ));
        let other = Entries::from([("m".to_owned(), vec![3])]);
        replacement.prepare(&other).unwrap();
        replacement.run().unwrap();
        state.forget();
        assert_eq!(*state.entries().unwrap(), other);
        assert!(state.take_changes().is_none());
        assert!(!replacement.draft().exists());
    }

    #[test]
    fn a_damaged_file_is_unavailable_and_stays_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a.state"), [255; 9]).unwrap();
        let mut state = KeyValues::of(directory.path(), "a", STATE_BYTES_MAX);
        assert_eq!(state.set("k".into(), vec![1]), Err(StateError::Unavailable));
        assert!(state.take_changes().is_none());
        assert_eq!(
            std::fs::read(directory.path().join("a.state")).unwrap(),
            [255; 9]
        );
    }
}
