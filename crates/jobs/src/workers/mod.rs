//! Workers: claim jobs of their queues, run the handlers, and report the results.

mod drain;
mod fetch;
mod lane;
mod report;
mod run;
mod typed;

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use kith_kernel::{Timestamp, minutes, seconds};
use kith_store::{EngineKind, Error};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use crate::finish::CANCEL_CHANNEL;
use crate::history::Retention;
use crate::jobs::{HeartbeatOutcome, Jobs};
use crate::maintenance::MaintenanceState;
use crate::model::{Attempt, JobError, JobOutput};

use report::Message;
pub use run::AttemptContext;
pub use run::progress_channel;
pub use typed::JobType;

type HandlerFuture = Pin<Box<dyn Future<Output = Result<JobOutput, JobError>> + Send>>;

/// Handler for jobs of one kind.
#[derive(Clone)]
pub struct Handler {
    kind: String,
    run: Arc<dyn Fn(AttemptContext) -> HandlerFuture + Send + Sync>,
}

impl Handler {
    /// Creates a handler that calls `run` for each job of the kind. `run` can be called again for a job that
    /// has already succeeded, so it must be idempotent.
    pub fn new<F, R>(kind: impl Into<String>, run: F) -> Self
    where
        F: Fn(AttemptContext) -> R + Send + Sync + 'static,
        R: Future<Output = Result<JobOutput, JobError>> + Send + 'static,
    {
        Self { kind: kind.into(), run: Arc::new(move |job| Box::pin(run(job))) }
    }

    /// Returns the kind.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Runs an attempt. A panic in the handler counts as a failure.
    async fn attempt(&self, run: AttemptContext) -> Result<JobOutput, JobError> {
        let attempt = AssertUnwindSafe(async { (self.run)(run).await });
        let ended = attempt.catch_unwind().await;
        ended.unwrap_or_else(|_| Err(JobError::Retry("the handler panicked".to_owned())))
    }
}

/// Concurrency of one queue in this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueConcurrency {
    /// Name of the queue.
    pub queue: String,
    /// Maximum number of jobs running at once in this process.
    pub concurrency: usize,
}

/// Options of the workers of a process.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// Name of the process, shown to operators.
    pub name: String,
    /// Queues whose jobs the process runs.
    pub queues: Vec<QueueConcurrency>,
    /// Duration of the lease. The process is evicted if it sends no heartbeat for this time. It sends three
    /// heartbeats per lease.
    pub lease: Duration,
    /// Interval at which queues are checked even without a notification.
    pub poll: Duration,
    /// Maximum time that a stop waits for running jobs. The jobs that are still running after it are
    /// cancelled and returned to the queue.
    pub grace: Duration,
    /// Time that handlers may continue after they were cancelled at the end of `grace`. Handlers that are
    /// still running after it are dropped.
    pub cancel_grace: Duration,
    /// Time for which ended jobs are kept.
    pub retention: Retention,
}

impl WorkerOptions {
    /// Creates options with these defaults: `lease` 6 s, `poll` 1 s, `grace` 25 s, `cancel_grace` 1 s.
    pub fn new(name: impl Into<String>, queues: Vec<QueueConcurrency>) -> Self {
        Self {
            name: name.into(),
            queues,
            lease: seconds(6),
            poll: seconds(1),
            grace: seconds(25),
            cancel_grace: seconds(1),
            retention: Retention::DEFAULT,
        }
    }
}

/// State shared by all tasks of a process's workers.
pub(crate) struct Shared {
    pub jobs: Jobs,
    pub handlers: HashMap<String, Handler>,
    pub options: WorkerOptions,
    /// Worker id of this process; 0 while it is evicted and not registered again.
    pub worker: AtomicI64,
    pub(in crate::workers) phase: watch::Sender<Phase>,
    pub(in crate::workers) reports: mpsc::UnboundedSender<Message>,
    /// Attempts running in this process.
    pub(in crate::workers) running: Mutex<HashMap<Attempt, Running>>,
    /// Number of jobs that were claimed and are not reported yet.
    pub outstanding: AtomicUsize,
    /// Notified when `outstanding` decreases.
    pub freed: Notify,
    pub stale: AtomicUsize,
    /// Number of reports that were written.
    pub(in crate::workers) reported: AtomicUsize,
}

/// Phase of the workers from the start to the end of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Working,
    /// No more jobs are claimed or started.
    Stopping,
    /// The time in `grace` has passed. Running jobs are cancelled and returned to the queue.
    Cancelling,
    /// Handlers that are still running are dropped.
    Dropping,
}

/// Attempt running in this process.
struct Running {
    /// Sender that requests the cancellation of the attempt.
    stop: watch::Sender<bool>,
    /// Deadline of an attempt with a timeout; `None` after a heartbeat has recorded it.
    unrecorded_deadline: Option<Timestamp>,
}

/// Running workers of this process.
pub struct Workers {
    shared: Arc<Shared>,
    fetchers: JoinSet<()>,
    others: JoinSet<()>,
    reporter: tokio::task::JoinHandle<()>,
}

/// Lease of the workers on SQLite. It never expires in practice, because only one process can use the
/// database, and its workers end with the process.
const PROCESS_LEASE: Duration = minutes(60 * 24 * 3_650);

impl Workers {
    /// Registers this process and starts its tasks.
    ///
    /// # Errors
    /// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
    pub async fn start(jobs: &Jobs, handlers: Vec<Handler>, options: WorkerOptions) -> Result<Self, Error> {
        if jobs.db().kind() == EngineKind::Sqlite {
            jobs.evict_previous_workers().await?;
        }
        jobs.restart_contact();
        let (reports, arriving) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            worker: AtomicI64::new(register(jobs, &options).await?),
            jobs: jobs.clone(),
            handlers: handlers.into_iter().map(|one| (one.kind.clone(), one)).collect(),
            options,
            phase: watch::Sender::new(Phase::Working),
            reports,
            running: Mutex::default(),
            outstanding: AtomicUsize::new(0),
            freed: Notify::new(),
            stale: AtomicUsize::new(0),
            reported: AtomicUsize::new(0),
        });
        let mut fetchers = JoinSet::new();
        for share in shared.options.queues.clone() {
            fetchers.spawn(fetch::fetch(Arc::clone(&shared), share));
        }
        let mut others = JoinSet::new();
        others.spawn(heartbeat(Arc::clone(&shared)));
        others.spawn(maintain(Arc::clone(&shared)));
        others.spawn(run_schedules(Arc::clone(&shared)));
        let reporter = tokio::spawn(report::run(Arc::clone(&shared), arriving));
        Ok(Self { shared, fetchers, others, reporter })
    }

    /// Returns the worker id of this process, or 0 while it is not registered.
    pub fn worker(&self) -> i64 {
        self.shared.worker.load(Ordering::Relaxed)
    }

    /// Returns the number of reports that were ignored because another worker owned the attempt.
    pub fn stale(&self) -> usize {
        self.shared.stale.load(Ordering::Relaxed)
    }

    /// Stops claiming, returns jobs that have not started to the queue, and waits at most `grace` for running
    /// jobs.
    ///
    /// Then it cancels the handlers that are still running, and drops those that have not ended within
    /// `cancel_grace`. Their jobs are returned to the queue, which does not count as a failure. Only a
    /// handler that blocks its thread can still be running afterwards; its report is ignored.
    pub async fn stop(mut self) {
        self.shared.phase.send_replace(Phase::Stopping);
        while self.fetchers.join_next().await.is_some() {}
        let in_time = self.shared.ends_within(self.shared.options.grace).await;
        if !in_time {
            self.shared.phase.send_replace(Phase::Cancelling);
            self.shared.list_running().into_iter().for_each(|attempt| self.shared.stop_running(attempt));
            let cancel_grace = self.shared.options.cancel_grace;
            if !self.shared.ends_within(cancel_grace).await {
                self.shared.phase.send_replace(Phase::Dropping);
                self.shared.ends_within(cancel_grace).await;
            }
        }
        self.others.shutdown().await;
        self.reporter.abort();
        if let Err(error) = self.finish_stop(in_time).await {
            tracing::warn!(%error, "the workers cannot sign off; their jobs run again when the leases expire");
        }
    }

    async fn finish_stop(&self, in_time: bool) -> Result<(), Error> {
        self.shared.jobs.write_counts().await?;
        let remaining = self.shared.jobs.deregister(self.worker()).await?;
        if remaining > 0 {
            tracing::warn!(
                jobs = remaining,
                in_time,
                "jobs still running after the grace period were rescheduled"
            );
        }
        Ok(())
    }
}

async fn register(jobs: &Jobs, options: &WorkerOptions) -> Result<i64, Error> {
    let alone = jobs.db().kind() == EngineKind::Sqlite;
    let lease = if alone { PROCESS_LEASE } else { options.lease };
    jobs.register(&options.name, false, lease).await
}

/// Sends heartbeats, and cancels the attempts that a heartbeat returns.
async fn heartbeat(shared: Arc<Shared>) {
    let mut listener = shared.jobs.db().listen(CANCEL_CHANNEL);
    let every = shared.options.lease / 3;
    loop {
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = listener.notified() => {}
        }
        let (running, deadlines) = (shared.list_running(), shared.unrecorded_deadlines());
        let worker = shared.worker.load(Ordering::SeqCst);
        match shared.jobs.heartbeat_with_deadlines(worker, running, deadlines.clone()).await {
            Ok((HeartbeatOutcome::Alive { cancel }, lost)) => {
                shared.set_recorded(&deadlines);
                cancel.iter().chain(&lost).for_each(|attempt| shared.stop_running(*attempt));
            }
            Ok((HeartbeatOutcome::Evicted, _)) => register_again(&shared).await,
            Err(error) => tracing::warn!(%error, "heartbeat failed"),
        }
    }
}

/// Handles the eviction of this process, whose jobs were given to other workers. Cancels all attempts and
/// registers the process again.
async fn register_again(shared: &Shared) {
    tracing::warn!("the lease of this process expired; cancelling its jobs and registering again");
    // Claimed jobs that have not started yet are not started while the id is 0.
    shared.worker.store(0, Ordering::SeqCst);
    shared.list_running().into_iter().for_each(|attempt| shared.stop_running(attempt));
    match register(&shared.jobs, &shared.options).await {
        Ok(worker) => shared.worker.store(worker, Ordering::SeqCst),
        Err(error) => tracing::warn!(%error, "registering again failed; will be retried"),
    }
}

async fn maintain(shared: Arc<Shared>) {
    let mut last = MaintenanceState::default();
    loop {
        tokio::time::sleep(shared.options.poll).await;
        if let Err(error) = shared.jobs.run_maintenance(&mut last, shared.options.retention).await {
            tracing::warn!(%error, "job maintenance failed; will be retried");
        }
    }
}

/// Enqueues due occurrences of schedules at the time of the next occurrence, and at least once per poll
/// interval, because a schedule may have been added.
async fn run_schedules(shared: Arc<Shared>) {
    loop {
        let next_run_at = match shared.jobs.tick().await {
            Ok(ticked) => ticked.next_run_at,
            Err(error) => {
                tracing::warn!(%error, "cannot run schedules; due runs will be retried");
                None
            }
        };
        let now = shared.jobs.ctx().now;
        let wait = next_run_at.map_or(shared.options.poll, |next| next.since(now).min(shared.options.poll));
        tokio::time::sleep(wait.max(Duration::from_millis(10))).await;
    }
}

impl Shared {
    /// Waits until all claimed jobs are reported or abandoned. Returns false if `time` passes first.
    async fn ends_within(&self, time: Duration) -> bool {
        let all_done = async {
            while self.outstanding.load(Ordering::Acquire) > 0 {
                let freed = self.freed.notified();
                if self.outstanding.load(Ordering::Acquire) > 0 {
                    // Wait with a timeout, because a notification can be missed.
                    let _ = tokio::time::timeout(Duration::from_millis(50), freed).await;
                }
            }
        };
        tokio::time::timeout(time, all_done).await.is_ok()
    }

    /// Subtracts attempts that were reported or abandoned from the number of outstanding attempts.
    fn free(&self, attempts: usize) {
        self.outstanding.fetch_sub(attempts, Ordering::Release);
        self.freed.notify_waiters();
    }

    fn stop_running(&self, attempt: Attempt) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = running.get(&attempt) {
            running.stop.send_replace(true);
        }
    }

    fn list_running(&self) -> Vec<Attempt> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// Returns the deadlines of running attempts that are not in the database yet. A claim does not record
    /// them, because jobs claimed in advance have not started. Most attempts end before the next heartbeat.
    fn unrecorded_deadlines(&self) -> Vec<(Attempt, Timestamp)> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.iter().filter_map(|(attempt, one)| Some((*attempt, one.unrecorded_deadline?))).collect()
    }

    fn set_recorded(&self, deadlines: &[(Attempt, Timestamp)]) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        for (attempt, _) in deadlines {
            if let Some(one) = running.get_mut(attempt) {
                one.unrecorded_deadline = None;
            }
        }
    }
}
