//! Threads for computations on what others send: away from the database's threads and from those that answer requests, few, with a stack
//! of known size, and with a bounded queue. What runs here must bound its own work.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};
use std::{io, thread};

use async_channel::{Receiver, Sender, TrySendError};
use kith_kernel::{Problem, problems};
use thiserror::Error;
use tokio::sync::oneshot;

const THREADS: usize = 2;
/// Stack of each thread.
pub const COMPUTE_STACK_BYTES: usize = 16 << 20;
/// Computations that may wait.
const MAX_QUEUED: usize = 256;
/// A computation that has waited for longer is dropped.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// Why nothing was computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ComputeError {
    /// Too many others wait.
    #[error("too many computations wait")]
    Busy,
    /// It panicked.
    #[error("a computation panicked")]
    Panicked,
}

impl From<ComputeError> for Problem {
    fn from(error: ComputeError) -> Self {
        match error {
            ComputeError::Busy => {
                let detail = "Too many requests are being validated at this moment.";
                Self::new(&problems::UNAVAILABLE, detail).retry_after(1)
            }
            ComputeError::Panicked => {
                tracing::error!("a computation panicked");
                Self::new(&problems::INTERNAL, "The request could not be completed.")
            }
        }
    }
}

type Task = Box<dyn FnOnce() + Send>;

/// The threads' front. Clones share them; they end with the last clone.
#[derive(Clone, Debug)]
pub struct Compute {
    tasks: Sender<Task>,
    max_wait: Duration,
}

impl Compute {
    /// Starts the threads.
    ///
    /// # Errors
    /// The system's, if a thread cannot be started.
    pub fn start() -> io::Result<Self> {
        Self::start_with(THREADS, MAX_QUEUED, MAX_WAIT)
    }

    fn start_with(threads: usize, max_queued: usize, max_wait: Duration) -> io::Result<Self> {
        let (tasks, waiting) = async_channel::bounded(max_queued);
        for n in 0..threads {
            let waiting: Receiver<Task> = waiting.clone();
            let thread =
                thread::Builder::new().name(format!("kith-compute-{n}")).stack_size(COMPUTE_STACK_BYTES);
            thread.spawn(move || {
                while let Ok(task) = waiting.recv_blocking() {
                    task();
                }
            })?;
        }
        Ok(Self { tasks, max_wait })
    }

    /// How many computations wait.
    pub fn queued(&self) -> usize {
        self.tasks.len()
    }

    /// Runs `task` on one of the threads and waits for its result. If the caller goes away before its turn, it is not run.
    ///
    /// # Errors
    /// [`ComputeError`].
    #[expect(clippy::disallowed_methods, reason = "measures how long it has waited")]
    pub async fn run<T: Send + 'static>(
        &self,
        task: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ComputeError> {
        let (reply, answer) = oneshot::channel();
        let (queued, max_wait) = (Instant::now(), self.max_wait);
        let task: Task = Box::new(move || {
            if reply.is_closed() {
                return;
            }
            let computed = if queued.elapsed() > max_wait {
                Err(ComputeError::Busy)
            } else {
                catch_unwind(AssertUnwindSafe(task)).map_err(|_| ComputeError::Panicked)
            };
            // The caller may have gone away meanwhile.
            let _ = reply.send(computed);
        });
        self.tasks.try_send(task).map_err(|refused| match refused {
            TrySendError::Full(_) => ComputeError::Busy,
            TrySendError::Closed(_) => ComputeError::Panicked,
        })?;
        answer.await.unwrap_or(Err(ComputeError::Panicked))
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::mpsc;

    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn result_of_a_task_is_returned_and_a_panic_harms_nobody_else() {
        let compute = Compute::start_with(1, 8, MAX_WAIT).unwrap();
        assert_eq!(compute.run(|| 6 * 7).await, Ok(42));
        assert_eq!(compute.run(|| panic!("as asked")).await, Err::<(), _>(ComputeError::Panicked));
        assert_eq!(compute.run(|| 6 * 7).await, Ok(42));
    }

    #[tokio::test]
    async fn full_queue_rejects_and_late_or_abandoned_tasks_are_not_run() {
        let max_wait = Duration::from_secs(1);
        let compute = Compute::start_with(1, 2, max_wait).unwrap();
        let (go, wait) = mpsc::channel::<()>();
        let (started, starts) = mpsc::channel();
        let mut blocking = pin!(compute.run(move || {
            started.send(()).unwrap();
            wait.recv().unwrap();
        }));
        assert!(poll!(&mut blocking).is_pending());
        starts.recv().unwrap();
        let mut late = pin!(compute.run(|| "run"));
        assert!(poll!(&mut late).is_pending());
        assert!(poll!(pin!(compute.run(|| panic!("nobody waits for it")))).is_pending());
        assert_eq!(compute.run(|| "run").await, Err(ComputeError::Busy));
        let too_long = max_wait + Duration::from_millis(50);
        assert!(tokio::time::timeout(too_long, &mut late).await.is_err(), "its turn has not come");
        go.send(()).unwrap();
        assert_eq!(late.await, Err(ComputeError::Busy));
        assert_eq!(blocking.await, Ok(()));
    }
}
