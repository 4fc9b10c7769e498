//! A policy that misbehaves on demand; see `scripted-connector`. Left alone it waits a second per
//! attempt, or what its configuration says.

use std::hint::black_box;

use moorline_plugin_sdk::{Decision, PolicyDescription, Question, ReconnectPolicy, export_policy};

/// `SCRIPT:` and words, separated and filled up by spaces.
#[used]
static SCRIPT: [u8; 128] = *b"SCRIPT:                                                                                                                         ";

fn scripted(word: &str) -> bool {
    let script = black_box(&SCRIPT);
    String::from_utf8_lossy(script)
        .strip_prefix("SCRIPT:")
        .unwrap_or_default()
        .split_whitespace()
        .any(|w| w == word)
}

struct Scripted {
    wait_ms: u32,
}

impl ReconnectPolicy for Scripted {
    fn describe() -> PolicyDescription {
        PolicyDescription {
            name: if scripted("describe:long") {
                "long".repeat(64) + "!"
            } else {
                "scripted".into()
            },
            version: env!("CARGO_PKG_VERSION").into(),
            configuration_schema: "{}".into(),
        }
    }

    fn configure(configuration: &str) -> Result<Self, String> {
        if scripted("configure:trap") {
            panic!("configure");
        }
        while scripted("configure:hang") {
            black_box(configuration);
        }
        // Only what a test writes on purpose: an empty object, or the wait it wants.
        match configuration {
            "{}" => Ok(Self { wait_ms: 1_000 }),
            r#"{"wait_ms":7000}"# => Ok(Self { wait_ms: 7_000 }),
            other => Err(format!("{other} is not what this policy takes")),
        }
    }

    fn decide(&self, question: &Question) -> Decision {
        if scripted("decide:trap") || (scripted("decide:trap-once") && question.attempt == 1) {
            panic!("decide");
        }
        let mut n = 0_u64;
        while scripted("decide:hang") {
            n = black_box(n.wrapping_add(1));
        }
        if scripted("decide:zero") {
            Decision::RetryAfter(0)
        } else {
            Decision::RetryAfter(question.attempt * self.wait_ms)
        }
    }
}

export_policy!(Scripted);
