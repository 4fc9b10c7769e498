//! The keeper and its file.

use std::path::Path;
use std::time::Duration;

use moorline_core::inbox::{Limits, Refusal};
use moorline_core::message::{DeviceName, Downlink, Key, Value};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};

use super::{Delivery, Inbox, InboxSettings, InboxStatus, open};
use crate::clock::Clock;
use crate::link::{Arrival, Arrivals, Receipt};

const DEADLINE: Duration = Duration::from_secs(10);

struct Bench {
    arrivals: mpsc::Sender<Arrival>,
    receipts: mpsc::Receiver<Receipt>,
    inbox: Inbox,
}

async fn start(directory: &Path, change: impl FnOnce(&mut InboxSettings)) -> Bench {
    let (arrivals, arrivals_in) = mpsc::channel(64);
    let (receipts_back, receipts) = mpsc::channel(64);
    let mut settings = InboxSettings {
        directory: directory.join("inbox"),
        limits: Limits {
            messages_max: 3,
            bytes_max: 1 << 20,
            rpc_expiry: Duration::from_secs(30),
        },
        sync: false,
        commit_interval: Duration::from_millis(5),
    };
    change(&mut settings);
    let other = Arrivals {
        arrivals: arrivals_in,
        receipts: receipts_back,
    };
    let inbox = open(settings, other, Clock::start()).await;
    Bench {
        arrivals,
        receipts,
        inbox,
    }
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

fn update(value: i64) -> Downlink {
    Downlink::SharedAttributes {
        device: DeviceName::try_new(&format!("d{value}")).expect("a name"),
        changed: vec![(Key::try_new("k").expect("a key"), Value::Integer(value))],
        deleted: Vec::new(),
    }
}

fn rpc(request_id: u64) -> Downlink {
    Downlink::Rpc {
        device: DeviceName::try_new("d").expect("a name"),
        request_id,
        method: "set".into(),
        params: "1".into(),
    }
}

impl Bench {
    async fn arrive(&self, downlink: Downlink, id: u16, redelivered: bool) {
        let arrival = Arrival {
            downlink,
            redelivered,
            receipt: Some(Receipt::numbered(id)),
        };
        self.arrivals.send(arrival).await.expect("a live inbox");
    }

    async fn acknowledged(&mut self) -> Receipt {
        tokio::time::timeout(DEADLINE, self.receipts.recv())
            .await
            .expect("in time")
            .expect("a live inbox")
    }

    async fn delivery(&mut self) -> Delivery {
        tokio::time::timeout(DEADLINE, self.inbox.deliveries.recv())
            .await
            .expect("in time")
            .expect("a live inbox")
    }

    async fn until(&mut self, found: impl FnMut(&InboxStatus) -> bool) -> InboxStatus {
        let status: &mut watch::Receiver<InboxStatus> = &mut self.inbox.status;
        let waiting = tokio::time::timeout(DEADLINE, status.wait_for(found)).await;
        *waiting.expect("in time").expect("a live inbox")
    }

    /// As the process ends that is killed: nothing is tidied up.
    fn kill(self) {
        self.inbox.keeper.abort();
    }
}

#[tokio::test]
async fn what_was_acknowledged_and_not_handled_comes_again() {
    for sync in [false, true] {
        let directory = directory();
        let mut bench = start(directory.path(), |settings| settings.sync = sync).await;
        for value in 1..=2 {
            bench.arrive(update(value), 1, false).await;
            bench.acknowledged().await;
        }
        let first = bench.delivery().await;
        assert_eq!(first.downlink, update(1));
        first.settle().await;
        bench.until(|status| status.waiting == 1).await;
        bench.kill();
        let mut bench = start(directory.path(), |_| {}).await;
        let again = bench.delivery().await;
        assert!(again.recovered && again.downlink == update(2));
        again.settle().await;
        bench.until(|status| status.waiting == 0).await;
    }
}

#[tokio::test]
async fn an_old_request_is_dropped_and_a_redelivered_one_is_carried_out_once() {
    let directory = directory();
    let mut bench = start(directory.path(), |_| {}).await;
    bench.arrive(rpc(1), 1, false).await;
    bench.acknowledged().await;
    bench.delivery().await.settle().await;
    bench.arrive(rpc(2), 2, false).await;
    bench.acknowledged().await;
    bench.kill();
    let expiry = Duration::from_millis(20);
    tokio::time::sleep(expiry).await;
    let mut bench = start(directory.path(), |settings| {
        settings.limits.rpc_expiry = expiry
    })
    .await;
    let status = bench.until(|_| true).await;
    assert_eq!((status.waiting, status.rpcs_expired), (0, 1));
    // Its acknowledgement was lost with the process: the broker sends it again.
    bench.arrive(rpc(1), 3, true).await;
    bench.acknowledged().await;
    let status = bench.until(|status| status.duplicates == 1).await;
    assert_eq!(status.waiting, 0);
}

#[tokio::test]
async fn a_full_inbox_acknowledges_when_it_has_room_again() {
    let directory = directory();
    let mut bench = start(directory.path(), |_| {}).await;
    for value in 1..=5 {
        bench.arrive(update(value), 1, false).await;
    }
    for _ in 1..=3 {
        bench.acknowledged().await;
    }
    bench.until(|status| status.waiting == 3).await;
    assert!(bench.receipts.try_recv().is_err());
    for value in 1..=5 {
        let delivery = bench.delivery().await;
        assert_eq!(delivery.downlink, update(value));
        delivery.settle().await;
        if value <= 2 {
            bench.acknowledged().await;
        }
    }
    bench.until(|status| status.waiting == 0).await;
}

#[tokio::test]
async fn without_a_disk_a_message_is_acknowledged_when_it_is_handled() {
    let directory = directory();
    std::fs::write(directory.path().join("inbox"), b"no directory").expect("written");
    let mut bench = start(directory.path(), |_| {}).await;
    bench.arrive(update(1), 1, false).await;
    let delivery = bench.delivery().await;
    let status = bench.until(|status| status.waiting == 1).await;
    assert!(status.in_memory_since.is_some());
    assert!(bench.receipts.try_recv().is_err());
    delivery.settle().await;
    bench.acknowledged().await;
}

#[tokio::test]
async fn what_is_refused_is_tried_again() {
    let directory = directory();
    let mut bench = start(directory.path(), |_| {}).await;
    bench.arrive(update(1), 1, false).await;
    let delivery = bench.delivery().await;
    let ticket = delivery.ticket.expect("it is kept");
    ticket.refuse(Refusal::UnknownDevice).await;
    let again = bench.delivery().await;
    assert_eq!(again.downlink, update(1));
}

#[tokio::test]
async fn a_damaged_log_is_put_aside_and_the_inbox_goes_on() {
    let directory = directory();
    let log = directory.path().join("inbox/log");
    std::fs::create_dir(directory.path().join("inbox")).expect("made");
    std::fs::write(&log, b"something else").expect("written");
    let mut bench = start(directory.path(), |_| {}).await;
    bench.arrive(update(1), 1, false).await;
    bench.acknowledged().await;
    assert!(directory.path().join("inbox/log.damaged").exists());
    bench.kill();
    // Cut in the middle of its last record.
    let mut contents = std::fs::read(&log).expect("a log");
    contents.pop();
    std::fs::write(&log, contents).expect("written");
    let mut bench = start(directory.path(), |_| {}).await;
    assert_eq!(bench.until(|_| true).await.waiting, 0);
}

#[tokio::test]
async fn the_log_does_not_grow_with_what_was_handled() {
    let directory = directory();
    let mut bench = start(directory.path(), |_| {}).await;
    for value in 0..5_000 {
        bench.arrive(update(value % 7), 1, false).await;
        bench.acknowledged().await;
        bench.delivery().await.settle().await;
    }
    bench.until(|status| status.waiting == 0).await;
    let bytes = std::fs::metadata(directory.path().join("inbox/log"))
        .expect("a log")
        .len();
    assert!(bytes < 600 * 1024, "{bytes}");
}
