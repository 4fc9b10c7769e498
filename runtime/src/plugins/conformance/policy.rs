//! The rules of a policy.

use std::sync::Arc;
use std::time::Duration;

use moorline_core::link::cause::{CauseClass, Fault};
use moorline_core::link::policy::{Decision, LocalTime, Network, Question};
use moorline_core::swap::{Build, Failure};
use moorline_core::time::TimestampMs;
use wasmtime::component::Component;

use super::configurations;
use super::connector::{is_semantic, sound_schema};
use super::rules::{Check, Outcome, Rule};
use crate::plugins::engine::Engine;
use crate::plugins::policy::{self, PolicyGuest};

/// Fuel alone ends a decision, so that the same component does the same on a busy machine; this is for what fuel cannot
/// see.
const DEADLINE: Duration = Duration::from_secs(5);
const ATTEMPTS: [u32; 7] = [0, 1, 2, 5, 30, 1_000_000, u32::MAX];
/// Questions that are put to a second instance, too.
const TWINS: usize = 24;

type Judged = (String, String, Vec<Check>);

/// Judges every rule.
///
/// # Errors
/// When no gateway could load it.
pub(super) fn judge(
    engine: &Engine,
    component: &Component,
    build: Build,
    configuration: &serde_json::Value,
) -> Result<Judged, Failure> {
    let pre = policy::link(engine, component)?;
    let card = policy::describe(engine, &pre)?;
    let (name, version) = (card.name.clone(), card.version.clone());
    let prepare = |text: &str| PolicyGuest::prepare(engine, pre.clone(), build, text.into());
    let mut judged = Vec::with_capacity(Rule::POLICY.len());
    let again = policy::describe(engine, &pre)?;
    judged.push(describes(&card, &again));
    let prepared = prepare(&configuration.to_string());
    judged.push(match &prepared {
        Ok(_guest) => Outcome::Kept("configure() took the configuration".to_owned()),
        Err(failure) => Outcome::Broken(format!("it {failure}")),
    });
    judged.push(refuses_bad_configuration(
        configuration,
        &card.configuration_schema,
        prepare,
    ));
    match prepared {
        Ok(mut guest) => {
            let questions = questions();
            let (always, bounds) = decides(&mut guest, &questions);
            let same = match &always {
                Outcome::Kept(_) => decides_the_same(&mut guest, &questions),
                Outcome::Broken(_) | Outcome::Skipped(_) => bounds.clone(),
            };
            judged.push(always);
            judged.push(same);
            judged.push(bounds);
        }
        Err(_failure) => judged.resize(
            Rule::POLICY.len(),
            Outcome::Skipped("it does not take its configuration".to_owned()),
        ),
    }
    let checks = Rule::POLICY.into_iter().zip(judged);
    let checks = checks.map(|(rule, outcome)| Check { rule, outcome });
    Ok((name, version, checks.collect()))
}

type Card = crate::plugins::bindings::policy::exports::moorline::edge::policy_guest::Description;

fn describes(card: &Card, again: &Card) -> Outcome {
    if card.name.is_empty() || card.name.chars().any(char::is_control) {
        return Outcome::Broken("its name is empty or has control characters".to_owned());
    }
    if !is_semantic(&card.version) {
        let version = &card.version;
        return Outcome::Broken(format!(
            "version {version:?} is no semantic version like 1.2.3"
        ));
    }
    if let Err(why) = sound_schema(&card.configuration_schema) {
        return Outcome::Broken(why);
    }
    let fields = |card: &Card| {
        (
            card.name.clone(),
            card.version.clone(),
            card.configuration_schema.clone(),
        )
    };
    if fields(card) != fields(again) {
        return Outcome::Broken("describe() does not answer the same each time".to_owned());
    }
    Outcome::Kept(format!("{} {}", card.name, card.version))
}

fn refuses_bad_configuration(
    good: &serde_json::Value,
    schema: &str,
    prepare: impl Fn(&str) -> Result<PolicyGuest, Failure>,
) -> Outcome {
    use moorline_core::swap::Reason;
    let bad = configurations::bad(good, schema);
    let mut refused = 0;
    for configuration in &bad {
        let what = &configuration.what;
        match prepare(&configuration.text) {
            Err(failure) if failure.reason == Reason::Refused => refused += 1,
            Err(failure) => {
                return Outcome::Broken(format!("given a configuration {what} it {failure}"));
            }
            Ok(_guest) if configuration.must => {
                return Outcome::Broken(format!(
                    "a configuration {what} is taken, against its own schema"
                ));
            }
            Ok(_guest) => {}
        }
    }
    Outcome::Kept(format!(
        "{refused} of {} bad ones refused, none broke it",
        bad.len()
    ))
}

/// Every cause at every attempt, then numbers at their ends.
fn questions() -> Vec<Question> {
    let mut questions = Vec::new();
    for (turn, cause) in CauseClass::ALL.into_iter().enumerate() {
        for attempt in ATTEMPTS {
            let seed = u32::try_from(turn).unwrap_or(0).wrapping_mul(0x9e37_79b9) ^ attempt;
            questions.push(Question {
                cause,
                attempt,
                seed,
                ..usual()
            });
        }
    }
    let faults = [
        Fault::Us,
        Fault::Peer,
        Fault::Network,
        Fault::Operator,
        Fault::Nobody,
    ];
    for (fault, network) in faults.into_iter().zip(
        [Network::Up, Network::Down, Network::Unknown]
            .into_iter()
            .cycle(),
    ) {
        for number in [0, u32::MAX] {
            questions.push(extreme(fault, network, number));
        }
    }
    questions
}

fn usual() -> Question {
    Question {
        cause: CauseClass::Reset,
        fault: Fault::Network,
        reason_code: None,
        attempt: 1,
        session: Duration::from_secs(600),
        down: Duration::from_secs(3),
        spool_depth: 100,
        network: Network::Up,
        metered: false,
        local_time: Some(LocalTime {
            utc: TimestampMs(1_790_000_000_000),
            offset_min: 60,
        }),
        sessions: 3,
        takeovers: 0,
        previous_delay: Duration::from_secs(2),
        floor: Duration::from_secs(1),
        ceiling: Duration::from_secs(120),
        seed: 0,
        endpoint: Arc::from("broker:8883"),
    }
}

/// All numbers at one of their ends.
fn extreme(fault: Fault, network: Network, number: u32) -> Question {
    let ms = Duration::from_millis(u64::from(number));
    Question {
        cause: CauseClass::TakenOver,
        fault,
        reason_code: Some(u8::MAX),
        attempt: number,
        session: ms,
        down: ms,
        spool_depth: u64::from(number),
        network,
        metered: number > 0,
        local_time: (number > 0).then_some(LocalTime {
            // The end of the year 9999, in the westernmost zone.
            utc: TimestampMs(253_402_300_799_999),
            offset_min: -720,
        }),
        sessions: u64::from(number),
        takeovers: number,
        previous_delay: ms,
        floor: ms,
        ceiling: ms,
        seed: number,
        endpoint: Arc::from("broker:8883"),
    }
}

fn shown(question: &Question) -> String {
    format!("{:?}, attempt {}", question.cause, question.attempt)
}

/// Whether it decides always, and whether it does so within bounds.
fn decides(guest: &mut PolicyGuest, questions: &[Question]) -> (Outcome, Outcome) {
    let mut clamped = 0;
    for question in questions {
        match guest.decide(question, DEADLINE) {
            Ok(Decision::RetryAfter(wait)) if wait < question.floor || wait > question.ceiling => {
                clamped += 1
            }
            Ok(Decision::RetryAfter(_) | Decision::RetryNow | Decision::Park) => {}
            Err(failure) => {
                let why = format!("asked about {} it {failure}", shown(question));
                let unknown = Outcome::Skipped("it does not always decide".to_owned());
                return (Outcome::Broken(why), unknown);
            }
        }
    }
    let count = questions.len();
    let bounds = if clamped == 0 {
        "every wait is".to_owned()
    } else {
        format!("{clamped} of {count} waits are not, and the host makes them so")
    };
    (
        Outcome::Kept(format!("{count} questions")),
        Outcome::Kept(bounds),
    )
}

fn decides_the_same(guest: &mut PolicyGuest, questions: &[Question]) -> Outcome {
    let step = questions.len().div_ceil(TWINS).max(1);
    for question in questions.iter().step_by(step) {
        let fresh = guest
            .twin()
            .and_then(|mut twin| twin.decide(question, DEADLINE));
        let used = [
            guest.decide(question, DEADLINE),
            guest.decide(question, DEADLINE),
        ];
        if used
            .iter()
            .any(|used| used.as_ref().ok() != fresh.as_ref().ok())
        {
            return Outcome::Broken(format!(
                "asked about {} it answers {fresh:?} when fresh and {used:?} later",
                shown(question)
            ));
        }
    }
    Outcome::Kept(format!("{TWINS} questions to a second instance"))
}
