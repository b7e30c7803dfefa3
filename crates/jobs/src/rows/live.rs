//! SQL for live jobs.

use std::collections::HashSet;

use kith_kernel::Timestamp;
use kith_store::{Bulk, Column, Columns, Error, FromRow, Query, Row, Tx, Values, params, row_columns};

use super::statements;
use crate::model::{Attempt, ClaimToken, ClaimedJob, JobId, JobRecord, JobState, MAX_PRIORITY};
use crate::new_job::NewJob;
use crate::retry::RetryPolicy;

const INSERT_ONE: &str =
    "INSERT INTO jobs (queue, kind, state, priority, run_at, payload, max_attempts, timeout_ms, retry,
        limit_key, unique_key, pending_dependencies, source, created_at)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) RETURNING id";

pub fn insert(
    tx: &Tx<'_>,
    job: &NewJob,
    state: JobState,
    unique_key: Option<&str>,
    pending_dependencies: i64,
    now: Timestamp,
) -> Result<JobId, Error> {
    let retry = job.retry.to_stored();
    let id = tx.one(
        INSERT_ONE,
        params![
            job.queue,
            job.kind,
            state.number(),
            job.priority,
            job.run_at.unwrap_or(now).max(now),
            job.payload,
            job.retry.max_attempts,
            timeout_ms(job),
            retry,
            job.limit_key,
            unique_key,
            pending_dependencies,
            job.source,
            now
        ],
        |row| row.get(0),
    )?;
    id.ok_or_else(|| Error::fault("an insert returned nothing"))
}

/// Inserts jobs that have no unique key and no dependencies. Returns their ids in the order of `jobs`.
pub fn insert_many(tx: &Tx<'_>, jobs: &[&NewJob], now: Timestamp) -> Result<Vec<JobId>, Error> {
    let queues: Vec<_> = jobs.iter().map(|job| &*job.queue).collect();
    let kinds: Vec<_> = jobs.iter().map(|job| &*job.kind).collect();
    let states: Vec<_> = jobs.iter().map(|job| state_at(job, now).number()).collect();
    let priorities: Vec<_> = jobs.iter().map(|job| job.priority).collect();
    let run_ats: Vec<_> = jobs.iter().map(|job| job.run_at.unwrap_or(now).max(now).as_millis()).collect();
    let payloads: Vec<_> = jobs.iter().map(|job| &*job.payload).collect();
    let attempts: Vec<_> = jobs.iter().map(|job| job.retry.max_attempts).collect();
    let timeouts: Vec<_> = jobs.iter().map(|job| timeout_ms(job)).collect();
    let retries: Vec<_> = jobs.iter().map(|job| job.retry.to_stored()).collect();
    let retries: Vec<_> = retries.iter().map(Option::as_deref).collect();
    let limit_keys: Vec<_> = jobs.iter().map(|job| job.limit_key.as_deref()).collect();
    let sources: Vec<_> = jobs.iter().map(|job| job.source.as_deref()).collect();
    let columns = [
        Values::Texts(&queues),
        Values::Texts(&kinds),
        Values::Ints(&states),
        Values::Ints(&priorities),
        Values::Ints(&run_ats),
        Values::Texts(&payloads),
        Values::Ints(&attempts),
        Values::Ints(&timeouts),
        Values::OptionalTexts(&retries),
        Values::OptionalTexts(&limit_keys),
        Values::OptionalTexts(&sources),
    ];
    tx.bulk(&statements::INSERT, params![now], &columns, |row| row.get(0))
}

/// Returns the initial state of a job without dependencies.
pub fn state_at(job: &NewJob, now: Timestamp) -> JobState {
    if job.run_at.is_some_and(|at| at > now) { JobState::Scheduled } else { JobState::Ready }
}

fn timeout_ms(job: &NewJob) -> i64 {
    i64::try_from(job.timeout.as_millis()).unwrap_or(i64::MAX / 4).min(i64::MAX / 4)
}

/// Worker and fencing token of a claim.
#[derive(Clone, Copy, Debug)]
pub struct Claimer {
    pub worker: i64,
    pub token: ClaimToken,
    /// Start of the attempts, if they start immediately; their timeouts are counted from it. Workers of this
    /// process claim ahead and record deadlines later.
    pub begins_at: Option<Timestamp>,
}

/// Page of ready jobs, and the jobs of it that were claimed.
#[derive(Default)]
pub struct Page {
    pub jobs: Vec<ClaimedJob>,
    /// Oldest transaction that can still make a job ready unseen; 0 on SQLite.
    pub oldest: i64,
    /// Number of ready jobs found, up to the limit of the claim.
    pub found: i64,
    /// Number of jobs picked from those found; fewer if the payloads are large in total. Jobs that another
    /// transaction changed before they were locked are counted, but are not in `jobs`.
    pub picked: i64,
    /// Priority and position of the last job picked.
    pub last: Option<(i64, i64)>,
}

/// Watermark per priority: no job below this position is ready.
pub type Watermarks = [i64; MAX_PRIORITY as usize + 1];

pub fn claim(
    tx: &Tx<'_>,
    now: Timestamp,
    claimer: Claimer,
    queue: &str,
    limit: i64,
    lanes: &Watermarks,
) -> Result<Page, Error> {
    let priorities: Vec<_> = (0..=MAX_PRIORITY).collect();
    let page = std::cell::Cell::new((0, 0, 0, None));
    let read = |row: &Row<'_>| {
        let last = row.get::<Option<i64>>(19)?.zip(row.get::<Option<i64>>(20)?);
        page.set((row.get(16)?, row.get(17)?, row.get(18)?, last));
        read_claimed(row, claimer, queue)
    };
    let token = claimer.token.number();
    let params = params![now, claimer.worker, queue, limit, token, claimer.begins_at];
    let columns = [Values::Ints(&priorities), Values::Ints(lanes)];
    let jobs = in_order(tx.all_for_engine(&statements::CLAIM, params, &columns, read)?);
    let (oldest, found, picked, last) = page.get();
    Ok(Page { jobs, oldest, found, picked, last })
}

pub fn claim_these(
    tx: &Tx<'_>,
    now: Timestamp,
    claimer: Claimer,
    queue: &str,
    ids: &[JobId],
) -> Result<Vec<ClaimedJob>, Error> {
    let read = |row: &Row<'_>| read_claimed(row, claimer, queue);
    let token = claimer.token.number();
    let params = params![now, claimer.worker, token, claimer.begins_at];
    let found = tx.bulk(&statements::CLAIM_THESE, params, &[Values::Ints(ids)], read)?;
    Ok(in_order(found))
}

/// Returns true if a ready job is below the watermark of its priority.
pub fn is_ready_below(q: &Query<'_>, queue: &str, lanes: &Watermarks) -> Result<bool, Error> {
    let sql = states!(
        "SELECT 1 FROM jobs WHERE queue = $1 AND state = {ready} AND crashes < 2 AND priority = $2 AND position < $3
         LIMIT 1"
    );
    for (priority, position) in (0_i64..).zip(lanes).filter(|(_, position)| **position > 0) {
        if q.one(sql, params![queue, priority, *position], |_| Ok(()))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn in_order(found: Vec<Option<ClaimedJob>>) -> Vec<ClaimedJob> {
    let mut jobs: Vec<_> = found.into_iter().flatten().collect();
    jobs.sort_by_key(|job| (job.priority, job.position, job.id));
    jobs
}

fn read_claimed(row: &Row<'_>, claimer: Claimer, queue: &str) -> Result<Option<ClaimedJob>, Error> {
    let Some(id) = row.get::<Option<i64>>(0)? else { return Ok(None) };
    Ok(Some(ClaimedJob {
        id,
        queue: queue.to_owned(),
        kind: row.get(1)?,
        // JSON text is never empty; a payload left out of the result is read separately.
        payload: row.get::<Option<String>>(2)?.unwrap_or_default(),
        attempt: row.get(3)?,
        failures: row.get(4)?,
        retry: RetryPolicy::read(row.get(5)?, row.get::<Option<String>>(8)?.as_deref()),
        crashes: row.get(6)?,
        timeout: row.get(7)?,
        run_at: row.get(9)?,
        created_at: row.get(10)?,
        limit_key: row.get(11)?,
        worker: claimer.worker,
        token: claimer.token,
        priority: row.get(14)?,
        position: row.get(15)?,
    }))
}

/// Returns the payload of a job.
pub fn find_payload(q: &Query<'_>, id: JobId) -> Result<Option<String>, Error> {
    q.one("SELECT payload FROM jobs WHERE id = $1", params![id], |row| row.get(0))
}

/// Puts a job claimed in the same transaction back into the queue, at its previous position.
pub fn unclaim(tx: &Tx<'_>, id: JobId) -> Result<(), Error> {
    tx.exec(
        states!("UPDATE jobs SET state = {ready}, attempt = attempt - 1, worker = NULL, deadline_at = NULL, started_at = NULL
         WHERE id = $1"),
        params![id],
    )?;
    Ok(())
}

/// Returns ready jobs without a limit key, in order, for queues with limits per key.
pub fn first_without_key(q: &Query<'_>, queue: &str, limit: i64) -> Result<Vec<JobId>, Error> {
    q.all(
        states!(
            "SELECT id FROM jobs WHERE queue = $1 AND state = {ready} AND crashes < 2 AND limit_key IS NULL
         ORDER BY priority, position, id LIMIT $2"
        ),
        params![queue, limit],
        |row| row.get(0),
    )
}

/// Returns the limit keys after `after` that have ready jobs, and the number of running jobs of each.
pub fn keys_after(q: &Query<'_>, queue: &str, after: &str, limit: i64) -> Result<Vec<(String, i64)>, Error> {
    q.all(
        states!("WITH RECURSIVE k (key) AS (
             SELECT MIN(limit_key) FROM jobs
             WHERE queue = $1 AND state = {ready} AND crashes < 2 AND limit_key IS NOT NULL AND limit_key > $2
             UNION ALL
             SELECT (SELECT MIN(j.limit_key) FROM jobs j
                 WHERE j.queue = $1 AND j.state = {ready} AND j.crashes < 2 AND j.limit_key IS NOT NULL
                   AND j.limit_key > k.key)
             FROM k WHERE k.key IS NOT NULL)
         SELECT key, (SELECT COUNT(*) FROM jobs r WHERE r.queue = $1 AND r.state = {running} AND r.limit_key = k.key)
         FROM k WHERE key IS NOT NULL LIMIT $3"),
        params![queue, after, limit],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

pub fn first_of_keys(tx: &Tx<'_>, queue: &str, wanted: &[(String, i64)]) -> Result<Vec<JobId>, Error> {
    let keys: Vec<_> = wanted.iter().map(|(key, _)| &**key).collect();
    let rooms: Vec<_> = wanted.iter().map(|(_, room)| *room).collect();
    let bulk: &Bulk = &statements::FIRST_OF_KEYS;
    tx.bulk(bulk, params![queue], &[Values::Texts(&keys), Values::Ints(&rooms)], |row| row.get(0))
}

/// Returns the oldest suspects after `after` with their limit keys: ready jobs whose last two attempts ended
/// with the death of their worker.
pub fn suspects_after(
    q: &Query<'_>,
    queue: &str,
    after: JobId,
    limit: i64,
) -> Result<Vec<(JobId, Option<String>)>, Error> {
    q.all(
        states!(
            "SELECT id, limit_key FROM jobs WHERE queue = $1 AND state = {ready} AND crashes >= 2 AND id > $2
         ORDER BY id LIMIT $3"
        ),
        params![queue, after, limit],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

/// Returns true if a worker is already running a suspect.
pub fn has_suspect(q: &Query<'_>, queue: &str, worker: i64) -> Result<bool, Error> {
    let sql = states!(
        "SELECT 1 FROM jobs WHERE queue = $1 AND state = {running} AND worker = $2 AND crashes >= 2 LIMIT 1"
    );
    Ok(q.one(sql, params![queue, worker], |_| Ok(()))?.is_some())
}

pub fn running(q: &Query<'_>, queue: &str) -> Result<i64, Error> {
    let sql = states!("SELECT COUNT(*) FROM jobs WHERE queue = $1 AND state = {running}");
    Ok(q.one(sql, params![queue], |row| row.get(0))?.unwrap_or(0))
}

pub fn running_of_key(q: &Query<'_>, queue: &str, key: &str) -> Result<i64, Error> {
    let sql = states!("SELECT COUNT(*) FROM jobs WHERE queue = $1 AND state = {running} AND limit_key = $2");
    Ok(q.one(sql, params![queue, key], |row| row.get(0))?.unwrap_or(0))
}

pub fn promote(tx: &Tx<'_>, queue: &str, now: Timestamp, from: Timestamp, limit: i64) -> Result<u64, Error> {
    tx.exec_for_engine(&statements::PROMOTE, params![queue, now, from, limit])
}

/// Returns the time of the next scheduled job of a queue that is not before `from`.
pub fn next_due(q: &Query<'_>, queue: &str, from: Timestamp) -> Result<Option<Timestamp>, Error> {
    let sql =
        states!("SELECT MIN(run_at) FROM jobs WHERE queue = $1 AND state = {scheduled} AND run_at >= $2");
    Ok(q.one(sql, params![queue, from], |row| row.get::<Option<Timestamp>>(0))?.flatten())
}

/// State of a running job that decides how its attempt ends.
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

/// Locks a running job and returns its state, if the attempt is still owned.
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

/// Running job that an external program has claimed.
pub struct Leased {
    pub attempt: Attempt,
    pub worker: i64,
    pub is_cancel_requested: bool,
    pub queue: String,
}

/// Locks a running job that was claimed by an external program under this token, and returns it.
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

/// Returns true if a job of the queue is ready or running.
pub fn is_busy(q: &Query<'_>, queue: &str) -> Result<bool, Error> {
    // Each subquery uses its own index and follows its order; otherwise PostgreSQL expects to find a match
    // quickly by scanning the table.
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

/// Reschedules a running job. Returns false if the attempt is no longer owned.
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

/// Returns the time at which a job is due that was rescheduled after this attempt and not claimed since.
pub fn find_rescheduled(q: &Query<'_>, of: Attempt) -> Result<Option<Timestamp>, Error> {
    let sql = states!(
        "SELECT run_at FROM jobs WHERE id = $1 AND attempt = $2 AND claim_token = $3 AND state <> {running}"
    );
    q.one(sql, params![of.job, of.attempt, of.token.number()], |row| row.get(0))
}

/// Puts a claimed job that was not started back into the queue, unless its cancellation was requested.
/// Returns true if it did.
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

/// Returns the running jobs claimed under this token, with their workers.
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

/// Records a cancellation request, locks the job and returns its state.
pub fn request_cancel(tx: &Tx<'_>, id: JobId, now: Timestamp) -> Result<Option<JobState>, Error> {
    tx.one(
        "UPDATE jobs SET cancel_requested_at = COALESCE(cancel_requested_at, $2) WHERE id = $1 RETURNING state",
        params![id, now],
        |row| row.get(0),
    )
}

/// Locks a job and returns its state.
pub fn lock_job(tx: &Tx<'_>, id: JobId) -> Result<Option<JobState>, Error> {
    let sql = "UPDATE jobs SET started_at = started_at WHERE id = $1 RETURNING state";
    tx.one(sql, params![id], |row| row.get(0))
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

/// Returns the running jobs of `worker`.
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

/// Returns those of `attempts` that are not running, or are running under another claim.
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

/// Returns running jobs whose deadline was before `before`; their workers should have ended them.
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

/// Returns a live job.
pub fn find(q: &Query<'_>, id: JobId) -> Result<Option<JobRecord>, Error> {
    q.one(concat!("SELECT ", live_columns!(), ", payload FROM jobs WHERE id = $1"), params![id], |row| {
        let columns = &mut Columns::of(row);
        let live: LiveJob = columns.read()?;
        Ok(JobRecord { payload: columns.read()?, ..live.into() })
    })
}

/// Replaces payload, priority and time of a job with those of `job` unless it is running. Returns true if it
/// did.
pub fn replace(tx: &Tx<'_>, id: JobId, job: &NewJob, now: Timestamp) -> Result<bool, Error> {
    let run_at = job.run_at.unwrap_or(now).max(now);
    let changed = tx.exec(
        states!("UPDATE jobs SET payload = $2, priority = $3, run_at = $4, state = CASE WHEN state = {blocked} THEN {blocked} ELSE {scheduled} END
         WHERE id = $1 AND state IN ({ready}, {scheduled}, {blocked})"),
        params![id, job.payload, job.priority, run_at],
    )?;
    Ok(changed == 1)
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
