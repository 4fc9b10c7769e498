//! Threads of less priority, for instances whose guests compute for long.
//!
//! ```text
//!                its calls used up what they had free
//!   with all others ─────────────────────────────────► on heavy threads
//!                   ◄─────────────────────────────────
//!                paid back, and a minute more; or another build took over
//! ```
//!
//! Turns ([`super::meter::Turns`]) leave half of the processors to everybody else. That is not enough where the kernel gives a
//! thread that computes its whole slice, some milliseconds, before another has its turn: each thread on a reading's way, in this
//! process and in others, may wait so long. A thread that is nicer gives way at once. A task moves between two calls of its
//! guest, when it holds nothing but its own state.

use std::panic::resume_unwind;
use std::sync::OnceLock;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

/// A tenth of the weight of other threads: what is left over is theirs, and on a busy machine they do not starve.
const NICE: i32 = 10;
/// The least priority there is.
const LEAST: i32 = 19;

/// The threads. They are started with the first instance that needs them, and end when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Heavy(OnceLock<Option<Runtime>>);

impl Heavy {
    /// Runs `task` there, to its end; dropping this ends it. Without threads for it, it runs here.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let Some(runtime) = self.0.get_or_init(start) else {
            return Some(task.await);
        };
        let mut tasks = JoinSet::new();
        tasks.spawn_on(task, runtime.handle());
        match tasks.join_next().await? {
            Ok(output) => Some(output),
            Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
            Err(_ended_with_its_runtime) => None,
        }
    }
}

impl Drop for Heavy {
    fn drop(&mut self) {
        if let Some(Some(runtime)) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

fn start() -> Option<Runtime> {
    // From here: what these threads start inherits what they have, and would be lower still.
    let less = less_priority();
    let started = Builder::new_multi_thread()
        .worker_threads(super::meter::turns())
        .thread_name("heavy-guests")
        .on_thread_start(move || take_priority(less))
        .enable_all()
        .build();
    started
        .inspect_err(|error| {
            tracing::warn!(%error, "no threads for plugins that compute for long: they run with all others");
        })
        .ok()
}

/// From now on this thread, and what it starts, gives way to others.
pub(super) fn give_way() {
    take_priority(less_priority());
}

/// Less than what this thread has.
fn less_priority() -> i32 {
    let present = rustix::process::getpriority_process(None).unwrap_or_default();
    (present + NICE).min(LEAST)
}

/// Elsewhere than on Linux a priority is the whole process's.
fn take_priority(nice: i32) {
    if cfg!(target_os = "linux")
        && let Err(error) = rustix::process::setpriority_process(None, nice)
    {
        tracing::debug!(%error, "a thread keeps its priority");
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::sync::oneshot;
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;

    fn nice() -> i32 {
        rustix::process::getpriority_process(None).expect("a priority")
    }

    #[tokio::test]
    async fn what_runs_there_gives_way_and_nothing_else_does() {
        let heavy = Heavy::default();
        let before = nice();
        let there = async {
            let blocking = tokio::task::spawn_blocking(nice);
            (nice(), blocking.await.expect("a thread"))
        };
        let less = (before + NICE).min(LEAST);
        assert_eq!(heavy.run(there).await, Some((less, less)));
        assert_eq!(nice(), before);
    }

    #[tokio::test]
    async fn a_task_that_nobody_waits_for_ends() {
        let heavy = Arc::new(Heavy::default());
        let (held, mut dropped) = oneshot::channel::<()>();
        let waiting = tokio::spawn({
            let heavy = Arc::clone(&heavy);
            async move {
                let task = async move {
                    std::future::pending::<()>().await;
                    drop(held);
                };
                heavy.run(task).await
            }
        });
        tokio::task::yield_now().await;
        assert_eq!(dropped.try_recv(), Err(TryRecvError::Empty));
        waiting.abort();
        let dropped = tokio::time::timeout(Duration::from_secs(30), dropped).await;
        assert!(matches!(dropped, Ok(Err(_))), "it is still there");
    }
}
