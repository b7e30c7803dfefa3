//! Counts of all processes by minute, queue and kind.

use kith_kernel::Timestamp;
use kith_store::{Error, FromRow as _, Query, Tx, Values, params, row_columns};
use serde::Serialize;

use super::counters::JobCounts;
use crate::rows::statements;

/// Adds counts to the rows of the current minute.
pub(crate) fn write_counts(
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

/// Returns up to `limit` rows of minutes since `since`, optionally only those of one queue.
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
    /// Number of attempts failed.
    pub failed: i64,
    /// Number of jobs moved to the dead letters.
    pub dead: i64,
}

/// Returns one summary per kind for the jobs of a queue since `since`.
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
