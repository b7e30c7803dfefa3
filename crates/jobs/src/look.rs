//! Looking at jobs: one by its id, many by how they stand.

use kith_kernel::Timestamp;
use kith_store::{Error, Param, Query, Row, params};

use crate::model::{Awaited, JobId, JobRecord, JobState, LogLine};
use crate::rows;
use crate::rows::live::read_live;

/// Which jobs to list.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    /// How they stand; live jobs if absent.
    pub state: Option<JobState>,
    /// In which queue.
    pub queue: Option<String>,
    /// Of which kind.
    pub kind: Option<String>,
    /// Those with a smaller id: the newest come first.
    pub before: Option<JobId>,
    /// Enqueued not before.
    pub since: Option<Timestamp>,
}

/// Log lines that are shown with a job.
const LINES: i64 = 200;

/// All that is known of a job, wherever it stands.
///
/// # Errors
/// The database's.
pub fn find_job(q: &Query<'_>, id: JobId) -> Result<Option<JobRecord>, Error> {
    if let Some(job) = rows::live::find(q, id)? {
        return Ok(Some(job));
    }
    match rows::ended::find_dead(q, id)? {
        Some(job) => Ok(Some(job)),
        // It may have come back to life between the two looks, under its own id.
        None => Ok(rows::ended::find_in_history(q, id)?.or(rows::live::find(q, id)?)),
    }
}

/// The last lines that it has logged.
///
/// # Errors
/// The database's.
pub fn list_log(q: &Query<'_>, id: JobId) -> Result<Vec<LogLine>, Error> {
    rows::ended::list_log(q, id, LINES)
}

/// How the jobs that a job waits, or waited, for stand. Results are left out once they have `max_bytes` together.
///
/// # Errors
/// The database's.
pub fn list_results(q: &Query<'_>, id: JobId, max_bytes: i64) -> Result<Vec<Awaited>, Error> {
    rows::waits::list_results(q, id, max_bytes)
}

/// Whether nothing in `queues` is ready or running.
///
/// # Errors
/// The database's.
pub fn is_idle(q: &Query<'_>, queues: &[&str]) -> Result<bool, Error> {
    for queue in queues {
        if rows::live::is_busy(q, queue)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// At most `most` jobs, the newest first, without their payloads and results.
///
/// # Errors
/// The database's.
pub fn list_jobs(q: &Query<'_>, filter: &JobFilter, most: i64) -> Result<Vec<JobRecord>, Error> {
    let before = filter.before.unwrap_or(JobId::MAX);
    let since = filter.since.unwrap_or(Timestamp::EPOCH);
    let state = filter.state.map(JobState::number);
    let params: &[Param<'_>] = params![before, filter.queue, filter.kind, since, most, state];
    match filter.state {
        Some(JobState::Dead) => q.all(DEAD, &params[..5], rows::read_record),
        Some(JobState::Completed | JobState::Cancelled) => q.all(ENDED, params, rows::read_record),
        _ => q.all(LIVE, params, |row: &Row<'_>| read_live(row)),
    }
}

const LIVE: &str = "SELECT id, queue, kind, state, priority, run_at, '', attempt, failures, max_attempts, timeout_ms,
         retry, limit_key, started_at, CAST(NULL AS BIGINT), CAST(NULL AS TEXT), errors, source, created_at, progress,
         waiting_for, cancel_asked_at
     FROM jobs
     WHERE id < $1 AND (CAST($2 AS TEXT) IS NULL OR queue = $2) AND (CAST($3 AS TEXT) IS NULL OR kind = $3)
       AND created_at >= $4 AND (CAST($6 AS BIGINT) IS NULL OR state = $6)
     ORDER BY id DESC LIMIT $5";

const ENDED: &str =
    "SELECT id, queue, kind, state, priority, run_at, '', attempt, failures, max_attempts, timeout_ms,
         retry, limit_key, started_at, finished_at, CAST(NULL AS TEXT), errors, source, created_at
     FROM job_history
     WHERE id < $1 AND (CAST($2 AS TEXT) IS NULL OR queue = $2) AND (CAST($3 AS TEXT) IS NULL OR kind = $3)
       AND created_at >= $4 AND state = $6
     ORDER BY id DESC LIMIT $5";

const DEAD: &str =
    "SELECT id, queue, kind, state, priority, run_at, '', attempt, failures, max_attempts, timeout_ms,
         retry, limit_key, started_at, finished_at, CAST(NULL AS TEXT), errors, source, created_at
     FROM job_dead
     WHERE id < $1 AND (CAST($2 AS TEXT) IS NULL OR queue = $2) AND (CAST($3 AS TEXT) IS NULL OR kind = $3)
       AND created_at >= $4
     ORDER BY id DESC LIMIT $5";
