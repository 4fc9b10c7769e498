//! The words of the swap machine: states, inputs, outputs, and why a candidate is refused.

use std::fmt;
use std::time::Duration;

use crate::time::Instant;

use super::probation::{Served, Terms};

/// SHA-256 of a component's file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

/// Bytes of a digest that are shown: enough to tell builds apart, short enough for a log line.
const DIGEST_BYTES_SHOWN: usize = 6;

impl Digest {
    /// All of it, in hexadecimal.
    #[must_use]
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// From what [`Digest::hex`] makes of it; none if it is anything else.
    #[must_use]
    pub fn from_hex(hex: &str) -> Option<Self> {
        let mut digest = Self([0; 32]);
        let mut digits = hex.bytes().map(|digit| char::from(digit).to_digit(16));
        for byte in &mut digest.0 {
            let (high, low) = (digits.next()??, digits.next()??);
            *byte = u8::try_from(high << 4 | low).ok()?;
        }
        digits.next().is_none().then_some(digest)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .take(DIGEST_BYTES_SHOWN)
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The number of a load, from 1. A candidate that fails keeps its number to itself: numbers are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}", self.0)
    }
}

/// One build of a component under its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Build {
    /// The number.
    pub generation: Generation,
    /// What was in the file.
    pub digest: Digest,
}

impl fmt::Display for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.generation, self.digest)
    }
}

/// Where a candidate failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Reading or compiling the file.
    Compile,
    /// Comparing imports and exports with the world.
    Check,
    /// Instantiating it and asking for its description.
    Warm,
    /// Starting it in place of the old generation.
    CutOver,
    /// Serving, while the old generation was still kept.
    Probation,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Compile => "compile",
            Self::Check => "check",
            Self::Warm => "warm-up",
            Self::CutOver => "cut-over",
            Self::Probation => "probation",
        })
    }
}

/// What was wrong with a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The file cannot be read.
    Unreadable,
    /// The file is not WebAssembly, is a core module, or ends too early.
    NotAComponent,
    /// It lacks an export of the world or imports something outside it.
    WrongWorld,
    /// It trapped.
    Trapped,
    /// It did not come back before its deadline.
    Stalled,
    /// It wanted more of something than it is allowed: memory, tables, instances.
    OverLimit,
    /// It refused its configuration or the hand-over bytes.
    Refused,
    /// More of its calls ended with a fault than of the generation's before it.
    Faulty,
    /// It emitted nothing, or much less than the generation before it.
    Silent,
    /// An operator ordered it.
    Ordered,
    /// There is no signature beside it, and there must be.
    Unsigned,
    /// A key signed it that is not trusted.
    UnknownKey,
    /// It is not what was signed, or its signature is damaged.
    BadSignature,
    /// It is older than what served last.
    Downgrade,
    /// The host's own part failed: no room, no thread, no file.
    Host,
}

impl Reason {
    /// Whether it can be mended without another build: by a signature, or by an operator's word.
    #[must_use]
    pub const fn is_of_trust(self) -> bool {
        match self {
            Self::Unsigned | Self::UnknownKey | Self::BadSignature | Self::Downgrade => true,
            Self::Unreadable
            | Self::NotAComponent
            | Self::WrongWorld
            | Self::Trapped
            | Self::Stalled
            | Self::OverLimit
            | Self::Refused
            | Self::Faulty
            | Self::Silent
            | Self::Ordered
            | Self::Host => false,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreadable => "cannot be read",
            Self::NotAComponent => "is not a component",
            Self::WrongWorld => "has the wrong world",
            Self::Trapped => "trapped",
            Self::Stalled => "missed its deadline",
            Self::OverLimit => "exceeded a limit",
            Self::Refused => "refused to start",
            Self::Faulty => "failed too often",
            Self::Silent => "fell silent",
            Self::Ordered => "was taken back",
            Self::Unsigned => "is not signed",
            Self::UnknownKey => "is signed by a key that is not trusted",
            Self::BadSignature => "does not fit its signature",
            Self::Downgrade => "is a downgrade",
            Self::Host => "could not be hosted",
        })
    }
}

/// Why a candidate, or an instance, failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind.
    pub reason: Reason,
    /// Words for a person: shown, never matched on.
    pub detail: String,
}

impl Failure {
    /// Whether it says nothing of the build, which this host could not compile: another try may end otherwise.
    #[must_use]
    pub fn may_pass(&self, step: Step) -> bool {
        step == Step::Compile && self.reason == Reason::Host
    }

    /// A failure of this kind with its words.
    #[must_use]
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.detail)
    }
}

impl std::error::Error for Failure {}

/// How long each part of a swap may take, and how a new generation proves itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A file is settled when two looks this far apart see the same bytes.
    pub settle: Duration,
    /// For instantiating and describing.
    pub warm: Duration,
    /// For finishing the current call, `stop`, and `start` of the new generation.
    pub cut_over: Duration,
    /// For going back.
    pub roll_back: Duration,
    /// What a new generation must do before the old one is dropped.
    pub probation: Terms,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            settle: Duration::from_millis(100),
            warm: Duration::from_secs(5),
            cut_over: Duration::from_secs(45),
            roll_back: Duration::from_secs(45),
            probation: Terms::default(),
        }
    }
}

/// What is under way. The active generation is told apart: see [`super::Swap::active`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing was loaded and nothing is under way.
    Empty,
    /// One generation serves.
    Active(Generation),
    /// The file changed; waiting until it stops changing.
    Settling {
        /// When to look again.
        until: Instant,
    },
    /// A look at the file is under way.
    Probing,
    /// The candidate is being compiled or fetched from the cache.
    Compiling(Build),
    /// The candidate's imports and exports are being compared with the world.
    Checking(Build),
    /// The candidate is being instantiated beside the active generation.
    Warming {
        /// The candidate.
        candidate: Build,
        /// It must be ready by then.
        deadline: Instant,
    },
    /// The candidate takes over.
    Cutover {
        /// The candidate.
        candidate: Build,
        /// It must have started by then.
        deadline: Instant,
    },
    /// One generation serves on probation; the old one is kept.
    Draining {
        /// The generation kept.
        old: Build,
        /// When it is dropped at the latest.
        deadline: Instant,
    },
    /// The old generation is being put back.
    RollingBack {
        /// It must be back by then.
        deadline: Instant,
    },
    /// The file holds a build that failed; it is not tried again until the file changes.
    Quarantined(Digest),
}

/// Why a file was not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoFile {
    /// There is none. When one appears, that is told.
    #[error("is not there")]
    Absent,
    /// There is one, for all that is known. What is in the way may go without the file changing.
    #[error("cannot be read: {0}")]
    Unreadable(String),
}

/// What happens to the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Load what is there, without waiting for it to settle. Once; nothing begins before it. Where the file holds a build that had
    /// not proved itself when the process before ended, the one that had, and is kept beside it, is named: it is loaded, and the
    /// file's takes over on probation.
    Start(Option<Digest>),
    /// The file changed, appeared or vanished.
    FileChanged,
    /// An operator wants what is in the file.
    Ordered,
    /// Look at the file, and try what is in it even if it failed before.
    Again,
    /// After a failure the host has put this into the file, for the next start: until another lies there, or an operator
    /// wants it, it is no candidate.
    PutBack(Digest),
    /// Go back to the generation before the active one: on probation as if that had failed, later as a swap of its own.
    /// Ignored when [`super::Swap::can_revert`] says no.
    Revert,
    /// What the build is judged by besides its bytes changed: its signature, the permission to downgrade.
    TrustChanged,
    /// The answer to [`Output::Probe`].
    Probed {
        /// The number of the probe.
        probe: u64,
        /// What is in the file.
        digest: Result<Digest, NoFile>,
    },
    /// The answer to [`Output::Compile`].
    Compiled(Generation, Result<(), Failure>),
    /// The answer to [`Output::Check`].
    Checked(Generation, Result<(), Failure>),
    /// The answer to [`Output::Warm`].
    Warmed(Generation, Result<(), Failure>),
    /// The answer to [`Output::CutOver`].
    CutOver(Generation, Result<(), Failure>),
    /// The answer to [`Output::RollBack`], by the generation that failed.
    RolledBack(Generation),
    /// What a generation has done since its cut-over.
    Served(Generation, Served),
    /// A generation trapped or missed a deadline.
    Troubled(Generation, Failure),
}

/// What the shell must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Read the file and say what is in it.
    Probe {
        /// Comes back in [`Input::Probed`].
        probe: u64,
    },
    /// Bring back the code of the generation before the active one, under a new number: it is kept, or in the file no longer.
    /// Answered as [`Output::Compile`].
    Recall(Build),
    /// Read and compile the file. If it no longer holds this digest, answer with [`Reason::Unreadable`].
    Compile(Build),
    /// The same with the build that is kept beside the file.
    CompileKept(Build),
    /// Compare it with the world.
    Check(Build),
    /// Instantiate it beside the active generation.
    Warm(Build),
    /// Replace the active generation at a call boundary, by handing over its bytes.
    CutOver(Build),
    /// Put `to` back in place of `from`, with the bytes `to` handed over.
    RollBack {
        /// What failed.
        from: Build,
        /// What serves again.
        to: Build,
    },
    /// The candidate is given up: drop what was made of it.
    Discard(Build),
    /// The old generation is no longer needed.
    Retire(Build),
    /// Tell people.
    Report(Report),
}

/// How an episode ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// There is no readable file; whatever is active goes on.
    Missing(NoFile),
    /// The file holds what serves already.
    Unchanged(Build),
    /// The file holds a build that failed before; it is not tried again.
    Shunned(Digest),
    /// The file holds what the host has put there for the next start, after a failure: the last build that has proved
    /// itself. The one before the failure, which has not, goes on.
    PutBack(Digest),
    /// The first generation serves.
    Loaded(Build),
    /// A new generation took over.
    Swapped {
        /// What served before.
        from: Build,
        /// What serves now.
        to: Build,
    },
    /// The candidate never served; the active generation was not touched.
    Refused {
        /// The candidate.
        candidate: Build,
        /// Where it failed.
        step: Step,
        /// Why.
        failure: Failure,
    },
    /// The candidate served or tried to, failed, and the old generation is back.
    RolledBack {
        /// What failed.
        from: Build,
        /// What serves again.
        to: Build,
        /// Where it failed.
        step: Step,
        /// Why.
        failure: Failure,
    },
    /// The new generation has proved itself.
    Proved(Build),
}
