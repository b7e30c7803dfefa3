//! SQL for claiming ready jobs, with limits per key and suspects, and for scheduled jobs that become ready.

use kith_kernel::Timestamp;
use kith_store::{Bulk, Error, Query, Row, Tx, Values, params};

use super::statements;
use crate::model::{ClaimToken, ClaimedJob, JobId, MAX_PRIORITY};
use crate::retry::RetryPolicy;

/// Worker and fencing token of a claim.
#[derive(Clone, Copy, Debug)]
pub struct Claimer {
    pub worker: i64,
    pub token: ClaimToken,
    /// Start time of the attempts, from which their timeouts are counted, if they start immediately. `None`
    /// for workers of this process: they claim jobs in advance and record the deadlines later.
    pub begins_at: Option<Timestamp>,
}

/// Result of the claim statement: the claimed jobs, and how far the queue was read.
#[derive(Default)]
pub struct Page {
    pub jobs: Vec<ClaimedJob>,
    /// Id of the oldest running transaction, which can still make a job ready; 0 on SQLite.
    pub oldest: i64,
    /// Number of ready jobs found, up to the limit of the claim.
    pub found: i64,
    /// Number of jobs picked from the found jobs; less than `found` if the payloads are large in total. Jobs
    /// that another transaction changed before they were locked are counted, but are not in `jobs`.
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
        // JSON text is never empty. An empty payload means that the statement did not return it; it is read
        // separately.
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

/// Returns up to `limit` ready jobs without a limit key, in the order of claims. Used for queues with limits
/// per key.
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

/// Returns up to `limit` limit keys after `after` that have ready jobs, and the number of running jobs of
/// each key.
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

/// Returns up to `limit` suspects with ids after `after`, oldest first, with their limit keys. A suspect is a
/// ready job whose worker died during its last two attempts.
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

/// Returns the earliest time of the scheduled jobs of a queue that is not before `from`.
pub fn next_due(q: &Query<'_>, queue: &str, from: Timestamp) -> Result<Option<Timestamp>, Error> {
    let sql =
        states!("SELECT MIN(run_at) FROM jobs WHERE queue = $1 AND state = {scheduled} AND run_at >= $2");
    Ok(q.one(sql, params![queue, from], |row| row.get::<Option<Timestamp>>(0))?.flatten())
}
