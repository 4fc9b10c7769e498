//! Follows the link and writes down what happens to it.

use std::path::PathBuf;

use tokio::sync::watch;
use tracing::warn;

use super::pages::{Pages, directory};
use super::{LINK, Transition, UpEntry};
use crate::link::LinkStatus;
use crate::status::DisconnectEntry;

/// Writes until the link is gone. A disk that refuses costs entries of the journal, and nothing else.
pub(crate) async fn keep(state_dir: PathBuf, mut link: watch::Receiver<LinkStatus>) {
    let mut seen = Seen::default();
    let mut pages = Pages::new(&state_dir, LINK);
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
