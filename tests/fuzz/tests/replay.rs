//! The corpus, its mutations, and noise: what a fuzzer found once is tried at each run, and a little more.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};

use moorline_core::message::{DeviceName, DeviceReadings, Key, Quality, Reading, Uplink, Value};
use moorline_core::spool::sim_storage::SimStorage;
use moorline_core::spool::storage::Storage;
use moorline_core::spool::{Limits, Spool};
use moorline_core::time::TimestampMs;
use moorline_fuzz::{FILE_NAMES, PROPERTIES, Property};

/// Mutations of each seed, and rounds of noise.
const ROUNDS: u64 = 3_000;
const NOISE_BYTES_MAX: u64 = 300;

/// splitmix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % (bound.max(1) as u64)).unwrap()
    }
}

fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(name);
    let mut seeds: Vec<_> = std::fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(&path).unwrap()))
        .collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "{} is empty", directory.display());
    seeds
}

/// A few bytes flipped, cut, repeated or put in.
fn mutate(seed: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len());
        match dice.below(5) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, u8::try_from(dice.below(256)).unwrap()),
            2 if !bytes.is_empty() => bytes[at] ^= 1 << dice.below(8),
            3 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][dice.below(5)],
            _ => {
                let end = at + dice.below(bytes.len() - at + 1);
                bytes.extend_from_within(at..end);
            }
        }
    }
    bytes
}

/// Fails with the bytes, as a file a fuzzer takes.
fn hold(name: &str, property: Property, data: &[u8]) {
    if std::panic::catch_unwind(|| property(data)).is_err() {
        let file = std::env::temp_dir().join(format!("moorline-{name}-{}", std::process::id()));
        std::fs::write(&file, data).unwrap();
        panic!("{name} does not hold for the bytes in {}", file.display());
    }
}

fn replay(name: &str) {
    let (_, property) = PROPERTIES
        .into_iter()
        .find(|(known, _)| *known == name)
        .unwrap();
    let mut dice = Dice(0);
    for (_, seed) in corpus(name) {
        hold(name, property, &seed);
        for _ in 0..ROUNDS / 10 {
            hold(name, property, &mutate(&seed, &mut dice));
        }
    }
    for _ in 0..ROUNDS {
        let length = dice.below(usize::try_from(NOISE_BYTES_MAX).unwrap());
        let noise: Vec<u8> = (0..length)
            .map(|_| u8::try_from(dice.below(256)).unwrap())
            .collect();
        hold(name, property, &noise);
    }
}

#[test]
fn a_brokers_bytes() {
    replay("mqtt_stream");
}

#[test]
fn a_platforms_messages() {
    replay("thingsboard");
}

#[test]
fn a_kernels_words() {
    replay("rtnetlink");
}

#[test]
fn a_radios_figures() {
    replay("wireless");
}

#[test]
fn a_reference_to_another_server() {
    replay("server_reference");
}

#[test]
fn a_platforms_limits() {
    replay("session_limits");
}

#[test]
fn a_disks_bytes() {
    replay("spool_bytes");
}

#[test]
fn a_disks_files() {
    replay("spool_directory");
}

#[test]
fn a_disks_files_looked_at_from_outside() {
    replay("spool_inspect");
}

#[test]
fn a_proxys_answers() {
    replay("proxy_answers");
}

/// A directory as a spool leaves it, damaged in a few places: nearer to the truth than what chance makes up.
#[test]
fn a_spool_directory_that_was_damaged() {
    let whole = directory_of_a_spool();
    for name in ["spool_directory", "spool_inspect"] {
        let (_, property) = PROPERTIES
            .into_iter()
            .find(|(known, _)| *known == name)
            .unwrap();
        property(&whole);
        let mut dice = Dice(7);
        for _ in 0..ROUNDS {
            hold(name, property, &mutate(&whole, &mut dice));
        }
    }
}

fn directory_of_a_spool() -> Vec<u8> {
    let mut storage = SimStorage::new(1, 1 << 30);
    let limits = Limits::new(16 * 1024, 160 * 1024, 4 * 1024).unwrap();
    let (mut spool, _) = Spool::open(storage.clone(), limits).unwrap();
    let mut outcomes = Vec::new();
    spool.append((0..600).map(uplink), &mut outcomes);
    assert!(outcomes.iter().all(Result::is_ok));
    spool.close().unwrap();
    let mut data = Vec::new();
    for (choice, name) in (0..).zip(FILE_NAMES) {
        let Ok(mut file) = storage.open(name) else {
            continue;
        };
        let mut contents = vec![0; 16 * 1024];
        let read = storage.read_at(&mut file, 0, &mut contents).unwrap();
        data.push(choice);
        data.extend_from_slice(&u16::try_from(read).unwrap().to_be_bytes());
        data.extend_from_slice(&contents[..read]);
    }
    assert!(data.len() > 2 * 16 * 1024, "more than one segment");
    data
}

fn uplink(number: i64) -> Uplink {
    Uplink::Telemetry(vec![DeviceReadings {
        device: DeviceName::try_new("press-1").unwrap(),
        readings: vec![Reading {
            key: Key::try_new("temperature").unwrap(),
            value: Value::Integer(number),
            quality: Quality::Good,
            timestamp: TimestampMs(1_700_000_000_000),
        }],
    }])
}
