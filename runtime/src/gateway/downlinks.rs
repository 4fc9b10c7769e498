//! From the inbox to the plugins, and an answer to the platform where no plugin can give one.

use std::time::Duration;

use moorline_core::inbox::Refusal;
use moorline_core::message::{DeviceName, Downlink, Uplink};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{debug, error, warn};

use crate::clock::Clock;
use crate::inbox::{Delivery, Inbox, InboxStatus};
use crate::log_gate::LogGate;
use crate::plugins::{Deliveries, DeliveryRefused, Undelivered};
use crate::spool::{AppendRefused, Appender};

/// A reply that the spool does not take for so long is dropped: the platform has its own time-out for RPC.
const REPLY_DEADLINE: Duration = Duration::from_secs(1);

/// Lines about undelivered messages in a row; a platform may send without end.
const LINES_BURST: u32 = 20;
/// After that, one line per this long.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Sees to the inbox until it ends with the link; returns what it shows of itself.
pub(super) fn attend(
    tasks: &mut JoinSet<()>,
    inbox: Inbox,
    deliveries: Deliveries,
    appender: Appender,
    clock: Clock,
) -> watch::Receiver<InboxStatus> {
    tasks.spawn(async move {
        if let Err(error) = inbox.keeper.await {
            error!(%error, "the inbox did not end in good order");
        }
    });
    tasks.spawn(pump(inbox.deliveries, deliveries, appender, clock));
    inbox.status
}

async fn pump(
    mut downlinks: mpsc::Receiver<Delivery>,
    deliveries: Deliveries,
    appender: Appender,
    clock: Clock,
) {
    let mut gate = LogGate::new(clock.now(), LINES_BURST, LINE_INTERVAL);
    while let Some(delivery) = downlinks.recv().await {
        let Err(back) = deliveries.deliver(delivery).await else {
            continue;
        };
        let Undelivered {
            mut delivery,
            refused,
        } = *back;
        let refusal = match refused {
            DeliveryRefused::UnknownDevice => Refusal::UnknownDevice,
            DeliveryRefused::Busy => Refusal::Busy,
            // It is for the next process.
            DeliveryRefused::Stopping => continue,
        };
        // A connector that has just started may yet find the device of a request that the last process left.
        let awaited = delivery.recovered && refusal == Refusal::UnknownDevice;
        match &delivery.downlink {
            Downlink::Rpc {
                device, request_id, ..
            } if !awaited => {
                if let Some(more) = gate.admit(clock.now()) {
                    warn!(%device, %refused, more, "a request from the platform was not delivered");
                }
                refuse(&appender, device.clone(), *request_id, refused).await;
                delivery.settle().await;
            }
            Downlink::Rpc { device, .. } | Downlink::SharedAttributes { device, .. } => {
                debug!(%device, %refused, "a message from the platform waits");
                if let Some(ticket) = delivery.ticket.take() {
                    ticket.refuse(refusal).await;
                }
            }
        }
    }
}

async fn refuse(
    appender: &Appender,
    device: DeviceName,
    request_id: u64,
    refused: DeliveryRefused,
) {
    let body = serde_json::json!({ "success": false, "error": refused.to_string() }).to_string();
    let reply = Uplink::RpcReply {
        device: device.clone(),
        request_id,
        body,
    };
    let appended = async {
        loop {
            match appender.append(reply.clone()).await {
                Err(AppendRefused::Behind { retry_after }) => tokio::time::sleep(retry_after).await,
                other => return other,
            }
        }
    };
    match tokio::time::timeout(REPLY_DEADLINE, appended).await {
        Ok(Ok(_sequence)) => {}
        Ok(Err(error)) => warn!(%device, request_id, %error, "the answer to an RPC was dropped"),
        Err(_elapsed) => {
            warn!(%device, request_id, "the answer to an RPC was dropped: the spool is behind")
        }
    }
}
