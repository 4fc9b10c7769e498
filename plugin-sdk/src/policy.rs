//! Reconnect policies: one question, one decision, nothing else.

use serde::de::DeserializeOwned;

use crate::bindings::policy::exports::moorline::edge::policy_guest;
use crate::configuration::parsed;

pub use policy_guest::{
    Cause, Decision, Description as PolicyDescription, Fault as FaultOf, LocalTime, Network,
    Question,
};

/// A reconnect policy. It advises; the host clamps.
pub trait ReconnectPolicy: Sized {
    /// The policy's card.
    fn describe() -> PolicyDescription;

    /// Reads the configuration, a JSON object. Called once, first.
    ///
    /// # Errors
    /// What is wrong with it, for the operator: the policy does not serve then.
    fn configure(configuration: &str) -> Result<Self, String>;

    /// What to do about a disconnect. Must be a pure function of configuration and question.
    fn decide(&self, question: &Question) -> Decision;
}

/// A policy's configuration as a type of the author's.
///
/// # Errors
/// The field and what is wrong with it.
pub fn policy_configuration<T: DeserializeOwned>(configuration: &str) -> Result<T, String> {
    parsed(configuration)
}

/// For a policy that takes no configuration.
///
/// # Errors
/// When it is given one.
pub fn no_policy_configuration(configuration: &str) -> Result<(), String> {
    // Not parsed: a policy of a few lines should not have to carry a parser.
    if configuration
        .chars()
        .filter(|c| !c.is_whitespace())
        .eq("{}".chars())
    {
        Ok(())
    } else {
        Err(format!(
            "this policy takes no configuration, and is given {configuration}"
        ))
    }
}

impl Question {
    /// Exponential back-off with full jitter: between the floor and `floor * 2^attempt`, at most the ceiling.
    ///
    /// Source: AWS Architecture Blog, "Exponential Backoff And Jitter".
    #[must_use]
    pub fn full_jitter(&self) -> Decision {
        let doubled = self.floor_ms.saturating_mul(1 << self.attempt.min(20));
        let most = doubled.clamp(self.floor_ms, self.ceiling_ms.max(self.floor_ms));
        Decision::RetryAfter(Seed::new(self.seed).between(self.floor_ms, most))
    }
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
