//! What the plugins are told of the platform: whether the link is up, and when something that was accepted will never
//! arrive.
//!
//! A report strategy leaves out what the platform knows already. Where readings were evicted, damaged or set aside the
//! platform may not know it: then everything is reported again, once the link is up and can carry it.

use std::time::Duration;

use tokio::sync::watch;

use crate::link::LinkStatus;
use crate::plugins::Platform;
use crate::spool::SpoolStatus;

/// How often is looked for losses. Nobody waits for it, and the spool's figures change with every reading.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// From one report of everything to the next, where losses go on: they must not undo the strategies.
const PAUSE: Duration = Duration::from_secs(60);

/// The plugins' end, and ours.
pub(super) fn channel() -> (Platform, Teller) {
    let (link_up, link_is_up) = watch::channel(false);
    let (gap, gaps) = watch::channel(0);
    let platform = Platform {
        link_up: link_is_up,
        gaps,
    };
    (platform, Teller { link_up, gap })
}

pub(super) struct Teller {
    link_up: watch::Sender<bool>,
    gap: watch::Sender<u64>,
}

impl Teller {
    /// Runs until the link or the spool is gone.
    pub(super) async fn run(
        self,
        link: watch::Receiver<LinkStatus>,
        spool: watch::Receiver<SpoolStatus>,
    ) {
        let link_up = self.link_up.subscribe();
        // The end of the link ends a pause, too: a stop waits for this task.
        tokio::select! {
            () = tell_link(link, self.link_up) => {}
            () = tell_gaps(link_up, spool, self.gap) => {}
        }
    }
}

async fn tell_link(mut link: watch::Receiver<LinkStatus>, up: watch::Sender<bool>) {
    loop {
        let is_up = link.borrow_and_update().is_up();
        up.send_if_modified(|up| std::mem::replace(up, is_up) != is_up);
        if link.changed().await.is_err() {
            return;
        }
    }
}

async fn tell_gaps(
    link_up: watch::Receiver<bool>,
    spool: watch::Receiver<SpoolStatus>,
    gap: watch::Sender<u64>,
) {
    // What was lost earlier is no gap: a start knows nothing of what was reported.
    let mut told = lost(&spool.borrow());
    while spool.has_changed().is_ok() {
        let now = lost(&spool.borrow());
        if now > told && *link_up.borrow() {
            tracing::info!(
                lost_readings = now - told,
                "readings were lost: what report strategies leave out is reported once more"
            );
            told = now;
            gap.send_modify(|count| *count += 1);
            tokio::time::sleep(PAUSE).await;
        } else {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

fn lost(spool: &SpoolStatus) -> u64 {
    spool.evicted_readings + spool.damaged_readings + spool.set_aside_readings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loss_is_told_once_the_link_is_up_and_at_most_once_a_minute() {
        let evicted = |evicted_readings| SpoolStatus {
            evicted_readings,
            ..SpoolStatus::default()
        };
        let (link, link_up) = watch::channel(false);
        let (spool, status) = watch::channel(evicted(7));
        let (gap, mut gaps) = watch::channel(0);
        let task = tokio::spawn(tell_gaps(link_up, status, gap));
        let soon = LOOK_INTERVAL * 2;
        for (up, lost, after, told) in [
            (true, 7, soon, 0),
            (false, 8, soon, 0),
            (true, 8, soon, 1),
            (true, 9, soon, 1),
            (true, 9, PAUSE, 2),
            (true, 9, PAUSE * 3, 2),
        ] {
            link.send_replace(up);
            spool.send_replace(evicted(lost));
            tokio::time::sleep(after).await;
            assert_eq!(*gaps.borrow_and_update(), told, "{up} {lost} {after:?}");
        }
        drop(spool);
        task.await.unwrap();
    }
}
