//! One task per instance. It owns the guest and everything that outlasts it, and it alone decides when the guest is
//! called: one call at a time, and between two calls the guest can be replaced.
//!
//! ```text
//!  control (swapper) ─┐
//!  downlinks (routes) ─┤                    ┌─► Serving ──── trap, deadline ───► Down ──┐
//!  stream events      ─┼─► one call at a time                                     │      │ after a while
//!  timer, link state  ─┘                    └──────────── instantiate, start ◄──┴──────┘ or on roll-back
//! ```
//!
//! While the instance is down its queues wait; streams stay connected. So it is while a guest that has used up its share of
//! the processor is paused, but for orders.

mod calls;
mod generations;
mod pace;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use moorline_core::confine::{CpuShare, Restart};
use moorline_core::swap::probation::Served;
use moorline_core::swap::{Build, Failure, Generation};
use moorline_core::time::Instant;
use tokio::sync::{mpsc, oneshot, watch};

pub(super) use calls::call_with;
use pace::StreamNews;

use super::bindings::connector::exports::moorline::edge::connector_guest::{
    Event, HandOver, LinkState,
};
use super::grants::Sandbox;
use super::guest::{Guest, Loaded};
use super::heavy::Heavy;
use super::host::Resident;
use super::orders::RestoreReply;
use super::status::{InstanceState, InstanceStatus};
use super::streams::{Happened, StreamEvent};
use crate::clock::Clock;
use crate::inbox::Delivery;

/// Downlinks waiting for an instance; one more is refused as busy.
pub(crate) const DOWNLINKS_QUEUED: usize = 32;
/// Orders of the swapper on their way to an instance.
pub(crate) const CONTROLS_QUEUED: usize = 4;

/// A guest that only waits to be started.
pub(crate) struct Prepared {
    pub(crate) loaded: Arc<Loaded>,
    /// None = it is instantiated only when the old one is gone.
    pub(crate) guest: Option<Guest>,
}

/// What a cut-over that succeeded was like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TookOver {
    /// How long no call could be taken.
    pub(crate) gap: Duration,
    /// Why the new generation did not take the hand-over and began with nothing, if it did.
    pub(crate) clean: Option<Arc<str>>,
}

/// How a cut-over ended at one instance.
pub(crate) type CutOverResult = Result<TookOver, Failure>;

/// What the swapper orders.
pub(crate) enum Control {
    /// Replace the guest.
    CutOver {
        prepared: Box<Prepared>,
        reply: oneshot::Sender<CutOverResult>,
    },
    /// Put the generation before this one back. The answer is how long no call could be taken.
    RollBack {
        from: Generation,
        reply: oneshot::Sender<Duration>,
    },
    /// The generation before the present one is no longer needed.
    Retire { old: Generation },
    /// This generation will not serve; there is none to go back to.
    Abandon { generation: Generation },
    /// Keep what was put beside the state, and start the guest anew with it.
    RestoreState { reply: RestoreReply },
    /// Forget the failures so far, and try again at once if the guest is down.
    Retry,
    /// Stop the guest and end.
    Stop { reply: oneshot::Sender<()> },
}

/// What an instance tells the swapper unasked.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub(crate) slot: usize,
    pub(crate) generation: Generation,
    pub(crate) failure: Failure,
}

/// What an instance is made of.
pub(crate) struct Parts {
    pub(crate) slot: usize,
    pub(crate) name: Arc<str>,
    pub(crate) configuration: String,
    pub(crate) sandbox: Arc<Sandbox>,
    /// A generation that refuses the hand-over is not started without one.
    pub(crate) hand_over_required: bool,
    pub(crate) clock: Clock,
    pub(crate) resident: Box<Resident>,
    pub(crate) controls: mpsc::Receiver<Control>,
    pub(crate) downlinks: mpsc::Receiver<Delivery>,
    pub(crate) streams: mpsc::Receiver<StreamEvent>,
    pub(crate) link_up: watch::Receiver<bool>,
    pub(crate) status: watch::Sender<InstanceStatus>,
    pub(crate) troubles: mpsc::Sender<Trouble>,
}

/// A generation and what it was started with: enough to start it again.
#[derive(Clone)]
struct Serving {
    loaded: Arc<Loaded>,
    hand_over: Option<HandOver>,
    /// When the generation before wanted to be woken. It counts for one that says nothing else.
    timer: Option<Instant>,
}

impl Serving {
    fn build(&self) -> Build {
        self.loaded.build
    }
}

enum Body {
    Up(Guest),
    Down(Down),
}

struct Down {
    resident: Box<Resident>,
    /// When to try again; `None` = only the swapper knows what comes next.
    retry: Option<Instant>,
}

struct Instance {
    slot: usize,
    name: Arc<str>,
    configuration: String,
    sandbox: Arc<Sandbox>,
    hand_over_required: bool,
    clock: Clock,
    body: Option<Body>,
    serving: Option<Serving>,
    /// The generation before, on whose bytes the present one was started, while that one is on probation.
    kept: Option<Serving>,
    restart: Restart,
    cpu: CpuShare,
    /// It has used more than its share of the processor and is not called before then.
    paused_until: Option<Instant>,
    /// Its calls computed for long, and it runs where others do not wait for it until then.
    heavy_until: Option<Instant>,
    /// Since when no call can be taken: from the last call of a guest to the first start that succeeds after it.
    away_since: Option<Instant>,
    wake: Option<Instant>,
    /// When its state, which could not be written, is tried again.
    state_due: Option<Instant>,
    stream_news: StreamNews,
    /// A guest has just started, and does not know yet whether the link is up.
    started: bool,
    /// Readings and refused batches of the generations before.
    before: Served,
    status: watch::Sender<InstanceStatus>,
    troubles: mpsc::Sender<Trouble>,
}

enum Woken {
    Control(Option<Control>),
    Downlink(Delivery),
    Stream(StreamEvent),
    Link(bool),
    Timer,
    Retry,
    /// A pause is over.
    Rested,
    /// What is kept is to be written once more.
    StateDue,
}

/// Ends when told to stop, or when the swapper is gone.
pub(crate) async fn run(parts: Parts, heavy: Arc<Heavy>) {
    let mut task = Some(Task::of(parts));
    while let Some(light) = task.take() {
        if light.instance.is_heavy() {
            task = heavy.run(light.run(true)).await.flatten();
        } else {
            task = light.run(false).await;
        }
    }
}

/// An instance and where its news come from. All of it moves when the instance does.
struct Task {
    instance: Instance,
    controls: mpsc::Receiver<Control>,
    downlinks: mpsc::Receiver<Delivery>,
    streams: mpsc::Receiver<StreamEvent>,
    link_up: watch::Receiver<bool>,
    link_watched: bool,
}

impl Task {
    fn of(parts: Parts) -> Self {
        let clock = parts.clock;
        let instance = Instance {
            slot: parts.slot,
            name: parts.name,
            configuration: parts.configuration,
            hand_over_required: parts.hand_over_required,
            clock,
            body: Some(Body::Down(Down {
                resident: parts.resident,
                retry: None,
            })),
            serving: None,
            kept: None,
            restart: Restart::default(),
            cpu: CpuShare::new(clock.now(), parts.sandbox.limits.cpu_percent),
            paused_until: None,
            heavy_until: None,
            sandbox: parts.sandbox,
            away_since: Some(clock.now()),
            wake: None,
            state_due: None,
            stream_news: StreamNews::new(clock.now()),
            started: false,
            before: Served::default(),
            status: parts.status,
            troubles: parts.troubles,
        };
        Self {
            instance,
            controls: parts.controls,
            downlinks: parts.downlinks,
            streams: parts.streams,
            link_up: parts.link_up,
            link_watched: true,
        }
    }

    /// Until the end, or until it belongs elsewhere.
    async fn run(mut self, heavy: bool) -> Option<Self> {
        while self.instance.is_heavy() == heavy {
            let Some(woken) = self.woken().await else {
                continue;
            };
            if let ControlFlow::Break(reply) = self.instance.on(woken).await {
                self.instance.stop().await;
                if let Some(reply) = reply {
                    answer(reply, ());
                }
                return None;
            }
            if std::mem::take(&mut self.instance.started) && self.link_watched {
                self.link_up.mark_changed();
            }
        }
        Some(self)
    }

    /// What comes next; none = nothing that concerns the instance.
    async fn woken(&mut self) -> Option<Woken> {
        let Self {
            instance,
            controls,
            downlinks,
            streams,
            link_up,
            link_watched,
        } = self;
        // Orders first: a guest that is never idle must still be replaceable.
        if let Ok(control) = controls.try_recv() {
            return Some(Woken::Control(Some(control)));
        }
        let clock = instance.clock;
        let paused = instance.paused_until;
        let up = instance.is_up() && paused.is_none();
        let timer = instance.wake.filter(|_| up);
        let rest = instance.streams_rest_until();
        Some(tokio::select! {
            control = controls.recv() => Woken::Control(control),
            Some(downlink) = downlinks.recv(), if up || instance.is_open() => Woken::Downlink(downlink),
            Some(event) = streams.recv(), if up && rest.is_none() => Woken::Stream(event),
            changed = link_up.changed(), if up && *link_watched => match changed {
                Ok(()) => Woken::Link(*link_up.borrow_and_update()),
                Err(_link_gone) => {
                    *link_watched = false;
                    return None;
                }
            },
            () = until(clock, timer) => Woken::Timer,
            () = until(clock, instance.retry()) => Woken::Retry,
            () = until(clock, paused.into_iter().chain(rest).chain(instance.stream_news.due()).min()) => Woken::Rested,
            () = until(clock, instance.state_due) => Woken::StateDue,
        })
    }
}

async fn until(clock: Clock, at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(clock.deadline(at)).await,
        None => std::future::pending().await,
    }
}

/// What happened on a stream, in the guest's words.
pub(super) fn stream_event(event: StreamEvent) -> Event {
    use super::bindings::connector::moorline::edge::streams::StreamError;
    match event.happened {
        Happened::Connected => Event::StreamConnected(event.id),
        Happened::Data(bytes) => Event::StreamData((event.id, bytes)),
        Happened::Closed(reason) => Event::StreamClosed((event.id, StreamError::Closed(reason))),
    }
}

fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    match reply.send(value) {
        // The swapper has given up waiting: its deadline has decided.
        Ok(()) | Err(_) => {}
    }
}

impl Instance {
    /// Breaks when it is to end, with whom to tell.
    async fn on(&mut self, woken: Woken) -> ControlFlow<Option<oneshot::Sender<()>>> {
        match woken {
            Woken::Control(None) => return ControlFlow::Break(None),
            Woken::Control(Some(Control::Stop { reply })) => {
                return ControlFlow::Break(Some(reply));
            }
            Woken::Control(Some(control)) => self.on_control(control).await,
            Woken::Downlink(downlink) => self.on_downlink(downlink).await,
            Woken::Stream(event) => {
                self.count_received(&event);
                self.note_stream(&event);
                self.on_event(stream_event(event)).await;
            }
            Woken::Link(up) => {
                let state = if up { LinkState::Up } else { LinkState::Down };
                self.on_event(Event::LinkChanged(state)).await;
            }
            Woken::Timer => {
                self.wake = None;
                self.on_event(Event::Timer).await;
            }
            Woken::Retry => self.on_retry().await,
            Woken::Rested => self.on_rested(),
            Woken::StateDue => self.retry_state().await,
        }
        ControlFlow::Continue(())
    }

    /// Whether it runs where others do not wait for it.
    fn is_heavy(&self) -> bool {
        self.heavy_until.is_some_and(|end| self.clock.now() < end)
    }

    fn is_up(&self) -> bool {
        matches!(self.body, Some(Body::Up(_)))
    }

    fn is_open(&self) -> bool {
        self.status.borrow().state == InstanceState::CircuitOpen
    }

    fn retry(&self) -> Option<Instant> {
        match &self.body {
            Some(Body::Down(down)) => down.retry,
            Some(Body::Up(_)) | None => None,
        }
    }

    fn resident(&mut self) -> Option<&mut Resident> {
        match &mut self.body {
            Some(Body::Up(guest)) => guest.resident(),
            Some(Body::Down(down)) => Some(&mut down.resident),
            None => None,
        }
    }
}
