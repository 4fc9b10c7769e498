//! What an operator may order of the swapper, and the answers.

use std::sync::Arc;

use moorline_core::swap::{Build, Digest, Failure, NoFile};
use tokio::sync::{mpsc, oneshot};

use super::status::SwapRecord;
use super::swapper::Order;

/// How far an order is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Until the new generation serves, or does not.
    Serves,
    /// Until it has proved itself, or has not.
    Proved,
}

/// What an order led to.
#[derive(Clone, Debug)]
pub enum OrderEnd {
    /// A candidate's end.
    Concluded(Arc<SwapRecord>),
    /// This generation took over and has proved itself.
    Proved(Arc<SwapRecord>),
    /// It took over, and another one took over before it had proved itself.
    Replaced(Arc<SwapRecord>),
    /// The file holds what serves already.
    Unchanged(Build),
    /// The file holds a build that failed before: when it was tried, for this reason.
    Shunned(Digest, Option<Failure>),
    /// There is no readable file.
    Missing(NoFile),
}

/// Why an order is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderRefused {
    /// No plugin of this name.
    #[error("there is no plugin {name:?}; there are {}", known.join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The generation before is not kept.
    #[error(
        "{name} has no generation to go back to: since the start of the gateway, or since the last roll-back, there was one only"
    )]
    NothingBefore {
        /// The plugin.
        name: String,
    },
    /// A cut-over is under way.
    #[error("a swap of {name} is under way; try again when it has ended")]
    UnderWay {
        /// The plugin.
        name: String,
    },
    /// Too many wait already.
    #[error("too many wait for {name} already")]
    TooMany {
        /// The plugin.
        name: String,
    },
    /// The gateway stops.
    #[error("the gateway is stopping")]
    Stopping,
}

/// What came of a state that was put in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restored {
    /// The plugin was started anew with it.
    Restarted,
    /// Nothing serves now; the next start finds it.
    Kept,
}

/// Why a state is not put in place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreRefused {
    /// No instance of this name.
    #[error("there is no instance {name:?}; there are {}", known.join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The disk refused, or it is more than the instance may keep; what was kept before is still there.
    #[error("it is not in its place: {0}")]
    NotReplaced(String),
    /// The gateway stops.
    #[error("the gateway is stopping")]
    Stopping,
}

pub(crate) type RestoreReply = oneshot::Sender<Result<Restored, RestoreRefused>>;

pub(crate) type Reply = oneshot::Sender<Result<OrderEnd, OrderRefused>>;

/// Gives orders to the swapper. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SwapOrders(pub(super) mpsc::Sender<Order>);

impl SwapOrders {
    /// Has the plugin's file looked at, and waits for what comes of it. `again` tries a build that failed before.
    ///
    /// # Errors
    /// When it cannot be done; the gateway goes on as before.
    pub async fn swap(
        &self,
        name: &str,
        again: bool,
        until: Until,
    ) -> Result<OrderEnd, OrderRefused> {
        let name = name.to_owned();
        self.order(|reply| Order::Swap {
            name,
            again,
            until,
            reply,
        })
        .await
    }

    /// Goes back to the generation before the one that serves, and waits for what comes of it.
    ///
    /// # Errors
    /// When it cannot be done; the gateway goes on as before.
    pub async fn roll_back(&self, name: &str) -> Result<OrderEnd, OrderRefused> {
        let name = name.to_owned();
        self.order(|reply| Order::RollBack { name, reply }).await
    }

    /// Has `instance` keep what was put beside its state instead, and starts its plugin anew without a hand-over, which would be
    /// of what was before.
    ///
    /// # Errors
    /// When it cannot be done; what was kept is still there.
    pub async fn restore_state(&self, instance: &str) -> Result<Restored, RestoreRefused> {
        let (reply, answer) = oneshot::channel();
        let order = Order::RestoreState {
            instance: instance.to_owned(),
            reply,
        };
        let sent = self.0.send(order).await;
        sent.map_err(|_gone| RestoreRefused::Stopping)?;
        answer.await.unwrap_or(Err(RestoreRefused::Stopping))
    }

    async fn order(&self, order: impl FnOnce(Reply) -> Order) -> Result<OrderEnd, OrderRefused> {
        let (reply, answer) = oneshot::channel();
        let sent = self.0.send(order(reply)).await;
        sent.map_err(|_gone| OrderRefused::Stopping)?;
        answer.await.unwrap_or(Err(OrderRefused::Stopping))
    }
}
