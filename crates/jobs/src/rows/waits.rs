//! Who waits for whom, and which unique keys are taken.

use kith_kernel::Timestamp;
use kith_store::{Error, Query, Tx, params};

use crate::model::{Awaited, JobId, JobState};

pub fn insert_wait(tx: &Tx<'_>, awaited: JobId, waiter: JobId, on_failure: i64) -> Result<(), Error> {
    tx.exec(
        "INSERT INTO job_waits (awaited, waiter, on_failure) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        params![awaited, waiter, on_failure],
    )?;
    Ok(())
}

/// Marks a job that has not ended as awaited; says whether it has not.
pub fn mark_awaited(tx: &Tx<'_>, awaited: JobId) -> Result<bool, Error> {
    Ok(tx.exec("UPDATE jobs SET is_awaited = TRUE WHERE id = $1", params![awaited])? == 1)
}

/// How a job ended that others wait for.
pub struct Settlement {
    pub job: JobId,
    pub state: JobState,
    pub result: Option<String>,
}

/// Records how a job ended, for at most `most` of those that wait for it and have not been told; returns which they are and
/// what they do about failures.
pub fn settle(tx: &Tx<'_>, ended: &Settlement, most: i64) -> Result<Vec<(JobId, i64)>, Error> {
    tx.all(
        "UPDATE job_waits SET state = $2, result = $3 WHERE awaited = $1 AND state IS NULL AND waiter IN (
             SELECT w.waiter FROM job_waits w WHERE w.awaited = $1 AND w.state IS NULL ORDER BY w.waiter LIMIT $4)
         RETURNING waiter, on_failure",
        params![ended.job, ended.state.number(), ended.result, most],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

/// Notes that jobs which wait for one that has ended are to be told later.
pub fn defer_settlement(tx: &Tx<'_>, ended: &Settlement) -> Result<(), Error> {
    tx.exec(
        "INSERT INTO job_settlements (job, state, result) VALUES ($1, $2, $3)",
        params![ended.job, ended.state.number(), ended.result],
    )?;
    Ok(())
}

/// Returns whether a settlement was deferred.
pub fn has_settlements(q: &Query<'_>) -> Result<bool, Error> {
    Ok(q.one("SELECT 1 FROM job_settlements LIMIT 1", &[], |_| Ok(()))?.is_some())
}

/// Removes the first deferred settlements, and returns them.
pub fn take_settlements(tx: &Tx<'_>, most: i64) -> Result<Vec<Settlement>, Error> {
    tx.all(
        "DELETE FROM job_settlements WHERE id IN (SELECT s.id FROM job_settlements s ORDER BY s.id LIMIT $1)
         RETURNING job, state, result",
        params![most],
        |row| {
            let state = JobState::from_number(row.get(1)?)?;
            Ok(Settlement { job: row.get(0)?, state, result: row.get(2)? })
        },
    )
}

/// One less to wait for; with the last the waiter is scheduled. Says its queue, if it is.
pub fn one_less(tx: &Tx<'_>, waiter: JobId, now: Timestamp) -> Result<Option<String>, Error> {
    let left = tx.one(
        "UPDATE jobs SET waiting_for = waiting_for - 1,
             state = CASE WHEN waiting_for <= 1 THEN 1 ELSE state END,
             run_at = CASE WHEN waiting_for <= 1 AND run_at < $2 THEN $2 ELSE run_at END
         WHERE id = $1 AND state = 3 RETURNING waiting_for, queue",
        params![waiter, now],
        |row| Ok((row.get::<i64>(0)?, row.get::<String>(1)?)),
    )?;
    Ok(left.filter(|(left, _)| *left == 0).map(|(_, queue)| queue))
}

/// How those that `waiter` awaited have ended.
pub fn list_results(q: &Query<'_>, waiter: JobId, max_bytes: i64) -> Result<Vec<Awaited>, Error> {
    q.all(
        "SELECT w.awaited, w.state, CASE WHEN s.total <= $2 THEN w.result END,
             w.result IS NOT NULL AND s.total > $2
         FROM job_waits w JOIN (
             SELECT awaited, SUM(COALESCE(OCTET_LENGTH(result), 0)) OVER (ORDER BY awaited) AS total
             FROM job_waits WHERE waiter = $1) s ON s.awaited = w.awaited
         WHERE w.waiter = $1 ORDER BY w.awaited",
        params![waiter, max_bytes],
        |row| {
            let state = row.get::<Option<i64>>(1)?.map(JobState::from_number).transpose()?;
            Ok(Awaited { job: row.get(0)?, state, result: row.get(2)?, is_result_omitted: row.get(3)? })
        },
    )
}

/// Forgets what jobs waited for that have ended themselves.
pub fn tidy_waits(tx: &Tx<'_>, most: i64) -> Result<u64, Error> {
    tx.exec(
        "DELETE FROM job_waits WHERE waiter IN (SELECT w.waiter FROM job_waits w
             WHERE NOT EXISTS (SELECT 1 FROM jobs j WHERE j.id = w.waiter) LIMIT $1)",
        params![most],
    )
}

/// Whose job holds a key at `now`, and whether its job lives.
pub fn find_key(q: &Query<'_>, key: &str) -> Result<Option<(JobId, Option<Timestamp>, bool)>, Error> {
    q.one(
        "SELECT k.job, k.until, EXISTS (SELECT 1 FROM jobs j WHERE j.id = k.job) FROM job_keys k WHERE k.key = $1",
        params![key],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )
}

pub fn take_key(tx: &Tx<'_>, key: &str, job: JobId, until: Option<Timestamp>) -> Result<(), Error> {
    tx.exec(
        "INSERT INTO job_keys (key, job, until) VALUES ($1, $2, $3)
         ON CONFLICT (key) DO UPDATE SET job = excluded.job, until = excluded.until",
        params![key, job, until],
    )?;
    Ok(())
}

/// Takes a key for a job that lives again. A period that the key is taken for goes on.
pub fn retake_key(tx: &Tx<'_>, key: &str, job: JobId) -> Result<(), Error> {
    tx.exec(
        "INSERT INTO job_keys (key, job, until) VALUES ($1, $2, NULL)
         ON CONFLICT (key) DO UPDATE SET job = excluded.job",
        params![key, job],
    )?;
    Ok(())
}

/// Gives a key back that is taken for as long as `job` lives.
pub fn release_key(tx: &Tx<'_>, key: &str, job: JobId, now: Timestamp) -> Result<(), Error> {
    tx.exec(
        "DELETE FROM job_keys WHERE key = $1 AND job = $2 AND (until IS NULL OR until <= $3)",
        params![key, job, now],
    )?;
    Ok(())
}

/// Removes keys whose period is over and whose job has ended.
pub fn tidy_keys(tx: &Tx<'_>, now: Timestamp, most: i64) -> Result<u64, Error> {
    // An enqueue that takes the key meanwhile changes its row: then neither the job nor the period is that of the row
    // that was found.
    tx.exec(
        "DELETE FROM job_keys WHERE until <= $1 AND (key, job) IN (SELECT k.key, k.job FROM job_keys k
             WHERE k.until <= $1 AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.id = k.job) LIMIT $2)",
        params![now, most],
    )
}
