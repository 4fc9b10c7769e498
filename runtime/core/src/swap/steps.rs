//! From one stage to the next.

use std::time::Duration;

use crate::time::Instant;

use super::probation::{Pace, Probation, Served};
use super::{
    Build, Digest, Failure, Generation, NoFile, Output, Reason, Report, Seen, Source, Stage, Step,
    Swap,
};

/// After this long a file that could not be read is tried again: nobody may tell that it can be now.
const READ_AGAIN: Duration = Duration::from_secs(5);

/// When a build is tried again that this host could not compile, however good it may be; twice as long after each such end in a
/// row.
const COMPILE_AGAIN: Duration = Duration::from_secs(5);
const COMPILE_AGAIN_MAX: Duration = Duration::from_secs(600);

/// A file that never holds still is looked at more and more rarely, up to this: each look reads all of it.
const SETTLE_MAX: Duration = Duration::from_secs(5);

impl Swap {
    pub(super) fn on_start(&mut self, kept: Option<Digest>) {
        if !matches!(self.stage, Stage::Starting) {
            return;
        }
        let Some(kept) = kept else {
            // This look sees whatever has changed until now.
            self.look_again = false;
            return self.probe(Seen::Anything);
        };
        let candidate = self.number(kept);
        self.source = Source::Kept;
        self.look_again = true;
        self.stage = Stage::Compiling(candidate);
        self.outputs.push_back(Output::CompileKept(candidate));
    }

    pub(super) fn probe(&mut self, seen: Seen) {
        self.probes += 1;
        self.look_at = None;
        self.stage = Stage::Probing {
            probe: self.probes,
            seen,
        };
        self.outputs.push_back(Output::Probe { probe: self.probes });
    }

    fn settle(&mut self, now: Instant, seen: Option<Digest>) {
        self.look_again = false;
        let wait = self.settings.settle * 2_u32.saturating_pow(self.unsettled);
        self.stage = Stage::Settling {
            until: now + wait.min(SETTLE_MAX.max(self.settings.settle)),
            seen,
        };
    }

    fn idle(&mut self, now: Instant) {
        self.stage = Stage::Idle;
        if self.look_again {
            self.settle(now, None);
        }
    }

    pub(super) fn on_file_changed(&mut self, now: Instant) {
        if matches!(
            self.stage,
            Stage::Probing { .. } | Stage::Settling { seen: Some(_), .. }
        ) {
            // It was looked at too early.
            self.unsettled = self.unsettled.saturating_add(1);
        }
        match self.stage {
            Stage::Starting => self.look_again = true,
            Stage::Idle | Stage::Settling { .. } | Stage::Probing { .. } => self.settle(now, None),
            Stage::Compiling(_) | Stage::Checking(_) | Stage::Warming { .. }
                if self.source == Source::Kept =>
            {
                self.look_again = true;
            }
            Stage::Compiling(candidate)
            | Stage::Checking(candidate)
            | Stage::Warming { candidate, .. } => {
                self.source = Source::File;
                self.outputs.push_back(Output::Discard(candidate));
                self.settle(now, None);
            }
            Stage::Cutover { .. } | Stage::RollingBack { .. } => self.look_again = true,
        }
    }

    /// A signature that arrived after its file, or a permission: the build in quarantine gets another chance.
    pub(super) fn on_trust_changed(&mut self, now: Instant) {
        if self.distrusted {
            self.quarantined = None;
            self.distrusted = false;
        }
        self.on_file_changed(now);
    }

    pub(super) fn on_probed(
        &mut self,
        now: Instant,
        answered: u64,
        digest: Result<Digest, NoFile>,
    ) {
        let Stage::Probing { probe, seen } = self.stage else {
            return;
        };
        if probe != answered {
            return;
        }
        let digest = match digest {
            Ok(digest) => digest,
            Err(why) => {
                self.look_at = match why {
                    NoFile::Absent => None,
                    NoFile::Unreadable(_) => Some(now + READ_AGAIN),
                };
                self.unsettled = 0;
                self.outputs.push_back(Output::Report(Report::Missing(why)));
                return self.idle(now);
            }
        };
        let settled = match seen {
            Seen::Nothing => false,
            Seen::Bytes(before) => before == digest,
            Seen::Anything => true,
        };
        if !settled {
            let differs = matches!(seen, Seen::Bytes(_));
            self.unsettled = self.unsettled.saturating_add(differs.into());
            return self.settle(now, Some(digest));
        }
        self.unsettled = 0;
        if let Some(active) = self.active.filter(|active| active.digest == digest) {
            (self.quarantined, self.put_back) = (None, None);
            self.outputs
                .push_back(Output::Report(Report::Unchanged(active)));
            return self.idle(now);
        }
        if self.quarantined == Some(digest) {
            self.outputs
                .push_back(Output::Report(Report::Shunned(digest)));
            return self.idle(now);
        }
        if self.put_back == Some(digest) {
            self.outputs
                .push_back(Output::Report(Report::PutBack(digest)));
            return self.idle(now);
        }
        self.put_back = None;
        let candidate = self.number(digest);
        self.stage = Stage::Compiling(candidate);
        self.outputs.push_back(Output::Compile(candidate));
    }

    fn number(&mut self, digest: Digest) -> Build {
        self.generations += 1;
        Build {
            generation: Generation(self.generations),
            digest,
        }
    }

    pub(super) fn on_revert(&mut self, now: Instant) {
        if !self.can_revert() {
            return;
        }
        if let (Some(active), Some(_)) = (self.active, self.probation) {
            let failure =
                Failure::new(Reason::Ordered, "an operator ordered the generation before");
            return self.on_troubled(now, active.generation, failure);
        }
        let Some(previous) = self.previous else {
            return;
        };
        self.give_way();
        let candidate = self.number(previous.digest);
        self.source = Source::Previous;
        self.stage = Stage::Compiling(candidate);
        self.outputs.push_back(Output::Recall(candidate));
    }

    /// Gives up what is being prepared. The file is looked at again later.
    fn give_way(&mut self) {
        match self.stage {
            Stage::Compiling(candidate)
            | Stage::Checking(candidate)
            | Stage::Warming { candidate, .. } => {
                self.outputs.push_back(Output::Discard(candidate));
                self.look_again |= self.take_source() == Source::File;
            }
            Stage::Settling { .. } | Stage::Probing { .. } => self.look_again = true,
            // A cut-over or a roll-back has ended the probation already.
            Stage::Starting | Stage::Idle | Stage::Cutover { .. } | Stage::RollingBack { .. } => {}
        }
    }

    /// A job answered. Only the answer the stage waits for counts.
    pub(super) fn on_answer(
        &mut self,
        now: Instant,
        step: Step,
        generation: Generation,
        result: Result<(), Failure>,
    ) {
        let (awaited, candidate) = match self.stage {
            Stage::Compiling(candidate) => (Step::Compile, candidate),
            Stage::Checking(candidate) => (Step::Check, candidate),
            Stage::Warming { candidate, .. } => (Step::Warm, candidate),
            Stage::Cutover { candidate, .. } => (Step::CutOver, candidate),
            Stage::Starting
            | Stage::Idle
            | Stage::Settling { .. }
            | Stage::Probing { .. }
            | Stage::RollingBack { .. } => return,
        };
        if awaited != step || candidate.generation != generation {
            return;
        }
        match (step, result) {
            (Step::CutOver, result) => self.on_cut_over(now, candidate, result),
            (_, Err(failure)) => self.refuse(now, candidate, step, failure),
            (Step::Compile, Ok(())) => {
                self.uncompiled = 0;
                self.stage = Stage::Checking(candidate);
                self.outputs.push_back(Output::Check(candidate));
            }
            (Step::Check, Ok(())) => {
                let deadline = now + self.settings.warm;
                self.stage = Stage::Warming {
                    candidate,
                    deadline,
                };
                self.outputs.push_back(Output::Warm(candidate));
            }
            (Step::Warm | Step::Probation, Ok(())) => {
                self.retire();
                let deadline = now + self.settings.cut_over;
                self.stage = Stage::Cutover {
                    candidate,
                    deadline,
                };
                self.outputs.push_back(Output::CutOver(candidate));
            }
        }
    }

    /// The candidate never served. The active generation was not touched.
    pub(super) fn refuse(&mut self, now: Instant, candidate: Build, step: Step, failure: Failure) {
        if self.take_source() == Source::Previous {
            // That says nothing of what lies in the file.
        } else if failure.may_pass(step) {
            let wait = COMPILE_AGAIN * 2_u32.saturating_pow(self.uncompiled);
            self.uncompiled = self.uncompiled.saturating_add(1);
            self.look_at = Some(now + wait.min(COMPILE_AGAIN_MAX));
        } else {
            self.quarantined = Some(candidate.digest);
            self.distrusted = failure.reason.is_of_trust();
        }
        self.outputs.push_back(Output::Discard(candidate));
        self.outputs.push_back(Output::Report(Report::Refused {
            candidate,
            step,
            failure,
        }));
        self.idle(now);
    }

    pub(super) fn on_cut_over(
        &mut self,
        now: Instant,
        candidate: Build,
        result: Result<(), Failure>,
    ) {
        match (result, self.active) {
            (Ok(()), None) => {
                self.active = Some(candidate);
                self.source = Source::File;
                self.quarantined = None;
                self.outputs
                    .push_back(Output::Report(Report::Loaded(candidate)));
                self.idle(now);
            }
            (Ok(()), Some(old)) => {
                let recalled = self.take_source() == Source::Previous;
                self.active = Some(candidate);
                // The file still holds what a recalled build replaces.
                self.quarantined = Some(old.digest).filter(|_| recalled);
                self.distrusted = false;
                let terms = self.settings.probation;
                self.probation = Some(Probation::new(old, now, &self.pace, terms));
                self.pace = Pace::default();
                self.previous = Some(old);
                self.outputs.push_back(Output::Report(Report::Swapped {
                    from: old,
                    to: candidate,
                }));
                self.idle(now);
            }
            (Err(failure), Some(old)) => {
                self.roll_back(now, candidate, old, Step::CutOver, failure);
            }
            (Err(failure), None) => {
                self.refuse(now, candidate, Step::CutOver, failure);
            }
        }
    }

    fn roll_back(&mut self, now: Instant, from: Build, to: Build, step: Step, failure: Failure) {
        self.active = Some(to);
        self.probation = None;
        self.pace = Pace::default();
        if step == Step::Probation {
            // Its code has made room for that of the generation that failed.
            self.previous = None;
        }
        self.source = Source::File;
        self.quarantined = Some(from.digest);
        self.distrusted = false;
        self.stage = Stage::RollingBack {
            from,
            to,
            step,
            failure,
            deadline: now + self.settings.roll_back,
        };
        self.outputs.push_back(Output::RollBack { from, to });
    }

    pub(super) fn on_rolled_back(&mut self, now: Instant, answered: Generation) {
        let Stage::RollingBack {
            from,
            to,
            step,
            failure,
            ..
        } = &self.stage
        else {
            return;
        };
        if from.generation != answered {
            return;
        }
        let report = Report::RolledBack {
            from: *from,
            to: *to,
            step: *step,
            failure: failure.clone(),
        };
        self.outputs.push_back(Output::Report(report));
        self.idle(now);
    }

    pub(super) fn on_served(&mut self, now: Instant, generation: Generation, served: Served) {
        let Some(active) = self.active.filter(|active| active.generation == generation) else {
            return;
        };
        self.pace
            .note(now, served, self.settings.probation.duration);
        let Some(probation) = &mut self.probation else {
            return;
        };
        match probation.note(now, served) {
            Some(failure) => self.on_troubled(now, active.generation, failure),
            None => self.end_probation_if_due(now),
        }
    }

    /// Only a generation on probation can be rolled back; later its instances are restarted one by one.
    pub(super) fn on_troubled(&mut self, now: Instant, generation: Generation, failure: Failure) {
        let (Some(active), Some(probation)) = (self.active, self.probation) else {
            return;
        };
        if active.generation != generation {
            return;
        }
        self.give_way();
        self.roll_back(now, active, probation.old, Step::Probation, failure);
    }

    pub(super) fn end_probation_if_due(&mut self, now: Instant) {
        let (Some(active), Some(probation)) = (self.active, self.probation) else {
            return;
        };
        if now < probation.end() {
            return;
        }
        match probation.verdict() {
            Some(failure) => self.on_troubled(now, active.generation, failure),
            None => {
                self.retire();
                self.outputs
                    .push_back(Output::Report(Report::Proved(active)));
            }
        }
    }

    /// Where the candidate came from whose way ends here.
    fn take_source(&mut self) -> Source {
        std::mem::replace(&mut self.source, Source::File)
    }

    fn retire(&mut self) {
        if let Some(probation) = self.probation.take() {
            self.outputs.push_back(Output::Retire(probation.old));
        }
    }
}
