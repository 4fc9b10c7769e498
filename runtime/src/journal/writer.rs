//! Follows the link and writes down what happens to it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use tokio::sync::watch;
use tracing::warn;

use super::{FILE, FILE_BYTES_MAX, OLD_FILE, Transition, UpEntry, VERSION, directory};
use crate::link::LinkStatus;
use crate::status::DisconnectEntry;

/// Writes until the link is gone. A disk that refuses costs entries of the journal, and nothing else.
pub(crate) async fn keep(state_dir: PathBuf, mut link: watch::Receiver<LinkStatus>) {
    let mut seen = Seen::default();
    let mut pages = Pages::new(&state_dir);
    let mut failing = false;
    loop {
        let fresh = seen.fresh(&link.borrow_and_update());
        if !fresh.is_empty() {
            let wrote = tokio::task::spawn_blocking(move || {
                let result = pages.append(&fresh);
                (pages, result)
            });
            let Ok((back, result)) = wrote.await else {
                return;
            };
            pages = back;
            match result {
                Ok(()) => failing = false,
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        warn!(directory = %directory(&state_dir).display(), %error, "the link's journal cannot be written; the gateway goes on without");
                    }
                }
            }
        }
        if link.changed().await.is_err() {
            return;
        }
    }
}

/// How far the journal has followed.
#[derive(Debug, Default)]
struct Seen {
    disconnect: u64,
    session: u64,
}

impl Seen {
    /// What happened since the last look, in its order.
    fn fresh(&mut self, link: &LinkStatus) -> Vec<Transition> {
        let ended = link
            .disconnects
            .iter()
            .filter(|record| record.id > self.disconnect);
        let mut fresh: Vec<_> = ended
            .map(|record| {
                let entry = DisconnectEntry::from(&**record);
                (record.record.at, Transition::Ended(Box::new(entry)))
            })
            .collect();
        if let Some(last) = link.disconnects.back() {
            self.disconnect = last.id;
        }
        if let Some(up) = link
            .last_up
            .as_deref()
            .filter(|up| up.session > self.session)
        {
            self.session = up.session;
            fresh.push((up.since, Transition::Up(UpEntry::from(up))));
        }
        fresh.sort_by_key(|(at, _)| *at);
        fresh
            .into_iter()
            .map(|(_, transition)| transition)
            .collect()
    }
}

#[derive(Serialize)]
struct Line<'a> {
    v: u32,
    #[serde(flatten)]
    transition: &'a Transition,
}

/// The files.
#[derive(Debug)]
pub(super) struct Pages {
    directory: PathBuf,
    /// The one that grows, and its length.
    page: Option<(File, u64)>,
}

impl Pages {
    pub(super) fn new(state_dir: &Path) -> Self {
        Self {
            directory: directory(state_dir),
            page: None,
        }
    }

    pub(super) fn append(&mut self, transitions: &[Transition]) -> io::Result<()> {
        let mut text = Vec::new();
        for transition in transitions {
            serde_json::to_writer(
                &mut text,
                &Line {
                    v: VERSION,
                    transition,
                },
            )?;
            text.push(b'\n');
        }
        let written = self.write(&text);
        if written.is_err() {
            // Half a line may be there: the next page is opened anew and begins on a line of its own.
            self.page = None;
        }
        written
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        let (mut page, bytes) = match self.page.take() {
            Some(page) => page,
            None => self.open()?,
        };
        page.write_all(text)?;
        // A disconnect is rare and often the last thing before the power goes.
        page.sync_data()?;
        let bytes = bytes + text.len() as u64;
        if bytes < FILE_BYTES_MAX {
            self.page = Some((page, bytes));
            return Ok(());
        }
        drop(page);
        fs::rename(self.directory.join(FILE), self.directory.join(OLD_FILE))
    }

    fn open(&self) -> io::Result<(File, u64)> {
        fs::create_dir_all(&self.directory)?;
        let mut page = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(self.directory.join(FILE))?;
        let bytes = page.seek(SeekFrom::End(0))?;
        if bytes > 0 {
            let mut last = [0];
            page.seek(SeekFrom::End(-1))?;
            page.read_exact(&mut last)?;
            if last != *b"\n" {
                page.write_all(b"\n")?;
            }
        }
        Ok((page, bytes))
    }
}
