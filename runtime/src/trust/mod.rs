//! Signatures of components: checked, made, and the keys for it. What the files look like and what follows from a finding
//! is `moorline_core::trust`; here is what needs cryptography or a disk.
//!
//! A signature is checked over the bytes that are compiled afterwards, which were read once: whoever changes the file in
//! between changes nothing.

mod keys;
mod ledger;

use std::path::{Path, PathBuf};

use blake2::{Blake2b512, Digest as _};
use moorline_core::swap::{Digest, Failure, Reason};
use moorline_core::trust::minisign::{PREHASH_BYTES, PublicKey, Signature};
use moorline_core::trust::{Origin, Policy, Settings, Signer};
use ring::signature::{ED25519, UnparsedPublicKey};

use crate::bounded_file::{self, ReadError};

pub(crate) use keys::{KeyError, SecretKey};
pub(crate) use ledger::{Gate, Ledger, Place};

/// The largest signature or key that is read. minisign's own bound for a trusted comment is 8 KiB.
pub(crate) const SIGNATURE_FILE_BYTES_MAX: u64 = 16 * 1024;

/// What a signature's file is called after its component's.
const SUFFIX: &str = ".minisig";
const KEPT_SUFFIX: &str = ".before";

/// Where the signature of `component` lies: beside it, under the name it was asked for by.
pub(crate) fn signature_path(component: &Path) -> PathBuf {
    let mut path = component.as_os_str().to_owned();
    path.push(SUFFIX);
    path.into()
}

/// Where the signature lies of the build that is kept beside `component`.
fn kept_signature_path(component: &Path) -> PathBuf {
    kept_beside(&signature_path(component))
}

/// The name under which `file` is kept while another has its place.
pub(crate) fn kept_beside(file: &Path) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(KEPT_SUFFIX);
    path.into()
}

/// Finds out where `bytes`, which lie at `component` or are kept beside it, come from. Reads the signatures; blocks.
///
/// Component and signature get to their places one after the other. Of whom is killed in between the fitting signature lies under
/// the other name, and is as good there.
///
/// # Errors
/// When the policy refuses them, with what is wrong with the signature under its usual name.
pub(crate) fn examine(
    bytes: &[u8],
    digest: Digest,
    component: &Path,
    settings: &Settings,
) -> Result<Origin, Failure> {
    if settings.policy == Policy::Off {
        return Ok(Origin::Unchecked);
    }
    settings.admit(signer_of_either(bytes, digest, component, settings))
}

/// Who has signed `bytes`, by the signature under its usual name or under that of the kept one, whatever the policy. Blocks.
///
/// # Errors
/// When that cannot be proven by either; with what is wrong with the former.
pub(crate) fn signer_of_either(
    bytes: &[u8],
    digest: Digest,
    component: &Path,
    settings: &Settings,
) -> Result<Signer, Failure> {
    signer(bytes, digest, component, settings).or_else(|failure| {
        signer_by(bytes, digest, &kept_signature_path(component), settings).map_err(|_| failure)
    })
}

/// Who has signed `bytes`, by the signature under its usual name, whatever the policy. Blocks.
///
/// # Errors
/// When that cannot be proven.
pub(crate) fn signer(
    bytes: &[u8],
    digest: Digest,
    component: &Path,
    settings: &Settings,
) -> Result<Signer, Failure> {
    signer_by(bytes, digest, &signature_path(component), settings)
}

fn signer_by(
    bytes: &[u8],
    digest: Digest,
    signature: &Path,
    settings: &Settings,
) -> Result<Signer, Failure> {
    let signature = read(signature)?;
    let keys = settings.keys_of(signature.key)?;
    let fits = keys
        .iter()
        .find(|known| fits(bytes, &signature, &known.key));
    let Some(key) = fits else {
        let detail = format!(
            "key {} has not signed these bytes with this comment",
            signature.key
        );
        return Err(Failure::new(Reason::BadSignature, detail));
    };
    let signer = Signer {
        name: key.name.clone(),
        key: key.key.id,
        trusted_comment: signature.trusted_comment,
    };
    signer.claim().check_digest(digest)?;
    Ok(signer)
}

/// Reads the signature that lies at `path`, of which nothing is checked but its form. Blocks.
///
/// # Errors
/// When there is none, or it is none.
fn read(path: &Path) -> Result<Signature, Failure> {
    let text = bounded_file::read_text(path, SIGNATURE_FILE_BYTES_MAX).map_err(|error| {
        let missing =
            matches!(&error, ReadError::Io(io) if io.kind() == std::io::ErrorKind::NotFound);
        if missing {
            Failure::new(Reason::Unsigned, format!("there is no {}", path.display()))
        } else {
            let detail = format!("{} cannot be read: {error}", path.display());
            Failure::new(Reason::BadSignature, detail)
        }
    })?;
    Signature::parse(&text).map_err(|error| {
        let detail = format!("{} is no signature: {error}", path.display());
        Failure::new(Reason::BadSignature, detail)
    })
}

fn fits(bytes: &[u8], signature: &Signature, key: &PublicKey) -> bool {
    let key = UnparsedPublicKey::new(&ED25519, key.key);
    let over_file = if signature.prehashed {
        key.verify(&prehash(bytes), &signature.signature)
    } else {
        key.verify(bytes, &signature.signature)
    };
    let comment = Signature::comment_message(&signature.signature, &signature.trusted_comment);
    over_file.is_ok() && key.verify(&comment, &signature.comment_signature).is_ok()
}

fn prehash(bytes: &[u8]) -> [u8; PREHASH_BYTES] {
    Blake2b512::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use moorline_core::trust::TrustedKey;

    use super::*;
    use crate::plugins::digest_of;

    fn data(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../tests/data/minisign")
            .join(name)
    }

    fn trusting(keys: &[&str]) -> Settings {
        let key = |name: &&str| TrustedKey {
            name: (*name).into(),
            key: PublicKey::parse(&std::fs::read_to_string(data(name)).unwrap()).unwrap(),
        };
        Settings {
            policy: Policy::Require,
            keys: keys.iter().map(key).collect(),
            allow_downgrade: false,
        }
    }

    /// `hello` with one of the signatures that minisign 0.11 made of it.
    struct Signed {
        directory: tempfile::TempDir,
        bytes: Vec<u8>,
    }

    impl Signed {
        fn with(signature: &str) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let bytes = std::fs::read(data("hello")).unwrap();
            let signed = Self { directory, bytes };
            std::fs::copy(data(signature), signature_path(&signed.path())).unwrap();
            signed
        }

        fn path(&self) -> PathBuf {
            self.directory.path().join("hello")
        }

        fn edit(&self, change: impl Fn(&str) -> String) {
            let path = signature_path(&self.path());
            let text = std::fs::read_to_string(&path).unwrap();
            std::fs::write(&path, change(&text)).unwrap();
        }

        fn signer(&self, keys: &[&str]) -> Result<Signer, Failure> {
            let digest = digest_of(&self.bytes);
            signer(&self.bytes, digest, &self.path(), &trusting(keys))
        }
    }

    #[track_caller]
    fn assert_fails(result: Result<Signer, Failure>, reason: Reason, words: &str) {
        let failure = result.unwrap_err();
        assert_eq!(failure.reason, reason, "{failure}");
        assert!(failure.detail.contains(words), "{failure}");
    }

    #[test]
    fn signatures_of_minisign_are_good_and_name_their_key() {
        for (signature, key) in [
            ("hello.minisig", "plain.pub"),
            ("hello-legacy.minisig", "plain.pub"),
            ("hello-sealed.minisig", "sealed.pub"),
        ] {
            let signer = Signed::with(signature)
                .signer(&["plain.pub", "sealed.pub"])
                .unwrap();
            assert_eq!(&*signer.name, key, "{signature}");
            assert!(signer.trusted_comment.contains("file:hello"), "{signer:?}");
        }
    }

    #[test]
    fn a_signature_under_the_name_of_the_kept_one_is_as_good() {
        let signed = Signed::with("hello.minisig");
        let digest = digest_of(&signed.bytes);
        let examined =
            |keys: &[&str]| examine(&signed.bytes, digest, &signed.path(), &trusting(keys));
        std::fs::rename(
            signature_path(&signed.path()),
            kept_signature_path(&signed.path()),
        )
        .unwrap();
        assert!(matches!(examined(&["plain.pub"]), Ok(Origin::Signed(_))));
        // Who asks about one file means the signature beside it.
        let strict = signed.signer(&["plain.pub"]);
        assert_fails(strict, Reason::Unsigned, "hello.minisig");
        // What is wrong is said of the usual name.
        let failure = examined(&["sealed.pub"]).unwrap_err();
        assert_eq!(failure.reason, Reason::Unsigned, "{failure}");
    }

    #[test]
    fn one_changed_bit_is_found_wherever_it_is() {
        for signature in ["hello.minisig", "hello-legacy.minisig"] {
            let mut signed = Signed::with(signature);
            signed.bytes[3] ^= 1;
            let words = "has not signed these bytes";
            assert_fails(signed.signer(&["plain.pub"]), Reason::BadSignature, words);
        }
        let comment = Signed::with("hello.minisig");
        comment.edit(|text| text.replace("file:hello", "file:hullo"));
        let words = "with this comment";
        assert_fails(comment.signer(&["plain.pub"]), Reason::BadSignature, words);
        // A legacy signature is over the file, a prehashed one over its hash: neither passes for the other.
        let other = Signed::with("hello-legacy.minisig");
        other.edit(|text| text.replace("\nRWTM", "\nRUTM"));
        assert_fails(other.signer(&["plain.pub"]), Reason::BadSignature, "signed");
    }

    #[test]
    fn what_is_missing_unknown_or_no_signature_is_told_apart() {
        let signed = Signed::with("hello.minisig");
        let words = "8E57A10B6BE239CC; trusted are sealed.pub (95B56E421CA2915E)";
        assert_fails(signed.signer(&["sealed.pub"]), Reason::UnknownKey, words);
        assert_fails(signed.signer(&[]), Reason::UnknownKey, "none is trusted");
        // Another key under the same number.
        let mut settings = trusting(&["sealed.pub"]);
        settings.keys[0].key.id = trusting(&["plain.pub"]).keys[0].key.id;
        let digest = digest_of(&signed.bytes);
        let result = signer(&signed.bytes, digest, &signed.path(), &settings);
        assert_fails(result, Reason::BadSignature, "has not signed");
        signed.edit(|_| "sorry\n".to_owned());
        let words = "is no signature: it has no line 2";
        assert_fails(signed.signer(&["plain.pub"]), Reason::BadSignature, words);
        signed.edit(|_| "x".repeat(20_000));
        let words = "more than 16384 bytes";
        assert_fails(signed.signer(&["plain.pub"]), Reason::BadSignature, words);
        std::fs::remove_file(signature_path(&signed.path())).unwrap();
        let words = "hello.minisig";
        assert_fails(signed.signer(&["plain.pub"]), Reason::Unsigned, words);
    }
}
