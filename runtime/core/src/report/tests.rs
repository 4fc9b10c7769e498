mod properties;

use super::*;
use crate::message::Quality;
use crate::time::TimestampMs;

const S: u64 = 1_000;

fn deadband(absolute: f64, percent: f64) -> Deadband {
    Deadband { absolute, percent }
}

fn every(strategy: Strategy) -> Filter {
    Filter::new(&Rules::new(Vec::new(), strategy)).unwrap()
}

fn device(name: &str, readings: Vec<Reading>) -> DeviceReadings {
    DeviceReadings {
        device: DeviceName::try_new(name).unwrap(),
        readings,
    }
}

fn reading(key: &str, at_ms: u64, value: Value, quality: Quality) -> Reading {
    Reading {
        key: Key::try_new(key).unwrap(),
        value,
        quality,
        timestamp: TimestampMs(at_ms),
    }
}

fn number(at_ms: u64, value: f64) -> Reading {
    reading("k", at_ms, Value::Double(value), Quality::Good)
}

fn at(ms: u64) -> Instant {
    Instant::from_start(Duration::from_millis(ms))
}

/// Offers readings of one device and takes what passes as reported.
fn pass(filter: &mut Filter, now: Instant, readings: Vec<Reading>) -> (Vec<Reading>, Offered) {
    let mut batch = vec![device("d", readings)];
    let offered = filter.offer(&mut batch, now);
    filter.accept();
    (batch.pop().map_or(Vec::new(), |d| d.readings), offered)
}

/// One reading of a written trace: `SECONDS:VALUE`, with `?` for uncertain and `!` for bad, and `@SECONDS` where it
/// comes at another time than it was measured.
fn written(word: &str) -> (Instant, Reading) {
    let (measured, rest) = word.split_once(':').unwrap();
    let (rest, come) = rest.split_once('@').unwrap_or((rest, measured));
    let quality = match rest.chars().last().unwrap() {
        '?' => Quality::Uncertain,
        '!' => Quality::Bad,
        _ => Quality::Good,
    };
    let text = rest.trim_end_matches(['?', '!']);
    let value = if let Ok(whole) = text.parse() {
        Value::Integer(whole)
    } else if let Ok(real) = text.parse() {
        Value::Double(real)
    } else if let Ok(truth) = text.parse() {
        Value::Boolean(truth)
    } else {
        Value::Text(text.to_owned())
    };
    let ms = |text: &str| (text.parse::<f64>().unwrap() * 1e3) as u64;
    (
        at(ms(come)),
        reading("k", 1_700_000_000_000 + ms(measured), value, quality),
    )
}

/// The words of a trace that pass.
fn trace(strategy: Strategy, words: &str) -> String {
    let mut filter = every(strategy);
    words
        .split_whitespace()
        .filter(|word| {
            let (now, reading) = written(word);
            !pass(&mut filter, now, vec![reading]).0.is_empty()
        })
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn golden_traces() {
    let text = include_str!("tests/golden.traces");
    let mut lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut traces = 0;
    while let Some(head) = lines.next() {
        let (strategy, _about) = head.split_once(": ").unwrap();
        let received = lines.next().unwrap().strip_prefix("< ").unwrap();
        let reported = lines.next().unwrap().strip_prefix("> ").unwrap();
        assert_eq!(trace(named(strategy), received), reported, "{head}");
        traces += 1;
    }
    assert_eq!(traces, 21);
}

/// A strategy as the golden traces write it.
fn named(words: &str) -> Strategy {
    let (name, numbers) = words.split_once(' ').unwrap();
    let numbers: Vec<f64> = numbers
        .split(' ')
        .map(|number| number.trim_end_matches('%').parse().unwrap())
        .collect();
    match (name, numbers.as_slice()) {
        ("change", &[absolute, percent]) => Strategy::OnChange(deadband(absolute, percent)),
        ("period", &[s]) => Strategy::OnPeriod(Duration::from_secs_f64(s)),
        ("change-or-period", &[absolute, percent, s]) => {
            Strategy::OnChangeOrPeriod(deadband(absolute, percent), Duration::from_secs_f64(s))
        }
        _ => panic!("{words} is no strategy"),
    }
}

#[test]
fn whole_numbers_are_compared_exactly() {
    let most = i64::MAX;
    for (last, this, differs) in [
        (Value::Integer(most), Value::Integer(most - 1), true),
        (Value::Integer(most), Value::Double(most as f64), true),
        (
            Value::Integer(1 << 53),
            Value::Double((1_u64 << 53) as f64),
            false,
        ),
        (Value::Integer(i64::MIN), Value::Integer(most), true),
        (Value::Double(-0.0), Value::Integer(0), false),
        (Value::Double(f64::MAX), Value::Double(f64::MIN), true),
    ] {
        let mut filter = every(Strategy::OnChange(Deadband::default()));
        let readings = [last.clone(), this.clone()]
            .map(|value| reading("k", 0, value, Quality::Good))
            .to_vec();
        let passed = pass(&mut filter, at(0), readings).0.len();
        assert_eq!(passed == 2, differs, "{last:?} {this:?}");
    }
}

#[test]
fn the_most_specific_rule_wins() {
    let rule = |device: &str, key: &str, s| Rule {
        device: Pattern::new(device),
        key: Pattern::new(key),
        strategy: Strategy::OnPeriod(Duration::from_secs(s)),
    };
    let rules = Rules::new(
        vec![
            rule("press-*", "*", 1),
            rule("press-1", "*", 2),
            rule("*", "temp*", 3),
            rule("press-*", "temp*", 4),
            rule("*", "temp", 5),
            rule("*-1", "temp", 6),
            rule("press-*", "temp", 7),
        ],
        Strategy::OnReceived,
    );
    for (device, key, s) in [
        ("oven", "speed", 0),
        ("press-7", "speed", 1),
        ("press-1", "speed", 2),
        ("oven", "temp_2", 3),
        ("press-1", "temp_2", 4),
        ("oven", "temp", 5),
        ("oven-1", "temp", 6),
        ("press-1", "temp", 6),
        ("press-2", "temp", 7),
    ] {
        let expected = match s {
            0 => Strategy::OnReceived,
            s => Strategy::OnPeriod(Duration::from_secs(s)),
        };
        assert_eq!(rules.strategy(device, key), expected, "{device} {key}");
    }
}

#[test]
fn where_everything_passes_there_is_no_filter() {
    let everything = Rule {
        device: Pattern::Any,
        key: Pattern::Any,
        strategy: Strategy::OnReceived,
    };
    assert!(Filter::new(&Rules::new(vec![everything], Strategy::OnReceived)).is_none());
    assert!(Filter::new(&Rules::default()).is_none());
}

#[test]
fn a_batch_that_was_refused_is_judged_again_as_if_it_were_new() {
    let mut filter = every(Strategy::OnChange(Deadband::default()));
    let offer = |filter: &mut Filter| {
        let mut batch = vec![
            device("silent", Vec::new()),
            device("d", vec![number(0, 1.0), number(1, 1.0), number(2, 3.0)]),
        ];
        let offered = filter.offer(&mut batch, at(0));
        assert_eq!(batch.len(), 1, "of the silent device nothing is left");
        (batch[0].readings.len(), offered.suppressed)
    };
    assert_eq!(offer(&mut filter), (2, 1));
    filter.take_back();
    assert_eq!(offer(&mut filter), (2, 1));
    // Nobody said what became of it: a call that was cut short.
    assert_eq!(offer(&mut filter), (2, 1));
    filter.accept();
    assert_eq!(pass(&mut filter, at(0), vec![number(3, 3.0)]).0, []);
}

#[test]
fn what_was_away_is_reported_again() {
    let mut filter = every(Strategy::OnChange(Deadband::default()));
    assert_eq!(pass(&mut filter, at(0), vec![number(0, 1.0)]).0.len(), 1);
    filter.forget(&DeviceName::try_new("d").unwrap());
    assert_eq!((filter.pairs(), filter.room.bytes), (0, 0));
    assert_eq!(pass(&mut filter, at(0), vec![number(1, 1.0)]).0.len(), 1);
    filter.forget_all();
    assert_eq!((filter.pairs(), filter.room.bytes), (0, 0));
    assert_eq!(pass(&mut filter, at(0), vec![number(2, 1.0)]).0.len(), 1);
    assert_eq!(pass(&mut filter, at(0), vec![number(3, 1.0)]).0.len(), 0);
}

#[test]
fn beyond_the_bound_readings_pass_and_are_counted_until_something_is_idle() {
    let rules = Rules::new(
        vec![Rule {
            device: Pattern::Any,
            key: Pattern::new("raw"),
            strategy: Strategy::OnReceived,
        }],
        Strategy::OnChange(Deadband::default()),
    );
    let room = DEVICE_BYTES + 1 + 3 * (PAIR_BYTES + 1);
    let mut filter = Filter::with_room(rules, room);
    let of = |key: &str| reading(key, 0, Value::Integer(1), Quality::Good);
    let keys = ["a", "b", "c", "e", "f", "raw"].map(of).to_vec();
    for (round, suppressed) in [(0, 0), (1, 3)] {
        let (passed, offered) = pass(&mut filter, at(round), keys.clone());
        assert_eq!(passed.len() as u64, 6 - suppressed);
        assert_eq!((offered.suppressed, offered.unfiltered), (suppressed, 2));
    }
    // Another device has no room at all.
    let mut batch = vec![device("other", vec![of("a")])];
    assert_eq!(filter.offer(&mut batch, at(2)).unfiltered, 1);
    filter.accept();
    // An hour later only one of them is still read; the others make room, at the latest a minute after it was missing.
    pass(&mut filter, at(3_000 * S), vec![of("a")]);
    for unfiltered in [2, 0] {
        let late = vec![of("a"), of("e"), of("f")];
        let (_, offered) = pass(&mut filter, at(3_700 * S), late);
        assert_eq!((offered.suppressed, offered.unfiltered), (1, unfiltered));
    }
    assert_eq!(filter.pairs(), 3);
}

#[test]
fn a_text_that_is_too_long_to_remember_passes_every_time() {
    let mut filter = Filter::with_room(
        Rules::new(Vec::new(), Strategy::OnChange(Deadband::default())),
        1_024,
    );
    let text = |bytes| reading("k", 0, Value::Text("x".repeat(bytes)), Quality::Good);
    for (bytes, passes, unfiltered) in [
        (10, 1, 0),
        (10, 0, 0),
        (2_000, 1, 1),
        (2_000, 1, 1),
        (9, 1, 0),
    ] {
        let (passed, offered) = pass(&mut filter, at(0), vec![text(bytes)]);
        assert_eq!(
            (passed.len(), offered.unfiltered),
            (passes, unfiltered),
            "{bytes}"
        );
    }
}
