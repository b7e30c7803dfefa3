//! Handle to the job engine, for callers that have no transaction.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kith_kernel::{Actor, Ctx, RequestId, Sources, Timestamp};
use kith_store::{Error, Store, Tx};
use tokio::runtime::Handle;

use crate::batch::write_batch;
use crate::claim::{Claim, ClaimState};
use crate::enqueue::EnqueueError;
use crate::enqueuer::Enqueuer;
use crate::finish::{AttemptReport, ReportOutcome};
use crate::model::Attempt;
use crate::model::{ClaimToken, Enqueued};
use crate::new_job::NewJob;
use crate::rows::claims::Claimer;
use crate::stats::{JobCounters, JobCounts, JobTotals, QueueSample};
use crate::{finish, rows};

/// Lock timeout of a batch of reports. Reports of several nodes can update the same waiting job, and then
/// wait for each other's commits.
const REPORT_LOCK_TIMEOUT: Duration = Duration::from_millis(200);
/// Delay before a failed return of claimed jobs is retried.
const FAILURE_DELAY: Duration = Duration::from_millis(500);
/// Job engine on one database. Clones share the engine.
#[derive(Clone)]
pub struct Jobs(Arc<Inner>);

pub(crate) struct Inner {
    pub db: Store,
    pub sources: Sources,
    pub counts: JobCounters,
    pub samples: Mutex<Vec<QueueSample>>,
    claim_state: Mutex<HashMap<String, ClaimState>>,
    /// Time since which no heartbeat and no check for expired workers has failed.
    in_contact_since: Mutex<Timestamp>,
    enqueuer: Enqueuer,
}

/// Result of a worker's heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeartbeatOutcome {
    /// The lease was renewed.
    Alive {
        /// Attempts whose cancellation was requested.
        cancel: Vec<Attempt>,
    },
    /// The worker was evicted because its lease had expired. Its jobs were given to other workers.
    Evicted,
}

impl Jobs {
    /// Creates the engine on an open database with an up-to-date schema. Must be called in a Tokio runtime.
    /// The background tasks end when the last clone is dropped.
    pub fn new(db: Store, sources: Sources) -> Self {
        Self(Arc::new(Inner {
            enqueuer: Enqueuer::start(&db, &sources),
            db,
            sources,
            counts: JobCounters::default(),
            samples: Mutex::default(),
            claim_state: Mutex::default(),
            in_contact_since: Mutex::default(),
        }))
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.0
    }

    /// Creates a context for operations of the engine itself.
    pub fn ctx(&self) -> Ctx {
        let id = self.0.sources.ids.next(self.0.sources.clock.now());
        Ctx::new(self.0.sources.clone(), Actor::System("jobs"), RequestId::from_uuid(id))
    }

    /// Enqueues a job. When this function returns, the job is on disk. Requests of many callers are written
    /// in one transaction.
    ///
    /// # Errors
    /// Returns [`EnqueueError`] if the job is invalid or cannot be stored.
    pub async fn enqueue(&self, job: NewJob) -> Result<Enqueued, EnqueueError> {
        let enqueued = self.enqueue_all(vec![job]).await?;
        enqueued.first().copied().ok_or_else(|| Error::fault("a job was not enqueued").into())
    }

    /// Enqueues all jobs or none. Returns their ids in the order of `jobs`.
    ///
    /// # Errors
    /// Returns the same errors as [`Jobs::enqueue`].
    pub async fn enqueue_all(&self, jobs: Vec<NewJob>) -> Result<Vec<Enqueued>, EnqueueError> {
        for job in &jobs {
            job.check()?;
        }
        self.0.enqueuer.enqueue(jobs).await
    }

    /// Registers a worker and returns its id. The worker is evicted if it sends no heartbeat within `lease`.
    ///
    /// # Errors
    /// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
    pub async fn register(&self, name: &str, is_remote: bool, lease: Duration) -> Result<i64, Error> {
        let (name, ctx) = (name.to_owned(), self.ctx());
        self.0
            .db
            .write(move |tx| rows::workers::insert(tx, &name, is_remote, lease, ctx.refreshed().now))
            .await
    }

    /// Claims up to `limit` jobs of a queue for a registered worker.
    ///
    /// # Errors
    /// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
    pub async fn claim(&self, queue: &str, worker: i64, limit: i64) -> Result<Claim, Error> {
        let name = queue.to_owned();
        let claim = move |tx: &Tx<'_>, now, token, marks| {
            crate::claim::claim(tx, now, Claimer { worker, token, begins_at: None }, &name, limit, marks)
        };
        self.claim_by(queue, claim).await
    }

    /// Runs a claim with a new claim token and the cached claim state of the queue. If the outcome of the
    /// commit is unknown, the jobs are returned to the queue in the background.
    pub(crate) async fn claim_by(
        &self,
        queue: &str,
        claim: impl Fn(&Tx<'_>, Timestamp, ClaimToken, ClaimState) -> Result<(Claim, ClaimState), Error>
        + Send
        + 'static,
    ) -> Result<Claim, Error> {
        let (marks, ctx) = (self.claim_state_of(queue).await, self.ctx());
        let token = ClaimToken::random(ctx.randomness());
        let claimed = self.0.db.write(move |tx| claim(tx, ctx.refreshed().now, token, marks.clone())).await;
        if let Err(Error::OutcomeUnknown(_)) = &claimed {
            self.return_claim_later(queue, token);
        }
        let (claim, marks) = claimed?;
        self.claimed(queue, &claim, marks);
        Ok(claim)
    }

    /// Puts the jobs claimed under this token back into the queue as soon as the database is available.
    pub(crate) fn return_claim_later(&self, queue: &str, token: ClaimToken) {
        // The task holds a weak reference, so that it does not keep the engine alive.
        let (engine, queue) = (Arc::downgrade(&self.0), queue.to_owned());
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move {
            while let Some(jobs) = engine.upgrade().map(Self) {
                let (ctx, queue) = (jobs.ctx(), queue.clone());
                let return_claim =
                    move |tx: &Tx<'_>| finish::return_claim(tx, &ctx.refreshed(), &queue, token);
                let Err(error) = jobs.db().write(return_claim).await else { return };
                tracing::warn!(%error, "cannot release claimed jobs; retrying");
                drop(jobs);
                tokio::time::sleep(FAILURE_DELAY).await;
            }
        });
    }

    fn claimed(&self, queue: &str, claim: &Claim, marks: ClaimState) {
        self.0.claim_state.lock().unwrap_or_else(PoisonError::into_inner).insert(queue.to_owned(), marks);
        let now = self.0.sources.clock.now();
        for job in &claim.jobs {
            let wait_ms = i64::try_from(now.since(job.run_at).as_millis()).unwrap_or(0);
            self.0.counts.record(
                queue,
                &job.kind,
                JobCounts { started: 1, wait_ms, ..JobCounts::default() },
                None,
            );
        }
    }

    /// Returns the cached claim state of a queue. Every few minutes its watermarks are verified, without the
    /// queue's lock, so that a wrong watermark cannot hide a job for longer.
    async fn claim_state_of(&self, queue: &str) -> ClaimState {
        let marks = self.0.claim_state.lock().unwrap_or_else(PoisonError::into_inner).get(queue).cloned();
        let (mut marks, now) = (marks.unwrap_or_default(), self.0.sources.clock.now());
        if !marks.is_check_due(now) {
            return marks;
        }
        marks.checked_at = now;
        let (name, lanes) = (queue.to_owned(), marks.watermarks);
        match self.0.db.export(move |q| rows::claims::is_ready_below(q, &name, &lanes)).await {
            Ok(false) => marks,
            Ok(true) => {
                tracing::warn!(queue, "ready jobs found below the watermark; it was reset");
                ClaimState::none(now)
            }
            Err(error) => {
                tracing::warn!(%error, queue, "cannot check the watermark of a queue");
                marks
            }
        }
    }

    /// Applies reports in one transaction and returns one outcome per report, in the same order.
    ///
    /// # Errors
    /// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
    pub async fn report(&self, reports: Arc<Vec<AttemptReport>>) -> Result<Vec<ReportOutcome>, Error> {
        let ctx = self.ctx();
        self.0.db.write(move |tx| finish::report(tx, &ctx.refreshed(), &reports)).await
    }

    /// Applies reports in one transaction, or in several if a report fails or is blocked by another
    /// transaction. Returns one outcome per report, in the same order.
    pub(crate) async fn report_each<R>(&self, reports: &Arc<Vec<R>>) -> Vec<Result<ReportOutcome, Error>>
    where
        R: Borrow<AttemptReport> + Send + Sync + 'static,
    {
        let ctx = self.ctx();
        let report = move |tx: &Tx<'_>, part: &[R]| finish::report(tx, &ctx.refreshed(), part);
        write_batch(&self.0.db, reports, REPORT_LOCK_TIMEOUT, |error| Some(error), report).await
    }

    /// Finds the outcome of a report that was sent twice. The response to the first commit was lost, and the
    /// second report was ignored as stale.
    pub(crate) async fn find_report_outcome(&self, report: &AttemptReport) -> ReportOutcome {
        let (attempt, is_done) = (report.attempt, report.outcome.is_ok());
        let found = self.0.db.read(move |q| finish::find_report_outcome(q, attempt, is_done)).await;
        found.unwrap_or_else(|error| {
            tracing::warn!(%error, job = attempt.job, "the outcome of a report could not be determined");
            ReportOutcome::Stale
        })
    }

    /// Records a heartbeat of a worker and returns the attempts it should cancel.
    ///
    /// # Errors
    /// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
    pub async fn heartbeat(&self, worker: i64) -> Result<HeartbeatOutcome, Error> {
        Ok(self.heartbeat_with_deadlines(worker, Vec::new(), Vec::new()).await?.0)
    }

    /// Records a heartbeat, and the deadlines of attempts. Also returns the attempts of `running` that are no
    /// longer running in the database: another process ended them, or a crash of the database undid their
    /// claim.
    pub(crate) async fn heartbeat_with_deadlines(
        &self,
        worker: i64,
        running: Vec<Attempt>,
        deadlines: Vec<(Attempt, Timestamp)>,
    ) -> Result<(HeartbeatOutcome, Vec<Attempt>), Error> {
        let ctx = self.ctx();
        self.0
            .db
            .write(move |tx| {
                // The lock prevents a concurrent eviction of the worker.
                tx.lock("job worker", [worker])?;
                tx.allow_async_commit();
                if !rows::workers::heartbeat(tx, worker, ctx.refreshed().now)? {
                    return Ok((HeartbeatOutcome::Evicted, Vec::new()));
                }
                rows::attempts::set_deadlines(tx, &deadlines)?;
                let cancel = rows::attempts::list_cancel_requested(tx, worker)?;
                Ok((HeartbeatOutcome::Alive { cancel }, rows::attempts::list_lost(tx, &running)?))
            })
            .await
            .inspect_err(|_| self.restart_contact())
    }

    /// Records that the database may have been unreachable until now. Other workers may also have been unable
    /// to send heartbeats.
    pub(crate) fn restart_contact(&self) {
        let now = self.0.sources.clock.now();
        *self.0.in_contact_since.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    pub(crate) fn in_contact_since(&self) -> Timestamp {
        *self.0.in_contact_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the totals of this process since its start, by queue and kind.
    pub fn totals(&self) -> Vec<(String, String, JobTotals)> {
        self.0.counts.totals()
    }

    /// Returns the queue statistics that this process sampled last.
    pub fn samples(&self) -> Vec<QueueSample> {
        self.0.samples.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the database.
    pub fn db(&self) -> &Store {
        &self.0.db
    }
}
