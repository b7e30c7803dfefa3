//! SQL for live jobs, which are the jobs that have not ended.

use kith_kernel::Timestamp;
use kith_store::{Columns, Error, Query, Tx, params, row_columns};

use crate::model::{JobId, JobRecord, JobState};

/// Returns true if a job of the queue is ready or running.
pub fn is_busy(q: &Query<'_>, queue: &str) -> Result<bool, Error> {
    // Each subquery reads one row in the order of its own index. Otherwise PostgreSQL scans the table,
    // because it expects to find a match quickly.
    let sql = states!(
        "SELECT (SELECT id FROM jobs WHERE queue = $1 AND state = {ready} AND crashes < 2
                       ORDER BY priority, position, id LIMIT 1) IS NOT NULL
                   OR (SELECT id FROM jobs WHERE queue = $1 AND state = {ready} AND crashes >= 2
                       ORDER BY id LIMIT 1) IS NOT NULL
                   OR (SELECT id FROM jobs WHERE queue = $1 AND state = {running}
                       ORDER BY limit_key LIMIT 1) IS NOT NULL"
    );
    Ok(q.one(sql, params![queue], |row| row.get(0))?.unwrap_or(false))
}

/// Records a cancellation request, locks the job and returns its state; `None` if the job is not live.
pub fn request_cancel(tx: &Tx<'_>, id: JobId, now: Timestamp) -> Result<Option<JobState>, Error> {
    tx.one(
        "UPDATE jobs SET cancel_requested_at = COALESCE(cancel_requested_at, $2) WHERE id = $1 RETURNING state",
        params![id, now],
        |row| row.get(0),
    )
}

/// Locks a job and returns its state; `None` if the job is not live.
pub fn lock_job(tx: &Tx<'_>, id: JobId) -> Result<Option<JobState>, Error> {
    let sql = "UPDATE jobs SET started_at = started_at WHERE id = $1 RETURNING state";
    tx.one(sql, params![id], |row| row.get(0))
}

/// Job that has not ended, without its payload.
pub struct LiveJob {
    record: JobRecord,
    progress: Option<String>,
    pending_dependencies: i64,
    cancel_requested_at: Option<Timestamp>,
}

row_columns! {
    live_columns => LiveJob {
        record = record_columns!(),
        progress = "progress",
        pending_dependencies = "pending_dependencies",
        cancel_requested_at = "cancel_requested_at"
    }
}

impl From<LiveJob> for JobRecord {
    fn from(live: LiveJob) -> Self {
        let LiveJob { record, progress, pending_dependencies, cancel_requested_at } = live;
        Self { progress, pending_dependencies, cancel_requested_at, ..record }
    }
}

/// Returns a live job; `None` if no live job has this id.
pub fn find(q: &Query<'_>, id: JobId) -> Result<Option<JobRecord>, Error> {
    q.one(concat!("SELECT ", live_columns!(), ", payload FROM jobs WHERE id = $1"), params![id], |row| {
        let columns = &mut Columns::of(row);
        let live: LiveJob = columns.read()?;
        Ok(JobRecord { payload: columns.read()?, ..live.into() })
    })
}

pub fn delete_waiting(tx: &Tx<'_>, id: JobId) -> Result<Option<(Option<String>, bool)>, Error> {
    tx.one(
        states!("DELETE FROM jobs WHERE id = $1 AND state <> {running} RETURNING unique_key, has_dependents"),
        params![id],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

/// Makes a scheduled job due now. Returns true if it was scheduled.
pub fn make_due(tx: &Tx<'_>, id: JobId, now: Timestamp) -> Result<bool, Error> {
    let sql = states!("UPDATE jobs SET run_at = $2 WHERE id = $1 AND state = {scheduled}");
    Ok(tx.exec(sql, params![id, now])? == 1)
}
