//! `[probation]` and `[connector.probation]`: how a new build of a plugin proves itself; and how it takes over.

use std::time::Duration;

use moorline_core::swap::probation::Terms;
use serde::Deserialize;
use toml::Spanned;

use super::raw::Within;
use super::settings::Resolver;

/// What is not said holds as for the gateway, or as by default.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Probation {
    calls: Option<Within<0, 1_000_000>>,
    duration_s: Option<Within<1, 86_400>>,
    duration_max_s: Option<Spanned<Within<1, 604_800>>>,
    fault_percent: Option<Within<1, 100>>,
    silence_percent: Option<Within<0, 100>>,
}

/// Whether two generations may exist at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    Overlapping,
    Exclusive,
}

/// What becomes of a generation that does not take what the one before hands over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum HandOver {
    Optional,
    Required,
}

fn percent<const MIN: u64>(raw: Option<Within<MIN, 100>>, otherwise: u8) -> u8 {
    raw.and_then(|percent| u8::try_from(percent.0).ok())
        .unwrap_or(otherwise)
}

impl Resolver<'_> {
    /// What holds where `otherwise` holds for what is not said.
    pub(super) fn probation(&mut self, raw: &Probation, otherwise: Terms) -> Terms {
        let seconds = |s: u64| Duration::from_secs(s);
        let duration = raw.duration_s.map_or(otherwise.duration, |s| seconds(s.0));
        let duration_max = raw
            .duration_max_s
            .as_ref()
            .map_or(otherwise.duration_max, |s| seconds(s.get_ref().0));
        if let Some(most) = raw
            .duration_max_s
            .as_ref()
            .filter(|_| duration_max < duration)
        {
            self.find(
                most.span(),
                format!(
                    "must be at least duration_s, which is {}",
                    duration.as_secs()
                ),
            );
        }
        Terms {
            calls: raw.calls.map_or(otherwise.calls, |calls| calls.0),
            duration,
            duration_max: duration_max.max(duration),
            fault_percent: percent(raw.fault_percent, otherwise.fault_percent),
            silence_percent: percent(raw.silence_percent, otherwise.silence_percent),
        }
    }
}
