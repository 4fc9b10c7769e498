//! The table `[plugins]`: whom components must come from, and what is kept and told of them.

use std::collections::BTreeMap;

use moorline_core::trust::minisign::PublicKey;
use moorline_core::trust::{Policy, Settings, TrustedKey};
use serde::Deserialize;
use toml::Spanned;

use super::raw::{Name, SecretSource, Within};
use super::settings::Resolver;
use crate::bounded_file;
use crate::trust::SIGNATURE_FILE_BYTES_MAX;

/// Keys that may be trusted.
const KEYS_MAX: usize = 64;
/// Compiled components on disk, where the configuration does not say.
const CACHE_BYTES_MAX: u64 = 256 * 1024 * 1024;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Plugins {
    signatures: Option<Spanned<Policy>>,
    #[serde(default)]
    trusted_keys: BTreeMap<String, Spanned<SecretSource>>,
    allow_downgrade: Option<bool>,
    cache_bytes_max: Option<Within<1_048_576, 1_099_511_627_776>>,
    report_versions: Option<bool>,
}

/// The same, resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct PluginsSection {
    /// Whose components are loaded, and whether an older one may follow.
    pub trust: Settings,
    /// Compiled components on disk, bytes.
    pub cache_bytes_max: u64,
    /// Whether the platform is told what serves.
    pub report_versions: bool,
}

impl Resolver<'_> {
    pub(super) fn plugins(&mut self, raw: Plugins) -> PluginsSection {
        let keys = self.trusted_keys(&raw.trusted_keys);
        let trusted = !raw.trusted_keys.is_empty();
        let default = if trusted {
            Policy::Require
        } else {
            Policy::Off
        };
        if let Some(signatures) = &raw.signatures {
            match (signatures.get_ref(), trusted) {
                (Policy::Require | Policy::Warn, false) => self.find(
                    signatures.span(),
                    "there is no key to check signatures with: name one in [plugins.trusted_keys]; \
                     `moorline plugin keygen` makes one",
                ),
                (Policy::Off, true) => self.warn(
                    signatures.span(),
                    "is \"off\": nobody looks at [plugins.trusted_keys]",
                ),
                (Policy::Require | Policy::Warn, true) | (Policy::Off, false) => {}
            }
        }
        PluginsSection {
            trust: Settings {
                policy: raw.signatures.map_or(default, Spanned::into_inner),
                keys,
                allow_downgrade: raw.allow_downgrade.unwrap_or(false),
            },
            cache_bytes_max: raw.cache_bytes_max.map_or(CACHE_BYTES_MAX, |bytes| bytes.0),
            report_versions: raw.report_versions.unwrap_or(true),
        }
    }

    fn trusted_keys(&mut self, raw: &BTreeMap<String, Spanned<SecretSource>>) -> Vec<TrustedKey> {
        let mut keys: Vec<TrustedKey> = Vec::with_capacity(raw.len());
        if let Some(surplus) = raw.values().nth(KEYS_MAX) {
            self.find(
                surplus.span(),
                format!("at most {KEYS_MAX} keys can be trusted"),
            );
        }
        for (name, source) in raw {
            let span = source.span();
            if let Err(error) = Name::try_from(name.clone()) {
                self.find(span.clone(), error);
            }
            let key = self
                .public_key(source.get_ref())
                .and_then(|text| PublicKey::parse(&text).map_err(|error| error.to_string()));
            match key {
                Ok(key) => {
                    if let Some(other) = keys.iter().find(|other| other.key.id == key.id) {
                        let message = format!("is the key {}, which is {} already", key.id, other.name);
                        self.find(span, message);
                    }
                    keys.push(TrustedKey {
                        name: name.as_str().into(),
                        key,
                    });
                }
                Err(why) => self.find(
                    span,
                    format!("is no public key of minisign: {why}; give the line that begins with RW, or file:KEY.pub"),
                ),
            }
        }
        keys
    }

    fn public_key(&mut self, source: &SecretSource) -> Result<String, String> {
        match source {
            SecretSource::Literal(text) => Ok(text.clone()),
            SecretSource::Env(name) => {
                std::env::var(name).map_err(|error| format!("environment variable {name}: {error}"))
            }
            SecretSource::File(path) => {
                let path = self.named(path);
                bounded_file::read_text(&path, SIGNATURE_FILE_BYTES_MAX)
                    .map_err(|error| format!("{} cannot be read: {error}", path.display()))
            }
        }
    }
}
