//! Between spool and session: reads ahead, packs messages into publishes, and passes acknowledgements back.
//!
//! It runs beside the driver, so that reading and encoding overlap with the wire. What it holds is a copy: the spool
//! forgets a message only when the driver's window says that the broker has it.

use std::pin::pin;
use std::time::Duration;

use moorline_core::identity::Grouping;
use moorline_core::message::{Qos, Sequence};
use moorline_core::spool::dead_letter::Letter;
use moorline_core::thingsboard::{Announced, Encoder, LeftOut, Place, Publish, Run};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tracing::warn;

use crate::spool::{Handed, Outlet, ReadError, SpoolStatus};

/// Batches that wait encoded while the window is full.
pub(super) const BATCHES: usize = 2;
/// One read: enough to fill a few of the largest publishes.
const READ_BYTES_MAX: usize = 256 * 1024;
const READ_RECORDS_MAX: usize = 1024;
/// Acknowledgements are passed to the spool this much later, many with one wake-up of its thread.
const ACK_PAUSE: Duration = Duration::from_millis(5);
/// After a failed read.
const READ_RETRY: Duration = Duration::from_secs(1);

/// What the driver wants; only the latest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    /// Names the session.
    pub(super) generation: u64,
    /// Everything through this turn may have been sent before this session: it is sent again as it was.
    pub(super) sent: Sequence,
    /// The smaller of our limit and the broker's.
    pub(super) packet_bytes_max: usize,
    /// Whether there is a session to feed.
    pub(super) running: bool,
    /// Everything through this one is acknowledged by the broker.
    pub(super) acked: Sequence,
    /// Of what is acknowledged, and since the link began: readings the platform will never take.
    pub(super) set_aside_readings: u64,
    /// Messages through this one are published one by one.
    pub(super) careful_through: Option<Sequence>,
    /// This one is set aside.
    pub(super) guilty: Option<Sequence>,
    /// Publishes have names: what is sent again is grouped as before.
    pub(super) keep_grouping: bool,
}

/// Publishes in the order in which they must go.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) generation: u64,
    pub(super) publishes: Vec<Publish>,
    pub(super) left_out: Vec<LeftOut>,
}

/// Ends when the driver or the spool is gone.
pub(super) async fn feed(
    outlet: Outlet,
    qos: Vec<Qos>,
    mut orders: watch::Receiver<Order>,
    batches: mpsc::Sender<Batch>,
    letters: mpsc::Receiver<Letter>,
) {
    let mut spool = outlet.status();
    let order = *orders.borrow_and_update();
    let mut feeder = Feeder {
        outlet,
        qos,
        letters,
        order,
        begun: false,
        position: order.acked,
        ready: None,
        announced: Announced::default(),
        grouping: Grouping::default(),
        acked: order.acked,
        set_aside_readings: order.set_aside_readings,
    };
    let mut pause = pin!(sleep(Duration::ZERO));
    let mut pausing = false;
    loop {
        if feeder.is_behind() && !pausing {
            pause.set(sleep(ACK_PAUSE));
            pausing = true;
        }
        let retry = match feeder.read_ahead(&mut spool).await {
            Ok(wait) => wait,
            Err(ReadError::Closed) => return,
            Err(ReadError::Storage(error)) => {
                warn!(%error, "the spool cannot be read; the link waits and tries again");
                Some(READ_RETRY)
            }
        };
        tokio::select! {
            changed = orders.changed() => {
                if changed.is_err() {
                    feeder.acknowledge().await;
                    return;
                }
                let order = *orders.borrow_and_update();
                feeder.follow(order);
            }
            () = &mut pause, if pausing => {
                pausing = false;
                feeder.acknowledge().await;
            }
            permit = batches.reserve(), if feeder.ready.is_some() => {
                let Ok(permit) = permit else { return };
                permit.send(feeder.ready.take().unwrap_or_default());
            }
            changed = spool.changed(), if feeder.ready.is_none() => {
                if changed.is_err() {
                    return;
                }
            }
            () = sleep(retry.unwrap_or_default()), if retry.is_some() => {}
        }
    }
}

struct Feeder {
    outlet: Outlet,
    /// Of each stream.
    qos: Vec<Qos>,
    letters: mpsc::Receiver<Letter>,
    order: Order,
    /// The spool knows of this session.
    begun: bool,
    /// Everything through this turn was read for this session.
    position: Sequence,
    ready: Option<Batch>,
    announced: Announced,
    /// What shares a publish and is not acknowledged.
    grouping: Grouping,
    /// What the spool was told is acknowledged.
    acked: Sequence,
    /// What the spool was told is set aside.
    set_aside_readings: u64,
}

impl Feeder {
    /// Whether the spool has not been told of everything.
    fn is_behind(&self) -> bool {
        self.acked < self.order.acked || self.set_aside_readings < self.order.set_aside_readings
    }

    async fn acknowledge(&mut self) {
        if self.is_behind() {
            // The driver sends a letter before it lets its message be forgotten: it is here by now.
            while let Ok(letter) = self.letters.try_recv() {
                self.outlet.keep(letter).await;
            }
            let set_aside = self.order.set_aside_readings - self.set_aside_readings;
            self.acked = self.order.acked;
            self.set_aside_readings = self.order.set_aside_readings;
            self.outlet.ack(self.acked, set_aside).await;
        }
    }

    fn follow(&mut self, order: Order) {
        if order.generation != self.order.generation {
            self.begun = false;
            self.position = order.acked;
            // Devices the platform knew on the session before: without this, RPC to a quiet device stops.
            let publishes: Vec<_> = self.announced.announcements().collect();
            self.ready = (order.running && !publishes.is_empty()).then(|| Batch {
                generation: order.generation,
                publishes,
                left_out: Vec::new(),
            });
        }
        self.grouping.settled(order.acked);
        self.order = order;
    }

    /// Reads what is next; how long to wait where that has its pace.
    async fn read_ahead(
        &mut self,
        spool: &mut watch::Receiver<SpoolStatus>,
    ) -> Result<Option<Duration>, ReadError> {
        let more = spool.borrow_and_update().more;
        if !self.order.running || self.ready.is_some() {
            return Ok(None);
        }
        if !self.begun {
            // What the last session had acknowledged must not be handed out again.
            self.acknowledge().await;
            self.outlet.begin(self.order.sent).await;
            self.begun = true;
        } else if !more {
            return Ok(None);
        }
        let careful = self.order.careful_through;
        let records_max = match careful {
            Some(through) if self.position < through => 1,
            Some(_) | None => READ_RECORDS_MAX,
        };
        let (handed, wait) = self.outlet.read(READ_BYTES_MAX, records_max).await?;
        let Some(newest) = handed.last().map(|handed| handed.turn) else {
            return Ok(wait);
        };
        let mut encoder = Encoder::new(self.order.packet_bytes_max);
        encoder.keep_grouping(self.grouping.after(self.position));
        for handed in &handed {
            self.announced.observe(&handed.uplink);
            encoder.begin(self.run_of(handed));
            let place = Place {
                turn: handed.turn,
                sequence: handed.sequence,
            };
            if self.order.guilty == Some(handed.turn) {
                encoder.set_aside(place, &handed.uplink);
            } else {
                encoder.push(place, &handed.uplink);
            }
        }
        let encoded = encoder.finish();
        if self.order.keep_grouping {
            for (begins, ends) in encoded.publishes.iter().filter_map(Publish::bounds) {
                self.grouping.note(begins, ends);
            }
        }
        self.position = newest;
        self.ready = Some(Batch {
            generation: self.order.generation,
            publishes: encoded.publishes,
            left_out: encoded.left_out,
        });
        Ok(None)
    }

    fn run_of(&self, handed: &Handed) -> Run {
        Run {
            qos: self
                .qos
                .get(usize::from(handed.stream.0))
                .copied()
                .unwrap_or_default(),
            historical: handed.historical,
            stream: handed.stream,
        }
    }
}
