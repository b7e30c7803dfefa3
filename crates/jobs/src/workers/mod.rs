//! Workers: they claim jobs of their queues, run their handlers, and say how that ended.

mod drain;
mod fetch;
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

use crate::finish::{Attempt, CANCEL_BELL};
use crate::history::Retention;
use crate::jobs::{Heard, Jobs};
use crate::model::{Done, JobError};
use crate::upkeep::Upkept;

use report::Message;
pub use run::Run;
pub use run::progress_bell;
pub use typed::JobType;

type HandlerFuture = Pin<Box<dyn Future<Output = Result<Done, JobError>> + Send>>;

/// What is done for jobs of a kind.
#[derive(Clone)]
pub struct Handler {
    kind: String,
    run: Arc<dyn Fn(Run) -> HandlerFuture + Send + Sync>,
}

impl Handler {
    /// `run` is done for each job of this kind. It may be run again for a job that it has done before.
    pub fn new<F, R>(kind: impl Into<String>, run: F) -> Self
    where
        F: Fn(Run) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Done, JobError>> + Send + 'static,
    {
        Self { kind: kind.into(), run: Arc::new(move |job| Box::pin(run(job))) }
    }

    /// The kind.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Runs an attempt. One that panics, in the closure or in its future, has failed.
    async fn attempt(&self, run: Run) -> Result<Done, JobError> {
        let attempt = AssertUnwindSafe(async { (self.run)(run).await });
        let ended = attempt.catch_unwind().await;
        ended.unwrap_or_else(|_| Err(JobError::Retry("its handler panicked".to_owned())))
    }
}

/// How much of a queue is run at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueShare {
    /// The queue.
    pub queue: String,
    /// Jobs that run at once in this process.
    pub concurrency: usize,
}

/// How workers work.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// Which process this is, for people.
    pub name: String,
    /// What it works on.
    pub queues: Vec<QueueShare>,
    /// How long a silent process counts as alive; it says three times as often that it is.
    pub lease: Duration,
    /// How often queues are looked at although nobody rings.
    pub poll: Duration,
    /// How long a stop waits for jobs that run. Those that still do are then told to stop, and given back.
    pub grace: Duration,
    /// How long handlers that outlast `grace` may run once they were told to stop; then they are dropped.
    pub cancel_grace: Duration,
    /// What is kept of ended jobs.
    pub retention: Retention,
}

impl WorkerOptions {
    /// The defaults: given up after 6 s of silence, a look each second, a grace of 25 s, and one
    /// second more for handlers that were told to stop.
    pub fn new(name: impl Into<String>, queues: Vec<QueueShare>) -> Self {
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

/// What all tasks of one process's workers share.
pub(crate) struct Shared {
    pub jobs: Jobs,
    pub handlers: HashMap<String, Handler>,
    pub options: WorkerOptions,
    /// As what this process is registered; 0 from when it was given up until it is registered anew.
    pub worker: AtomicI64,
    pub(in crate::workers) phase: watch::Sender<Phase>,
    pub(in crate::workers) reports: mpsc::UnboundedSender<Message>,
    /// Attempts that run here.
    pub(in crate::workers) running: Mutex<HashMap<Attempt, Running>>,
    /// Claimed and not reported.
    pub outstanding: AtomicUsize,
    /// Told whenever that falls.
    pub freed: Notify,
    pub stale: AtomicUsize,
    /// Reports that were written.
    pub(in crate::workers) reported: AtomicUsize,
}

/// How far the workers have got on the way from their start to their end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Working,
    /// Nothing more is claimed or begun.
    Stopping,
    /// The grace is over: what runs was told to stop, and is given back.
    Leaving,
    /// What still runs is dropped.
    Dropping,
}

/// An attempt that runs here.
struct Running {
    /// Tells it to stop.
    stop: watch::Sender<bool>,
    /// When it should have ended, if it has a timeout, until a heartbeat has recorded that.
    unrecorded_deadline: Option<Timestamp>,
}

/// Workers that work.
pub struct Workers {
    shared: Arc<Shared>,
    fetchers: JoinSet<()>,
    others: JoinSet<()>,
    reporter: tokio::task::JoinHandle<()>,
}

/// How long a worker of the only process that the database admits counts as alive: it ends with the process.
const WITH_THE_PROCESS: Duration = minutes(60 * 24 * 3_650);

impl Workers {
    /// Registers this process and starts its tasks.
    ///
    /// # Errors
    /// The database's.
    pub async fn start(jobs: &Jobs, handlers: Vec<Handler>, options: WorkerOptions) -> Result<Self, Error> {
        if jobs.db().kind() == EngineKind::Sqlite {
            jobs.give_up_predecessors().await?;
        }
        jobs.begin_contact();
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
        others.spawn(beat(Arc::clone(&shared)));
        others.spawn(keep_up(Arc::clone(&shared)));
        others.spawn(keep_time(Arc::clone(&shared)));
        let reporter = tokio::spawn(report::heed(Arc::clone(&shared), arriving));
        Ok(Self { shared, fetchers, others, reporter })
    }

    /// As what this process is registered.
    pub fn worker(&self) -> i64 {
        self.shared.worker.load(Ordering::Relaxed)
    }

    /// Reports that came too late, of attempts that were somebody else's by then.
    pub fn stale(&self) -> usize {
        self.shared.stale.load(Ordering::Relaxed)
    }

    /// Claims nothing more, gives back at once what has not begun, and waits for what runs, at most for the grace.
    ///
    /// Handlers that still run then are told to stop, as by a cancellation, and dropped when they have not ended within
    /// `cancel_grace`. Their jobs are given back: they are run again elsewhere, and it is no failure. Only a handler that blocks
    /// its thread may then still be at work; what it reports counts for nothing.
    pub async fn stop(mut self) {
        self.shared.phase.send_replace(Phase::Stopping);
        while self.fetchers.join_next().await.is_some() {}
        let in_time = self.shared.ends_within(self.shared.options.grace).await;
        if !in_time {
            self.shared.phase.send_replace(Phase::Leaving);
            self.shared.list_running().into_iter().for_each(|attempt| self.shared.stop_running(attempt));
            let cancel_grace = self.shared.options.cancel_grace;
            if !self.shared.ends_within(cancel_grace).await {
                self.shared.phase.send_replace(Phase::Dropping);
                self.shared.ends_within(cancel_grace).await;
            }
        }
        self.others.shutdown().await;
        self.reporter.abort();
        if let Err(error) = self.leave(in_time).await {
            tracing::warn!(%error, "the workers could not sign off; their jobs are run again when their lease is over");
        }
    }

    async fn leave(&self, in_time: bool) -> Result<(), Error> {
        self.shared.jobs.write_counts().await?;
        let left = self.shared.jobs.sign_off(self.worker()).await?;
        if left > 0 {
            tracing::warn!(
                jobs = left,
                in_time,
                "jobs that still ran after the grace are run again elsewhere"
            );
        }
        Ok(())
    }
}

async fn register(jobs: &Jobs, options: &WorkerOptions) -> Result<i64, Error> {
    let alone = jobs.db().kind() == EngineKind::Sqlite;
    let lease = if alone { WITH_THE_PROCESS } else { options.lease };
    jobs.register(&options.name, false, lease).await
}

/// Says again and again that this process lives, and hears what it should stop.
async fn beat(shared: Arc<Shared>) {
    let mut bell = shared.jobs.db().bell(CANCEL_BELL);
    let every = shared.options.lease / 3;
    loop {
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = bell.rung() => {}
        }
        let (running, deadlines) = (shared.list_running(), shared.unrecorded_deadlines());
        let worker = shared.worker.load(Ordering::SeqCst);
        match shared.jobs.beat_with(worker, running, deadlines.clone()).await {
            Ok((Heard::Alive { cancel }, lost)) => {
                shared.set_recorded(&deadlines);
                cancel.iter().chain(&lost).for_each(|attempt| shared.stop_running(*attempt));
            }
            Ok((Heard::GivenUp, _)) => begin_anew(&shared).await,
            Err(error) => tracing::warn!(%error, "this process could not say that its workers live"),
        }
    }
}

/// This process was given up: what it runs is somebody else's. It stops all of it and comes back as another.
async fn begin_anew(shared: &Shared) {
    tracing::warn!(
        "this process was silent for too long and was given up; it stops what it runs and begins anew"
    );
    // What is in line does not start any more.
    shared.worker.store(0, Ordering::SeqCst);
    shared.list_running().into_iter().for_each(|attempt| shared.stop_running(attempt));
    match register(&shared.jobs, &shared.options).await {
        Ok(worker) => shared.worker.store(worker, Ordering::SeqCst),
        Err(error) => tracing::warn!(%error, "it could not register again, and will try"),
    }
}

async fn keep_up(shared: Arc<Shared>) {
    let mut last = Upkept::default();
    loop {
        tokio::time::sleep(shared.options.poll).await;
        if let Err(error) = shared.jobs.upkeep(&mut last, shared.options.retention).await {
            tracing::warn!(%error, "the upkeep of jobs failed and will be tried again");
        }
    }
}

/// Enqueues what is due by the schedules: when the next occurrence is, and at each look, should one be added meanwhile.
async fn keep_time(shared: Arc<Shared>) {
    loop {
        let next_at = match shared.jobs.tick().await {
            Ok(ticked) => ticked.next_at,
            Err(error) => {
                tracing::warn!(%error, "schedules could not be run; what is due will be tried again");
                None
            }
        };
        let now = shared.jobs.ctx().now;
        let wait = next_at.map_or(shared.options.poll, |next| next.since(now).min(shared.options.poll));
        tokio::time::sleep(wait.max(Duration::from_millis(10))).await;
    }
}

impl Shared {
    /// Waits until all that was claimed has been reported or left. Says whether that was in time.
    async fn ends_within(&self, time: Duration) -> bool {
        let all_done = async {
            while self.outstanding.load(Ordering::Acquire) > 0 {
                let freed = self.freed.notified();
                if self.outstanding.load(Ordering::Acquire) > 0 {
                    // Looked at now and then, should a notice have been missed.
                    let _ = tokio::time::timeout(Duration::from_millis(50), freed).await;
                }
            }
        };
        tokio::time::timeout(time, all_done).await.is_ok()
    }

    /// Notes that attempts are no longer outstanding.
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

    /// Deadlines of attempts that run here, which the database does not know yet: a claim ahead does not know when its
    /// attempts begin, and most have ended before the next heartbeat.
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
