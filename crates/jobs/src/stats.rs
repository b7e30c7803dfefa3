//! Statistics: counts of this process, written to a row per minute at intervals, and samples of the queues.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kith_kernel::Timestamp;
use kith_store::{Columns, Error, FromRow as _, Query, Tx, Values, params, row_columns};
use serde::Serialize;

use crate::finish::ReportOutcome;
use crate::model::JobState;
use crate::rows::{statements, states};

/// Retention of minute rows and samples.
pub(crate) const STATS_RETENTION: Duration = kith_kernel::days(2);
/// Upper bounds of the duration buckets, in milliseconds.
pub const DURATION_BUCKETS_MS: [u64; 12] =
    [1, 5, 10, 50, 100, 500, 1_000, 5_000, 15_000, 60_000, 300_000, 3_600_000];

/// Maximum number of queue and kind pairs counted separately. Clients choose the names, so the number must be
/// bounded.
const MAX_KINDS: usize = 1_000;
/// Name under which all others are counted.
const OTHER: &str = "(other)";

/// Counts for jobs of one kind in one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct JobCounts {
    /// Attempts started.
    pub started: i64,
    /// Jobs completed.
    pub completed: i64,
    /// Attempts failed.
    pub failed: i64,
    /// Jobs moved to the dead letters.
    pub dead: i64,
    /// Running jobs cancelled.
    pub cancelled: i64,
    /// Total duration of the attempts in milliseconds.
    pub run_ms: i64,
    /// Total time in milliseconds between the time at which jobs were due and their claim.
    pub wait_ms: i64,
    /// Longest attempt in milliseconds.
    pub longest_ms: i64,
}

/// Counts since the start of this process, with durations by bucket.
#[derive(Clone, Debug, Default)]
pub struct JobTotals {
    /// Counts.
    pub counts: JobCounts,
    /// Attempts by duration; the last bucket has no upper bound.
    pub durations: [u64; DURATION_BUCKETS_MS.len() + 1],
}

/// Counts of this process.
#[derive(Debug, Default)]
pub(crate) struct JobCounters {
    all: Mutex<HashMap<(String, String), Counted>>,
}

#[derive(Debug, Default)]
struct Counted {
    total: JobTotals,
    unwritten: JobCounts,
}

impl JobCounts {
    fn add(&mut self, other: Self) {
        self.started += other.started;
        self.completed += other.completed;
        self.failed += other.failed;
        self.dead += other.dead;
        self.cancelled += other.cancelled;
        self.run_ms += other.run_ms;
        self.wait_ms += other.wait_ms;
        self.longest_ms = self.longest_ms.max(other.longest_ms);
    }
}

impl JobCounters {
    /// Adds to the counts of a job. `took` is the duration of the attempt, if one ended.
    pub fn record(&self, queue: &str, kind: &str, counts: JobCounts, took: Option<Duration>) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = (queue.to_owned(), kind.to_owned());
        if all.len() >= MAX_KINDS && !all.contains_key(&key) {
            key = (OTHER.to_owned(), OTHER.to_owned());
        }
        let counted = all.entry(key).or_default();
        let mut counts = counts;
        if let Some(took) = took {
            let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            counts.run_ms = i64::try_from(ms).unwrap_or(i64::MAX / 4);
            counts.longest_ms = counts.run_ms;
            counted.total.durations[DURATION_BUCKETS_MS.partition_point(|bound| *bound < ms)] += 1;
        }
        counted.total.counts.add(counts);
        counted.unwritten.add(counts);
    }

    /// Counts the end of an attempt.
    pub fn record_outcome(
        &self,
        queue: &str,
        kind: &str,
        outcome: &ReportOutcome,
        is_snooze: bool,
        took: Duration,
    ) {
        let counts = match outcome {
            ReportOutcome::Stale => return,
            ReportOutcome::Finished(JobState::Completed) => {
                JobCounts { completed: 1, ..JobCounts::default() }
            }
            ReportOutcome::Finished(JobState::Cancelled) => {
                JobCounts { cancelled: 1, ..JobCounts::default() }
            }
            ReportOutcome::Finished(_) => JobCounts { failed: 1, dead: 1, ..JobCounts::default() },
            ReportOutcome::Rescheduled(_) if is_snooze => JobCounts::default(),
            ReportOutcome::Rescheduled(_) => JobCounts { failed: 1, ..JobCounts::default() },
        };
        self.record(queue, kind, counts, Some(took));
    }

    pub fn totals(&self) -> Vec<(String, String, JobTotals)> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let mut totals: Vec<_> =
            all.iter().map(|((queue, kind), one)| (queue.clone(), kind.clone(), one.total.clone())).collect();
        totals.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        totals
    }

    /// Takes the counts that are not in the database yet. They count as written from now on.
    pub fn take_unwritten(&self) -> Vec<(String, String, JobCounts)> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let take = |((queue, kind), one): (&(String, String), &mut Counted)| {
            let counts = std::mem::take(&mut one.unwritten);
            (counts != JobCounts::default()).then(|| (queue.clone(), kind.clone(), counts))
        };
        let mut taken: Vec<_> = all.iter_mut().filter_map(take).collect();
        // All nodes write in the same order, so that they do not deadlock.
        taken.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        taken
    }

    /// Returns counts that could not be written.
    pub fn return_to_queue(&self, unwritten: Vec<(String, String, JobCounts)>) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        for (queue, kind, counts) in unwritten {
            all.entry((queue, kind)).or_default().unwritten.add(counts);
        }
    }
}

/// Adds counts to the rows of their minute.
pub(crate) fn write(
    tx: &Tx<'_>,
    now: Timestamp,
    unwritten: &[(String, String, JobCounts)],
) -> Result<(), Error> {
    let minute = now.as_millis() / 60_000 * 60_000;
    let minutes = vec![minute; unwritten.len()];
    let queues: Vec<_> = unwritten.iter().map(|(queue, ..)| &**queue).collect();
    let kinds: Vec<_> = unwritten.iter().map(|(_, kind, _)| &**kind).collect();
    let column =
        |pick: fn(&JobCounts) -> i64| unwritten.iter().map(|(.., counts)| pick(counts)).collect::<Vec<_>>();
    let columns = [
        column(|counts| counts.started),
        column(|counts| counts.completed),
        column(|counts| counts.failed),
        column(|counts| counts.dead),
        column(|counts| counts.cancelled),
        column(|counts| counts.run_ms),
        column(|counts| counts.wait_ms),
        column(|counts| counts.longest_ms),
    ];
    let mut values = vec![Values::Ints(&minutes), Values::Texts(&queues), Values::Texts(&kinds)];
    values.extend(columns.iter().map(|column| Values::Ints(column)));
    tx.bulk(&statements::COUNT, &[], &values, |_| Ok(()))?;
    Ok(())
}

/// State of a queue at a point in time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QueueSample {
    /// Time of the sample.
    pub at: Timestamp,
    /// Queue.
    pub queue: String,
    /// Number of jobs waiting for a worker, including scheduled jobs that are due.
    pub ready: i64,
    /// Number of jobs waiting for their time.
    pub scheduled: i64,
    /// Number of running jobs.
    pub running: i64,
    /// Number of jobs waiting for other jobs.
    pub blocked: i64,
    /// Number of dead letters.
    pub dead: i64,
    /// Time at which the oldest runnable job was due.
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

/// Samples all queues that have jobs or dead letters.
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

/// Stores samples, unless a node has done so less than `every` ago. Returns true if they were stored. Also
/// deletes samples and minute rows older than [`STATS_RETENTION`].
pub(crate) fn keep(
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

/// Counts for jobs of one kind in one queue during one minute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Minute {
    /// Start of the minute.
    pub minute: Timestamp,
    /// Queue.
    pub queue: String,
    /// Kind.
    pub kind: String,
    /// Counts.
    #[serde(flatten)]
    pub counts: JobCounts,
}

row_columns! {
    count_columns => JobCounts {
        started = "started",
        completed = "completed",
        failed = "failed",
        dead = "dead",
        cancelled = "cancelled",
        run_ms = "run_ms",
        wait_ms = "wait_ms",
        longest_ms = "longest_ms"
    }
}

row_columns! {
    minute_columns => Minute { minute = "minute", queue = "queue", kind = "kind", counts = count_columns!() }
}

/// Returns up to `limit` minute rows since `since`, optionally of one queue only.
///
/// # Errors
/// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
pub fn list_minutes(
    q: &Query<'_>,
    queue: Option<&str>,
    since: Timestamp,
    limit: i64,
) -> Result<Vec<Minute>, Error> {
    q.all(
        concat!(
            "SELECT ",
            minute_columns!(),
            " FROM job_minutes WHERE minute >= $2 AND (CAST($1 AS TEXT) IS NULL OR queue = $1)
              ORDER BY minute, queue, kind LIMIT $3"
        ),
        params![queue, since, limit],
        Minute::read_row,
    )
}

/// Summary of the jobs of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KindSummary {
    /// Kind.
    pub kind: String,
    /// Start of the last minute in which a job completed.
    pub last_completed_minute: Option<Timestamp>,
    /// Attempts failed.
    pub failed: i64,
    /// Jobs moved to the dead letters.
    pub dead: i64,
}

/// Returns a summary per kind of the jobs of a queue since `since`.
///
/// # Errors
/// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
pub fn list_kind_summaries(q: &Query<'_>, queue: &str, since: Timestamp) -> Result<Vec<KindSummary>, Error> {
    q.all(
        "SELECT kind, MAX(CASE WHEN completed > 0 THEN minute END), CAST(SUM(failed) AS BIGINT),
             CAST(SUM(dead) AS BIGINT)
         FROM job_minutes WHERE queue = $1 AND minute >= $2 GROUP BY kind ORDER BY kind",
        params![queue, since],
        |row| {
            Ok(KindSummary {
                kind: row.get(0)?,
                last_completed_minute: row.get(1)?,
                failed: row.get(2)?,
                dead: row.get(3)?,
            })
        },
    )
}
