//! The hot-swap machine of one component.
//!
//! ```text
//!            FileChanged          same bytes twice        ok           ok          ok            ok
//!  Active ───────────► Settling ──────────► Compiling ─────► Checking ────► Warming ────► Cutover ────► Draining ─► Active
//!    ▲                   ▲  │ same as active    │ fails         │ fails        │ fails, late   │ fails, late  │ trap, stall
//!    │                   │  └──► Active         ▼               ▼              ▼               ▼              ▼
//!    │                   │                  Quarantined (old one never touched)              RollingBack ◄────┘
//!    └───────────────────┴─────────────────────── FileChanged ──────────────────────────────── │ ─► Quarantined
//! ```
//!
//! Invariants: at most one generation is active, and once one is, exactly one; the active one is not touched before
//! `Cutover`; a build that failed is not tried again until the file holds something else, or, where it failed for want of
//! trust, until its signature changes; a new file seen while a
//! candidate is being prepared replaces the candidate, and one seen during `Cutover` waits for its end.
//!
//! `Draining` is the probation: the new generation serves, the old one is kept together with the bytes it handed over.
//! It does not hold up the next swap: a cut-over ends the probation of the generation it replaces.

mod state;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use crate::time::Instant;

pub use state::{
    Build, Digest, Failure, Generation, Input, Output, Reason, Report, Settings, State, Step,
};

/// What is under way beside the active generation.
#[derive(Clone, Debug)]
enum Stage {
    Idle,
    Settling {
        until: Instant,
        seen: Option<Digest>,
    },
    Probing {
        probe: u64,
        seen: Seen,
    },
    Compiling(Build),
    Checking(Build),
    Warming {
        candidate: Build,
        deadline: Instant,
    },
    Cutover {
        candidate: Build,
        deadline: Instant,
    },
    RollingBack {
        from: Build,
        to: Build,
        step: Step,
        failure: Failure,
        deadline: Instant,
    },
}

/// What the look before this one saw.
#[derive(Clone, Copy, Debug)]
enum Seen {
    /// Nothing to compare with: look twice.
    Nothing,
    Bytes(Digest),
    /// The first load believes its first look: a half-written file fails to compile and is looked at when it changes.
    Anything,
}

#[derive(Clone, Copy, Debug)]
struct Probation {
    old: Build,
    calls: u64,
    earliest: Instant,
    latest: Instant,
}

/// The hot-swap machine of one component. Mutate (`handle`, `handle_timeout`), drain (`poll_output` to `None`), mutate.
#[derive(Clone, Debug)]
pub struct Swap {
    settings: Settings,
    active: Option<Build>,
    stage: Stage,
    probation: Option<Probation>,
    quarantined: Option<Digest>,
    /// It failed for want of trust alone, which can change while the build stays as it is.
    distrusted: bool,
    /// The file changed while it could not be looked at.
    look_again: bool,
    generations: u64,
    probes: u64,
    outputs: VecDeque<Output>,
}

impl Swap {
    /// A machine with nothing loaded. Begin with [`Input::Start`].
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            active: None,
            stage: Stage::Idle,
            probation: None,
            quarantined: None,
            distrusted: false,
            look_again: false,
            generations: 0,
            probes: 0,
            outputs: VecDeque::new(),
        }
    }

    /// The generation that serves.
    #[must_use]
    pub fn active(&self) -> Option<Build> {
        self.active
    }

    /// The build that failed last, unless the file has changed since.
    #[must_use]
    pub fn quarantined(&self) -> Option<Digest> {
        self.quarantined
    }

    /// What is under way.
    #[must_use]
    pub fn state(&self) -> State {
        match self.stage {
            Stage::Settling { until, .. } => State::Settling { until },
            Stage::Probing { .. } => State::Probing,
            Stage::Compiling(candidate) => State::Compiling(candidate),
            Stage::Checking(candidate) => State::Checking(candidate),
            Stage::Warming {
                candidate,
                deadline,
            } => State::Warming {
                candidate,
                deadline,
            },
            Stage::Cutover {
                candidate,
                deadline,
            } => State::Cutover {
                candidate,
                deadline,
            },
            Stage::RollingBack { deadline, .. } => State::RollingBack { deadline },
            Stage::Idle => match (self.probation, self.quarantined, self.active) {
                (Some(probation), _, _) => State::Draining {
                    old: probation.old,
                    deadline: probation.latest,
                },
                (None, Some(digest), _) => State::Quarantined(digest),
                (None, None, Some(active)) => State::Active(active.generation),
                (None, None, None) => State::Empty,
            },
        }
    }

    /// Takes an input. Answers of jobs that were given up meanwhile are ignored.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Start => self.probe(Seen::Anything),
            Input::FileChanged => self.on_file_changed(now),
            Input::TrustChanged => self.on_trust_changed(now),
            Input::Probed { probe, digest } => self.on_probed(now, probe, digest),
            Input::Compiled(generation, result) => {
                self.on_answer(now, Step::Compile, generation, result);
            }
            Input::Checked(generation, result) => {
                self.on_answer(now, Step::Check, generation, result);
            }
            Input::Warmed(generation, result) => {
                self.on_answer(now, Step::Warm, generation, result);
            }
            Input::CutOver(generation, result) => {
                self.on_answer(now, Step::CutOver, generation, result);
            }
            Input::RolledBack(from) => self.on_rolled_back(now, from),
            Input::Served(generation, calls) => self.on_served(now, generation, calls),
            Input::Troubled(generation, failure) => self.on_troubled(now, generation, failure),
        }
    }

    /// Lets time pass.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.stage {
            Stage::Settling { until, seen } if until <= now => {
                self.probe(seen.map_or(Seen::Nothing, Seen::Bytes));
            }
            Stage::Warming {
                candidate,
                deadline,
            } if deadline <= now => {
                let failure = Failure::new(Reason::Stalled, "it was not ready in time");
                self.refuse(now, candidate, Step::Warm, failure);
            }
            Stage::Cutover {
                candidate,
                deadline,
            } if deadline <= now => {
                let failure = Failure::new(Reason::Stalled, "it had not taken over in time");
                self.on_cut_over(now, candidate, Err(failure));
            }
            // Nothing more can be done: the instances restart the old generation by themselves.
            Stage::RollingBack {
                ref from, deadline, ..
            } if deadline <= now => {
                let from = from.generation;
                self.on_rolled_back(now, from);
            }
            Stage::Idle
            | Stage::Settling { .. }
            | Stage::Probing { .. }
            | Stage::Compiling(_)
            | Stage::Checking(_)
            | Stage::Warming { .. }
            | Stage::Cutover { .. }
            | Stage::RollingBack { .. } => {}
        }
        self.end_probation_if_due(now);
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call `handle_timeout`, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let stage = match self.stage {
            Stage::Settling { until, .. } => Some((until, "settle")),
            Stage::Warming { deadline, .. } => Some((deadline, "warm-up deadline")),
            Stage::Cutover { deadline, .. } => Some((deadline, "cut-over deadline")),
            Stage::RollingBack { deadline, .. } => Some((deadline, "roll-back deadline")),
            Stage::Idle | Stage::Probing { .. } | Stage::Compiling(_) | Stage::Checking(_) => None,
        };
        let probation = self.probation.map(|probation| {
            if probation.calls >= self.settings.probation_calls {
                (probation.earliest, "end of probation")
            } else {
                (probation.latest, "end of probation")
            }
        });
        stage.into_iter().chain(probation).min_by_key(|(at, _)| *at)
    }

    fn probe(&mut self, seen: Seen) {
        self.probes += 1;
        self.stage = Stage::Probing {
            probe: self.probes,
            seen,
        };
        self.outputs.push_back(Output::Probe { probe: self.probes });
    }

    fn settle(&mut self, now: Instant, seen: Option<Digest>) {
        self.look_again = false;
        self.stage = Stage::Settling {
            until: now + self.settings.settle,
            seen,
        };
    }

    fn idle(&mut self, now: Instant) {
        self.stage = Stage::Idle;
        if self.look_again {
            self.settle(now, None);
        }
    }

    fn on_file_changed(&mut self, now: Instant) {
        match self.stage {
            Stage::Idle | Stage::Settling { .. } | Stage::Probing { .. } => self.settle(now, None),
            Stage::Compiling(candidate)
            | Stage::Checking(candidate)
            | Stage::Warming { candidate, .. } => {
                self.outputs.push_back(Output::Discard(candidate));
                self.settle(now, None);
            }
            Stage::Cutover { .. } | Stage::RollingBack { .. } => self.look_again = true,
        }
    }

    /// A signature that arrived after its file, or a permission: the build in quarantine gets another chance.
    fn on_trust_changed(&mut self, now: Instant) {
        if self.distrusted {
            self.quarantined = None;
            self.distrusted = false;
        }
        self.on_file_changed(now);
    }

    fn on_probed(&mut self, now: Instant, answered: u64, digest: Option<Digest>) {
        let Stage::Probing { probe, seen } = self.stage else {
            return;
        };
        if probe != answered {
            return;
        }
        let Some(digest) = digest else {
            self.outputs.push_back(Output::Report(Report::Missing));
            return self.idle(now);
        };
        let settled = match seen {
            Seen::Nothing => false,
            Seen::Bytes(before) => before == digest,
            Seen::Anything => true,
        };
        if !settled {
            return self.settle(now, Some(digest));
        }
        if self.active.is_some_and(|active| active.digest == digest) {
            self.quarantined = None;
            return self.idle(now);
        }
        if self.quarantined == Some(digest) {
            return self.idle(now);
        }
        self.generations += 1;
        let candidate = Build {
            generation: Generation(self.generations),
            digest,
        };
        self.stage = Stage::Compiling(candidate);
        self.outputs.push_back(Output::Compile(candidate));
    }

    /// A job answered. Only the answer the stage waits for counts.
    fn on_answer(
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
            Stage::Idle
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
    fn refuse(&mut self, now: Instant, candidate: Build, step: Step, failure: Failure) {
        self.quarantined = Some(candidate.digest);
        self.distrusted = failure.reason.is_of_trust();
        self.outputs.push_back(Output::Discard(candidate));
        self.outputs.push_back(Output::Report(Report::Refused {
            candidate,
            step,
            failure,
        }));
        self.idle(now);
    }

    fn on_cut_over(&mut self, now: Instant, candidate: Build, result: Result<(), Failure>) {
        match (result, self.active) {
            (Ok(()), None) => {
                self.active = Some(candidate);
                self.quarantined = None;
                self.outputs
                    .push_back(Output::Report(Report::Loaded(candidate)));
                self.idle(now);
            }
            (Ok(()), Some(old)) => {
                self.active = Some(candidate);
                self.quarantined = None;
                self.probation = Some(Probation {
                    old,
                    calls: 0,
                    earliest: now + self.settings.probation_min,
                    latest: now + self.settings.probation_max,
                });
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

    fn on_rolled_back(&mut self, now: Instant, answered: Generation) {
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

    fn on_served(&mut self, now: Instant, generation: Generation, calls: u64) {
        if self
            .active
            .is_some_and(|active| active.generation == generation)
            && let Some(probation) = &mut self.probation
        {
            probation.calls = probation.calls.max(calls);
            self.end_probation_if_due(now);
        }
    }

    /// Only a generation on probation can be rolled back; later its instances are restarted one by one.
    fn on_troubled(&mut self, now: Instant, generation: Generation, failure: Failure) {
        let (Some(active), Some(probation)) = (self.active, self.probation) else {
            return;
        };
        if active.generation != generation {
            return;
        }
        match self.stage {
            Stage::Compiling(candidate)
            | Stage::Checking(candidate)
            | Stage::Warming { candidate, .. } => {
                self.outputs.push_back(Output::Discard(candidate));
                self.look_again = true;
            }
            Stage::Settling { .. } | Stage::Probing { .. } => self.look_again = true,
            // A cut-over or a roll-back has ended the probation already.
            Stage::Idle | Stage::Cutover { .. } | Stage::RollingBack { .. } => {}
        }
        self.roll_back(now, active, probation.old, Step::Probation, failure);
    }

    fn end_probation_if_due(&mut self, now: Instant) {
        let Some(probation) = self.probation else {
            return;
        };
        let served = probation.calls >= self.settings.probation_calls;
        if probation.latest <= now || (served && probation.earliest <= now) {
            self.retire();
            if let Some(active) = self.active {
                self.outputs
                    .push_back(Output::Report(Report::Proved(active)));
            }
        }
    }

    fn retire(&mut self) {
        if let Some(probation) = self.probation.take() {
            self.outputs.push_back(Output::Retire(probation.old));
        }
    }
}
