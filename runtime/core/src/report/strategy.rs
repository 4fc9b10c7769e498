//! When a reading is worth reporting, given the last one of its pair that was reported.

use std::time::Duration;

use crate::message::{Quality, Reading, Value};
use crate::time::{Instant, TimestampMs};

/// By how much a number must differ from the one last reported. Where both are given, the wider of the two.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Deadband {
    /// In the unit of the reading; finite and not negative.
    pub absolute: f64,
    /// In percent of the number last reported, 0 to 100.
    pub percent: f64,
}

impl Deadband {
    fn width(self, last: f64) -> f64 {
        self.absolute.max(last.abs() * (self.percent / 100.0))
    }
}

/// How readings of a device and key are reported.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Strategy {
    /// Each one.
    #[default]
    OnReceived,
    /// Those whose quality differs from the last reported one, or whose value does, for numbers by more than the
    /// deadband.
    OnChange(Deadband),
    /// The first of each period.
    OnPeriod(Duration),
    /// Those that differ, and the first when a period has passed without a report.
    OnChangeOrPeriod(Deadband, Duration),
}

impl Strategy {
    fn period_ms(self) -> Option<u64> {
        match self {
            Self::OnReceived | Self::OnChange(_) => None,
            Self::OnPeriod(period) | Self::OnChangeOrPeriod(_, period) => {
                Some(u64::try_from(period.as_millis()).unwrap_or(u64::MAX).max(1))
            }
        }
    }
}

/// The last reported reading of a pair.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Reported {
    pub(super) value: Value,
    quality: Quality,
    timestamp: TimestampMs,
    /// The newest timestamp that was ever reported; later than `timestamp` while late readings come in.
    newest: TimestampMs,
    /// Readings of this time and later belong to the next period.
    due_ms: u64,
    /// When it was reported.
    at: Instant,
}

/// What a report means for the period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// It begins with this reading.
    Anew,
    /// The next one began: the beginnings of periods stay where they are, however late a reading comes.
    Next,
}

impl Reported {
    /// `reading`, of which nothing is known before.
    pub(super) fn first(strategy: Strategy, reading: &Reading, now: Instant) -> Self {
        let period_ms = strategy.period_ms();
        Self {
            value: reading.value.clone(),
            quality: reading.quality,
            timestamp: reading.timestamp,
            newest: reading.timestamp,
            due_ms: period_ms.map_or(u64::MAX, |ms| reading.timestamp.0.saturating_add(ms)),
            at: now,
        }
    }

    /// What is the last reported one if `reading` is reported; none if it is suppressed.
    pub(super) fn next(&self, strategy: Strategy, reading: &Reading, now: Instant) -> Option<Self> {
        let due = match strategy {
            Strategy::OnReceived => Some(Due::Anew),
            Strategy::OnChange(deadband) => self.change(deadband, reading),
            Strategy::OnPeriod(_) => self.period(strategy, reading, now),
            Strategy::OnChangeOrPeriod(deadband, _) => self
                .change(deadband, reading)
                .or_else(|| self.period(strategy, reading, now)),
        }?;
        let mut next = Self {
            newest: self.newest.max(reading.timestamp),
            ..Self::first(strategy, reading, now)
        };
        if due == Due::Next
            && let Some(period_ms) = strategy.period_ms()
        {
            let over_ms = reading.timestamp.0.saturating_sub(self.due_ms);
            let begun_ms = reading.timestamp.0 - over_ms % period_ms;
            next.due_ms = begun_ms.saturating_add(period_ms);
        }
        Some(next)
    }

    fn change(&self, deadband: Deadband, reading: &Reading) -> Option<Due> {
        let changed = self.is_out_of_order(reading.timestamp)
            || self.quality != reading.quality
            || differ(deadband, &self.value, &reading.value);
        changed.then_some(Due::Anew)
    }

    /// Whether readings lie between in time that this one does not tell of: then nothing can be compared.
    fn is_out_of_order(&self, timestamp: TimestampMs) -> bool {
        let back_to_the_newest = self.timestamp < self.newest && self.newest <= timestamp;
        timestamp < self.timestamp || back_to_the_newest
    }

    /// Periods are measured by the readings' own time. A time that is a period older, or one that stands still for two,
    /// begins anew.
    fn period(&self, strategy: Strategy, reading: &Reading, now: Instant) -> Option<Due> {
        let period_ms = strategy.period_ms()?;
        let (last_ms, this_ms) = (self.timestamp.0, reading.timestamp.0);
        if self.due_ms <= this_ms {
            return Some(Due::Next);
        }
        let stands_still = Duration::from_millis(period_ms.saturating_mul(2));
        let anew = last_ms.saturating_sub(this_ms) >= period_ms
            || now.saturating_since(self.at) >= stands_still;
        anew.then_some(Due::Anew)
    }
}

#[derive(Clone, Copy)]
enum Number {
    Whole(i64),
    Real(f64),
}

/// Whole numbers up to here are exact as reals.
const EXACT_MAX: u64 = 1 << f64::MANTISSA_DIGITS;

#[expect(
    clippy::cast_precision_loss,
    reason = "the callers have looked, or want a width that needs no more digits"
)]
const fn real(whole: i64) -> f64 {
    whole as f64
}

impl Number {
    const fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Integer(whole) => Some(Self::Whole(*whole)),
            Value::Double(real) => Some(Self::Real(*real)),
            Value::Boolean(_) | Value::Text(_) | Value::Json(_) => None,
        }
    }

    fn differs(self, deadband: Deadband, last: Self) -> bool {
        let by_more = |last: f64, this: f64| (this - last).abs() > deadband.width(last);
        match (last, self) {
            (Self::Real(last), Self::Real(this)) => by_more(last, this),
            (Self::Whole(last), Self::Whole(this)) => {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "not negative, saturates; a whole distance is above a width if it is above its whole part"
                )]
                let width = deadband.width(real(last)) as u64;
                last.abs_diff(this) > width
            }
            (Self::Whole(whole), Self::Real(_)) | (Self::Real(_), Self::Whole(whole))
                if whole.unsigned_abs() > EXACT_MAX =>
            {
                true
            }
            (Self::Whole(last), Self::Real(this)) => by_more(real(last), this),
            (Self::Real(last), Self::Whole(this)) => by_more(last, real(this)),
        }
    }
}

/// Numbers by their distance, whether written with a fraction or not; everything else by equality.
fn differ(deadband: Deadband, last: &Value, this: &Value) -> bool {
    match (Number::of(last), Number::of(this)) {
        (Some(last), Some(this)) => this.differs(deadband, last),
        (None, None) => last != this,
        (Some(_), None) | (None, Some(_)) => true,
    }
}
