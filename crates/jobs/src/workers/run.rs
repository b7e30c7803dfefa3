//! Running one attempt: what a handler knows and may say of it, its timeout, and how it is stopped.

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use kith_kernel::{Actor, Ctx, RequestId, seconds};
use kith_store::Error;
use tokio::sync::watch;

use super::fetch::Lane;
use super::report::{Ended, Message};
use super::{Phase, Running, Shared};
use crate::finish::{Attempt, Report};
use crate::jobs::Jobs;
use crate::model::{Awaited, ClaimToken, Claimed, Done, JobError, JobId, LogLine};
use crate::{finish, look, rows};

/// How long a handler that was asked to stop may take to do so before it is dropped.
const STOP_WITHIN: Duration = seconds(5);
/// When a job is looked at again whose kind nobody here runs: another node may, or the next version.
const UNKNOWN_KIND: Duration = seconds(30);
/// Longest line of a job's log, in characters.
const LINE_CHARS: usize = 2_000;

/// One attempt, as its handler sees it.
pub struct Run {
    /// The job.
    pub id: JobId,
    /// Which attempt this is, from 1.
    pub attempt: i64,
    /// What is to be done.
    pub kind: String,
    /// With what: JSON.
    pub payload: String,
    /// How often it has failed before.
    pub failures: i64,
    /// When it was to run.
    pub run_at: kith_kernel::Timestamp,
    /// The context of what it does.
    pub ctx: Ctx,
    token: ClaimToken,
    jobs: Jobs,
    stop: watch::Receiver<bool>,
}

impl Run {
    pub(super) fn new(jobs: &Jobs, claimed: Claimed, stop: watch::Receiver<bool>) -> Self {
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

    /// The attempt, as its owner names it.
    pub fn as_attempt(&self) -> Attempt {
        Attempt { job: self.id, attempt: self.attempt, token: self.token }
    }

    /// Returns once somebody wants this attempt to stop.
    pub async fn cancelled(&mut self) {
        // The sender lives for as long as the attempt.
        if self.stop.wait_for(|stop| *stop).await.is_err() {
            std::future::pending().await
        }
    }

    /// Whether somebody wants this attempt to stop.
    pub fn is_cancelled(&self) -> bool {
        *self.stop.borrow()
    }

    /// Keeps what `progress` says, as JSON; false if the attempt is somebody else's by now.
    ///
    /// # Errors
    /// The database's.
    pub async fn progress(&self, progress: &serde_json::Value) -> Result<bool, Error> {
        let (text, own) = (progress.to_string(), self.as_attempt());
        let progress = move |tx: &kith_store::Tx<'_>| {
            tx.may_be_lost();
            tx.ring(progress_bell(own.job));
            rows::live::set_progress(tx, own, &text)
        };
        self.jobs.db().write(progress).await
    }

    /// Keeps a line with the job.
    ///
    /// # Errors
    /// The database's.
    pub async fn log(&self, level: &'static str, line: impl Into<String>) -> Result<(), Error> {
        let line: String = line.into();
        let line = LogLine {
            attempt: self.attempt,
            at: self.ctx.renewed().now,
            level: level.to_owned(),
            line: line.chars().take(LINE_CHARS).collect(),
        };
        let id = self.id;
        self.jobs.db().write(move |tx| rows::ended::insert_log(tx, finish::segment(tx)?, id, &line)).await
    }

    /// How the jobs that this one waited for have ended.
    ///
    /// # Errors
    /// The database's.
    pub async fn results(&self) -> Result<Vec<Awaited>, Error> {
        let id = self.id;
        self.jobs.db().read(move |q| look::list_results(q, id, i64::MAX)).await
    }
}

/// What is rung when a job has said something of its progress.
pub fn progress_bell(job: JobId) -> String {
    format!("jobs/progress/{job}")
}

pub(super) async fn run(lane: Arc<Lane>, claimed: Claimed, is_limited: bool) {
    let attempt = claimed.as_attempt();
    let queue = claimed.queue.clone();
    let may_run = Arc::clone(&lane.may_run).acquire_owned().await;
    let begun = may_run.ok().zip(begin(&lane.shared, attempt, &claimed));
    let message = match begun {
        None => Some(Message::Unbegun { attempt, queue }),
        Some((_permit, stopped)) => {
            let (kind, started) = (claimed.kind.clone(), now());
            let outcome = outcome(&lane, claimed, stopped).await;
            lane.shared.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&attempt);
            // What ends because the process stops is given back when the worker signs off.
            let is_left =
                matches!(outcome, Err(JobError::Cancelled)) && *lane.shared.phase.borrow() >= Phase::Leaving;
            let rings = is_limited.then(|| queue.clone());
            let report = Report { attempt, outcome, rings };
            (!is_left).then(|| Message::Ended(Ended::new(report, queue, kind, started.elapsed())))
        }
    };
    lane.ended.fetch_add(1, Ordering::Relaxed);
    match message {
        // The reporter outlives all attempts; it is gone only once the grace of a stop is over.
        Some(message) => drop(lane.shared.reports.send(message)),
        None => lane.shared.free(1),
    }
    lane.outstanding.fetch_sub(1, Ordering::Relaxed);
}

#[expect(clippy::disallowed_methods, reason = "measures real work and waits")]
pub(super) fn now() -> Instant {
    Instant::now()
}

/// Makes an attempt one that runs here, and can be told to stop. Nothing, if its worker was given up since it was claimed,
/// as it belongs to another by then, or if all were told to stop.
fn begin(shared: &Shared, attempt: Attempt, claimed: &Claimed) -> Option<watch::Receiver<bool>> {
    let (stop, stopped) = watch::channel(false);
    let deadline =
        (!claimed.timeout.is_zero()).then(|| shared.jobs.inner().sources.clock.now() + claimed.timeout);
    let running = Running { stop, unrecorded_deadline: deadline };
    let mut all = shared.running.lock().unwrap_or_else(PoisonError::into_inner);
    // Eviction of the worker changes its number first, and then stops all that are in here; so with the phase.
    if shared.worker.load(Ordering::SeqCst) != claimed.worker || *shared.phase.borrow() >= Phase::Leaving {
        return None;
    }
    all.insert(attempt, running);
    Some(stopped)
}

async fn outcome(lane: &Lane, claimed: Claimed, stopped: watch::Receiver<bool>) -> Result<Done, JobError> {
    let Some(handler) = lane.shared.handlers.get(&claimed.kind) else {
        return Err(JobError::Snooze(UNKNOWN_KIND));
    };
    let timeout = claimed.timeout;
    let (mut asked, mut phase) = (stopped.clone(), lane.shared.phase.subscribe());
    let running = handler.attempt(Run::new(&lane.shared.jobs, claimed, stopped));
    let stopping = async {
        let heeded = async {
            if asked.wait_for(|stop| *stop).await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(STOP_WITHIN).await;
        };
        tokio::select! {
            () = heeded => {}
            _ = phase.wait_for(|phase| *phase == Phase::Dropping) => {}
        }
    };
    tokio::select! {
        biased;
        ended = running => ended,
        () = stopping => Err(JobError::Cancelled),
        () = over(timeout) => Err(JobError::Retry(format!("it took longer than its timeout of {timeout:?}"))),
    }
}

async fn over(timeout: Duration) {
    if timeout.is_zero() { std::future::pending().await } else { tokio::time::sleep(timeout).await }
}
