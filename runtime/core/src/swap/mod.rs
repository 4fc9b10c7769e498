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
//! trust, until its signature changes; one that this host could not compile has not failed, and is tried again after a while; a
//! new file seen while a candidate is being prepared replaces the candidate, and one seen during `Cutover` waits for its end.
//!
//! `Draining` is the probation ([`probation`]): the new generation serves, the old one is kept together with the bytes it
//! handed over. It does not hold up the next swap: a cut-over ends the probation of the generation it replaces.
//!
//! A process that ended during a probation begins with the build before, as long as that is kept, and puts the file's on probation
//! again. What comes first is not replaced by what is seen in the file meanwhile, but followed by it. Until it is known what comes
//! first, nothing begins.
//!
//! An operator may take a generation back. On probation that is a roll-back; later the build before is made a candidate of
//! its own, under a new number, and the file's build is shunned until the file changes.

pub mod probation;
mod state;
mod steps;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use crate::time::Instant;
use probation::{Pace, Probation};

pub use state::{
    Build, Digest, Failure, Generation, Input, NoFile, Output, Reason, Report, Settings, State,
    Step,
};

/// What is under way beside the active generation.
#[derive(Clone, Debug)]
enum Stage {
    /// What to begin with is not known yet.
    Starting,
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

/// Where the candidate under way comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    File,
    /// What had proved itself before the process began. What is in the file comes after it.
    Kept,
    /// `previous`, brought back by an operator.
    Previous,
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

/// The hot-swap machine of one component. Mutate (`handle`, `handle_timeout`), drain (`poll_output` to `None`), mutate.
#[derive(Clone, Debug)]
pub struct Swap {
    settings: Settings,
    active: Option<Build>,
    stage: Stage,
    probation: Option<Probation>,
    /// What the active generation did lately.
    pace: Pace,
    /// The generation before the active one, whose code can be had again.
    previous: Option<Build>,
    source: Source,
    quarantined: Option<Digest>,
    /// It failed for want of trust alone, which can change while the build stays as it is.
    distrusted: bool,
    /// What the host has put into the file for the next start, where that is not what serves.
    put_back: Option<Digest>,
    /// The file changed while it could not be looked at.
    look_again: bool,
    /// When a file that could not be read, or a build that this host could not compile, is tried again, if nothing else is under
    /// way then.
    look_at: Option<Instant>,
    /// Builds in a row that this host could not compile.
    uncompiled: u32,
    /// Looks in a row that were in vain, because the file changed.
    unsettled: u32,
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
            stage: Stage::Starting,
            probation: None,
            pace: Pace::default(),
            previous: None,
            source: Source::File,
            quarantined: None,
            distrusted: false,
            put_back: None,
            look_again: false,
            look_at: None,
            uncompiled: 0,
            unsettled: 0,
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

    /// What [`Input::Revert`] would bring back.
    #[must_use]
    pub fn previous(&self) -> Option<Build> {
        self.probation
            .map(|probation| probation.old)
            .or(self.previous)
    }

    /// Whether [`Input::Revert`] has an effect now: there is a generation to go back to, and no cut-over is under way.
    #[must_use]
    pub fn can_revert(&self) -> bool {
        let busy = matches!(
            self.stage,
            Stage::Cutover { .. } | Stage::RollingBack { .. }
        );
        !busy && self.previous().is_some()
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
            Stage::Starting => State::Empty,
            Stage::Idle => match (self.probation, self.quarantined, self.active) {
                (Some(probation), _, _) => State::Draining {
                    old: probation.old,
                    deadline: probation.latest(),
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
            Input::Start(kept) => self.on_start(kept),
            Input::FileChanged => self.on_file_changed(now),
            Input::Ordered => {
                (self.put_back, self.unsettled) = (None, 0);
                self.on_file_changed(now);
            }
            Input::PutBack(digest) => {
                let serves = self.active.is_some_and(|active| active.digest == digest);
                self.put_back = (!serves).then_some(digest);
            }
            Input::Again => {
                self.quarantined = None;
                (self.put_back, self.unsettled) = (None, 0);
                self.distrusted = false;
                self.on_file_changed(now);
            }
            Input::Revert => self.on_revert(now),
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
            Input::Served(generation, served) => self.on_served(now, generation, served),
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
            Stage::Idle if self.look_at.is_some_and(|at| at <= now) => {
                self.probe(Seen::Nothing);
            }
            Stage::Starting
            | Stage::Idle
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
            Stage::Idle => self.look_at.map(|at| (at, "look again")),
            Stage::Starting | Stage::Probing { .. } | Stage::Compiling(_) | Stage::Checking(_) => {
                None
            }
        };
        let probation = self
            .probation
            .map(|probation| (probation.end(), "end of probation"));
        stage.into_iter().chain(probation).min_by_key(|(at, _)| *at)
    }
}
