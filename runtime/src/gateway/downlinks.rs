//! From the link to the plugins, and an answer to the platform where no plugin can give one.

use std::time::Duration;

use moorline_core::message::{DeviceName, Downlink, Uplink};
use tokio::sync::mpsc;
use tracing::warn;

use crate::clock::Clock;
use crate::log_gate::LogGate;
use crate::plugins::{Deliveries, DeliveryRefused};
use crate::spool::{AppendRefused, Appender};

/// A reply that the spool does not take for so long is dropped: the platform has its own time-out for RPC.
const REPLY_DEADLINE: Duration = Duration::from_secs(1);

/// Lines about undelivered messages in a row; a platform may send without end.
const LINES_BURST: u32 = 20;
/// After that, one line per this long.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Runs until the link has ended.
pub(super) async fn pump(
    mut downlinks: mpsc::Receiver<Downlink>,
    deliveries: Deliveries,
    appender: Appender,
    clock: Clock,
) {
    let mut gate = LogGate::new(clock.now(), LINES_BURST, LINE_INTERVAL);
    while let Some(downlink) = downlinks.recv().await {
        let asked = match &downlink {
            Downlink::Rpc {
                device, request_id, ..
            } => Some((device.clone(), *request_id)),
            Downlink::SharedAttributes { .. } => None,
        };
        let device = downlink.device().clone();
        let Err(refused) = deliveries.deliver(downlink).await else {
            continue;
        };
        if let Some(more) = gate.admit(clock.now()) {
            warn!(%device, %refused, more, "a message from the platform was not delivered");
        }
        if let Some((device, request_id)) = asked {
            refuse(&appender, device, request_id, refused).await;
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
