//! Reconnect policies: one question, one decision, nothing else.

use crate::bindings::policy::exports::moorline::edge::policy_guest;

pub use policy_guest::{
    Cause, Decision, Description as PolicyDescription, Fault as FaultOf, Network, Question,
};

/// A reconnect policy. It advises; the host clamps.
pub trait ReconnectPolicy {
    /// The policy's card.
    fn describe() -> PolicyDescription;

    /// What to do about a disconnect. Must be a pure function of the question.
    fn decide(question: &Question) -> Decision;
}

/// Random numbers from a question's seed (SplitMix64): a policy has no other source.
#[derive(Clone, Copy, Debug)]
pub struct Seed(u64);

impl Seed {
    /// Starts from a question's seed.
    #[must_use]
    pub fn new(seed: u32) -> Self {
        Self(u64::from(seed))
    }

    /// A number between `low` and `high`, both included.
    pub fn between(&mut self, low: u32, high: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let span = u64::from(high.saturating_sub(low)) + 1;
        low + u32::try_from(z % span).unwrap_or(0)
    }
}
