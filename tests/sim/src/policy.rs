//! Policies, good and bad. Whatever they answer, the host's pace must hold.

use std::time::Duration;

use moorline_core::link::backoff::full_jitter;
use moorline_core::link::policy::{Decision, PolicyFault, Question};

use crate::dice::Dice;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Absent,
    FullJitter,
    /// Wants to retry at once, always, in both ways there are.
    ZeroStorm,
    Park,
    /// Wants to wait for ever.
    Never,
    Trap,
    /// Never answers.
    Stall,
    /// Answers after its deadline.
    Late,
}

pub(crate) const POLICIES: [Policy; 8] = [
    Policy::Absent,
    Policy::FullJitter,
    Policy::ZeroStorm,
    Policy::Park,
    Policy::Never,
    Policy::Trap,
    Policy::Stall,
    Policy::Late,
];

type Advice = Result<Decision, PolicyFault>;

impl Policy {
    /// The answer and how long it takes; none: there will be none.
    pub(crate) fn answer(self, question: &Question, dice: &mut Dice) -> Option<(Duration, Advice)> {
        let jitter = full_jitter(
            question.attempt,
            question.floor,
            question.ceiling,
            dice.random(),
        );
        let soon = dice.ms(0, 20);
        match self {
            Self::Absent => Some((Duration::ZERO, Err(PolicyFault::Absent))),
            Self::FullJitter => Some((soon, Ok(Decision::RetryAfter(jitter)))),
            Self::ZeroStorm if dice.chance(50) => Some((Duration::ZERO, Ok(Decision::RetryNow))),
            Self::ZeroStorm => Some((Duration::ZERO, Ok(Decision::RetryAfter(Duration::ZERO)))),
            Self::Park => Some((soon, Ok(Decision::Park))),
            Self::Never => Some((soon, Ok(Decision::RetryAfter(Duration::MAX)))),
            Self::Trap => Some((soon, Err(PolicyFault::Trapped))),
            Self::Stall => None,
            Self::Late => Some((dice.ms(51, 400), Ok(Decision::RetryNow))),
        }
    }
}
