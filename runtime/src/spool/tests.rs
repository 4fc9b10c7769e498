//! The thread and its two ends on a real directory.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use moorline_core::message::{DeviceName, Sequence, Uplink};
use moorline_core::spool::storage::StorageError;
use moorline_core::spool::{Limits, Spool as CoreSpool};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::disk::{DirectoryError, Disk};
use super::{
    AppendRefused, Appender, Durability, Handed, OpenError, Outlet, Recovery, Spool, SpoolSettings,
    SpoolStatus,
};
use crate::clock::Clock;

/// Nothing here waits for anything but this machine's disk.
const DEADLINE: Duration = Duration::from_secs(20);

fn settings(directory: &Path, durability: Durability) -> SpoolSettings {
    let mut settings = SpoolSettings::new(directory.to_owned());
    for setup in &mut settings.streams {
        setup.segment_bytes = 64 * 1024;
        setup.bytes_max = 1024 * 1024;
        setup.durability = durability;
    }
    settings.commit_interval = Duration::from_millis(10);
    settings.window_directory = Some(directory.join("window"));
    settings
}

fn open(settings: SpoolSettings) -> Result<(Spool, Appender, Outlet, Recovery), OpenError> {
    let (spool, appender, outlet, recoveries) = super::open(settings, Clock::start())?;
    Ok((spool, appender, outlet, recoveries[0].expect("a medium")))
}

/// Of the stream that replies go to.
fn synced(status: &SpoolStatus) -> Sequence {
    status.streams[0].spool.synced
}

fn message(id: u64) -> Uplink {
    let device = DeviceName::try_new("press-1").unwrap();
    Uplink::RpcReply {
        device,
        request_id: id,
        body: "{}".to_owned(),
    }
}

fn id(record: &Handed) -> u64 {
    let Uplink::RpcReply { request_id, .. } = &record.uplink else {
        panic!("never appended: {record:?}");
    };
    *request_id
}

async fn read_all(outlet: &mut Outlet) -> Vec<Handed> {
    let mut records: Vec<Handed> = Vec::new();
    outlet.begin(Sequence(0)).await;
    loop {
        let (more, _) = timeout(DEADLINE, outlet.read(10_000, 100))
            .await
            .unwrap()
            .unwrap();
        if more.is_empty() {
            return records;
        }
        records.extend(more);
    }
}

/// A close that came just when the thread ended by itself was reported as a fault of the storage.
#[tokio::test]
async fn a_close_after_both_ends_are_gone_is_no_fault() {
    for _round in 0..100 {
        let directory = tempfile::tempdir().unwrap();
        let (spool, appender, outlet, _) =
            open(settings(directory.path(), Durability::Batched)).unwrap();
        appender.append(message(1)).await.unwrap();
        drop((appender, outlet));
        assert_eq!(timeout(DEADLINE, spool.close()).await.unwrap(), Ok(()));
    }
}

#[tokio::test]
async fn what_goes_in_comes_out() {
    let directory = tempfile::tempdir().unwrap();
    let (spool, appender, mut outlet, recovery) =
        open(settings(directory.path(), Durability::Batched)).unwrap();
    assert_eq!((recovery.records, recovery.readings), (0, 0));
    for n in 0..1000 {
        appender.append(message(n)).await.unwrap();
    }
    let records = read_all(&mut outlet).await;
    assert_eq!(
        records.iter().map(id).collect::<Vec<_>>(),
        (0..1000).collect::<Vec<_>>()
    );
    let mut status = outlet.status();
    outlet.ack(Sequence(1000), 0).await;
    let settled = timeout(
        DEADLINE,
        status.wait_for(|status| status.depth_records == 0),
    )
    .await
    .unwrap()
    .unwrap();
    assert_eq!(settled.settled_records, 1000);
    drop(settled);
    timeout(DEADLINE, spool.close()).await.unwrap().unwrap();
    assert_eq!(
        appender.append(message(0)).await,
        Err(AppendRefused::Closed)
    );
}

#[tokio::test]
async fn a_group_commit_follows_by_itself() {
    let directory = tempfile::tempdir().unwrap();
    let (_spool, appender, outlet, _) =
        open(settings(directory.path(), Durability::Batched)).unwrap();
    let sequence = appender.append(message(1)).await.unwrap();
    let mut status = outlet.status();
    timeout(
        DEADLINE,
        status.wait_for(|status| synced(status) >= sequence),
    )
    .await
    .unwrap()
    .unwrap();
}

#[tokio::test]
async fn sync_answers_when_committed() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = settings(directory.path(), Durability::Sync);
    settings.commit_interval = Duration::from_secs(3600);
    let (_spool, appender, outlet, _) = open(settings).unwrap();
    let mut status = outlet.status();
    let sequence = appender.append(message(1)).await.unwrap();
    timeout(
        DEADLINE,
        status.wait_for(|status| synced(status) >= sequence),
    )
    .await
    .unwrap()
    .unwrap();
}

/// The process ends without a word: what is in files then is what `append` wrote, since the core keeps nothing back.
#[tokio::test]
async fn accepted_survives_the_end_of_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let limits = Limits::new(64 * 1024, 1024 * 1024, 4096).unwrap();
    {
        let disk = Disk::open(&directory.path().join("urgent")).unwrap();
        let (mut spool, _) = CoreSpool::open(disk, limits).unwrap();
        let mut outcomes = Vec::new();
        spool.append((0..5000).map(message), &mut outcomes);
        assert!(outcomes.iter().all(Result::is_ok));
    }
    let (_spool, appender, mut outlet, recovery) =
        open(settings(directory.path(), Durability::Batched)).unwrap();
    assert_eq!((recovery.records, recovery.torn_tail), (5000, false));
    let after_crash = appender.append(message(5000)).await.unwrap();
    assert!(after_crash > Sequence(5000));
    let records = read_all(&mut outlet).await;
    assert_eq!(
        records.iter().map(id).collect::<Vec<_>>(),
        (0..=5000).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn two_gateways_cannot_share_a_spool() {
    let directory = tempfile::tempdir().unwrap();
    let (spool, _appender, _outlet, _) =
        open(settings(directory.path(), Durability::Batched)).unwrap();
    let second = open(settings(directory.path(), Durability::Batched)).unwrap_err();
    assert!(
        matches!(second, OpenError::Directory(DirectoryError::InUse { .. })),
        "{second}"
    );
    assert!(
        second
            .to_string()
            .contains(&directory.path().display().to_string())
    );
    timeout(DEADLINE, spool.close()).await.unwrap().unwrap();
    open(settings(directory.path(), Durability::Batched)).unwrap();
}

#[tokio::test]
async fn a_directory_that_cannot_be_is_a_clear_error() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "not a directory").unwrap();
    let error = open(settings(&file, Durability::Batched)).unwrap_err();
    assert!(
        matches!(error, OpenError::Directory(DirectoryError::Unusable { .. })),
        "{error}"
    );
    let mut too_small = settings(directory.path(), Durability::Batched);
    too_small.streams[1].bytes_max = 1000;
    assert!(matches!(open(too_small).unwrap_err(), OpenError::Limits(_)));
}

#[tokio::test]
async fn a_full_spool_stays_in_its_bounds_and_counts() {
    let directory = tempfile::tempdir().unwrap();
    let (_spool, appender, mut outlet, _) =
        open(settings(directory.path(), Durability::Batched)).unwrap();
    for n in 0..40_000 {
        loop {
            match appender.append(message(n)).await {
                Ok(_sequence) => break,
                Err(AppendRefused::Behind { .. }) => tokio::task::yield_now().await,
                Err(refused) => panic!("{refused}"),
            }
        }
    }
    let mut status = outlet.status();
    // The last of it may still need the room of the oldest.
    let accepted =
        status.wait_for(|status| status.accepted_records == 40_000 && status.memory_bytes == 0);
    let settled = timeout(DEADLINE, accepted).await.unwrap().unwrap().clone();
    let on_disk: u64 = std::fs::read_dir(directory.path().join("urgent"))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(
        on_disk <= 1024 * 1024 + 8192 + 4096,
        "{on_disk} bytes, of which 8192 are the cursor"
    );
    let records = read_all(&mut outlet).await;
    assert_eq!(records.len() as u64, settled.depth_records);
    assert_eq!(records.last().map(id), Some(39_999));
    assert!(records.len() < 40_000);
}

#[tokio::test]
async fn a_spool_whose_directory_was_removed_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let (_spool, appender, outlet, _) =
        open(settings(directory.path(), Durability::Batched)).unwrap();
    appender.append(message(0)).await.unwrap();
    std::fs::remove_dir_all(directory.path()).unwrap();
    let mut status = outlet.status();
    for n in 1..2_000 {
        // Nothing is refused: it stays in memory.
        appender.append(message(n)).await.unwrap();
    }
    let faulty = status.wait_for(|status| status.fault.is_some());
    let fault = timeout(DEADLINE, faulty).await.unwrap().unwrap().fault;
    assert_eq!(fault, Some(StorageError::Missing));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_keep_their_own_order() {
    const CALLERS: u64 = 16;
    const EACH: u64 = 200;
    let directory = tempfile::tempdir().unwrap();
    let (_spool, appender, mut outlet, _) =
        open(settings(directory.path(), Durability::Batched)).unwrap();
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let appender = appender.clone();
        callers.spawn(async move {
            for n in 0..EACH {
                appender.append(message(caller * EACH + n)).await.unwrap();
            }
        });
    }
    timeout(DEADLINE, callers.join_all()).await.unwrap();
    let ids: Vec<_> = read_all(&mut outlet).await.iter().map(id).collect();
    assert_eq!(ids.len() as u64, CALLERS * EACH);
    for caller in 0..CALLERS {
        let own: Vec<_> = ids
            .iter()
            .copied()
            .filter(|id| id / EACH == caller)
            .collect();
        assert_eq!(
            own,
            (caller * EACH..(caller + 1) * EACH).collect::<Vec<_>>()
        );
    }
}

#[tokio::test]
async fn a_full_queue_is_back_pressure() {
    let retry_after = Duration::from_millis(50);
    let (appends, mut queue) = mpsc::channel(1);
    let appender = Appender {
        appends,
        retry_after,
        routes: Arc::default(),
        connector: None,
    };
    let first = tokio::spawn({
        let appender = appender.clone();
        async move { appender.append(message(1)).await }
    });
    let queued = timeout(DEADLINE, queue.recv()).await.unwrap().unwrap();
    let second = tokio::spawn({
        let appender = appender.clone();
        async move { appender.append(message(2)).await }
    });
    while queue.is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        appender.append(message(3)).await,
        Err(AppendRefused::Behind { retry_after })
    );
    queued.reply.send(Ok(Sequence(1))).unwrap();
    assert_eq!(first.await.unwrap(), Ok(Sequence(1)));
    drop(queue);
    assert_eq!(second.await.unwrap(), Err(AppendRefused::Closed));
    assert_eq!(
        appender.append(message(4)).await,
        Err(AppendRefused::Closed)
    );
}
