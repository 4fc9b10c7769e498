//! Names of publishes, and that the same messages get the same ones again.

use super::*;
use crate::identity::Grouping;
use crate::message::StreamId;

fn readings(count: u64) -> Uplink {
    let readings = (0..count).map(|ms| reading("k", Value::Integer(1), ms));
    telemetry("A", readings.collect())
}

fn names(encoded: &Encoded) -> Vec<String> {
    let names = encoded.publishes.iter().map(|publish| publish.identity);
    names
        .map(|identity| identity.expect("a name").to_string())
        .collect()
}

#[test]
fn a_name_says_what_is_inside() {
    // Four readings fill a publish.
    let uplinks = [readings(2), readings(6), readings(1), readings(0)];
    let encoded = encode(&uplinks, 48 + 6 + 4 * 30);
    assert_eq!(names(&encoded), ["1-2.2", "2.2-2", "3-4"]);
    let attributes = Uplink::Attributes {
        device: device("A"),
        values: Vec::new(),
    };
    let encoded = encode(&[readings(1), attributes, readings(1)], 1024);
    assert_eq!(names(&encoded), ["1-1", "2-2", "3-3"]);
}

#[test]
fn what_has_nothing_in_common_shares_no_publish() {
    let mut encoder = Encoder::new(1024);
    let backlog = Run {
        qos: Qos::ExactlyOnce,
        historical: true,
        stream: StreamId(3),
    };
    let place = |turn, sequence| Place {
        turn: Sequence(turn),
        sequence: Sequence(sequence),
    };
    encoder.push(place(1, 100), &readings(1));
    encoder.push(place(2, 101), &readings(1));
    encoder.begin(backlog);
    encoder.push(place(3, 7), &readings(1));
    encoder.begin(backlog);
    encoder.push(place(4, 8), &readings(1));
    // A gap in the stream, and a step back.
    encoder.push(place(5, 10), &readings(1));
    encoder.push(place(6, 9), &readings(1));
    let encoded = encoder.finish();
    assert_eq!(names(&encoded), ["100-101", "7-8", "10-10", "9-9"]);
    let kinds: Vec<_> = encoded
        .publishes
        .iter()
        .map(|publish| {
            let identity = publish.identity.unwrap();
            (publish.qos, identity.historical, identity.stream.0)
        })
        .collect();
    assert_eq!(kinds[0], (Qos::AtLeastOnce, false, 0));
    assert!(
        kinds[1..]
            .iter()
            .all(|&kind| kind == (Qos::ExactlyOnce, true, 3))
    );
    let turns: Vec<_> = encoded
        .publishes
        .iter()
        .map(|publish| publish.range.unwrap())
        .collect();
    assert_eq!((turns[1].first, turns[1].last), (Sequence(3), Sequence(4)));
}

fn named(encoded: &Encoded) -> Vec<(String, Vec<u8>)> {
    let payloads = encoded
        .publishes
        .iter()
        .map(|publish| publish.payload.clone());
    names(encoded).into_iter().zip(payloads).collect()
}

proptest! {
    /// Sessions read the same messages in other portions, and more of them each time; what begins after the cursor keeps
    /// its name and its content.
    #[test]
    fn the_same_messages_are_grouped_again_as_before(
        records in prop::collection::vec(any_record(), 2..20),
        first_read in 1_usize..10,
        cut in 0_usize..6,
        limit in 200_usize..900,
    ) {
        let first_read = first_read.min(records.len());
        let mut grouping = Grouping::default();
        let before = encode(&records[..first_read], limit);
        for publish in &before.publishes {
            let (begins, ends) = publish.bounds().unwrap();
            grouping.note(begins, ends);
        }
        // The publishes before the cut are acknowledged, as far as their messages are whole.
        let cut = cut.min(before.publishes.len());
        let left = &before.publishes[cut..];
        let cursor = left.first().map_or(first_read as u64, |publish| publish.range.unwrap().first.0 - 1);
        grouping.settled(Sequence(cursor));
        let mut encoder = Encoder::new(limit);
        encoder.keep_grouping(grouping.after(Sequence(cursor)));
        for (index, uplink) in records.iter().enumerate().skip(usize::try_from(cursor).unwrap()) {
            encoder.push(Sequence(index as u64 + 1), uplink);
        }
        let again = named(&encoder.finish());
        let first_whole = before.publishes.iter().position(|publish| {
            let range = publish.range.unwrap();
            range.first.0 > cursor
        });
        let Some(first_whole) = first_whole else { return Ok(()); };
        let expected = &named(&before)[first_whole..];
        // A message whose beginning is acknowledged goes again from its start.
        let news = usize::from(!again.starts_with(expected));
        prop_assert!(again[news..].starts_with(expected), "{again:?}\n{expected:?}");
    }
}
