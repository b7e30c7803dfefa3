//! SQL for dependencies between jobs, and for unique keys.

use kith_kernel::Timestamp;
use kith_store::{Error, FromRow as _, Query, Tx, params, row_columns};

use crate::model::{DependencyResult, JobId, JobState};

pub fn insert_dependency(tx: &Tx<'_>, depends_on: JobId, job: JobId, on_failure: i64) -> Result<(), Error> {
    tx.exec(
        "INSERT INTO job_dependencies (depends_on, job, on_failure) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        params![depends_on, job, on_failure],
    )?;
    Ok(())
}

/// Marks a job that has not ended as having dependents. Returns false if the job has ended.
pub fn set_has_dependents(tx: &Tx<'_>, job: JobId) -> Result<bool, Error> {
    Ok(tx.exec("UPDATE jobs SET has_dependents = TRUE WHERE id = $1", params![job])? == 1)
}

/// Final state of a job, to be recorded for the jobs that depend on it.
pub struct DependentUpdate {
    pub job: JobId,
    pub state: JobState,
    pub result: Option<String>,
}

row_columns! {
    dependent_update_columns => DependentUpdate { job = "job", state = "state", result = "result" }
}

/// Records the final state of a job for up to `limit` dependent jobs for which it is not recorded yet.
/// Returns the ids and failure policies of these dependent jobs.
pub fn update_dependents(
    tx: &Tx<'_>,
    ended: &DependentUpdate,
    limit: i64,
) -> Result<Vec<(JobId, i64)>, Error> {
    tx.all(
        "UPDATE job_dependencies SET state = $2, result = $3 WHERE depends_on = $1 AND state IS NULL AND job IN (
             SELECT d.job FROM job_dependencies d WHERE d.depends_on = $1 AND d.state IS NULL ORDER BY d.job LIMIT $4)
         RETURNING job, on_failure",
        params![ended.job, ended.state.number(), ended.result, limit],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

/// Defers the rest of recording the final state of a job for its dependent jobs: maintenance continues it.
pub fn defer_dependent_update(tx: &Tx<'_>, ended: &DependentUpdate) -> Result<(), Error> {
    tx.exec(
        "INSERT INTO job_dependent_updates (job, state, result) VALUES ($1, $2, $3)",
        params![ended.job, ended.state.number(), ended.result],
    )?;
    Ok(())
}

/// Returns true if the final state of a job still has to be recorded for some of its dependent jobs.
pub fn has_dependent_updates(q: &Query<'_>) -> Result<bool, Error> {
    Ok(q.one("SELECT 1 FROM job_dependent_updates LIMIT 1", &[], |_| Ok(()))?.is_some())
}

/// Removes and returns up to `limit` jobs whose final state is still to be recorded for some dependent jobs,
/// oldest first.
pub fn take_dependent_updates(tx: &Tx<'_>, limit: i64) -> Result<Vec<DependentUpdate>, Error> {
    tx.all(
        concat!(
            "DELETE FROM job_dependent_updates WHERE id IN (SELECT s.id FROM job_dependent_updates s ORDER BY s.id LIMIT $1)
             RETURNING ",
            dependent_update_columns!()
        ),
        params![limit],
        DependentUpdate::read_row,
    )
}

/// Decrements the number of pending dependencies of a job. If none is left, schedules the job and returns its
/// queue.
pub fn decrement_pending_dependencies(
    tx: &Tx<'_>,
    job: JobId,
    now: Timestamp,
) -> Result<Option<String>, Error> {
    let left = tx.one(
        states!(
            "UPDATE jobs SET pending_dependencies = pending_dependencies - 1,
             state = CASE WHEN pending_dependencies <= 1 THEN {scheduled} ELSE state END,
             run_at = CASE WHEN pending_dependencies <= 1 AND run_at < $2 THEN $2 ELSE run_at END
         WHERE id = $1 AND state = {blocked} RETURNING pending_dependencies, queue"
        ),
        params![job, now],
        |row| Ok((row.get::<i64>(0)?, row.get::<String>(1)?)),
    )?;
    Ok(left.filter(|(left, _)| *left == 0).map(|(_, queue)| queue))
}

/// Returns the final states and results of the jobs that `job` depends on. Results are omitted after
/// `max_bytes` in total.
pub fn list_results(q: &Query<'_>, job: JobId, max_bytes: i64) -> Result<Vec<DependencyResult>, Error> {
    q.all(
        "SELECT d.depends_on, d.state, CASE WHEN s.total <= $2 THEN d.result END,
             d.result IS NOT NULL AND s.total > $2
         FROM job_dependencies d JOIN (
             SELECT depends_on, SUM(COALESCE(OCTET_LENGTH(result), 0)) OVER (ORDER BY depends_on) AS total
             FROM job_dependencies WHERE job = $1) s ON s.depends_on = d.depends_on
         WHERE d.job = $1 ORDER BY d.depends_on",
        params![job, max_bytes],
        |row| {
            let state = row.get::<Option<i64>>(1)?.map(JobState::from_number).transpose()?;
            Ok(DependencyResult {
                job: row.get(0)?,
                state,
                result: row.get(2)?,
                is_result_omitted: row.get(3)?,
            })
        },
    )
}

/// Deletes up to `limit` dependencies whose dependent job has ended.
pub fn delete_ended_dependencies(tx: &Tx<'_>, limit: i64) -> Result<u64, Error> {
    tx.exec(
        "DELETE FROM job_dependencies WHERE job IN (SELECT d.job FROM job_dependencies d
             WHERE NOT EXISTS (SELECT 1 FROM jobs j WHERE j.id = d.job) LIMIT $1)",
        params![limit],
    )
}

/// Returns the job that holds a key, the time at which the key expires if it has one, and true if the job has
/// not ended.
pub fn find_key(q: &Query<'_>, key: &str) -> Result<Option<(JobId, Option<Timestamp>, bool)>, Error> {
    q.one(
        "SELECT k.job, k.expires_at, EXISTS (SELECT 1 FROM jobs j WHERE j.id = k.job)
         FROM job_unique_keys k WHERE k.key = $1",
        params![key],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )
}

pub fn take_key(tx: &Tx<'_>, key: &str, job: JobId, until: Option<Timestamp>) -> Result<(), Error> {
    tx.exec(
        "INSERT INTO job_unique_keys (key, job, expires_at) VALUES ($1, $2, $3)
         ON CONFLICT (key) DO UPDATE SET job = excluded.job, expires_at = excluded.expires_at",
        params![key, job, until],
    )?;
    Ok(())
}

/// Assigns a unique key to a job that was a dead letter. If the key has an expiry time, it is unchanged.
pub fn retake_key(tx: &Tx<'_>, key: &str, job: JobId) -> Result<(), Error> {
    tx.exec(
        "INSERT INTO job_unique_keys (key, job, expires_at) VALUES ($1, $2, NULL)
         ON CONFLICT (key) DO UPDATE SET job = excluded.job",
        params![key, job],
    )?;
    Ok(())
}

/// Releases a key of `job`, unless the key expires later.
pub fn release_key(tx: &Tx<'_>, key: &str, job: JobId, now: Timestamp) -> Result<(), Error> {
    tx.exec(
        "DELETE FROM job_unique_keys WHERE key = $1 AND job = $2 AND (expires_at IS NULL OR expires_at <= $3)",
        params![key, job, now],
    )?;
    Ok(())
}

/// Deletes up to `limit` keys that have expired and whose job has ended.
pub fn delete_expired_keys(tx: &Tx<'_>, now: Timestamp, limit: i64) -> Result<u64, Error> {
    // The outer conditions exclude a row that a concurrent enqueue has changed: it then has another job or
    // another expiry time.
    tx.exec(
        "DELETE FROM job_unique_keys WHERE expires_at <= $1 AND (key, job) IN (
             SELECT k.key, k.job FROM job_unique_keys k
             WHERE k.expires_at <= $1 AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.id = k.job) LIMIT $2)",
        params![now, limit],
    )
}
