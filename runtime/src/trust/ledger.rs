//! What served last in each place and what has proved itself there, across restarts, and an operator's word that an older version
//! may come.
//!
//! ```text
//!  STATE_DIR/served.json                      {"connector-modbus":{"modbus-tcp":"0.2.0"},"policy":{"full-jitter":"0.1.0"}}
//!  STATE_DIR/proved.json                      {"connector-modbus":"5df6e0e2…"}: SHA-256 of the component
//!  STATE_DIR/allow-downgrade/connector-modbus  empty; gone once another version serves
//! ```
//!
//! The swapper owns the ledger and only changes memory; a task of its own writes, the latest state and no more often than
//! the disk can.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use moorline_core::swap::{Digest, Failure};
use moorline_core::trust::{Origin, Served, Settings};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::bounded_file::{self, ReadError};
use crate::plugins::Kind;
use crate::plugins::write_private;

const SERVED: &str = "served.json";
const PROVED: &str = "proved.json";
const PERMITS: &str = "allow-downgrade";
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// What the disk refused is tried again after this long.
const RETRY: Duration = Duration::from_secs(5);
/// Places remembered, those that the configuration no longer names included.
const PLACES_MAX: usize = 1024;

/// Where a component goes: a connector, or the policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place(String);

impl Place {
    pub(crate) fn of(kind: Kind, name: &str) -> Self {
        Self(match kind {
            Kind::Connector => format!("connector-{name}"),
            Kind::Policy => "policy".to_owned(),
        })
    }

    /// Where the permission to downgrade it lies while it is given.
    pub(crate) fn permit(&self, state_dir: &Path) -> PathBuf {
        state_dir.join(PERMITS).join(&self.0)
    }

    /// Gives the permission. Blocks.
    ///
    /// # Errors
    /// When the state directory cannot be written to.
    pub(crate) fn give_permit(&self, state_dir: &Path) -> io::Result<()> {
        prepare(state_dir)?;
        write_private(&self.permit(state_dir), &[])
    }
}

fn prepare(state_dir: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state_dir.join(PERMITS))
}

/// By place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Records {
    served: BTreeMap<String, Served>,
    /// In hexadecimal.
    proved: BTreeMap<String, String>,
}

impl Records {
    /// What cannot be read is taken for empty, and told: which file, why, and what follows from it.
    fn read(state_dir: &Path, unknown: impl Fn(&Path, &str, &str)) -> Self {
        Self {
            served: read(&state_dir.join(SERVED), |path, why| {
                unknown(path, why, "downgrades are not noticed");
            }),
            proved: read(&state_dir.join(PROVED), |path, why| {
                unknown(path, why, "what lies in a plugin's file needs no proof");
            }),
        }
    }
}

/// What served last, and what has proved itself, everywhere.
#[derive(Debug)]
pub(crate) struct Ledger {
    state_dir: Arc<Path>,
    records: watch::Sender<Records>,
}

impl Ledger {
    /// Reads what is known. A file that cannot be read is said and taken for empty: a gateway without its memory still
    /// has work to do. Blocks.
    pub(crate) fn open(state_dir: &Path) -> Self {
        if let Err(error) = prepare(state_dir) {
            tracing::warn!(directory = %state_dir.display(), %error, "no permission to downgrade can be given");
        }
        let records = Records::read(state_dir, |path, why, so| {
            tracing::error!(path = %path.display(), "what was before this start is not known, and {so}: {why}");
        });
        Self {
            state_dir: state_dir.into(),
            records: watch::channel(records).0,
        }
    }

    /// What is known, for somebody who only looks. Blocks.
    pub(crate) fn peek(state_dir: &Path) -> Self {
        Self {
            state_dir: state_dir.into(),
            records: watch::channel(Records::read(state_dir, |_path, _why, _so| ())).0,
        }
    }

    /// What served last in `place`.
    pub(crate) fn served(&self, place: &Place) -> Served {
        let records = self.records.borrow();
        records.served.get(&place.0).cloned().unwrap_or_default()
    }

    /// The build that proved itself last in `place`.
    pub(crate) fn proved(&self, place: &Place) -> Option<Digest> {
        let records = self.records.borrow();
        Digest::from_hex(records.proved.get(&place.0)?)
    }

    /// `version` of `name` serves in `place` now.
    pub(crate) fn note(&self, place: &Place, name: &str, version: &str) {
        self.records.send_if_modified(|records| {
            has_room(&records.served, place)
                && records
                    .served
                    .entry(place.0.clone())
                    .or_default()
                    .note(name, version)
        });
    }

    /// `build` has proved itself in `place`.
    pub(crate) fn note_proved(&self, place: &Place, build: Digest) {
        self.records.send_if_modified(|records| {
            let hex = build.hex();
            let is_news = records.proved.get(&place.0) != Some(&hex);
            let noted = is_news && has_room(&records.proved, place);
            if noted {
                records.proved.insert(place.0.clone(), hex);
            }
            noted
        });
    }

    /// What a candidate for `place` is judged by.
    pub(crate) fn gate(&self, place: &Place, settings: &Arc<Settings>) -> Gate {
        Gate {
            settings: settings.clone(),
            served: self.served(place),
            permit: place.permit(&self.state_dir),
        }
    }

    /// Who writes down what changes from now on.
    pub(crate) fn keeper(&self) -> Keeper {
        let records = self.records.subscribe();
        let written = records.borrow().clone();
        Keeper {
            state_dir: self.state_dir.clone(),
            written,
            is_behind: false,
            records,
        }
    }
}

fn has_room<T>(known: &BTreeMap<String, T>, place: &Place) -> bool {
    known.len() < PLACES_MAX || known.contains_key(&place.0)
}

fn read<T: DeserializeOwned>(path: &Path, unknown: impl Fn(&Path, &str)) -> BTreeMap<String, T> {
    try_read(path).unwrap_or_else(|why| {
        unknown(path, &why);
        BTreeMap::new()
    })
}

fn try_read<T: DeserializeOwned>(path: &Path) -> Result<BTreeMap<String, T>, String> {
    let text = match bounded_file::read_text(path, FILE_BYTES_MAX) {
        Ok(text) => text,
        Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(BTreeMap::new());
        }
        Err(error) => return Err(error.to_string()),
    };
    serde_json::from_str(&text).map_err(|error| error.to_string())
}

/// Writes the records down.
#[derive(Debug)]
pub(crate) struct Keeper {
    state_dir: Arc<Path>,
    written: Records,
    /// The disk has refused what is not written.
    is_behind: bool,
    records: watch::Receiver<Records>,
}

impl Keeper {
    /// Writes what changes until the ledger is gone, and then the rest.
    pub(crate) async fn run(mut self) {
        loop {
            let gone = tokio::select! {
                changed = self.records.changed() => changed.is_err(),
                () = tokio::time::sleep(RETRY), if self.is_behind => false,
            };
            let now = self.records.borrow_and_update().clone();
            let written = self.write(now).await;
            self.note(&written);
            if gone {
                return;
            }
        }
    }

    /// Without it the next start would take what serves for a downgrade, or let one in, or take for proved what is not.
    fn note(&mut self, written: &io::Result<()>) {
        let directory = self.state_dir.display();
        match (
            written,
            std::mem::replace(&mut self.is_behind, written.is_err()),
        ) {
            (Err(error), false) => {
                tracing::warn!(%directory, %error, "what serves and what has proved itself is not kept; it is tried again until it is");
            }
            (Ok(()), true) => {
                tracing::info!(%directory, "what serves and what has proved itself is kept again")
            }
            (Err(_), true) | (Ok(()), false) => {}
        }
    }

    /// Each file as well as it can be: neither waits for the other.
    async fn write(&mut self, now: Records) -> io::Result<()> {
        let changed = |(place, served): &(&String, &Served)| {
            self.written.served.get(place.as_str()) != Some(*served)
        };
        let spent: Vec<_> = now
            .served
            .iter()
            .filter(changed)
            .map(|(place, _)| Place(place.clone()))
            .collect();
        let served = (now.served != self.written.served).then(|| serde_json::json!(now.served));
        let proved = (now.proved != self.written.proved).then(|| serde_json::json!(now.proved));
        let directory = self.state_dir.clone();
        let kept = tokio::task::spawn_blocking(move || {
            let served =
                write(&directory.join(SERVED), served).and_then(|()| spend(&directory, &spent));
            (served, write(&directory.join(PROVED), proved))
        });
        let (served, proved) = kept.await.map_err(io::Error::other)?;
        if served.is_ok() {
            self.written.served = now.served;
        }
        if proved.is_ok() {
            self.written.proved = now.proved;
        }
        served.and(proved)
    }
}

fn write(path: &Path, records: Option<serde_json::Value>) -> io::Result<()> {
    match records {
        Some(records) => write_private(path, &[records.to_string().as_bytes()]),
        None => Ok(()),
    }
}

/// A permission is spent when what it was for is written down.
fn spend(state_dir: &Path, spent: &[Place]) -> io::Result<()> {
    for place in spent {
        match std::fs::remove_file(place.permit(state_dir)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// What a candidate must pass once it has said who it is.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    settings: Arc<Settings>,
    served: Served,
    permit: PathBuf,
}

impl Gate {
    /// A gate that lets an older version pass: somebody has asked for it.
    pub(crate) fn open_to_older(self) -> Self {
        Self {
            served: Served::default(),
            ..self
        }
    }

    /// Whether the release may serve here. Asks the disk for a permission, and only where one is needed.
    ///
    /// # Errors
    /// When its signer meant another one, or it is older than what served last.
    pub(crate) fn pass(
        &self,
        origin: Origin,
        name: &str,
        version: &str,
    ) -> Result<Origin, Failure> {
        let origin = self.settings.confirm(origin, name, version)?;
        match self.served.check(name, version) {
            Ok(()) => {}
            Err(failure) if self.settings.allow_downgrade || self.permit.exists() => {
                tracing::warn!("an older version is let in because it is allowed: it {failure}");
            }
            Err(failure) => return Err(failure),
        }
        Ok(origin)
    }
}

#[cfg(test)]
mod tests {
    use moorline_core::swap::Reason;

    use super::*;

    fn pass(ledger: &Ledger, place: &Place, version: &str) -> Result<Origin, Failure> {
        let settings = Arc::new(Settings::default());
        ledger
            .gate(place, &settings)
            .pass(Origin::Unchecked, "press", version)
    }

    async fn note(ledger: Ledger, place: &Place, version: &str) {
        let keeper = tokio::spawn(ledger.keeper().run());
        ledger.note(place, "press", version);
        drop(ledger);
        keeper.await.unwrap();
    }

    #[tokio::test]
    async fn what_served_last_outlives_the_process_and_a_permission_counts_once() {
        let directory = tempfile::tempdir().unwrap();
        let (line, policy) = (
            Place::of(Kind::Connector, "policy"),
            Place::of(Kind::Policy, "policy"),
        );
        let ledger = Ledger::open(directory.path());
        note(ledger, &line, "1.2.0").await;

        let ledger = Ledger::open(directory.path());
        assert!(pass(&ledger, &policy, "1.1.0").is_ok());
        let failure = pass(&ledger, &line, "1.1.0").unwrap_err();
        assert_eq!(failure.reason, Reason::Downgrade);
        line.give_permit(directory.path()).unwrap();
        assert!(pass(&ledger, &line, "1.1.0").is_ok());
        note(ledger, &line, "1.1.0").await;
        assert!(!line.permit(directory.path()).exists());

        let ledger = Ledger::open(directory.path());
        assert!(pass(&ledger, &line, "1.1.5").is_ok());
        assert!(pass(&ledger, &line, "1.0.0").is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_disk_refused_is_written_when_it_takes_it() {
        let directory = tempfile::tempdir().unwrap();
        let line = Place::of(Kind::Connector, "line");
        let ledger = Ledger::open(directory.path());
        let keeper = tokio::spawn(ledger.keeper().run());
        let files = [SERVED, PROVED].map(|name| directory.path().join(name));
        for (turn, in_the_way) in files.iter().enumerate() {
            // Nothing can be renamed to the name of a directory that is not empty.
            std::fs::create_dir_all(in_the_way.join("more")).unwrap();
            ledger.note(&line, "press", &format!("1.2.{turn}"));
            ledger.note_proved(&line, Digest([turn as u8; 32]));
            let other = &files[1 - turn];
            let written = async |file: &Path| {
                while !file.is_file() {
                    tokio::time::sleep(RETRY).await;
                }
            };
            // One does not wait for the other.
            tokio::time::timeout(RETRY * 100, written(other))
                .await
                .unwrap();
            tokio::time::sleep(RETRY * 2).await;
            std::fs::remove_dir_all(in_the_way).unwrap();
            tokio::time::timeout(RETRY * 100, written(in_the_way))
                .await
                .unwrap();
            let known = Ledger::open(directory.path());
            let version = format!("1.2.{turn}");
            assert_eq!(known.served(&line).version_of("press"), Some(&*version));
            assert_eq!(known.proved(&line), Some(Digest([turn as u8; 32])));
            files
                .iter()
                .for_each(|file| std::fs::remove_file(file).unwrap());
        }
        drop(ledger);
        keeper.await.unwrap();
    }

    #[tokio::test]
    async fn what_has_proved_itself_is_known_after_a_restart_and_taken_for_unknown_when_it_is_damaged()
     {
        let directory = tempfile::tempdir().unwrap();
        let (line, other) = (
            Place::of(Kind::Connector, "line"),
            Place::of(Kind::Connector, "other"),
        );
        let ledger = Ledger::open(directory.path());
        let keeper = tokio::spawn(ledger.keeper().run());
        for build in [7, 8] {
            ledger.note_proved(&line, Digest([build; 32]));
        }
        drop(ledger);
        keeper.await.unwrap();
        let ledger = Ledger::open(directory.path());
        assert_eq!(ledger.proved(&line), Some(Digest([8; 32])));
        assert_eq!(ledger.proved(&other), None);
        for damage in [
            "[]",
            "{\"connector-line\":7}",
            "{\"connector-line\":\"0x0808\"}",
        ] {
            std::fs::write(directory.path().join(PROVED), damage).unwrap();
            assert_eq!(
                Ledger::open(directory.path()).proved(&line),
                None,
                "{damage}"
            );
        }
    }

    #[tokio::test]
    async fn a_damaged_ledger_is_no_reason_not_to_run() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(SERVED), "{\"connector-a\":").unwrap();
        let ledger = Ledger::open(directory.path());
        let line = Place::of(Kind::Connector, "a");
        assert!(pass(&ledger, &line, "0.0.1").is_ok());
        note(ledger, &line, "1.0.0").await;
        let served = Ledger::open(directory.path()).served(&line);
        assert_eq!(served.version_of("press"), Some("1.0.0"));
    }
}
