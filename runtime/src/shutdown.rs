//! The order to stop, from a signal to everyone who must hear it.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// The end that gives the order. Dropping it gives the order too, so that nobody outlives the gateway.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

/// The end that hears it.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

/// A fresh pair.
#[must_use]
pub fn channel() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (Trigger(sender), Shutdown(receiver))
}

impl Trigger {
    /// Gives the order.
    pub fn fire(&self) {
        self.0.send_replace(true);
    }
}

impl Shutdown {
    /// Returns once the order was given.
    pub async fn wait(&mut self) {
        // An error means that the trigger is gone, which is the order as well.
        if self.0.wait_for(|ordered| *ordered).await.is_err() {}
    }
}

/// SIGINT and SIGTERM, both a request to stop in good order, and SIGHUP, one to read the configuration again.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    /// A terminal controls the process: when that is gone, SIGHUP means to stop.
    on_terminal: bool,
}

const TERMINAL: &str = "/dev/tty";

fn terminal_answers() -> bool {
    std::fs::File::open(TERMINAL).is_ok()
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// To stop, by the signal of this name.
    Stop(&'static str),
    /// To read the configuration again.
    Reload,
}

impl Signals {
    /// Starts listening.
    ///
    /// # Errors
    /// When the kernel refuses the handlers.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            on_terminal: terminal_answers(),
        })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.interrupt.recv() => Asked::Stop("SIGINT"),
            _ = self.terminate.recv() => Asked::Stop("SIGTERM"),
            _ = self.hang_up.recv() => {
                if self.on_terminal && !terminal_answers() {
                    Asked::Stop("SIGHUP")
                } else {
                    Asked::Reload
                }
            }
        }
    }

    /// Waits for the next one that asks to stop, and names it.
    pub async fn next_stop(&mut self) -> &'static str {
        loop {
            if let Asked::Stop(name) = self.next().await {
                return name;
            }
        }
    }
}
