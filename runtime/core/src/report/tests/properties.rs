//! What holds for any readings.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::strategy::Strategy as Generator;

use super::*;
use crate::report::Strategy;

/// A trace of one device with three keys: what the reference model below is asked about, too.
fn readings(in_order: bool) -> impl Generator<Value = Vec<Reading>> {
    let value = prop_oneof![
        (-4_i64..4).prop_map(Value::Integer),
        (-4_i32..4).prop_map(|n| Value::Double(f64::from(n) / 2.0)),
        any::<bool>().prop_map(Value::Boolean),
        "[ab]{0,2}".prop_map(Value::Text),
    ];
    let quality = prop_oneof![
        8 => Just(Quality::Good),
        1 => Just(Quality::Uncertain),
        1 => Just(Quality::Bad),
    ];
    let step = if in_order {
        0_i64..4_000
    } else {
        -6_000_i64..8_000
    };
    prop::collection::vec(("[abc]", step, value, quality), 0..60).prop_map(|steps| {
        let mut at_ms = 1_000_000_i64;
        steps
            .into_iter()
            .map(|(key, step, value, quality)| {
                at_ms = (at_ms + step).max(0);
                reading(&key, at_ms.unsigned_abs(), value, quality)
            })
            .collect()
    })
}

fn strategies() -> impl Generator<Value = Strategy> {
    let deadbands = (0_u8..4, 0_u8..3)
        .prop_map(|(absolute, tens)| deadband(f64::from(absolute) / 2.0, f64::from(tens) * 10.0));
    let periods = (1_u64..10).prop_map(Duration::from_secs);
    prop_oneof![
        deadbands.clone().prop_map(Strategy::OnChange),
        periods.clone().prop_map(Strategy::OnPeriod),
        (deadbands, periods).prop_map(|(band, period)| Strategy::OnChangeOrPeriod(band, period)),
    ]
}

/// All batches accepted at time zero, so that only the readings' own time counts.
fn run(filter: &mut Filter, batches: &[&[Reading]]) -> Vec<Reading> {
    let mut passed = Vec::new();
    for batch in batches {
        passed.extend(pass(filter, at(0), batch.to_vec()).0);
    }
    passed
}

fn of_key<'a>(readings: &'a [Reading], key: &str) -> Vec<&'a Reading> {
    readings.iter().filter(|r| r.key.as_str() == key).collect()
}

proptest! {
    /// Nothing is invented, changed or put in another order; how a guest cuts its readings into batches makes no
    /// difference, nor does a batch that had to be offered twice.
    #[test]
    fn a_selection_that_does_not_depend_on_batches(
        readings in readings(false),
        strategy in strategies(),
        cut in 0_usize..60,
    ) {
        let cut = cut.min(readings.len());
        let whole = run(&mut every(strategy), &[&readings]);
        let mut filter = every(strategy);
        let mut parts = run(&mut filter, &[&readings[..cut]]);
        let mut refused = vec![device("d", readings[cut..].to_vec())];
        filter.offer(&mut refused, at(0));
        filter.take_back();
        parts.extend(run(&mut filter, &[&readings[cut..]]));
        prop_assert_eq!(&whole, &parts);
        let mut left = readings.iter();
        for passed in &whole {
            prop_assert!(left.any(|reading| reading == passed), "{:?} was not received", passed);
        }
    }

    /// At each reading, the platform knows its value but for the deadband, and its quality.
    #[test]
    fn on_change_the_platform_is_never_further_off_than_the_deadband(
        readings in readings(true),
        absolute in 0_u8..4,
        percent in 0_u8..30,
    ) {
        let band = deadband(f64::from(absolute) / 2.0, percent.into());
        let mut filter = every(Strategy::OnChange(band));
        let mut known: BTreeMap<Key, Reading> = BTreeMap::new();
        for reading in readings {
            for passed in pass(&mut filter, at(0), vec![reading.clone()]).0 {
                known.insert(passed.key.clone(), passed);
            }
            let known = &known[&reading.key];
            prop_assert_eq!(known.quality, reading.quality);
            let as_number = |value: &Value| match value {
                Value::Integer(whole) => Some(*whole as f64),
                Value::Double(real) => Some(*real),
                Value::Boolean(_) | Value::Text(_) | Value::Json(_) => None,
            };
            match (as_number(&known.value), as_number(&reading.value)) {
                (Some(last), Some(this)) => {
                    let width = band.absolute.max(last.abs() * band.percent / 100.0);
                    prop_assert!((last - this).abs() <= width, "{last} {this} {width}");
                }
                (last, this) => {
                    prop_assert_eq!(last, this);
                    prop_assert_eq!(&known.value, &reading.value);
                }
            }
        }
    }

    /// Of each key at most one reading per period, and none that is a period younger than the last reported one.
    #[test]
    fn on_period_one_reading_stands_for_less_than_a_period(
        readings in readings(true),
        period_s in 1_u64..10,
    ) {
        let period_ms = period_s * S;
        let mut filter = every(Strategy::OnPeriod(Duration::from_secs(period_s)));
        let passed = run(&mut filter, &[&readings]);
        for key in ["a", "b", "c"] {
            let received = of_key(&readings, key);
            let passed = of_key(&passed, key);
            let mut periods: Vec<u64> = passed
                .iter()
                .map(|reading| (reading.timestamp.0 - received[0].timestamp.0) / period_ms)
                .collect();
            let reports = periods.len();
            periods.dedup();
            prop_assert_eq!(periods.len(), reports, "two in one period");
            for reading in received {
                let last = passed.iter().rev().find(|last| last.timestamp <= reading.timestamp);
                let age_ms = last.map(|last| reading.timestamp.0 - last.timestamp.0);
                prop_assert!(age_ms.is_some_and(|age_ms| age_ms < period_ms), "{:?}", reading);
            }
        }
    }

    /// On change or period is never less than on change, and no reading is a period younger than the last report.
    #[test]
    fn on_change_or_period_says_whatever_on_change_says_and_never_stays_silent(
        readings in readings(true),
        period_s in 1_u64..10,
    ) {
        let exact = Deadband::default();
        let change = run(&mut every(Strategy::OnChange(exact)), &[&readings]);
        let period = Duration::from_secs(period_s);
        let either = run(&mut every(Strategy::OnChangeOrPeriod(exact, period)), &[&readings]);
        let mut left = either.iter();
        for changed in &change {
            prop_assert!(left.any(|reading| reading == changed), "{:?} is missing", changed);
        }
        for reading in &readings {
            let of_key = of_key(&either, reading.key.as_str());
            let last = of_key.iter().rev().find(|last| last.timestamp <= reading.timestamp);
            let age_ms = last.map(|last| reading.timestamp.0 - last.timestamp.0);
            prop_assert!(age_ms.is_some_and(|age_ms| age_ms < period_s * S), "{:?}", reading);
        }
    }

    /// The bytes that are counted are those that are there, whatever happens, and never more than allowed.
    #[test]
    fn the_bound_holds(
        steps in prop::collection::vec(("[a-e]", readings(false), 0_u8..6), 0..12),
        bytes_max in 0_usize..4_000,
    ) {
        let rules = Rules::new(Vec::new(), Strategy::OnChange(Deadband::default()));
        let mut filter = Filter::with_room(rules, bytes_max);
        let mut now_s = 0;
        for (name, readings, then) in steps {
            now_s += 1_000;
            let mut batch = vec![device(&name, readings)];
            filter.offer(&mut batch, at(now_s * S));
            match then {
                0 => filter.take_back(),
                1 => filter.forget(&DeviceName::try_new(&name).unwrap()),
                2 => filter.forget_all(),
                // As when a call is cut short.
                3 => {}
                4.. => filter.accept(),
            }
            let there: usize = filter
                .devices
                .iter()
                .map(|(device, keys)| {
                    let pairs = keys.iter().map(|(key, pair)| pair_bytes(key, pair));
                    device_bytes(device) + pairs.sum::<usize>()
                })
                .sum();
            prop_assert_eq!(filter.room.bytes, there);
            // What was taken back had its room, even if another text has taken it meanwhile.
            prop_assert!(there <= bytes_max + 160, "{there} of {bytes_max}");
        }
    }

    #[test]
    fn a_form_matches_as_its_definition_says(form in "[ab*]{1,6}", name in "[ab]{0,6}") {
        fn defined(form: &[u8], name: &[u8]) -> bool {
            match (form.split_first(), name.split_first()) {
                (None, None) => true,
                (Some((b'*', form)), _) if defined(form, name) => true,
                (Some((b'*', _)), Some((_, name))) => defined(form, name),
                (Some((a, form)), Some((b, name))) => a == b && defined(form, name),
                (Some(_), None) | (None, Some(_)) => false,
            }
        }
        let matches = Pattern::new(&form).matches(&name);
        prop_assert_eq!(matches, defined(form.as_bytes(), name.as_bytes()));
    }
}
