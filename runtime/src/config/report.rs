//! The tables of report strategies: `[report]`, `[connector.report]` and `[[connector.report.rule]]`.

use std::collections::BTreeSet;
use std::time::Duration;

use moorline_core::message::Key;
use moorline_core::report::{Deadband, Pattern, Rule, Rules, Strategy};
use serde::Deserialize;
use toml::Spanned;

use super::raw::Within;
use super::settings::Resolver;

/// Rules of one connector.
const RULES_MAX: usize = 1000;

/// Ten milliseconds to a week.
type PeriodMs = Within<10, 604_800_000>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Name {
    #[serde(rename = "on-received")]
    Received,
    #[serde(rename = "on-change")]
    Change,
    #[serde(rename = "on-period")]
    Period,
    #[serde(rename = "on-change-or-period")]
    ChangeOrPeriod,
}

/// A distance of two readings.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "f64")]
struct Distance(f64);

impl TryFrom<f64> for Distance {
    type Error = String;
    fn try_from(number: f64) -> Result<Self, String> {
        if number.is_finite() && number >= 0.0 {
            Ok(Self(number))
        } else {
            Err(format!(
                "{number} is no deadband: it must be a finite number, 0 or above"
            ))
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "f64")]
struct Percent(f64);

impl TryFrom<f64> for Percent {
    type Error = String;
    fn try_from(number: f64) -> Result<Self, String> {
        if (0.0..=100.0).contains(&number) {
            Ok(Self(number))
        } else {
            Err(format!(
                "{number} is out of range: it must be between 0 and 100"
            ))
        }
    }
}

/// Names of devices or keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
struct Names(String);

impl TryFrom<String> for Names {
    type Error = String;
    fn try_from(names: String) -> Result<Self, String> {
        // Keys and devices are named alike.
        match Key::try_new(&names) {
            Ok(_name) => Ok(Self(names)),
            Err(error) => Err(format!("no device and no key is called so: it {error}")),
        }
    }
}

/// `[report]`: for the whole gateway.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Report {
    strategy: Spanned<Name>,
    deadband: Option<Spanned<Distance>>,
    deadband_percent: Option<Spanned<Percent>>,
    period_ms: Option<Spanned<PeriodMs>>,
}

/// `[connector.report]`: for one connector, as a whole and by rules.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConnectorReport {
    strategy: Option<Spanned<Name>>,
    deadband: Option<Spanned<Distance>>,
    deadband_percent: Option<Spanned<Percent>>,
    period_ms: Option<Spanned<PeriodMs>>,
    #[serde(default)]
    rule: Vec<ReportRule>,
}

/// `[[connector.report.rule]]`: for some devices and keys.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReportRule {
    device: Option<Spanned<Names>>,
    key: Option<Spanned<Names>>,
    strategy: Spanned<Name>,
    deadband: Option<Spanned<Distance>>,
    deadband_percent: Option<Spanned<Percent>>,
    period_ms: Option<Spanned<PeriodMs>>,
}

impl ConnectorReport {
    /// The table's own strategy. Without one, what goes with a strategy has no place in it.
    fn own(&self) -> Result<Option<Report>, std::ops::Range<usize>> {
        match &self.strategy {
            Some(strategy) => Ok(Some(Report {
                strategy: strategy.clone(),
                deadband: self.deadband.clone(),
                deadband_percent: self.deadband_percent.clone(),
                period_ms: self.period_ms.clone(),
            })),
            None => {
                let stray = (self.deadband.as_ref().map(Spanned::span))
                    .or(self.deadband_percent.as_ref().map(Spanned::span))
                    .or(self.period_ms.as_ref().map(Spanned::span));
                stray.map_or(Ok(None), Err)
            }
        }
    }
}

impl Resolver<'_> {
    /// The strategy of the whole gateway.
    pub(super) fn gateway_report(&mut self, raw: Option<Report>) -> Strategy {
        raw.map_or(Strategy::OnReceived, |raw| self.strategy(&raw))
    }

    /// What holds for one connector, where `otherwise` holds for the gateway.
    pub(super) fn report(&mut self, raw: Option<ConnectorReport>, otherwise: Strategy) -> Rules {
        let raw = raw.unwrap_or_default();
        let otherwise = match raw.own() {
            Ok(own) => own.map_or(otherwise, |own| self.strategy(&own)),
            Err(stray) => {
                self.find(stray, "goes with a strategy, and this table has none");
                otherwise
            }
        };
        if let Some(surplus) = raw.rule.get(RULES_MAX) {
            self.find(
                surplus.strategy.span(),
                format!("a connector can have at most {RULES_MAX} rules"),
            );
        }
        let mut known = BTreeSet::new();
        let rules = raw.rule.into_iter().map(|rule| {
            let names = |given: &Option<Spanned<Names>>| {
                given
                    .as_ref()
                    .map_or_else(|| "*".to_owned(), |names| names.get_ref().0.clone())
            };
            let (device, key) = (names(&rule.device), names(&rule.key));
            let (device_pattern, key_pattern) = (Pattern::new(&device), Pattern::new(&key));
            let span = (rule.key.or(rule.device)).map_or(rule.strategy.span(), |names| names.span());
            if device_pattern == Pattern::Any && key_pattern == Pattern::Any {
                self.find(
                    span.clone(),
                    "this rule is about every device and key: that belongs in [connector.report] itself",
                );
            }
            let words = format!("there is a rule for device {device:?} and key {key:?} already");
            if !known.insert((device, key)) {
                self.find(span, words);
            }
            Rule {
                device: device_pattern,
                key: key_pattern,
                strategy: self.strategy(&Report {
                    strategy: rule.strategy,
                    deadband: rule.deadband,
                    deadband_percent: rule.deadband_percent,
                    period_ms: rule.period_ms,
                }),
            }
        });
        Rules::new(rules.collect(), otherwise)
    }

    fn strategy(&mut self, raw: &Report) -> Strategy {
        let name = *raw.strategy.get_ref();
        let (by_change, by_period) = match name {
            Name::Received => (false, false),
            Name::Change => (true, false),
            Name::Period => (false, true),
            Name::ChangeOrPeriod => (true, true),
        };
        let deadbands = [
            raw.deadband.as_ref().map(Spanned::span),
            raw.deadband_percent.as_ref().map(Spanned::span),
        ];
        for span in deadbands.into_iter().flatten().filter(|_| !by_change) {
            self.find(
                span,
                "a deadband goes with \"on-change\" and \"on-change-or-period\"",
            );
        }
        match &raw.period_ms {
            Some(period) if !by_period => self.find(
                period.span(),
                "a period goes with \"on-period\" and \"on-change-or-period\"",
            ),
            None if by_period => self.find(raw.strategy.span(), "needs period_ms beside it"),
            Some(_) | None => {}
        }
        let deadband = Deadband {
            absolute: raw.deadband.as_ref().map_or(0.0, |raw| raw.get_ref().0),
            percent: raw
                .deadband_percent
                .as_ref()
                .map_or(0.0, |raw| raw.get_ref().0),
        };
        let period = raw
            .period_ms
            .as_ref()
            .map_or(Duration::ZERO, |raw| Duration::from_millis(raw.get_ref().0));
        match name {
            Name::Received => Strategy::OnReceived,
            Name::Change => Strategy::OnChange(deadband),
            Name::Period => Strategy::OnPeriod(period),
            Name::ChangeOrPeriod => Strategy::OnChangeOrPeriod(deadband, period),
        }
    }
}
