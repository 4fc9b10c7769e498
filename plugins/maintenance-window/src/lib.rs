//! Reconnects by the calendar, and spares a metered link.
//!
//! Inside a window of mode `quiet` nobody expects the broker: the next attempt is made after its end, spread over
//! `spread_s`. Outside windows of mode `open` nobody is in a hurry: attempts are made near the ceiling. Everything else is
//! full jitter. On a metered link waits double from four times the floor, and with less in the spool than
//! `metered.spool_min` readings they are near the ceiling.
//!
//! The host's ceiling stands whatever the calendar says, two minutes unless `link.retry_ceiling_s` is raised (to an
//! hour at most): what is farther away is waited for in steps, each drawn between half the ceiling and the ceiling.
//! With each step the clock is read again, so that a clock that was set, or a change to daylight saving time, costs at
//! most one. Without a clock that can be right there is no calendar.

mod calendar;

use moorline_plugin_sdk::{
    Decision, LocalTime, PolicyDescription, Question, ReconnectPolicy, Seed, export_policy,
    policy_configuration,
};
use serde::Deserialize;

use calendar::{Calendar, MINUTE_MS, Window};

/// On a metered link waits double from the floor times this.
const METERED_FLOORS: u32 = 4;
const WINDOWS_MAX: usize = 64;

const SCHEMA: &str = r#"{
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "mode": {"enum": ["quiet", "open"], "default": "quiet", "description": "quiet: the broker is not expected inside the windows; open: it is wanted only inside them"},
    "spread_s": {"type": "integer", "minimum": 0, "maximum": 3600, "default": 60, "description": "gateways come back within this after a quiet window"},
    "windows": {"type": "array", "maxItems": 64, "items": {
      "type": "object", "additionalProperties": false, "required": ["from", "to"],
      "properties": {
        "days": {"type": "array", "minItems": 1, "items": {"enum": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]}, "description": "on which days it begins; every day if left out"},
        "from": {"type": "string", "description": "local time, HH:MM"},
        "to": {"type": "string", "description": "local time, HH:MM, 24:00 for midnight; earlier than from: on the next day"}
      }}},
    "metered": {"type": "object", "additionalProperties": false, "properties": {
      "spool_min": {"type": "integer", "minimum": 0, "default": 100, "description": "with fewer readings waiting a metered link is in no hurry"}
    }}
  }
}"#;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    #[default]
    Quiet,
    Open,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Configuration {
    #[serde(default)]
    mode: Mode,
    #[serde(default = "Configuration::spread_s")]
    spread_s: u32,
    #[serde(default)]
    windows: Vec<Window>,
    #[serde(default)]
    metered: Metered,
}

impl Configuration {
    const fn spread_s() -> u32 {
        60
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Metered {
    spool_min: u32,
}

impl Default for Metered {
    fn default() -> Self {
        Self { spool_min: 100 }
    }
}

struct MaintenanceWindow {
    mode: Mode,
    spread_ms: u32,
    calendar: Calendar,
    spool_min: u32,
}

impl ReconnectPolicy for MaintenanceWindow {
    fn describe() -> PolicyDescription {
        PolicyDescription {
            name: "maintenance-window".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            configuration_schema: SCHEMA.into(),
        }
    }

    fn configure(configuration: &str) -> Result<Self, String> {
        let configuration: Configuration = policy_configuration(configuration)?;
        if configuration.spread_s > 3600 {
            return Err(format!(
                "spread_s: {} is more than 3600",
                configuration.spread_s
            ));
        }
        if configuration.windows.len() > WINDOWS_MAX {
            return Err(format!("windows: more than {WINDOWS_MAX}"));
        }
        if configuration.mode == Mode::Open && configuration.windows.is_empty() {
            return Err(
                "windows: mode \"open\" needs one, or no attempt would ever be wanted".into(),
            );
        }
        let calendar = Calendar::new(&configuration.windows)?;
        if configuration.mode == Mode::Quiet && calendar.covers_the_week() {
            return Err(
                "windows: they cover the whole week, and no attempt would ever be wanted".into(),
            );
        }
        Ok(Self {
            mode: configuration.mode,
            spread_ms: configuration.spread_s * 1000,
            calendar,
            spool_min: configuration.metered.spool_min,
        })
    }

    fn decide(&self, question: &Question) -> Decision {
        let mut seed = Seed::new(question.seed);
        let wait = self.in_no_hurry(question, &mut seed);
        match wait {
            Some(wait) if wait < question.ceiling_ms => {
                Decision::RetryAfter(wait.max(question.floor_ms))
            }
            // In steps, and not in step with others.
            Some(_) => {
                let least = (question.ceiling_ms / 2).max(question.floor_ms);
                Decision::RetryAfter(seed.between(least, question.ceiling_ms.max(least)))
            }
            None if question.metered => {
                let floor_ms = question
                    .floor_ms
                    .saturating_mul(METERED_FLOORS)
                    .min(question.ceiling_ms);
                Question {
                    floor_ms,
                    ..*question
                }
                .full_jitter()
            }
            None => question.full_jitter(),
        }
    }
}

impl MaintenanceWindow {
    /// How long there is no hurry; none = now there is.
    fn in_no_hurry(&self, question: &Question, seed: &mut Seed) -> Option<u32> {
        if let Some(now) = question.local_time.as_ref().map(local_ms) {
            let left = self.calendar.left_ms(now);
            match (self.mode, left) {
                (Mode::Quiet, Some(left)) => {
                    return Some(left.saturating_add(seed.between(0, self.spread_ms)));
                }
                (Mode::Open, None) => return Some(self.calendar.until_next_ms(now)),
                (Mode::Quiet, None) | (Mode::Open, Some(_)) => {}
            }
        }
        let nothing_to_send = question.metered && question.spool_depth < self.spool_min;
        nothing_to_send.then_some(u32::MAX)
    }
}

/// Local milliseconds since Monday 00:00.
fn local_ms(time: &LocalTime) -> u32 {
    // 1970-01-01 was a Thursday.
    const EPOCH_IN_WEEK_MS: i64 = 3 * 24 * 60 * MINUTE_MS as i64;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "saturates, and every week is like the next"
    )]
    let utc_ms = time.unix_ms as i64;
    let offset_ms = i64::from(time.utc_offset_min) * i64::from(MINUTE_MS);
    let in_week = utc_ms
        .saturating_add(offset_ms)
        .saturating_add(EPOCH_IN_WEEK_MS)
        .rem_euclid(i64::from(calendar::WEEK_MS));
    u32::try_from(in_week).unwrap_or(0)
}

export_policy!(MaintenanceWindow);

#[cfg(test)]
mod tests;
