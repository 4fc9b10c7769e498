//! Messages from the platform, kept until they are handled: what is acknowledged to the broker survives the process.
//!
//! ```text
//!  link ──arrival──► keeper ──write, then receipt──► link ──PUBACK──► broker
//!                      │  ▲
//!             delivery │  │ ticket: settled or refused
//!                      ▼  │
//!                    the gateway's pump, and the instance that owns the device
//! ```
//!
//! One task owns the machine ([`moorline_core::inbox`]) and its file. While the disk refuses, a message is acknowledged only
//! when it was handled; while the inbox is full, nothing is taken in and so nothing acknowledged.

mod keeper;
mod log_file;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use moorline_core::inbox::{Deadline, Limits, Number, Refusal};
use moorline_core::message::Downlink;
use moorline_core::time::TimestampMs;
use tokio::sync::{mpsc, watch};

use crate::clock::Clock;
use crate::link::Arrivals;
use keeper::Keeper;

/// Deliveries on their way to the pump.
const DELIVERIES: usize = 64;
/// What became of deliveries, on its way back.
const OUTCOMES: usize = 256;

/// How messages from the platform are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboxSettings {
    /// Where the log lies; made when it is not there.
    pub directory: PathBuf,
    /// Bounds.
    pub limits: Limits,
    /// Whether a message is acknowledged only when it survives a power cut.
    pub sync: bool,
    /// Otherwise it does so long after.
    pub commit_interval: Duration,
}

/// The inbox as others see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InboxStatus {
    /// Messages that wait to be handled.
    pub waiting: usize,
    /// Their bytes.
    pub waiting_bytes: usize,
    /// Messages that arrived and were kept, since the process started.
    pub arrived: u64,
    /// Redeliveries that were here before.
    pub duplicates: u64,
    /// Requests that expired before a connector had them, those among them that the last process left.
    pub rpcs_expired: u64,
    /// Updates of shared attributes that no connector took.
    pub dropped: u64,
    /// Since when the disk refuses, by the wall clock: what is not handled does not survive the process, and is not
    /// acknowledged.
    pub in_memory_since: Option<TimestampMs>,
}

/// A message to be handled.
#[derive(Debug)]
pub struct Delivery {
    /// The message.
    pub downlink: Downlink,
    /// After this a request must not be carried out.
    pub deadline: Option<Deadline>,
    /// It was left by the process before this one.
    pub recovered: bool,
    /// Where to say what became of it.
    pub ticket: Option<Ticket>,
}

/// A message that nobody keeps.
impl From<Downlink> for Delivery {
    fn from(downlink: Downlink) -> Self {
        Self {
            downlink,
            deadline: None,
            recovered: false,
            ticket: None,
        }
    }
}

impl Delivery {
    /// It was handled, or answered.
    pub async fn settle(self) {
        if let Some(ticket) = self.ticket {
            ticket.settle().await;
        }
    }
}

/// The right to say, once, what became of a message. Dropped without a word it leaves the message to the next process.
#[derive(Debug)]
pub struct Ticket {
    number: Number,
    outcomes: mpsc::Sender<Outcome>,
}

impl Ticket {
    /// It was handled, or answered by the gateway.
    pub async fn settle(self) {
        self.tell(None).await;
    }

    /// It could not be handed on.
    pub async fn refuse(self, refusal: Refusal) {
        self.tell(Some(refusal)).await;
    }

    async fn tell(self, refused: Option<Refusal>) {
        let outcome = Outcome {
            number: self.number,
            refused,
        };
        match self.outcomes.send(outcome).await {
            // Closed: the gateway is stopping, and the next process has the message.
            Ok(()) | Err(_) => {}
        }
    }
}

struct Outcome {
    number: Number,
    refused: Option<Refusal>,
}

/// The running inbox. It ends with the link.
#[derive(Debug)]
pub struct Inbox {
    /// What is to be handled.
    pub deliveries: mpsc::Receiver<Delivery>,
    /// The inbox as it is.
    pub status: watch::Receiver<InboxStatus>,
    /// Its task.
    pub keeper: tokio::task::JoinHandle<()>,
}

/// Opens the log and goes on where the last process ended. Never fails: without a usable file messages are kept in memory and
/// acknowledged when they were handled.
pub async fn open(settings: InboxSettings, arrivals: Arrivals, clock: Clock) -> Inbox {
    let (deliveries_in, deliveries) = mpsc::channel(DELIVERIES);
    let (status_in, status) = watch::channel(InboxStatus::default());
    let keeper = Keeper::open(settings, deliveries_in, status_in, clock).await;
    let keeper = tokio::spawn(keeper.run(arrivals));
    Inbox {
        deliveries,
        status,
        keeper,
    }
}
