//! How a daemon is asked to stop, and how it does.
//!
//! The first SIGTERM or SIGINT asks every task to come to its end; [`Shutdown::drain`] waits for them, but not for
//! long; a second signal ends the process at once. A daemon that was started by another program may be tied to it:
//! when that program is gone, however it ended, the daemon stops as if asked to. `kill -9` is a supported way to stop,
//! so nothing here is needed for data to be safe.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::exit::{Exit, Failure};

/// How long tasks may take to come to their end.
pub const DRAIN: Duration = Duration::from_secs(10);

/// Names the process to stop with: its process id.
pub const PARENT_VARIABLE: &str = "REELSWARM_PARENT";

/// How often a daemon that is tied to its parent looks for it. The id of the parent is asked for rather than a death
/// signal of the kernel, which is sent already when the *thread* that started the child ends.
const PARENT_CHECK: Duration = Duration::from_millis(250);

/// The one place that knows whether the program is stopping.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
    tasks: TaskTracker,
    reason: Arc<OnceLock<Exit>>,
}

impl Shutdown {
    /// A shutdown that only [`Shutdown::trigger`] starts, for tests and for daemons inside another program.
    pub fn manual() -> Shutdown {
        Shutdown::default()
    }

    /// A shutdown that listens for SIGTERM and SIGINT, and for the end of the parent if the environment names it.
    pub fn listen() -> Result<Shutdown, Failure> {
        let shutdown = Shutdown::manual();
        let cannot = |error: io::Error| Failure::io("cannot listen for signals", &error);
        let terminate = signal(SignalKind::terminate()).map_err(cannot)?;
        let interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
        tokio::spawn(shutdown.clone().obey(terminate, interrupt));
        if let Some(parent) = std::env::var(PARENT_VARIABLE).ok().filter(|text| !text.is_empty()) {
            tokio::spawn(shutdown.clone().follow(parent_of_text(&parent)?));
        }
        Ok(shutdown)
    }

    /// Stops the program, as if asked to, when the process that started it is gone: what `--exit-with-parent` asks for.
    pub fn end_with_parent(&self) {
        tokio::spawn(self.clone().follow(rustix::process::getppid()));
    }

    /// A token that is cancelled when the program is to stop.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Whether the program is to stop.
    pub fn is_requested(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until the program is to stop.
    pub async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// Asks the program to stop, and to end with this exit.
    pub fn trigger(&self, exit: Exit) {
        if self.reason.set(exit).is_err() {
            tracing::debug!("already stopping");
        }
        self.token.cancel();
    }

    /// Starts a task that the program waits for when it stops.
    pub fn spawn<F>(&self, task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.tasks.spawn(task)
    }

    /// Waits until the program is to stop and its tasks have ended, but not longer than [`DRAIN`] for the latter.
    pub async fn drain(&self) -> Exit {
        self.requested().await;
        self.tasks.close();
        if tokio::time::timeout(DRAIN, self.tasks.wait()).await.is_err() {
            tracing::warn!(left = self.tasks.len(), "some tasks did not end in time");
        }
        self.reason.get().copied().unwrap_or(Exit::Done)
    }

    async fn obey(self, mut terminate: Signal, mut interrupt: Signal) {
        let first = next_signal(&mut terminate, &mut interrupt).await;
        tracing::info!("stopping; a second signal ends at once");
        self.trigger(first);
        let second = next_signal(&mut terminate, &mut interrupt).await;
        std::process::exit(second.number().into());
    }

    async fn follow(self, parent: Option<rustix::process::Pid>) {
        while rustix::process::getppid() == parent {
            tokio::time::sleep(PARENT_CHECK).await;
        }
        tracing::info!("the program that started this one is gone; stopping");
        self.trigger(Exit::Terminated);
    }
}

async fn next_signal(terminate: &mut Signal, interrupt: &mut Signal) -> Exit {
    tokio::select! {
        _ = terminate.recv() => Exit::Terminated,
        _ = interrupt.recv() => Exit::Interrupted,
    }
}

fn parent_of_text(text: &str) -> Result<Option<rustix::process::Pid>, Failure> {
    text.parse().map(rustix::process::Pid::from_raw).map_err(|error| {
        Failure::new(Exit::Config, "E-PARENT-01", format!("{PARENT_VARIABLE}={text} is not a process id")).why(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn drain_waits_for_the_tasks_and_tells_the_reason() {
        let shutdown = Shutdown::manual();
        let (done, mut is_done) = tokio::sync::oneshot::channel();
        let task = shutdown.clone();
        shutdown.spawn(async move {
            task.requested().await;
            done.send(()).unwrap();
        });
        shutdown.trigger(Exit::Interrupted);
        shutdown.trigger(Exit::Terminated);
        assert_eq!(shutdown.drain().await, Exit::Interrupted);
        assert_eq!(is_done.try_recv(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn drain_does_not_wait_for_ever() {
        let shutdown = Shutdown::manual();
        shutdown.spawn(std::future::pending::<()>());
        shutdown.trigger(Exit::Terminated);
        let started = tokio::time::Instant::now();
        assert_eq!(shutdown.drain().await, Exit::Terminated);
        assert_eq!(started.elapsed(), DRAIN);
    }

    #[tokio::test]
    async fn daemon_whose_parent_is_another_stops() {
        let shutdown = Shutdown::manual();
        shutdown.clone().follow(rustix::process::Pid::from_raw(i32::MAX)).await;
        assert!(shutdown.is_requested());
    }

    #[test]
    fn parent_that_is_no_process_id_is_refused() {
        assert_eq!(parent_of_text("init").unwrap_err().exit, Exit::Config);
    }
}
