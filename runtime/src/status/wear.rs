//! The wear of the medium, as the status tells it.

use moorline_core::wear::Level;
use serde::{Deserialize, Serialize};

use super::AlarmEntry;
use crate::wear::WearStatus;

/// What is written to the medium of the state directory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WearSection {
    /// The block device, as the kernel names it. None where there is no such device: then the figures count what this
    /// process had written to storage.
    pub device: Option<String>,
    /// Bytes written in the last 24 hours, by anybody.
    pub bytes_last_day: u64,
    /// How many seconds of the last 24 hours were seen.
    pub seen_s: u64,
    /// What a day comes to at the rate of the last hour or two; none in the first minute.
    pub projected_bytes_per_day: Option<u64>,
    /// What a day may come to; none without a budget.
    pub budget_bytes_per_day: Option<u64>,
    /// `within`, `nearing` or `over`; `within` without a budget.
    pub level: String,
    /// When the budget will be exceeded at this rate.
    pub exceeded_in_s: Option<u64>,
    /// How long a medium of `wear.endurance_gb` lives at this rate.
    pub life_years: Option<f64>,
    /// Since when it is counted, milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Bytes written since then.
    pub bytes_total: u64,
    /// Bytes that this process dirtied on storage in the last 24 hours, on whatever device: the kernel counts whole pages
    /// and folios, so that less may have reached the device.
    pub own_bytes_last_day: u64,
    /// What a day of this process comes to at the rate of the last hour or two.
    pub own_projected_bytes_per_day: Option<u64>,
}

impl From<&WearStatus> for WearSection {
    fn from(wear: &WearStatus) -> Self {
        let figures = wear.judged();
        Self {
            device: wear.device.as_ref().map(|(name, _)| name.clone()),
            bytes_last_day: figures.bytes_last_day,
            seen_s: figures.seen.as_secs(),
            projected_bytes_per_day: figures.projected_bytes_per_day,
            budget_bytes_per_day: figures.budget_bytes_per_day,
            level: figures.level.name().to_owned(),
            exceeded_in_s: figures.exceeded_in.map(|left| left.as_secs()),
            life_years: figures.life_years,
            since_ms: figures.since_ms,
            bytes_total: figures.bytes_total,
            own_bytes_last_day: wear.process.bytes_last_day,
            own_projected_bytes_per_day: wear.process.projected_bytes_per_day,
        }
    }
}

/// While the budget is exceeded or will be.
pub(super) fn alarm(wear: &WearStatus) -> Option<AlarmEntry> {
    let (certainty, text) = match wear.judged().level {
        Level::Within => return None,
        Level::Nearing => (
            "inferred",
            "at this rate more is written to the medium in a day than [wear] allows",
        ),
        Level::Over => (
            "certain",
            "more was written to the medium in the last 24 hours than [wear] allows",
        ),
    };
    Some(AlarmEntry {
        name: "wear-budget".to_owned(),
        since_ms: wear.level_since_ms,
        certainty: certainty.to_owned(),
        client_id: String::new(),
        text: text.to_owned(),
        advice: "raise spool.commit_interval_ms, have the connectors emit less, or find who else writes to this device: \
                 wear.own_bytes_last_day is this gateway's share"
            .to_owned(),
    })
}
