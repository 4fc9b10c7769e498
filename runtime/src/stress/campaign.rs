//! What is tried, for how long, and what the link must make of it. Pure: a seed and a budget give the trials.
//!
//! ```text
//!  trial:   calm ──► fault ──(lasts)──► heal ──► up again ──► backlog gone
//!                      └ detected ┘       └ recovered ┘  └ drained ┘
//! ```

use std::time::Duration;

use moorline_core::link::TAKEOVER_FLOOR;
use moorline_core::link::backoff::Random;
use moorline_core::link::cause::CauseClass;
use serde::Serialize;

/// The link is left alone for this long before each fault.
pub(crate) const CALM: Duration = Duration::from_secs(3);
/// What a trial takes beside its calm and its fault, for the plan; a trial that takes longer costs the ones after it.
const RECOVERY_PLANNED: Duration = Duration::from_secs(4);
/// Outages are drawn between these.
const OUTAGE_MIN: Duration = Duration::from_secs(4);
const OUTAGE_MAX: Duration = Duration::from_secs(15);
/// Slow and late ways last long enough to be judged.
const SLOWNESS: Duration = Duration::from_secs(12);

/// One kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Fault {
    /// The connection is closed and nobody listens.
    Refuse,
    /// RST.
    Reset,
    /// FIN.
    Close,
    /// Half of a packet, then RST.
    CutMidPacket,
    /// No byte passes, either way; sockets stay open.
    BlackHole,
    /// What we send is swallowed; what the broker sends arrives.
    HalfOpenUp,
    /// What the broker sends is swallowed; what we send arrives.
    HalfOpenDown,
    /// The other end stops reading.
    SlowReader,
    /// Every byte is late.
    Latency,
    /// Every chunk is late by another time.
    Jitter,
    /// Few bytes per second.
    Bandwidth,
    /// The network comes and goes.
    Flap,
    /// Another client connects with our client id.
    Takeover,
}

impl Fault {
    /// All that need not be asked for: a takeover might hit a gateway that is at work.
    pub(crate) const USUAL: [Self; 12] = [
        Self::Refuse,
        Self::Reset,
        Self::Close,
        Self::CutMidPacket,
        Self::BlackHole,
        Self::HalfOpenUp,
        Self::HalfOpenDown,
        Self::SlowReader,
        Self::Latency,
        Self::Jitter,
        Self::Bandwidth,
        Self::Flap,
    ];

    /// The stable name.
    #[must_use]
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Reset => "reset",
            Self::Close => "close",
            Self::CutMidPacket => "cut-mid-packet",
            Self::BlackHole => "black-hole",
            Self::HalfOpenUp => "half-open-up",
            Self::HalfOpenDown => "half-open-down",
            Self::SlowReader => "slow-reader",
            Self::Latency => "latency",
            Self::Jitter => "jitter",
            Self::Bandwidth => "bandwidth",
            Self::Flap => "flap",
            Self::Takeover => "takeover",
        }
    }

    /// What it does, for people.
    #[must_use]
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Refuse => "connection closed, nobody listens",
            Self::Reset => "connection reset",
            Self::Close => "connection closed without a word",
            Self::CutMidPacket => "reset in the middle of a packet",
            Self::BlackHole => "silence both ways",
            Self::HalfOpenUp => "what we send is lost",
            Self::HalfOpenDown => "what the broker sends is lost",
            Self::SlowReader => "the other end stops reading",
            Self::Latency => "1 s late each way",
            Self::Jitter => "0 to 1.5 s late",
            Self::Bandwidth => "a narrow way",
            Self::Flap => "the network comes and goes",
            Self::Takeover => "another client with our id",
        }
    }

    /// How the first disconnect after it may be classed; empty: the link must stay up.
    #[must_use]
    pub(crate) const fn expected(self) -> &'static [CauseClass] {
        match self {
            // What was in flight decides whether the kernel says FIN or RST.
            Self::Refuse | Self::Close | Self::Flap => {
                &[CauseClass::ClosedByServer, CauseClass::Reset]
            }
            Self::Reset | Self::CutMidPacket => &[CauseClass::Reset],
            Self::BlackHole | Self::HalfOpenUp | Self::HalfOpenDown => {
                &[CauseClass::PingrespTimeout]
            }
            // The socket is full where the load is high enough to fill it; else the silence shows first.
            Self::SlowReader => &[CauseClass::WriteStalled, CauseClass::PingrespTimeout],
            Self::Latency | Self::Jitter | Self::Bandwidth => &[],
            Self::Takeover => &[
                CauseClass::TakenOver,
                CauseClass::ClosedByServer,
                CauseClass::Reset,
            ],
        }
    }

    /// How long it lasts when nothing else is said; zero: it is a blow.
    fn lasts(self, random: &mut Random) -> Duration {
        match self {
            Self::Reset | Self::Close | Self::CutMidPacket | Self::Takeover => Duration::ZERO,
            Self::Refuse | Self::Flap => random.between(OUTAGE_MIN, OUTAGE_MAX),
            // Long enough to be found before it heals.
            Self::BlackHole | Self::HalfOpenUp | Self::HalfOpenDown | Self::SlowReader => {
                OUTAGE_MAX
            }
            Self::Latency | Self::Jitter | Self::Bandwidth => SLOWNESS,
        }
    }

    /// What the plan sets aside for the way back.
    fn recovery_planned(self) -> Duration {
        match self {
            Self::Takeover => TAKEOVER_FLOOR + RECOVERY_PLANNED,
            Self::Refuse
            | Self::Reset
            | Self::Close
            | Self::CutMidPacket
            | Self::BlackHole
            | Self::HalfOpenUp
            | Self::HalfOpenDown
            | Self::SlowReader
            | Self::Latency
            | Self::Jitter
            | Self::Bandwidth
            | Self::Flap => RECOVERY_PLANNED,
        }
    }
}

/// One trial of one fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trial {
    /// Which.
    pub(crate) fault: Fault,
    /// How long.
    pub(crate) lasts: Duration,
}

impl Trial {
    fn planned(&self) -> Duration {
        CALM + self.lasts + self.fault.recovery_planned()
    }
}

/// Trials that fill `budget`: all of `faults` in a drawn order, then all again. The first round is whole if it fits.
#[must_use]
pub(crate) fn plan(faults: &[Fault], budget: Duration, seed: u64) -> Vec<Trial> {
    let mut random = Random::seeded(seed);
    let mut trials = Vec::new();
    let mut left = budget;
    loop {
        let before = trials.len();
        for fault in shuffled(faults, &mut random) {
            let lasts = fault.lasts(&mut random);
            let trial = Trial { fault, lasts };
            if let Some(rest) = left.checked_sub(trial.planned()) {
                left = rest;
                trials.push(trial);
            }
        }
        if trials.len() == before {
            return trials;
        }
    }
}

/// Fisher and Yates.
fn shuffled(faults: &[Fault], random: &mut Random) -> Vec<Fault> {
    let mut faults = faults.to_vec();
    for end in (1..faults.len()).rev() {
        let choices = u64::try_from(end + 1).unwrap_or(u64::MAX);
        let chosen = usize::try_from(random.next_u64() % choices).unwrap_or(0);
        faults.swap(end, chosen);
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN_MINUTES: Duration = Duration::from_secs(600);

    #[test]
    fn a_plan_fits_its_budget_and_tries_everything() {
        for seed in 0..100 {
            let faults: Vec<_> = Fault::USUAL.into_iter().chain([Fault::Takeover]).collect();
            let trials = plan(&faults, TEN_MINUTES, seed);
            let planned: Duration = trials.iter().map(Trial::planned).sum();
            assert!(planned <= TEN_MINUTES, "seed {seed}: {planned:?}");
            for fault in faults {
                let tried = trials.iter().any(|trial| trial.fault == fault);
                assert!(tried, "seed {seed}: {}", fault.name());
            }
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_plan() {
        let planned = |seed| plan(&Fault::USUAL, TEN_MINUTES, seed);
        assert_eq!(planned(7), planned(7));
        assert_ne!(planned(7), planned(8));
    }

    #[test]
    fn a_budget_too_small_for_anything_gives_no_trials() {
        assert_eq!(plan(&Fault::USUAL, Duration::from_secs(1), 1), []);
    }
}
