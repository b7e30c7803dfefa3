//! The engine as a handle: for whoever has no transaction of their own.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kith_kernel::{Actor, Ctx, RequestId, Sources, Timestamp};
use kith_store::{Error, Store, Tx};
use tokio::runtime::Handle;

use crate::batch::write_batch;
use crate::claim::{Claim, Marks};
use crate::enqueue::EnqueueError;
use crate::enqueuer::Enqueuer;
use crate::finish::{Attempt, Report, Told};
use crate::model::{ClaimToken, Enqueued};
use crate::new_job::NewJob;
use crate::rows::live::Claimer;
use crate::stats::{Counts, Sample, Tally, Total};
use crate::{finish, rows};

/// How long reports that travel together wait for another transaction. Those of several nodes that settle one waiting job
/// wait for each other's commits.
const REPORT_LOCK_WAIT: Duration = Duration::from_millis(200);
/// Wait after the database did not answer.
const AFTER_FAILURE: Duration = Duration::from_millis(500);
/// The engine on one database. Clones share it.
#[derive(Clone)]
pub struct Jobs(Arc<Inner>);

pub(crate) struct Inner {
    pub db: Store,
    pub sources: Sources,
    pub counts: Counts,
    pub samples: Mutex<Vec<Sample>>,
    marks: Mutex<HashMap<String, Marks>>,
    /// Since when the database has answered without a break.
    in_contact_since: Mutex<Timestamp>,
    enqueuer: Enqueuer,
}

/// What a worker's heartbeat came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It lives, and should stop these.
    Alive {
        /// Attempts that somebody asked to cancel.
        cancel: Vec<Attempt>,
    },
    /// It was silent for too long: what it ran is somebody else's by now.
    GivenUp,
}

impl Jobs {
    /// The engine on an open database whose schema is up to date. Needs a runtime, whose task ends with the last clone.
    pub fn new(db: Store, sources: Sources) -> Self {
        Self(Arc::new(Inner {
            enqueuer: Enqueuer::start(&db, &sources),
            db,
            sources,
            counts: Counts::default(),
            samples: Mutex::default(),
            marks: Mutex::default(),
            in_contact_since: Mutex::default(),
        }))
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.0
    }

    /// The context of what the engine does by itself.
    pub fn ctx(&self) -> Ctx {
        let id = self.0.sources.ids.next(self.0.sources.clock.now());
        Ctx::new(self.0.sources.clone(), Actor::System("jobs"), RequestId::from_uuid(id))
    }

    /// Enqueues a job; when this returns it is on the disk. Those of many callers are written together.
    ///
    /// # Errors
    /// [`EnqueueError`] if it is wrong or cannot be kept.
    pub async fn enqueue(&self, job: NewJob) -> Result<Enqueued, EnqueueError> {
        let enqueued = self.enqueue_all(vec![job]).await?;
        enqueued.first().copied().ok_or_else(|| Error::fault("a job was not enqueued").into())
    }

    /// Enqueues jobs, all or none; their ids are in the order of `jobs`.
    ///
    /// # Errors
    /// As for [`Jobs::enqueue`].
    pub async fn enqueue_all(&self, jobs: Vec<NewJob>) -> Result<Vec<Enqueued>, EnqueueError> {
        for job in &jobs {
            job.check()?;
        }
        self.0.enqueuer.enqueue(jobs).await
    }

    /// Makes a worker known, whose silence for longer than `lease` means that it is gone.
    ///
    /// # Errors
    /// The database's.
    pub async fn register(&self, name: &str, is_remote: bool, lease: Duration) -> Result<i64, Error> {
        let (name, ctx) = (name.to_owned(), self.ctx());
        self.0.db.write(move |tx| rows::workers::insert(tx, &name, is_remote, lease, ctx.renewed().now)).await
    }

    /// Claims the next jobs of a queue, at most `most`, for a worker that is registered.
    ///
    /// # Errors
    /// The database's.
    pub async fn claim(&self, queue: &str, worker: i64, most: i64) -> Result<Claim, Error> {
        let name = queue.to_owned();
        let claim = move |tx: &Tx<'_>, now, token, marks| {
            crate::claim::claim(tx, now, Claimer { worker, token, begins_at: None }, &name, most, marks)
        };
        self.claim_by(queue, claim).await
    }

    /// Runs a claim under a token of its own, with what this process remembers of the queue. If nobody knows whether it
    /// was committed, its jobs are given back.
    pub(crate) async fn claim_by(
        &self,
        queue: &str,
        claim: impl Fn(&Tx<'_>, Timestamp, ClaimToken, Marks) -> Result<(Claim, Marks), Error> + Send + 'static,
    ) -> Result<Claim, Error> {
        let (marks, ctx) = (self.marks_of(queue).await, self.ctx());
        let token = ClaimToken::random(ctx.randomness());
        let claimed = self.0.db.write(move |tx| claim(tx, ctx.renewed().now, token, marks.clone())).await;
        if let Err(Error::OutcomeUnknown(_)) = &claimed {
            self.give_back_later(queue, token);
        }
        let (claim, marks) = claimed?;
        self.claimed(queue, &claim, marks);
        Ok(claim)
    }

    /// Gives back what a claim under this token has taken, as soon as the database can be reached.
    pub(crate) fn give_back_later(&self, queue: &str, token: ClaimToken) {
        // The task does not keep the engine alive.
        let (engine, queue) = (Arc::downgrade(&self.0), queue.to_owned());
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move {
            while let Some(jobs) = engine.upgrade().map(Self) {
                let (ctx, queue) = (jobs.ctx(), queue.clone());
                let give_back = move |tx: &Tx<'_>| finish::give_back_claim(tx, &ctx.renewed(), &queue, token);
                let Err(error) = jobs.db().write(give_back).await else { return };
                tracing::warn!(%error, "claimed jobs could not be given back; tried again");
                drop(jobs);
                tokio::time::sleep(AFTER_FAILURE).await;
            }
        });
    }

    fn claimed(&self, queue: &str, claim: &Claim, marks: Marks) {
        self.0.marks.lock().unwrap_or_else(PoisonError::into_inner).insert(queue.to_owned(), marks);
        let now = self.0.sources.clock.now();
        for job in &claim.jobs {
            let wait_ms = i64::try_from(now.since(job.run_at).as_millis()).unwrap_or(0);
            self.0.counts.count(queue, &job.kind, Tally { started: 1, wait_ms, ..Tally::default() }, None);
        }
    }

    /// What this process remembers of a queue. Every few minutes it is compared with all that is ready, outside of the
    /// queue's lock: whatever else may have made a mark wrong, no job is hidden for longer.
    async fn marks_of(&self, queue: &str) -> Marks {
        let marks = self.0.marks.lock().unwrap_or_else(PoisonError::into_inner).get(queue).cloned();
        let (mut marks, now) = (marks.unwrap_or_default(), self.0.sources.clock.now());
        if !marks.is_check_due(now) {
            return marks;
        }
        marks.checked_at = now;
        let (name, lanes) = (queue.to_owned(), marks.lanes);
        match self.0.db.export(move |q| rows::live::is_ready_before(q, &name, &lanes)).await {
            Ok(false) => marks,
            Ok(true) => {
                tracing::warn!(queue, "jobs were ready before the place that claims began at; it is reset");
                Marks::none(now)
            }
            Err(error) => {
                tracing::warn!(%error, queue, "the place that claims begin at could not be checked");
                marks
            }
        }
    }

    /// Says how attempts ended; the answers are in the order of `reports`.
    ///
    /// # Errors
    /// The database's.
    pub async fn report(&self, reports: Arc<Vec<Report>>) -> Result<Vec<Told>, Error> {
        let ctx = self.ctx();
        self.0.db.write(move |tx| finish::report(tx, &ctx.renewed(), &reports)).await
    }

    /// Writes reports in one transaction, or in several if one of them cannot be written or waits for another
    /// transaction: each succeeds or fails by itself. The outcomes are in the order of `reports`.
    pub(crate) async fn report_each<R>(&self, reports: &Arc<Vec<R>>) -> Vec<Result<Told, Error>>
    where
        R: Borrow<Report> + Send + Sync + 'static,
    {
        let ctx = self.ctx();
        let report = move |tx: &Tx<'_>, part: &[R]| finish::report(tx, &ctx.renewed(), part);
        write_batch(&self.0.db, reports, REPORT_LOCK_WAIT, |error| Some(error), report).await
    }

    /// Finds out what a report came to that was sent again because the answer to its commit was lost, and then changed
    /// nothing.
    pub(crate) async fn find_told(&self, report: &Report) -> Told {
        let (attempt, is_done) = (report.attempt, report.outcome.is_ok());
        let found = self.0.db.read(move |q| finish::find_told(q, attempt, is_done)).await;
        found.unwrap_or_else(|error| {
            tracing::warn!(%error, job = attempt.job, "what a report came to could not be found out");
            Told::Stale
        })
    }

    /// Says that a worker lives, and hears what it should stop.
    ///
    /// # Errors
    /// The database's.
    pub async fn beat(&self, worker: i64) -> Result<Heard, Error> {
        Ok(self.beat_with(worker, Vec::new(), Vec::new()).await?.0)
    }

    /// Sends a heartbeat that also records when attempts should have ended. Returns those of `running` that the database
    /// does not know as running: they were ended by others, or a crash undid their claim.
    pub(crate) async fn beat_with(
        &self,
        worker: i64,
        running: Vec<Attempt>,
        deadlines: Vec<(Attempt, Timestamp)>,
    ) -> Result<(Heard, Vec<Attempt>), Error> {
        let ctx = self.ctx();
        self.0
            .db
            .write(move |tx| {
                // Nobody gives it up between being found silent and being heard.
                tx.lock("job worker", [worker])?;
                tx.may_be_lost();
                if !rows::workers::beat(tx, worker, ctx.renewed().now)? {
                    return Ok((Heard::GivenUp, Vec::new()));
                }
                rows::live::set_deadlines(tx, &deadlines)?;
                let cancel = rows::live::asked_to_cancel(tx, worker)?;
                Ok((Heard::Alive { cancel }, rows::live::list_lost(tx, &running)?))
            })
            .await
            .inspect_err(|_| self.begin_contact())
    }

    /// Notes that the database may not have answered until now. Others could not send heartbeats either.
    pub(crate) fn begin_contact(&self) {
        let now = self.0.sources.clock.now();
        *self.0.in_contact_since.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    pub(crate) fn in_contact_since(&self) -> Timestamp {
        *self.0.in_contact_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this process did since it began, by queue and kind.
    pub fn totals(&self) -> Vec<(String, String, Total)> {
        self.0.counts.totals()
    }

    /// How queues stood when this process last looked.
    pub fn samples(&self) -> Vec<Sample> {
        self.0.samples.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The database it is on.
    pub fn db(&self) -> &Store {
        &self.0.db
    }
}
