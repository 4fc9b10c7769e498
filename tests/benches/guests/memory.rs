//! What an instance adds to the gateway's memory. Each figure is a process of its own, which starts so many instances of a
//! component that was compiled before, has each emit once, and says its RSS.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::host::{Host, Places, open_spool, reply};
use crate::{Language, Row};

const INSTANCES: [usize; 3] = [1, 100, 1_000];
const WORD: &str = "rss-of";

/// What a process is asked for.
pub(crate) struct Asked {
    component: PathBuf,
    instances: usize,
    compiled: PathBuf,
}

impl Asked {
    /// What the arguments ask for; nothing if it is all the others.
    pub(crate) fn of(arguments: &[OsString]) -> Option<Self> {
        let [word, component, instances, compiled] = arguments else {
            return None;
        };
        let instances = instances.to_str()?.parse().ok()?;
        (word == WORD).then(|| Self {
            component: component.into(),
            instances,
            compiled: compiled.into(),
        })
    }
}

pub(crate) fn measure(languages: &[Language], directory: &Path) -> Vec<Row> {
    let compiled = directory.join("compiled");
    let mut rows: Vec<Row> = INSTANCES
        .iter()
        .map(|count| Row::new(format!("RSS an instance of {count}, code included, KiB"), 0))
        .collect();
    for language in languages {
        // Compiles, if nobody has: the figures are of processes that need not.
        rss_kib(language, 1, &compiled);
        let host = rss_kib(language, 0, &compiled);
        for (row, count) in rows.iter_mut().zip(INSTANCES) {
            let all = rss_kib(language, count, &compiled);
            row.figures.push((all - host) / count as f64);
        }
    }
    rows
}

/// Asks a process of its own.
fn rss_kib(language: &Language, instances: usize, compiled: &Path) -> f64 {
    let output = Command::new(std::env::current_exe().expect("this binary"))
        .arg(WORD)
        .arg(&language.component)
        .arg(instances.to_string())
        .arg(compiled)
        .output()
        .expect("a process");
    let said = String::from_utf8_lossy(&output.stdout);
    said.trim().parse().unwrap_or_else(|_| {
        panic!(
            "{} times {instances}: {said} {}",
            language.name,
            String::from_utf8_lossy(&output.stderr)
        )
    })
}

pub(crate) async fn answer(asked: Asked) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let (spool, appender, mut outlet) = open_spool(directory.path());
    let places = Places {
        compiled: asked.compiled,
        state: directory.path(),
    };
    let host = Host::start(&asked.component, asked.instances, places, appender).await;
    for instance in 0..asked.instances {
        host.ask(instance, (instance as u64, "burst", "[32,1]"))
            .await;
        reply(&mut outlet).await;
    }
    println!("{}", own_rss_kib());
    host.plugins.stop(Duration::from_secs(60)).await;
    spool.close().await.expect("a clean end");
}

/// VmRSS of this process.
fn own_rss_kib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let words = line.and_then(|line| line.split_whitespace().next());
    let kib = words.and_then(|kib| kib.parse().ok());
    kib.expect("VmRSS")
}
