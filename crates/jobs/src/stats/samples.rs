//! Samples of the state of queues, which are stored regularly.

use std::time::Duration;

use kith_kernel::Timestamp;
use kith_store::{Columns, Error, FromRow as _, Query, Tx, params, row_columns};
use serde::Serialize;

use crate::rows::states;

/// Time for which minute rows and samples are stored.
const STATS_RETENTION: Duration = kith_kernel::days(2);

/// State of a queue at a point in time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QueueSample {
    /// Time of the sample.
    pub at: Timestamp,
    /// Queue.
    pub queue: String,
    /// Number of jobs waiting for a worker, including scheduled jobs that are due.
    pub ready: i64,
    /// Number of jobs waiting for their due time.
    pub scheduled: i64,
    /// Number of running jobs.
    pub running: i64,
    /// Number of jobs waiting for other jobs.
    pub blocked: i64,
    /// Number of dead letters.
    pub dead: i64,
    /// Due time of the oldest job that waits for a worker.
    pub oldest_ready_at: Option<Timestamp>,
}

impl QueueSample {
    /// Returns a sample of an empty queue.
    pub fn empty(queue: &str) -> Self {
        Self {
            at: Timestamp::EPOCH,
            queue: queue.to_owned(),
            ready: 0,
            scheduled: 0,
            running: 0,
            blocked: 0,
            dead: 0,
            oldest_ready_at: None,
        }
    }
}

row_columns! {
    sample_columns => QueueSample {
        queue = "queue",
        ready = "ready",
        scheduled = "scheduled",
        running = "running",
        blocked = "blocked",
        dead = "dead",
        oldest_ready_at = "oldest_ready_at";
        at = Timestamp::EPOCH
    }
}

/// Returns a sample of each queue that has jobs or dead letters.
///
/// # Errors
/// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
pub fn sample_queues(q: &Query<'_>, now: Timestamp) -> Result<Vec<QueueSample>, Error> {
    q.all(
        states!("SELECT queue, CAST(SUM(ready) AS BIGINT), CAST(SUM(scheduled) AS BIGINT), CAST(SUM(running) AS BIGINT),
             CAST(SUM(blocked) AS BIGINT), CAST(SUM(dead) AS BIGINT), MIN(oldest)
         FROM (
             SELECT queue, COUNT(*) AS ready, 0 AS scheduled, 0 AS running, 0 AS blocked, 0 AS dead, MIN(run_at) AS oldest
                 FROM jobs WHERE state = {ready} GROUP BY queue
             UNION ALL
             SELECT queue, COUNT(*), 0, 0, 0, 0, MIN(run_at) FROM jobs WHERE state = {scheduled} AND run_at <= $1 GROUP BY queue
             UNION ALL
             SELECT queue, 0, COUNT(*), 0, 0, 0, NULL FROM jobs WHERE state = {scheduled} AND run_at > $1 GROUP BY queue
             UNION ALL
             SELECT queue, 0, 0, COUNT(*), 0, 0, NULL FROM jobs WHERE state = {running} GROUP BY queue
             UNION ALL
             SELECT queue, 0, 0, 0, COUNT(*), 0, NULL FROM jobs WHERE state = {blocked} GROUP BY queue
             UNION ALL
             SELECT queue, 0, 0, 0, 0, COUNT(*), NULL FROM job_dead_letters GROUP BY queue) AS counted
         GROUP BY queue ORDER BY queue"),
        params![now],
        |row| Ok(QueueSample { at: now, ..QueueSample::read_row(row)? }),
    )
}

/// Stores samples, unless a node has stored samples less than `every` ago. Returns true if they were stored.
/// Then also deletes samples and minute rows older than [`STATS_RETENTION`].
pub(crate) fn store_samples(
    tx: &Tx<'_>,
    samples: &[QueueSample],
    now: Timestamp,
    every: Duration,
) -> Result<bool, Error> {
    tx.lock("job maintenance", ["samples"])?;
    let last = tx
        .one("SELECT MAX(at) FROM job_queue_samples", &[], |row| row.get::<Option<Timestamp>>(0))?
        .flatten();
    if last.is_some_and(|last| last <= now && now < last + every) {
        return Ok(false);
    }
    for one in samples {
        tx.exec(
            "INSERT INTO job_queue_samples (at, queue, ready, scheduled, running, blocked, dead, oldest_ready_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING",
            params![
                now,
                one.queue,
                one.ready,
                one.scheduled,
                one.running,
                one.blocked,
                one.dead,
                one.oldest_ready_at
            ],
        )?;
    }
    tx.exec("DELETE FROM job_queue_samples WHERE at < $1", params![now - STATS_RETENTION])?;
    tx.exec("DELETE FROM job_minutes WHERE minute < $1", params![now - STATS_RETENTION])?;
    Ok(true)
}

/// Returns up to `limit` samples of a queue since `since`, oldest first.
///
/// # Errors
/// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
pub fn list_samples(
    q: &Query<'_>,
    queue: &str,
    since: Timestamp,
    limit: i64,
) -> Result<Vec<QueueSample>, Error> {
    q.all(
        concat!(
            "SELECT ",
            sample_columns!(),
            ", at FROM job_queue_samples WHERE queue = $1 AND at >= $2 ORDER BY at LIMIT $3"
        ),
        params![queue, since, limit],
        |row| {
            let columns = &mut Columns::of(row);
            let sample: QueueSample = columns.read()?;
            Ok(QueueSample { at: columns.read()?, ..sample })
        },
    )
}
