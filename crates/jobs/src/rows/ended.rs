//! SQL for ended jobs: the ring of history segments, and the dead letters.

use kith_kernel::Timestamp;
use kith_store::{Columns, Error, FromRow as _, Query, Row, Tx, Values, params, row_columns};

use super::releases::JobRelease;
use super::{read_ended_from, statements};
use crate::model::{Attempt, ClaimToken, JobId, JobRecord, JobState, LogLine};

/// End of an attempt, as reported by the worker that owns it.
pub struct AttemptEnd<'a> {
    pub id: JobId,
    pub attempt: i64,
    pub token: ClaimToken,
    pub state: JobState,
    pub result: Option<&'a str>,
}

/// Moves running jobs to the history and returns them. A job whose attempt number or claim token does not
/// match is left unchanged and is not returned.
pub fn end(
    tx: &Tx<'_>,
    segment: usize,
    endings: &[AttemptEnd<'_>],
    now: Timestamp,
) -> Result<Vec<JobRelease>, Error> {
    let states: Vec<_> = endings.iter().map(|one| one.state.number()).collect();
    let results: Vec<_> = endings.iter().map(|one| one.result).collect();
    let ids: Vec<_> = endings.iter().map(|one| one.id).collect();
    let attempts: Vec<_> = endings.iter().map(|one| one.attempt).collect();
    let tokens: Vec<_> = endings.iter().map(|one| one.token.number()).collect();
    let columns = [
        Values::Ints(&states),
        Values::OptionalTexts(&results),
        Values::Ints(&ids),
        Values::Ints(&attempts),
        Values::Ints(&tokens),
    ];
    tx.bulk(&statements::END[segment], params![now], &columns, JobRelease::read_row)
}

/// Copies a job that is not running to the history as cancelled. The caller deletes it from the live jobs.
pub fn insert_cancelled(
    tx: &Tx<'_>,
    segment: usize,
    id: JobId,
    why: &str,
    now: Timestamp,
) -> Result<bool, Error> {
    Ok(tx.exec(statements::CANCEL[segment], params![now, why, id])? == 1)
}

/// Copies a live job to the dead letters. The caller deletes it from the live jobs.
pub fn insert_dead(
    tx: &Tx<'_>,
    id: JobId,
    failures: i64,
    errors: Option<&str>,
    now: Timestamp,
) -> Result<bool, Error> {
    let kept = tx.exec(
        states!("INSERT INTO job_dead_letters (id, queue, kind, state, priority, run_at, payload, attempt, failures, max_attempts,
             timeout_ms, retry, limit_key, unique_key, started_at, finished_at, result, errors, source, created_at)
         SELECT id, queue, kind, {dead}, priority, run_at, payload, attempt, $2, max_attempts, timeout_ms, retry, limit_key,
             unique_key, started_at, $4, NULL, $3, source, created_at
         FROM jobs WHERE id = $1"),
        params![id, failures, errors, now],
    )?;
    Ok(kept == 1)
}

/// Deletes a running job from the live jobs. Returns `None` if `of` is not its current attempt.
pub fn delete_owned(tx: &Tx<'_>, of: Attempt) -> Result<Option<JobRelease>, Error> {
    tx.one(
        states!(
            "DELETE FROM jobs WHERE id = $1 AND attempt = $2 AND claim_token = $3 AND state = {running}
         RETURNING id, unique_key, has_dependents"
        ),
        params![of.job, of.attempt, of.token.number()],
        JobRelease::read_row,
    )
}

const FIND_IN_HISTORY: &str =
    concat!("SELECT ", record_columns!(), ", finished_at, payload, result FROM job_history WHERE id = $1");

/// Returns a job from the history; `None` if the history does not contain it.
pub fn find_in_history(q: &Query<'_>, id: JobId) -> Result<Option<JobRecord>, Error> {
    q.one(FIND_IN_HISTORY, params![id], read_whole)
}

/// Returns a dead letter; `None` if there is none with this id.
pub fn find_dead(q: &Query<'_>, id: JobId) -> Result<Option<JobRecord>, Error> {
    let sql = concat!(
        "SELECT ",
        record_columns!(),
        ", finished_at, payload, result FROM job_dead_letters WHERE id = $1"
    );
    q.one(sql, params![id], read_whole)
}

fn read_whole(row: &Row<'_>) -> Result<JobRecord, Error> {
    let columns = &mut Columns::of(row);
    let record = read_ended_from(columns)?;
    Ok(JobRecord { payload: columns.read()?, result: columns.read()?, ..record })
}

/// Returns the unique key of a dead letter, if it has one.
pub fn find_dead_key(q: &Query<'_>, id: JobId) -> Result<Option<String>, Error> {
    let sql = "SELECT unique_key FROM job_dead_letters WHERE id = $1";
    Ok(q.one(sql, params![id], |row| row.get::<Option<String>>(0))?.flatten())
}

/// Inserts a dead letter as a live job without failures, and returns its queue. The caller deletes the dead
/// letter.
pub fn revive_dead(tx: &Tx<'_>, id: JobId, now: Timestamp) -> Result<Option<String>, Error> {
    tx.one(
        states!("INSERT INTO jobs (id, queue, kind, state, priority, run_at, payload, attempt, failures, max_attempts, timeout_ms,
             retry, limit_key, unique_key, errors, source, created_at)
         SELECT id, queue, kind, {scheduled}, priority, $2, payload, attempt, 0, max_attempts, timeout_ms, retry, limit_key,
             unique_key, errors, source, created_at
         FROM job_dead_letters WHERE id = $1
         RETURNING queue"),
        params![id, now],
        |row| row.get(0),
    )
}

/// Enqueues a copy of a job from the history, and returns the id and the queue of the copy.
pub fn run_again(tx: &Tx<'_>, id: JobId, now: Timestamp) -> Result<Option<(JobId, String)>, Error> {
    tx.one(
        states!("INSERT INTO jobs (queue, kind, state, priority, run_at, payload, max_attempts, timeout_ms, retry, limit_key,
             source, created_at)
         SELECT queue, kind, {scheduled}, priority, $2, payload, max_attempts, timeout_ms, retry, limit_key, source, $2
         FROM job_history WHERE id = $1
         RETURNING id, queue"),
        params![id, now],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

pub fn delete_dead(tx: &Tx<'_>, id: JobId) -> Result<bool, Error> {
    Ok(tx.exec("DELETE FROM job_dead_letters WHERE id = $1", params![id])? == 1)
}

/// Returns the ids of up to `limit` dead letters after the id `after`, optionally only those of a queue and a
/// kind.
pub fn list_dead(
    q: &Query<'_>,
    queue: Option<&str>,
    kind: Option<&str>,
    after: JobId,
    limit: i64,
) -> Result<Vec<JobId>, Error> {
    q.all(
        "SELECT id FROM job_dead_letters
         WHERE id > $3 AND (CAST($1 AS TEXT) IS NULL OR queue = $1) AND (CAST($2 AS TEXT) IS NULL OR kind = $2)
         ORDER BY id LIMIT $4",
        params![queue, kind, after, limit],
        |row| row.get(0),
    )
}

/// Returns the ids of up to `limit` dead letters after the id `after`, in order. Dead letters whose unique
/// key is held by another job at `now` are left out.
pub fn list_revivable(
    q: &Query<'_>,
    queue: Option<&str>,
    kind: Option<&str>,
    after: JobId,
    now: Timestamp,
    limit: i64,
) -> Result<Vec<JobId>, Error> {
    q.all(
        "SELECT d.id FROM job_dead_letters d
         WHERE d.id > $3 AND (CAST($1 AS TEXT) IS NULL OR d.queue = $1) AND (CAST($2 AS TEXT) IS NULL OR d.kind = $2)
           AND NOT EXISTS (SELECT 1 FROM job_unique_keys k
                           WHERE k.key = d.unique_key AND k.job <> d.id
                             AND (k.expires_at > $5 OR EXISTS (SELECT 1 FROM jobs j WHERE j.id = k.job)))
         ORDER BY d.id LIMIT $4",
        params![queue, kind, after, limit, now],
        |row| row.get(0),
    )
}

/// Deletes up to `limit` dead letters that ended before `before`, oldest first.
pub fn delete_old_dead(tx: &Tx<'_>, before: Timestamp, limit: i64) -> Result<u64, Error> {
    tx.exec(
        "DELETE FROM job_dead_letters WHERE id IN (
             SELECT id FROM job_dead_letters WHERE finished_at < $1 ORDER BY finished_at LIMIT $2)",
        params![before, limit],
    )
}

/// Returns the number of the current segment, and the time at which it became current.
pub fn current_segment(q: &Query<'_>) -> Result<(i64, Timestamp), Error> {
    let found =
        q.one("SELECT current_segment, current_since FROM job_history_ring WHERE id = 1", &[], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    Ok(found.unwrap_or((0, Timestamp::EPOCH)))
}

/// Makes `to` the current segment. Returns false if `from` is not current, because another node has already
/// advanced.
pub fn advance_segment(tx: &Tx<'_>, from: i64, to: i64, now: Timestamp) -> Result<bool, Error> {
    let sql = "UPDATE job_history_ring SET current_segment = $2, current_since = $3
               WHERE id = 1 AND current_segment = $1";
    Ok(tx.exec(sql, params![from, to, now])? == 1)
}

pub fn start_segments(tx: &Tx<'_>, now: Timestamp) -> Result<(), Error> {
    tx.exec(
        "UPDATE job_history_ring SET current_since = $1 WHERE id = 1 AND current_since = 0",
        params![now],
    )?;
    Ok(())
}

pub fn insert_log(tx: &Tx<'_>, segment: usize, job: JobId, line: &LogLine) -> Result<(), Error> {
    let params = params![job, line.attempt, line.at, line.level, line.line];
    tx.exec(statements::LOG[segment], params)?;
    Ok(())
}

row_columns! {
    log_columns => LogLine { attempt = "attempt", at = "at", level = "level", line = "line" }
}

/// Returns the last `limit` lines of a job's log, oldest first.
pub fn list_log(q: &Query<'_>, job: JobId, limit: i64) -> Result<Vec<LogLine>, Error> {
    let mut lines = q.all(
        concat!("SELECT ", log_columns!(), " FROM job_log WHERE job = $1 ORDER BY at DESC, n DESC LIMIT $2"),
        params![job, limit],
        LogLine::read_row,
    )?;
    lines.reverse();
    Ok(lines)
}
