//! A policy that misbehaves on demand; see `scripted-connector`. Left alone it waits a second per attempt.

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

struct Scripted;

impl ReconnectPolicy for Scripted {
    fn describe() -> PolicyDescription {
        PolicyDescription {
            name: "scripted".into(),
            version: env!("CARGO_PKG_VERSION").into(),
        }
    }

    fn decide(question: &Question) -> Decision {
        if scripted("decide:trap") {
            panic!("decide");
        }
        let mut n = 0_u64;
        while scripted("decide:hang") {
            n = black_box(n.wrapping_add(1));
        }
        if scripted("decide:zero") {
            Decision::RetryAfter(0)
        } else {
            Decision::RetryAfter(question.attempt * 1_000)
        }
    }
}

export_policy!(Scripted);
