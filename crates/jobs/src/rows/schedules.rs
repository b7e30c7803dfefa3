//! SQL for schedules and their occurrences.

use kith_kernel::Timestamp;
use kith_store::{Column, Error, FromRow as _, Query, Row, Tx, params, row_columns};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::model::JobId;
use crate::schedules::{Missed, Occurrence, Origin, Overlap, Plan, Schedule};

/// Maximum number of occurrences stored per schedule. Occurrences whose job has not ended are stored in
/// addition.
const MAX_OCCURRENCES: i64 = 1_000;

row_columns! {
    plan_columns => Plan {
        queue = "queue",
        kind = "kind",
        payload = "payload",
        priority = "priority",
        retry = "max_attempts, retry",
        timeout = "timeout_ms",
        schedule = "schedule",
        zone = "zone",
        missed = "missed",
        missed_cap = "missed_cap",
        overlap = "overlap",
        jitter = "jitter_ms",
        starts_at = "starts_at",
        ends_at = "ends_at"
    }
}

row_columns! {
    schedule_columns => Schedule {
        name = "name",
        owner = "owner",
        is_declared = "is_declared",
        plan = plan_columns!(),
        anchor_at = "anchor_at",
        paused = "paused",
        next_run_at = "next_run_at",
        last_run_at = "last_run_at",
        decided_until = "decided_until",
        revision = "revision",
        created_at = "created_at",
        updated_at = "updated_at"
    }
}

row_columns! {
    occurrence_columns => Occurrence { at = "at", origin = "origin", job = "job", decided_at = "decided_at" }
}

macro_rules! word_columns {
    ($($type:ty),+) => {$(
        impl Column for $type {
            fn from_row(row: &Row<'_>, at: usize) -> Result<Self, Error> {
                from_name(&row.get::<String>(at)?)
            }
        }
    )+};
}

word_columns!(Missed, Overlap, Origin);

/// Returns the names of up to `limit` schedules after `after` that must be processed: their next run is due,
/// or `decided_until` is after `future`. The second case occurs only if the clock was set back.
pub fn list_due(
    q: &Query<'_>,
    now: Timestamp,
    future: Timestamp,
    after: &str,
    limit: i64,
) -> Result<Vec<String>, Error> {
    q.all(
        "SELECT name FROM job_schedules WHERE NOT paused AND next_run_at <= $1 AND name > $3
         UNION SELECT name FROM job_schedules WHERE NOT paused AND decided_until > $2 AND name > $3
         ORDER BY 1 LIMIT $4",
        params![now, future, after, limit],
        |row| row.get(0),
    )
}

/// Returns the time of the earliest next occurrence of all schedules that are not paused.
pub fn next_of_all(q: &Query<'_>) -> Result<Option<Timestamp>, Error> {
    let sql = "SELECT MIN(next_run_at) FROM job_schedules WHERE NOT paused";
    Ok(q.one(sql, &[], |row| row.get(0))?.flatten())
}

pub fn find(q: &Query<'_>, name: &str) -> Result<Option<Schedule>, Error> {
    q.one(
        concat!("SELECT ", schedule_columns!(), " FROM job_schedules WHERE name = $1"),
        params![name],
        Schedule::read_row,
    )
}

/// Returns up to `limit` schedules that match the filter, ordered by name, with names after `filter.after`.
pub fn list(
    q: &Query<'_>,
    filter: &crate::schedules::ScheduleFilter,
    limit: i64,
) -> Result<Vec<Schedule>, Error> {
    q.all(
        concat!(
            "SELECT ",
            schedule_columns!(),
            " FROM job_schedules
         WHERE name > $1 AND (CAST($2 AS TEXT) IS NULL OR queue = $2) AND (CAST($3 AS TEXT) IS NULL OR kind = $3)
           AND (CAST($4 AS BOOLEAN) IS NULL OR paused = $4) AND (CAST($5 AS TEXT) IS NULL OR owner = $5)
           AND (CAST($6 AS BOOLEAN) IS NULL OR is_declared = $6)
         ORDER BY name LIMIT $7"
        ),
        params![
            filter.after.as_deref().unwrap_or(""),
            filter.queue,
            filter.kind,
            filter.paused,
            filter.owner,
            filter.is_declared,
            limit
        ],
        Schedule::read_row,
    )
}

pub fn count(q: &Query<'_>) -> Result<i64, Error> {
    Ok(q.one("SELECT COUNT(*) FROM job_schedules", &[], |row| row.get(0))?.unwrap_or(0))
}

/// Inserts a schedule. Returns false if a schedule with this name exists.
pub fn insert(tx: &Tx<'_>, one: &Schedule) -> Result<bool, Error> {
    let plan = &one.plan;
    let added = tx.exec(
        "INSERT INTO job_schedules (name, owner, is_declared, queue, kind, payload, priority, max_attempts, retry,
             timeout_ms, schedule, zone, missed, missed_cap, overlap, jitter_ms, starts_at, ends_at, anchor_at, paused,
             next_run_at, last_run_at, decided_until, revision, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23,
             $24, $25, $26)
         ON CONFLICT (name) DO NOTHING",
        params![
            one.name,
            one.owner,
            one.is_declared,
            plan.queue,
            plan.kind,
            plan.payload,
            plan.priority,
            plan.retry.max_attempts,
            plan.retry.to_stored(),
            ms(plan.timeout),
            plan.schedule,
            plan.zone,
            to_name(&plan.missed),
            plan.missed_cap,
            to_name(&plan.overlap),
            ms(plan.jitter),
            plan.starts_at,
            plan.ends_at,
            one.anchor_at,
            one.paused,
            one.next_run_at,
            one.last_run_at,
            one.decided_until,
            one.revision,
            one.created_at,
            one.updated_at
        ],
    )?;
    Ok(added == 1)
}

/// Updates a schedule, except for its progress (`next_run_at`, `last_run_at` and `decided_until`).
pub fn update(tx: &Tx<'_>, one: &Schedule) -> Result<(), Error> {
    let plan = &one.plan;
    tx.exec(
        "UPDATE job_schedules SET owner = $2, queue = $3, kind = $4, payload = $5, priority = $6, max_attempts = $7,
             retry = $8, timeout_ms = $9, schedule = $10, zone = $11, missed = $12, missed_cap = $13, overlap = $14,
             jitter_ms = $15, starts_at = $16, ends_at = $17, anchor_at = $18, paused = $19, revision = $20,
             updated_at = $21
         WHERE name = $1",
        params![
            one.name,
            one.owner,
            plan.queue,
            plan.kind,
            plan.payload,
            plan.priority,
            plan.retry.max_attempts,
            plan.retry.to_stored(),
            ms(plan.timeout),
            plan.schedule,
            plan.zone,
            to_name(&plan.missed),
            plan.missed_cap,
            to_name(&plan.overlap),
            ms(plan.jitter),
            plan.starts_at,
            plan.ends_at,
            one.anchor_at,
            one.paused,
            one.revision,
            one.updated_at
        ],
    )?;
    Ok(())
}

/// Updates the progress of a schedule if it is the same as in `before`. Returns false if another node has
/// changed it.
pub fn advance_progress(tx: &Tx<'_>, before: &Schedule, after: &Schedule) -> Result<bool, Error> {
    let changed = tx.exec(
        "UPDATE job_schedules SET next_run_at = $2, last_run_at = $3, decided_until = $4
         WHERE name = $1 AND decided_until = $5 AND COALESCE(next_run_at, -1) = $6",
        params![
            before.name,
            after.next_run_at,
            after.last_run_at,
            after.decided_until,
            before.decided_until,
            before.next_run_at.map_or(-1, Timestamp::as_millis)
        ],
    )?;
    Ok(changed == 1)
}

pub fn delete(tx: &Tx<'_>, name: &str) -> Result<(), Error> {
    tx.exec("DELETE FROM job_occurrences WHERE schedule = $1", params![name])?;
    tx.exec("DELETE FROM job_schedules WHERE name = $1", params![name])?;
    Ok(())
}

/// Inserts an occurrence. Returns false if the schedule already has an occurrence at this time.
pub fn insert_occurrence(
    tx: &Tx<'_>,
    name: &str,
    at: Timestamp,
    origin: Origin,
    now: Timestamp,
) -> Result<bool, Error> {
    let taken = tx.exec(
        "INSERT INTO job_occurrences (schedule, at, origin, decided_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (schedule, at) DO NOTHING",
        params![name, at, to_name(&origin), now],
    )?;
    Ok(taken == 1)
}

pub fn set_job(tx: &Tx<'_>, name: &str, at: Timestamp, job: JobId) -> Result<(), Error> {
    let sql = "UPDATE job_occurrences SET job = $3 WHERE schedule = $1 AND at = $2";
    tx.exec(sql, params![name, at, job])?;
    Ok(())
}

/// Returns up to `limit` jobs of a schedule that have not ended, latest occurrence first.
pub fn list_live(q: &Query<'_>, name: &str, limit: i64) -> Result<Vec<JobId>, Error> {
    q.all(
        "SELECT o.job FROM job_occurrences o JOIN jobs j ON j.id = o.job
         WHERE o.schedule = $1 AND o.job IS NOT NULL ORDER BY o.at DESC LIMIT $2",
        params![name, limit],
        |row| row.get(0),
    )
}

/// Returns up to `limit` occurrences of a schedule before `before`, latest first.
pub fn list_occurrences(
    q: &Query<'_>,
    name: &str,
    before: Timestamp,
    limit: i64,
) -> Result<Vec<Occurrence>, Error> {
    q.all(
        concat!(
            "SELECT ",
            occurrence_columns!(),
            " FROM job_occurrences WHERE schedule = $1 AND at < $2 ORDER BY at DESC LIMIT $3"
        ),
        params![name, before, limit],
        Occurrence::read_row,
    )
}

/// Deletes all but the latest 1,000 occurrences of a schedule. Occurrences whose job has not ended are not
/// deleted.
pub fn delete_expired(tx: &Tx<'_>, name: &str) -> Result<(), Error> {
    tx.exec(
        "DELETE FROM job_occurrences
         WHERE schedule = $1
           AND at < (SELECT at FROM job_occurrences WHERE schedule = $1 ORDER BY at DESC LIMIT 1 OFFSET $2)
           AND (SELECT j.id FROM jobs j WHERE j.id = job_occurrences.job) IS NULL",
        params![name, MAX_OCCURRENCES - 1],
    )?;
    Ok(())
}

fn ms(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Returns the serialized name of a unit variant.
fn to_name<T: Serialize>(value: &T) -> String {
    let word = serde_json::to_value(value).ok();
    word.as_ref().and_then(|word| word.as_str()).unwrap_or_default().to_owned()
}

fn from_name<T: DeserializeOwned>(word: &str) -> Result<T, Error> {
    serde_json::from_value(word.into())
        .map_err(|_| Error::fault(format!("a schedule has the unknown value {word:?}")))
}
