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
#[allow(dead_code, reason = "its errors are for people who configure a gateway")]
mod disk;
mod fjall_store;
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

const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(2);

pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// A store that keeps records in order.
pub trait Store {
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

fn speed() -> Outcome<()> {
    println!(
        "records of {RECORD_BYTES} bytes a second, each batch durable before the next; median of {ROUNDS} rounds of {ROUND:?} \
         that alternate"
    );
    for records in BATCHES {
        let mut rates = [const { Vec::new() }; Kind::ALL.len()];
        for _ in 0..ROUNDS {
            for (kind, rates) in Kind::ALL.into_iter().zip(&mut rates) {
                rates.push(rate(kind, records)?);
            }
        }
        let mut plain = 0.0;
        for (kind, mut rates) in Kind::ALL.into_iter().zip(rates) {
            rates.sort_by(f64::total_cmp);
            let rate = rates[ROUNDS / 2];
            if kind == Kind::Plain {
                plain = rate;
            }
            println!(
                "batch {records:>3}  {:<40} {rate:>10.0}/s   {:.2} of the plain segment",
                kind.name(),
                rate / plain
            );
        }
    }
    Ok(())
}

fn rate(kind: Kind, records: usize) -> Outcome<f64> {
    let directory = tempfile::tempdir_in(place())?;
    let mut store = kind.open(directory.path())?;
    let (mut took, mut kept, mut number) = (Duration::ZERO, 0_u64, 0);
    while took < ROUND {
        let batch = batch(records, number);
        let start = Instant::now();
        store.put(&batch)?;
        took += start.elapsed();
        kept += records as u64;
        number += 1;
        store.tend()?;
    }
    Ok(kept as f64 / took.as_secs_f64())
}
