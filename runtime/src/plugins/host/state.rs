//! The guest's key-value state: one small file per instance.
//!
//! Changes live in memory until the call that made them has ended well; then the file is replaced as a whole. A call
//! that traps leaves no trace.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use moorline_core::confine::Limit;
use moorline_core::plugin_state::{Entries, KEY_BYTES_MAX, OutOfBounds, check};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, fsync, openat, renameat, unlinkat};

use super::edge::state::{Host, StateError};
use crate::bounded_file::{self, ReadError};
use crate::plugins::cache::write_private;
use crate::plugins::store::HostState;

/// How the files end.
const FILE: &str = ".state";
/// What is put aside because nobody can read it.
const ASIDE: &str = "damaged";
/// What another than the guest wants to be kept instead, beside the file.
const REPLACEMENT: &str = "restore";

/// Why the state is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateTrouble {
    #[error("{0}")]
    File(#[from] io::Error),
    #[error("the file is damaged")]
    Damaged,
    #[error("the file is no state of a plugin: {0}")]
    NoState(ReadError),
    #[error("{} is a symbolic link, and nothing is written through it", .0.display())]
    Link(PathBuf),
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
    /// What is kept is not in the file.
    unwritten: bool,
    /// Files that were put aside.
    damaged: u64,
    /// It was said that the file cannot be read.
    unreadable_said: bool,
}

impl KeyValues {
    /// The state of `instance` in `directory`, of at most `bytes_max`. Reads nothing yet.
    pub(crate) fn of(directory: &Path, instance: &str, bytes_max: usize) -> Self {
        Self {
            path: directory.join(file_name(instance)),
            bytes_max,
            kept: None,
            changed: None,
            unwritten: false,
            damaged: 0,
            unreadable_said: false,
        }
    }

    /// A state that begins empty and is in no file.
    pub(crate) fn nowhere(bytes_max: usize) -> Self {
        Self {
            kept: Some(Entries::new()),
            ..Self::of(Path::new(""), "", bytes_max)
        }
    }

    /// How often a file was put aside because it held no state.
    pub(crate) fn damaged(&self) -> u64 {
        self.damaged
    }

    /// What the file holds. One that holds no state at all is put aside: it would never be read, and nothing kept.
    fn load(&mut self) -> Result<Entries, StateError> {
        let path = self.path.display();
        let trouble = match read(&self.path, self.bytes_max) {
            Ok(entries) => {
                self.unreadable_said = false;
                return Ok(entries);
            }
            Err(trouble @ (StateTrouble::Damaged | StateTrouble::NoState(_))) => {
                let aside = self.path.with_extension(ASIDE);
                match std::fs::rename(&self.path, &aside) {
                    Ok(()) => {
                        self.damaged += 1;
                        let aside = aside.display();
                        tracing::error!(
                            %path, %aside,
                            "a plugin's state is put aside, and it starts with none: {trouble}"
                        );
                        return Ok(Entries::new());
                    }
                    Err(error) => StateTrouble::File(error),
                }
            }
            Err(
                trouble @ (StateTrouble::File(_)
                | StateTrouble::OutOfBounds(_)
                | StateTrouble::Link(_)),
            ) => trouble,
        };
        // The guest may ask as often as it likes.
        if !std::mem::replace(&mut self.unreadable_said, true) {
            tracing::error!(%path, error = %trouble, "a plugin's state cannot be read");
        }
        Err(StateError::Unavailable)
    }

    fn entries(&mut self) -> Result<&Entries, StateError> {
        let kept = match self.kept.take() {
            Some(kept) => kept,
            None => self.load()?,
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
        self.unwritten |= self.kept.as_ref() != Some(&changed);
        self.kept = Some(changed);
        self.unwritten()
    }

    /// What is kept and not in the file, to be written; `None` if all is. [`KeyValues::written`] comes next.
    pub(crate) fn unwritten(&self) -> Option<StateWrite> {
        let kept = self.kept.as_ref().filter(|_| self.unwritten)?;
        Some(StateWrite {
            path: self.path.clone(),
            entries: kept.clone(),
        })
    }

    /// What was to be written is in the file.
    pub(crate) fn written(&mut self) {
        self.unwritten = false;
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
        self.unwritten = false;
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
    /// What it makes the disk write: the file, and a block each for its end and its directory.
    pub(crate) fn cost_bytes(&self) -> u64 {
        let lengths = self
            .entries
            .iter()
            .map(|(key, value)| key.len() + value.len());
        let bytes = u64::try_from(lengths.sum::<usize>()).unwrap_or(u64::MAX);
        bytes.saturating_add(2 * BLOCK_BYTES)
    }

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

/// What a file system writes at least.
const BLOCK_BYTES: u64 = 4_096;

/// Without this a loss of power could bring the file before back.
fn sync(directory: &Path) -> Result<(), StateTrouble> {
    Ok(File::open(directory)?.sync_all()?)
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

    /// Puts it beside the file it is to replace, and gives what it is in. Writes the disk.
    ///
    /// Whoever does this may be root, in a directory that another owns and can put links in: none is followed.
    pub(crate) fn prepare(&self, entries: &Entries) -> Result<File, StateTrouble> {
        let bytes = postcard::to_stdvec(entries).map_err(|_refused| StateTrouble::Damaged)?;
        let directory = open_directory(self.directory())?;
        // Not by way of a draft of its own, whose name the gateway uses for the state.
        let draft = self.draft_name();
        self.remove_draft(&directory)?;
        let how =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = openat(&directory, &draft, how, Mode::RUSR | Mode::WUSR);
        let mut file = File::from(opened.map_err(io::Error::from)?);
        file.write_all(&bytes)?;
        file.sync_all()?;
        Ok(file)
    }

    /// Puts it in place, if it is one that the instance may keep. Works on the disk: not for a task that has other things to
    /// do.
    pub(crate) fn run(&self) -> Result<(), StateTrouble> {
        let directory = open_directory(self.directory())?;
        let draft = self.draft_name();
        let how = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = openat(&directory, &draft, how, Mode::empty()).map_err(io::Error::from)?;
        let bytes = bounded_file::read_open(File::from(opened), file_bytes_max(self.bytes_max));
        check(&decoded(bytes)?, self.bytes_max)?;
        let name = self.path.file_name().unwrap_or_default();
        renameat(&directory, &draft, &directory, name).map_err(io::Error::from)?;
        Ok(fsync(&directory).map_err(io::Error::from)?)
    }

    /// Takes it back, if it is there.
    pub(crate) fn withdraw(&self) -> Result<(), StateTrouble> {
        let directory = open_directory(self.directory())?;
        Ok(self.remove_draft(&directory)?)
    }

    fn remove_draft(&self, directory: &OwnedFd) -> io::Result<()> {
        match unlinkat(directory, self.draft_name(), AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    fn draft_name(&self) -> std::ffi::OsString {
        let draft = self.path.with_extension(REPLACEMENT);
        draft.file_name().unwrap_or_default().to_owned()
    }
}

/// The directory itself, not one that a link in its place leads to.
pub(crate) fn open_directory(path: &Path) -> Result<OwnedFd, StateTrouble> {
    let how = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, path, how, Mode::empty()).map_err(|error| {
        let is_link = path
            .symlink_metadata()
            .is_ok_and(|found| found.is_symlink());
        if is_link {
            StateTrouble::Link(path.to_owned())
        } else {
            StateTrouble::File(error.into())
        }
    })
}

/// Bytes of the largest file that holds `bytes_max` of keys and values. postcard writes a length before each key and each value, two
/// bytes where both together hold one, and before all of them how many there are.
fn file_bytes_max(bytes_max: usize) -> u64 {
    const COUNT_BYTES_MAX: u64 = 10;
    let bytes = u64::try_from(bytes_max).unwrap_or(u64::MAX);
    bytes.saturating_mul(3).saturating_add(COUNT_BYTES_MAX)
}

fn decoded(bytes: Result<Vec<u8>, ReadError>) -> Result<Entries, StateTrouble> {
    match bytes {
        Ok(bytes) => postcard::from_bytes(&bytes).map_err(|_bad| StateTrouble::Damaged),
        Err(ReadError::Io(error)) => Err(StateTrouble::File(error)),
        Err(error @ (ReadError::NotAFile(_) | ReadError::TooLarge { .. })) => {
            Err(StateTrouble::NoState(error))
        }
    }
}

/// What the file at `path` holds, of an instance that may keep `bytes_max`; nothing where there is none.
pub(crate) fn read(path: &Path, bytes_max: usize) -> Result<Entries, StateTrouble> {
    match bounded_file::read(path, file_bytes_max(bytes_max)) {
        Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(Entries::new()),
        bytes => decoded(bytes),
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
        state.written();
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
        assert!(!directory.path().join("a.restore").exists());
    }

    #[test]
    fn what_could_not_be_written_is_written_with_the_next_change_or_when_it_is_due() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("plugins");
        std::fs::write(&place, "in the way").unwrap();
        let mut state = KeyValues::of(&place, "a", STATE_BYTES_MAX);
        // Where nothing can be read, nothing is kept.
        assert_eq!(state.set("n".into(), vec![1]), Err(StateError::Unavailable));
        std::fs::remove_file(&place).unwrap();
        assert_eq!(state.set("n".into(), vec![1]), Ok(()));
        std::fs::write(&place, "in the way").unwrap();
        state.take_changes().unwrap().run().unwrap_err();
        // A call without a change does not try; one that changes nothing does.
        assert!(state.take_changes().is_none());
        assert_eq!(state.set("n".into(), vec![1]), Ok(()));
        assert!(state.take_changes().is_some());
        std::fs::remove_file(&place).unwrap();
        state.unwritten().unwrap().run().unwrap();
        state.written();
        assert!(state.unwritten().is_none());
        let entries = Entries::from([("n".to_owned(), vec![1])]);
        assert_eq!(
            read(&place.join("a.state"), STATE_BYTES_MAX).unwrap(),
            entries
        );
    }

    #[test]
    fn a_file_that_holds_no_state_is_put_aside_and_counted() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.state");
        let aside = directory.path().join("a.damaged");
        // As large as the largest state is written; with one byte more nobody reads it.
        let most = usize::try_from(file_bytes_max(100)).unwrap();
        for (count, bytes) in [(1, vec![255; 9]), (2, vec![0; most + 1])] {
            std::fs::write(&file, &bytes).unwrap();
            let mut state = KeyValues::of(directory.path(), "a", 100);
            assert_eq!(state.set("k".into(), vec![1]), Ok(()), "{count}");
            assert_eq!(state.damaged(), 1);
            assert_eq!(std::fs::read(&aside).unwrap(), bytes);
            state.take_changes().unwrap().run().unwrap();
            let entries = Entries::from([("k".to_owned(), vec![1])]);
            assert_eq!(read(&file, 100).unwrap(), entries);
        }
    }

    #[test]
    fn the_largest_state_fits_its_file() {
        // The shortest keys cost most beside what they are.
        let entries: Entries = (0..=127_u8)
            .map(|byte| (char::from(byte).to_string(), Vec::new()))
            .collect();
        let bytes = postcard::to_stdvec(&entries).unwrap();
        assert!(bytes.len() as u64 <= file_bytes_max(128), "{}", bytes.len());
    }

    #[test]
    fn a_link_in_the_place_of_a_draft_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let victim = directory.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        let place = directory.path().join("plugins");
        std::fs::create_dir(&place).unwrap();
        let replacement = Replacement::of(&place, "a", 100);
        let entries = Entries::from([("k".to_owned(), vec![1])]);
        std::os::unix::fs::symlink(&victim, place.join("a.restore")).unwrap();
        replacement.prepare(&entries).unwrap();
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
        replacement.run().unwrap();
        assert_eq!(read(&place.join("a.state"), 100).unwrap(), entries);
        // One that is put there between the two is not taken for a state.
        std::os::unix::fs::symlink(&victim, place.join("a.restore")).unwrap();
        assert!(matches!(replacement.run(), Err(StateTrouble::File(_))));
        replacement.withdraw().unwrap();
        assert!(victim.exists());
        // Nor is one in the place of the directory.
        let elsewhere = directory.path().join("elsewhere");
        std::fs::rename(&place, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &place).unwrap();
        for refused in [replacement.prepare(&entries).map(drop), replacement.run()] {
            assert!(matches!(refused, Err(StateTrouble::Link(_))), "{refused:?}");
        }
        assert!(!elsewhere.join("a.restore").exists());
    }
}
