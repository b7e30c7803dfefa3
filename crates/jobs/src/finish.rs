//! Completes, fails and cancels job attempts. Reports are fenced by `(job, attempt, claim token)`: a report
//! is ignored if its sender no longer owns the attempt.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::time::Duration;

use kith_kernel::{Ctx, Timestamp};
use kith_store::{Error, Query, Tx};

use crate::dependents::{DependentUpdateBudget, release_dependents};
use crate::model::{
    Attempt, ClaimToken, Failure, JobError, JobId, JobOutput, JobRecord, JobState, MAX_CRASHES,
    MAX_PAYLOAD_BYTES,
};
use crate::rows::attempts::AttemptRow;
use crate::rows::ended::AttemptEnd;
use crate::rows::releases::JobRelease;
use crate::{queue_channel, rows};

/// Maximum number of failures stored per job.
const MAX_STORED_FAILURES: usize = 10;
/// Maximum length of a stored error, in characters.
const MAX_ERROR_CHARS: usize = 2_000;
/// Channel that is notified when the cancellation of a running job is requested.
pub const CANCEL_CHANNEL: &str = "jobs/cancel";

/// Report that an attempt has ended, sent by the owner of the attempt.
#[derive(Clone, Debug)]
pub struct AttemptReport {
    /// Attempt that has ended.
    pub attempt: Attempt,
    /// Result of the attempt.
    pub outcome: Result<JobOutput, JobError>,
    /// Queue to notify, because its limits now admit another job.
    pub notify_queue: Option<String>,
}

/// Result of applying a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReportOutcome {
    /// The job has ended, in this state.
    Finished(JobState),
    /// The job will run again at this time.
    Rescheduled(Timestamp),
    /// The attempt has already ended, or another worker owns the job. The report was ignored.
    Stale,
}

/// Applies a batch of reports in one transaction and returns one outcome per report, in the same order.
///
/// # Errors
/// Returns the error of the failed statement, such as [`Error::Unavailable`]. The transaction cannot be used
/// afterwards.
pub fn report<R: Borrow<AttemptReport>>(
    tx: &Tx<'_>,
    ctx: &Ctx,
    reports: &[R],
) -> Result<Vec<ReportOutcome>, Error> {
    let (segment, mut budget) = (segment(tx)?, DependentUpdateBudget::default());
    let reports: Vec<&AttemptReport> = reports.iter().map(Borrow::borrow).collect();
    let mut outcome = vec![ReportOutcome::Stale; reports.len()];
    let done: Vec<_> = reports
        .iter()
        .enumerate()
        .filter_map(|(at, one)| Some((at, *one, one.outcome.as_ref().ok().filter(|done| done.fits())?)))
        .collect();
    let endings: Vec<_> = done
        .iter()
        .map(|(_, one, done)| AttemptEnd {
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
            outcome[*at] = ReportOutcome::Finished(JobState::Completed);
        }
    }
    for left in left.iter().filter(|left| left.unique_key.is_some() || left.has_dependents) {
        let result = done.iter().find(|(_, one, _)| one.attempt.job == left.id);
        let result = result.and_then(|(_, _, done)| done.result.as_deref());
        release_dependents(tx, left, JobState::Completed, result, ctx.now, &mut budget)?;
    }
    for (at, one) in reports.iter().enumerate() {
        let too_large;
        let error = match &one.outcome {
            Ok(done) if done.fits() => continue,
            Ok(_) => {
                too_large = JobError::Retry(format!("the result is longer than {MAX_PAYLOAD_BYTES} bytes"));
                &too_large
            }
            Err(error) => error,
        };
        outcome[at] = failed(tx, ctx, segment, one.attempt, error, &mut budget)?;
    }
    for queue in reports.iter().filter_map(|one| one.notify_queue.as_deref()) {
        tx.notify(queue_channel(queue));
    }
    Ok(outcome)
}

/// Returns the outcome of an earlier report about the same attempt, or [`ReportOutcome::Stale`] if none was
/// applied.
pub(crate) fn find_report_outcome(q: &Query<'_>, of: Attempt, is_done: bool) -> Result<ReportOutcome, Error> {
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
    Ok(rows::attempts::find_rescheduled(q, of)?.map_or(ReportOutcome::Stale, ReportOutcome::Rescheduled))
}

pub(crate) fn segment(tx: &Tx<'_>) -> Result<usize, Error> {
    Ok(usize::try_from(rows::ended::current_segment(tx)?.0).unwrap_or(0) % rows::statements::SEGMENTS)
}

fn failed(
    tx: &Tx<'_>,
    ctx: &Ctx,
    segment: usize,
    attempt: Attempt,
    error: &JobError,
    budget: &mut DependentUpdateBudget,
) -> Result<ReportOutcome, Error> {
    let Some(row) = rows::attempts::lock_attempt(tx, attempt)? else { return Ok(ReportOutcome::Stale) };
    let failure = |error: &str| failures_with(&row, attempt.attempt, ctx.now, error);
    let failures = row.failures + 1;
    if row.cancel_requested_at.is_some() || matches!(error, JobError::Cancelled) {
        return end_as_cancelled(tx, segment, attempt, ctx.now, budget);
    }
    match error {
        JobError::Snooze(wait) => {
            let run_at = ctx.now + (*wait).max(Duration::from_millis(1));
            reschedule(tx, attempt, &row, run_at, row.failures, row.crashes, row.errors.as_deref())
        }
        JobError::Retry(why) => match row.retry.next(failures, ctx.now, ctx.randomness()) {
            Some(at) => reschedule(tx, attempt, &row, at, failures, 0, Some(&failure(why))),
            None => move_to_dead_letters(tx, attempt, failures, &failure(why), ctx.now, budget),
        },
        JobError::RetryIn { why, wait } if failures < row.retry.max_attempts => {
            reschedule(tx, attempt, &row, ctx.now + *wait, failures, 0, Some(&failure(why)))
        }
        JobError::RetryIn { why, .. } | JobError::Discard(why) => {
            move_to_dead_letters(tx, attempt, failures, &failure(why), ctx.now, budget)
        }
        JobError::Cancelled => Ok(ReportOutcome::Stale),
    }
}

fn reschedule(
    tx: &Tx<'_>,
    attempt: Attempt,
    row: &AttemptRow,
    run_at: Timestamp,
    failures: i64,
    crashes: i64,
    errors: Option<&str>,
) -> Result<ReportOutcome, Error> {
    if !rows::attempts::put_back(tx, attempt, run_at, failures, crashes, errors)? {
        return Ok(ReportOutcome::Stale);
    }
    tx.notify(queue_channel(&row.queue));
    Ok(ReportOutcome::Rescheduled(run_at))
}

fn end_as_cancelled(
    tx: &Tx<'_>,
    segment: usize,
    attempt: Attempt,
    now: Timestamp,
    budget: &mut DependentUpdateBudget,
) -> Result<ReportOutcome, Error> {
    let ending = AttemptEnd {
        id: attempt.job,
        attempt: attempt.attempt,
        token: attempt.token,
        state: JobState::Cancelled,
        result: None,
    };
    let left = rows::ended::end(tx, segment, &[ending], now)?;
    let Some(left) = left.first() else { return Ok(ReportOutcome::Stale) };
    release_dependents(tx, left, JobState::Cancelled, None, now, budget)?;
    Ok(ReportOutcome::Finished(JobState::Cancelled))
}

fn move_to_dead_letters(
    tx: &Tx<'_>,
    attempt: Attempt,
    failures: i64,
    errors: &str,
    now: Timestamp,
    budget: &mut DependentUpdateBudget,
) -> Result<ReportOutcome, Error> {
    if rows::attempts::lock_attempt(tx, attempt)?.is_none() {
        return Ok(ReportOutcome::Stale);
    }
    rows::ended::insert_dead(tx, attempt.job, failures, Some(errors), now)?;
    let Some(left) = rows::ended::delete_owned(tx, attempt)? else {
        return Err(Error::fault("a locked job was ended by another transaction"));
    };
    release_dependents(tx, &left, JobState::Dead, None, now, budget)?;
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

/// Cancels a job. A job that is not running is cancelled immediately; for a running job, the worker is
/// requested to stop it.
///
/// # Errors
/// Returns the error of the failed statement, such as [`Error::Unavailable`]. The transaction cannot be used
/// afterwards.
pub fn cancel(tx: &Tx<'_>, ctx: &Ctx, job: JobId, why: &str) -> Result<CancelOutcome, Error> {
    let cancelled = match rows::live::request_cancel(tx, job, ctx.now)? {
        Some(JobState::Running) => {
            tx.notify(CANCEL_CHANNEL);
            return Ok(CancelOutcome::Requested);
        }
        Some(_) => cancel_waiting(tx, job, why, ctx.now)?,
        None => None,
    };
    let Some((unique_key, has_dependents)) = cancelled else {
        let known =
            rows::ended::find_dead(tx, job)?.is_some() || rows::ended::find_in_history(tx, job)?.is_some();
        return Ok(if known { CancelOutcome::AlreadyEnded } else { CancelOutcome::Unknown });
    };
    let left = JobRelease { id: job, unique_key, has_dependents };
    release_dependents(tx, &left, JobState::Cancelled, None, ctx.now, &mut DependentUpdateBudget::default())?;
    Ok(CancelOutcome::Cancelled)
}

/// Moves a job that is not running to the history. Returns its unique key, and true if other jobs wait for
/// it; `None` if the job is running or has ended.
fn cancel_waiting(
    tx: &Tx<'_>,
    job: JobId,
    why: &str,
    now: Timestamp,
) -> Result<Option<(Option<String>, bool)>, Error> {
    let result = serde_json::json!({ "cancelled": why }).to_string();
    rows::ended::insert_cancelled(tx, segment(tx)?, job, &result, now)?;
    rows::live::delete_waiting(tx, job)
}

/// Reason why a worker is evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EvictionReason {
    /// The lease of the worker has expired. The worker is not evicted if a heartbeat has arrived since.
    LeaseExpired,
    /// The process of the worker has died.
    Died,
    /// The worker was stopped normally, but some jobs were not finished in time.
    Stopped,
}

/// Evicts a worker: reschedules up to `limit` of its running jobs. A job whose workers have died in
/// [`MAX_CRASHES`] attempts in a row goes to the dead letters. Returns the number of jobs processed. The
/// worker is removed when it has no jobs left.
///
/// # Errors
/// Returns the error of the failed statement, such as [`Error::Unavailable`]. The transaction cannot be used
/// afterwards.
pub(crate) fn evict_worker(
    tx: &Tx<'_>,
    ctx: &Ctx,
    worker: i64,
    why: EvictionReason,
    limit: i64,
) -> Result<u64, Error> {
    tx.lock("job worker", [worker])?;
    if why == EvictionReason::LeaseExpired && !rows::workers::is_lease_expired(tx, worker, ctx.now)? {
        return Ok(0);
    }
    let (running, mut budget) =
        (rows::attempts::list_running_of(tx, worker, limit)?, DependentUpdateBudget::default());
    for attempt in running.iter().copied() {
        let Some(row) = rows::attempts::lock_attempt(tx, attempt)? else { continue };
        let (crashes, what) = match why {
            EvictionReason::LeaseExpired => (row.crashes + 1, "the worker's lease expired"),
            EvictionReason::Died => (row.crashes + 1, "the worker died"),
            EvictionReason::Stopped => (row.crashes, "the worker stopped before the job was finished"),
        };
        let errors = failures_with(&row, attempt.attempt, ctx.now, what);
        if row.cancel_requested_at.is_some() {
            end_as_cancelled(tx, segment(tx)?, attempt, ctx.now, &mut budget)?;
        } else if crashes >= MAX_CRASHES {
            move_to_dead_letters(tx, attempt, row.failures, &errors, ctx.now, &mut budget)?;
        } else {
            reschedule(tx, attempt, &row, ctx.now, row.failures, crashes, Some(&errors))?;
        }
    }
    if (running.len() as i64) < limit {
        rows::workers::delete(tx, worker)?;
    }
    Ok(running.len() as u64)
}

/// Returns the failures of a job with `error` added, as JSON. Only the latest [`MAX_STORED_FAILURES`] are
/// kept.
fn failures_with(row: &AttemptRow, attempt: i64, at: Timestamp, error: &str) -> String {
    let mut failures = rows::read_errors(row.errors.as_deref());
    failures.push(Failure { attempt, at, error: error.chars().take(MAX_ERROR_CHARS).collect() });
    let from = failures.len().saturating_sub(MAX_STORED_FAILURES);
    serde_json::to_string(&failures[from..]).unwrap_or_default()
}

/// Puts jobs that a worker has claimed but not started back into the queue. A job whose cancellation was
/// requested since the claim ends as cancelled.
///
/// # Errors
/// Returns the error of the failed statement, such as [`Error::Unavailable`]. The transaction cannot be used
/// afterwards.
pub fn return_to_queue(tx: &Tx<'_>, ctx: &Ctx, jobs: &[(Attempt, String)]) -> Result<(), Error> {
    let mut budget = DependentUpdateBudget::default();
    for (attempt, queue) in jobs {
        if rows::attempts::return_unstarted(tx, *attempt, ctx.now)? {
            tx.notify(queue_channel(queue));
        } else {
            // If the job was not put back, its cancellation was requested, or the worker no longer owns the
            // job. In the second case this call has no effect.
            end_as_cancelled(tx, segment(tx)?, *attempt, ctx.now, &mut budget)?;
        }
    }
    Ok(())
}

/// Puts the jobs of a claim with an unknown outcome back into the queue, if the claim was committed. A claim
/// holds the queue's lock until its transaction ends, so the outcome is known after this transaction has
/// acquired the lock.
///
/// # Errors
/// Returns [`Error::Unavailable`] or another error of the store if the database fails.
pub(crate) fn return_claim(tx: &Tx<'_>, ctx: &Ctx, queue: &str, token: ClaimToken) -> Result<(), Error> {
    tx.lock("job queue", [queue])?;
    let (mut jobs, mut workers) = (Vec::new(), BTreeSet::new());
    for (attempt, worker) in rows::attempts::list_claim(tx, queue, token)? {
        jobs.push((attempt, queue.to_owned()));
        workers.insert(worker);
    }
    return_to_queue(tx, ctx, &jobs)?;
    workers.into_iter().try_for_each(|worker| rows::workers::delete_if_idle(tx, worker))
}
