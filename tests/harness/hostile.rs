//! Connectors that want too much, each of something else, for tests and benches that look at who stands beside them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use moorline::demo::gateway::History;

use crate::errors::Provoked;
use crate::plugins::Guest;
use crate::rig::{Rig, Running};

/// A connector and the limit that it exceeds.
#[derive(Clone, Copy, Debug)]
struct Hostile {
    name: &'static str,
    /// What it does at each timer, by the words of the scripted connector.
    script: &'static str,
    /// Lines of its `[connector.limits]`.
    limits: &'static str,
    /// The limit it exceeds.
    exceeds: &'static str,
}

const fn hostile(
    name: &'static str,
    script: &'static str,
    limits: &'static str,
    exceeds: &'static str,
) -> Hostile {
    Hostile {
        name,
        script,
        limits,
        exceeds,
    }
}

const ALL: [Hostile; 7] = [
    hostile("hangs", "timer:hang", "", "call_deadline_ms"),
    hostile("eats", "timer:eat", "", "memory_bytes_max"),
    hostile("calls", "timer:flood-clock", "", "call_deadline_ms"),
    hostile("busy", "timer:busy", "cpu_percent = 5\n", "cpu_percent"),
    hostile(
        "logs",
        "timer:flood-log",
        "cpu_percent = 10\n",
        "log_lines_per_s",
    ),
    hostile(
        "emits",
        "timer:flood-emit",
        "emit_readings_per_s = 100\n",
        "emit_readings_per_s",
    ),
    hostile(
        "keeps",
        "timer:flood-state",
        "cpu_percent = 10\n",
        "state_bytes_max",
    ),
];

fn place(rig: &Rig, hostile: Hostile) -> PathBuf {
    rig.path(&format!("{}.wasm", hostile.name))
}

/// Their lines of the configuration. Their files are not there yet.
///
/// # Panics
/// Never: writing into a string cannot fail.
#[must_use]
pub fn lines(rig: &Rig) -> String {
    let mut lines = String::new();
    for hostile in ALL {
        let (name, limits) = (hostile.name, hostile.limits);
        let component: &Path = &place(rig, hostile);
        write!(
            lines,
            "\n[[connector]]\nname = \"{name}\"\ncomponent = {component:?}\n[connector.limits]\n{limits}"
        )
        .unwrap();
    }
    lines
}

/// What their gateway logs as ERROR.
pub fn expect_errors(running: &mut Running) {
    running.expect_error(Provoked::PluginMissing);
    running.expect_error(Provoked::PluginFailed);
}

/// Puts their files where a running gateway finds them.
///
/// # Panics
/// When one cannot be built or written.
pub fn let_loose(rig: &Rig) {
    for hostile in ALL {
        std::fs::write(
            place(rig, hostile),
            Guest::connector(hostile.script).bytes(),
        )
        .unwrap();
    }
}

/// Every one of them has been told its limit.
#[must_use]
pub fn all_named(now: &History) -> bool {
    ALL.iter().all(|hostile| {
        let mut entries = now.now.connectors.iter();
        let found = entries.find(|entry| entry.name == hostile.name);
        found.is_some_and(|entry| {
            entry
                .limits
                .iter()
                .any(|limit| limit.key == hostile.exceeds)
        })
    })
}
