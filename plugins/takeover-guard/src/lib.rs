//! Yields to another client with the same id: one minute after the first takeover, twice as long after each that follows,
//! and on the third it parks, if the broker has said that it was a takeover. What only looks like one is never parked.
//! Anything else gets full jitter.
//!
//! Two gateways that were given one id run this with the same configuration. Each wait is drawn from the upper half of
//! its range by the gateway's own seed, so that they do not meet again in step.

use moorline_plugin_sdk::{
    Cause, Decision, PolicyDescription, Question, ReconnectPolicy, Seed, export_policy,
    no_policy_configuration,
};

/// After the first takeover.
const FIRST_MS: u32 = 60_000;
/// Takeovers after which somebody must act.
const PARK_AFTER: u32 = 3;

struct TakeoverGuard;

impl ReconnectPolicy for TakeoverGuard {
    fn describe() -> PolicyDescription {
        PolicyDescription {
            name: "takeover-guard".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            configuration_schema: String::new(),
        }
    }

    fn configure(configuration: &str) -> Result<Self, String> {
        no_policy_configuration(configuration)?;
        Ok(Self)
    }

    fn decide(&self, question: &Question) -> Decision {
        let certain = question.cause == Cause::TakenOver;
        // The broker closed without a word, and the host takes that for a takeover.
        let inferred = question.cause == Cause::ClosedByServer && question.takeovers > 0;
        if !certain && !inferred {
            return question.full_jitter();
        }
        if certain && question.takeovers >= PARK_AFTER {
            return Decision::Park;
        }
        let doublings = question.takeovers.saturating_sub(1).min(20);
        let least = FIRST_MS
            .saturating_mul(1 << doublings)
            .clamp(question.floor_ms, question.ceiling_ms);
        let most = least.saturating_mul(2).min(question.ceiling_ms);
        Decision::RetryAfter(Seed::new(question.seed).between(least, most))
    }
}

export_policy!(TakeoverGuard);

#[cfg(test)]
mod tests {
    use moorline_plugin_sdk::{FaultOf, Network};

    use super::*;

    fn question(cause: Cause, takeovers: u32, seed: u32) -> Question {
        Question {
            cause,
            fault: FaultOf::Operator,
            reason_code: (cause == Cause::TakenOver).then_some(0x8e),
            attempt: takeovers.max(1),
            session_ms: 90_000,
            down_ms: 0,
            spool_depth: 0,
            network: Network::Unknown,
            metered: false,
            local_time: None,
            sessions: 3,
            takeovers,
            previous_delay_ms: 0,
            floor_ms: 1_000,
            ceiling_ms: 3_600_000,
            seed,
        }
    }

    fn wait(cause: Cause, takeovers: u32, seed: u32) -> u32 {
        match TakeoverGuard.decide(&question(cause, takeovers, seed)) {
            Decision::RetryAfter(ms) => ms,
            Decision::RetryNow | Decision::Park => panic!("not a wait"),
        }
    }

    #[test]
    fn waits_double_with_each_takeover_and_differ_between_two_gateways() {
        for seed in 0..200 {
            assert!((60_000..=120_000).contains(&wait(Cause::TakenOver, 1, seed)));
            assert!((120_000..=240_000).contains(&wait(Cause::TakenOver, 2, seed)));
        }
        let mut waits: Vec<_> = (0..200)
            .map(|seed| wait(Cause::TakenOver, 1, seed))
            .collect();
        waits.sort_unstable();
        waits.dedup();
        assert!(waits.len() > 190, "{} of 200 differ", waits.len());
    }

    #[test]
    fn the_third_takeover_parks_but_only_if_the_broker_said_so() {
        let said = TakeoverGuard.decide(&question(Cause::TakenOver, 3, 7));
        assert_eq!(said, Decision::Park);
        assert!((240_000..=480_000).contains(&wait(Cause::ClosedByServer, 3, 7)));
        assert!(
            wait(Cause::ClosedByServer, u32::MAX, 7) <= 3_600_000,
            "nothing overflows"
        );
    }

    #[test]
    fn the_hosts_bounds_are_kept() {
        let narrow = Question {
            floor_ms: 600_000,
            ceiling_ms: 900_000,
            ..question(Cause::TakenOver, 2, 7)
        };
        let decision = TakeoverGuard.decide(&narrow);
        assert!(
            matches!(decision, Decision::RetryAfter(ms) if (600_000..=900_000).contains(&ms)),
            "{decision:?}"
        );
    }

    #[test]
    fn anything_else_gets_full_jitter() {
        assert!((1_000..=2_000).contains(&wait(Cause::Reset, 1, 7)));
        assert!((1_000..=2_000).contains(&wait(Cause::ClosedByServer, 0, 7)));
    }
}
