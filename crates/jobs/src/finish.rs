//! Completes, fails and cancels job attempts. Reports are fenced by `(job, attempt, claim token)`: a report
//! about an attempt that its sender no longer owns is ignored.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::time::Duration;

use kith_kernel::{Ctx, Timestamp};
use kith_store::{Error, Query, Tx};

use crate::model::{
    Attempt, ClaimToken, Done, Failure, JobError, JobId, JobRecord, JobState, MAX_CRASHES, MAX_PAYLOAD_BYTES,
};
use crate::rows::ended::Ending;
use crate::rows::live::AttemptRow;
use crate::rows::unsettled::UnsettledJob;
use crate::settle::{Budget, settle};
use crate::{bell_of, rows};

/// Maximum number of failures stored per job.
const MAX_STORED_FAILURES: usize = 10;
/// Maximum length of a stored error, in characters.
const MAX_ERROR_CHARS: usize = 2_000;
/// Channel that is notified when the cancellation of a running job is requested.
pub const CANCEL_CHANNEL: &str = "jobs/cancel";

/// Report by the owner of an attempt that the attempt has ended.
#[derive(Clone, Debug)]
pub struct Report {
    /// Attempt that has ended.
    pub attempt: Attempt,
    /// Result of the attempt.
    pub outcome: Result<Done, JobError>,
    /// Queue to notify, because its limits now admit another job.
    pub rings: Option<String>,
}

/// Result of applying a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReportOutcome {
    /// The job has ended, in this state.
    Finished(JobState),
    /// The job will run again at this time.
    Again(Timestamp),
    /// The attempt belongs to another owner by now, or has ended. Nothing was changed.
    Stale,
}

/// Applies a batch of reports in one transaction and returns one outcome per report, in the same order.
///
/// # Errors
/// Returns the error of the failed statement, such as [`Error::Unavailable`]. The transaction cannot be used
/// afterwards.
pub fn report<R: Borrow<Report>>(tx: &Tx<'_>, ctx: &Ctx, reports: &[R]) -> Result<Vec<ReportOutcome>, Error> {
    let (segment, mut budget) = (segment(tx)?, Budget::default());
    let reports: Vec<&Report> = reports.iter().map(Borrow::borrow).collect();
    let mut told = vec![ReportOutcome::Stale; reports.len()];
    let done: Vec<_> = reports
        .iter()
        .enumerate()
        .filter_map(|(at, one)| Some((at, *one, one.outcome.as_ref().ok().filter(|done| done.fits())?)))
        .collect();
    let endings: Vec<_> = done
        .iter()
        .map(|(_, one, done)| Ending {
            id: one.attempt.job,
            attempt: one.attempt.attempt,
            token: one.attempt.token,
            state: JobState::Completed,
            result: done.result.as_deref(),
        })
        .collect();
    let left = rows::ended::end(tx, segment, &endings, ctx.now)?;
    let ended: std::collections::HashSet<_> = left.iter().map(|left| left.id).collect();
    for (at, one, _) in &done {
        if ended.contains(&one.attempt.job) {
            told[*at] = ReportOutcome::Finished(JobState::Completed);
        }
    }
    for left in left.iter().filter(|left| left.unique_key.is_some() || left.is_awaited) {
        let result = done.iter().find(|(_, one, _)| one.attempt.job == left.id);
        let result = result.and_then(|(_, _, done)| done.result.as_deref());
        settle(tx, left, JobState::Completed, result, ctx.now, &mut budget)?;
    }
    for (at, one) in reports.iter().enumerate() {
        let too_large;
        let error = match &one.outcome {
            Ok(done) if done.fits() => continue,
            Ok(_) => {
                too_large = JobError::RetryPolicy(format!("the result is longer than {MAX_PAYLOAD_BYTES} bytes"));
                &too_large
            }
            Err(error) => error,
        };
        told[at] = failed(tx, ctx, segment, one.attempt, error, &mut budget)?;
    }
    for queue in reports.iter().filter_map(|one| one.rings.as_deref()) {
        tx.ring(bell_of(queue));
    }
    Ok(told)
}

/// Returns the outcome of an earlier report about the same attempt, or [`ReportOutcome::Stale`] if none was applied.
pub(crate) fn find_told(q: &Query<'_>, of: Attempt, is_done: bool) -> Result<ReportOutcome, Error> {
    let is_it = |ended: &JobRecord| ended.attempt == of.attempt;
    if let Some(ended) = rows::ended::find_in_history(q, of.job)?.filter(is_it) {
        return Ok(ReportOutcome::Finished(ended.state));
    }
    if is_done {
        return Ok(ReportOutcome::Stale);
    }
    if rows::ended::find_dead(q, of.job)?.is_some_and(|dead| is_it(&dead)) {
        return Ok(ReportOutcome::Finished(JobState::Dead));
    }
    Ok(rows::live::find_rescheduled(q, of)?.map_or(ReportOutcome::Stale, ReportOutcome::Again))
}

pub(crate) fn segment(tx: &Tx<'_>) -> Result<usize, Error> {
    Ok(usize::try_from(rows::ended::ring(tx)?.0).unwrap_or(0) % rows::statements::SEGMENTS)
}

fn failed(
    tx: &Tx<'_>,
    ctx: &Ctx,
    segment: usize,
    attempt: Attempt,
    error: &JobError,
    budget: &mut Budget,
) -> Result<ReportOutcome, Error> {
    let Some(owned) = rows::live::find_owned(tx, attempt)? else { return Ok(ReportOutcome::Stale) };
    let failure = |error: &str| failures_with(&owned, attempt.attempt, ctx.now, error);
    let failures = owned.failures + 1;
    if owned.cancel_asked_at.is_some() || matches!(error, JobError::Cancelled) {
        return cancelled(tx, segment, attempt, ctx.now, budget);
    }
    match error {
        JobError::Snooze(wait) => {
            let run_at = ctx.now + (*wait).max(Duration::from_millis(1));
            again(tx, attempt, &owned, run_at, owned.failures, owned.crashes, owned.errors.as_deref())
        }
        JobError::RetryPolicy(why) => match owned.retry.next(failures, ctx.now, ctx.randomness()) {
            Some(at) => again(tx, attempt, &owned, at, failures, 0, Some(&failure(why))),
            None => die(tx, attempt, failures, &failure(why), ctx.now, budget),
        },
        JobError::RetryIn { why, wait } if failures < owned.retry.max_attempts => {
            again(tx, attempt, &owned, ctx.now + *wait, failures, 0, Some(&failure(why)))
        }
        JobError::RetryIn { why, .. } | JobError::Discard(why) => {
            die(tx, attempt, failures, &failure(why), ctx.now, budget)
        }
        JobError::Cancelled => Ok(ReportOutcome::Stale),
    }
}

fn again(
    tx: &Tx<'_>,
    attempt: Attempt,
    owned: &AttemptRow,
    run_at: Timestamp,
    failures: i64,
    crashes: i64,
    errors: Option<&str>,
) -> Result<ReportOutcome, Error> {
    if !rows::live::put_back(tx, attempt, run_at, failures, crashes, errors)? {
        return Ok(ReportOutcome::Stale);
    }
    tx.ring(bell_of(&owned.queue));
    Ok(ReportOutcome::Again(run_at))
}

fn cancelled(
    tx: &Tx<'_>,
    segment: usize,
    attempt: Attempt,
    now: Timestamp,
    budget: &mut Budget,
) -> Result<ReportOutcome, Error> {
    let ending = Ending {
        id: attempt.job,
        attempt: attempt.attempt,
        token: attempt.token,
        state: JobState::Cancelled,
        result: None,
    };
    let left = rows::ended::end(tx, segment, &[ending], now)?;
    let Some(left) = left.first() else { return Ok(ReportOutcome::Stale) };
    settle(tx, left, JobState::Cancelled, None, now, budget)?;
    Ok(ReportOutcome::Finished(JobState::Cancelled))
}

fn die(
    tx: &Tx<'_>,
    attempt: Attempt,
    failures: i64,
    errors: &str,
    now: Timestamp,
    budget: &mut Budget,
) -> Result<ReportOutcome, Error> {
    if rows::live::find_owned(tx, attempt)?.is_none() {
        return Ok(ReportOutcome::Stale);
    }
    rows::ended::keep_dead(tx, attempt.job, failures, Some(errors), now)?;
    let Some(left) = rows::ended::delete_owned(tx, attempt)? else {
        return Err(Error::fault("a locked job was ended by another transaction"));
    };
    settle(tx, &left, JobState::Dead, None, now, budget)?;
    Ok(ReportOutcome::Finished(JobState::Dead))
}

/// Result of a cancellation request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelOutcome {
    /// The job was cancelled and will not run.
    Cancelled,
    /// The job is running, and its cancellation was requested.
    Requested,
    /// The job had already ended.
    AlreadyEnded,
    /// The job does not exist.
    Unknown,
}

/// Cancels a job: at once if it is not running, and otherwise by a request to the worker that runs it.
///
/// # Errors
/// Returns the error of the failed statement, such as [`Error::Unavailable`]. The transaction cannot be used
/// afterwards.
pub fn cancel(tx: &Tx<'_>, ctx: &Ctx, job: JobId, why: &str) -> Result<CancelOutcome, Error> {
    let taken_back = match rows::live::ask_to_cancel(tx, job, ctx.now)? {
        Some(JobState::Running) => {
            tx.ring(CANCEL_CHANNEL);
            return Ok(CancelOutcome::Requested);
        }
        Some(_) => take_back(tx, job, why, ctx.now)?,
        None => None,
    };
    let Some((unique_key, is_awaited)) = taken_back else {
        let known =
            rows::ended::find_dead(tx, job)?.is_some() || rows::ended::find_in_history(tx, job)?.is_some();
        return Ok(if known { CancelOutcome::AlreadyEnded } else { CancelOutcome::Unknown });
    };
    let left = UnsettledJob { id: job, unique_key, is_awaited };
    settle(tx, &left, JobState::Cancelled, None, ctx.now, &mut Budget::default())?;
    Ok(CancelOutcome::Cancelled)
}

/// Moves a job that is not running to the history. Returns its unique key, and whether other jobs wait for
/// it.
fn take_back(
    tx: &Tx<'_>,
    job: JobId,
    why: &str,
    now: Timestamp,
) -> Result<Option<(Option<String>, bool)>, Error> {
    let result = serde_json::json!({ "cancelled": why }).to_string();
    rows::ended::keep_cancelled(tx, segment(tx)?, job, &result, now)?;
    rows::live::delete_waiting(tx, job)
}

/// Reason why a worker is evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EvictionReason {
    /// Its lease has expired. The eviction is skipped if a heartbeat has arrived meanwhile.
    Silent,
    /// Its process has died.
    Died,
    /// The worker stopped regularly, but some jobs were not finished in time.
    Stopped,
}

/// Evicts a worker: reschedules up to `most` of its running jobs. A job that has now been running at
/// [`MAX_CRASHES`] worker deaths in a row goes to the dead letters. Returns the number of jobs; the worker itself
/// is removed once it has none left.
///
/// # Errors
/// Returns the error of the failed statement, such as [`Error::Unavailable`]. The transaction cannot be used
/// afterwards.
pub(crate) fn give_up(tx: &Tx<'_>, ctx: &Ctx, worker: i64, why: EvictionReason, most: i64) -> Result<u64, Error> {
    tx.lock("job worker", [worker])?;
    if why == EvictionReason::Silent && !rows::workers::is_silent(tx, worker, ctx.now)? {
        return Ok(0);
    }
    let (running, mut budget) = (rows::live::list_running_of(tx, worker, most)?, Budget::default());
    for attempt in running.iter().copied() {
        let Some(owned) = rows::live::find_owned(tx, attempt)? else { continue };
        let (crashes, what) = match why {
            EvictionReason::Silent => (owned.crashes + 1, "the worker's lease expired"),
            EvictionReason::Died => (owned.crashes + 1, "the worker died"),
            EvictionReason::Stopped => (owned.crashes, "the worker stopped before the job was finished"),
        };
        let errors = failures_with(&owned, attempt.attempt, ctx.now, what);
        if owned.cancel_asked_at.is_some() {
            cancelled(tx, segment(tx)?, attempt, ctx.now, &mut budget)?;
        } else if crashes >= MAX_CRASHES {
            die(tx, attempt, owned.failures, &errors, ctx.now, &mut budget)?;
        } else {
            again(tx, attempt, &owned, ctx.now, owned.failures, crashes, Some(&errors))?;
        }
    }
    if (running.len() as i64) < most {
        rows::workers::delete(tx, worker)?;
    }
    Ok(running.len() as u64)
}

/// Returns the failures of a job with `error` added, as JSON. Only the latest `MAX_STORED_FAILURES` are kept.
fn failures_with(owned: &AttemptRow, attempt: i64, at: Timestamp, error: &str) -> String {
    let mut failures = rows::read_errors(owned.errors.as_deref());
    failures.push(Failure { attempt, at, error: error.chars().take(MAX_ERROR_CHARS).collect() });
    let from = failures.len().saturating_sub(MAX_STORED_FAILURES);
    serde_json::to_string(&failures[from..]).unwrap_or_default()
}

/// Puts jobs that a worker has claimed but not started back into the queue. A job whose cancellation was
/// requested meanwhile ends as cancelled.
///
/// # Errors
/// Returns the error of the failed statement, such as [`Error::Unavailable`]. The transaction cannot be used
/// afterwards.
pub fn give_back(tx: &Tx<'_>, ctx: &Ctx, jobs: &[(Attempt, String)]) -> Result<(), Error> {
    let mut budget = Budget::default();
    for (attempt, queue) in jobs {
        if rows::live::return_unbegun(tx, *attempt, ctx.now)? {
            tx.ring(bell_of(queue));
        } else {
            // Changes nothing if the lease was lost. Otherwise cancellation was requested.
            cancelled(tx, segment(tx)?, *attempt, ctx.now, &mut budget)?;
        }
    }
    Ok(())
}

/// Puts the jobs of a claim with an unknown outcome back into the queue, if the claim was committed. The
/// claim held the queue's lock until its end, so its outcome is settled once this transaction holds the lock.
///
/// # Errors
/// Returns [`Error::Unavailable`] or another error of the store if the database fails.
pub(crate) fn give_back_claim(tx: &Tx<'_>, ctx: &Ctx, queue: &str, token: ClaimToken) -> Result<(), Error> {
    tx.lock("job queue", [queue])?;
    let (mut jobs, mut workers) = (Vec::new(), BTreeSet::new());
    for (attempt, worker) in rows::live::list_claim(tx, queue, token)? {
        jobs.push((attempt, queue.to_owned()));
        workers.insert(worker);
    }
    give_back(tx, ctx, &jobs)?;
    workers.into_iter().try_for_each(|worker| rows::workers::delete_if_idle(tx, worker))
}
