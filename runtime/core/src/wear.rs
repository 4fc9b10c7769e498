//! How fast the medium under the state directory is used up: bytes written to it per day, against a budget.
//!
//! ```text
//! samples of a counter ─► bytes and time of each hour of the last day ─► written in 24 h │ a day at this rate │ level
//! ```
//!
//! Flash wears by what is written to it. The figures are kept by hours of the wall clock, so that they go on after a
//! restart; a wall clock that jumps moves the hours with it and changes no sum.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::TimestampMs;

const HOUR_MS: u64 = 3_600_000;
const HOURS_PER_DAY: u64 = 24;
const DAY_MS: u64 = HOURS_PER_DAY * HOUR_MS;
/// Gregorian, on average.
const DAYS_PER_YEAR: f64 = 365.2425;

/// A rate is projected from what was seen in at least this time...
const PROJECT_AFTER_MS: u64 = 60_000;
/// ...and judged after this: a start compiles plugins and says little about a day.
const JUDGE_AFTER_MS: u64 = 600_000;
/// A budget that was nearly exceeded must be kept by a tenth before it counts as kept.
const KEPT: f64 = 0.9;

/// What may be written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// So much a day.
    BytesPerDay(u64),
    /// What the medium endures, by its data sheet, and how long it is to live.
    Endurance {
        /// Bytes it endures.
        bytes: u64,
        /// Years it is to live.
        years: f64,
    },
}

impl Budget {
    /// Bytes a day.
    #[must_use]
    pub fn bytes_per_day(self) -> u64 {
        match self {
            Self::BytesPerDay(bytes) => bytes,
            Self::Endurance { bytes, years } => {
                (bytes as f64 / (years * DAYS_PER_YEAR)).max(1.0) as u64
            }
        }
    }

    /// How long the medium lives at `bytes_per_day`, in years; none without an endurance.
    #[must_use]
    pub fn life_years(self, bytes_per_day: u64) -> Option<f64> {
        match self {
            Self::BytesPerDay(_) => None,
            Self::Endurance { bytes, .. } => {
                Some(bytes as f64 / (bytes_per_day.max(1) as f64 * DAYS_PER_YEAR))
            }
        }
    }
}

/// What was written in one hour, as far as it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Hour {
    /// Hours since the Unix epoch.
    pub hour: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Milliseconds of it that were seen.
    pub seen_ms: u64,
}

/// What is kept across restarts.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Kept {
    /// The last hours, oldest first.
    pub hours: VecDeque<Hour>,
    /// Since when it is counted, milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Bytes written since then.
    pub bytes_total: u64,
}

/// What the shell saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// `bytes` more were written in the time `took`, which ended now.
    Written {
        /// Bytes.
        bytes: u64,
        /// In this time, by the monotonic clock.
        took: Duration,
    },
}

/// How the budget stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Level {
    /// It is kept, or there is none.
    #[default]
    Within,
    /// It is kept as yet, and will not be if it goes on like this.
    Nearing,
    /// More was written in the last 24 hours.
    Over,
}

impl Level {
    /// As the status names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Within => "within",
            Self::Nearing => "nearing",
            Self::Over => "over",
        }
    }
}

/// A change somebody must be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// The level is another one now; the figures say why.
    Changed(Level),
}

/// What is known.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Figures {
    /// Bytes written in the last 24 hours, as far as they were seen.
    pub bytes_last_day: u64,
    /// How much of the last 24 hours was seen.
    pub seen: Duration,
    /// What a day comes to at the rate of the last hour or two; none before there is enough to go by.
    pub projected_bytes_per_day: Option<u64>,
    /// What a day may come to.
    pub budget_bytes_per_day: Option<u64>,
    /// When the budget will be exceeded at this rate; none where it will not or is.
    pub exceeded_in: Option<Duration>,
    /// How long a medium of the budget's endurance lives at this rate, in years.
    pub life_years: Option<f64>,
    /// Since when it is counted, milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Bytes written since then.
    pub bytes_total: u64,
    /// How the budget stands.
    pub level: Level,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Wear {
    kept: Kept,
    budget: Option<Budget>,
    level: Level,
    told: Option<Output>,
}

impl Wear {
    /// Goes on from what was kept.
    #[must_use]
    pub fn new(kept: Kept, budget: Option<Budget>) -> Self {
        Self {
            kept,
            budget,
            level: Level::Within,
            told: None,
        }
    }

    /// What is to be kept.
    #[must_use]
    pub const fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Takes what the shell saw at wall-clock time `now`.
    pub fn handle(&mut self, now: TimestampMs, input: Input) {
        let Input::Written { bytes, took } = input;
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        if self.kept.since_ms == 0 {
            self.kept.since_ms = now.0.saturating_sub(took_ms);
        }
        self.follow_clock(now);
        self.book(now, bytes, took_ms);
        self.kept.bytes_total = self.kept.bytes_total.saturating_add(bytes);
        self.forget(now);
        self.judge(now);
    }

    /// What somebody must be told.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.told.take()
    }

    /// A wall clock that went back takes the hours with it.
    fn follow_clock(&mut self, now: TimestampMs) {
        let hour = now.0 / HOUR_MS;
        let newest = self.kept.hours.back().map_or(0, |newest| newest.hour);
        if let Some(ahead) = newest.checked_sub(hour).filter(|ahead| *ahead > 1) {
            for kept in &mut self.kept.hours {
                kept.hour = kept.hour.saturating_sub(ahead);
            }
            self.kept.since_ms = self.kept.since_ms.saturating_sub(ahead * HOUR_MS);
        }
    }

    /// Spreads evenly over the hours it took, a day at most.
    fn book(&mut self, now: TimestampMs, bytes: u64, took_ms: u64) {
        let span_ms = took_ms.min(DAY_MS);
        let (mut left_bytes, mut left_ms) = (share(bytes, span_ms, took_ms), span_ms);
        let mut from_ms = now.0.saturating_sub(span_ms);
        loop {
            let hour = from_ms / HOUR_MS;
            let here_ms = left_ms.min((hour + 1) * HOUR_MS - from_ms);
            let here = share(left_bytes, here_ms, left_ms);
            self.add(hour, here, here_ms);
            left_bytes -= here;
            left_ms -= here_ms;
            from_ms += here_ms;
            if left_ms == 0 {
                return;
            }
        }
    }

    fn add(&mut self, hour: u64, bytes: u64, seen_ms: u64) {
        let hours = &mut self.kept.hours;
        // Never behind the newest but one: a clock that went back a little adds to what is there.
        let place = match hours.iter().rposition(|kept| kept.hour <= hour) {
            Some(place) => place,
            None if hours.is_empty() => {
                hours.push_back(Hour {
                    hour,
                    ..Hour::default()
                });
                0
            }
            None => 0,
        };
        let newest = place + 1 == hours.len();
        let place = match hours.get(place) {
            Some(kept) if kept.hour < hour && newest => {
                hours.push_back(Hour {
                    hour,
                    ..Hour::default()
                });
                place + 1
            }
            Some(_) | None => place,
        };
        if let Some(kept) = hours.get_mut(place) {
            kept.bytes = kept.bytes.saturating_add(bytes);
            kept.seen_ms = kept.seen_ms.saturating_add(seen_ms).min(HOUR_MS);
        }
    }

    /// What is older than a day.
    fn forget(&mut self, now: TimestampMs) {
        let oldest = (now.0 / HOUR_MS).saturating_sub(HOURS_PER_DAY);
        while self
            .kept
            .hours
            .front()
            .is_some_and(|kept| kept.hour < oldest)
        {
            self.kept.hours.pop_front();
        }
        while self.kept.hours.len() as u64 > HOURS_PER_DAY + 1 {
            self.kept.hours.pop_front();
        }
    }

    /// Bytes and milliseconds of the present hour and the one before.
    fn recent(&self, now: TimestampMs) -> (u64, u64) {
        let hour = now.0 / HOUR_MS;
        let recent = self.kept.hours.iter().filter(|kept| kept.hour + 1 >= hour);
        recent.fold((0, 0), |(bytes, ms), kept| {
            (bytes + kept.bytes, ms + kept.seen_ms)
        })
    }

    fn judge(&mut self, now: TimestampMs) {
        let figures = self.figures(now);
        let Some(budget) = figures.budget_bytes_per_day else {
            return;
        };
        let (_, recent_ms) = self.recent(now);
        let projected = figures
            .projected_bytes_per_day
            .filter(|_rate| recent_ms >= JUDGE_AFTER_MS);
        let bar = match self.level {
            Level::Within => budget as f64,
            Level::Nearing | Level::Over => budget as f64 * KEPT,
        };
        let level = if figures.bytes_last_day > budget {
            Level::Over
        } else {
            match projected {
                Some(rate) if rate as f64 > bar => Level::Nearing,
                Some(_) => Level::Within,
                // Too little to go by: what is over stays nearing, or what is within stays within.
                None if self.level == Level::Within => Level::Within,
                None => Level::Nearing,
            }
        };
        if level != self.level {
            self.level = level;
            self.told = Some(Output::Changed(level));
        }
    }

    /// The figures at wall-clock time `now`.
    #[must_use]
    pub fn figures(&self, now: TimestampMs) -> Figures {
        let (mut bytes, mut seen_ms) = (0_u64, 0_u64);
        let hour = now.0 / HOUR_MS;
        let into_hour_ms = now.0 % HOUR_MS;
        for kept in &self.kept.hours {
            // Of the hour that is a day ago, the part that is not yet a day ago.
            let (here, here_ms) = if kept.hour + HOURS_PER_DAY == hour {
                let left_ms = HOUR_MS - into_hour_ms;
                (
                    share(kept.bytes, left_ms, HOUR_MS),
                    kept.seen_ms.min(left_ms),
                )
            } else {
                (kept.bytes, kept.seen_ms)
            };
            bytes = bytes.saturating_add(here);
            seen_ms += here_ms;
        }
        let (recent, recent_ms) = self.recent(now);
        let projected = (recent_ms >= PROJECT_AFTER_MS).then(|| per_day(recent, recent_ms));
        let budget = self.budget.map(Budget::bytes_per_day);
        let exceeded_in = match (projected, budget) {
            (Some(rate), Some(budget)) if rate > budget && bytes <= budget => {
                let left = (budget - bytes) as f64 / rate as f64;
                Some(Duration::from_millis((left * DAY_MS as f64) as u64))
            }
            (Some(_) | None, Some(_) | None) => None,
        };
        Figures {
            bytes_last_day: bytes,
            seen: Duration::from_millis(seen_ms),
            projected_bytes_per_day: projected,
            budget_bytes_per_day: budget,
            exceeded_in,
            life_years: projected.and_then(|rate| self.budget?.life_years(rate)),
            since_ms: self.kept.since_ms,
            bytes_total: self.kept.bytes_total,
            level: self.level,
        }
    }
}

/// `part` of `whole` of these bytes; all of them where the whole is nothing.
fn share(bytes: u64, part: u64, whole: u64) -> u64 {
    if whole == 0 {
        return bytes;
    }
    let share = u128::from(bytes) * u128::from(part.min(whole)) / u128::from(whole);
    u64::try_from(share).unwrap_or(u64::MAX)
}

fn per_day(bytes: u64, in_ms: u64) -> u64 {
    let rate = u128::from(bytes) * u128::from(DAY_MS) / u128::from(in_ms.max(1));
    u64::try_from(rate).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: TimestampMs = TimestampMs(1_700_000_000_000);
    const MINUTE: Duration = Duration::from_secs(60);

    fn after(minutes: u64) -> TimestampMs {
        TimestampMs(START.0 + minutes * 60_000)
    }

    /// Writes `bytes` in each of the minutes, and what was told meanwhile with the minute.
    fn write(wear: &mut Wear, minutes: std::ops::Range<u64>, bytes: u64) -> Vec<(u64, Level)> {
        let mut told = Vec::new();
        for minute in minutes {
            let took = MINUTE;
            wear.handle(after(minute), Input::Written { bytes, took });
            while let Some(Output::Changed(level)) = wear.poll_output() {
                told.push((minute, level));
            }
        }
        told
    }

    #[test]
    fn a_steady_rate_is_measured_and_projected() {
        let mut wear = Wear::new(Kept::default(), None);
        write(&mut wear, 0..3 * 1440, 1_000);
        let figures = wear.figures(after(3 * 1440));
        let day = 1_440_000_f64;
        let near = |bytes: u64| (bytes as f64 - day).abs() < day / 100.0;
        assert!(near(figures.bytes_last_day), "{figures:?}");
        assert!(
            near(figures.projected_bytes_per_day.unwrap()),
            "{figures:?}"
        );
        assert_eq!(figures.bytes_total, 3 * 1_440_000);
        assert_eq!(figures.level, Level::Within);
        assert!(wear.kept().hours.len() <= 25);
    }

    #[test]
    fn each_crossing_of_the_budget_is_told_once() {
        let mut wear = Wear::new(Kept::default(), Some(Budget::BytesPerDay(1_440_000)));
        // Twice the rate: told as soon as there is enough to go by, then when the day is over its budget.
        let told = write(&mut wear, 0..1440, 2_000);
        assert_eq!(told.len(), 2, "{told:?}");
        assert_eq!(told[0].1, Level::Nearing);
        assert!((9..=10).contains(&told[0].0), "{told:?}");
        assert_eq!(told[1].1, Level::Over);
        assert!((715..=725).contains(&told[1].0), "{told:?}");
        // A fifth of it: back under once enough of the day before slid out, not before.
        let told = write(&mut wear, 1440..2 * 1440, 200);
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].1, Level::Within);
        assert!(told[0].0 > 1440 + 600, "{told:?}");
    }

    #[test]
    fn what_is_left_of_the_budget_says_when_it_is_gone() {
        let mut wear = Wear::new(Kept::default(), Some(Budget::BytesPerDay(1_440_000)));
        write(&mut wear, 0..60, 2_000);
        let left = wear.figures(after(60)).exceeded_in.unwrap();
        let expected = Duration::from_secs((1_440_000 - 120_000) / 2_000 * 60);
        assert!(
            left.abs_diff(expected) < Duration::from_secs(120),
            "{left:?}"
        );
    }

    #[test]
    fn an_endurance_is_a_budget_and_a_rate_a_life() {
        let budget = Budget::Endurance {
            bytes: 365_242_500_000,
            years: 10.0,
        };
        assert_eq!(budget.bytes_per_day(), 100_000_000);
        let years = budget.life_years(50_000_000).unwrap();
        assert!((years - 20.0).abs() < 1e-6, "{years}");
        assert_eq!(Budget::BytesPerDay(1).life_years(1), None);
    }

    #[test]
    fn a_start_alone_raises_no_alarm_and_projects_nothing_at_once() {
        let mut wear = Wear::new(Kept::default(), Some(Budget::BytesPerDay(100_000_000)));
        let bytes = 20_000_000;
        let took = Duration::from_secs(10);
        wear.handle(START, Input::Written { bytes, took });
        let figures = wear.figures(START);
        assert_eq!(figures.projected_bytes_per_day, None);
        assert_eq!(figures.bytes_last_day, bytes);
        assert_eq!(wear.poll_output(), None);
    }

    #[test]
    fn what_was_kept_goes_on() {
        let mut wear = Wear::new(Kept::default(), None);
        write(&mut wear, 0..120, 1_000);
        let text = serde_json::to_string(wear.kept()).unwrap();
        let kept: Kept = serde_json::from_str(&text).unwrap();
        let mut again = Wear::new(kept, None);
        write(&mut wear, 120..240, 500);
        write(&mut again, 120..240, 500);
        assert_eq!(wear.figures(after(240)), again.figures(after(240)));
    }

    proptest! {
        /// Whatever the clock and the counter do, no byte is invented, and of a day that was seen none is lost.
        #[test]
        fn sums_hold_whatever_the_clock_does(
            steps in prop::collection::vec((0_u64..5_000_000, 0_u64..7_200, -200_000_i64..200_000), 1..200)
        ) {
            let mut wear = Wear::new(Kept::default(), Some(Budget::BytesPerDay(1_000_000)));
            let (mut wall_ms, mut total) = (START.0, 0);
            for (bytes, took_s, jump_s) in steps {
                let jump_ms = if jump_s % 7 == 0 { jump_s * 1_000 } else { 0 };
                wall_ms = wall_ms.saturating_add(took_s * 1_000).saturating_add_signed(jump_ms);
                let took = Duration::from_secs(took_s);
                wear.handle(TimestampMs(wall_ms), Input::Written { bytes, took });
                total += bytes;
                let figures = wear.figures(TimestampMs(wall_ms));
                prop_assert!(figures.bytes_last_day <= total);
                prop_assert_eq!(figures.bytes_total, total);
                prop_assert!(wear.kept().hours.len() <= 25);
                let sorted = wear.kept().hours.iter().zip(wear.kept().hours.iter().skip(1)).all(|(a, b)| a.hour < b.hour);
                prop_assert!(sorted, "{:?}", wear.kept().hours);
                wear.poll_output();
            }
        }
    }
}
