//! A start over a spool that is full and was never closed, in a process of its own: how long, and how much memory.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use moorline_core::spool::Lane;

use super::{Outcome, RECORD_BYTES, batch, place, spool};

/// The argument that makes this program open a spool and tell.
pub const OPEN: &str = "open";

const SIZES_MIB: [u64; 3] = [16, 128, 1_024];
const BATCH: usize = 256;
const ROOM_BYTES: u64 = 64 << 20;
const READ_BYTES: usize = 256 << 10;
const READ_RECORDS: usize = 1_024;
/// Reads after the start: what a link does once it is up.
const READS: usize = 50;

pub fn measure() -> Outcome<()> {
    println!("a start over a spool that was killed, and a link that begins to read it");
    for mib in SIZES_MIB {
        let directory = tempfile::tempdir_in(place())?;
        let records = fill(directory.path(), mib << 20)?;
        for cache in ["cold", "warm"] {
            if cache == "cold" {
                drop_cache();
            }
            let output = Command::new(std::env::current_exe()?)
                .arg(OPEN)
                .arg(directory.path())
                .output()?;
            let told = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            if !output.status.success() {
                return Err(String::from_utf8_lossy(&output.stderr).into());
            }
            println!("{mib:>5} MiB, {records:>8} records, {cache} cache: {told}");
        }
    }
    Ok(())
}

fn fill(directory: &Path, bytes: u64) -> Outcome<u64> {
    let mut log = spool::log(directory, bytes + ROOM_BYTES)?;
    let mut records = 0;
    while log.status().bytes < bytes {
        let mut outcomes = Vec::with_capacity(BATCH);
        let batch = batch(BATCH, records);
        log.append(
            batch.iter().map(|record| spool::uplink(record)),
            &mut outcomes,
        );
        for outcome in outcomes {
            outcome?;
        }
        records += BATCH as u64;
        if records.is_multiple_of(BATCH as u64 * 64) {
            log.commit()?;
        }
    }
    log.commit()?;
    Ok(records)
}

/// Only root may; without it the first start is as warm as the second.
fn drop_cache() {
    let synced = Command::new("sync").status();
    let dropped = std::fs::write("/proc/sys/vm/drop_caches", "3");
    if synced.is_err() || dropped.is_err() {
        println!("the cache cannot be dropped here");
    }
}

pub fn open(directory: &Path) -> Outcome<()> {
    let bytes_max = 2 << 30;
    let before = rss_kib()?;
    let start = Instant::now();
    let mut log = spool::log(directory, bytes_max)?;
    let opened = start.elapsed();
    let (mut after, mut read, mut first) = (log.status().acked, 0, Duration::ZERO);
    for _ in 0..READS {
        let mut records = Vec::new();
        log.read(Lane::Live, after, READ_BYTES, READ_RECORDS, &mut records)?;
        let Some(last) = records.last() else { break };
        after = last.sequence;
        read += records.len();
        if first.is_zero() {
            first = start.elapsed();
        }
    }
    println!(
        "open {:.1} ms, first records {:.1} ms, {read} records of {RECORD_BYTES} bytes read in {:.0} ms; RSS grew by {} KiB",
        opened.as_secs_f64() * 1e3,
        first.as_secs_f64() * 1e3,
        start.elapsed().as_secs_f64() * 1e3,
        rss_kib()?.saturating_sub(before)
    );
    Ok(())
}

fn rss_kib() -> Outcome<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}
