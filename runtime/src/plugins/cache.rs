//! Compiled components on disk.
//!
//! wasmtime loads compiled code without checking it: whoever can change it runs native code in the host. So the
//! directory belongs to us alone (0700), every entry carries an HMAC under a secret only we can read (0600), and it is
//! the bytes that were checked that are loaded, not the file.
//!
//! An entry is named by the SHA-256 of the component and by the hash of everything that makes compiled code fit an
//! engine (version, target, settings): another wasmtime or another processor never sees it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use moorline_core::swap::Digest;
use sha2::{Digest as _, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

/// Entries kept; the oldest go first.
const ENTRIES_MAX: usize = 32;

/// One block of SHA-256, the natural size of an HMAC key.
const SECRET_BYTES: usize = 64;
const TAG_BYTES: usize = 32;
const PRIVATE_DIRECTORY: u32 = 0o700;
const PRIVATE_FILE: u32 = 0o600;

/// The SHA-256 of `bytes`.
pub(crate) fn digest_of(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// The cache. Without a usable directory it holds nothing, and everything is compiled anew.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    place: Option<(PathBuf, [u8; SECRET_BYTES])>,
}

impl Cache {
    /// Opens or makes the cache. Reads the disk.
    pub(crate) fn open(directory: &Path) -> Self {
        let place = match prepare(directory) {
            Ok(secret) => Some((directory.to_owned(), secret)),
            Err(error) => {
                tracing::warn!(directory = %directory.display(), %error, "no cache of compiled plugins");
                None
            }
        };
        Self { place }
    }

    /// A cache that holds nothing.
    pub(crate) fn none() -> Self {
        Self { place: None }
    }

    /// The component compiled earlier, if it is there and nobody has changed it. Reads the disk.
    pub(crate) fn load(&self, engine: &Engine, digest: Digest) -> Option<Component> {
        let (directory, secret) = self.place.as_ref()?;
        let name = entry_name(engine, digest);
        let path = directory.join(&name);
        let mut sealed = match std::fs::read(&path) {
            Ok(sealed) => sealed,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(path = %path.display(), %error, "compiled plugin is unreadable");
                }
                return None;
            }
        };
        let code = sealed.len().checked_sub(TAG_BYTES)?;
        let tag = sealed.split_off(code);
        if mac(secret, &name, &sealed).verify_slice(&tag).is_err() {
            tracing::warn!(path = %path.display(), "compiled plugin was changed by somebody; compiling anew");
            return None;
        }
        match deserialize(engine, &sealed) {
            Ok(component) => Some(component),
            Err(error) => {
                tracing::warn!(path = %path.display(), error = %format!("{error:#}"), "compiled plugin does not fit; compiling anew");
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
        let Some((directory, secret)) = &self.place else {
            return;
        };
        let name = entry_name(engine, digest);
        let stored = component
            .serialize()
            .map_err(|error| io::Error::other(format!("{error:#}")))
            .and_then(|code| {
                let tag = mac(secret, &name, &code).finalize().into_bytes();
                let draft = directory.join(format!("{name}.{writer}.new"));
                write_beside(&draft, &directory.join(&name), &[&code, &tag])
            })
            .and_then(|()| evict(directory));
        if let Err(error) = stored {
            tracing::warn!(directory = %directory.display(), %error, "compiled plugin is not kept");
        }
    }
}

#[expect(
    unsafe_code,
    reason = "the one place where compiled code becomes callable; the argument stands beside it"
)]
fn deserialize(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: `deserialize` asks for bytes that came from `Component::serialize` unchanged. `code` is in our memory,
    // and `load` has just found it to be what this host sealed under its own secret in `store`, where it came from
    // `serialize`. The name, which is sealed too, binds it to this component and to an engine of these settings.
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
    let hex: String = digest.0.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{hex}-{:016x}.cwasm", fit.finish())
}

fn prepare(directory: &Path) -> io::Result<[u8; SECRET_BYTES]> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(PRIVATE_DIRECTORY)
        .create(directory)?;
    std::fs::set_permissions(
        directory,
        std::fs::Permissions::from_mode(PRIVATE_DIRECTORY),
    )?;
    let path = directory.join("secret");
    match std::fs::read(&path) {
        Ok(secret) => {
            if std::fs::metadata(&path)?.permissions().mode() & 0o077 == 0
                && let Ok(secret) = secret.try_into()
            {
                return Ok(secret);
            }
            tracing::warn!(path = %path.display(), "the cache's secret was readable by others or damaged: a new one");
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut secret = [0; SECRET_BYTES];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut secret)?;
    write_private(&path, &[&secret])?;
    Ok(secret)
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

fn evict(directory: &Path) -> io::Result<()> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|e| e == "cwasm") {
            match entry.metadata().and_then(|metadata| metadata.modified()) {
                Ok(modified) => entries.push((modified, entry.path())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    entries.sort();
    let surplus = entries.len().saturating_sub(ENTRIES_MAX);
    entries
        .iter()
        .take(surplus)
        .try_for_each(|(_, path)| match std::fs::remove_file(path) {
            // Somebody else was tidying up, too.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        })
}
