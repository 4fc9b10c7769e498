//! Telling people: the log, the list of swaps, the status.

use std::sync::Arc;
use std::time::Duration;

use moorline_core::swap::{Build, Digest, Failure, NoFile, Reason, Report, Step};
use moorline_core::time::{Instant, rounded_ms};
use moorline_core::trust::Origin;

use super::jobs::Done;
use super::slot::Source;
use super::{Candidate, Running, Slot, Target, jobs, nobody};
use crate::plugins::instance::TookOver;
use crate::plugins::orders::OrderEnd;
use crate::plugins::status::{
    ComponentStatus, ConnectorStatus, PluginsStatus, PolicyStatus, SWAPS_KEPT, SwapOutcome,
    SwapRecord,
};
use crate::trust::Ledger;

impl Running {
    pub(super) fn record(&mut self, slot: usize, now: Instant, report: Report) {
        let Some(found) = self.swapper.slots.get_mut(slot) else {
            return;
        };
        let (from, to, outcome) = match report {
            Report::Missing(why) => {
                found.say_missing(&why);
                return found.waiting.nothing_new(&OrderEnd::Missing(why));
            }
            Report::Unchanged(build) => {
                // Whoever touches the file, or orders a swap to what serves, wants it to be tried again.
                super::spawn(&self.done, jobs::retry(&found.target));
                found.note_served(&self.swapper.ledger);
                return found.waiting.nothing_new(&OrderEnd::Unchanged(build));
            }
            Report::Shunned(digest) => {
                let end = OrderEnd::Shunned(digest, found.failure_of(digest));
                return found.waiting.nothing_new(&end);
            }
            Report::PutBack(digest) => {
                tracing::info!(
                    component = &*found.name, %digest,
                    "the plugin's file holds the last build that proved itself, for the next start; what serves goes on; moorline plugin swap loads what is in the file"
                );
                let serves = found.machine.active().map(OrderEnd::Unchanged);
                return serves.iter().for_each(|end| found.waiting.nothing_new(end));
            }
            Report::Proved(build) => {
                tracing::debug!(component = &*found.name, %build, "the new generation has proved itself");
                found.proves(build.digest, &self.swapper.ledger);
                return found.waiting.proved(build);
            }
            Report::Loaded(to) => {
                // The build that would have come first gets its turn at the next start.
                if !found.kept_waits {
                    found.proves(to.digest, &self.swapper.ledger);
                }
                (None, to, SwapOutcome::Loaded)
            }
            Report::Swapped { from, to } => {
                if found.source_of(to) == Some(Source::Previous) {
                    // An operator wants it, for the next start, too.
                    found.proves(to.digest, &self.swapper.ledger);
                }
                (Some(from), to, SwapOutcome::Swapped)
            }
            Report::Refused {
                candidate,
                step,
                failure,
            } => (
                found.machine.active(),
                candidate,
                SwapOutcome::Refused(step, failure),
            ),
            Report::RolledBack {
                from,
                to,
                step,
                failure,
            } => {
                let mended = found.mended(slot, (from, to), failure.reason, &self.swapper.ledger);
                super::spawn(&self.done, mended);
                (Some(to), from, SwapOutcome::RolledBack(step, failure))
            }
        };
        let is_kept = found.source_of(to) == Some(Source::Kept);
        let record = Arc::new(found.conclude(now, from, to, outcome));
        // Orders are for what lies in the file, whose turn comes next; it is judged as it would have been without the one kept.
        if !is_kept {
            found.waiting.concluded(&record);
            found.note_served(&self.swapper.ledger);
        }
        self.concluded.push(record);
    }

    pub(super) fn publish(&mut self) {
        let mut connectors = Vec::new();
        let mut policy = None;
        for slot in &self.swapper.slots {
            match &slot.target {
                Target::Connector { instances, .. } => connectors.push(ConnectorStatus {
                    name: slot.name.clone(),
                    component: slot.component(),
                    instances: instances
                        .iter()
                        .map(|instance| instance.status.borrow().clone())
                        .collect(),
                }),
                Target::Policy { figures, .. } => {
                    let figures = *figures.borrow();
                    policy = Some(PolicyStatus {
                        component: slot.component(),
                        answered: figures.answered,
                        trapped: figures.trapped,
                        stalled: figures.stalled,
                    });
                }
            }
        }
        let concluded = std::mem::take(&mut self.concluded);
        self.swapper
            .status
            .send_modify(|status: &mut PluginsStatus| {
                status.connectors = connectors;
                status.policy = policy;
                for record in concluded {
                    if status.swaps.len() >= SWAPS_KEPT {
                        status.swaps.pop_front();
                    }
                    if record.outcome == SwapOutcome::Swapped {
                        status.swaps_total += 1;
                    }
                    status.swaps.push_back(record);
                }
            });
    }
}

impl Slot {
    /// Says once why there is no file.
    fn say_missing(&mut self, why: &NoFile) {
        if self.missing_said.as_ref() == Some(why) {
            return;
        }
        let (name, path) = (&*self.name, self.path.display());
        let next = match why {
            NoFile::Absent => "it is loaded when it appears",
            NoFile::Unreadable(_) => "it is tried again",
        };
        tracing::error!(component = name, %path, "the plugin's file {why}; {next}");
        self.missing_said = Some(why.clone());
    }

    /// Why this build was refused, if it was the last one that was.
    fn failure_of(&self, build: Digest) -> Option<Failure> {
        let refused = self.refused.as_deref();
        let why = refused.filter(|(refused, _)| *refused == build);
        why.map(|(_, failure)| failure.clone())
    }

    /// Sees to it that the next start does not find what failed in the file, and does not take it for proved.
    fn mended(
        &mut self,
        slot: usize,
        (failed, back): (Build, Build),
        reason: Reason,
        ledger: &Ledger,
    ) -> impl Future<Output = Option<Done>> + Send + use<> {
        // An operator had brought it back: what it replaced had proved itself.
        if self.proved == Some(failed.digest) {
            self.proves(back.digest, ledger);
        }
        let good = [Some(back.digest), self.proved];
        jobs::take_back(slot, self.path.clone(), (failed.digest, reason), good)
    }

    fn source_of(&self, candidate: Build) -> Option<Source> {
        let candidate = self.candidate.as_ref().filter(|c| c.build == candidate);
        candidate.map(|candidate| candidate.source)
    }

    fn proves(&mut self, build: Digest, ledger: &Ledger) {
        self.proved = Some(build);
        ledger.note_proved(&self.place, build);
    }

    /// Whatever comes next is judged by the version that serves now.
    fn note_served(&self, ledger: &Ledger) {
        if self.machine.active().is_some() {
            let (plugin, version) = &self.card;
            ledger.note(&self.place, plugin, version);
        }
    }

    fn component(&self) -> ComponentStatus {
        let active = self.machine.active();
        let (card, origin) = if active.is_some() && active != self.told {
            (&self.card_before, &self.origin_before)
        } else {
            (&self.card, &self.origin)
        };
        ComponentStatus {
            path: self.path.clone(),
            state: self.machine.state(),
            active,
            proved: self.proved,
            before: self.machine.previous(),
            plugin: card.0.clone(),
            version: card.1.clone(),
            origin: origin.clone(),
            refused: self.refused.clone(),
        }
    }

    fn conclude(
        &mut self,
        now: Instant,
        from: Option<Build>,
        to: Build,
        outcome: SwapOutcome,
    ) -> SwapRecord {
        self.missing_said = None;
        let candidate = self
            .candidate
            .take()
            .filter(|candidate| candidate.build == to);
        let took = candidate.as_ref().map_or(Duration::ZERO, |c| now - c.began);
        let TookOver { gap, clean } = candidate
            .as_ref()
            .map(|candidate| candidate.took_over.clone())
            .unwrap_or_default();
        let (plugin, version) = candidate
            .as_ref()
            .map_or_else(nobody, |candidate| candidate.card.clone());
        let cached = candidate.as_ref().is_some_and(|c| c.cached);
        match &outcome {
            SwapOutcome::Loaded | SwapOutcome::Swapped => self.serves(candidate, to, gap, took),
            SwapOutcome::Refused(step, failure) => {
                let kept = candidate.is_some_and(|c| c.source == Source::Kept);
                let again = match (failure.may_pass(*step), kept) {
                    (false, _) => "",
                    (true, false) => "; it is tried again",
                    (true, true) => "; it is tried again at the next start",
                };
                self.kept_waits |= kept && failure.may_pass(*step);
                self.refuses(to, *step, failure, ("refused", again));
            }
            SwapOutcome::RolledBack(step, failure) => {
                if *step == Step::Probation {
                    self.card = self.card_before.clone();
                    self.codes.drop_code(to.digest);
                    self.origin = self.origin_before.clone();
                }
                self.told = from;
                self.refuses(to, *step, failure, ("rolled back", ""));
            }
        }
        SwapRecord {
            component: self.name.clone(),
            from,
            to,
            plugin,
            version,
            outcome,
            clean,
            gap,
            cached,
            took,
            at: now,
        }
    }

    fn serves(
        &mut self,
        candidate: Option<Candidate>,
        build: Build,
        gap: Duration,
        took: Duration,
    ) {
        if let Some(candidate) = candidate {
            if let Some(code) = candidate.code {
                self.codes.serves(build.digest, code);
            }
            self.card_before = std::mem::replace(&mut self.card, candidate.card);
            self.origin_before = std::mem::replace(&mut self.origin, candidate.origin);
        }
        self.told = Some(build);
        self.refused = None;
        let (plugin, version) = (&*self.card.0, &*self.card.1);
        let missing = self.target.missing(build.generation);
        let what = if missing.is_some() {
            "plugin loaded, but not all of its instances serve"
        } else {
            "plugin serves"
        };
        tracing::info!(
            component = &*self.name,
            generation = %build.generation,
            digest = %build.digest,
            plugin,
            version,
            origin = %self.origin,
            gap_ms = rounded_ms(gap),
            took_ms = rounded_ms(took),
            serving = missing.as_deref(),
            "{what}"
        );
        if let Origin::Doubtful(failure) = &self.origin {
            tracing::warn!(
                component = &*self.name,
                digest = %build.digest,
                "a plugin serves that nobody trusted has signed, because [plugins] signatures = \"warn\": it {failure}"
            );
        }
    }

    /// `end` is how, and what follows.
    fn refuses(&mut self, build: Build, step: Step, failure: &Failure, end: (&str, &str)) {
        let serving = self
            .machine
            .active()
            .map_or_else(|| "none".to_owned(), |active| active.to_string());
        let component = &*self.name;
        let candidate = build;
        if failure.reason == Reason::Ordered {
            tracing::info!(
                component, %candidate, %step, serving,
                "plugin rolled back by an operator's order"
            );
        } else {
            let (end, again) = end;
            tracing::error!(
                component, %candidate, %step, serving,
                "plugin {end}: it {failure}{again}"
            );
        }
        self.refused = Some(Arc::new((build.digest, failure.clone())));
    }
}
