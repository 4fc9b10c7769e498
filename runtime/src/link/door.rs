//! Where messages from the platform leave the link, and where it hears that they are kept.
//!
//! The link acknowledges a message to the broker when whoever took it gives its [`Receipt`] back, and not before.

use moorline_core::message::Downlink;
use tokio::sync::mpsc;

use super::session::AckDue;

/// Messages on their way in. More wait in the link, in order.
const ARRIVALS: usize = 64;
/// Receipts on their way back.
const RECEIPTS: usize = 256;

/// A message from the platform.
#[derive(Debug)]
pub struct Arrival {
    /// The message.
    pub downlink: Downlink,
    /// The broker says that it may have sent it before.
    pub redelivered: bool,
    /// To be given back when the message is safe; none when the broker waits for no acknowledgement.
    pub receipt: Option<Receipt>,
}

/// The broker waits for the acknowledgement of one message, on one session.
#[derive(Debug)]
pub struct Receipt {
    pub(super) session: u64,
    pub(super) due: AckDue,
}

/// The link's side.
#[derive(Debug)]
pub struct Door {
    pub(super) arrivals: mpsc::Sender<Arrival>,
    pub(super) receipts: mpsc::Receiver<Receipt>,
}

/// The other side.
#[derive(Debug)]
pub struct Arrivals {
    /// What comes, in order. Ends with the link.
    pub arrivals: mpsc::Receiver<Arrival>,
    /// Where receipts go back.
    pub receipts: mpsc::Sender<Receipt>,
}

#[cfg(test)]
impl Receipt {
    /// One that no session waits for.
    pub(crate) const fn numbered(id: u16) -> Self {
        Self {
            session: 0,
            due: AckDue::numbered(id),
        }
    }
}

impl Arrivals {
    /// Takes what comes and forgets it, as somebody who serves no device does; ends with the link.
    pub async fn discard(mut self) {
        while let Some(arrival) = self.arrivals.recv().await {
            if let Some(receipt) = arrival.receipt
                && self.receipts.send(receipt).await.is_err()
            {
                return;
            }
        }
    }
}

/// Both sides.
#[must_use]
pub fn door() -> (Door, Arrivals) {
    let (arrivals, arrivals_in) = mpsc::channel(ARRIVALS);
    let (receipts_back, receipts) = mpsc::channel(RECEIPTS);
    let door = Door { arrivals, receipts };
    let other = Arrivals {
        arrivals: arrivals_in,
        receipts: receipts_back,
    };
    (door, other)
}
