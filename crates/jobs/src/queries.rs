//! Queries that read jobs: one job by id, lists of jobs, logs and results.

use kith_kernel::Timestamp;
use kith_store::{Error, FromRow as _, Param, Query, params};

use crate::model::{DependencyResult, JobId, JobRecord, JobState, LogLine};
use crate::rows;
use crate::rows::live::{LiveJob, live_columns};
use crate::rows::record_columns;

/// Conditions for a list of jobs. A condition that is `None` matches every job.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    /// State. If `None`, only jobs that have not ended match.
    pub state: Option<JobState>,
    /// Queue.
    pub queue: Option<String>,
    /// Kind.
    pub kind: Option<String>,
    /// Upper bound of the id, exclusive. It is used for paging.
    pub before: Option<JobId>,
    /// Earliest time of enqueueing, inclusive.
    pub since: Option<Timestamp>,
}

/// Maximum number of log lines returned per job.
const MAX_LOG_LINES: i64 = 200;

/// Returns a job in any state, live or ended, or `None` if it does not exist.
///
/// # Errors
/// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
pub fn find_job(q: &Query<'_>, id: JobId) -> Result<Option<JobRecord>, Error> {
    if let Some(job) = rows::live::find(q, id)? {
        return Ok(Some(job));
    }
    match rows::ended::find_dead(q, id)? {
        Some(job) => Ok(Some(job)),
        // The job may have been retried between the two reads. It keeps its id then.
        None => Ok(rows::ended::find_in_history(q, id)?.or(rows::live::find(q, id)?)),
    }
}

/// Returns the last 200 lines of a job's log.
///
/// # Errors
/// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
pub fn list_log(q: &Query<'_>, id: JobId) -> Result<Vec<LogLine>, Error> {
    rows::ended::list_log(q, id, MAX_LOG_LINES)
}

/// Returns the states and results of the jobs that a job depends on. Results are omitted after `max_bytes` in
/// total.
///
/// # Errors
/// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
pub fn list_results(q: &Query<'_>, id: JobId, max_bytes: i64) -> Result<Vec<DependencyResult>, Error> {
    rows::dependencies::list_results(q, id, max_bytes)
}

/// Returns true if no job in `queues` is ready or running.
///
/// # Errors
/// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
pub fn is_idle(q: &Query<'_>, queues: &[&str]) -> Result<bool, Error> {
    for queue in queues {
        if rows::live::is_busy(q, queue)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns up to `limit` jobs, newest first, without payloads and results.
///
/// # Errors
/// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
pub fn list_jobs(q: &Query<'_>, filter: &JobFilter, limit: i64) -> Result<Vec<JobRecord>, Error> {
    let before = filter.before.unwrap_or(JobId::MAX);
    let since = filter.since.unwrap_or(Timestamp::EPOCH);
    let state = filter.state.map(JobState::number);
    let params: &[Param<'_>] = params![before, filter.queue, filter.kind, since, limit, state];
    match filter.state {
        Some(JobState::Dead) => q.all(DEAD, &params[..5], rows::read_ended),
        Some(JobState::Completed | JobState::Cancelled) => q.all(ENDED, params, rows::read_ended),
        _ => q.all(LIVE, params, |row| LiveJob::read_row(row).map(JobRecord::from)),
    }
}

const LIVE: &str = concat!(
    "SELECT ",
    live_columns!(),
    " FROM jobs
     WHERE id < $1 AND (CAST($2 AS TEXT) IS NULL OR queue = $2) AND (CAST($3 AS TEXT) IS NULL OR kind = $3)
       AND created_at >= $4 AND (CAST($6 AS BIGINT) IS NULL OR state = $6)
     ORDER BY id DESC LIMIT $5"
);

const ENDED: &str = concat!(
    "SELECT ",
    record_columns!(),
    ", finished_at FROM job_history
     WHERE id < $1 AND (CAST($2 AS TEXT) IS NULL OR queue = $2) AND (CAST($3 AS TEXT) IS NULL OR kind = $3)
       AND created_at >= $4 AND state = $6
     ORDER BY id DESC LIMIT $5"
);

const DEAD: &str = concat!(
    "SELECT ",
    record_columns!(),
    ", finished_at FROM job_dead_letters
     WHERE id < $1 AND (CAST($2 AS TEXT) IS NULL OR queue = $2) AND (CAST($3 AS TEXT) IS NULL OR kind = $3)
       AND created_at >= $4
     ORDER BY id DESC LIMIT $5"
);
