//! Reconnect policies side by side, each with a fleet of its own on virtual time (`moorline_core::fleet`), and what of
//! it is shown: a table, JSON and a picture.

use std::path::{Path, PathBuf};
use std::time::Duration;

use moorline_core::fleet::{Fleet, Outcome, Pacing, PeerRule, Scenario};
use moorline_core::link::policy::{Decision, PolicyFault, Question};
use moorline_core::swap::Failure;

use crate::plugins::{Contradiction, Rehearsal};

mod chart;
mod report;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use chart::chart;
pub(crate) use report::report;
pub(crate) use table::table;

/// Virtual time between two looks at the progress.
const STEP: Duration = Duration::from_secs(10);
/// Characters of a component's own name that are shown.
const NAME_CHARS_MAX: usize = 32;
const FIXED: PeerRule = PeerRule::Fixed(Duration::from_secs(15));
const EXPONENTIAL: PeerRule = PeerRule::Exponential {
    first: Duration::from_secs(1),
    most: Duration::from_secs(120),
};
const IMMEDIATE: PeerRule = PeerRule::Fixed(Duration::ZERO);

/// What a component is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Builtin {
    /// What a gateway without a policy does: 1 to 120 s, full jitter.
    FullJitter,
    /// Clients that try every 15 s; nobody clamps them.
    #[value(name = "fixed-15s")]
    Fixed15s,
    /// Clients that double from 1 to 120 s without jitter; nobody clamps them.
    ExponentialNoJitter,
    /// Clients that try again at once; nobody clamps them.
    Immediate,
    /// A policy that says 0 s, inside Moorline, which clamps it.
    ImmediateClamped,
}

/// Whose decisions a fleet follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A component's, clamped by the host.
    Component,
    /// The host's own.
    BuiltIn,
    /// A peer's rule, clamped by the host.
    Clamped,
    /// A peer's rule as a peer follows it.
    Unclamped,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Component => "component",
            Self::BuiltIn => "built-in",
            Self::Clamped => "clamped",
            Self::Unclamped => "peer, unclamped",
        }
    }
}

enum Advisor {
    Component(Box<Rehearsal>),
    BuiltIn,
    Clamped(PeerRule),
    Unclamped(PeerRule),
}

/// A policy before its fleet is run.
pub(crate) struct Contender {
    pub(crate) name: String,
    file: Option<PathBuf>,
    advisor: Advisor,
}

/// A policy and what its fleet did.
#[derive(Debug)]
pub(crate) struct Played {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) file: Option<PathBuf>,
    pub(crate) digest: Option<String>,
    pub(crate) outcome: Outcome,
    /// What a component failed of first.
    pub(crate) failure: Option<String>,
}

impl Contender {
    pub(crate) async fn component(
        file: &Path,
        configuration: &serde_json::Value,
    ) -> Result<Self, Failure> {
        let rehearsal = Rehearsal::load(file, configuration).await?;
        let name = format!("{} {}", rehearsal.name(), rehearsal.version());
        Ok(Self {
            name: harmless(&name),
            file: Some(file.to_owned()),
            advisor: Advisor::Component(Box::new(rehearsal)),
        })
    }

    pub(crate) fn builtin(builtin: Builtin) -> Self {
        let (name, advisor) = match builtin {
            Builtin::FullJitter => ("full-jitter", Advisor::BuiltIn),
            Builtin::Fixed15s => ("fixed-15s", Advisor::Unclamped(FIXED)),
            Builtin::ExponentialNoJitter => {
                ("exponential-no-jitter", Advisor::Unclamped(EXPONENTIAL))
            }
            Builtin::Immediate => ("immediate", Advisor::Unclamped(IMMEDIATE)),
            Builtin::ImmediateClamped => ("immediate", Advisor::Clamped(IMMEDIATE)),
        };
        Self {
            name: name.to_owned(),
            file: None,
            advisor,
        }
    }

    const fn kind(&self) -> Kind {
        match self.advisor {
            Advisor::Component(_) => Kind::Component,
            Advisor::BuiltIn => Kind::BuiltIn,
            Advisor::Clamped(_) => Kind::Clamped,
            Advisor::Unclamped(_) => Kind::Unclamped,
        }
    }

    const fn pacing(&self) -> Pacing {
        match self.advisor {
            Advisor::Component(_) | Advisor::BuiltIn | Advisor::Clamped(_) => Pacing::Link,
            Advisor::Unclamped(rule) => Pacing::Peer(rule),
        }
    }

    fn advise(&mut self, question: &Question) -> Result<Decision, PolicyFault> {
        match &mut self.advisor {
            Advisor::Component(rehearsal) => rehearsal.decide(question),
            Advisor::Clamped(rule) => Ok(Decision::RetryAfter(rule.wait(question.attempt))),
            // The link's own policy stands in.
            Advisor::BuiltIn | Advisor::Unclamped(_) => Err(PolicyFault::Absent),
        }
    }

    fn contradiction(&self) -> Option<Contradiction> {
        match &self.advisor {
            Advisor::Component(rehearsal) => rehearsal.contradiction(),
            Advisor::BuiltIn | Advisor::Clamped(_) | Advisor::Unclamped(_) => None,
        }
    }

    /// Runs its fleet to the end. `progress` is told the virtual time, how many gateways are back, and the attempts.
    ///
    /// # Errors
    /// When the policy answers the same question in two ways: then one instance cannot answer for a fleet.
    pub(crate) fn play(
        mut self,
        scenario: &Scenario,
        progress: &mut dyn FnMut(&str, Duration, &Fleet),
    ) -> Result<Played, Contradiction> {
        let mut fleet = Fleet::new(scenario, self.pacing());
        let mut until = STEP;
        while fleet.advance(until, &mut |question| self.advise(question)) {
            if let Some(contradiction) = self.contradiction() {
                return Err(contradiction);
            }
            progress(&self.name, until, &fleet);
            until += STEP;
        }
        if let Some(contradiction) = self.contradiction() {
            return Err(contradiction);
        }
        let kind = self.kind();
        let (digest, failure) = match &self.advisor {
            Advisor::Component(rehearsal) => (
                Some(rehearsal.digest().to_string()),
                rehearsal.first_failure().map(ToString::to_string),
            ),
            Advisor::BuiltIn | Advisor::Clamped(_) | Advisor::Unclamped(_) => (None, None),
        };
        Ok(Played {
            name: self.name,
            kind,
            file: self.file,
            digest,
            outcome: fleet.outcome(),
            failure,
        })
    }
}

/// Tells components of the same name apart by their files.
pub(crate) fn tell_apart(contenders: &mut [Contender]) {
    let shared: Vec<bool> = contenders
        .iter()
        .map(|one| contenders.iter().filter(|c| c.name == one.name).count() > 1)
        .collect();
    for (contender, _) in contenders.iter_mut().zip(shared).filter(|(_, s)| *s) {
        let stem = contender.file.as_deref().and_then(Path::file_stem);
        if let Some(stem) = stem {
            contender.name = format!("{} [{}]", contender.name, harmless(&stem.to_string_lossy()));
        }
    }
}

/// A guest's words without anything a terminal would obey.
fn harmless(text: &str) -> String {
    let shown = text.chars().take(NAME_CHARS_MAX);
    shown
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}
