//! What a guest is granted of the file system is opened on a thread of its own. A medium that hangs lets no such thread go: in
//! the pool that everybody shares it would take from the link what resolves its broker's name, with every guest that is started.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::timeout;

/// How long a guest that is being made waits for its directories: many times what a disk that spins up needs, or a mount over
/// a slow network, and less than anybody takes for the plugin's own silence.
const ANSWER_WALL: Duration = Duration::from_secs(3);

/// Opens for one instance, one time after the other: of a medium that hangs it keeps one thread, however often its guest is
/// made anew meanwhile. Clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct Opener {
    turn: Arc<Semaphore>,
    /// What is being opened, to be named when that does not end.
    at: Arc<watch::Sender<PathBuf>>,
}

impl Default for Opener {
    fn default() -> Self {
        Self {
            turn: Arc::new(Semaphore::new(1)),
            at: Arc::new(watch::Sender::new(PathBuf::new())),
        }
    }
}

/// What is granted is the same, whoever opens it.
impl PartialEq for Opener {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl Eq for Opener {}

impl Opener {
    /// This is opened next.
    pub(crate) fn goes_to(&self, place: &Path) {
        self.at.send_replace(place.to_owned());
    }

    /// What was opened last, or is being opened.
    pub(crate) fn place(&self) -> PathBuf {
        self.at.borrow().clone()
    }

    /// Does `work`, which opens something, as soon as the one before has ended.
    ///
    /// # Errors
    /// When it has not ended in time, or there is no thread for it. What it still opens then is closed as soon as it is open:
    /// the medium may be another by the time anybody wants it again.
    pub(crate) async fn open<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        self.open_within(ANSWER_WALL, work).await
    }

    async fn open_within<T: Send + 'static>(
        &self,
        wall: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let opened = timeout(wall, self.do_in_turn(work)).await;
        opened.unwrap_or_else(|_elapsed| {
            Err(io::Error::new(io::ErrorKind::TimedOut, "does not answer"))
        })
    }

    async fn do_in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let turn = self.turn.clone().acquire_owned().await;
        let turn = turn.map_err(io::Error::other)?;
        let (reply, opened) = oneshot::channel();
        std::thread::Builder::new()
            .name("opening".into())
            .spawn(move || {
                match reply.send(work()) {
                    // Nobody waits any more: it was closed again here, which may hang as well.
                    Ok(()) | Err(_) => {}
                }
                drop(turn);
            })?;
        opened.await.map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn what_hangs_keeps_one_thread_and_is_waited_for_no_longer_than_said() {
        let opener = Opener::default();
        let long = Duration::from_secs(60);
        assert_eq!(opener.open_within(long, || 7).await.unwrap(), 7);
        let (medium, hung) = mpsc::channel::<()>();
        let (begun, beginnings) = mpsc::channel();
        let hanging = begun.clone();
        let work = move || {
            hanging.send("hangs").unwrap();
            hung.recv().unwrap_err();
        };
        let short = Duration::from_millis(50);
        let silent = opener.open_within(short, work).await.unwrap_err();
        assert_eq!(silent.to_string(), "does not answer");
        for _attempt in 0..3 {
            let begun = begun.clone();
            let work = move || begun.send("goes on").unwrap();
            let silent = opener.clone().open_within(short, work).await.unwrap_err();
            assert_eq!(silent.kind(), io::ErrorKind::TimedOut);
        }
        drop(medium);
        let work = move || begun.send("answers").unwrap();
        opener.open_within(long, work).await.unwrap();
        let begun: Vec<_> = beginnings.iter().collect();
        assert_eq!(begun, ["hangs", "answers"]);
    }
}
