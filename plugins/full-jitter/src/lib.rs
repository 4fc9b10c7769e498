//! Exponential back-off with full jitter: between the floor and `floor * 2^attempt`, never above the ceiling.
//!
//! Source: AWS Architecture Blog, "Exponential Backoff And Jitter".

use moorline_plugin_sdk::{
    Decision, PolicyDescription, Question, ReconnectPolicy, export_policy, no_policy_configuration,
};

struct FullJitter;

impl ReconnectPolicy for FullJitter {
    fn describe() -> PolicyDescription {
        PolicyDescription {
            name: "full-jitter".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            configuration_schema: String::new(),
        }
    }

    fn configure(configuration: &str) -> Result<Self, String> {
        no_policy_configuration(configuration)?;
        Ok(Self)
    }

    fn decide(&self, question: &Question) -> Decision {
        question.full_jitter()
    }
}

export_policy!(FullJitter);

#[cfg(test)]
mod tests {
    use moorline_plugin_sdk::{Cause, FaultOf, Network};

    use super::*;

    fn waits(attempt: u32) -> Vec<u32> {
        (0..200)
            .map(|seed| {
                let question = Question {
                    cause: Cause::Reset,
                    fault: FaultOf::Network,
                    reason_code: None,
                    attempt,
                    session_ms: 0,
                    down_ms: 0,
                    spool_depth: 0,
                    network: Network::Unknown,
                    metered: false,
                    local_time: None,
                    sessions: 1,
                    takeovers: 0,
                    previous_delay_ms: 0,
                    floor_ms: 1000,
                    ceiling_ms: 120_000,
                    seed,
                };
                match FullJitter.decide(&question) {
                    Decision::RetryAfter(ms) => ms,
                    Decision::RetryNow | Decision::Park => panic!("not a wait"),
                }
            })
            .collect()
    }

    #[test]
    fn waits_grow_with_the_attempt_and_stay_inside_the_bounds() {
        let (first, tenth) = (waits(1), waits(10));
        assert!(first.iter().all(|ms| (1000..=2000).contains(ms)));
        assert!(tenth.iter().all(|ms| (1000..=120_000).contains(ms)));
        assert!(tenth.iter().sum::<u32>() > 20 * first.iter().sum::<u32>());
    }

    #[test]
    fn gateways_with_different_seeds_spread() {
        let mut distinct = waits(8);
        distinct.sort_unstable();
        distinct.dedup();
        assert!(distinct.len() > 190, "{} of 200 differ", distinct.len());
    }

    #[test]
    fn it_takes_no_configuration() {
        assert!(FullJitter::configure(" { }\n").is_ok());
        let refused = FullJitter::configure(r#"{"base_ms": 5}"#).err().unwrap();
        assert!(refused.contains("takes no configuration"), "{refused}");
    }
}
