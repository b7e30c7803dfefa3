//! SQL for running attempts. Statements that change an attempt are fenced by the token of its claim.

use std::collections::HashSet;

use kith_kernel::Timestamp;
use kith_store::{Column, Columns, Error, FromRow as _, Query, Row, Tx, Values, params, row_columns};

use super::statements;
use crate::model::{Attempt, ClaimToken, JobId};
use crate::retry::RetryPolicy;

/// Data of a running job that is needed to end its attempt.
pub struct AttemptRow {
    pub failures: i64,
    pub retry: RetryPolicy,
    pub errors: Option<String>,
    pub cancel_requested_at: Option<Timestamp>,
    pub queue: String,
    pub crashes: i64,
}

row_columns! {
    owned_columns => AttemptRow {
        failures = "failures",
        retry = "max_attempts, retry",
        errors = "errors",
        cancel_requested_at = "cancel_requested_at",
        queue = "queue",
        crashes = "crashes"
    }
}

/// Locks a running job and returns its data. Returns `None` if `of` is not its current attempt.
pub fn lock_attempt(tx: &Tx<'_>, of: Attempt) -> Result<Option<AttemptRow>, Error> {
    tx.one(
        states!(concat!(
            "UPDATE jobs SET started_at = started_at
             WHERE id = $1 AND attempt = $2 AND claim_token = $3 AND state = {running} RETURNING ",
            owned_columns!()
        )),
        params![of.job, of.attempt, of.token.number()],
        AttemptRow::read_row,
    )
}

/// Running job that was claimed by an external program.
pub struct Leased {
    pub attempt: Attempt,
    pub worker: i64,
    pub is_cancel_requested: bool,
    pub queue: String,
}

/// Locks a running job that an external program has claimed under `token`, and returns it.
pub fn find_leased(tx: &Tx<'_>, id: JobId, token: ClaimToken) -> Result<Option<Leased>, Error> {
    tx.one(
        states!(
            "UPDATE jobs SET started_at = started_at WHERE id = $1 AND claim_token = $2 AND state = {running}
           AND EXISTS (SELECT 1 FROM job_workers w WHERE w.id = jobs.worker AND w.is_remote)
         RETURNING attempt, worker, cancel_requested_at, queue"
        ),
        params![id, token.number()],
        |row| {
            Ok(Leased {
                attempt: Attempt { job: id, attempt: row.get(0)?, token },
                worker: row.get(1)?,
                is_cancel_requested: row.get::<Option<Timestamp>>(2)?.is_some(),
                queue: row.get(3)?,
            })
        },
    )
}

/// Reschedules a running job. Returns false if `of` is not its current attempt.
pub fn put_back(
    tx: &Tx<'_>,
    of: Attempt,
    run_at: Timestamp,
    failures: i64,
    crashes: i64,
    errors: Option<&str>,
) -> Result<bool, Error> {
    let changed = tx.exec(
        states!("UPDATE jobs SET state = {scheduled}, worker = NULL, deadline_at = NULL, run_at = $4, failures = $5, crashes = $6,
             errors = $7
         WHERE id = $1 AND attempt = $2 AND claim_token = $3 AND state = {running}"),
        params![of.job, of.attempt, of.token.number(), run_at, failures, crashes, errors],
    )?;
    Ok(changed == 1)
}

/// Returns the due time of a job that was rescheduled after the attempt `of` and has not been claimed since.
pub fn find_rescheduled(q: &Query<'_>, of: Attempt) -> Result<Option<Timestamp>, Error> {
    let sql = states!(
        "SELECT run_at FROM jobs WHERE id = $1 AND attempt = $2 AND claim_token = $3 AND state <> {running}"
    );
    q.one(sql, params![of.job, of.attempt, of.token.number()], |row| row.get(0))
}

/// Puts a claimed job that was not started back into the queue, unless its cancellation was requested.
/// Returns true if the job was put back.
pub fn return_unstarted(tx: &Tx<'_>, of: Attempt, now: Timestamp) -> Result<bool, Error> {
    let changed = tx.exec(
        states!("UPDATE jobs SET state = {scheduled}, worker = NULL, deadline_at = NULL, started_at = NULL, run_at = $4
         WHERE id = $1 AND attempt = $2 AND claim_token = $3 AND state = {running} AND cancel_requested_at IS NULL"),
        params![of.job, of.attempt, of.token.number(), now],
    )?;
    Ok(changed == 1)
}

impl Column for ClaimToken {
    fn from_row(row: &Row<'_>, at: usize) -> Result<Self, Error> {
        row.get(at).map(Self::from_number)
    }
}

row_columns! {
    attempt_columns => Attempt { job = "id", attempt = "attempt", token = "claim_token" }
}

/// Returns the running jobs that were claimed under `token`, with their workers.
pub fn list_claim(q: &Query<'_>, queue: &str, token: ClaimToken) -> Result<Vec<(Attempt, i64)>, Error> {
    q.all(
        states!(concat!(
            "SELECT ",
            attempt_columns!(),
            ", worker FROM jobs WHERE state = {running} AND queue = $1 AND claim_token = $2
         ORDER BY id"
        )),
        params![queue, token.number()],
        |row| {
            let columns = &mut Columns::of(row);
            Ok((columns.read()?, columns.read()?))
        },
    )
}

pub fn set_progress(tx: &Tx<'_>, of: Attempt, progress: &str) -> Result<bool, Error> {
    let changed = tx.exec(
        states!("UPDATE jobs SET progress = $4 WHERE id = $1 AND attempt = $2 AND claim_token = $3 AND state = {running}"),
        params![of.job, of.attempt, of.token.number(), progress],
    )?;
    Ok(changed == 1)
}

/// Returns the running jobs of `worker` whose cancellation was requested.
pub fn list_cancel_requested(q: &Query<'_>, worker: i64) -> Result<Vec<Attempt>, Error> {
    q.all(
        states!(
            "SELECT id, attempt, claim_token FROM jobs
         WHERE cancel_requested_at IS NOT NULL AND state = {running} AND worker = $1"
        ),
        params![worker],
        Attempt::read_row,
    )
}

/// Returns up to `limit` running jobs of `worker`.
pub fn list_running_of(q: &Query<'_>, worker: i64, limit: i64) -> Result<Vec<Attempt>, Error> {
    q.all(
        states!(concat!(
            "SELECT ",
            attempt_columns!(),
            " FROM jobs WHERE state = {running} AND worker = $1 ORDER BY id LIMIT $2"
        )),
        params![worker, limit],
        Attempt::read_row,
    )
}

/// Returns the attempts that are no longer running, including jobs that are running under another claim.
pub fn list_lost(tx: &Tx<'_>, attempts: &[Attempt]) -> Result<Vec<Attempt>, Error> {
    let ids: Vec<_> = attempts.iter().map(|attempt| attempt.job).collect();
    let tokens: Vec<_> = attempts.iter().map(|attempt| attempt.token.number()).collect();
    let columns = [Values::Ints(&ids), Values::Ints(&tokens)];
    let running = tx.bulk(&statements::STILL_RUNNING, params![], &columns, |row| {
        Ok((row.get::<i64>(0)?, ClaimToken::from_number(row.get(1)?)))
    })?;
    let running: HashSet<_> = running.into_iter().collect();
    Ok(attempts.iter().copied().filter(|one| !running.contains(&(one.job, one.token))).collect())
}

/// Records the deadlines of running attempts.
pub fn set_deadlines(tx: &Tx<'_>, deadlines: &[(Attempt, Timestamp)]) -> Result<(), Error> {
    let ids: Vec<_> = deadlines.iter().map(|(attempt, _)| attempt.job).collect();
    let tokens: Vec<_> = deadlines.iter().map(|(attempt, _)| attempt.token.number()).collect();
    let ends: Vec<_> = deadlines.iter().map(|(_, at)| at.as_millis()).collect();
    let columns = [Values::Ints(&ids), Values::Ints(&tokens), Values::Ints(&ends)];
    tx.bulk(&statements::SET_DEADLINES, params![], &columns, |_| Ok(())).map(drop)
}

/// Returns up to `limit` running attempts whose deadline was before `before`. Normally their workers have
/// ended them by then.
pub fn list_overdue(q: &Query<'_>, before: Timestamp, limit: i64) -> Result<Vec<Attempt>, Error> {
    q.all(
        states!(concat!(
            "SELECT ",
            attempt_columns!(),
            " FROM jobs WHERE state = {running} AND deadline_at < $1 ORDER BY id LIMIT $2"
        )),
        params![before, limit],
        Attempt::read_row,
    )
}
