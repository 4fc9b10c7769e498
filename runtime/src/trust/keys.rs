//! Secret keys: made, sealed with a password, opened, and signed with.

use blake2::digest::consts::U32;
use blake2::{Blake2b, Digest as _};
use moorline_core::trust::minisign::{
    CHECKSUM_BYTES, FormatError, KEY_BYTES, KeyId, PublicKey, SALT_BYTES, SEALED_BYTES, Scrypt,
    SecretKeyFile, Signature, Unsealed,
};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair};
use thiserror::Error;

use super::prehash;

/// Why a secret key cannot be used.
#[derive(Debug, Error)]
pub(crate) enum KeyError {
    /// Its file is none.
    #[error("it is no secret key of minisign: {0}")]
    Format(#[from] FormatError),
    /// It is sealed and no password came.
    #[error("it is sealed with a password")]
    PasswordNeeded,
    /// It does not open.
    #[error("the password is wrong, or the file is damaged")]
    WrongPassword,
    /// It is not sealed, and its two halves do not belong together.
    #[error("the file is damaged: its halves do not belong together")]
    Damaged,
    /// The operating system gives no random numbers.
    #[error("the operating system gives no random numbers")]
    Random,
}

/// A secret key, open.
pub(crate) struct SecretKey {
    parts: Unsealed,
    pair: Ed25519KeyPair,
}

impl SecretKey {
    /// Makes a new one.
    ///
    /// # Errors
    /// When there are no random numbers.
    pub(crate) fn generate() -> Result<Self, KeyError> {
        let seed = random::<KEY_BYTES>()?;
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_short| KeyError::Random)?;
        let mut parts = Unsealed {
            id: KeyId(random()?),
            seed,
            public: public_half(&pair),
            checksum: [0; CHECKSUM_BYTES],
        };
        parts.checksum = checksum(&parts);
        Ok(Self { parts, pair })
    }

    /// Opens a file. With a password it takes a quarter of a second and 128 MiB, or 1 GiB if minisign made it.
    ///
    /// # Errors
    /// When it does not open.
    pub(crate) fn open(file: &SecretKeyFile, password: Option<&str>) -> Result<Self, KeyError> {
        let parts = match (&file.password, password) {
            (None, _) => Unsealed::from_bytes(&file.sealed),
            (Some(_), None) => return Err(KeyError::PasswordNeeded),
            (Some(scrypt), Some(password)) => {
                let opened = Unsealed::from_bytes(&sealed(&file.sealed, scrypt, password)?);
                if checksum(&opened) != opened.checksum {
                    return Err(KeyError::WrongPassword);
                }
                opened
            }
        };
        let pair = Ed25519KeyPair::from_seed_and_public_key(&parts.seed, &parts.public)
            .map_err(|_rejected| KeyError::Damaged)?;
        Ok(Self { parts, pair })
    }

    /// The file, sealed if there is a password.
    ///
    /// # Errors
    /// When there are no random numbers.
    pub(crate) fn file(&self, password: Option<&str>) -> Result<SecretKeyFile, KeyError> {
        let plain = self.parts.to_bytes();
        let Some(password) = password else {
            return Ok(SecretKeyFile {
                password: None,
                sealed: plain,
            });
        };
        let scrypt = Scrypt::new(random::<SALT_BYTES>()?);
        Ok(SecretKeyFile {
            sealed: sealed(&plain, &scrypt, password)?,
            password: Some(scrypt),
        })
    }

    /// What others check its signatures with.
    pub(crate) const fn public(&self) -> PublicKey {
        PublicKey {
            id: self.parts.id,
            key: self.parts.public,
        }
    }

    /// Signs a file's bytes and what is said of them.
    pub(crate) fn sign(&self, bytes: &[u8], trusted_comment: String) -> Signature {
        let signature = raw(&self.pair, &prehash(bytes));
        let message = Signature::comment_message(&signature, &trusted_comment);
        Signature {
            key: self.parts.id,
            prehashed: true,
            signature,
            comment_signature: raw(&self.pair, &message),
            trusted_comment,
        }
    }
}

fn raw(pair: &Ed25519KeyPair, message: &[u8]) -> [u8; 64] {
    // An Ed25519 signature has 64 bytes; zeros, which verify nothing, stand for what cannot be.
    pair.sign(message).as_ref().try_into().unwrap_or([0; 64])
}

fn public_half(pair: &Ed25519KeyPair) -> [u8; KEY_BYTES] {
    pair.public_key()
        .as_ref()
        .try_into()
        .unwrap_or([0; KEY_BYTES])
}

fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_unspecified| KeyError::Random)?;
    Ok(bytes)
}

fn checksum(parts: &Unsealed) -> [u8; CHECKSUM_BYTES] {
    Blake2b::<U32>::digest(parts.summed()).into()
}

/// Lays the password's stream over `bytes`: seals what is open and opens what is sealed.
fn sealed(
    bytes: &[u8; SEALED_BYTES],
    scrypt: &Scrypt,
    password: &str,
) -> Result<[u8; SEALED_BYTES], KeyError> {
    let (log_n, p) = scrypt.parameters()?;
    let parameters = scrypt::Params::new(log_n, 8, p).map_err(|_out_of_range| FormatError::Cost)?;
    let mut stream = [0; SEALED_BYTES];
    scrypt::scrypt(password.as_bytes(), &scrypt.salt, &parameters, &mut stream)
        .map_err(|_length| FormatError::Cost)?;
    for (byte, over) in stream.iter_mut().zip(bytes) {
        *byte ^= over;
    }
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(name: &str) -> String {
        let path = format!(
            "{}/../tests/data/minisign/{name}",
            env!("CARGO_MANIFEST_DIR")
        );
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_key_is_sealed_and_opened_and_signs_the_same() {
        let key = SecretKey::generate().unwrap();
        let public = key.public();
        let plain = key.file(None).unwrap();
        assert_eq!(SecretKey::open(&plain, None).unwrap().public(), public);
        let sealed = key.file(Some("correct horse")).unwrap();
        let sealed = SecretKeyFile::parse(&sealed.file()).unwrap();
        let opened = SecretKey::open(&sealed, Some("correct horse")).unwrap();
        assert_eq!(opened.public(), public);
        assert!(matches!(
            SecretKey::open(&sealed, Some("correct house")),
            Err(KeyError::WrongPassword)
        ));
        assert!(matches!(
            SecretKey::open(&sealed, None),
            Err(KeyError::PasswordNeeded)
        ));
        assert!(super::super::fits(
            b"x",
            &opened.sign(b"x", "c".to_owned()),
            &public
        ));
        assert!(!super::super::fits(
            b"y",
            &opened.sign(b"x", "c".to_owned()),
            &public
        ));
    }

    #[test]
    fn a_key_of_minisign_without_a_password_opens_and_a_damaged_one_does_not() {
        let mut file = SecretKeyFile::parse(&data("plain.key")).unwrap();
        let public = PublicKey::parse(&data("plain.pub")).unwrap();
        assert_eq!(SecretKey::open(&file, None).unwrap().public(), public);
        file.sealed[20] ^= 1;
        assert!(matches!(
            SecretKey::open(&file, None),
            Err(KeyError::Damaged)
        ));
    }

    #[test]
    #[ignore = "scrypt as minisign wants it: 1 GiB, and a minute without optimisation"]
    fn a_key_that_minisign_sealed_opens() {
        let file = SecretKeyFile::parse(&data("sealed.key")).unwrap();
        let public = PublicKey::parse(&data("sealed.pub")).unwrap();
        assert_eq!(
            SecretKey::open(&file, Some("secret")).unwrap().public(),
            public
        );
    }
}
