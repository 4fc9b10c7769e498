//! The spool against what else could keep records: a plain preallocated segment, SQLite, redb, fjall.
//!
//! ```text
//! cargo run --release --manifest-path tests/benches/peers/Cargo.toml [-- speed|device|recovery]
//! ```
//!
//! `speed`: records per second, each batch durable before the next. `device`: bytes the device is given per byte of
//! payload, on a fresh ext4 of its own (needs root). `recovery`: how long a start takes and how much memory it needs, by
//! the size of the spool. `MOORLINE_BENCH_DIR` says on which disk; else it is the current one.

mod device;
// The very file of the product: the runtime's crate would bring all of its dependencies along.
#[path = "../../../../runtime/src/spool/disk.rs"]
#[allow(
    dead_code,
    reason = "its errors are for people who configure a gateway"
)]
mod disk;
mod fjall_store;
#[path = "../../../../runtime/src/medium.rs"]
#[allow(dead_code, reason = "as above")]
mod medium;
mod plain;
mod recovery;
mod redb_store;
mod spool;
mod sqlite;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What a record carries, as measured peers were asked for in `docs/figures.md`.
pub const RECORD_BYTES: usize = 200;
pub const BATCHES: [usize; 3] = [1, 32, 256];

/// Turns of each store, at each batch.
const TURNS: [u64; 3] = [10_000, 5_000, 2_000];
/// A disk that is slow or busy gets no more time than this.
const ROUND: Duration = Duration::from_secs(60);

pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// A store that keeps records in order.
pub trait Store {
    /// Has `batch` in the form in which it comes to this store anyway, not timed.
    fn offer(&mut self, _batch: &[Vec<u8>]) {}

    /// Keeps `batch`; it survives a power cut when this returns.
    fn put(&mut self, batch: &[Vec<u8>]) -> Outcome<()>;

    /// What its owner does besides, not timed.
    fn tend(&mut self) -> Outcome<()> {
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Spool,
    Plain,
    Sqlite,
    Redb,
    Fjall,
}

impl Kind {
    pub const ALL: [Self; 5] = [
        Self::Plain,
        Self::Spool,
        Self::Sqlite,
        Self::Redb,
        Self::Fjall,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Spool => "spool",
            Self::Plain => "plain segment, preallocated, fdatasync",
            Self::Sqlite => "SQLite, WAL, synchronous=FULL",
            Self::Redb => "redb, Durability::Immediate",
            Self::Fjall => "fjall, persist(SyncData)",
        }
    }

    pub fn open(self, directory: &Path) -> Outcome<Box<dyn Store>> {
        Ok(match self {
            Self::Spool => Box::new(spool::Spool::open(directory)?),
            Self::Plain => Box::new(plain::Plain::open(directory)?),
            Self::Sqlite => Box::new(sqlite::Sqlite::open(directory)?),
            Self::Redb => Box::new(redb_store::Redb::open(directory)?),
            Self::Fjall => Box::new(fjall_store::Fjall::open(directory)?),
        })
    }
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        None => {
            speed()?;
            device::measure()?;
            recovery::measure()
        }
        Some("speed") => speed(),
        Some("device") => device::measure(),
        Some("recovery") => recovery::measure(),
        Some(recovery::OPEN) => recovery::open(Path::new(&arguments[1])),
        Some(other) => Err(format!("{other:?} is not one of speed, device, recovery").into()),
    }
}

/// Where files go.
pub fn place() -> PathBuf {
    std::env::var_os("MOORLINE_BENCH_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from)
}

/// Records that differ and do not compress to nothing.
pub fn batch(records: usize, number: u64) -> Vec<Vec<u8>> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut letter = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        b'a' + (state % 26) as u8
    };
    (0..records)
        .map(|_| (0..RECORD_BYTES).map(|_| letter()).collect())
        .collect()
}

/// One batch to each store in turn, so that whatever else the disk does meets all of them alike.
fn speed() -> Outcome<()> {
    println!(
        "records of {RECORD_BYTES} bytes, each batch durable before the next; the stores take turns, {TURNS:?} turns or {ROUND:?}"
    );
    for (records, turns) in BATCHES.into_iter().zip(TURNS) {
        let mut took = [const { Vec::new() }; Kind::ALL.len()];
        let directories = Kind::ALL.map(|_| tempfile::tempdir_in(place()));
        let mut stores = Vec::new();
        for (kind, directory) in Kind::ALL.into_iter().zip(&directories) {
            let directory = directory.as_ref().map_err(ToString::to_string)?;
            stores.push(kind.open(directory.path())?);
        }
        let start = Instant::now();
        for number in 0..turns {
            let batch = batch(records, number);
            for (store, took) in stores.iter_mut().zip(&mut took) {
                store.offer(&batch);
                let before = Instant::now();
                store.put(&batch)?;
                took.push(before.elapsed());
                store.tend()?;
            }
            if start.elapsed() > ROUND {
                break;
            }
        }
        tell(records, took);
    }
    Ok(())
}

fn tell(records: usize, took: [Vec<Duration>; Kind::ALL.len()]) {
    let mut plain = (0.0, 0.0);
    for (kind, mut took) in Kind::ALL.into_iter().zip(took) {
        took.sort();
        let total: Duration = took.iter().sum();
        let mean = (took.len() * records) as f64 / total.as_secs_f64();
        let median = records as f64 / took[took.len() / 2].as_secs_f64();
        if kind == Kind::Plain {
            plain = (mean, median);
        }
        println!(
            "batch {records:>3}  {:<38} {mean:>8.0}/s ({:.2} of plain), by the median {median:>8.0}/s ({:.2}); p99 {:>7.2?}",
            kind.name(),
            mean / plain.0,
            median / plain.1,
            took[took.len() * 99 / 100]
        );
    }
}
