//! The audit: nothing of the gateway's is believed that an outsider can count.
//!
//! ```text
//!  source ──► gateway ──► fault proxy ──► broker ──► subscriber ──► ledger  (saw)
//!    │                        └── tap: publishes with a PUBACK ─────► ledger  (acknowledged)
//!    └── witness: "accepted up to n" ───────────────────────────────► ledger  (witnessed)
//! ```
//!
//! The subscriber connects directly to the broker, with a session that outlives connections. What a broker
//! acknowledged and then lost by its own death is told apart by the tap: it is the broker's loss, not the gateway's.

mod last_word;
mod ledger;
mod subscriber;
#[cfg(test)]
mod tests;
mod witness;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::warn;

use crate::audit::telemetry;
use crate::fault_proxy::tap::Acknowledged;

pub use crate::audit::{RUN, Serials, TELEMETRY_TOPIC};
pub use ledger::{Balance, Ledger, Moment};

/// Inputs that may wait for the ledger's owner. A full queue holds the proxy and the subscriber back.
const INPUTS: usize = 1_024;
/// How often the running totals are published.
const TOTALS_EVERY: Duration = Duration::from_millis(200);

/// What comes in.
#[derive(Debug)]
enum Input {
    Saw(Bytes),
    Witnessed { device: String, serial: u64 },
    Excuse { device: String, serial: u64 },
    Balance(oneshot::Sender<Balance>),
}

/// The running totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Different readings seen.
    pub delivered: u64,
    /// Publishes seen, with repeats.
    pub publishes: u64,
    /// Payloads that were not ThingsBoard telemetry.
    pub malformed: u64,
}

/// A running audit. Dropping it ends it.
#[derive(Debug)]
pub struct Audit {
    inputs: mpsc::Sender<Input>,
    totals: watch::Receiver<Totals>,
    subscribed: watch::Receiver<bool>,
    witness: SocketAddr,
    tasks: Vec<JoinHandle<()>>,
}

impl Audit {
    /// Starts the ledger's owner, the subscriber at `broker` and the witness's listener.
    ///
    /// `counting_keys` are the keys whose readings are serial numbers. The receiver is the tap's other end.
    ///
    /// # Errors
    /// When no port can be bound for the witness.
    pub async fn start(
        broker: SocketAddr,
        counting_keys: &[&str],
        acknowledged: mpsc::Receiver<Acknowledged>,
    ) -> io::Result<Self> {
        let (inputs, inbox) = mpsc::channel(INPUTS);
        let (totalling, totals) = watch::channel(Totals::default());
        let (witness, witnessing) = witness::start(inputs.clone()).await?;
        let (subscribed, subscribing) = subscriber::start(broker, inputs.clone());
        let ledger = Ledger::new(counting_keys.iter().copied());
        let owner = tokio::spawn(
            Owner {
                ledger,
                totals: Totals::default(),
            }
            .run(inbox, acknowledged, totalling),
        );
        Ok(Self {
            inputs,
            totals,
            subscribed,
            witness,
            tasks: vec![owner, witnessing, subscribing],
        })
    }

    /// Where a witness may connect to say `device serial` lines.
    #[must_use]
    pub fn witness(&self) -> SocketAddr {
        self.witness
    }

    /// Running totals, published a few times a second.
    #[must_use]
    pub fn totals(&self) -> watch::Receiver<Totals> {
        self.totals.clone()
    }

    /// Whether the subscription stands.
    #[must_use]
    pub fn subscribed(&self) -> watch::Receiver<bool> {
        self.subscribed.clone()
    }

    /// `serial` was handed out to somebody who was killed before it could be accepted.
    pub async fn excuse(&self, device: &str, serial: u64) {
        self.put(Input::Excuse {
            device: device.to_owned(),
            serial,
        })
        .await;
    }

    /// The bottom line as of now.
    pub async fn balance(&self) -> Balance {
        let (answer, reply) = oneshot::channel();
        self.put(Input::Balance(answer)).await;
        reply.await.unwrap_or_default()
    }

    async fn put(&self, input: Input) {
        if self.inputs.send(input).await.is_err() {
            warn!("audit: the ledger's owner has ended");
        }
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

struct Owner {
    ledger: Ledger,
    totals: Totals,
}

impl Owner {
    async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Input>,
        mut acknowledged: mpsc::Receiver<Acknowledged>,
        totalling: watch::Sender<Totals>,
    ) {
        let mut tick = tokio::time::interval(TOTALS_EVERY);
        let mut tapped = true;
        loop {
            tokio::select! {
                input = inbox.recv() => match input {
                    Some(Input::Saw(payload)) => self.saw(&payload),
                    Some(Input::Witnessed { device, serial }) => self.ledger.witnessed(&device, serial),
                    Some(Input::Excuse { device, serial }) => self.ledger.excuse(&device, serial),
                    // Nobody waits any more: nothing to tell.
                    Some(Input::Balance(answer)) => answer.send(self.ledger.balance()).unwrap_or(()),
                    None => return,
                },
                publish = acknowledged.recv(), if tapped => match publish {
                    Some(publish) => self.acknowledged(&publish),
                    None => tapped = false,
                },
                _at = tick.tick() => {
                    self.totals.delivered = self.ledger.delivered();
                    totalling.send_replace(self.totals);
                }
            }
        }
    }

    fn saw(&mut self, payload: &[u8]) {
        self.totals.publishes += 1;
        match telemetry::parse(payload) {
            Ok(readings) => {
                for reading in readings.iter() {
                    let moment = Moment {
                        timestamp_ms: reading.ts_ms,
                        serial: reading.serial_beside(|key| self.ledger.counts(key)),
                    };
                    let serial = reading.serial();
                    self.ledger.saw(reading.device, reading.key, moment, serial);
                }
            }
            Err(error) => {
                self.totals.malformed += 1;
                warn!(%error, payload = %String::from_utf8_lossy(payload), "audit: not ThingsBoard telemetry");
            }
        }
    }

    fn acknowledged(&mut self, publish: &Acknowledged) {
        if publish.topic != TELEMETRY_TOPIC {
            return;
        }
        // A payload that cannot be read is counted where the subscriber sees it.
        if let Ok(readings) = telemetry::parse(&publish.payload) {
            for reading in readings.iter() {
                let serial = reading.serial();
                self.ledger
                    .acknowledged(reading.device, reading.key, serial);
            }
        }
    }
}
