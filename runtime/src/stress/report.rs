//! What came of a campaign, for machines (JSON) and for the file that goes to whoever deploys (Markdown).

use std::fmt::{self, Write as _};
use std::time::Duration;

use serde::Serialize;

use super::campaign::Fault;

/// What became of one trial. Times in seconds; none = it did not happen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Outcome {
    /// What was done.
    pub(crate) fault: Fault,
    /// For how long; 0 = a blow.
    pub(crate) lasted_s: f64,
    /// From the fault to the first disconnect that was told.
    pub(crate) detected_s: Option<f64>,
    /// From the heal to the first acknowledgement after it.
    pub(crate) recovered_s: Option<f64>,
    /// From the heal to the acknowledgement of everything accepted before it.
    pub(crate) drained_s: Option<f64>,
    /// Causes of all disconnects and failed attempts, in order, by their stable names.
    pub(crate) causes: Vec<String>,
    /// The first of them in a sentence.
    pub(crate) told: Option<String>,
    /// Most readings that waited at a time.
    pub(crate) backlog_readings_max: u64,
    /// What is not as it should be; empty = passed.
    pub(crate) problems: Vec<String>,
}

/// The account of the whole campaign.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Balance {
    /// Readings the spool accepted.
    pub(crate) accepted: u64,
    /// Readings the broker acknowledged.
    pub(crate) delivered: u64,
    /// Readings that still waited at the end.
    pub(crate) waiting: u64,
    /// Readings dropped because the spool was full.
    pub(crate) evicted: u64,
    /// Readings that could not be read back.
    pub(crate) damaged: u64,
    /// Readings the broker refused for good.
    pub(crate) dead_lettered: u64,
    /// Times a batch had to wait for the spool.
    pub(crate) back_pressure: u64,
    /// Publishes that were in flight when a session ended: the broker may have got them twice.
    pub(crate) duplicates_possible: u64,
    /// Sessions the broker accepted.
    pub(crate) sessions: u64,
}

/// One campaign.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Report {
    /// The broker, as configured.
    pub(crate) broker: String,
    /// The client id that was used.
    pub(crate) client_id: String,
    /// The version spoken at the end.
    pub(crate) mqtt_version: Option<String>,
    /// The seed of the plan.
    pub(crate) seed: u64,
    /// The load.
    pub(crate) readings_per_s: u32,
    /// How long it took.
    pub(crate) took_s: f64,
    /// The trials, in order.
    pub(crate) trials: Vec<Outcome>,
    /// Faults there was no time for.
    pub(crate) untried: Vec<Fault>,
    /// The account.
    pub(crate) balance: Balance,
    /// What is wrong beyond single trials.
    pub(crate) problems: Vec<String>,
}

impl Report {
    /// Nothing is wrong.
    #[must_use]
    pub(crate) fn passed(&self) -> bool {
        self.problems.is_empty() && self.trials.iter().all(|trial| trial.problems.is_empty())
    }

    /// The page.
    #[must_use]
    pub(crate) fn markdown(&self) -> String {
        let mut page = String::new();
        // Writing into a string cannot fail.
        self.write(&mut page).unwrap_or_default();
        page
    }

    fn write(&self, page: &mut String) -> fmt::Result {
        let verdict = if self.passed() {
            "passed"
        } else {
            "problems found"
        };
        writeln!(page, "# Stress campaign: {verdict}\n")?;
        writeln!(
            page,
            "Broker {}, client id `{}`, MQTT {}; {} readings/s for {:.0} s; seed {}.\n",
            self.broker,
            self.client_id,
            self.mqtt_version.as_deref().unwrap_or("–"),
            self.readings_per_s,
            self.took_s,
            self.seed,
        )?;
        self.write_balance(page)?;
        self.write_trials(page)?;
        if !self.untried.is_empty() {
            let names: Vec<_> = self.untried.iter().map(|fault| fault.name()).collect();
            writeln!(page, "\nNot tried, for lack of time: {}.", names.join(", "))?;
        }
        self.write_problems(page)
    }

    fn write_balance(&self, page: &mut String) -> fmt::Result {
        let balance = &self.balance;
        writeln!(page, "| readings | |\n|---|---:|")?;
        for (what, count) in [
            ("accepted", balance.accepted),
            ("delivered (acknowledged by the broker)", balance.delivered),
            ("waiting at the end", balance.waiting),
            ("evicted: the spool was full", balance.evicted),
            ("damaged", balance.damaged),
            ("refused by the broker for good", balance.dead_lettered),
        ] {
            writeln!(page, "| {what} | {count} |")?;
        }
        writeln!(
            page,
            "\n{} sessions; {} publishes were in flight when one ended and may have arrived twice; \
             a batch waited for the spool {} times.\n",
            balance.sessions, balance.duplicates_possible, balance.back_pressure
        )
    }

    fn write_trials(&self, page: &mut String) -> fmt::Result {
        writeln!(
            page,
            "| fault | lasted | found after | back after | backlog gone after | most waiting | told | |\n\
             |---|---:|---:|---:|---:|---:|---|---|"
        )?;
        for trial in &self.trials {
            writeln!(
                page,
                "| {} ({}) | {} | {} | {} | {} | {} | {} | {} |",
                trial.fault.name(),
                trial.fault.words(),
                if trial.lasted_s > 0.0 {
                    seconds(Some(trial.lasted_s))
                } else {
                    "at once".to_owned()
                },
                seconds(trial.detected_s),
                seconds(trial.recovered_s),
                seconds(trial.drained_s),
                trial.backlog_readings_max,
                counted(&trial.causes),
                if trial.problems.is_empty() {
                    "ok"
                } else {
                    "**problem**"
                },
            )?;
        }
        Ok(())
    }

    fn write_problems(&self, page: &mut String) -> fmt::Result {
        if self.passed() {
            return Ok(());
        }
        writeln!(page, "\n## Problems\n")?;
        for problem in &self.problems {
            writeln!(page, "- {problem}")?;
        }
        for trial in &self.trials {
            for problem in &trial.problems {
                writeln!(page, "- {}: {problem}", trial.fault.name())?;
                if let Some(told) = &trial.told {
                    writeln!(page, "  - told: {told}")?;
                }
            }
        }
        Ok(())
    }
}

/// Seconds for people.
pub(super) fn seconds(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "–".to_owned(), |seconds| format!("{seconds:.1} s"))
}

/// Equal neighbours once, with their number.
pub(super) fn counted(causes: &[String]) -> String {
    if causes.is_empty() {
        return "the link stayed up".to_owned();
    }
    let runs = causes.chunk_by(|one, other| one == other);
    let words: Vec<_> = runs
        .map(|run| match run {
            [one] => one.clone(),
            [one, ..] => format!("{} × {one}", run.len()),
            [] => String::new(),
        })
        .collect();
    words.join(", ")
}

pub(super) fn in_seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_causes_are_counted() {
        let causes = ["reset", "connect-refused", "connect-refused"].map(str::to_owned);
        assert_eq!(counted(&causes), "reset, 2 × connect-refused");
        assert_eq!(counted(&[]), "the link stayed up");
    }
}
