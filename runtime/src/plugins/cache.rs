//! Compiled components on disk.
//!
//! wasmtime loads compiled code without checking it: whoever can change it runs native code in the host. So the
//! directory belongs to us alone (0700, no symlink), every entry carries an HMAC under a secret only we can read (0600),
//! and it is the bytes that were checked that are loaded, not the file. Whatever lay in a directory that others could
//! enter is thrown away, the secret first.
//!
//! ```text
//!  DIRECTORY/secret                             64 random bytes
//!  DIRECTORY/<sha256>-<engine>.cwasm            code | HMAC-SHA-256 of length and text of the name, and the code
//!  DIRECTORY/<sha256>-<engine>.cwasm.<n>.new    one being written
//! ```
//!
//! An entry is named by the SHA-256 of the component and by the hash of everything that makes compiled code fit an
//! engine (version, target, settings): another wasmtime or another processor never sees it, and an entry under another
//! name is none.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use moorline_core::swap::Digest;
use sha2::{Digest as _, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::private_directory::PrivateDirectory;

/// Entries kept, whatever their size; the oldest go first.
const ENTRIES_MAX: usize = 256;

/// One block of SHA-256, the natural size of an HMAC key.
const SECRET_BYTES: usize = 64;
const TAG_BYTES: usize = 32;
const PRIVATE_FILE: u32 = 0o600;
const SECRET: &str = "secret";
const ENTRY: &str = ".cwasm";
const DRAFT: &str = ".new";

/// The SHA-256 of `bytes`.
pub(crate) fn digest_of(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// The cache. Without a usable directory it holds nothing, and everything is compiled anew.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    vault: Option<Arc<Vault>>,
}

struct Vault {
    directory: PrivateDirectory,
    secret: [u8; SECRET_BYTES],
    bytes_max: u64,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault")
            .field("directory", &self.directory)
            .field("bytes_max", &self.bytes_max)
            .finish_non_exhaustive()
    }
}

impl Cache {
    /// Opens or makes the cache, which takes up at most `bytes_max` bytes. Reads the disk.
    pub(crate) fn open(directory: &Path, bytes_max: u64) -> Self {
        let vault = match Vault::open(directory, bytes_max) {
            Ok(vault) => Some(Arc::new(vault)),
            Err(error) => {
                tracing::warn!(directory = %directory.display(), %error, "no cache of compiled plugins");
                None
            }
        };
        Self { vault }
    }

    /// A cache that holds nothing.
    pub(crate) fn none() -> Self {
        Self { vault: None }
    }

    /// The component compiled earlier, if it is there and nobody has changed it. Reads the disk.
    pub(crate) fn load(&self, engine: &Engine, digest: Digest) -> Option<Component> {
        let vault = self.vault.as_ref()?;
        let name = entry_name(engine, digest);
        let sealed = match vault.directory.read(&name, vault.bytes_max) {
            Ok(sealed) => sealed,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(entry = name, %error, "a compiled plugin is not used; compiling anew");
                }
                return None;
            }
        };
        let Some(code) = vault.unsealed(&name, sealed) else {
            tracing::warn!(
                entry = name,
                "a compiled plugin was changed by somebody; compiling anew"
            );
            return None;
        };
        match deserialize(engine, &code) {
            Ok(component) => Some(component),
            Err(error) => {
                tracing::warn!(entry = name, error = %format!("{error:#}"), "a compiled plugin does not fit; compiling anew");
                None
            }
        }
    }

    /// Keeps `component`. Writes the disk. A failure costs a compilation next time, nothing else.
    /// `writer` tells apart who keeps the same component at the same time.
    pub(crate) fn store(
        &self,
        engine: &Engine,
        digest: Digest,
        component: &Component,
        writer: usize,
    ) {
        let Some(vault) = &self.vault else {
            return;
        };
        let name = entry_name(engine, digest);
        let stored = component
            .serialize()
            .map_err(|error| io::Error::other(format!("{error:#}")))
            .and_then(|code| vault.keep(&name, &code, writer));
        if let Err(error) = stored {
            tracing::warn!(entry = name, %error, "a compiled plugin is not kept");
        }
    }
}

impl Vault {
    fn open(path: &Path, bytes_max: u64) -> io::Result<Self> {
        let directory = PrivateDirectory::open(path)?;
        let secret = if directory.was_open_to_others() {
            None
        } else {
            known_secret(&directory)?
        };
        let suspect = secret.is_none();
        for entry in directory.entries("")? {
            // Nothing else is ours to remove.
            let stale = entry.name.ends_with(DRAFT) || (suspect && entry.name.ends_with(ENTRY));
            if stale {
                directory.remove(&entry.name)?;
            }
        }
        let secret = match secret {
            Some(secret) => secret,
            None => new_secret(&directory)?,
        };
        let vault = Self {
            directory,
            secret,
            bytes_max,
        };
        vault.evict()?;
        Ok(vault)
    }

    /// The code of an entry, if it was sealed under this name by us.
    fn unsealed(&self, name: &str, mut sealed: Vec<u8>) -> Option<Vec<u8>> {
        let code = sealed.len().checked_sub(TAG_BYTES)?;
        let tag = sealed.split_off(code);
        mac(&self.secret, name, &sealed).verify_slice(&tag).ok()?;
        Some(sealed)
    }

    fn keep(&self, name: &str, code: &[u8], writer: usize) -> io::Result<()> {
        let bytes = code.len().saturating_add(TAG_BYTES) as u64;
        if bytes > self.bytes_max {
            tracing::info!(
                entry = name,
                bytes,
                "a compiled plugin is larger than plugins.cache_bytes_max and not kept"
            );
            return Ok(());
        }
        let tag = mac(&self.secret, name, code).finalize().into_bytes();
        let draft = format!("{name}.{writer}{DRAFT}");
        self.directory.write(name, &draft, &[code, &tag])?;
        self.evict()
    }

    /// Removes the oldest until the rest is within the bounds.
    fn evict(&self) -> io::Result<()> {
        let mut entries = self.directory.entries(ENTRY)?;
        entries.sort();
        let mut bytes: u64 = entries.iter().map(|entry| entry.bytes).sum();
        let mut count = entries.len();
        for oldest in entries {
            if count <= ENTRIES_MAX && bytes <= self.bytes_max {
                return Ok(());
            }
            self.directory.remove(&oldest.name)?;
            bytes = bytes.saturating_sub(oldest.bytes);
            count -= 1;
        }
        Ok(())
    }
}

/// The secret of earlier, unless it is missing or not to be relied on.
fn known_secret(directory: &PrivateDirectory) -> io::Result<Option<[u8; SECRET_BYTES]>> {
    match directory.read(SECRET, SECRET_BYTES as u64) {
        Ok(secret) => {
            let secret = secret.try_into().ok();
            if secret.is_none() {
                tracing::warn!("the secret of the compiled plugins was damaged: a new one");
            }
            Ok(secret)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::FileTooLarge
            ) =>
        {
            tracing::warn!(%error, "the secret of the compiled plugins is not ours alone: a new one");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn new_secret(directory: &PrivateDirectory) -> io::Result<[u8; SECRET_BYTES]> {
    let mut secret = [0; SECRET_BYTES];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut secret)?;
    directory.write(SECRET, &format!("{SECRET}{DRAFT}"), &[&secret])?;
    Ok(secret)
}

/// What a child of ours has compiled.
pub(super) fn from_compiler(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    deserialize(engine, code)
}

#[expect(
    unsafe_code,
    reason = "the one place where compiled code becomes callable; the argument stands beside it"
)]
fn deserialize(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: `deserialize` asks for bytes that came from `Component::serialize` or `Engine::precompile_component` unchanged.
    // `code` is in our memory, and comes from one of two callers. `load` has just found it to be what this host sealed under
    // its own secret in `store`, where it came from `serialize`; the name, which is sealed too, binds it to this component and to
    // an engine of these settings. `from_compiler` has it from the standard output of a child that runs this very program, over a
    // pipe that nobody else has an end of, and of a child that ended well: that is `precompile_component`'s answer, whole.
    unsafe { Component::deserialize(engine, code) }
}

fn mac(secret: &[u8; SECRET_BYTES], name: &str, code: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new(secret.into());
    mac.update(&(name.len() as u64).to_le_bytes());
    mac.update(name.as_bytes());
    mac.update(code);
    mac
}

fn entry_name(engine: &Engine, digest: Digest) -> String {
    let mut fit = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut fit);
    format!("{}-{:016x}{ENTRY}", digest.hex(), fit.finish())
}

/// Writes beside and renames, so that nobody ever reads half of it.
pub(crate) fn write_private(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    write_beside(&path.with_extension("new"), path, parts)
}

fn write_beside(beside: &Path, path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    match std::fs::remove_file(beside) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(PRIVATE_FILE)
        .open(beside)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.sync_data()?;
    std::fs::rename(beside, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;

    use tempfile::TempDir;

    use super::*;

    const ROOMY: u64 = 16 * 1024 * 1024;
    /// The smallest component there is.
    const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";

    /// A cache of one engine, and what it compiled.
    struct Bench {
        directory: TempDir,
        engine: Engine,
        component: Component,
    }

    impl Bench {
        fn new() -> Self {
            let engine = Engine::default();
            Self {
                directory: tempfile::tempdir().unwrap(),
                component: Component::from_binary(&engine, EMPTY).unwrap(),
                engine,
            }
        }

        fn path(&self) -> PathBuf {
            self.directory.path().join("compiled")
        }

        fn open(&self) -> Cache {
            Cache::open(&self.path(), ROOMY)
        }

        fn store(&self, cache: &Cache, seed: u8) {
            cache.store(&self.engine, digest(seed), &self.component, 0);
        }

        fn has(&self, cache: &Cache, seed: u8) -> bool {
            cache.load(&self.engine, digest(seed)).is_some()
        }

        fn entry(&self, seed: u8) -> PathBuf {
            self.path().join(entry_name(&self.engine, digest(seed)))
        }

        fn close_to_others(&self, closed: bool) {
            let mode = if closed { 0o700 } else { 0o777 };
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(self.path(), permissions).unwrap();
        }

        fn secret(&self) -> Vec<u8> {
            std::fs::read(self.path().join(SECRET)).unwrap()
        }
    }

    fn digest(seed: u8) -> Digest {
        Digest([seed; 32])
    }

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path)
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    }

    #[test]
    fn what_was_kept_is_loaded_also_by_the_next_process() {
        let bench = Bench::new();
        let cache = bench.open();
        assert!(!bench.has(&cache, 1));
        bench.store(&cache, 1);
        assert!(bench.has(&cache, 1));
        assert!(bench.has(&bench.open(), 1));
        assert_eq!(mode(&bench.path()), 0o700);
        assert_eq!(mode(&bench.entry(1)), 0o600);
        assert_eq!(mode(&bench.path().join(SECRET)), 0o600);
    }

    #[test]
    fn no_bit_can_be_flipped_unnoticed() {
        let bench = Bench::new();
        let cache = bench.open();
        bench.store(&cache, 1);
        let good = std::fs::read(bench.entry(1)).unwrap();
        let step = (good.len() / 300).max(1);
        for at in (0..good.len()).step_by(step).chain([good.len() - 1]) {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            std::fs::write(bench.entry(1), bad).unwrap();
            assert!(!bench.has(&cache, 1), "byte {at} of {}", good.len());
        }
        for cut in [0, 1, TAG_BYTES - 1, TAG_BYTES, good.len() - 1] {
            std::fs::write(bench.entry(1), &good[..cut]).unwrap();
            assert!(!bench.has(&cache, 1), "cut to {cut}");
        }
        std::fs::write(bench.entry(1), good).unwrap();
        assert!(bench.has(&cache, 1));
    }

    #[test]
    fn an_entry_of_another_component_engine_or_host_is_none() {
        let (bench, other) = (Bench::new(), Bench::new());
        let (cache, foreign) = (bench.open(), other.open());
        bench.store(&cache, 1);
        std::fs::rename(bench.entry(1), bench.entry(2)).unwrap();
        assert!(!bench.has(&cache, 2));
        other.store(&foreign, 3);
        std::fs::copy(other.entry(3), bench.entry(3)).unwrap();
        assert!(!bench.has(&cache, 3));
        bench.store(&cache, 4);
        let mut config = wasmtime::Config::new();
        config.consume_fuel(true);
        let engine = Engine::new(&config).unwrap();
        let elsewhere = bench.path().join(entry_name(&engine, digest(4)));
        std::fs::rename(bench.entry(4), elsewhere).unwrap();
        assert!(cache.load(&engine, digest(4)).is_none());
    }

    #[test]
    fn what_lay_where_others_could_write_is_thrown_away() {
        let bench = Bench::new();
        bench.store(&bench.open(), 1);
        let before = bench.secret();
        bench.close_to_others(false);
        let cache = bench.open();
        assert!(!bench.has(&cache, 1));
        assert!(!bench.entry(1).exists());
        assert_ne!(bench.secret(), before);
        assert_eq!(mode(&bench.path()), 0o700);
        bench.store(&cache, 1);
        assert!(bench.has(&bench.open(), 1));
    }

    #[test]
    fn a_secret_that_others_can_read_or_have_chosen_is_replaced() {
        let bench = Bench::new();
        bench.store(&bench.open(), 1);
        let path = bench.path().join(SECRET);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(!bench.has(&bench.open(), 1));
        for wrong in [&[7; 63][..], &[7; 65], b""] {
            bench.store(&bench.open(), 1);
            std::fs::write(&path, wrong).unwrap();
            assert!(!bench.has(&bench.open(), 1), "{} bytes", wrong.len());
        }
        bench.store(&bench.open(), 1);
        let chosen = bench.directory.path().join("chosen");
        std::fs::rename(&path, &chosen).unwrap();
        symlink(&chosen, &path).unwrap();
        assert!(!bench.has(&bench.open(), 1));
        assert!(!path.is_symlink());
    }

    #[test]
    fn no_symlink_is_followed() {
        let bench = Bench::new();
        let cache = bench.open();
        bench.store(&cache, 1);
        let elsewhere = bench.directory.path().join("elsewhere");
        std::fs::rename(bench.entry(1), &elsewhere).unwrap();
        symlink(&elsewhere, bench.entry(1)).unwrap();
        assert!(!bench.has(&cache, 1));
        // Keeping it again replaces the link and not what it leads to.
        let before = std::fs::read(&elsewhere).unwrap();
        std::fs::write(&elsewhere, b"theirs").unwrap();
        bench.store(&cache, 1);
        assert_eq!(std::fs::read(&elsewhere).unwrap(), b"theirs");
        assert_eq!(std::fs::read(bench.entry(1)).unwrap(), before);

        let linked = bench.directory.path().join("linked");
        symlink(bench.path(), &linked).unwrap();
        let cache = Cache::open(&linked, ROOMY);
        assert!(!bench.has(&cache, 1));
        bench.store(&cache, 2);
        assert!(!bench.entry(2).exists());
    }

    #[test]
    fn a_directory_of_somebody_else_is_not_used() {
        let bench = Bench::new();
        bench.open();
        let nobody = Some(rustix::fs::Uid::from_raw(65_534));
        if rustix::fs::chown(bench.path(), nobody, None).is_err() {
            eprintln!("SKIPPED: only root can give a directory away");
            return;
        }
        let cache = bench.open();
        bench.store(&cache, 1);
        assert!(!bench.entry(1).exists());
    }

    #[test]
    fn the_oldest_go_when_the_bound_is_reached() {
        let bench = Bench::new();
        bench.store(&bench.open(), 1);
        let one = std::fs::metadata(bench.entry(1)).unwrap().len();
        let cache = Cache::open(&bench.path(), 3 * one);
        for seed in 2..=5 {
            bench.store(&cache, seed);
        }
        let kept: Vec<u8> = (1..=5).filter(|seed| bench.has(&cache, *seed)).collect();
        assert_eq!(kept, [3, 4, 5]);
        let small = Cache::open(&bench.path(), one - 1);
        assert!((1..=5).all(|seed| !bench.entry(seed).exists()));
        bench.store(&small, 6);
        assert!(!bench.entry(6).exists());
        std::fs::write(bench.path().join("x.cwasm.0.new"), b"half").unwrap();
        bench.open();
        assert!(!bench.path().join("x.cwasm.0.new").exists());
    }
}
