//! The network watch: what the kernel says about links, addresses, routes and name servers, for whoever asks.
//!
//! ```text
//!  kernel ──notices──► ear ─┐ (a hint to look)
//!  resolv.conf ─────────────┼─► owner ──questions──► kernel
//!  the broker's address ────┘     │ ◄──── answers ────┘
//!                                 └─► core::network::Watch ─► watch channel: Seen
//! ```
//!
//! Without netlink (another system, a sandbox that forbids it) the verdict stays open and the gateway runs as before.

#[cfg(target_os = "linux")]
mod netlink;
#[cfg(not(target_os = "linux"))]
#[path = "no_netlink.rs"]
mod netlink;

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use moorline_core::network::rtnetlink::Request;
use moorline_core::network::{Seen, View, Watch, wireless};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, sleep_until, timeout};
use tracing::{debug, info};

use crate::clock::Clock;
use crate::file_watch;
use netlink::{Ear, Questions};

/// Who answers names; the C library reads it anew by itself.
const NAME_SERVERS: &str = "/etc/resolv.conf";
const WIRELESS: &str = "/proc/net/wireless";

/// A link that comes up is followed by its routes: one look for all of it.
const BURST: Duration = Duration::from_millis(20);
/// The least time between two looks, however much changes.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(200);
/// A look without a notice: for the signal, and for what no notice came for.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(5);
/// The kernel answers at once, or not at all.
const ANSWER: Duration = Duration::from_secs(2);

/// A network that nobody watches.
#[must_use]
pub fn unwatched() -> watch::Receiver<Seen> {
    watch::channel(Seen::default()).1
}

/// Watches the way to `towards`, the broker's address as far as it is known, until nobody listens any more.
#[must_use]
pub fn spawn(towards: watch::Receiver<Option<IpAddr>>, clock: Clock) -> watch::Receiver<Seen> {
    let (tell, seen) = watch::channel(Seen::default());
    let owner = Owner {
        clock,
        towards,
        questions: None,
        watch: Watch::default(),
        tell,
        complained: false,
    };
    tokio::spawn(owner.run());
    seen
}

struct Owner {
    clock: Clock,
    towards: watch::Receiver<Option<IpAddr>>,
    questions: Option<Questions>,
    watch: Watch,
    tell: watch::Sender<Seen>,
    /// That the kernel does not answer was said.
    complained: bool,
}

impl Owner {
    async fn run(mut self) {
        let mut ear = Ear::open().map_err(|error| self.complain(&error)).ok();
        let mut name_servers = file_watch::spawn(vec![PathBuf::from(NAME_SERVERS)]);
        let mut tick = tokio::time::interval(LOOK_EVERY_MAX);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let looked_at = Instant::now();
            self.look().await;
            self.publish();
            tokio::select! {
                () = notice(&mut ear) => {}
                _ = tick.tick() => {}
                Ok(()) = self.towards.changed() => {}
                Some(_file) = name_servers.recv() => {
                    self.watch.name_servers_changed(self.clock.now());
                }
                () = self.tell.closed() => return,
            }
            let gathered = Instant::now() + BURST;
            sleep_until(gathered.max(looked_at + LOOK_EVERY_MIN)).await;
            if let Some(ear) = &ear {
                ear.empty();
            }
        }
    }

    async fn look(&mut self) {
        match self.ask().await {
            Ok(view) => {
                self.complained = false;
                self.watch.look(self.clock.now(), view);
            }
            Err(error) => {
                self.complain(&error);
                self.questions = None;
                self.watch.blind(self.clock.now());
            }
        }
        let interface = self.watch.interface();
        let signal = interface.and_then(|interface| {
            let table = std::fs::read_to_string(WIRELESS).ok()?;
            wireless::signal(&table, interface)
        });
        self.watch.hears(signal);
    }

    async fn ask(&mut self) -> io::Result<View> {
        let towards = *self.towards.borrow_and_update();
        let mut view = View::towards(towards);
        if self.questions.is_none() {
            self.questions = Some(Questions::open()?);
        }
        let Some(questions) = &mut self.questions else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let route = towards.map(Request::RouteTo);
        for request in [Request::Links, Request::Addresses]
            .into_iter()
            .chain(route)
        {
            let answered = questions.ask(request, |message| view.take(message));
            timeout(ANSWER, answered).await??;
        }
        Ok(view)
    }

    /// What is only measured waits for others to look; what changed wakes them.
    fn publish(&self) {
        self.tell.send_if_modified(|told| {
            let seen = self.watch.seen();
            let news = (told.verdict, told.upsets, told.returns, &told.path)
                != (seen.verdict, seen.upsets, seen.returns, &seen.path);
            if news {
                info!(
                    verdict = seen.verdict.name(),
                    interface = seen.path.as_ref().map(|path| path.interface.as_str()),
                    source = seen
                        .path
                        .as_ref()
                        .and_then(|path| path.source)
                        .map(tracing::field::display),
                    "{}",
                    seen.explain(self.clock.now())
                        .unwrap_or_else(|| "the network is watched".to_owned())
                );
            }
            told.clone_from(seen);
            news
        });
    }

    fn complain(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.complained, true) {
            info!(
                %error,
                "the kernel does not tell about the network (AF_NETLINK); the gateway runs on and finds out by trying. \
                 Under systemd, RestrictAddressFamilies must allow AF_NETLINK"
            );
        }
    }
}

/// Comes back when there is a reason to look.
async fn notice(ear: &mut Option<Ear>) {
    match ear {
        Some(open) => {
            if let Err(error) = open.hear().await {
                // The regular look remains.
                debug!(%error, "no more notices of the network");
                *ear = None;
            }
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
