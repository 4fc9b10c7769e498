//! The key-value state of plugins as a document that a person can read, keep and carry to another gateway.
//!
//! ```json
//! {
//!   "moorline_plugin_state": 1,
//!   "instances": {
//!     "press": { "run": { "base64": "AwAAAAAAAAA=" } },
//!     "modbus/oven-1": { "recipe": { "text": "long" }, "token": { "text": "" } }
//!   }
//! }
//! ```
//!
//! An instance is named by its connector, or by connector and connection. A value is bytes: those that are text without
//! control characters are shown as they are. Names and keys are in order, so that two documents compare line by line.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Keys and values of one instance together, bytes: the most that a configuration may allow.
pub const STATE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of one key; none has no bytes.
pub const KEY_BYTES_MAX: usize = 255;

const VERSION: u32 = 1;

/// What one instance keeps.
pub type Entries = BTreeMap<String, Vec<u8>>;

/// What the instances of a gateway keep.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backup {
    /// By the instance's name.
    pub instances: BTreeMap<String, Entries>,
}

/// Why a document is none. It is its author's fault, and nothing was taken of it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BackupError {
    /// Not JSON, or other fields.
    #[error("is no state of plugins: {0}")]
    Form(String),
    /// Written by another Moorline.
    #[error("is version {0} of the document, and this Moorline knows {VERSION}")]
    Version(u32),
    /// A value is not what base64 looks like.
    #[error("{instance}: the value of {key:?} is no base64")]
    Base64 {
        /// Whose.
        instance: String,
        /// Which.
        key: String,
    },
    /// What no plugin could have kept.
    #[error("{instance}: {why}")]
    Bounds {
        /// Whose.
        instance: String,
        /// In words.
        why: OutOfBounds,
    },
}

/// What is beyond the bounds of an instance's state.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OutOfBounds {
    /// A key.
    #[error("the key {0:?} has not 1 to {KEY_BYTES_MAX} bytes")]
    Key(String),
    /// All of it.
    #[error("its keys and values have {bytes} bytes together, and {bytes_max} is the most")]
    Bytes {
        /// How much it is.
        bytes: usize,
        /// How much it may be.
        bytes_max: usize,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    moorline_plugin_state: u32,
    instances: BTreeMap<String, BTreeMap<String, Shown>>,
}

/// One value.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Shown {
    Text(String),
    Base64(String),
}

impl Shown {
    fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) if !text.chars().any(char::is_control) => Self::Text(text.to_owned()),
            Ok(_) | Err(_) => Self::Base64(BASE64.encode(bytes)),
        }
    }

    fn bytes(self) -> Option<Vec<u8>> {
        match self {
            Self::Text(text) => Some(text.into_bytes()),
            Self::Base64(text) => BASE64.decode(text.as_bytes()).ok(),
        }
    }
}

/// Bytes of keys and values together.
#[must_use]
pub fn bytes_of(entries: &Entries) -> usize {
    let sizes = entries.iter().map(|(key, value)| key.len() + value.len());
    sizes.sum()
}

/// Whether a plugin could have kept this, if it may keep `bytes_max` bytes.
///
/// # Errors
/// What is too large.
pub fn check(entries: &Entries, bytes_max: usize) -> Result<(), OutOfBounds> {
    let bad = |key: &&String| key.is_empty() || key.len() > KEY_BYTES_MAX;
    if let Some(key) = entries.keys().find(bad) {
        return Err(OutOfBounds::Key(key.clone()));
    }
    let bytes = bytes_of(entries);
    if bytes > bytes_max {
        return Err(OutOfBounds::Bytes { bytes, bytes_max });
    }
    Ok(())
}

impl Backup {
    /// The document, with a newline at its end.
    ///
    /// # Panics
    /// Never: all of it can be written as JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        let shown = |entries: &Entries| {
            let entries = entries.iter();
            entries
                .map(|(key, value)| (key.clone(), Shown::of(value)))
                .collect()
        };
        let instances = self.instances.iter();
        let document = Document {
            moorline_plugin_state: VERSION,
            instances: instances
                .map(|(name, entries)| (name.clone(), shown(entries)))
                .collect(),
        };
        // Maps of texts, which cannot fail.
        let mut text = serde_json::to_string_pretty(&document).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Reads a document, and checks all of it against the bounds of every instance.
    ///
    /// # Errors
    /// When it is none, or holds what no plugin could have kept.
    pub fn parse(text: &str) -> Result<Self, BackupError> {
        #[derive(Deserialize)]
        struct Head {
            moorline_plugin_state: u32,
        }
        let form = |error: serde_json::Error| BackupError::Form(error.to_string());
        let head: Head = serde_json::from_str(text).map_err(form)?;
        if head.moorline_plugin_state != VERSION {
            return Err(BackupError::Version(head.moorline_plugin_state));
        }
        let document: Document = serde_json::from_str(text).map_err(form)?;
        let mut backup = Self::default();
        for (instance, shown) in document.instances {
            let mut entries = Entries::new();
            for (key, value) in shown {
                let Some(bytes) = value.bytes() else {
                    return Err(BackupError::Base64 { instance, key });
                };
                entries.insert(key, bytes);
            }
            if let Err(why) = check(&entries, STATE_BYTES_MAX) {
                return Err(BackupError::Bounds { instance, why });
            }
            backup.instances.insert(instance, entries);
        }
        Ok(backup)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn backup(instance: &str, entries: &[(&str, &[u8])]) -> Backup {
        let entries = entries.iter();
        let entries = entries.map(|(key, value)| ((*key).to_owned(), value.to_vec()));
        Backup {
            instances: BTreeMap::from([(instance.to_owned(), entries.collect())]),
        }
    }

    #[test]
    fn text_is_shown_as_text_and_the_rest_as_base64() {
        let backup = backup(
            "modbus/oven-1",
            &[("run", &[3, 0]), ("recipe", b"long"), ("line", b"a\n")],
        );
        let json: serde_json::Value = serde_json::from_str(&backup.to_json()).unwrap();
        let shown = &json["instances"]["modbus/oven-1"];
        assert_eq!(json["moorline_plugin_state"], 1);
        assert_eq!(shown["recipe"]["text"], "long");
        assert_eq!(shown["run"]["base64"], "AwA=");
        assert_eq!(shown["line"]["base64"], "YQo=");
    }

    #[test]
    fn what_is_no_backup_says_why() {
        let with = |entries: &str| {
            let text = format!(
                "{{\"moorline_plugin_state\":1,\"instances\":{{\"press\":{{{entries}}}}}}}"
            );
            Backup::parse(&text)
        };
        assert!(with("\"k\":{\"text\":\"v\"}").is_ok());
        let why = |entries: &str| with(entries).unwrap_err().to_string();
        assert_eq!(
            why("\"k\":{\"base64\":\"?\"}"),
            "press: the value of \"k\" is no base64"
        );
        assert!(why("\"\":{\"text\":\"v\"}").contains("the key \"\""));
        assert!(why("\"k\":{\"hex\":\"00\"}").contains("unknown variant `hex`"));
        let long = format!("\"{}\":{{\"text\":\"\"}}", "k".repeat(KEY_BYTES_MAX + 1));
        assert!(matches!(
            with(&long),
            Err(BackupError::Bounds {
                why: OutOfBounds::Key(_),
                ..
            })
        ));
        let entries = Entries::from([("k".to_owned(), vec![0; 10])]);
        assert_eq!(check(&entries, 11), Ok(()));
        let (bytes, bytes_max) = (11, 10);
        assert_eq!(
            check(&entries, 10),
            Err(OutOfBounds::Bytes { bytes, bytes_max })
        );
        let parse = |text: &str| Backup::parse(text).unwrap_err();
        assert!(matches!(parse("no"), BackupError::Form(_)));
        assert!(matches!(parse("{\"instances\":{}}"), BackupError::Form(_)));
        // A later version may look quite different.
        let later = "{\"moorline_plugin_state\":2,\"plugins\":[]}";
        assert_eq!(parse(later), BackupError::Version(2));
    }

    proptest! {
        #[test]
        fn a_backup_comes_back_as_it_was(
            instances in prop::collection::btree_map(
                ".{1,20}",
                prop::collection::btree_map(".{1,20}", prop::collection::vec(any::<u8>(), 0..40), 0..5),
                0..5,
            ),
        ) {
            let backup = Backup { instances };
            prop_assert_eq!(Backup::parse(&backup.to_json()), Ok(backup));
        }
    }
}
