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

/// SIGINT and SIGTERM, both a request to stop in good order.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
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
        })
    }

    /// Waits for the next one and names it.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
