//! A policy that keeps every rule of the contract but the one its script names; see `breaking-connector`.

use std::cell::Cell;
use std::hint::black_box;

use moorline_plugin_sdk::{Decision, PolicyDescription, Question, ReconnectPolicy, export_policy};

/// `SCRIPT:` and words, separated and filled up by spaces.
#[used]
static SCRIPT: [u8; 128] = *b"SCRIPT:                                                                                                                         ";

fn breaks(word: &str) -> bool {
    String::from_utf8_lossy(black_box(&SCRIPT))
        .strip_prefix("SCRIPT:")
        .unwrap_or_default()
        .split_whitespace()
        .any(|w| w == word)
}

struct Breaking {
    asked: Cell<u32>,
}

impl ReconnectPolicy for Breaking {
    fn describe() -> PolicyDescription {
        PolicyDescription {
            name: "breaking".into(),
            version: "1.0.0".into(),
            configuration_schema: if breaks("schema") {
                "{\"type\":".into()
            } else {
                r#"{"type":"object","additionalProperties":false}"#.into()
            },
        }
    }

    fn configure(configuration: &str) -> Result<Self, String> {
        if configuration != "{}" && !breaks("configuration") {
            return Err("no configuration is taken".into());
        }
        Ok(Self {
            asked: Cell::new(0),
        })
    }

    fn decide(&self, question: &Question) -> Decision {
        self.asked.set(self.asked.get() + 1);
        if breaks("hang") && question.takeovers > 1_000 {
            loop {
                black_box(question.seed);
            }
        }
        if breaks("state") {
            return Decision::RetryAfter(question.floor_ms.saturating_add(self.asked.get()));
        }
        if breaks("overflow") {
            // As release builds do it not by themselves, and debug builds do.
            let wait = question.floor_ms.checked_mul(question.attempt);
            return Decision::RetryAfter(wait.expect("no overflow"));
        }
        let most = question.floor_ms.saturating_mul(question.attempt.max(1));
        Decision::RetryAfter(most.min(question.ceiling_ms))
    }
}

export_policy!(Breaking);
