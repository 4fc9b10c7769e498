//! One life of a guest: instantiated, started, driven by its timer and its stream as an instance drives it, and called
//! by the suite in between.

use std::sync::Arc;
use std::time::Duration;

use moorline_core::message::DeviceName;
use moorline_core::swap::Failure;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::bench::Bench;
use super::device::Seen;
use super::platform::{Heard, Platform};
use crate::clock::Clock;
use crate::plugins::bindings::connector::exports::moorline::edge::connector_guest::{
    Description, Event, Fault, HandOver, LinkState, RpcRequest, Setup,
};
use crate::plugins::grants::Sandbox;
use crate::plugins::guest::Guest;
use crate::plugins::host::{Confined, KeyValues, PendingRpcs, Reporting, Resident};
use crate::plugins::instance::{call_with, stream_event};
use crate::plugins::names::Names;
use crate::plugins::streams::{StreamEvent, Streams};

/// As an instance has it: a guest that answered its timer with a fault is woken again after this long.
const WAKE_AFTER_FAULT: Duration = Duration::from_secs(1);
/// How often a condition is looked at while nothing happens.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Timer calls in a row that ask for the next at once and do nothing: a guest that burns the processor.
const IDLE_WAKES_MAX: u32 = 100;
/// What counts as "at once": the least an instance waits.
const AT_ONCE: Duration = Duration::from_millis(1);

/// Why a life came to an end before its time.
#[derive(Clone, Debug)]
pub(super) enum End {
    /// It trapped, stalled or took too much memory in this call.
    Failed(&'static str, Failure),
    /// `start` said no.
    Refused(Fault),
    /// It asks to be woken again and again, and does nothing.
    Restless,
}

/// The first call.
pub(super) const START: &str = "start()";

fn failed_in(call: &'static str) -> impl FnOnce(Failure) -> End {
    move |failure| End::Failed(call, failure)
}

/// Waits for the timer; for ever if none is set.
async fn until_wake(wake: Option<Instant>) {
    match wake {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// A guest under test and everything around it.
pub(super) struct Life<'a> {
    bench: &'a Bench,
    guest: Guest,
    pub(super) platform: Platform,
    streams: mpsc::Receiver<StreamEvent>,
    clock: Clock,
    wake: Option<Instant>,
    idle_wakes: u32,
    /// Faults that `handle` answered with.
    pub(super) faults: Vec<Fault>,
    requests: u64,
    _link: watch::Sender<u64>,
}

impl<'a> Life<'a> {
    /// A guest that is not started yet.
    pub(super) async fn conceived(bench: &'a Bench) -> Result<Self, End> {
        let instance: Arc<str> = "conformance/device".into();
        let sandbox = Sandbox::closed(&bench.limits);
        let mut guest = bench
            .loaded
            .instantiate(&sandbox)
            .await
            .map_err(failed_in("instantiating it"))?;
        let clock = Clock::start();
        let (platform, appender, claims) = Platform::start();
        let (streams, events) = Streams::spawn(&bench.grants());
        let (gap, gaps) = watch::channel(0);
        guest.adopt(Box::new(Resident {
            instance,
            clock,
            appender,
            claims,
            rpcs: PendingRpcs::default(),
            streams,
            state: KeyValues::of(
                &bench.state_directory,
                "conformance",
                bench.limits.state_bytes,
            ),
            directories: None,
            confined: Confined::new(clock.now(), &sandbox),
            report: Reporting::new(&moorline_core::report::Rules::default(), gaps),
            names: Names::default(),
            readings: 0,
            back_pressure: 0,
            refused: None,
            devices: std::collections::BTreeSet::new(),
        }));
        Ok(Self {
            bench,
            guest,
            platform,
            streams: events,
            clock,
            wake: None,
            idle_wakes: 0,
            faults: Vec::new(),
            requests: 0,
            _link: gap,
        })
    }

    /// A guest that is started with the good configuration.
    pub(super) async fn begin(bench: &'a Bench) -> Result<Self, End> {
        let mut life = Self::conceived(bench).await?;
        life.start(&bench.configuration.to_string(), None).await?;
        // As after every start, so that each generation knows.
        drop(life.tell(Event::LinkChanged(LinkState::Up)).await?);
        Ok(life)
    }

    pub(super) async fn start(
        &mut self,
        configuration: &str,
        hand_over: Option<HandOver>,
    ) -> Result<(), End> {
        let setup = Setup {
            instance: "conformance/device".to_owned(),
            configuration: configuration.to_owned(),
            granted_streams: self
                .bench
                .grants()
                .into_iter()
                .map(|(name, _)| name)
                .collect(),
            hand_over,
        };
        match self.guest.start(&setup).await {
            Ok(Ok(wake)) => {
                self.keep_state();
                self.wake = wake.map(|after| Instant::now() + after);
                Ok(())
            }
            Ok(Err(fault)) => Err(End::Refused(fault)),
            Err(failure) => Err(End::Failed(START, failure)),
        }
    }

    pub(super) async fn describe(&mut self) -> Result<Description, End> {
        self.guest.describe().await.map_err(failed_in("describe()"))
    }

    /// Ends it; what it hands over.
    pub(super) async fn stop(mut self) -> Result<HandOver, End> {
        self.guest.stop().await.map_err(failed_in("stop()"))
    }

    /// Tells the guest something.
    pub(super) async fn tell(&mut self, event: Event) -> Result<Result<(), Fault>, End> {
        let handled = self.guest.handle(&event).await;
        let answer = handled.map_err(failed_in(call_with(&event)))?;
        self.keep_state();
        match answer {
            Ok(wake) => {
                if let Some(after) = wake {
                    self.wake = Some(Instant::now() + after);
                }
                Ok(Ok(()))
            }
            Err(fault) => {
                self.wake = self.wake.or(Some(Instant::now() + WAKE_AFTER_FAULT));
                self.faults.push(fault.clone());
                Ok(Err(fault))
            }
        }
    }

    /// Asks as the platform would. Gives back the number the answer will have.
    pub(super) async fn ask(
        &mut self,
        device: &DeviceName,
        method: &str,
        params: &str,
    ) -> Result<(u64, Result<(), Fault>), End> {
        self.requests += 1;
        let (number, now) = (self.requests, self.clock.now());
        let id = self
            .guest
            .resident()
            .and_then(|resident| resident.rpcs.remember(device.clone(), number, now))
            .unwrap_or_default();
        let request = RpcRequest {
            id,
            device: device.as_str().to_owned(),
            method: method.to_owned(),
            params: params.to_owned(),
        };
        Ok((number, self.tell(Event::Rpc(request)).await?))
    }

    /// Lets it live until `condition` holds; false when `limit` passes first.
    pub(super) async fn until(
        &mut self,
        limit: Duration,
        condition: impl Fn(&Heard, &Seen) -> bool,
    ) -> Result<bool, End> {
        let deadline = Instant::now() + limit;
        loop {
            let holds = condition(&self.platform.heard(), &self.bench.seen());
            if holds || Instant::now() > deadline {
                return Ok(holds);
            }
            let wake = self.wake;
            tokio::select! {
                biased;
                Some(event) = self.streams.recv() => {
                    drop(self.tell(stream_event(event)).await?);
                }
                // Only if it asked: one that is called unasked, on a machine that is late, might seem to work.
                () = until_wake(wake) => self.on_timer().await?,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn on_timer(&mut self) -> Result<(), End> {
        self.wake = None;
        let before = self.deeds();
        drop(self.tell(Event::Timer).await?);
        let at_once = self
            .wake
            .is_some_and(|wake| wake <= Instant::now() + AT_ONCE);
        self.idle_wakes = if at_once && self.deeds() == before {
            self.idle_wakes + 1
        } else {
            0
        };
        if self.idle_wakes > IDLE_WAKES_MAX {
            return Err(End::Restless);
        }
        Ok(())
    }

    /// What it has done so far that somebody outside could notice.
    fn deeds(&self) -> (u64, u64) {
        (self.platform.heard().offers, self.bench.seen().requests)
    }

    /// Why its last batch that never can be taken was refused.
    pub(super) fn refused(&mut self) -> Option<String> {
        self.guest
            .resident()
            .and_then(|resident| resident.refused.clone())
    }

    /// State lives as long as the life does; nothing is written to a disk.
    fn keep_state(&mut self) {
        drop(
            self.guest
                .resident()
                .and_then(|resident| resident.state.take_changes()),
        );
    }
}
