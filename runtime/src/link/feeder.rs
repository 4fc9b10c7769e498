//! Between spool and session: reads ahead, packs messages into publishes, and passes acknowledgements back.
//!
//! It runs beside the driver, so that reading and encoding overlap with the wire. What it holds is a copy: the spool
//! forgets a message only when the driver's window says that the broker has it.

use std::pin::pin;
use std::time::Duration;

use moorline_core::identity::Grouping;
use moorline_core::link::batching::{self, Asks, Filling};
use moorline_core::message::{Qos, Sequence};
use moorline_core::spool::dead_letter::Letter;
use moorline_core::thingsboard::limits::Opened;
use moorline_core::thingsboard::{
    Announced, Encoded, Encoder, LeftOut, Place, Publish, Run, Shape,
};
use moorline_core::time::Instant;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tracing::warn;

use crate::clock::Clock;
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
    /// How large a publish may get.
    pub(super) shape: Shape,
    /// How long one that is not full may be filled.
    pub(super) age_max: Duration,
    /// Publishes that were asked for since the link began; none where they are taken as they come.
    pub(super) asked: Option<u64>,
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
    clock: Clock,
) {
    let mut spool = outlet.status();
    let order = *orders.borrow_and_update();
    let mut feeder = Feeder {
        outlet,
        qos,
        letters,
        clock,
        order,
        begun: false,
        position: order.acked,
        ready: None,
        encoder: Encoder::shaped(order.shape, Opened::default()),
        begun_at: None,
        answered: 0,
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
            permit = batches.reserve(), if feeder.may_go() => {
                let Ok(permit) = permit else { return };
                permit.send(feeder.take());
            }
            () = sleep_until(clock, feeder.close_at()), if feeder.ready.is_none() => feeder.close(),
            changed = spool.changed(), if feeder.ready.is_none() => {
                if changed.is_err() {
                    return;
                }
            }
            () = sleep(retry.unwrap_or_default()), if retry.is_some() => {}
        }
    }
}

async fn sleep_until(clock: Clock, at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(clock.deadline(at)).await,
        None => std::future::pending().await,
    }
}

struct Feeder {
    outlet: Outlet,
    /// Of each stream.
    qos: Vec<Qos>,
    letters: mpsc::Receiver<Letter>,
    clock: Clock,
    order: Order,
    /// The spool knows of this session.
    begun: bool,
    /// Everything through this turn was read for this session.
    position: Sequence,
    ready: Option<Batch>,
    /// Holds the publish that is being filled.
    encoder: Encoder,
    /// Since when.
    begun_at: Option<Instant>,
    /// The last of what was asked for that is on its way in this session.
    answered: u64,
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
        let another_session = order.generation != self.order.generation;
        let another_shape = order.shape != self.order.shape;
        self.grouping.settled(order.acked);
        self.order = order;
        if another_session {
            self.begun = false;
            self.position = order.acked;
            // The first may go as it is: whether it was asked for before or after the session began does not show here.
            self.answered = 0;
            self.begun_at = None;
            // Devices the platform knew on the session before: without this, RPC to a quiet device stops.
            let mut opened = Opened::default();
            let publishes: Vec<_> = self.announced.announcements(&mut opened).collect();
            self.ready = (order.running && !publishes.is_empty()).then(|| Batch {
                generation: order.generation,
                publishes,
                left_out: Vec::new(),
            });
            self.encoder = Encoder::shaped(order.shape, opened);
            self.keep_grouping();
        } else if another_shape {
            self.encoder.close();
            self.collect();
            let nothing = Encoder::shaped(order.shape, Opened::default());
            let opened = std::mem::replace(&mut self.encoder, nothing).into_opened();
            self.encoder = Encoder::shaped(order.shape, opened);
            self.keep_grouping();
        }
    }

    /// What shared a publish in a session before shares it again, under the same name.
    fn keep_grouping(&mut self) {
        let breaks = self.grouping.after(self.position);
        self.encoder.keep_grouping(breaks);
    }

    fn asks(&self) -> Asks {
        match self.order.asked {
            None => Asks::Never,
            Some(asked) if asked > self.answered => Asks::Waiting,
            Some(_) => Asks::NotYet,
        }
    }

    /// What is ready goes at once, or when it is asked for: what waits here can still be overtaken.
    fn may_go(&self) -> bool {
        self.ready.is_some() && self.asks() != Asks::NotYet
    }

    /// Enough to fill a few of the largest publishes, or about one where each is asked for.
    fn records_max(&self) -> usize {
        let points = self.order.shape.cost_max.telemetry_points;
        match self.asks() {
            Asks::Never => READ_RECORDS_MAX,
            Asks::Waiting | Asks::NotYet => usize::try_from(points)
                .unwrap_or(READ_RECORDS_MAX)
                .clamp(1, READ_RECORDS_MAX),
        }
    }

    fn filling(&self) -> Option<Filling> {
        let age_max = self.order.age_max;
        self.begun_at
            .map(|begun_at| batching::judge(self.asks(), age_max, begun_at, self.clock.now()))
    }

    fn is_due(&self) -> bool {
        self.filling() == Some(Filling::Close)
    }

    /// When the publish that is being filled must go.
    fn close_at(&self) -> Option<Instant> {
        match self.filling()? {
            Filling::Close => Some(self.clock.now()),
            Filling::Until(at) => Some(at),
            Filling::UntilAsked => None,
        }
    }

    fn close(&mut self) {
        self.encoder.close();
        self.collect();
    }

    /// Makes a batch of what is complete.
    fn collect(&mut self) {
        let Encoded {
            publishes,
            left_out,
        } = self.encoder.take();
        if !self.encoder.is_filling() {
            self.begun_at = None;
        } else if self.begun_at.is_none() || !publishes.is_empty() {
            self.begun_at = Some(self.clock.now());
        }
        if publishes.is_empty() && left_out.is_empty() {
            return;
        }
        if self.order.keep_grouping {
            for (begins, ends) in publishes.iter().filter_map(Publish::bounds) {
                self.grouping.note(begins, ends);
            }
        }
        let batch = self.ready.get_or_insert_with(|| Batch {
            generation: self.order.generation,
            ..Batch::default()
        });
        batch.publishes.extend(publishes);
        batch.left_out.extend(left_out);
    }

    fn take(&mut self) -> Batch {
        self.answered = self.order.asked.unwrap_or_default();
        self.ready.take().unwrap_or_default()
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
        let careful = self
            .order
            .careful_through
            .is_some_and(|through| self.position < through);
        let records_max = if careful { 1 } else { self.records_max() };
        let (handed, wait) = self.outlet.read(READ_BYTES_MAX, records_max).await?;
        let Some(newest) = handed.last().map(|handed| handed.turn) else {
            return Ok(wait);
        };
        for handed in &handed {
            self.announced.observe(&handed.uplink);
            self.encoder.begin(run(&self.qos, handed));
            let place = Place {
                turn: handed.turn,
                sequence: handed.sequence,
            };
            if self.order.guilty == Some(handed.turn) {
                self.encoder.set_aside(place, &handed.uplink);
            } else {
                self.encoder.push(place, &handed.uplink);
            }
        }
        self.position = newest;
        self.collect();
        if careful || self.is_due() {
            self.close();
        }
        Ok(None)
    }
}

fn run(qos: &[Qos], handed: &Handed) -> Run {
    Run {
        qos: qos
            .get(usize::from(handed.stream.0))
            .copied()
            .unwrap_or_default(),
        historical: handed.historical,
        stream: handed.stream,
    }
}
