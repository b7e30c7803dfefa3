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
    /// Creates a handler that calls `run` for each job of this kind. It can be called again for a job that
    /// has already succeeded.
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

    /// Runs an attempt. A panic in the closure or its future counts as a failure.
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
    /// Name of the process, for people.
    pub name: String,
    /// Queues to work on.
    pub queues: Vec<QueueConcurrency>,
    /// Lease duration: without a heartbeat for this long, the process is evicted. It sends three heartbeats
    /// per lease.
    pub lease: Duration,
    /// Interval at which queues are checked without a notification.
    pub poll: Duration,
    /// Time that a stop waits for running jobs. The remaining ones are then cancelled and returned to the
    /// queue.
    pub grace: Duration,
    /// Time that handlers may continue after they have been cancelled at the end of `grace`; then they are
    /// dropped.
    pub cancel_grace: Duration,
    /// Retention of ended jobs.
    pub retention: Retention,
}

impl WorkerOptions {
    /// Creates options with the defaults: a lease of 6 s, a poll interval of 1 s, a grace of 25 s, and 1 s
    /// more for cancelled handlers.
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
    /// Worker id of this process; 0 from its eviction until it has registered again.
    pub worker: AtomicI64,
    pub(in crate::workers) phase: watch::Sender<Phase>,
    pub(in crate::workers) reports: mpsc::UnboundedSender<Message>,
    /// Attempts running in this process.
    pub(in crate::workers) running: Mutex<HashMap<Attempt, Running>>,
    /// Number of jobs claimed and not yet reported.
    pub outstanding: AtomicUsize,
    /// Notified when `outstanding` decreases.
    pub freed: Notify,
    pub stale: AtomicUsize,
    /// Number of reports written.
    pub(in crate::workers) reported: AtomicUsize,
}

/// Phase of the workers between start and end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Working,
    /// No more jobs are claimed or started.
    Stopping,
    /// The grace has ended: running jobs are cancelled and returned to the queue.
    Cancelling,
    /// Handlers that are still running are dropped.
    Dropping,
}

/// Attempt running in this process.
struct Running {
    /// Requests cancellation of the attempt.
    stop: watch::Sender<bool>,
    /// Deadline of an attempt with a timeout, until a heartbeat has recorded it.
    unrecorded_deadline: Option<Timestamp>,
}

/// Running workers of this process.
pub struct Workers {
    shared: Arc<Shared>,
    fetchers: JoinSet<()>,
    others: JoinSet<()>,
    reporter: tokio::task::JoinHandle<()>,
}

/// Lease of the workers on SQLite, where only one process can use the database: they end with the process.
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

    /// Returns the number of ignored reports, about attempts that belonged to another worker by then.
    pub fn stale(&self) -> usize {
        self.shared.stale.load(Ordering::Relaxed)
    }

    /// Stops claiming, returns jobs that have not started, and waits for the running ones, at most for
    /// `grace`.
    ///
    /// Handlers that are still running then are cancelled, and dropped if they have not ended within
    /// `cancel_grace`. Their jobs are returned to the queue, which does not count as a failure. Only a
    /// handler that blocks its thread can still be running afterwards; its report will be ignored.
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

/// Sends heartbeats and cancels the attempts that they return.
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

/// Handles the eviction of this process: its jobs belong to other workers. Cancels all of them and registers
/// again.
async fn register_again(shared: &Shared) {
    tracing::warn!("the lease of this process expired; cancelling its jobs and registering again");
    // Jobs waiting to start do not start any more.
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

/// Enqueues due occurrences of schedules: at the time of the next occurrence, and at least once per poll
/// interval, because a schedule may be added meanwhile.
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
    /// Waits until all claimed jobs have been reported or abandoned. Returns false after `time`.
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

    /// Records that attempts are no longer outstanding.
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

    /// Returns the deadlines of running attempts that are not in the database yet. They are not recorded by
    /// the claim, because jobs claimed ahead have not started, and most attempts end before the next
    /// heartbeat.
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
