//! Execution of one attempt: the context for its handler, its timeout and its cancellation.

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kith_kernel::{Actor, Ctx, RequestId, seconds};
use kith_store::Error;
use tokio::sync::watch;

use super::lane::{QueueRunner, now};
use super::report::{EndedAttempt, Message};
use super::{Phase, Running, Shared};
use crate::finish::AttemptReport;
use crate::jobs::Jobs;
use crate::model::{Attempt, ClaimToken, ClaimedJob, DependencyResult, JobError, JobId, JobOutput, LogLine};
use crate::{finish, queries, rows};

/// Time within which a cancelled handler must end before it is dropped.
const CANCEL_TIMEOUT: Duration = seconds(5);
/// Delay before a job is claimed again if this process has no handler for its kind. Another node or a newer
/// version may have one.
const UNKNOWN_KIND_DELAY: Duration = seconds(30);
/// Maximum length of a log line, in characters.
const MAX_LOG_LINE_CHARS: usize = 2_000;

/// Attempt that a handler runs, with the operations that the handler can use.
pub struct AttemptContext {
    /// Job id.
    pub id: JobId,
    /// Number of the attempt, starting at 1.
    pub attempt: i64,
    /// Kind.
    pub kind: String,
    /// Payload, a JSON text.
    pub payload: String,
    /// Number of failures so far.
    pub failures: i64,
    /// Time at which the job was due.
    pub run_at: kith_kernel::Timestamp,
    /// Context for the operations of the handler.
    pub ctx: Ctx,
    token: ClaimToken,
    jobs: Jobs,
    stop: watch::Receiver<bool>,
}

impl AttemptContext {
    pub(super) fn new(jobs: &Jobs, claimed: ClaimedJob, stop: watch::Receiver<bool>) -> Self {
        let sources = jobs.inner().sources.clone();
        let request_id = RequestId::accept(&format!("job-{:08}-{}", claimed.id, claimed.attempt));
        let request_id =
            request_id.unwrap_or_else(|| RequestId::from_uuid(sources.ids.next(sources.clock.now())));
        Self {
            id: claimed.id,
            attempt: claimed.attempt,
            kind: claimed.kind,
            payload: claimed.payload,
            failures: claimed.failures,
            run_at: claimed.run_at,
            ctx: Ctx::new(sources, Actor::System("jobs"), request_id),
            token: claimed.token,
            jobs: jobs.clone(),
            stop,
        }
    }

    /// Returns the identity of the attempt, for reports.
    pub fn as_attempt(&self) -> Attempt {
        Attempt { job: self.id, attempt: self.attempt, token: self.token }
    }

    /// Waits until cancellation of the attempt is requested.
    pub async fn cancelled(&mut self) {
        // The sender is not dropped before the attempt ends.
        if self.stop.wait_for(|stop| *stop).await.is_err() {
            std::future::pending().await
        }
    }

    /// Returns true if cancellation of the attempt was requested.
    pub fn is_cancelled(&self) -> bool {
        *self.stop.borrow()
    }

    /// Stores the progress of the attempt as JSON. Returns false if another worker owns the job now.
    ///
    /// # Errors
    /// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
    pub async fn progress(&self, progress: &serde_json::Value) -> Result<bool, Error> {
        let (text, own) = (progress.to_string(), self.as_attempt());
        let progress = move |tx: &kith_store::Tx<'_>| {
            tx.allow_async_commit();
            tx.notify(progress_channel(own.job));
            rows::attempts::set_progress(tx, own, &text)
        };
        self.jobs.db().write(progress).await
    }

    /// Adds a line to the log of the job. Lines are truncated to 2,000 characters.
    ///
    /// # Errors
    /// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
    pub async fn log(&self, level: &'static str, line: impl Into<String>) -> Result<(), Error> {
        let line: String = line.into();
        let line = LogLine {
            attempt: self.attempt,
            at: self.ctx.refreshed().now,
            level: level.to_owned(),
            line: line.chars().take(MAX_LOG_LINE_CHARS).collect(),
        };
        let id = self.id;
        self.jobs.db().write(move |tx| rows::ended::insert_log(tx, finish::segment(tx)?, id, &line)).await
    }

    /// Returns the states and results of the jobs that this job depends on.
    ///
    /// # Errors
    /// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
    pub async fn results(&self) -> Result<Vec<DependencyResult>, Error> {
        let id = self.id;
        self.jobs.db().read(move |q| queries::list_results(q, id, i64::MAX)).await
    }
}

/// Returns the channel that is notified when the progress of a job changes.
pub fn progress_channel(job: JobId) -> String {
    format!("jobs/progress/{job}")
}

pub(super) async fn run(lane: Arc<QueueRunner>, claimed: ClaimedJob, is_limited: bool) {
    let attempt = claimed.as_attempt();
    let queue = claimed.queue.clone();
    let may_run = Arc::clone(&lane.may_run).acquire_owned().await;
    let begun = may_run.ok().zip(begin(&lane.shared, attempt, &claimed));
    let message = match begun {
        None => Some(Message::Unstarted { attempt, queue }),
        Some((_permit, stopped)) => {
            let (kind, started) = (claimed.kind.clone(), now());
            let outcome = outcome(&lane, claimed, stopped).await;
            lane.shared.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&attempt);
            // The job is cancelled because the process is stopping. It is returned to the queue when the
            // worker is evicted.
            let is_left = matches!(outcome, Err(JobError::Cancelled))
                && *lane.shared.phase.borrow() >= Phase::Cancelling;
            let notify_queue = is_limited.then(|| queue.clone());
            let report = AttemptReport { attempt, outcome, notify_queue };
            (!is_left).then(|| Message::Finished(EndedAttempt::new(report, queue, kind, started.elapsed())))
        }
    };
    lane.ended.fetch_add(1, Ordering::Relaxed);
    match message {
        // The receiver lives longer than all attempts, except those that still run after the grace period of
        // a stop.
        Some(message) => drop(lane.shared.reports.send(message)),
        None => lane.shared.free(1),
    }
    lane.outstanding.fetch_sub(1, Ordering::Relaxed);
}

/// Registers an attempt as running, so that it can be cancelled. Returns `None` if the worker was evicted
/// after the claim, because another worker then owns the job, or if the process is stopping.
fn begin(shared: &Shared, attempt: Attempt, claimed: &ClaimedJob) -> Option<watch::Receiver<bool>> {
    let (stop, stopped) = watch::channel(false);
    let deadline =
        (!claimed.timeout.is_zero()).then(|| shared.jobs.inner().sources.clock.now() + claimed.timeout);
    let running = Running { stop, unrecorded_deadline: deadline };
    let mut all = shared.running.lock().unwrap_or_else(PoisonError::into_inner);
    // An eviction first changes the worker id and then cancels all registered attempts. Likewise, a stop
    // first changes the phase.
    if shared.worker.load(Ordering::SeqCst) != claimed.worker || *shared.phase.borrow() >= Phase::Cancelling {
        return None;
    }
    all.insert(attempt, running);
    Some(stopped)
}

async fn outcome(
    lane: &QueueRunner,
    claimed: ClaimedJob,
    stopped: watch::Receiver<bool>,
) -> Result<JobOutput, JobError> {
    let Some(handler) = lane.shared.handlers.get(&claimed.kind) else {
        return Err(JobError::Snooze(UNKNOWN_KIND_DELAY));
    };
    let timeout = claimed.timeout;
    let (mut stop, mut phase) = (stopped.clone(), lane.shared.phase.subscribe());
    let running = handler.attempt(AttemptContext::new(&lane.shared.jobs, claimed, stopped));
    let stopping = async {
        let stop_deadline = async {
            if stop.wait_for(|stop| *stop).await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(CANCEL_TIMEOUT).await;
        };
        tokio::select! {
            () = stop_deadline => {}
            _ = phase.wait_for(|phase| *phase == Phase::Dropping) => {}
        }
    };
    tokio::select! {
        biased;
        ended = running => ended,
        () = stopping => Err(JobError::Cancelled),
        () = over(timeout) => Err(JobError::Retry(format!("the job took longer than its timeout of {timeout:?}"))),
    }
}

async fn over(timeout: Duration) {
    if timeout.is_zero() { std::future::pending().await } else { tokio::time::sleep(timeout).await }
}
