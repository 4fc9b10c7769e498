//! Waits for the network instead of guessing: long while it is down (the host cuts the wait short when it is back), quick
//! after a good session broke, gentle with a broker that is in trouble.

use moorline_plugin_sdk::{
    Cause, Decision, FaultOf, Network, PolicyDescription, Question, ReconnectPolicy, Seed,
    export_policy, no_policy_configuration,
};

/// A session that lasted this long was a good one.
const GOOD_SESSION_MS: u32 = 30_000;

struct NetworkAware;

impl ReconnectPolicy for NetworkAware {
    fn describe() -> PolicyDescription {
        PolicyDescription {
            name: "network-aware".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            configuration_schema: String::new(),
        }
    }

    fn configure(configuration: &str) -> Result<Self, String> {
        no_policy_configuration(configuration)?;
        Ok(Self)
    }

    fn decide(&self, question: &Question) -> Decision {
        let mut seed = Seed::new(question.seed);
        if question.network == Network::Down {
            return Decision::RetryAfter(question.ceiling_ms);
        }
        if question.attempt == 1
            && question.session_ms >= GOOD_SESSION_MS
            && question.fault == FaultOf::Network
        {
            return Decision::RetryNow;
        }
        // A broker in trouble sees its whole fleet come back: double twice as fast.
        let in_trouble = matches!(
            question.cause,
            Cause::ServerUnavailable | Cause::ShuttingDown | Cause::Quota | Cause::ConnackTimeout
        );
        let steps = question
            .attempt
            .saturating_mul(if in_trouble { 2 } else { 1 });
        let doubled = question.floor_ms.saturating_mul(1 << steps.min(20));
        let most = doubled.clamp(question.floor_ms, question.ceiling_ms);
        Decision::RetryAfter(seed.between(question.floor_ms, most))
    }
}

export_policy!(NetworkAware);

#[cfg(test)]
mod tests {
    use super::*;

    fn question() -> Question {
        Question {
            cause: Cause::Reset,
            fault: FaultOf::Network,
            reason_code: None,
            attempt: 1,
            session_ms: 60_000,
            down_ms: 0,
            spool_depth: 0,
            network: Network::Up,
            metered: false,
            local_time: None,
            sessions: 1,
            takeovers: 0,
            previous_delay_ms: 0,
            floor_ms: 1000,
            ceiling_ms: 120_000,
            seed: 1,
        }
    }

    #[test]
    fn a_good_session_is_retried_at_once_and_a_short_one_is_not() {
        assert_eq!(NetworkAware.decide(&question()), Decision::RetryNow);
        let short = Question {
            session_ms: 10,
            ..question()
        };
        assert!(
            matches!(NetworkAware.decide(&short), Decision::RetryAfter(ms) if (1000..=2000).contains(&ms))
        );
    }

    #[test]
    fn without_a_network_it_waits_for_the_host_to_call() {
        let down = Question {
            network: Network::Down,
            ..question()
        };
        assert_eq!(NetworkAware.decide(&down), Decision::RetryAfter(120_000));
    }
}
