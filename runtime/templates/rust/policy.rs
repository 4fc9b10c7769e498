//! One step more with each attempt, drawn from the lower half up.

use moorline_plugin_sdk::{
    Decision, PolicyDescription, Question, ReconnectPolicy, Seed, export_policy, policy_configuration,
};
use serde::Deserialize;

const SCHEMA: &str = r#"{
  "type": "object", "required": ["step_ms"], "additionalProperties": false,
  "properties": {"step_ms": {"type": "integer", "minimum": 1}}
}"#;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Steps {
    step_ms: u32,
}

impl ReconnectPolicy for Steps {
    fn describe() -> PolicyDescription {
        PolicyDescription {
            name: "{{name}}".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            configuration_schema: SCHEMA.into(),
        }
    }

    fn configure(configuration: &str) -> Result<Self, String> {
        let steps: Self = policy_configuration(configuration)?;
        if steps.step_ms == 0 {
            return Err("step_ms: at least 1 is needed".into());
        }
        Ok(steps)
    }

    fn decide(&self, question: &Question) -> Decision {
        let most = question.floor_ms.saturating_add(self.step_ms.saturating_mul(question.attempt)).min(question.ceiling_ms);
        let least = question.floor_ms.max(most / 2);
        // The seed is all the randomness there is: the same question gets the same answer.
        Decision::RetryAfter(if most > least { Seed::new(question.seed).between(least, most) } else { question.floor_ms })
    }
}

export_policy!(Steps);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_checked() {
        assert_eq!(Steps::configure(r#"{"step_ms": 500}"#).unwrap().step_ms, 500);
        for text in ["", "{}", r#"{"step_ms": 0}"#, r#"{"step_ms": 1, "more": 2}"#] {
            assert!(Steps::configure(text).is_err(), "{text}");
        }
    }
}
