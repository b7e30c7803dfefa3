//! Jobs that other programs run: claimed with a lease, kept by heartbeats, ended by a report that carries the claim's
//! fencing token.
//!
//! Each claim is a worker of its own, so that a silent one loses what it claimed and nothing else.

use std::ops::Deref;
use std::time::Duration;

use kith_kernel::Ctx;
use kith_store::{Error, Tx};
use tokio::sync::oneshot;

use crate::claim::{Claim, claim};
use crate::finish::{self, Report, Told};
use crate::jobs::Jobs;
use crate::model::{ClaimToken, Done, JobError, JobId, LogLine};
use crate::rows::live::Claimer;
use crate::workers::progress_bell;
use crate::{find_settings, rows};

/// A lease that still holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Whether somebody asked the job to stop.
    pub cancel_asked: bool,
}

impl Jobs {
    /// Claims the next jobs of a queue, at most `most`, for another program that will send a heartbeat within each
    /// `lease`. `name` tells people who it is.
    ///
    /// The claim runs in a task of its own. If the caller stops waiting for it, or drops the result without
    /// [`LeasedClaim::keep`], the jobs are given back.
    ///
    /// # Errors
    /// The database's.
    pub async fn claim_leased(
        &self,
        queue: &str,
        name: &str,
        lease: Duration,
        most: i64,
    ) -> Result<LeasedClaim, Error> {
        let (answer, answered) = oneshot::channel();
        let (jobs, queue, name) = (self.clone(), queue.to_owned(), name.to_owned());
        tokio::spawn(async move {
            let claimed = jobs.claim_as_worker(&queue, name, lease, most).await;
            let claimed = claimed.map(|claim| LeasedClaim { jobs, queue, claim });
            // A claim that nobody receives is dropped, and so given back.
            let _ = answer.send(claimed);
        });
        answered.await.unwrap_or_else(|_| Err(Error::unavailable("the claim was not finished")))
    }

    async fn claim_as_worker(
        &self,
        queue: &str,
        name: String,
        lease: Duration,
        most: i64,
    ) -> Result<Claim, Error> {
        let in_queue = queue.to_owned();
        let claim = move |tx: &Tx<'_>, now, token, marks| {
            let worker = rows::workers::insert(tx, &name, true, lease, now)?;
            let (claim, marks) =
                claim(tx, now, Claimer { worker, token, begins_at: Some(now) }, &in_queue, most, marks)?;
            if claim.jobs.is_empty() {
                rows::workers::delete(tx, worker)?;
            }
            Ok((claim, marks))
        };
        self.claim_by(queue, claim).await
    }

    /// Counts how an attempt of another program ended.
    pub fn count_leased(&self, queue: &str, kind: &str, told: &Told, took: Duration) {
        self.inner().counts.count_told(queue, kind, told, false, took);
    }
}

/// Jobs that were claimed for another program. They are given back when this is dropped before [`LeasedClaim::keep`].
pub struct LeasedClaim {
    jobs: Jobs,
    queue: String,
    claim: Claim,
}

impl LeasedClaim {
    /// The claim, once its jobs are on their way to whoever asked for them.
    pub fn keep(mut self) -> Claim {
        std::mem::take(&mut self.claim)
    }

    /// Gives the jobs back.
    ///
    /// # Errors
    /// The database's. The jobs are then given back later.
    pub async fn give_back(mut self) -> Result<(), Error> {
        let Some(token) = self.claim.jobs.first().map(|job| job.token) else { return Ok(()) };
        let (ctx, queue) = (self.jobs.ctx(), self.queue.clone());
        let give_back = move |tx: &Tx<'_>| finish::give_back_claim(tx, &ctx.renewed(), &queue, token);
        self.jobs.db().write(give_back).await?;
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
            self.jobs.give_back_later(&self.queue, job.token);
        }
    }
}

/// Says that whoever claimed this job lives, and lengthens the lease of all that was claimed together; nothing, if the
/// job was not claimed under `token`, or no longer is.
///
/// # Errors
/// The database's.
pub fn heartbeat(
    tx: &Tx<'_>,
    ctx: &Ctx,
    job: JobId,
    token: ClaimToken,
    lease: Duration,
) -> Result<Option<Kept>, Error> {
    let Some(leased) = rows::live::find_leased(tx, job, token)? else { return Ok(None) };
    let is_known = rows::workers::beat_for(tx, leased.worker, ctx.now, lease)?;
    Ok(is_known.then_some(Kept { cancel_asked: leased.is_cancel_asked }))
}

/// Keeps what an attempt says of its progress, as JSON; false if it is somebody else's by now.
///
/// # Errors
/// The database's.
pub fn keep_progress(tx: &Tx<'_>, job: JobId, token: ClaimToken, progress: &str) -> Result<bool, Error> {
    let Some(leased) = rows::live::find_leased(tx, job, token)? else { return Ok(false) };
    tx.ring(progress_bell(job));
    rows::live::set_progress(tx, leased.attempt, progress)
}

/// Keeps a line with the job; false if the attempt is somebody else's by now.
///
/// # Errors
/// The database's.
pub fn keep_log(
    tx: &Tx<'_>,
    ctx: &Ctx,
    job: JobId,
    token: ClaimToken,
    level: &str,
    line: &str,
) -> Result<bool, Error> {
    let Some(leased) = rows::live::find_leased(tx, job, token)? else { return Ok(false) };
    let attempt = leased.attempt.attempt;
    let line = LogLine { attempt, at: ctx.now, level: level.to_owned(), line: line.to_owned() };
    rows::ended::insert_log(tx, finish::segment(tx)?, job, &line)?;
    Ok(true)
}

/// Ends an attempt of another program. [`Told::Stale`] if it is somebody else's by now, or has ended.
///
/// # Errors
/// The database's.
pub fn report_leased(
    tx: &Tx<'_>,
    ctx: &Ctx,
    job: JobId,
    token: ClaimToken,
    outcome: Result<Done, JobError>,
) -> Result<Told, Error> {
    let Some(leased) = rows::live::find_leased(tx, job, token)? else { return Ok(Told::Stale) };
    let queue = leased.queue;
    let rings = find_settings(tx, &queue)?.is_limited().then_some(queue);
    let told = finish::report(tx, ctx, &[Report { attempt: leased.attempt, outcome, rings }])?;
    rows::workers::delete_if_idle(tx, leased.worker)?;
    tx.ring(progress_bell(job));
    Ok(told.into_iter().next().unwrap_or(Told::Stale))
}
