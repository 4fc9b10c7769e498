//! Looks at spools that are whole, torn, rotten or at work.

use super::super::segment::DATA_START;
use super::super::sim_storage::SimStorage;
use super::super::{Lane, Limits};
use super::*;
use crate::message::{DeviceName, DeviceReadings, Key, Quality, Reading, Value};
use crate::time::TimestampMs;

const SEGMENT: u64 = 16 * 1024;
const RECORDS: i64 = 1_200;

fn uplink(number: i64) -> Uplink {
    Uplink::Telemetry(vec![DeviceReadings {
        device: DeviceName::try_new("press-1").unwrap(),
        readings: vec![
            Reading {
                key: Key::try_new("seq").unwrap(),
                value: Value::Integer(number),
                quality: Quality::Good,
                timestamp: TimestampMs(1_700_000_000_000),
            };
            2
        ],
    }])
}

type Spool = super::super::Spool<SimStorage>;

/// A directory on a tmpfs can outlive the spool it was for.
#[test]
fn the_window_of_another_spool_is_not_looked_at() {
    let of = |identity| Cursor {
        identity,
        ..Cursor::default()
    };
    let contents = |identity| Contents {
        cursor: Some((1, of(identity))),
        ..Contents::default()
    };
    assert!(contents(7).owns(&of(7)));
    assert!(!contents(7).owns(&of(8)));
    assert!(!contents(0).owns(&of(7)) && !contents(0).owns(&of(0)));
    assert!(!Contents::default().owns(&of(7)));
}

fn filled() -> (SimStorage, Spool) {
    let storage = SimStorage::new(1, 1 << 30);
    let limits = Limits::new(SEGMENT, 64 * SEGMENT, 4 * 1024).unwrap();
    let (mut spool, _) = Spool::open(storage.clone(), limits).unwrap();
    append(&mut spool, 0..RECORDS);
    spool.commit().unwrap();
    (storage, spool)
}

fn append(spool: &mut Spool, numbers: std::ops::Range<i64>) {
    let mut outcomes = Vec::new();
    spool.append(numbers.map(uplink), &mut outcomes);
    assert!(outcomes.iter().all(Result::is_ok));
}

#[derive(Debug, Default)]
struct Look {
    records: Vec<Uplink>,
    damages: Vec<(u64, Damage)>,
    torn: usize,
    cursors: usize,
    recycled: usize,
}

fn look(storage: &mut SimStorage, contents: &Contents) -> Look {
    let mut look = Look::default();
    for segment in &contents.segments {
        let HeaderRead::Whole(header) = segment.header else {
            continue;
        };
        let Some(bytes) = load(storage, segment).unwrap() else {
            look.recycled += 1;
            continue;
        };
        let unsettled = contents.unsettled();
        for found in Walk::new(header, segment.end, &unsettled, &bytes) {
            match found {
                Found::Cursor(..) => look.cursors += 1,
                Found::Record { uplink, .. } => look.records.push(uplink),
                Found::Damage(damage) => look.damages.push((segment.epoch, damage)),
                Found::Torn { .. } => look.torn += 1,
            }
        }
    }
    look
}

#[test]
fn everything_appended_is_seen_while_the_owner_works() {
    let (mut storage, mut spool) = filled();
    let contents = survey(&mut storage).unwrap();
    assert!(contents.segments.len() > 3);
    let seen = look(&mut storage, &contents);
    assert_eq!(seen.records, (0..RECORDS).map(uplink).collect::<Vec<_>>());
    assert!(seen.damages.is_empty() && seen.torn == 0, "{seen:?}");
    let mut handed = Vec::new();
    spool
        .read(Lane::Live, Sequence(0), usize::MAX, usize::MAX, &mut handed)
        .unwrap();
    assert_eq!(handed.len(), RECORDS as usize);
    spool.ack(spool.status().last);
    spool.checkpoint(true).unwrap();
    let unsettled = survey(&mut storage).unwrap().unsettled();
    assert_eq!(unsettled.acked().totals.readings, 2 * RECORDS as u64);
    append(&mut spool, 0..RECORDS);
    spool.commit().unwrap();
    // The first look is stale now: what it saw was recycled, and says nothing.
    let stale = look(&mut storage, &contents);
    assert!(
        stale.recycled > 0 && stale.damages.is_empty(),
        "{:?}",
        stale.damages
    );
}

/// Every flipped bit is found, placed, and the loss counted exactly; the newest segment's end is torn instead.
#[test]
fn a_flipped_bit_is_found_where_it_is_and_what_it_costs_is_known() {
    let (mut storage, spool) = filled();
    spool.close().unwrap();
    let contents = survey(&mut storage).unwrap();
    let last = contents.segments.len() - 1;
    let mut found = 0;
    for round in 0_u64..400 {
        let dice = round.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
        let index = (dice as usize) % contents.segments.len();
        let segment = contents.segments[index];
        let offset = DATA_START + dice % (SEGMENT - DATA_START);
        let mut file = storage.open(&segment.name()).unwrap();
        let mut byte = [0];
        storage.read_at(&mut file, offset, &mut byte).unwrap();
        let flipped = [byte[0] ^ (1 << (round % 8))];
        storage.write_at(&mut file, offset, &flipped).unwrap();
        let seen = look(&mut storage, &contents);
        storage.write_at(&mut file, offset, &byte).unwrap();
        let lost: u64 = seen.damages.iter().map(|(_, d)| d.lost.records).sum();
        let readings: u64 = seen.damages.iter().map(|(_, d)| d.lost.readings).sum();
        assert_eq!(readings, 2 * lost, "{seen:?}");
        if seen.torn == 0 {
            assert_eq!(seen.records.len() as u64 + lost, RECORDS as u64, "{round}");
        } else {
            assert_eq!(index, last, "only the newest can be torn");
        }
        for (epoch, damage) in &seen.damages {
            found += 1;
            assert_eq!(*epoch, segment.epoch);
            let place = damage.offset..damage.offset + damage.bytes;
            assert!(place.contains(&offset), "{damage:?} {offset}");
            assert!(damage.persists(&[*damage]) && !damage.persists(&[]));
            assert!(!damage.wrong.to_string().is_empty());
        }
    }
    assert!(found > 200, "{found}");
}

/// What was settled before its commit is in no segment, and missed by nobody; what is in memory only is in the journal.
#[test]
fn what_was_never_written_is_no_damage_and_the_journal_shows_what_is_in_memory() {
    let (mut storage, mut memory) = (SimStorage::new(1, 1 << 30), SimStorage::new(2, 1 << 30));
    let limits = Limits::new(SEGMENT, 64 * SEGMENT, 4 * 1024).unwrap();
    let (mut spool, _) =
        Spool::open_with(storage.clone(), Some(memory.clone()), limits, 7).unwrap();
    let mut written = 0;
    for round in 0..60 {
        append(&mut spool, round * 20..(round + 1) * 20);
        if round % 3 == 0 {
            let mut handed = Vec::new();
            spool
                .read(Lane::Live, Sequence(0), usize::MAX, usize::MAX, &mut handed)
                .unwrap();
            spool.ack(spool.status().last);
            spool.checkpoint(false).unwrap();
        } else {
            spool.commit().unwrap();
            written += 20;
        }
        let mut contents = survey(&mut storage).unwrap();
        let in_memory = journal(&mut memory).unwrap();
        if let Some((generation, cursor)) = in_memory.cursor {
            contents.adopt(generation, cursor);
        }
        let seen = look(&mut storage, &contents);
        assert!(seen.damages.is_empty() && seen.torn == 0, "{seen:?}");
        let waiting = spool.status().depth_records;
        let unsettled = contents.unsettled();
        let waits = |position: &Position| unsettled.index_of(position.sequence).is_some();
        let on_disk = waiting_on_disk(&mut storage, &contents);
        let newest = on_disk.last().copied().unwrap_or_default();
        let only_there = in_memory.records.iter().map(|(position, _)| position);
        let more = only_there
            .filter(|position| waits(position) && position.sequence > newest.sequence)
            .count();
        assert_eq!(on_disk.len() + more, waiting as usize, "round {round}");
    }
    let contents = survey(&mut storage).unwrap();
    let seen = look(&mut storage, &contents);
    assert!(seen.records.len() <= written, "{}", seen.records.len());
}

fn waiting_on_disk(storage: &mut SimStorage, contents: &Contents) -> Vec<Position> {
    let unsettled = contents.unsettled();
    let mut waiting = Vec::new();
    for segment in &contents.segments {
        let (HeaderRead::Whole(header), Some(bytes)) =
            (segment.header, load(storage, segment).unwrap())
        else {
            continue;
        };
        let walk = Walk::new(header, segment.end, &unsettled, &bytes);
        waiting.extend(walk.filter_map(|found| match found {
            Found::Record { position, .. } => Some(position),
            Found::Cursor(..) | Found::Damage(_) | Found::Torn { .. } => None,
        }));
    }
    waiting.retain(|position| unsettled.index_of(position.sequence).is_some());
    waiting
}

#[test]
fn no_payload_leads_the_search_astray() {
    const LARGE: u64 = 256 * 1024;
    let mut storage = SimStorage::new(1, 1 << 30);
    let limits = Limits::new(LARGE, 8 * LARGE, 4 * 1024).unwrap();
    let (mut spool, _) = Spool::open(storage.clone(), limits).unwrap();
    let words = |seed: u64| -> String {
        let noise = (0..400_u64).map(|n| (seed + n).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        noise.map(|word| format!("{word:x}")).collect()
    };
    let mut outcomes = Vec::new();
    let letters = (0..30).map(|seed| Uplink::Letter {
        topic: "t".to_owned(),
        payload: words(seed),
        readings: 1,
    });
    spool.append(letters, &mut outcomes);
    spool.commit().unwrap();
    let contents = survey(&mut storage).unwrap();
    let unsettled = contents.unsettled();
    let segment = contents.segments[0];
    let HeaderRead::Whole(header) = segment.header else {
        panic!("{segment:?}")
    };
    let mut bytes = load(&mut storage, &segment).unwrap().unwrap();
    bytes[100_000] ^= 0x40;
    let found: Vec<_> = Walk::new(header, segment.end, &unsettled, &bytes).collect();
    let damaged = found
        .iter()
        .filter(|found| matches!(found, Found::Damage(_)));
    assert_eq!(damaged.count(), 1);
    let records = found
        .iter()
        .filter(|found| matches!(found, Found::Record { .. }));
    assert_eq!(records.count(), 29);
}
