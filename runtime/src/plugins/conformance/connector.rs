//! The rules of a connector, one after the other, each with lives of its own.

use std::time::Duration;

use moorline_core::message::{DeviceName, Uplink};
use moorline_core::swap::Failure;

use super::back_pressure;
use super::bench::Bench;
use super::configurations;
use super::device::Mood;
use super::hand_over;
use super::life::{End, Life, START};
use super::rules::{Check, Outcome, Rule};
use crate::plugins::bindings::connector::exports::moorline::edge::connector_guest::{
    AttributeUpdate, Event, Fault, LinkState,
};
use crate::plugins::bindings::connector::moorline::edge::types::{Attribute, Value};

/// How long something that should happen may take; a plugin may leave a device that failed alone for ten seconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);
/// How long a device misbehaves if it is asked nothing meanwhile.
pub(super) const TROUBLE: Duration = Duration::from_secs(3);
/// Requests a device in a bad mood waits for.
const REQUESTS: u64 = 3;
/// An answer to a request must be there by then.
const ANSWER: Duration = Duration::from_secs(10);

/// Judges every rule; `checked` hears of each at once.
pub(super) async fn judge(bench: &Bench, checked: &mut dyn FnMut(&Check)) -> Vec<Check> {
    let mut checks = Vec::with_capacity(Rule::CONNECTOR.len());
    // The rule without which none of the others can be judged.
    let mut unfit: Option<Rule> = None;
    let mut is_silent = false;
    for rule in Rule::CONNECTOR {
        bench.set_mood(Mood::Answers);
        let outcome = match unfit {
            Some(first) => skipped(format!("not judged: {} is broken", first.name())),
            None => match (one(bench, rule).await, rule) {
                (Ok(broken @ Outcome::Broken(_)), Rule::Starts) => {
                    unfit = Some(rule);
                    broken
                }
                // The next rule may know why, and none behind it can be judged without readings.
                (Ok(broken @ Outcome::Broken(_)), Rule::Works) => {
                    is_silent = true;
                    broken
                }
                (outcome, rule) => {
                    unfit = match (rule, &outcome) {
                        (Rule::Starts | Rule::Works, Err(_)) => Some(rule),
                        (Rule::EmitsSoundReadings, _) if is_silent => Some(Rule::Works),
                        (_, _) => None,
                    };
                    outcome.unwrap_or_else(|end| broken(words(&end)))
                }
            },
        };
        let check = Check { rule, outcome };
        checked(&check);
        checks.push(check);
    }
    checks
}

async fn one(bench: &Bench, rule: Rule) -> Result<Outcome, End> {
    match rule {
        Rule::Describes => describes(bench).await,
        Rule::Starts => starts(bench).await,
        Rule::RefusesBadConfiguration => refuses_bad_configuration(bench).await,
        Rule::Works => works(bench).await,
        Rule::EmitsSoundReadings => emits_sound_readings(bench).await,
        Rule::BearsBackPressure => back_pressure::bears_back_pressure(bench).await,
        Rule::AnswersRequests => answers_requests(bench).await,
        Rule::BearsAttributes => bears_attributes(bench).await,
        Rule::BearsLinkChanges => bears_link_changes(bench).await,
        Rule::BearsClosingDevice => bears(bench, &[Mood::Closing, Mood::Breaking]).await,
        Rule::BearsGarbledDevice => bears(bench, &[Mood::Garbled]).await,
        Rule::BearsSilentDevice => bears(bench, &[Mood::Silent]).await,
        Rule::HandsOver => hand_over::hands_over(bench).await,
        Rule::BearsForeignHandOver => hand_over::bears_foreign_hand_over(bench).await,
        Rule::RefusesOtherSchema => hand_over::refuses_other_schema(bench).await,
        Rule::DecidesAlways | Rule::DecidesTheSame | Rule::DecidesWithinBounds => {
            Ok(Outcome::Skipped("it is a policy's".to_owned()))
        }
    }
}

/// What an end is to the author.
pub(super) fn words(end: &End) -> String {
    match end {
        End::Failed(call, failure) => format!("{call} {failure}"),
        End::Refused(fault) => format!(
            "start() answered the configuration of test.toml (or --with, --config) with {}",
            named(fault)
        ),
        End::Restless => {
            "it asks to be woken at once, again and again, and does nothing when it is".to_owned()
        }
    }
}

pub(super) fn named(fault: &Fault) -> String {
    match fault {
        Fault::Configuration(words) => format!("fault.configuration: {words}"),
        Fault::Device(words) => format!("fault.device: {words}"),
        Fault::HandOver(words) => format!("fault.hand-over: {words}"),
        Fault::Internal(words) => format!("fault.internal: {words}"),
    }
}

pub(super) fn kept(words: impl Into<String>) -> Outcome {
    Outcome::Kept(words.into())
}

pub(super) fn broken(words: impl Into<String>) -> Outcome {
    Outcome::Broken(words.into())
}

pub(super) fn skipped(words: impl Into<String>) -> Outcome {
    Outcome::Skipped(words.into())
}

pub(super) fn no_readings() -> Outcome {
    skipped("it emits nothing without a device that answers: give it [[answer]]s or a --device")
}

/// Why nothing was read, as far as the device knows.
pub(super) fn silence(bench: &Bench, life: &mut Life<'_>) -> String {
    let mut words = format!("no reading within {} s", PATIENCE.as_secs());
    if let Some(unknown) = bench.seen().unknown {
        words.push_str(&format!("; the fake device has no answer to {unknown}"));
    }
    if let Some(fault) = life.faults.last() {
        words.push_str(&format!("; its last word is {}", named(fault)));
    }
    if let Some(refused) = life.refused() {
        words.push_str(&format!("; what it emitted is refused: {refused}"));
    }
    words
}

async fn describes(bench: &Bench) -> Result<Outcome, End> {
    let card = &bench.loaded.description;
    if card.name.is_empty() || card.name.chars().any(char::is_control) {
        return Ok(broken("its name is empty or has control characters"));
    }
    if !is_semantic(&card.version) {
        return Ok(broken(format!(
            "version {:?} is no semantic version like 1.2.3",
            card.version
        )));
    }
    if let Err(why) = sound_schema(&card.configuration_schema) {
        return Ok(broken(why));
    }
    let mut life = Life::conceived(bench).await?;
    let mut cards = vec![life.describe().await?, life.describe().await?];
    // Whether it starts is the next rule's question.
    if life
        .start(&bench.configuration.to_string(), None)
        .await
        .is_ok()
    {
        cards.push(life.describe().await?);
    }
    let all_alike = cards.iter().all(|other| {
        (
            &other.name,
            &other.version,
            &other.configuration_schema,
            other.hand_over_schema,
        ) == (
            &card.name,
            &card.version,
            &card.configuration_schema,
            card.hand_over_schema,
        )
    });
    if !all_alike {
        return Ok(broken("describe() does not answer the same each time"));
    }
    Ok(kept(format!("{} {}", card.name, card.version)))
}

/// Whether `version` is one by semver.org 2.0.0.
pub(super) fn is_semantic(version: &str) -> bool {
    let (rest, build) = version
        .split_once('+')
        .map_or((version, None), |(rest, build)| (rest, Some(build)));
    let (core, pre) = rest
        .split_once('-')
        .map_or((rest, None), |(core, pre)| (core, Some(pre)));
    let numeric =
        |part: &str| part.parse::<u64>().is_ok() && (part == "0" || !part.starts_with(['0', '+']));
    let identifier = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    core.split('.').count() == 3
        && core.split('.').all(numeric)
        && [pre, build]
            .into_iter()
            .flatten()
            .all(|list| list.split('.').all(identifier))
}

/// Whether a schema is one, as far as that can be told.
pub(super) fn sound_schema(schema: &str) -> Result<(), String> {
    if schema.is_empty() {
        return Ok(());
    }
    match serde_json::from_str(schema) {
        Ok(serde_json::Value::Object(_)) => Ok(()),
        Ok(_) => Err("its configuration schema is not a JSON object".to_owned()),
        Err(error) => Err(format!("its configuration schema is not JSON: {error}")),
    }
}

async fn starts(bench: &Bench) -> Result<Outcome, End> {
    match Life::begin(bench).await {
        Ok(_life) => Ok(kept("start() took the configuration")),
        Err(End::Failed(START, Failure { reason, detail })) => Ok(broken(format!(
            "start() {reason} with the configuration of test.toml (or --with, --config): {detail}"
        ))),
        Err(end) => Err(end),
    }
}

async fn refuses_bad_configuration(bench: &Bench) -> Result<Outcome, End> {
    let bad = configurations::bad(
        &bench.configuration,
        &bench.loaded.description.configuration_schema,
    );
    let mut refused = 0;
    for configuration in &bad {
        let mut life = Life::conceived(bench).await?;
        match life.start(&configuration.text, None).await {
            Err(End::Refused(Fault::Configuration(_))) => refused += 1,
            Err(End::Refused(fault)) => {
                let (what, fault) = (&configuration.what, named(&fault));
                return Ok(broken(format!(
                    "a configuration {what} is answered with {fault}"
                )));
            }
            Err(End::Failed(call, failure)) => {
                let what = &configuration.what;
                return Ok(broken(format!(
                    "given a configuration {what}: {call} {failure}"
                )));
            }
            Err(End::Restless) => {}
            Ok(()) if configuration.must => {
                let what = &configuration.what;
                return Ok(broken(format!(
                    "a configuration {what} is taken, against its own schema"
                )));
            }
            Ok(()) => {}
        }
    }
    Ok(kept(format!(
        "{refused} of {} bad ones refused, none broke it",
        bad.len()
    )))
}

async fn works(bench: &Bench) -> Result<Outcome, End> {
    let mut life = Life::begin(bench).await?;
    let asked = bench.seen().requests;
    if bench.can_read() {
        let reads = life
            .until(PATIENCE, |heard, _| heard.has_readings())
            .await?;
        return Ok(if reads {
            kept("readings came")
        } else {
            broken(silence(bench, &mut life))
        });
    }
    let asks = life
        .until(PATIENCE, |_, seen| seen.requests > asked)
        .await?;
    Ok(if asks {
        kept("it asked the device")
    } else {
        broken(format!(
            "within {} s it neither emitted nor asked the device",
            PATIENCE.as_secs()
        ))
    })
}

async fn emits_sound_readings(bench: &Bench) -> Result<Outcome, End> {
    if !bench.can_read() {
        return Ok(no_readings());
    }
    let mut life = Life::begin(bench).await?;
    let enough = |heard: &super::platform::Heard, _: &super::device::Seen| {
        heard
            .offered
            .iter()
            .filter(|offered| offered.uplink.readings() > 0)
            .count()
            >= 3
    };
    let came = life.until(TROUBLE, enough).await?;
    if let Some(why) = life.refused() {
        return Ok(broken(format!("the host can never take its batch: {why}")));
    }
    let some = life.platform.heard().has_readings();
    Ok(match (came, some) {
        (true, _) | (false, true) => kept("every batch was taken"),
        (false, false) => broken(silence(bench, &mut life)),
    })
}

/// A device it speaks for, once it works.
async fn some_device(life: &mut Life<'_>) -> Result<Option<DeviceName>, End> {
    life.until(PATIENCE, |heard, _| !heard.devices.is_empty())
        .await?;
    let device = life.platform.heard().devices.first().cloned();
    Ok(device)
}

async fn answers_requests(bench: &Bench) -> Result<Outcome, End> {
    let mut life = Life::begin(bench).await?;
    let Some(device) = some_device(&mut life).await? else {
        return Ok(skipped("it announces no device"));
    };
    let nested = format!("{}1{}", "[".repeat(100), "]".repeat(100));
    let long = format!("{{\"key\":\"{}\"}}", "ü".repeat(20_000));
    let questions = [
        ("moorline-conformance-unknown", "{}"),
        ("", "null"),
        ("get", "[]"),
        ("set", "{\"key\":\"\",\"value\":1e308}"),
        ("write", "-1"),
        ("read", nested.as_str()),
        ("\u{1f9ed}", long.as_str()),
    ];
    let mut refused = 0;
    for (method, params) in questions {
        let (number, answer) = match life.ask(&device, method, params).await {
            Ok(asked) => asked,
            Err(end) => return Ok(broken(format!("asked {method:?}: {}", words(&end)))),
        };
        if answer.is_err() {
            // The host answers for it.
            refused += 1;
            continue;
        }
        let is_reply = |uplink: &Uplink| matches!(uplink, Uplink::RpcReply { request_id, .. } if *request_id == number);
        let answered = life
            .until(ANSWER, |heard, _| {
                heard
                    .offered
                    .iter()
                    .any(|offered| is_reply(&offered.uplink))
            })
            .await?;
        if !answered {
            return Ok(broken(format!(
                "{method:?} had no answer after {} s",
                ANSWER.as_secs()
            )));
        }
    }
    Ok(kept(format!(
        "{} answered, {refused} refused",
        questions.len() - refused
    )))
}

async fn bears_attributes(bench: &Bench) -> Result<Outcome, End> {
    let mut life = Life::begin(bench).await?;
    let device = some_device(&mut life).await?;
    let device = device.map_or_else(|| "nobody".to_owned(), |device| device.as_str().to_owned());
    let attribute = |key: &str, value| Attribute {
        key: key.to_owned(),
        value,
    };
    let changed = vec![
        attribute("a", Value::Boolean(true)),
        attribute("", Value::Integer(i64::MIN)),
        attribute("c", Value::Double(-0.0)),
        attribute("\u{1f9ed}", Value::Text("x".repeat(10_000))),
        attribute("e", Value::Json("{\"a\":[null]}".to_owned())),
    ];
    let updates = [
        (device.clone(), changed, vec!["a".to_owned()]),
        (device, Vec::new(), Vec::new()),
        (
            "a device it does not know".to_owned(),
            Vec::new(),
            vec![String::new()],
        ),
    ];
    for (device, changed, deleted) in updates {
        let update = AttributeUpdate {
            device,
            changed,
            deleted,
        };
        drop(life.tell(Event::AttributesChanged(update)).await?);
    }
    Ok(kept("five kinds of values and a deletion"))
}

/// Whether it does something again that can be noticed outside.
pub(super) async fn goes_on(bench: &Bench, life: &mut Life<'_>) -> Result<bool, End> {
    let (asked, taken) = (
        bench.seen().requests,
        life.platform.heard().taken_readings().len(),
    );
    life.until(PATIENCE, |heard, seen| {
        if bench.can_read() {
            heard.taken_readings().len() > taken
        } else {
            seen.requests > asked
        }
    })
    .await
}

async fn bears_link_changes(bench: &Bench) -> Result<Outcome, End> {
    let mut life = Life::begin(bench).await?;
    for state in [
        LinkState::Down,
        LinkState::Up,
        LinkState::Down,
        LinkState::Down,
        LinkState::Up,
    ] {
        drop(life.tell(Event::LinkChanged(state)).await?);
    }
    Ok(if goes_on(bench, &mut life).await? {
        kept("it works on")
    } else {
        broken("after the link came back it does nothing any more")
    })
}

async fn bears(bench: &Bench, moods: &[Mood]) -> Result<Outcome, End> {
    if !bench.has_device() {
        return Ok(skipped("it has no device"));
    }
    let mut life = Life::begin(bench).await?;
    let asked = bench.seen().requests;
    if !life
        .until(PATIENCE, |_, seen| seen.requests > asked)
        .await?
    {
        return Ok(skipped("it never asks its device"));
    }
    for mood in moods {
        bench.set_mood(*mood);
        let asked = bench.seen().requests;
        life.until(TROUBLE, |_, seen| seen.requests >= asked + REQUESTS)
            .await?;
    }
    if let Some(other) = life
        .faults
        .iter()
        .find(|fault| !matches!(fault, Fault::Device(_)))
    {
        return Ok(broken(format!("it answers with {}", named(other))));
    }
    let faults = life.faults.len();
    bench.set_mood(Mood::Answers);
    Ok(if goes_on(bench, &mut life).await? {
        kept(format!("{faults} device faults, and it works again"))
    } else {
        broken(format!(
            "when the device is well again nothing comes for {} s",
            PATIENCE.as_secs()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_semantic_or_not() {
        for version in ["0.1.0", "1.2.3-rc.1", "1.0.0+build.5", "10.20.30-a+b"] {
            assert!(is_semantic(version), "{version}");
        }
        for version in [
            "", "1", "1.2", "1.2.x", "01.2.3", "1.2.3-", "v1.2.3", "1.2.3.4", "1.2.3+ä",
        ] {
            assert!(!is_semantic(version), "{version}");
        }
    }
}
