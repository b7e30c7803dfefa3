//! Jobs that other programs run: claimed with a lease, kept by heartbeats, ended by a word that carries the attempt.
//!
//! Each claim is a worker of its own, so that a silent one loses what it claimed and nothing else.

use std::time::Duration;

use kith_kernel::Ctx;
use kith_store::{Error, Tx};

use crate::claim::{Claim, claim};
use crate::finish::{self, Attempt, Report, Told};
use crate::jobs::Jobs;
use crate::model::{Done, JobError, JobId, LogLine};
use crate::workers::progress_bell;
use crate::{find_settings, rows};

/// A lease that still holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Whether somebody asked the job to stop.
    pub cancel_asked: bool,
}

impl Jobs {
    /// Claims the next jobs of a queue, at most `most`, for another program that will say within each `lease` that it
    /// lives. `name` tells people who it is.
    ///
    /// # Errors
    /// The database's.
    pub async fn claim_leased(
        &self,
        queue: &str,
        name: &str,
        lease: Duration,
        most: i64,
    ) -> Result<Claim, Error> {
        let marks = self.marks_of(queue);
        let (name, in_queue, ctx) = (name.to_owned(), queue.to_owned(), self.ctx());
        let claimed = self.db().write(move |tx| {
            let now = ctx.renewed().now;
            let worker = rows::workers::insert(tx, &name, true, lease, now)?;
            let (claim, marks) = claim(tx, now, worker, &in_queue, most, marks.clone())?;
            if claim.jobs.is_empty() {
                rows::workers::delete(tx, worker)?;
            }
            Ok::<_, Error>((claim, marks))
        });
        let (claim, marks) = claimed.await?;
        self.claimed(queue, &claim, marks);
        Ok(claim)
    }

    /// Counts how an attempt of another program ended.
    pub fn count_leased(&self, queue: &str, kind: &str, told: &Told, took: Duration) {
        self.inner().counts.count_told(queue, kind, told, false, took);
    }
}

/// Says that whoever has this attempt lives, and lengthens the lease of all that it claimed together; nothing, if the
/// attempt is somebody else's by now.
///
/// # Errors
/// The database's.
pub fn heartbeat(
    tx: &Tx<'_>,
    ctx: &Ctx,
    job: JobId,
    attempt: i64,
    lease: Duration,
) -> Result<Option<Kept>, Error> {
    let Some((worker, cancel_asked, _)) = rows::live::find_leased(tx, job, attempt)? else { return Ok(None) };
    let is_known = rows::workers::beat_for(tx, worker, ctx.now, lease)?;
    Ok(is_known.then_some(Kept { cancel_asked }))
}

/// Keeps what an attempt says of its progress, as JSON; false if it is somebody else's by now.
///
/// # Errors
/// The database's.
pub fn keep_progress(tx: &Tx<'_>, job: JobId, attempt: i64, progress: &str) -> Result<bool, Error> {
    let Some((worker, ..)) = rows::live::find_leased(tx, job, attempt)? else { return Ok(false) };
    tx.ring(progress_bell(job));
    rows::live::set_progress(tx, job, attempt, worker, progress)
}

/// Keeps a line with the job; false if the attempt is somebody else's by now.
///
/// # Errors
/// The database's.
pub fn keep_log(tx: &Tx<'_>, job: JobId, line: &LogLine) -> Result<bool, Error> {
    if rows::live::find_leased(tx, job, line.attempt)?.is_none() {
        return Ok(false);
    }
    rows::ended::insert_log(tx, finish::segment(tx)?, job, line)?;
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
    attempt: i64,
    outcome: Result<Done, JobError>,
) -> Result<Told, Error> {
    let Some((worker, _, queue)) = rows::live::find_leased(tx, job, attempt)? else { return Ok(Told::Stale) };
    let rings = find_settings(tx, &queue)?.is_limited().then_some(queue);
    let report = Report { attempt: Attempt { job, attempt, worker }, outcome, rings };
    let told = finish::report(tx, ctx, &[report])?;
    rows::workers::delete_if_idle(tx, worker)?;
    tx.ring(progress_bell(job));
    Ok(told.into_iter().next().unwrap_or(Told::Stale))
}
