use std::collections::BTreeMap;

use moorline_plugin_sdk::FakeHost;

use super::*;

fn by_device(host: &FakeHost) -> BTreeMap<String, Vec<i64>> {
    let mut values: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for device in host.emitted.iter().flatten() {
        for reading in &device.readings {
            let Value::Integer(value) = reading.value else {
                panic!("{reading:?}")
            };
            values.entry(device.device.clone()).or_default().push(value);
        }
    }
    values
}

fn start(host: &mut FakeHost, hand_over: Option<HandOver>) -> Simulated {
    let mut setup = FakeHost::setup(r#"{"devices":3,"readings_per_second":100}"#);
    setup.hand_over = hand_over;
    Simulated::start(setup, host).unwrap().0
}

#[test]
fn every_device_counts_by_one_through_back_pressure_and_a_swap() {
    let mut host = FakeHost::default();
    let mut guest = start(&mut host, None);
    for round in 0..20 {
        host.advance(73.0);
        if round % 3 == 0 {
            host.emit_answers
                .push_back(Err(EmitError::BackPressure(20)));
        }
        let wake = guest.handle(Event::Timer, &mut host).unwrap();
        if round % 3 == 0 {
            assert_eq!(wake, Some(Duration::from_millis(20)), "as the host asks");
        }
        if round == 10 {
            let hand_over = guest.stop(&mut host);
            guest = start(&mut host, Some(hand_over));
        }
    }
    host.advance(1.0);
    guest.handle(Event::Timer, &mut host).unwrap();
    let values = by_device(&host);
    assert_eq!(values.len(), 3);
    for list in values.values() {
        let expected: Vec<i64> = (1..=list.len() as i64).map(|n| RUN_SPAN + n).collect();
        assert_eq!(*list, expected);
    }
    let total: usize = values.values().map(Vec::len).sum();
    assert!(
        (140..=147).contains(&total),
        "{total} readings in 1.46 s at 100/s"
    );
}

#[test]
fn a_batch_that_met_back_pressure_is_offered_again_as_it_was() {
    let mut host = FakeHost::default();
    let mut guest = start(&mut host, None);
    host.advance(100.0);
    guest.handle(Event::Timer, &mut host).unwrap();
    host.advance(70.0);
    let expected = guest.due(&mut host).map(|offer| guest.batch(offer));
    host.emit_answers
        .push_back(Err(EmitError::BackPressure(150)));
    guest.handle(Event::Timer, &mut host).unwrap();
    // Time passes and another generation comes: more is due by now, and the batch is what it was.
    host.advance(150.0);
    host.emit_answers
        .push_back(Err(EmitError::BackPressure(150)));
    guest.handle(Event::Timer, &mut host).unwrap();
    let hand_over = guest.stop(&mut host);
    let mut guest = start(&mut host, Some(hand_over));
    host.advance(150.0);
    let wake = guest.handle(Event::Timer, &mut host).unwrap();
    assert_eq!(host.emitted.last(), expected.as_ref());
    assert_eq!(wake, Some(Duration::from_millis(1)), "the rest is due");
}

#[test]
fn the_hand_over_of_a_build_that_kept_no_batch_is_taken() {
    let mut host = FakeHost::default();
    let hand_over = HandOver {
        schema: SCHEMA,
        bytes: br#"{"run":7,"counts":[4,4,3],"turn":2,"made_until_ms":0.0}"#.to_vec(),
    };
    let mut guest = start(&mut host, Some(hand_over));
    host.advance(100.0);
    guest.handle(Event::Timer, &mut host).unwrap();
    let first = &host.emitted.last().unwrap()[0];
    assert_eq!(first.device, "sim-2");
    assert_eq!(first.readings[0].value, Value::Integer(7 * RUN_SPAN + 4));
}

#[test]
fn a_start_without_hand_over_begins_a_new_run() {
    let mut host = FakeHost::default();
    for run in 1..=2 {
        let mut guest = start(&mut host, None);
        host.advance(100.0);
        guest.handle(Event::Timer, &mut host).unwrap();
        let first = &host.emitted.last().unwrap()[0].readings[0];
        assert_eq!(first.value, Value::Integer(run * RUN_SPAN + 1));
    }
}

#[test]
fn no_more_readings_are_made_than_the_most() {
    let mut host = FakeHost::default();
    let setup = FakeHost::setup(r#"{"devices":3,"readings_per_second":100,"readings_max":50}"#);
    let mut guest = Simulated::start(setup, &mut host).unwrap().0;
    let mut wake = guest.period();
    for _ in 0..20 {
        host.advance(100.0);
        wake = guest.handle(Event::Timer, &mut host).unwrap();
    }
    assert_eq!(wake, None, "there is nothing to do any more");
    let total: usize = by_device(&host).values().map(Vec::len).sum();
    assert_eq!(total, 50);
}

#[test]
fn nonsense_is_refused_with_its_reason() {
    let mut host = FakeHost::default();
    let refusal = |configuration: &str, host: &mut FakeHost| match Simulated::start(
        FakeHost::setup(configuration),
        host,
    ) {
        Err(Fault::Configuration(why)) => why,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("accepted {configuration}"),
    };
    assert!(refusal(r#"{"devics":3}"#, &mut host).contains("unknown field `devics`"));
    assert!(refusal(r#"{"devices":0}"#, &mut host).contains("between 1 and 10000"));
    assert!(refusal(r#"{"readings_per_second":-1}"#, &mut host).contains("above 0"));
}
