//! Threads for computations on client input, such as schema validation. They are separate from the database
//! and request threads, few, and have a fixed stack size. Their queue is bounded and fair between callers.
//! Each task must limit its own work.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{io, thread};

use axum::response::Response;
use kith_kernel::uuid::Uuid;
use kith_kernel::{COMPUTE_STACK_BYTES, Ctx, FieldError, Precomputed, Problem, problems};
use kith_store::{Error, Tx};
use serde::Serialize;
use thiserror::Error;
use tokio::sync::oneshot;

use crate::auth::Principal;
use crate::fair_queue::{FairQueue, QueueFull, fair_queue};
use crate::{ApiResult, App, WriteResponse};

const THREADS: usize = 2;
/// Maximum number of times that a command is retried because its transaction finds another result missing.
const MAX_ROUNDS: usize = 4;
/// Maximum number of waiting tasks.
const MAX_QUEUED: usize = 256;
/// Maximum time that a task waits in the queue.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// Reason why a task returned no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ComputeError {
    /// The queue is full, or the task waited too long.
    #[error("the queue of computations is full")]
    Busy,
    /// The task panicked.
    #[error("a computation panicked")]
    Panicked,
}

impl From<ComputeError> for Problem {
    fn from(error: ComputeError) -> Self {
        match error {
            ComputeError::Busy => {
                let detail = "Too many requests are being validated. Retry in a moment.";
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

/// Handle of the compute threads. Clones share the threads, which stop when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Compute {
    tasks: FairQueue<Uuid, Task>,
    max_wait: Duration,
}

impl Compute {
    /// Starts the threads.
    ///
    /// # Errors
    /// Returns the I/O error if a thread cannot be started.
    pub fn start() -> io::Result<Self> {
        Self::start_with(THREADS, MAX_QUEUED, MAX_WAIT)
    }

    fn start_with(threads: usize, max_queued: usize, max_wait: Duration) -> io::Result<Self> {
        let (tasks, waiting) = fair_queue::<Uuid, Task>(max_queued);
        for n in 0..threads {
            let waiting = waiting.clone();
            let thread =
                thread::Builder::new().name(format!("kith-compute-{n}")).stack_size(COMPUTE_STACK_BYTES);
            thread.spawn(move || {
                while let Some(task) = waiting.take() {
                    task();
                }
            })?;
        }
        Ok(Self { tasks, max_wait })
    }

    /// Returns the number of waiting tasks.
    pub fn queued(&self) -> usize {
        self.tasks.len()
    }

    /// Runs `task` of `caller` on one of the threads and returns its result. The task is dropped without
    /// running if the caller stops waiting, or if the task waits too long in the queue.
    ///
    /// # Errors
    /// Returns [`ComputeError::Busy`] if the task was not run, and [`ComputeError::Panicked`] if it panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        caller: Uuid,
        task: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ComputeError> {
        let (reply, mut answer) = oneshot::channel();
        let started = Arc::new(AtomicBool::new(false));
        let set_started = Arc::clone(&started);
        let task: Task = Box::new(move || {
            set_started.store(true, Ordering::SeqCst);
            if reply.is_closed() {
                return;
            }
            let computed = catch_unwind(AssertUnwindSafe(task)).map_err(|_| ComputeError::Panicked);
            // The caller may have stopped waiting.
            let _ = reply.send(computed);
        });
        self.tasks.push(caller, task).map_err(|QueueFull| ComputeError::Busy)?;
        let answer = match tokio::time::timeout(self.max_wait, &mut answer).await {
            Ok(answer) => answer,
            Err(_) if started.load(Ordering::SeqCst) => answer.await,
            Err(_) => return Err(ComputeError::Busy),
        };
        // The queue drops the sender if it evicts the task in favour of another caller.
        answer.unwrap_or(Err(ComputeError::Busy))
    }
}

impl App {
    /// Runs `task` on the compute threads, in the queue of `caller`.
    ///
    /// # Errors
    /// Returns a 422 problem with the field errors of `task`, or a 503 problem if the compute queue is full.
    pub async fn compute_for<T: Send + 'static>(
        &self,
        caller: &Principal,
        task: impl FnOnce() -> Result<T, Vec<FieldError>> + Send + 'static,
    ) -> ApiResult<T> {
        let computed = self.compute.run(caller.id(), task).await.map_err(Problem::from)?;
        Ok(computed.map_err(Problem::invalid)?)
    }

    /// Runs a command like [`App::change`]. If its transaction finds results missing, computes them outside
    /// the transaction and runs the command again.
    ///
    /// # Errors
    /// Returns the errors of [`App::change`] and [`App::compute_for`].
    pub async fn change_precomputed<P, F, T, E>(
        &self,
        caller: impl Into<Principal>,
        run: F,
    ) -> ApiResult<Response>
    where
        P: Precomputed,
        F: Fn(&Tx<'_>, &Ctx, &P) -> Result<WriteResponse<T>, E> + Send + Sync + 'static,
        E: From<Error> + Into<Problem> + Send + 'static,
        T: Serialize + Send + 'static,
    {
        let (caller, run) = (caller.into(), Arc::new(run));
        let mut known = P::default();
        let mut rounds = 0;
        loop {
            rounds += 1;
            let (given, run) = (known.clone(), Arc::clone(&run));
            let answer = self.change(caller.clone(), move |tx, ctx| run(tx, ctx, &given)).await;
            match known.take_missing() {
                Some(missing) if answer.is_err() && rounds < MAX_ROUNDS => {
                    known = self.compute_for(&caller, missing).await?;
                }
                _ => return answer,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::mpsc;

    use futures_util::poll;

    use super::*;

    const CALLER: Uuid = Uuid::from_u128(1);

    #[tokio::test]
    async fn task_result_is_returned_and_panic_is_isolated() {
        let compute = Compute::start_with(1, 8, MAX_WAIT).unwrap();
        assert_eq!(compute.run(CALLER, || 6 * 7).await, Ok(42));
        assert_eq!(compute.run(CALLER, || panic!("on purpose")).await, Err::<(), _>(ComputeError::Panicked));
        assert_eq!(compute.run(CALLER, || 6 * 7).await, Ok(42));
    }

    #[tokio::test]
    async fn full_queue_rejects_and_late_or_abandoned_tasks_are_not_run() {
        let max_wait = Duration::from_secs(1);
        let compute = Compute::start_with(1, 2, max_wait).unwrap();
        let (go, wait) = mpsc::channel::<()>();
        let (started, starts) = mpsc::channel();
        let mut blocking = pin!(compute.run(CALLER, move || {
            started.send(()).unwrap();
            wait.recv().unwrap();
        }));
        assert!(poll!(&mut blocking).is_pending());
        starts.recv().unwrap();
        let has_run = Arc::new(AtomicBool::new(false));
        let run = || {
            let has_run = Arc::clone(&has_run);
            move || has_run.store(true, Ordering::SeqCst)
        };
        let mut late = pin!(compute.run(CALLER, run()));
        assert!(poll!(&mut late).is_pending());
        assert!(
            poll!(pin!(compute.run(CALLER, run()))).is_pending(),
            "the second task is pending when it is dropped"
        );
        assert_eq!(compute.run(CALLER, run()).await, Err(ComputeError::Busy));
        assert_eq!(
            late.await,
            Err(ComputeError::Busy),
            "a task that does not start in time is rejected as busy"
        );
        go.send(()).unwrap();
        assert_eq!(blocking.await, Ok(()));
        while compute.queued() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(compute.run(CALLER, || "run").await, Ok("run"));
        assert!(!has_run.load(Ordering::SeqCst));
    }
}
