//! The task that knows which instance a device belongs to, and takes downlinks there.

use std::sync::Arc;

use moorline_core::message::DeviceName;
use moorline_core::route::{Claim, Routes};
use thiserror::Error;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use crate::inbox::Delivery;

/// Claims and downlinks on their way.
const REQUESTS_QUEUED: usize = 256;

/// Why a downlink did not reach a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DeliveryRefused {
    /// No connector has said that the device is connected, or the last one has said that it is gone.
    #[error("no connector has this device connected")]
    UnknownDevice,
    /// Its connector has too much to do: another try later is worth it.
    #[error("the device's connector is busy")]
    Busy,
    /// The gateway is stopping.
    #[error("the gateway is stopping")]
    Stopping,
}

/// A downlink that comes back.
#[derive(Debug)]
pub struct Undelivered {
    /// What was not handed on.
    pub delivery: Delivery,
    /// Why.
    pub refused: DeliveryRefused,
}

pub(crate) type Delivered = Result<(), Box<Undelivered>>;

/// An instance, by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InstanceId(pub(crate) usize);

#[derive(Debug)]
pub(crate) enum Request {
    Claim(DeviceName, InstanceId),
    Release(DeviceName, InstanceId),
    Deliver(Delivery, oneshot::Sender<Delivered>),
}

/// One instance's end: what it says about its devices.
#[derive(Clone, Debug)]
pub(crate) struct Claims {
    requests: mpsc::Sender<Request>,
    instance: InstanceId,
}

impl Claims {
    pub(crate) fn new(requests: mpsc::Sender<Request>, instance: InstanceId) -> Self {
        Self { requests, instance }
    }

    pub(crate) async fn claim(&self, device: DeviceName) {
        self.send(Request::Claim(device, self.instance)).await;
    }

    pub(crate) async fn release(&self, device: DeviceName) {
        self.send(Request::Release(device, self.instance)).await;
    }

    async fn send(&self, request: Request) {
        match self.requests.send(request).await {
            // Closed: the gateway is stopping, and nobody will ask for the device any more.
            Ok(()) | Err(_) => {}
        }
    }
}

/// Where an instance's downlinks go.
pub(crate) struct Mailbox {
    pub(crate) name: Arc<str>,
    pub(crate) downlinks: mpsc::Sender<Delivery>,
}

pub(crate) fn channel() -> (mpsc::Sender<Request>, mpsc::Receiver<Request>) {
    mpsc::channel(REQUESTS_QUEUED)
}

/// Ends when nobody can ask any more.
pub(crate) async fn run(mailboxes: Vec<Mailbox>, mut requests: mpsc::Receiver<Request>) {
    let mut routes: Routes<InstanceId> = Routes::default();
    while let Some(request) = requests.recv().await {
        match request {
            Request::Claim(device, instance) => claim(&mut routes, &mailboxes, &device, instance),
            Request::Release(device, instance) => {
                routes.release(&device, instance);
            }
            Request::Deliver(delivery, reply) => {
                let delivered = deliver(&routes, &mailboxes, delivery);
                match reply.send(delivered) {
                    // Whoever asked does not wait any more.
                    Ok(()) | Err(_) => {}
                }
            }
        }
    }
}

fn claim(
    routes: &mut Routes<InstanceId>,
    mailboxes: &[Mailbox],
    device: &DeviceName,
    instance: InstanceId,
) {
    let name = |id: InstanceId| mailboxes.get(id.0).map_or("?", |mailbox| &*mailbox.name);
    match routes.claim(device, instance) {
        Ok(Claim::New | Claim::Unchanged) => {}
        Ok(Claim::Moved { from }) => {
            let (from, to) = (name(from), name(instance));
            tracing::warn!(%device, from, to, "two connectors report the same device; the last one gets its requests");
        }
        Err(error) => {
            tracing::error!(%device, instance = name(instance), %error, "requests to this device will not arrive");
        }
    }
}

fn deliver(routes: &Routes<InstanceId>, mailboxes: &[Mailbox], delivery: Delivery) -> Delivered {
    let owner = routes.owner(delivery.downlink.device());
    let Some(mailbox) = owner.and_then(|owner| mailboxes.get(owner.0)) else {
        return Err(undelivered(delivery, DeliveryRefused::UnknownDevice));
    };
    mailbox
        .downlinks
        .try_send(delivery)
        .map_err(|refused| match refused {
            TrySendError::Full(delivery) => undelivered(delivery, DeliveryRefused::Busy),
            TrySendError::Closed(delivery) => undelivered(delivery, DeliveryRefused::Stopping),
        })
}

pub(crate) fn undelivered(delivery: Delivery, refused: DeliveryRefused) -> Box<Undelivered> {
    Box::new(Undelivered { delivery, refused })
}

#[cfg(test)]
mod tests {
    use moorline_core::message::Downlink;

    use super::*;

    #[tokio::test]
    async fn a_downlink_follows_the_device_and_a_full_mailbox_is_busy() {
        let (downlinks, mut mailbox) = mpsc::channel(1);
        let (other, _other_mailbox) = mpsc::channel(1);
        let (requests, queue) = channel();
        let mailboxes = vec![
            Mailbox {
                name: "a".into(),
                downlinks: other,
            },
            Mailbox {
                name: "b".into(),
                downlinks,
            },
        ];
        let task = tokio::spawn(run(mailboxes, queue));
        let device = DeviceName::try_new("press").unwrap();
        let rpc = Downlink::Rpc {
            device: device.clone(),
            request_id: 1,
            method: "m".into(),
            params: "{}".into(),
        };
        let ask = async |rpc: &Downlink| {
            let (reply, answer) = oneshot::channel();
            requests
                .send(Request::Deliver(rpc.clone().into(), reply))
                .await
                .unwrap();
            answer.await.unwrap().map_err(|back| back.refused)
        };
        assert_eq!(ask(&rpc).await, Err(DeliveryRefused::UnknownDevice));
        let [a, b] = [0, 1].map(|id| Claims::new(requests.clone(), InstanceId(id)));
        a.claim(device.clone()).await;
        b.claim(device.clone()).await;
        a.release(device).await;
        assert_eq!(ask(&rpc).await, Ok(()));
        assert_eq!(ask(&rpc).await, Err(DeliveryRefused::Busy));
        assert_eq!(
            mailbox.recv().await.map(|delivery| delivery.downlink),
            Some(rpc)
        );
        drop((requests, a, b));
        task.await.unwrap();
    }
}
