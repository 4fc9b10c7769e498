//! The fake platform: takes what a guest emits in the spool's place, or is behind, and remembers.

use std::collections::BTreeSet;
use std::time::Duration;

use moorline_core::message::{DeviceName, Sequence, Uplink};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::plugins::routes::{self, Claims, InstanceId, Request};
use crate::spool::{AppendRefused, Appender, Offers, rehearsal};

/// Messages that are remembered; of more, only the number is.
const REMEMBERED_MAX: usize = 20_000;

/// One message a guest offered.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Offered {
    pub(super) at: Instant,
    pub(super) uplink: Uplink,
    pub(super) taken: bool,
}

/// What the platform has heard.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard {
    pub(super) offered: Vec<Offered>,
    /// Offers altogether.
    pub(super) offers: u64,
    /// Devices the guest speaks for.
    pub(super) devices: BTreeSet<DeviceName>,
}

impl Heard {
    /// Readings that were taken: device, key, value, in order.
    pub(super) fn taken_readings(&self) -> Vec<Told> {
        let taken = self.offered.iter().filter(|offered| offered.taken);
        taken.flat_map(|offered| told(&offered.uplink)).collect()
    }

    /// Whether readings were taken.
    pub(super) fn has_readings(&self) -> bool {
        self.offered
            .iter()
            .any(|offered| offered.taken && offered.uplink.readings() > 0)
    }
}

/// A reading without its time, which the host may have stamped.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Told {
    pub(super) device: String,
    pub(super) key: String,
    pub(super) value: moorline_core::message::Value,
}

/// The readings in `uplink`.
pub(super) fn told(uplink: &Uplink) -> Vec<Told> {
    let Uplink::Telemetry(batch) = uplink else {
        return Vec::new();
    };
    let of_device = |device: &moorline_core::message::DeviceReadings| {
        let name = device.device.as_str().to_owned();
        let tell = move |reading: &moorline_core::message::Reading| Told {
            device: name.clone(),
            key: reading.key.as_str().to_owned(),
            value: reading.value.clone(),
        };
        device.readings.iter().map(tell).collect::<Vec<_>>()
    };
    batch.iter().flat_map(of_device).collect()
}

/// The platform of one life.
#[derive(Debug)]
pub(super) struct Platform {
    /// Set: telemetry is refused, with this wait.
    behind: watch::Sender<Option<Duration>>,
    heard: watch::Receiver<Heard>,
    serving: [AbortHandle; 2],
}

impl Drop for Platform {
    fn drop(&mut self) {
        self.serving.iter().for_each(AbortHandle::abort);
    }
}

impl Platform {
    pub(super) fn start() -> (Self, Appender, Claims) {
        let (appender, offers) = rehearsal();
        let (requests, claims) = routes::channel();
        let (behind, is_behind) = watch::channel(None);
        let (sender, heard) = watch::channel(Heard::default());
        let sender = std::sync::Arc::new(sender);
        let serving = [
            tokio::spawn(take(offers, is_behind, sender.clone())).abort_handle(),
            tokio::spawn(route(claims, sender)).abort_handle(),
        ];
        let platform = Self {
            behind,
            heard,
            serving,
        };
        (platform, appender, Claims::new(requests, InstanceId(0)))
    }

    /// From now on telemetry is back-pressured with this wait, or taken again.
    pub(super) fn set_behind(&self, retry_after: Option<Duration>) {
        self.behind.send_replace(retry_after);
    }

    pub(super) fn heard(&self) -> watch::Ref<'_, Heard> {
        self.heard.borrow()
    }
}

async fn take(
    mut offers: Offers,
    behind: watch::Receiver<Option<Duration>>,
    heard: std::sync::Arc<watch::Sender<Heard>>,
) {
    let mut sequence = 0;
    let mut answer = |uplink: Uplink| {
        sequence += 1;
        let refused = behind.borrow().filter(|_| uplink.readings() > 0);
        heard.send_modify(|heard| {
            heard.offers += 1;
            if heard.offered.len() < REMEMBERED_MAX {
                heard.offered.push(Offered {
                    at: Instant::now(),
                    uplink,
                    taken: refused.is_none(),
                });
            }
        });
        match refused {
            Some(retry_after) => Err(AppendRefused::Behind { retry_after }),
            None => Ok(Sequence(sequence)),
        }
    };
    while offers.answer(&mut answer).await.is_some() {}
}

async fn route(mut claims: mpsc::Receiver<Request>, heard: std::sync::Arc<watch::Sender<Heard>>) {
    while let Some(request) = claims.recv().await {
        match request {
            Request::Claim(device, _) => heard.send_modify(|heard| {
                heard.devices.insert(device);
            }),
            Request::Release(device, _) => heard.send_modify(|heard| {
                heard.devices.remove(&device);
            }),
            // Nobody delivers here: the suite calls the guest itself.
            Request::Deliver(..) => {}
        }
    }
}
