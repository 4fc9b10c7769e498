//! The files of minisign, as bytes: public keys, secret keys, signatures. What is computed over them is the shell's.
//!
//! ```text
//!  public key   untrusted comment: <text>
//!               base64( "Ed" | key id 8 | key 32 )
//!  secret key   untrusted comment: <text>
//!               base64( "Ed" | "Sc" or 0 0 | "B2" | salt 32 | ops 8 | memory 8 | sealed 104 )
//!                        sealed = ( key id 8 | seed 32, key 32 | BLAKE2b-256 of "Ed", id, seed, key ) xor scrypt stream
//!  signature    untrusted comment: <text>
//!               base64( "ED" or "Ed" | key id 8 | signature 64 )     over BLAKE2b-512 of the file, or over the file
//!               trusted comment: <text>
//!               base64( signature 64 )                               over the signature above and the trusted comment
//! ```
//!
//! All numbers little endian. Source: <https://jedisct1.github.io/minisign/>, "Signature format" and below, and the
//! files of minisign 0.11.

use std::fmt;

use data_encoding::BASE64;
use thiserror::Error;

/// Bytes of a public key, and of a seed.
pub const KEY_BYTES: usize = 32;
/// Bytes of an Ed25519 signature.
pub const SIGNATURE_BYTES: usize = 64;
/// Bytes of a BLAKE2b-512 hash, which a prehashed signature is over.
pub const PREHASH_BYTES: usize = 64;
/// Bytes of the part of a secret key that a password seals.
pub const SEALED_BYTES: usize = KEY_ID_BYTES + 2 * KEY_BYTES + CHECKSUM_BYTES;
/// Bytes of a salt.
pub const SALT_BYTES: usize = 32;
/// Bytes of the checksum that tells a right password from a wrong one.
pub const CHECKSUM_BYTES: usize = 32;

const KEY_ID_BYTES: usize = 8;
const ALGORITHM: [u8; 2] = *b"Ed";
const PREHASHED: [u8; 2] = *b"ED";
const SCRYPT: [u8; 2] = *b"Sc";
const NO_PASSWORD: [u8; 2] = [0, 0];
const CHECKSUM: [u8; 2] = *b"B2";
const UNTRUSTED: &str = "untrusted comment: ";
const TRUSTED: &str = "trusted comment: ";

/// scrypt's block size, which minisign's parameters are counted in.
const SCRYPT_R: u64 = 8;
/// The most a key may ask for: 2^20 blocks of 1 KiB, 1 GiB, is what minisign itself uses.
const SCRYPT_LOG_N_MAX: u8 = 20;
const SCRYPT_P_MAX: u64 = 16;

/// Why a text is no file of minisign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FormatError {
    /// A line is missing.
    #[error("it has no line {0}, where {1} belongs")]
    Missing(usize, &'static str),
    /// A line that is to be a comment does not begin as one.
    #[error("its line {0} does not begin with {1:?}")]
    Comment(usize, &'static str),
    /// A line is not Base64, or of the wrong length.
    #[error("its line {line} is not {bytes} bytes in Base64")]
    Encoding {
        /// The line, from 1.
        line: usize,
        /// What it should hold.
        bytes: usize,
    },
    /// Another algorithm than minisign has.
    #[error("it is made by an algorithm that is not minisign's")]
    Algorithm,
    /// The trusted comment holds control characters.
    #[error("its trusted comment holds control characters")]
    ControlCharacter,
    /// Opening the secret key would need more than a GiB of memory.
    #[error("opening it would take more memory or time than any key of minisign does")]
    Cost,
}

/// The number of a key pair: a name, not a proof.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; KEY_ID_BYTES]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", u64::from_le_bytes(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What signatures are checked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey {
    /// Its number.
    pub id: KeyId,
    /// The Ed25519 key.
    pub key: [u8; KEY_BYTES],
}

impl PublicKey {
    /// Reads the line that begins with `RW`, or a file with a comment before it.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        let mut lines = text.lines();
        let first = lines.next().unwrap_or_default();
        let (line, encoded) = if first.starts_with(UNTRUSTED) {
            let encoded = lines.next();
            (2, encoded.ok_or(FormatError::Missing(2, "the key"))?)
        } else {
            (1, first)
        };
        let (algorithm, id, key) = split(&decoded::<42>(line, encoded)?);
        if algorithm != ALGORITHM {
            return Err(FormatError::Algorithm);
        }
        Ok(Self { id: KeyId(id), key })
    }

    /// The line alone.
    #[must_use]
    pub fn line(&self) -> String {
        BASE64.encode(&[&ALGORITHM[..], &self.id.0, &self.key].concat())
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> String {
        format!(
            "{UNTRUSTED}minisign public key {}\n{}\n",
            self.id,
            self.line()
        )
    }
}

/// A detached signature of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The key that made it, as it says.
    pub key: KeyId,
    /// Over BLAKE2b-512 of the file; otherwise over the file itself, as old versions of minisign did it.
    pub prehashed: bool,
    /// Over the file.
    pub signature: [u8; SIGNATURE_BYTES],
    /// What the signer says of the file. To be believed once both signatures are checked.
    pub trusted_comment: String,
    /// Over `signature` and `trusted_comment`.
    pub comment_signature: [u8; SIGNATURE_BYTES],
}

impl Signature {
    /// Reads a `.minisig` file. Nothing is checked but its form.
    ///
    /// # Errors
    /// When it has another form.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        let mut lines = text.lines();
        let mut line = |number, what| lines.next().ok_or(FormatError::Missing(number, what));
        let untrusted = line(1, "a comment")?;
        let signature = line(2, "the signature")?;
        let trusted = line(3, "the trusted comment")?;
        let global = line(4, "the signature of the comment")?;
        if !untrusted.starts_with(UNTRUSTED) {
            return Err(FormatError::Comment(1, UNTRUSTED));
        }
        let trusted = trusted
            .strip_prefix(TRUSTED)
            .ok_or(FormatError::Comment(3, TRUSTED))?;
        if trusted.chars().any(|c| c.is_control() && c != '\t') {
            return Err(FormatError::ControlCharacter);
        }
        let (algorithm, key, signature) = split(&decoded::<74>(2, signature)?);
        let prehashed = match algorithm {
            PREHASHED => true,
            ALGORITHM => false,
            _ => return Err(FormatError::Algorithm),
        };
        Ok(Self {
            key: KeyId(key),
            prehashed,
            signature,
            trusted_comment: trusted.to_owned(),
            comment_signature: decoded::<SIGNATURE_BYTES>(4, global)?,
        })
    }

    /// What `comment_signature` is over.
    #[must_use]
    pub fn comment_message(signature: &[u8; SIGNATURE_BYTES], trusted_comment: &str) -> Vec<u8> {
        [&signature[..], trusted_comment.as_bytes()].concat()
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> String {
        let algorithm = if self.prehashed { PREHASHED } else { ALGORITHM };
        let first = [&algorithm[..], &self.key.0, &self.signature].concat();
        format!(
            "{UNTRUSTED}signature from moorline, key {}\n{}\n{TRUSTED}{}\n{}\n",
            self.key,
            BASE64.encode(&first),
            self.trusted_comment,
            BASE64.encode(&self.comment_signature)
        )
    }
}

/// How a password becomes the stream that seals a secret key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scrypt {
    /// Chosen at random, once.
    pub salt: [u8; SALT_BYTES],
    /// Operations, in libsodium's count.
    pub operations: u64,
    /// Memory, bytes.
    pub memory_bytes: u64,
}

impl Scrypt {
    /// What new keys are sealed with: 2^17 blocks, 128 MiB; OWASP's first choice for scrypt. minisign's own needs 1 GiB.
    #[must_use]
    pub const fn new(salt: [u8; SALT_BYTES]) -> Self {
        Self {
            salt,
            operations: 4 * 1024 * 1024,
            memory_bytes: 128 * 1024 * 1024,
        }
    }

    /// The logarithm of N, and p; r is 8. As libsodium's `pickparams` has it.
    ///
    /// # Errors
    /// When it is more than minisign ever asks for.
    pub fn parameters(&self) -> Result<(u8, u32), FormatError> {
        let operations = self.operations.max(32_768);
        let blocks_max = if operations < self.memory_bytes / 32 {
            operations / (4 * SCRYPT_R)
        } else {
            self.memory_bytes / (128 * SCRYPT_R)
        };
        let mut log_n = 1;
        while log_n < 63 && (1_u64 << log_n) <= blocks_max / 2 {
            log_n += 1;
        }
        let p = if operations < self.memory_bytes / 32 {
            1
        } else {
            (operations / 4 / (1 << log_n)).min(0x3fff_ffff) / SCRYPT_R
        };
        match u32::try_from(p) {
            Ok(parallel) if (1..=SCRYPT_P_MAX).contains(&p) && log_n <= SCRYPT_LOG_N_MAX => {
                Ok((log_n, parallel))
            }
            Ok(_) | Err(_) => Err(FormatError::Cost),
        }
    }
}

/// A secret key as it lies in its file.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKeyFile {
    /// How it is sealed; none = it is not.
    pub password: Option<Scrypt>,
    /// What is sealed.
    pub sealed: [u8; SEALED_BYTES],
}

impl fmt::Debug for SecretKeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretKeyFile")
            .field("password", &self.password.is_some())
            .finish_non_exhaustive()
    }
}

impl SecretKeyFile {
    /// Reads a secret key's file.
    ///
    /// # Errors
    /// When it has another form.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        let mut lines = text.lines();
        let comment = lines.next().ok_or(FormatError::Missing(1, "a comment"))?;
        if !comment.starts_with(UNTRUSTED) {
            return Err(FormatError::Comment(1, UNTRUSTED));
        }
        let key = lines.next().ok_or(FormatError::Missing(2, "the key"))?;
        let bytes = decoded::<158>(2, key)?;
        let (algorithm, rest) = bytes.split_at(2);
        let (derivation, rest) = rest.split_at(2);
        let (checksum, rest) = rest.split_at(2);
        if algorithm != ALGORITHM || checksum != CHECKSUM {
            return Err(FormatError::Algorithm);
        }
        let (salt, rest) = rest.split_at(SALT_BYTES);
        let (operations, rest) = rest.split_at(8);
        let (memory, sealed) = rest.split_at(8);
        let number = |bytes: &[u8]| bytes.try_into().map_or(u64::MAX, u64::from_le_bytes);
        let password = if derivation == NO_PASSWORD {
            None
        } else if derivation == SCRYPT {
            Some(Scrypt {
                salt: array(salt),
                operations: number(operations),
                memory_bytes: number(memory),
            })
        } else {
            return Err(FormatError::Algorithm);
        };
        Ok(Self {
            password,
            sealed: array(sealed),
        })
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> String {
        let (derivation, salt, operations, memory) = self
            .password
            .map_or((NO_PASSWORD, [0; SALT_BYTES], 0, 0), |scrypt| {
                (SCRYPT, scrypt.salt, scrypt.operations, scrypt.memory_bytes)
            });
        let bytes = [
            &ALGORITHM[..],
            &derivation,
            &CHECKSUM,
            &salt,
            &u64::to_le_bytes(operations),
            &u64::to_le_bytes(memory),
            &self.sealed,
        ]
        .concat();
        let kind = if self.password.is_some() {
            "encrypted secret key"
        } else {
            "secret key"
        };
        format!("{UNTRUSTED}minisign {kind}\n{}\n", BASE64.encode(&bytes))
    }
}

/// What is sealed, taken apart.
#[derive(Clone, PartialEq, Eq)]
pub struct Unsealed {
    /// The number of the pair.
    pub id: KeyId,
    /// What the pair is computed from.
    pub seed: [u8; KEY_BYTES],
    /// The public key.
    pub public: [u8; KEY_BYTES],
    /// Over [`Unsealed::summed`].
    pub checksum: [u8; CHECKSUM_BYTES],
}

impl Unsealed {
    /// Takes `bytes` apart, once no stream is over them.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; SEALED_BYTES]) -> Self {
        let (id, rest) = bytes.split_at(KEY_ID_BYTES);
        let (seed, rest) = rest.split_at(KEY_BYTES);
        let (public, checksum) = rest.split_at(KEY_BYTES);
        Self {
            id: KeyId(array(id)),
            seed: array(seed),
            public: array(public),
            checksum: array(checksum),
        }
    }

    /// The bytes to be sealed.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; SEALED_BYTES] {
        array(&[&self.id.0[..], &self.seed, &self.public, &self.checksum].concat())
    }

    /// What the checksum is over.
    #[must_use]
    pub fn summed(&self) -> Vec<u8> {
        [&ALGORITHM[..], &self.id.0, &self.seed, &self.public].concat()
    }
}

/// Only called with slices whose length was checked before; another length gives zeros, which sign and verify nothing.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().unwrap_or([0; N])
}

fn decoded<const N: usize>(line: usize, text: &str) -> Result<[u8; N], FormatError> {
    let wrong = FormatError::Encoding { line, bytes: N };
    // Not decoded before its length is known to be right: nobody sends us a megabyte to look at.
    let text = text.trim();
    if text.len() != BASE64.encode_len(N) {
        return Err(wrong);
    }
    let bytes = BASE64
        .decode(text.as_bytes())
        .map_err(|_not_base64| wrong)?;
    bytes.try_into().map_err(|_length| wrong)
}

fn split<const N: usize, const REST: usize>(
    bytes: &[u8; N],
) -> ([u8; 2], [u8; KEY_ID_BYTES], [u8; REST]) {
    let (algorithm, rest) = bytes.split_at(2);
    let (id, rest) = rest.split_at(KEY_ID_BYTES);
    (array(algorithm), array(id), array(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of minisign 0.11, made for this test.
    const PUBLIC: &str = include_str!("../../../../tests/data/minisign/plain.pub");
    const SECRET: &str = include_str!("../../../../tests/data/minisign/plain.key");
    const PREHASHED_SIGNATURE: &str = include_str!("../../../../tests/data/minisign/hello.minisig");
    const LEGACY_SIGNATURE: &str =
        include_str!("../../../../tests/data/minisign/hello-legacy.minisig");

    #[test]
    fn the_files_of_minisign_are_read() {
        let key = PublicKey::parse(PUBLIC).unwrap();
        assert_eq!(PublicKey::parse(&key.line()), Ok(key));
        assert!(PUBLIC.contains(&key.line()));
        assert!(PUBLIC.contains(&key.id.to_string()), "{PUBLIC} {}", key.id);
        let secret = SecretKeyFile::parse(SECRET).unwrap();
        assert_eq!(secret.password, None);
        let unsealed = Unsealed::from_bytes(&secret.sealed);
        assert_eq!((unsealed.id, unsealed.public), (key.id, key.key));
        assert_eq!(unsealed.to_bytes(), secret.sealed);
        for (text, prehashed) in [(PREHASHED_SIGNATURE, true), (LEGACY_SIGNATURE, false)] {
            let signature = Signature::parse(text).unwrap();
            assert_eq!((signature.key, signature.prehashed), (key.id, prehashed));
            assert!(signature.trusted_comment.starts_with("timestamp:"));
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let key = PublicKey::parse(PUBLIC).unwrap();
        assert_eq!(PublicKey::parse(&key.file()), Ok(key));
        let signature = Signature::parse(PREHASHED_SIGNATURE).unwrap();
        assert_eq!(Signature::parse(&signature.file()), Ok(signature));
        let plain = SecretKeyFile::parse(SECRET).unwrap();
        let sealed = SecretKeyFile {
            password: Some(Scrypt::new([7; SALT_BYTES])),
            ..plain
        };
        for secret in [plain, sealed] {
            assert_eq!(SecretKeyFile::parse(&secret.file()), Ok(secret));
        }
    }

    #[test]
    fn other_forms_are_refused_with_their_line() {
        let cut = |text: &str, lines: usize| {
            let lines: Vec<_> = text.lines().take(lines).collect();
            lines.join("\n")
        };
        assert_eq!(
            Signature::parse(&cut(PREHASHED_SIGNATURE, 3)),
            Err(FormatError::Missing(4, "the signature of the comment"))
        );
        // The crate `minisign` 0.10 panics at a short one.
        let lines: Vec<_> = PREHASHED_SIGNATURE.lines().collect();
        let short = [lines[0], lines[1], lines[2], "AAAA"].join("\n");
        assert_eq!(
            Signature::parse(&short),
            Err(FormatError::Encoding { line: 4, bytes: 64 })
        );
        let bell = PREHASHED_SIGNATURE.replace("timestamp", "time\u{7}stamp");
        assert_eq!(Signature::parse(&bell), Err(FormatError::ControlCharacter));
        assert_eq!(
            Signature::parse(PUBLIC),
            Err(FormatError::Missing(3, "the trusted comment"))
        );
        assert_eq!(
            PublicKey::parse(SECRET),
            Err(FormatError::Encoding { line: 2, bytes: 42 })
        );
        assert_eq!(
            PublicKey::parse(""),
            Err(FormatError::Encoding { line: 1, bytes: 42 })
        );
        assert!(SecretKeyFile::parse(PUBLIC).is_err());
    }

    #[test]
    fn a_key_cannot_ask_for_any_amount_of_memory() {
        let with = |operations, memory_bytes| Scrypt {
            salt: [0; SALT_BYTES],
            operations,
            memory_bytes,
        };
        assert_eq!(Scrypt::new([0; SALT_BYTES]).parameters(), Ok((17, 1)));
        // What minisign writes: crypto_pwhash_scryptsalsa208sha256_*_SENSITIVE.
        assert_eq!(with(33_554_432, 1_073_741_824).parameters(), Ok((20, 1)));
        // What rsign writes.
        assert_eq!(with(1_048_576, 33_554_432).parameters(), Ok((15, 1)));
        for greedy in [
            with(u64::MAX, u64::MAX),
            with(u64::MAX, 1 << 30),
            with(1 << 40, 1 << 40),
        ] {
            assert_eq!(greedy.parameters(), Err(FormatError::Cost));
        }
    }
}
