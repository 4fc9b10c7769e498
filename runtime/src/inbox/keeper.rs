//! The one owner of the inbox.

use std::collections::BTreeMap;
use std::time::Duration;

use moorline_core::inbox::{self, Arrived, Due, Number, Refusal, Verdict, frame};
use moorline_core::message::Downlink;
use moorline_core::time::{Instant, TimestampMs};
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use super::log_file::{self, LogFile};
use super::{Delivery, InboxSettings, InboxStatus, OUTCOMES, Outcome, Ticket};
use crate::clock::Clock;
use crate::link::{Arrival, Arrivals, Receipt};
use crate::log_gate::LogGate;

/// Arrivals that share a write.
const BATCH: usize = 64;
/// A log this much longer than what it must say is written anew.
const SLACK_BYTES: u64 = 256 * 1024;
/// After the disk refused.
const DISK_RETRY: Duration = Duration::from_secs(10);
/// Lines in a row about messages that nobody takes.
const LINES_BURST: u32 = 20;
/// After that, one line per this long.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

pub(super) struct Keeper {
    settings: InboxSettings,
    clock: Clock,
    inbox: inbox::Inbox,
    log: Option<LogFile>,
    /// When the disk is tried again, or what was written is taken to it.
    disk_at: Option<Instant>,
    /// What the broker waits for until the message is handled: the disk has not got it.
    owed: BTreeMap<Number, Receipt>,
    /// It found no room: nothing more is taken in before it.
    stuck: Option<Arrival>,
    deliveries: mpsc::Sender<Delivery>,
    outcomes: (mpsc::Sender<Outcome>, mpsc::Receiver<Outcome>),
    status: watch::Sender<InboxStatus>,
    /// Since when the disk refuses.
    in_memory_since: Option<TimestampMs>,
    /// What the last process left could neither be read nor put aside.
    unread: bool,
    lines: LogGate,
}

impl Keeper {
    pub(super) async fn open(
        settings: InboxSettings,
        deliveries: mpsc::Sender<Delivery>,
        status: watch::Sender<InboxStatus>,
        clock: Clock,
    ) -> Self {
        let directory = settings.directory.clone();
        let read = log_file::blocking(move || Ok(log_file::read(&directory))).await;
        let read = read.ok().flatten();
        let unread = read.is_none();
        let records = read.unwrap_or_default();
        let (inbox, expired) =
            inbox::Inbox::recover(settings.limits, records, clock.wall(), clock.now());
        let mut lines = LogGate::new(clock.now(), LINES_BURST, LINE_INTERVAL);
        for downlink in &expired {
            tell_expired(&mut lines, clock, downlink);
        }
        if !inbox.is_empty() {
            info!(
                messages = inbox.len(),
                "messages from the platform that were acknowledged and not handled are handed out again"
            );
        }
        let mut keeper = Self {
            settings,
            clock,
            inbox,
            log: None,
            disk_at: None,
            owed: BTreeMap::new(),
            stuck: None,
            deliveries,
            outcomes: mpsc::channel(OUTCOMES),
            status,
            in_memory_since: None,
            unread,
            lines,
        };
        keeper.begin_log().await;
        keeper.show();
        keeper
    }

    pub(super) async fn run(mut self, arrivals: Arrivals) {
        let Arrivals {
            mut arrivals,
            receipts,
        } = arrivals;
        loop {
            let now = self.clock.now();
            self.inbox.wake(now);
            let wake_at = self
                .inbox
                .poll_timeout()
                .into_iter()
                .chain(self.disk_at)
                .min();
            tokio::select! {
                Some(outcome) = self.outcomes.1.recv() => self.hear(outcome, &receipts).await,
                true = has_room(&self.deliveries), if self.inbox.has_due() => self.hand_on(now),
                arrival = arrivals.recv(), if self.stuck.is_none() => {
                    let Some(arrival) = arrival else { break };
                    self.take_in(arrival, || arrivals.try_recv().ok(), &receipts).await;
                }
                () = until(self.clock, wake_at) => self.time(&receipts).await,
            }
            self.show();
        }
        // The link has ended. What was handled by now need not be handed out again.
        while let Ok(outcome) = self.outcomes.1.try_recv() {
            self.hear(outcome, &receipts).await;
        }
        self.commit().await;
    }

    /// Hands on what is due, as far as there is room.
    fn hand_on(&mut self, now: Instant) {
        while let Ok(room) = self.deliveries.try_reserve() {
            let Some(due) = self.inbox.next_due(now) else {
                return;
            };
            room.send(delivery(due, &self.outcomes.0));
        }
    }

    /// One arrival, and those that are there already: they share a write.
    async fn take_in(
        &mut self,
        first: Arrival,
        mut more: impl FnMut() -> Option<Arrival>,
        receipts: &mpsc::Sender<Receipt>,
    ) {
        let mut frames = Vec::new();
        let mut safe = Vec::new();
        let mut next = Some(first);
        let mut taken = 0;
        while let Some(arrival) = next {
            let (wall, now) = (self.clock.wall(), self.clock.now());
            let Arrival {
                downlink,
                redelivered,
                receipt,
            } = arrival;
            match self.inbox.arrive(&downlink, redelivered, wall, now) {
                Arrived::New { number, frame } => {
                    frames.extend(frame);
                    safe.extend(receipt.map(|receipt| (Some(number), receipt)));
                }
                Arrived::Duplicate => safe.extend(receipt.map(|receipt| (None, receipt))),
                Arrived::Full => {
                    self.stuck = Some(Arrival {
                        downlink,
                        redelivered,
                        receipt,
                    });
                    break;
                }
            }
            taken += 1;
            next = if taken < BATCH { more() } else { None };
        }
        let written = self.write(frames).await;
        for (number, receipt) in safe {
            match number {
                Some(number) if !written => {
                    self.owed.insert(number, receipt);
                }
                Some(_) | None => give_back(receipts, receipt).await,
            }
        }
    }

    async fn hear(&mut self, outcome: Outcome, receipts: &mpsc::Sender<Receipt>) {
        let Outcome { number, refused } = outcome;
        let over = match refused {
            None => true,
            Some(refusal) => match self.inbox.refused(number, refusal, self.clock.now()) {
                Verdict::Later | Verdict::Gone => false,
                Verdict::Dropped => {
                    self.tell_dropped(refusal);
                    true
                }
            },
        };
        if over {
            self.settle(number, receipts).await;
        }
    }

    async fn settle(&mut self, number: Number, receipts: &mpsc::Sender<Receipt>) {
        if let Some(frame) = self.inbox.settled(number) {
            // Should it not reach the disk, the message is handed out once more than need be.
            self.write(frame).await;
        }
        if let Some(receipt) = self.owed.remove(&number) {
            give_back(receipts, receipt).await;
        }
        if let Some(stuck) = self.stuck.take() {
            self.take_in(stuck, || None, receipts).await;
        }
    }

    async fn time(&mut self, receipts: &mpsc::Sender<Receipt>) {
        let now = self.clock.now();
        for (number, downlink, handed) in self.inbox.expire(now) {
            if !handed {
                tell_expired(&mut self.lines, self.clock, &downlink);
            }
            self.settle(number, receipts).await;
        }
        if self.disk_at.is_some_and(|at| at <= now) {
            self.disk_at = None;
            if self.log.is_some() {
                self.commit().await;
            } else {
                self.begin_log().await;
                if self.log.is_some() {
                    for (_, receipt) in std::mem::take(&mut self.owed) {
                        give_back(receipts, receipt).await;
                    }
                }
            }
        }
    }

    /// Whether it is as safe as the settings want.
    async fn write(&mut self, frames: Vec<u8>) -> bool {
        let Some(log) = &mut self.log else {
            return false;
        };
        if frames.is_empty() {
            return true;
        }
        if let Err(error) = log.append(frames, self.settings.sync).await {
            self.lose_log(&error);
            return false;
        }
        if log.is_behind() {
            let commit_at = self.clock.now() + self.settings.commit_interval;
            self.disk_at.get_or_insert(commit_at);
        }
        let needed = self.inbox.bytes() as u64;
        if log.bytes > SLACK_BYTES + 2 * needed {
            self.begin_log().await;
        }
        true
    }

    async fn commit(&mut self) {
        if let Some(log) = self.log.as_mut().filter(|log| log.is_behind())
            && let Err(error) = log.sync().await
        {
            self.lose_log(&error);
        }
    }

    /// Begins a log that says no more than it must.
    async fn begin_log(&mut self) {
        let frames: Vec<u8> = self
            .inbox
            .snapshot()
            .flat_map(|record| frame::encode(&record))
            .collect();
        let replaced = match &self.log {
            Some(log) => log.replaced(frames).await,
            None => {
                let (directory, unread) = (self.settings.directory.clone(), self.unread);
                let begun = log_file::blocking(move || {
                    if unread && !log_file::set_aside(&directory) {
                        return Err(std::io::ErrorKind::ResourceBusy.into());
                    }
                    log_file::replace(&directory, &frames)
                });
                begun.await
            }
        };
        match replaced {
            Ok(log) => {
                if self.in_memory_since.take().is_some() {
                    info!("the inbox is on the disk again");
                }
                self.log = Some(log);
                self.unread = false;
                self.disk_at = None;
            }
            Err(error) => self.lose_log(&error),
        }
    }

    fn lose_log(&mut self, error: &std::io::Error) {
        if self.in_memory_since.is_none() {
            self.in_memory_since = Some(self.clock.wall());
            error!(
                directory = %self.settings.directory.display(), %error,
                "the inbox cannot be written: messages from the platform are kept in memory, and acknowledged when they are handled"
            );
        }
        self.log = None;
        self.disk_at = Some(self.clock.now() + DISK_RETRY);
    }

    fn tell_dropped(&mut self, refusal: Refusal) {
        let why = match refusal {
            Refusal::UnknownDevice => "no connector has its device connected",
            Refusal::Busy => "its connector is busy",
            Refusal::Failed => "its connector fails over it each time",
        };
        if let Some(more) = self.lines.admit(self.clock.now()) {
            warn!(why, more, "a message from the platform is dropped");
        }
    }

    fn show(&self) {
        let figures = self.inbox.figures();
        let status = InboxStatus {
            waiting: self.inbox.len(),
            waiting_bytes: self.inbox.bytes(),
            arrived: figures.arrived,
            duplicates: figures.duplicates,
            rpcs_expired: figures.rpcs_expired,
            dropped: figures.dropped,
            in_memory_since: self.in_memory_since,
        };
        self.status
            .send_if_modified(|shown| std::mem::replace(shown, status) != status);
    }
}

fn delivery(due: Due, outcomes: &mpsc::Sender<Outcome>) -> Delivery {
    Delivery {
        downlink: due.downlink,
        deadline: due.deadline,
        recovered: due.recovered,
        ticket: Some(Ticket {
            number: due.number,
            outcomes: outcomes.clone(),
        }),
    }
}

/// False when nobody takes anything any more.
async fn has_room(deliveries: &mpsc::Sender<Delivery>) -> bool {
    deliveries.reserve().await.is_ok()
}

async fn give_back(receipts: &mpsc::Sender<Receipt>, receipt: Receipt) {
    match receipts.send(receipt).await {
        // The link has ended, and its session with it.
        Ok(()) | Err(_) => {}
    }
}

fn tell_expired(lines: &mut LogGate, clock: Clock, downlink: &Downlink) {
    let Downlink::Rpc {
        device,
        request_id,
        method,
        ..
    } = downlink
    else {
        return;
    };
    if let Some(more) = lines.admit(clock.now()) {
        warn!(%device, request_id, method, more, "a request was not carried out: it is older than downlink.rpc_expiry_s");
    }
}

async fn until(clock: Clock, at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(clock.deadline(at)).await,
        None => std::future::pending().await,
    }
}
