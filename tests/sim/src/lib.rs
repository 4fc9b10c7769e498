//! One gateway, simulated: the machines of `moorline-core` as they are, and a model of all that surrounds them.
//!
//! ```text
//!  producers ─► spool (simulated disk) ─► encoder ─► window ─► link ─► network (model) ─► broker (model)
//!                  kill -9, power loss,                                 latency, black hole,  refuses, takes over,
//!                  ENOSPC, failed syncs          policies (models)      reset, cut, stall     drops, defers, closes
//! ```
//!
//! There are one to three streams, as a gateway has them, each on a disk of its own. In half of the seeds they have journals,
//! which a kill leaves and a power loss takes; what waited when a session begins is sent before what comes, or beside it.
//! Disks can be read-only, or give nothing at a start.
//!
//! A run is a seed: a phase of faults, then everything heals, then the gateway must converge. What must hold is in
//! [`ledger`] (messages), `excuses` (no disconnect without a fault that explains it) and `world::checks` (pace,
//! evidence, counters). The same seed gives the same trace, byte for byte.

mod broker;
mod dice;
mod excuses;
mod host;
pub mod ledger;
mod liveness;
mod network;
pub mod outside_bytes;
mod plan;
mod policy;
mod terms;
mod wire;
mod world;

use std::collections::BTreeMap;

/// What a run that ended well leaves behind.
#[derive(Debug)]
pub struct Outcome {
    /// What happened, a line each.
    pub trace: Vec<String>,
    /// How often each cause, reaction and fault was seen, by name.
    pub coverage: BTreeMap<String, u64>,
    /// Virtual time it took, in seconds.
    pub virtual_s: u64,
}

/// Runs one seed.
///
/// # Panics
/// When something that must hold does not; the message names the seed and ends the trace.
#[must_use]
pub fn run(seed: u64) -> Outcome {
    world::World::new(seed).run()
}

/// What the disk had to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskWork {
    /// Writes.
    pub writes: u64,
    /// Syncs of files.
    pub syncs: u64,
    /// Files there are.
    pub files: usize,
}

/// Runs a seed in which nothing fails and the link keeps up, with a journal: what the disk had done when the link had
/// been up for a while, what it had done after ten more minutes, and how many items were delivered in them.
///
/// # Panics
/// When something that must hold does not.
#[must_use]
pub fn run_quietly(seed: u64) -> (DiskWork, DiskWork, u64) {
    world::World::new(seed).keep_up()
}
