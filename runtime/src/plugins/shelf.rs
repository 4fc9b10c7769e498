//! The file that the configuration names for a component, and the build that is kept beside it.
//!
//! ```text
//!  line.wasm           what the next start loads
//!  line.wasm.before    the last build that proved itself, as long as another lies in the place
//! ```
//!
//! Each with its signature beside it, under an added `.minisig` and `.minisig.before`. A build gets under `.before` only if it
//! is known to have proved itself, so that no row of failures pushes the good one out. Every step is a rename: who watches the
//! place meets no half of a file.

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use moorline_core::swap::Digest;
use moorline_core::trust;
use thiserror::Error;

use super::cache::digest_of;
use super::world::COMPONENT_BYTES_MAX;
use crate::bounded_file::{self, ReadError};
use crate::trust::{
    SIGNATURE_FILE_BYTES_MAX, kept_beside, signature_path, signer, signer_of_either,
};

/// Of a component that comes without a file to follow.
const USUAL_MODE: u32 = 0o644;
const MODE_BITS: u32 = 0o777;

/// How long another process may be busy with the same directory.
const TURN_MAX: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Why a component cannot be put in its place. Nothing was changed, or only its signature.
#[derive(Debug, Error)]
pub(crate) enum ShelfError {
    /// Somebody else decides where it leads.
    #[error("{} is a symbolic link: whoever turns it swaps the plugin; nothing was changed", _0.display())]
    Link(PathBuf),
    /// What is to be put there.
    #[error("{}: {_1}", _0.display())]
    Read(PathBuf, ReadError),
    /// The place, or what is beside it.
    #[error("{} cannot be replaced: {_1}", _0.display())]
    Write(PathBuf, #[source] io::Error),
}

/// A component as it lies in files.
#[derive(Debug)]
pub(crate) struct Stocked {
    component: Vec<u8>,
    signature: Option<Vec<u8>>,
}

impl Stocked {
    /// From `file` and, if it is there, the signature beside it.
    pub(crate) fn read(file: &Path) -> Result<Self, ShelfError> {
        let component = bounded_file::read(file, COMPONENT_BYTES_MAX)
            .map_err(|error| ShelfError::Read(file.to_owned(), error))?;
        let signature = signature_path(file);
        let signature = match bounded_file::read(&signature, SIGNATURE_FILE_BYTES_MAX) {
            Ok(bytes) => Some(bytes),
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(ShelfError::Read(signature, error)),
        };
        Ok(Self {
            component,
            signature,
        })
    }

    pub(crate) fn digest(&self) -> Digest {
        digest_of(&self.component)
    }
}

/// What came of bringing back the build that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TakenBack {
    /// A good build lies in the place already.
    LiesThere,
    /// This one does now.
    Back(Digest),
    /// No good build is kept beside it, or the place is a symbolic link.
    NotKept,
}

/// Where a build lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lies {
    /// Where the configuration has it.
    InPlace,
    /// Kept beside that.
    Beside,
}

/// The place of one component.
#[derive(Clone, Debug)]
pub(crate) struct Shelf(PathBuf);

impl Shelf {
    pub(crate) fn new(place: &Path) -> Self {
        Self(place.to_owned())
    }

    pub(crate) fn place(&self) -> &Path {
        &self.0
    }

    /// Where the last build that proved itself is kept.
    pub(crate) fn before(&self) -> PathBuf {
        kept_beside(&self.0)
    }

    /// Where `proved` lies: in the place, or beside it while there is something else in the place.
    pub(crate) fn holds(&self, proved: Digest) -> Option<Lies> {
        if self.digest() == Some(proved) {
            return Some(Lies::InPlace);
        }
        let is_there = std::fs::metadata(&self.0).is_ok();
        let is_kept = is_there && digest(&self.before()) == Some(proved);
        is_kept.then_some(Lies::Beside)
    }

    /// What lies in the place.
    pub(crate) fn digest(&self) -> Option<Digest> {
        digest(&self.0)
    }

    /// Puts `new` in the place. What lies there is kept beside it if `is_proved` says so of it, and given back, to be put there
    /// again if the new one is refused.
    ///
    /// `trust` tells which signature is that of what lies there.
    pub(crate) fn install(
        &self,
        new: &Stocked,
        trust: &trust::Settings,
        is_proved: impl FnOnce(Digest) -> bool,
    ) -> Result<Option<Stocked>, ShelfError> {
        let _turn = self.turn();
        let write = |error| ShelfError::Write(self.0.clone(), error);
        let lay = match std::fs::symlink_metadata(&self.0) {
            Ok(metadata) if metadata.is_symlink() => {
                return Err(ShelfError::Link(self.0.clone()));
            }
            Ok(_file) => {
                self.heal(trust).map_err(write)?;
                Some(Stocked::read(&self.0)?)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(write(error)),
        };
        let drafts = self.drafts(new)?;
        if lay.as_ref().is_some_and(|lay| is_proved(lay.digest())) {
            self.keep().map_err(write)?;
        }
        self.put(drafts)?;
        Ok(lay)
    }

    /// Puts `old` in the place again. What is kept beside it stays.
    pub(crate) fn put_back(&self, old: &Stocked) -> Result<(), ShelfError> {
        let _turn = self.turn();
        self.put(self.drafts(old)?)?;
        let lies = signature_path(&self.0);
        match &old.signature {
            Some(_put) => Ok(()),
            None => remove(&lies).map_err(|error| ShelfError::Write(lies, error)),
        }
    }

    /// Brings back the build that is kept beside, if `is_good` says so of it, and `may_stay` not of what lies in the place. What
    /// lies there is kept in its stead if `is_proved` says so of it.
    pub(crate) fn take_back(
        &self,
        may_stay: impl Fn(Digest) -> bool,
        is_good: impl Fn(Digest) -> bool,
        is_proved: impl FnOnce(Digest) -> bool,
    ) -> io::Result<TakenBack> {
        if std::fs::symlink_metadata(&self.0).is_ok_and(|metadata| metadata.is_symlink()) {
            return Ok(TakenBack::NotKept);
        }
        let _turn = self.turn();
        let lies = self.digest();
        if lies.is_some_and(&may_stay) {
            return Ok(TakenBack::LiesThere);
        }
        let Some(kept) = digest(&self.before()).filter(|kept| is_good(*kept)) else {
            // Somebody else may have brought it back since the place was looked at.
            let is_back = self.digest().is_some_and(&may_stay);
            return Ok(if is_back {
                TakenBack::LiesThere
            } else {
                TakenBack::NotKept
            });
        };
        let signature = signature_path(&self.0);
        let aside = lies.is_some_and(is_proved);
        if aside {
            link(&self.0, &beside(&self.0, ".aside"))?;
            link(&signature, &beside(&signature, ".aside"))?;
        }
        match std::fs::rename(self.before(), &self.0) {
            Ok(()) => {}
            // Somebody else brings it back at the same time.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(TakenBack::LiesThere);
            }
            Err(error) => return Err(error),
        }
        if !moved(&kept_beside(&signature), &signature)? {
            // What is kept had none.
            remove(&signature)?;
        }
        if aside {
            moved(&beside(&self.0, ".aside"), &self.before())?;
            moved(&beside(&signature, ".aside"), &kept_beside(&signature))?;
        }
        Ok(TakenBack::Back(kept))
    }

    /// If somebody was killed between the renames of a component and its signature, the one that fits may be the kept one.
    fn heal(&self, trust: &trust::Settings) -> io::Result<()> {
        let Ok(bytes) = bounded_file::read(&self.0, COMPONENT_BYTES_MAX) else {
            return Ok(());
        };
        let digest = digest_of(&bytes);
        if signer(&bytes, digest, &self.0, trust).is_ok()
            || signer_of_either(&bytes, digest, &self.0, trust).is_err()
        {
            return Ok(());
        }
        let lies = signature_path(&self.0);
        let new = beside(&lies, ".new");
        link(&kept_beside(&lies), &new)?;
        std::fs::rename(new, lies)
    }

    /// Keeps what lies in the place, with its signature.
    fn keep(&self) -> io::Result<()> {
        let signature = signature_path(&self.0);
        remove(&kept_beside(&signature))?;
        link(&self.0, &self.before())?;
        link(&signature, &kept_beside(&signature))
    }

    /// One process after the other: all give their drafts the same name. The lock ends with the file, whose directory it is of;
    /// where there are no locks, or one is held for too long, it goes without.
    fn turn(&self) -> Option<File> {
        let parent = self
            .0
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let directory = File::open(parent.unwrap_or(Path::new("."))).ok()?;
        let deadline = Instant::now() + TURN_MAX;
        loop {
            match directory.try_lock() {
                Ok(()) => return Some(directory),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(LOOK_EVERY);
                }
                Err(TryLockError::WouldBlock | TryLockError::Error(_)) => return None,
            }
        }
    }

    /// Both are on the disk before either is in its place or anything is kept, so that a disk that is full changes nothing.
    fn drafts(&self, new: &Stocked) -> Result<Drafts, ShelfError> {
        let lies = signature_path(&self.0);
        let signature = match &new.signature {
            Some(signature) => Some(Draft::of(&lies, signature, USUAL_MODE).map_err(at(&lies))?),
            None => None,
        };
        let mode =
            std::fs::metadata(&self.0).map_or(USUAL_MODE, |metadata| metadata.mode() & MODE_BITS);
        let component = Draft::of(&self.0, &new.component, mode).map_err(at(&self.0))?;
        Ok(Drafts {
            component,
            signature,
        })
    }

    /// The signature goes first, so that the gateway does not find the component without it. Where the new one has none, what lies
    /// there stays: somebody may have put it there for the new build.
    fn put(&self, new: Drafts) -> Result<(), ShelfError> {
        let Drafts {
            component,
            signature,
        } = new;
        let lies = signature_path(&self.0);
        if let Some(signature) = signature {
            signature.put(&lies).map_err(at(&lies))?;
        }
        component.put(&self.0).map_err(at(&self.0))
    }
}

fn at(file: &Path) -> impl FnOnce(io::Error) -> ShelfError {
    let file = file.to_owned();
    move |error| ShelfError::Write(file, error)
}

/// A component and its signature before they are in their places.
struct Drafts {
    component: Draft,
    signature: Option<Draft>,
}

/// What is to be in the place of a file, on the disk beside it. Without an order to put it there it is gone again.
struct Draft(PathBuf);

impl Draft {
    fn of(file: &Path, bytes: &[u8], mode: u32) -> io::Result<Self> {
        let new = beside(file, ".new");
        remove(&new)?;
        let mut draft = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&new)?;
        // From here on it is taken away if it cannot be completed.
        let made = Self(new);
        draft.write_all(bytes)?;
        draft.sync_all()?;
        Ok(made)
    }

    fn put(self, file: &Path) -> io::Result<()> {
        std::fs::rename(&self.0, file)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // In its place it has this name no more.
        remove(&self.0).unwrap_or_default();
    }
}

fn digest(file: &Path) -> Option<Digest> {
    let bytes = bounded_file::read(file, COMPONENT_BYTES_MAX).ok()?;
    Some(digest_of(&bytes))
}

fn beside(file: &Path, ending: &str) -> PathBuf {
    let mut name = file.file_name().map_or_else(OsString::new, OsString::from);
    name.push(ending);
    file.with_file_name(name)
}

/// A second name for `file`, if it is there, in the place of what had that name.
fn link(file: &Path, name: &Path) -> io::Result<()> {
    remove(name)?;
    match std::fs::hard_link(file, name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Whether it was there.
fn moved(from: &Path, to: &Path) -> io::Result<bool> {
    match std::fs::rename(from, to) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn remove(file: &Path) -> io::Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::SecretKey;

    struct Desk {
        directory: tempfile::TempDir,
        shelf: Shelf,
    }

    impl Desk {
        /// With `component` and its signature in the place.
        fn new(component: &str, signature: Option<&str>) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let shelf = Shelf::new(&directory.path().join("line.wasm"));
            let desk = Self { directory, shelf };
            desk.put("line.wasm", component, signature);
            desk
        }

        fn put(&self, name: &str, component: &str, signature: Option<&str>) {
            let file = self.directory.path().join(name);
            std::fs::write(&file, component).unwrap();
            if let Some(signature) = signature {
                std::fs::write(signature_path(&file), signature).unwrap();
            }
        }

        /// Installs a build where `proved` has proved itself.
        fn install(&self, new: &str, signature: Option<&str>, proved: &str) -> Stocked {
            self.put("new.wasm", new, signature);
            let new = Stocked::read(&self.directory.path().join("new.wasm")).unwrap();
            let nobody = trust::Settings::default();
            let lay = self.shelf.install(&new, &nobody, is(proved)).unwrap();
            lay.unwrap()
        }

        fn holds(&self) -> (String, Option<String>) {
            self.pair(&self.shelf.0)
        }

        fn keeps(&self) -> Option<(String, Option<String>)> {
            let kept = self.shelf.before();
            let signature = kept_beside(&signature_path(&self.shelf.0));
            let component = std::fs::read_to_string(kept).ok()?;
            Some((component, std::fs::read_to_string(signature).ok()))
        }

        fn pair(&self, file: &Path) -> (String, Option<String>) {
            let signature = std::fs::read_to_string(signature_path(file)).ok();
            (std::fs::read_to_string(file).unwrap(), signature)
        }
    }

    fn is(content: &str) -> impl Fn(Digest) -> bool + use<> {
        let wanted = digest_of(content.as_bytes());
        move |digest| digest == wanted
    }

    fn pair(component: &str, signature: Option<&str>) -> (String, Option<String>) {
        (component.to_owned(), signature.map(str::to_owned))
    }

    #[test]
    fn a_disk_that_takes_no_component_leaves_the_signature_alone() {
        let desk = Desk::new("old", Some("of the old"));
        desk.put("new.wasm", "new", Some("of the new"));
        let new = Stocked::read(&desk.directory.path().join("new.wasm")).unwrap();
        std::fs::create_dir(desk.directory.path().join("line.wasm.new")).unwrap();
        let nobody = trust::Settings::default();
        let refused = desk.shelf.install(&new, &nobody, is("nothing"));
        let refused = refused.unwrap_err();
        assert!(matches!(refused, ShelfError::Write(..)), "{refused}");
        assert_eq!(desk.holds(), pair("old", Some("of the old")));
        let draft = beside(&signature_path(&desk.shelf.0), ".new");
        assert!(!draft.exists());
    }

    #[test]
    fn processes_take_turns() {
        let desk = Desk::new("old", None);
        let turn = desk.shelf.turn().unwrap();
        std::thread::scope(|scope| {
            let other = scope.spawn(|| desk.shelf.turn());
            assert!(!other.is_finished());
            drop(turn);
            assert!(other.join().unwrap().is_some());
        });
    }

    #[test]
    fn a_signature_comes_and_goes_with_its_component() {
        for of_old in [Some("of the old"), None] {
            let desk = Desk::new("old", of_old);
            let lay = desk.install("new", Some("of the new"), "old");
            assert_eq!(desk.holds(), pair("new", Some("of the new")));
            assert_eq!(desk.keeps(), Some(pair("old", of_old)));
            desk.shelf.put_back(&lay).unwrap();
            assert_eq!(desk.holds(), pair("old", of_old));

            let desk = Desk::new("old", of_old);
            desk.install("new", Some("of the new"), "old");
            let back = desk.shelf.take_back(is("old"), is("old"), is("old"));
            let back = back.unwrap();
            assert!(matches!(back, TakenBack::Back(_)), "{back:?}");
            assert_eq!(desk.holds(), pair("old", of_old));
            assert_eq!(desk.keeps(), None);
        }
    }

    #[test]
    fn a_component_without_a_signature_leaves_the_one_that_lies_there() {
        let desk = Desk::new("old", Some("of somebody"));
        let lay = desk.install("new", None, "old");
        assert_eq!(desk.holds(), pair("new", Some("of somebody")));
        desk.shelf.put_back(&lay).unwrap();
        assert_eq!(desk.holds(), pair("old", Some("of somebody")));
    }

    #[test]
    fn what_has_not_proved_itself_pushes_nothing_out() {
        let desk = Desk::new("good", Some("of the good"));
        desk.install("bad", None, "good");
        for more in ["worse", "worst"] {
            desk.install(more, Some("of another"), "good");
            assert_eq!(desk.keeps(), Some(pair("good", Some("of the good"))));
        }
        let shelf = &desk.shelf;
        shelf.take_back(is("good"), is("good"), is("good")).unwrap();
        assert_eq!(desk.holds(), pair("good", Some("of the good")));
    }

    #[test]
    fn the_fitting_signature_outlives_a_kill_between_two_renames() {
        let key = SecretKey::generate().unwrap();
        let trust = trust::Settings {
            policy: trust::Policy::Require,
            keys: vec![trust::TrustedKey {
                name: "plant".into(),
                key: key.public(),
            }],
            allow_downgrade: false,
        };
        let of = |bytes: &str| {
            let claim = trust::Claim::default();
            key.sign(bytes.as_bytes(), claim.comment("line.wasm", 1))
                .file()
        };
        let (good, bad) = (of("good"), of("bad"));
        let desk = Desk::new("good", Some(&bad));
        let signature = signature_path(&desk.shelf.0);
        std::fs::write(kept_beside(&signature), &good).unwrap();
        desk.put("new.wasm", "bad", Some(&bad));
        let new = Stocked::read(&desk.directory.path().join("new.wasm")).unwrap();
        desk.shelf.install(&new, &trust, is("good")).unwrap();
        assert_eq!(desk.keeps(), Some(pair("good", Some(&good))));
        let back = desk.shelf.take_back(is("good"), is("good"), |_| false);
        assert!(matches!(back, Ok(TakenBack::Back(_))));
        assert_eq!(desk.holds(), pair("good", Some(&good)));
        // One that was signed meanwhile, or by another key, is kept as it is now.
        let again = of("good");
        std::fs::write(&signature, &again).unwrap();
        desk.shelf.install(&new, &trust, is("good")).unwrap();
        assert_eq!(desk.keeps(), Some(pair("good", Some(&again))));
    }

    #[test]
    fn who_put_another_build_there_meanwhile_finds_it_there() {
        let desk = Desk::new("good", None);
        desk.install("bad", None, "good");
        desk.install("newer", None, "good");
        let failed = |lies: Digest| !is("bad")(lies);
        let back = desk.shelf.take_back(failed, is("good"), |_| false);
        assert!(matches!(back, Ok(TakenBack::LiesThere)));
        assert_eq!(desk.holds().0, "newer");
    }

    #[test]
    fn there_and_back_loses_neither() {
        let desk = Desk::new("first", Some("of the first"));
        desk.install("second", None, "first");
        // The second one has proved itself, and an operator goes back.
        let back = |to: &str, from: &str| desk.shelf.take_back(is(to), is(to), is(from));
        back("first", "second").unwrap();
        assert_eq!(desk.holds(), pair("first", Some("of the first")));
        assert_eq!(desk.keeps(), Some(pair("second", Some("of the first"))));
        back("second", "first").unwrap();
        assert_eq!(desk.holds().0, "second");
    }

    #[test]
    fn only_a_good_build_is_brought_back_and_only_over_another() {
        let desk = Desk::new("good", None);
        let nobody = |_| false;
        let back = |good: &str| {
            let shelf = &desk.shelf;
            shelf.take_back(is(good), is(good), nobody).unwrap()
        };
        assert_eq!(back("good"), TakenBack::LiesThere);
        desk.install("bad", None, "good");
        assert_eq!(back("another"), TakenBack::NotKept);
        assert_eq!(desk.holds().0, "bad");
        assert!(matches!(back("good"), TakenBack::Back(_)));
        assert_eq!(back("bad"), TakenBack::NotKept);
    }

    #[test]
    fn a_link_belongs_to_who_turns_it() {
        let desk = Desk::new("old", None);
        let turned = desk.directory.path().join("turned.wasm");
        std::os::unix::fs::symlink(&desk.shelf.0, &turned).unwrap();
        let shelf = Shelf::new(&turned);
        let new = Stocked::read(&desk.shelf.0).unwrap();
        let refused = shelf.install(&new, &trust::Settings::default(), |_| true);
        assert!(matches!(refused, Err(ShelfError::Link(_))));
        let back = shelf.take_back(is("other"), is("other"), |_| false);
        let back = back.unwrap();
        assert_eq!(back, TakenBack::NotKept);
    }
}
