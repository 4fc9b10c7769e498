//! The link: one managed relation to the broker, across connects; to one broker at a time, of several that may serve.
//!
//! ```text
//!  spool ─► feeder ─► driver ─► active ─► session ─► tap ─► dialer's stream ─► broker
//!                       │                    (client crate)  └─► wire: what was really seen
//!                       ├─► moorline_core::link: what it means and what to do
//!                       ├─► policy handle: when to try again
//!                       └─► status, downlinks
//! ```
//!
//! The spool is the only store: at the end of a session everything the client crate holds is forgotten and sent again from
//! the oldest unacknowledged message.

mod active;
mod boot_marker;
mod certificate;
mod dialer;
mod door;
mod driver;
mod feeder;
mod kernel;
mod limits;
mod liveness;
mod observe;
pub(crate) mod probe;
mod session;
mod settings;
mod status;
mod tap;
mod tls;
mod wire;

#[cfg(test)]
mod tests;

use std::time::Duration;

use moorline_core::message::Sequence;
use moorline_core::network::Seen;
use moorline_core::thingsboard::Shape;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::debug;

use crate::clock::Clock;
use crate::policy_handle::PolicyHandle;
use crate::spool::Outlet;
use dialer::Dialers;
use driver::{Driver, Ends};
use feeder::{BATCHES, Order};

pub use certificate::CertificateEnd;
pub use dialer::PhaseTimes;
pub use door::{Arrival, Arrivals, Door, Receipt, door};
pub use settings::{
    BatchSettings, Bind, CanarySettings, ClientIdentity, Credentials, EndpointSettings,
    KeptSession, LinkSettings, LivenessLimits, MessageIdentity, Pace, PhaseTimeouts, ProxyKind,
    ProxyLogin, ProxySettings, RateLimits, Secret, TlsSettings, Versions,
};
pub(crate) use status::{DUPLICATE_ADVICE, DUPLICATE_CERTAIN, DUPLICATE_INFERRED};
pub use status::{DisconnectRecord, Held, LinkStatus, Liveness, UpRecord};
pub use tls::TlsSetupError;

/// Orders that wait for the driver.
const COMMANDS: usize = 16;
/// Dead letters on their way to the disk: more than a window of them at once is a broker that refuses everything.
const LETTERS: usize = 256;

/// What the link can be told.
#[derive(Debug)]
pub enum LinkCommand {
    /// Use these settings from the next attempt on, and make it now unless a session is up.
    Reconfigure(Box<Reconfiguration>),
    /// Try again now: somebody acted.
    Unpark,
    /// Wait this long for what is in flight, send DISCONNECT, and end.
    Stop {
        /// For what is in flight.
        grace: Duration,
    },
}

/// The running link. Dropping it ends the link at once.
#[derive(Debug)]
pub struct LinkHandle {
    status: watch::Receiver<LinkStatus>,
    commands: mpsc::Sender<LinkCommand>,
    driver: JoinHandle<()>,
}

/// New settings, checked and ready for use.
pub struct Reconfiguration {
    settings: LinkSettings,
    dialers: Dialers,
}

impl std::fmt::Debug for Reconfiguration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.settings.fmt(f)
    }
}

/// Whether a link could be made from `settings`, as far as that can be known without connecting.
///
/// # Errors
/// When TLS cannot be set up from them.
pub fn check(settings: &LinkSettings) -> Result<(), TlsSetupError> {
    Dialers::new(settings).map(drop)
}

impl Reconfiguration {
    /// Prepares `settings` for a running link.
    ///
    /// # Errors
    /// When TLS cannot be set up from them; the link then keeps those it has.
    pub fn new(settings: LinkSettings) -> Result<Self, TlsSetupError> {
        let dialers = Dialers::new(&settings)?;
        Ok(Self { settings, dialers })
    }
}

impl LinkHandle {
    /// The link as it is.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<LinkStatus> {
        self.status.clone()
    }

    /// Where orders go.
    #[must_use]
    pub fn commands(&self) -> mpsc::Sender<LinkCommand> {
        self.commands.clone()
    }

    /// Ends the link in good order and waits until it has.
    pub async fn stop(self, grace: Duration) {
        if self
            .commands
            .send(LinkCommand::Stop { grace })
            .await
            .is_err()
        {
            debug!("the link had ended before");
        }
        drop(self.commands);
        if let Err(error) = self.driver.await {
            tracing::error!(%error, "the link's driver did not end in good order");
        }
    }
}

/// Starts the link: it connects at once and for ever.
///
/// # Errors
/// When TLS cannot be set up from the settings.
pub fn spawn(
    settings: LinkSettings,
    outlet: Outlet,
    policy: PolicyHandle,
    door: Door,
    network: watch::Receiver<Seen>,
    clock: Clock,
) -> Result<LinkHandle, TlsSetupError> {
    let dialers = Dialers::new(&settings)?;
    let spool = outlet.status();
    let acked = Sequence(0);
    let first_order = Order {
        generation: 0,
        sent: acked,
        shape: Shape::of_packets(settings.packet_bytes_max),
        age_max: settings.batch.age_max,
        asked: None,
        running: false,
        acked,
        set_aside_readings: 0,
        careful_through: None,
        guilty: None,
        keep_grouping: false,
    };
    let (orders, order_feed) = watch::channel(first_order);
    let (batch_feed, batches) = mpsc::channel(BATCHES);
    let (commands, command_feed) = mpsc::channel(COMMANDS);
    let (status_feed, status) = watch::channel(LinkStatus::new(&settings.client_id));
    let (letters, letter_feed) = mpsc::channel(LETTERS);
    let qos = outlet.qos().to_vec();
    tokio::spawn(feeder::feed(
        outlet,
        qos,
        order_feed,
        batch_feed,
        letter_feed,
        clock,
    ));
    let ends = Ends {
        commands: command_feed,
        status: status_feed,
        door,
        orders,
        batches,
        letters,
        spool,
        network,
    };
    let driver = tokio::spawn(Driver::new(settings, dialers, policy, ends, clock).run());
    Ok(LinkHandle {
        status,
        commands,
        driver,
    })
}
