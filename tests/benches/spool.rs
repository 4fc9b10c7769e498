//! The spool against the least a disk can do: the same bytes into a preallocated file, `fdatasync` after each batch.
//! Batch = readings in one append.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;

use divan::Bencher;
use divan::counter::ItemsCount;
use moorline::clock::Clock;
use moorline::spool::{self, Durability, SpoolSettings};
use moorline_core::message::{DeviceName, DeviceReadings, Key, Quality, Reading, Uplink, Value};
use moorline_core::time::TimestampMs;

const BATCHES: [u64; 3] = [1, 32, 256];
const FILE_BYTES: u64 = 64 << 20;

fn main() {
    divan::main();
}

fn uplink(readings: u64) -> Uplink {
    let reading = |number: u64| Reading {
        key: Key::try_new(&format!("key-{number}")).expect("a key"),
        value: Value::Double(number as f64),
        quality: Quality::Good,
        timestamp: TimestampMs(1_700_000_000_000 + number),
    };
    Uplink::Telemetry(vec![DeviceReadings {
        device: DeviceName::try_new("press-1").expect("a name"),
        readings: (0..readings).map(reading).collect(),
    }])
}

fn settings(directory: &std::path::Path, durability: Durability) -> SpoolSettings {
    let mut settings = SpoolSettings::new(directory.to_owned());
    for setup in &mut settings.streams {
        setup.durability = durability;
    }
    settings
}

fn append(bencher: Bencher<'_, '_>, batch: u64, sync: Durability) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let (spool, appender, _outlet, _) =
        spool::open(settings(directory.path(), sync), Clock::start()).expect("a spool");
    let uplink = uplink(batch);
    bencher.counter(ItemsCount::new(batch)).bench_local(|| {
        runtime.block_on(async {
            loop {
                match appender.append(uplink.clone()).await {
                    Ok(sequence) => break sequence,
                    Err(spool::AppendRefused::Behind { .. }) => tokio::task::yield_now().await,
                    Err(refused) => panic!("{refused}"),
                }
            }
        })
    });
    runtime.block_on(async {
        spool.close().await.expect("a clean end");
    });
}

/// Durability `sync`: an append returns when the disk has it.
#[divan::bench(args = BATCHES)]
fn append_sync(bencher: Bencher<'_, '_>, batch: u64) {
    append(bencher, batch, Durability::Sync);
}

/// Durability `batched`, the default: an append returns when the kernel has it; the disk has it 50 ms later.
#[divan::bench(args = BATCHES)]
fn append_batched(bencher: Bencher<'_, '_>, batch: u64) {
    append(bencher, batch, Durability::Batched);
}

/// The peer of `append_sync`.
#[divan::bench(args = BATCHES)]
fn plain_fdatasync(bencher: Bencher<'_, '_>, batch: u64) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let mut file = File::create(directory.path().join("plain")).expect("a file");
    let chunk = vec![0_u8; 1 << 20];
    for _ in 0..FILE_BYTES >> 20 {
        file.write_all(&chunk).expect("room");
    }
    file.sync_all().expect("a disk");
    // About what a record of that many readings takes.
    let payload = vec![7_u8; 48 + 24 * usize::try_from(batch).expect("small")];
    let mut at = 0;
    bencher.counter(ItemsCount::new(batch)).bench_local(|| {
        if at + payload.len() as u64 > FILE_BYTES {
            at = 0;
        }
        file.write_all_at(&payload, at).expect("room");
        file.sync_data().expect("a disk");
        at += payload.len() as u64;
    });
}
