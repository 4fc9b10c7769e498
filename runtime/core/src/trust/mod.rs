//! Whom a component comes from, and whether it may take the place of the one that served.
//!
//! ```text
//!  bytes + .minisig ──► key known? ──► signatures right? ──► sha256 as claimed? ──► compile, describe ──► name, version
//!       │ none            │ no            │ no                  │ no                     as claimed? not older than what
//!       ▼                 ▼               ▼                     ▼                        served last? ──► warm
//!    unsigned        unknown key     bad signature         bad signature                 │ no
//!                                                                                        ▼ bad signature, downgrade
//! ```
//!
//! The signature is minisign's ([`minisign`]), and what is signed is the component's whole file. Its trusted comment says
//! what the signer signed: `name`, `version` and `sha256`, where `moorline plugin sign` made it. The words are compared with
//! what the component says of itself, so that a signature never vouches for another release than its signer saw; a
//! signature by minisign alone says none of them and vouches for the bytes.

pub mod minisign;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use semver::Version;
use serde::{Deserialize, Serialize};

use crate::swap::{Digest, Failure, Reason};
use minisign::{KeyId, PublicKey};

/// Plugins remembered for each place, one beside the other.
const NAMES_MAX: usize = 16;
/// Bytes of a name or a version that is remembered.
const WORD_BYTES_MAX: usize = 128;
/// Characters of a foreign text in a message.
const SHOWN_CHARS_MAX: usize = 80;

/// What becomes of a component that is not signed by a trusted key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Nobody looks at signatures.
    #[default]
    Off,
    /// It is loaded; log and status say what is wrong.
    Warn,
    /// It is refused.
    Require,
}

/// A public key and what the operator calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedKey {
    /// The operator's word.
    pub name: Arc<str>,
    /// The key.
    pub key: PublicKey,
}

/// What the configuration says about trust.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// For components that no trusted key has signed.
    pub policy: Policy,
    /// Whose signatures count.
    pub keys: Vec<TrustedKey>,
    /// Whether an older version may take over from a newer one.
    pub allow_downgrade: bool,
}

impl Settings {
    /// The trusted keys of this number.
    ///
    /// # Errors
    /// When there is none.
    pub fn keys_of(&self, id: KeyId) -> Result<Vec<&TrustedKey>, Failure> {
        let found: Vec<_> = self
            .keys
            .iter()
            .filter(|known| known.key.id == id)
            .collect();
        if found.is_empty() {
            let known: Vec<_> = self.keys.iter().map(ToString::to_string).collect();
            let known = if known.is_empty() {
                "none is trusted".to_owned()
            } else {
                format!("trusted are {}", known.join(", "))
            };
            let detail = format!("key {id}; {known} ([plugins.trusted_keys])");
            return Err(Failure::new(Reason::UnknownKey, detail));
        }
        Ok(found)
    }

    /// What the policy makes of a finding: where it comes from, or why it is refused.
    ///
    /// # Errors
    /// With the failure itself, where the policy demands more.
    pub fn admit(&self, found: Result<Signer, Failure>) -> Result<Origin, Failure> {
        match (self.policy, found) {
            (Policy::Off, _) => Ok(Origin::Unchecked),
            (Policy::Warn | Policy::Require, Ok(signer)) => Ok(Origin::Signed(Arc::new(signer))),
            (Policy::Warn, Err(failure)) => Ok(Origin::Doubtful(failure)),
            (Policy::Require, Err(failure)) => Err(failure),
        }
    }

    /// The same once the component has said who it is: its signer must have meant this release.
    ///
    /// # Errors
    /// When another one was meant, and the policy demands more.
    pub fn confirm(&self, origin: Origin, name: &str, version: &str) -> Result<Origin, Failure> {
        let Origin::Signed(signer) = &origin else {
            return Ok(origin);
        };
        match signer.claim().check_release(name, version) {
            Ok(()) => Ok(origin),
            Err(failure) => self.admit(Err(failure)),
        }
    }
}

impl fmt::Display for TrustedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.key.id)
    }
}

/// What the signer says of what was signed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// The name it gives itself.
    pub name: Option<String>,
    /// The version it gives itself.
    pub version: Option<String>,
    /// SHA-256 of its file, in hexadecimal.
    pub sha256: Option<String>,
}

impl Claim {
    /// Reads a trusted comment: `key:value`, separated by tabs, as minisign writes it. Words it does not know are
    /// left alone; of two alike the first counts.
    #[must_use]
    pub fn of(trusted_comment: &str) -> Self {
        let mut claim = Self::default();
        for word in trusted_comment.split('\t') {
            let Some((key, value)) = word.split_once(':') else {
                continue;
            };
            let place = match key {
                "name" => &mut claim.name,
                "version" => &mut claim.version,
                "sha256" => &mut claim.sha256,
                _ => continue,
            };
            place.get_or_insert_with(|| value.to_owned());
        }
        claim
    }

    /// The trusted comment that says this, of `file`, signed at `unix_s`.
    #[must_use]
    pub fn comment(&self, file: &str, unix_s: u64) -> String {
        let mut words = vec![
            format!("timestamp:{unix_s}"),
            format!("file:{}", word(file)),
        ];
        let claims = [
            ("name", &self.name),
            ("version", &self.version),
            ("sha256", &self.sha256),
        ];
        for (key, value) in claims {
            words.extend(value.as_ref().map(|value| format!("{key}:{}", word(value))));
        }
        words.push("hashed".to_owned());
        words.join("\t")
    }

    /// Whether the file is the one that was meant.
    ///
    /// # Errors
    /// When another one was.
    pub fn check_digest(&self, digest: Digest) -> Result<(), Failure> {
        let is = digest.hex();
        match &self.sha256 {
            Some(claimed) if *claimed != is => Err(contradiction("SHA-256", claimed, &is)),
            Some(_) | None => Ok(()),
        }
    }

    /// Whether the component is the release that was meant.
    ///
    /// # Errors
    /// When another one was.
    pub fn check_release(&self, name: &str, version: &str) -> Result<(), Failure> {
        for (what, claimed, is) in [
            ("name", &self.name, name),
            ("version", &self.version, version),
        ] {
            if let Some(claimed) = claimed
                && *claimed != word(is)
            {
                return Err(contradiction(what, claimed, is));
            }
        }
        Ok(())
    }
}

fn contradiction(what: &str, claimed: &str, is: &str) -> Failure {
    let detail = format!(
        "its signer meant {what} {}, and this is {}",
        shown(claimed),
        shown(is)
    );
    Failure::new(Reason::BadSignature, detail)
}

/// A text that can stand between tabs on one line.
fn word(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(WORD_BYTES_MAX).map(plain).collect()
}

/// A foreign text, fit for a message.
fn shown(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(SHOWN_CHARS_MAX).map(plain).collect()
}

/// Who signed a component, once that is proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    /// What the operator calls the key.
    pub name: Arc<str>,
    /// Its number.
    pub key: KeyId,
    /// What the signature says.
    pub trusted_comment: String,
}

impl Signer {
    /// What it says of what was signed.
    #[must_use]
    pub fn claim(&self) -> Claim {
        Claim::of(&self.trusted_comment)
    }
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "signed by {} ({})", self.name, self.key)
    }
}

/// What is known of where a component comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Nobody looked.
    #[default]
    Unchecked,
    /// Proven.
    Signed(Arc<Signer>),
    /// Not proven, and loaded all the same.
    Doubtful(Failure),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unchecked => f.write_str("not checked"),
            Self::Signed(signer) => signer.fmt(f),
            Self::Doubtful(failure) => write!(f, "doubtful: it {failure}"),
        }
    }
}

/// What served last in one place, a version for each plugin that was there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Served(BTreeMap<String, String>);

impl Served {
    /// The version of `name` that served last.
    #[must_use]
    pub fn version_of(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Whether `version` of `name` may follow. Versions are compared by the precedence of semantic versioning 2.0.0
    /// (section 11); one that is no semantic version may follow only what was none either.
    ///
    /// # Errors
    /// When it is older.
    pub fn check(&self, name: &str, version: &str) -> Result<(), Failure> {
        let Some(Ok(last)) = self.version_of(name).map(Version::from_str) else {
            return Ok(());
        };
        let why = match Version::from_str(version) {
            Ok(next) if next.cmp_precedence(&last) == Ordering::Less => "",
            Ok(_) => return Ok(()),
            Err(_) => ", which is no semantic version",
        };
        let detail = format!(
            "{} {}{why}; {last} served last here (`moorline plugin allow-downgrade` lets it, once)",
            shown(name),
            shown(version)
        );
        Err(Failure::new(Reason::Downgrade, detail))
    }

    /// `version` of `name` serves now. True if that is news.
    pub fn note(&mut self, name: &str, version: &str) -> bool {
        let short = name.len() <= WORD_BYTES_MAX && version.len() <= WORD_BYTES_MAX;
        let room = self.0.len() < NAMES_MAX || self.0.contains_key(name);
        if !short || !room || self.version_of(name) == Some(version) {
            return false;
        }
        self.0.insert(name.to_owned(), version.to_owned());
        true
    }
}
