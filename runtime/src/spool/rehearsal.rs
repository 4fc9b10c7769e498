//! A spool's front end with somebody else behind it: `moorline plugin test` answers a guest's appends as it likes.

use std::time::Duration;

use moorline_core::message::{Sequence, Uplink};
use tokio::sync::mpsc;

use super::owner::Append;
use super::{APPENDS_QUEUED, AppendRefused, Appender};

/// The end where a spool would be.
pub(crate) struct Offers(mpsc::Receiver<Append>);

/// An appender, and what its callers offer.
pub(crate) fn rehearsal() -> (Appender, Offers) {
    let (appends, queue) = mpsc::channel(APPENDS_QUEUED);
    let appender = Appender {
        appends,
        // Only for a full queue, which a lone guest never sees.
        retry_after: Duration::from_millis(100),
        routes: std::sync::Arc::default(),
        connector: None,
    };
    (appender, Offers(queue))
}

impl Offers {
    /// Answers the next append by `answer`; none when no appender is left.
    pub(crate) async fn answer(
        &mut self,
        answer: impl FnOnce(Uplink) -> Result<Sequence, AppendRefused>,
    ) -> Option<()> {
        let Append { uplink, reply, .. } = self.0.recv().await?;
        match reply.send(answer(uplink)) {
            // The guest's call was given up.
            Ok(()) | Err(_) => {}
        }
        Some(())
    }
}
