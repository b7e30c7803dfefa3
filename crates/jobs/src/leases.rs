//! Leased jobs, which external programs run. A program claims them with a lease, renews the lease by
//! heartbeats, and ends each job with a report that carries the claim token.
//!
//! Each claim registers a separate worker, so that an expired lease affects only the jobs of that claim.

use std::ops::Deref;
use std::time::Duration;

use kith_kernel::Ctx;
use kith_store::{Error, Tx};
use tokio::sync::oneshot;

use crate::claim::{Claim, claim};
use crate::finish::{self, AttemptReport, ReportOutcome};
use crate::jobs::Jobs;
use crate::model::{ClaimToken, JobError, JobId, JobOutput, LogLine};
use crate::rows::claims::Claimer;
use crate::workers::progress_channel;
use crate::{find_settings, rows};

/// Result of renewing a lease that is still valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseRenewal {
    /// True if the cancellation of the job was requested.
    pub is_cancel_requested: bool,
}

impl Jobs {
    /// Claims up to `limit` jobs of a queue for an external program, which must then send heartbeats at
    /// intervals shorter than `lease`. `name` is the name of the program, shown to operators.
    ///
    /// The claim runs in a separate task. If the caller stops waiting, or drops the result without calling
    /// [`LeasedClaim::into_claim`], the jobs are returned to the queue.
    ///
    /// # Errors
    /// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
    pub async fn claim_with_lease(
        &self,
        queue: &str,
        name: &str,
        lease: Duration,
        limit: i64,
    ) -> Result<LeasedClaim, Error> {
        let (answer, answered) = oneshot::channel();
        let (jobs, queue, name) = (self.clone(), queue.to_owned(), name.to_owned());
        tokio::spawn(async move {
            let claimed = jobs.claim_as_worker(&queue, name, lease, limit).await;
            let claimed = claimed.map(|claim| LeasedClaim { jobs, queue, claim });
            // If the receiver was dropped, `claimed` is dropped too, and its jobs are returned to the queue.
            let _ = answer.send(claimed);
        });
        answered.await.unwrap_or_else(|_| Err(Error::unavailable("the claim was not finished")))
    }

    async fn claim_as_worker(
        &self,
        queue: &str,
        name: String,
        lease: Duration,
        limit: i64,
    ) -> Result<Claim, Error> {
        let in_queue = queue.to_owned();
        let claim = move |tx: &Tx<'_>, now, token, marks| {
            let worker = rows::workers::insert(tx, &name, true, lease, now)?;
            let (claim, marks) =
                claim(tx, now, Claimer { worker, token, begins_at: Some(now) }, &in_queue, limit, marks)?;
            if claim.jobs.is_empty() {
                rows::workers::delete(tx, worker)?;
            }
            Ok((claim, marks))
        };
        self.claim_by(queue, claim).await
    }

    /// Counts the end of an attempt by an external program in the statistics.
    pub fn record_leased_outcome(&self, queue: &str, kind: &str, outcomes: &ReportOutcome, took: Duration) {
        self.inner().counts.record_outcome(queue, kind, outcomes, false, took);
    }
}

/// Jobs claimed for an external program. The jobs are returned to the queue if this value is dropped before
/// [`LeasedClaim::into_claim`] is called.
pub struct LeasedClaim {
    jobs: Jobs,
    queue: String,
    claim: Claim,
}

impl LeasedClaim {
    /// Returns the claim, so that its jobs are no longer returned to the queue. Call it when the jobs are
    /// sent to the program.
    pub fn into_claim(mut self) -> Claim {
        std::mem::take(&mut self.claim)
    }

    /// Puts the jobs back into the queue.
    ///
    /// # Errors
    /// Returns the error of the database. The jobs are then returned in the background.
    pub async fn return_to_queue(mut self) -> Result<(), Error> {
        let Some(token) = self.claim.jobs.first().map(|job| job.token) else { return Ok(()) };
        let (ctx, queue) = (self.jobs.ctx(), self.queue.clone());
        let return_claim = move |tx: &Tx<'_>| finish::return_claim(tx, &ctx.refreshed(), &queue, token);
        self.jobs.db().write(return_claim).await?;
        self.claim.jobs.clear();
        Ok(())
    }
}

impl Deref for LeasedClaim {
    type Target = Claim;
    fn deref(&self) -> &Claim {
        &self.claim
    }
}

impl Drop for LeasedClaim {
    fn drop(&mut self) {
        if let Some(job) = self.claim.jobs.first() {
            self.jobs.return_claim_later(&self.queue, job.token);
        }
    }
}

/// Renews the lease of the job and of all jobs of the same claim. Returns `None` if the job is not claimed
/// under `token`.
///
/// # Errors
/// Returns the error of the failed statement, such as [`Error::Unavailable`]. The transaction cannot be used
/// afterwards.
pub fn heartbeat(
    tx: &Tx<'_>,
    ctx: &Ctx,
    job: JobId,
    token: ClaimToken,
    lease: Duration,
) -> Result<Option<LeaseRenewal>, Error> {
    let Some(leased) = rows::attempts::find_leased(tx, job, token)? else { return Ok(None) };
    let is_known = rows::workers::heartbeat_with_lease(tx, leased.worker, ctx.now, lease)?;
    Ok(is_known.then_some(LeaseRenewal { is_cancel_requested: leased.is_cancel_requested }))
}

/// Stores the progress of an attempt, a JSON text. Returns false if the job is no longer claimed under
/// `token`.
///
/// # Errors
/// Returns the error of the failed statement, such as [`Error::Unavailable`]. The transaction cannot be used
/// afterwards.
pub fn store_progress(tx: &Tx<'_>, job: JobId, token: ClaimToken, progress: &str) -> Result<bool, Error> {
    let Some(leased) = rows::attempts::find_leased(tx, job, token)? else { return Ok(false) };
    tx.notify(progress_channel(job));
    rows::attempts::set_progress(tx, leased.attempt, progress)
}

/// Adds a line to the log of the job. Returns false if the job is no longer claimed under `token`.
///
/// # Errors
/// Returns the error of the failed statement, such as [`Error::Unavailable`]. The transaction cannot be used
/// afterwards.
pub fn append_log(
    tx: &Tx<'_>,
    ctx: &Ctx,
    job: JobId,
    token: ClaimToken,
    level: &str,
    line: &str,
) -> Result<bool, Error> {
    let Some(leased) = rows::attempts::find_leased(tx, job, token)? else { return Ok(false) };
    let attempt = leased.attempt.attempt;
    let line = LogLine { attempt, at: ctx.now, level: level.to_owned(), line: line.to_owned() };
    rows::ended::insert_log(tx, finish::segment(tx)?, job, &line)?;
    Ok(true)
}

/// Applies the report of an external program. Returns [`ReportOutcome::Stale`] if the job is no longer claimed
/// under `token`.
///
/// # Errors
/// Returns the error of the failed statement, such as [`Error::Unavailable`]. The transaction cannot be used
/// afterwards.
pub fn report_leased(
    tx: &Tx<'_>,
    ctx: &Ctx,
    job: JobId,
    token: ClaimToken,
    outcome: Result<JobOutput, JobError>,
) -> Result<ReportOutcome, Error> {
    let Some(leased) = rows::attempts::find_leased(tx, job, token)? else { return Ok(ReportOutcome::Stale) };
    let queue = leased.queue;
    let notify_queue = find_settings(tx, &queue)?.is_limited().then_some(queue);
    let outcomes =
        finish::report(tx, ctx, &[AttemptReport { attempt: leased.attempt, outcome, notify_queue }])?;
    rows::workers::delete_if_idle(tx, leased.worker)?;
    tx.notify(progress_channel(job));
    Ok(outcomes.into_iter().next().unwrap_or(ReportOutcome::Stale))
}
