//! The spool against a model: random work, random faults, crashes and power cuts on the simulated storage. The oracle:
//! every accepted and synced record is read back in order, nothing is invented, and every reading is accounted for.

use std::collections::{BTreeMap, BTreeSet};

use super::super::cursor::CursorFound;
use super::super::sim_storage::{Operation, SimStorage};
use super::super::storage::StorageError;
use super::super::{Full, Lane, Limits, Record, Refused, Spool, Totals};
use super::{telemetry, text};
use crate::message::{Sequence, Uplink, Value};

const STEPS: u64 = 300;
/// Built with `MOORLINE_MODEL_SEEDS` in the environment it runs so many, with `MOORLINE_MODEL_SEED` one of them.
const SEEDS: u64 = 100;
const CAPACITY: u64 = 1 << 24;
const BYTES_MAX: u64 = 96 * 1024;

/// What a seed is run with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weather {
    /// Crashes and power cuts only.
    Crashes,
    /// And a storage that fails or is full.
    Faults,
    /// And bits that flip, for which only what is read can be checked.
    Rot,
}

fn uplink(id: u64) -> Uplink {
    match id % 7 {
        0 => text(id, (id % 3000) as usize),
        readings => telemetry(id as i64, readings as usize),
    }
}

fn id_of(uplink: &Uplink) -> u64 {
    match uplink {
        Uplink::Telemetry(devices) => match devices[0].readings[0].value {
            Value::Integer(id) => id as u64,
            Value::Boolean(_) | Value::Double(_) | Value::Text(_) | Value::Json(_) => {
                panic!("{uplink:?}")
            }
        },
        Uplink::RpcReply { request_id, .. } => *request_id,
        Uplink::Attributes { .. }
        | Uplink::DeviceConnected { .. }
        | Uplink::DeviceDisconnected { .. }
        | Uplink::Gateway { .. }
        | Uplink::GatewayAttributes { .. }
        | Uplink::Letter { .. } => {
            panic!("never appended: {uplink:?}")
        }
    }
}

struct Model {
    storage: SimStorage,
    /// What outlives the process but not the power.
    journal: Option<SimStorage>,
    limits: Limits,
    spool: Spool<SimStorage>,
    weather: Weather,
    random: u64,
    next_id: u64,
    /// What was accepted, by sequence.
    accepted: BTreeMap<Sequence, u64>,
    /// Refused by the storage: may be found after a crash, or not.
    refused: BTreeSet<u64>,
    /// Accepted, not synced, and gone with a power cut while later ones stayed. The counts know them.
    lost: BTreeSet<Sequence>,
    /// Those among them that went with evicted ones before them: how many a gap holds is known, and not where they lay.
    counted_early: BTreeSet<Sequence>,
    /// Refusals happened, so a hole may hold records nobody was promised.
    holes: bool,
    highest: Sequence,
    /// Handed out in this life, not settled.
    handed: BTreeMap<Sequence, Totals>,
    /// Handed out in this life, and given up since.
    in_flight: BTreeMap<Sequence, Totals>,
    /// Settled by acknowledgement in this life, and before it.
    acknowledged: Totals,
    /// Given up before they got a place.
    dropped: Totals,
    /// The newest record when a window was last closed.
    mark: Sequence,
    /// Rot took the cursor, and with it what the counts began with.
    forgot: bool,
}

fn open(
    storage: &SimStorage,
    journal: Option<&SimStorage>,
    limits: Limits,
) -> (Spool<SimStorage>, CursorFound) {
    // A failing storage may refuse the start, and so may a full one where there is nothing yet: see the tests of
    // `absent` for what a gateway does until somebody makes room.
    for _ in 0..2 {
        match Spool::open_with(storage.clone(), journal.cloned(), limits, 77) {
            Ok((spool, recovery)) => return (spool, recovery.cursor),
            Err(error) => {
                let segments = storage
                    .files()
                    .into_iter()
                    .filter(|file| file.name.starts_with("segment"));
                assert!(
                    error != StorageError::Full || segments.count() == 0,
                    "records on a full storage are out of reach"
                );
                storage.heal();
                storage.set_capacity(CAPACITY);
            }
        }
    }
    panic!("the start is refused although nothing fails");
}

impl Model {
    fn new(seed: u64, weather: Weather) -> Self {
        let storage = SimStorage::new(seed, CAPACITY);
        let journal = (seed % 2 == 1).then(|| SimStorage::new(seed, CAPACITY));
        let full = if seed % 5 == 4 {
            Full::DropNewest
        } else {
            Full::DropOldest
        };
        let limits = Limits::new(16 * 1024, BYTES_MAX, 3000)
            .unwrap()
            .in_memory(20_000)
            .when_full(full);
        let (spool, _) = open(&storage, journal.as_ref(), limits);
        Self {
            storage,
            journal,
            limits,
            spool,
            weather,
            random: seed ^ 0x5eed,
            next_id: 1,
            accepted: BTreeMap::new(),
            refused: BTreeSet::new(),
            lost: BTreeSet::new(),
            counted_early: BTreeSet::new(),
            holes: false,
            highest: Sequence(0),
            handed: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            acknowledged: Totals::default(),
            dropped: Totals::default(),
            mark: Sequence(0),
            forgot: false,
        }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below
    }

    fn step(&mut self) {
        match self.random(100) {
            0..=36 => self.append(),
            37..=39 => self.divide(),
            40..=44 => {
                let committed = self.spool.commit();
                assert!(committed.is_err() || !self.spool.wants_commit());
                assert!(committed.is_ok() || self.may_fail());
            }
            45..=49 => {
                let mark = std::mem::replace(&mut self.mark, self.spool.status().last);
                let committed = self.spool.commit_through(mark);
                assert!(committed.is_ok() || self.may_fail());
            }
            50..=69 => self.read(),
            70..=79 => self.ack(),
            80..=84 => {
                let durable = self.random(2) == 0;
                let written = self.spool.checkpoint(durable);
                assert!(written.is_ok() || self.may_fail());
            }
            85..=88 => {
                let prepared = self.spool.prepare();
                assert!(prepared.is_ok() || self.may_fail());
            }
            89 => {
                let lane = self.lane();
                let from = Sequence(self.random(self.highest.0 + 1));
                let spool = &self.spool;
                self.handed.retain(|sequence, _| {
                    spool.lane_of(*sequence) != Some(lane) || *sequence <= from
                });
                // A read of nothing: the spool forgets what it had handed out since.
                let after = self.after(lane);
                let read = self.spool.read(lane, after, 0, 0, &mut Vec::new());
                assert!(read.is_ok() || self.may_fail());
            }
            90..=94 if self.weather != Weather::Crashes => self.misfortune(),
            95..=96 => self.crash(),
            97 if self.weather == Weather::Rot => self.rot(),
            98 => {
                self.spool.rewind();
                self.handed.clear();
                self.in_flight.clear();
            }
            _ => {}
        }
        self.follow_eviction();
        self.check();
    }

    /// A spool that keeps what it has cannot write when that is all it may hold.
    fn may_fail(&self) -> bool {
        self.weather != Weather::Crashes || self.spool.status().kept_full
    }

    fn lane(&mut self) -> Lane {
        let lanes: Vec<_> = self.spool.lanes().map(|(lane, _)| lane).collect();
        lanes[self.random(lanes.len() as u64) as usize]
    }

    fn divide(&mut self) {
        if self.random(2) == 0 {
            self.spool.divide();
        } else {
            let lane = self.lane();
            self.spool.divide_backlog(lane);
        }
    }

    fn append(&mut self) {
        let count = 1 + self.random(20);
        let ids: Vec<_> = (self.next_id..self.next_id + count).collect();
        self.next_id += count;
        let before = self.spool.status();
        let waited = self.spool.cursor.state.unsettled.clone();
        let mut outcomes = Vec::new();
        self.spool
            .append(ids.iter().map(|id| uplink(*id)), &mut outcomes);
        assert_eq!(outcomes.len(), ids.len());
        let mut dropped = Totals::default();
        for (id, outcome) in ids.into_iter().zip(outcomes) {
            match outcome {
                Ok(sequence) => {
                    // Rot may take all memory of the highest number along.
                    let rotten = self.weather == Weather::Rot;
                    assert!(
                        sequence > self.highest || rotten,
                        "{sequence:?} was given out before"
                    );
                    self.highest = sequence;
                    self.accepted.insert(sequence, id);
                }
                Err(Refused::Storage(_)) => {
                    assert!(self.weather != Weather::Crashes, "refused without a reason");
                    self.refused.insert(id);
                    self.holes = true;
                }
                Err(Refused::Dropped) => {
                    assert_eq!(self.limits.full, Full::DropNewest);
                    dropped = dropped.plus(one(id));
                }
                Err(Refused::TooLarge) => panic!("{id} is not large"),
            }
        }
        self.dropped = self.dropped.plus(dropped);
        let after = self.spool.status();
        let evicted = after.evicted.since(before.evicted);
        let gone = self.accepted.iter().filter(|(sequence, _)| {
            !self.handed.contains_key(sequence)
                && !self.counted_early.contains(sequence)
                && waited.index_of(**sequence).is_some()
                && self.spool.lane_of(**sequence).is_none()
        });
        let (mut expected, mut newest) = (dropped, None);
        for (sequence, id) in gone {
            expected = expected.plus(one(*id));
            newest = Some(sequence.next());
        }
        let behind = newest
            .into_iter()
            .flat_map(|next| self.accepted.range(next..));
        let gap: Vec<_> = behind
            .take_while(|(sequence, _)| self.lost.contains(sequence))
            .map(|(sequence, id)| (*sequence, one(*id)))
            .collect();
        let with_gap = gap.iter().fold(expected, |sum, (_, one)| sum.plus(*one));
        if evicted == with_gap {
            expected = with_gap;
            self.counted_early
                .extend(gap.iter().map(|(sequence, _)| *sequence));
        }
        if self.weather != Weather::Rot && !self.holes {
            assert_eq!(
                evicted, expected,
                "every evicted reading is counted, and no other"
            );
        }
    }

    /// Whatever commits may evict, too.
    fn follow_eviction(&mut self) {
        let spool = &self.spool;
        let gone = self
            .handed
            .extract_if(.., |sequence, _| spool.lane_of(*sequence).is_none());
        self.in_flight.extend(gone);
    }

    fn after(&self, lane: Lane) -> Sequence {
        let mut handed = self.handed.keys().rev();
        handed
            .find(|sequence| self.spool.lane_of(**sequence) == Some(lane))
            .copied()
            .unwrap_or_default()
    }

    fn read(&mut self) {
        let lane = self.lane();
        self.read_lane(lane);
    }

    fn read_lane(&mut self, lane: Lane) {
        let (bytes, records) = (self.random(3000) as usize, 1 + self.random(40) as usize);
        let mut found = Vec::new();
        let after = self.after(lane);
        if self
            .spool
            .read(lane, after, bytes, records, &mut found)
            .is_err()
        {
            assert!(self.weather != Weather::Crashes);
            return;
        }
        assert!(found.len() <= records);
        self.verify(&found, after);
        for record in &found {
            self.handed
                .insert(record.sequence, one(id_of(&record.uplink)));
        }
    }

    /// Strictly in order, and nothing that was not appended.
    fn verify(&self, found: &[Record], mut after: Sequence) {
        for record in found {
            assert!(
                record.sequence > after,
                "{:?} after {after:?}",
                record.sequence
            );
            after = record.sequence;
            let id = id_of(&record.uplink);
            assert_eq!(record.uplink, uplink(id));
            if self.weather == Weather::Rot {
                assert!(id < self.next_id, "{record:?} was never appended");
                continue;
            }
            match self.accepted.get(&record.sequence) {
                Some(accepted) => assert_eq!(*accepted, id),
                None => assert!(self.refused.contains(&id), "{record:?} was never appended"),
            }
        }
    }

    fn ack(&mut self) {
        let nth = self.random(30) as usize;
        if let Some(sequence) = self.in_flight.keys().nth(nth).copied()
            && let Some(one) = self.in_flight.remove(&sequence)
        {
            self.spool.ack(sequence);
            self.acknowledged = self.acknowledged.plus(one);
        }
        let Some(through) = self.handed.keys().nth(nth).copied() else {
            return;
        };
        let lane = self.spool.lane_of(through);
        let settled: Vec<_> = self
            .handed
            .range(..=through)
            .filter(|(sequence, _)| self.spool.lane_of(**sequence) == lane)
            .map(|(sequence, one)| (*sequence, *one))
            .collect();
        self.spool.ack(through);
        for (sequence, one) in settled {
            self.handed.remove(&sequence);
            self.acknowledged = self.acknowledged.plus(one);
        }
    }

    fn misfortune(&mut self) {
        let times = 1 + self.random(3) as u32;
        let error = StorageError::Fault(5);
        match self.random(6) {
            0 => self.storage.fail(Operation::Write, times, error),
            // Reads that stay broken cost records: that is for the rotten runs.
            1 if self.weather == Weather::Rot => {
                self.storage.fail(Operation::Read, 10 * times, error)
            }
            1 => self.storage.fail(Operation::Read, 1, error),
            2 => self.storage.fail(Operation::Sync, times, error),
            3 => self.storage.fail(Operation::Names, times, error),
            4 => {
                let capacity = self.random(BYTES_MAX);
                self.storage.set_capacity(capacity);
            }
            _ => {
                self.storage.heal();
                self.storage.set_capacity(CAPACITY);
            }
        }
    }

    fn rot(&mut self) {
        let files = self.storage.files();
        if files.is_empty() {
            return;
        }
        let file = &files[self.random(files.len() as u64) as usize];
        let offset = self.random(file.bytes + 1) as usize;
        let bit = self.random(8) as u8;
        self.storage.rot(&file.name, offset, bit);
    }

    /// The process ends, with or without a word, and with or without power.
    fn crash(&mut self) {
        let before = self.spool.status();
        let waited = self.spool.cursor.state.unsettled.clone();
        let mut marked = self.spool.cursor.poison_is_marked();
        let poisoned = self.poisoned_from();
        let how = self.random(5);
        let storage = self.storage.clone();
        if how == 0 {
            let (spare, _) = Spool::open(
                SimStorage::new(0, CAPACITY),
                Limits::new(0, BYTES_MAX, 0).unwrap(),
            )
            .unwrap();
            let closed = std::mem::replace(&mut self.spool, spare).close();
            assert!(closed.is_ok() || self.weather != Weather::Crashes);
            marked &= closed.is_ok();
        } else if how <= 2 {
            storage.cut_power();
            if let Some(journal) = &self.journal {
                journal.wipe();
            }
        }
        self.start(before.evicted);
        let status = self.spool.status();
        if self.weather == Weather::Rot {
            return;
        }
        // What is given up of memory, or before it gets a place, is written down but not synced.
        let power_cut = how == 1 || how == 2;
        let synced = self.weather == Weather::Crashes && self.limits.full == Full::DropOldest;
        assert!(
            status.evicted.readings >= before.evicted.readings
                || (power_cut && !synced)
                || self.weather == Weather::Faults,
            "evictions are not forgotten"
        );
        let promised = if how == 1 || how == 2 {
            before.synced
        } else {
            before.kept
        };
        // A close may have to give up the oldest segment for its last commit, and a start counts what it does not find.
        let evicted = status.evicted != before.evicted;
        let still_waits = self.spool.cursor.state.unsettled.clone();
        let found = self.read_everything();
        let sequences: BTreeSet<_> = found.iter().map(|record| record.sequence).collect();
        let waits = |sequence: &Sequence| {
            waited.index_of(*sequence).is_some()
                && (still_waits.index_of(*sequence).is_some() || !evicted)
                && *sequence <= promised
        };
        self.look_for(&sequences, waits, how);
        if !marked {
            // A sync failed and not even that could be written down: what the page cache says now may be all there is, of
            // that segment from its start on. What was given up of memory since has moved `synced` past it.
            let proven = poisoned.map_or(before.synced, |start| start.min(before.synced));
            let unproven = self.accepted.range(proven.next()..);
            self.lost.extend(unproven.map(|(sequence, _)| *sequence));
        }
        for record in found {
            self.accepted.insert(record.sequence, id_of(&record.uplink));
        }
        // What was cut off at the end is not part of the spool any more; what is missing in the middle is a hole.
        self.accepted.retain(|sequence, _| *sequence <= status.last);
    }

    /// The next life begins, with what it knows.
    fn start(&mut self, evicted_before: Totals) {
        let found;
        (self.spool, found) = open(&self.storage, self.journal.as_ref(), self.limits);
        self.forgot |= found == CursorFound::Lost;
        self.storage.heal();
        let status = self.spool.status();
        if self.weather == Weather::Faults {
            // Numbers that could not be reserved are forgotten with the process that gave them out.
            self.highest = status.last;
        }
        if status.evicted.records < evicted_before.records {
            self.counted_early.clear();
        }
        self.handed.clear();
        self.in_flight.clear();
        self.mark = status.last;
        self.acknowledged = settled(&status).since(status.evicted).since(status.damaged);
    }

    /// Before the records of the segment on which a sync failed.
    fn poisoned_from(&self) -> Option<Sequence> {
        let epoch = self.spool.cursor.state.poisoned_epoch;
        let mut segments = self.spool.segments.iter();
        let poisoned = segments.find(|segment| segment.header.epoch == epoch)?;
        Some(poisoned.header.start.sequence)
    }

    /// What was acknowledged is not promised any more, but with power its acknowledgement may be forgotten, too.
    fn look_for(
        &mut self,
        found: &BTreeSet<Sequence>,
        waits: impl Fn(&Sequence) -> bool,
        how: u64,
    ) {
        for (sequence, id) in &self.accepted {
            let promised = waits(sequence) && !self.lost.contains(sequence);
            assert!(
                found.contains(sequence) || !promised,
                "{sequence:?} (id {id}) was promised and is gone, how {how}"
            );
            if !found.contains(sequence) {
                self.lost.insert(*sequence);
            }
        }
    }

    /// Reads each lane to its end, and then again from its start, as a link does after a new session.
    fn read_everything(&mut self) -> Vec<Record> {
        let mut found: Vec<Record> = Vec::new();
        let lanes: Vec<_> = self.spool.lanes().map(|(lane, _)| lane).collect();
        for lane in lanes {
            let mut in_lane: Vec<Record> = Vec::new();
            loop {
                let after = in_lane.last().map_or(Sequence(0), |record| record.sequence);
                let already = in_lane.len();
                self.spool
                    .read(lane, after, 5000, 50, &mut in_lane)
                    .unwrap();
                if in_lane.len() == already {
                    break;
                }
            }
            self.verify(&in_lane, Sequence(0));
            found.extend(in_lane);
            let mut again = Vec::new();
            self.spool
                .read(lane, Sequence(0), 0, 1, &mut again)
                .unwrap();
            for record in again {
                self.handed
                    .insert(record.sequence, one(id_of(&record.uplink)));
            }
        }
        found
    }

    fn check(&self) {
        let status = self.spool.status();
        assert!(status.acked <= status.last && status.synced <= status.last);
        let files: u64 = self.storage.files().iter().map(|file| file.bytes).sum();
        if self.weather == Weather::Crashes {
            assert!(
                files <= BYTES_MAX + 2 * 8192,
                "{files} bytes in {:?}",
                self.storage.files()
            );
        }
        assert!(
            status.bytes <= BYTES_MAX,
            "{status:?} {:?}",
            self.storage.files()
        );
        let expected = self.acknowledged.plus(status.evicted).plus(status.damaged);
        assert!(
            settled(&status) == expected || self.forgot,
            "acknowledged, evicted or damaged: {status:?}"
        );
    }
}

fn one(id: u64) -> Totals {
    Totals {
        records: 1,
        readings: uplink(id).readings(),
    }
}

fn settled(status: &super::super::Status) -> Totals {
    status.appended.since(Totals {
        records: status.depth_records,
        readings: status.depth_readings,
    })
}

fn run(seed: u64, weather: Weather) {
    let mut model = Model::new(seed, weather);
    for _ in 0..STEPS {
        model.step();
    }
    // Heal, and everything flows again.
    model.storage.heal();
    model.storage.set_capacity(CAPACITY);
    model.spool.prepare().unwrap();
    model.append();
    model.follow_eviction();
    loop {
        let lanes: Vec<_> = model.spool.lanes().collect();
        if lanes.iter().all(|(_, waiting)| waiting.records == 0) {
            break;
        }
        for (lane, _) in lanes {
            model.read_lane(lane);
        }
        for _ in 0..30 {
            model.ack();
        }
    }
    model.spool.rewind();
    model.spool.commit().unwrap();
    model.spool.checkpoint(true).unwrap();
    model.check();
    let status = model.spool.status();
    assert_eq!((status.depth_records, status.depth_readings), (0, 0));
    if weather == Weather::Crashes {
        assert_eq!(model.storage.syncs_after_failure(), 0);
    }
}

fn run_all(seeds: std::ops::Range<u64>, weather: Weather) {
    let number = |text: Option<&str>| text.and_then(|text| text.parse().ok());
    let only: Option<u64> = number(option_env!("MOORLINE_MODEL_SEED"));
    let extended: Option<u64> = number(option_env!("MOORLINE_MODEL_SEEDS"));
    let seeds = 0..extended.unwrap_or(seeds.end);
    let seeds = seeds.filter(|seed| only.is_none_or(|only| only == *seed));
    let failed: Vec<_> = seeds
        .filter(|seed| std::panic::catch_unwind(|| run(*seed, weather)).is_err())
        .collect();
    assert!(failed.is_empty(), "seeds that fail: {failed:?}");
}

#[test]
fn nothing_is_lost_by_crashes_and_power_cuts() {
    run_all(0..SEEDS, Weather::Crashes);
}

#[test]
fn nothing_is_lost_on_a_failing_or_full_storage() {
    run_all(0..SEEDS, Weather::Faults);
}

#[test]
fn rot_invents_nothing_and_is_accounted_for() {
    run_all(0..SEEDS, Weather::Rot);
}
