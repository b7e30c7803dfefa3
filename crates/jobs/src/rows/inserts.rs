//! SQL for enqueuing jobs, and for replacing the payload of a waiting job.

use kith_kernel::Timestamp;
use kith_store::{Error, Tx, Values, params};

use super::statements;
use crate::model::{JobId, JobState};
use crate::new_job::NewJob;

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

/// Returns the initial state of a job that has no dependencies.
pub fn state_at(job: &NewJob, now: Timestamp) -> JobState {
    if job.run_at.is_some_and(|at| at > now) { JobState::Scheduled } else { JobState::Ready }
}

fn timeout_ms(job: &NewJob) -> i64 {
    i64::try_from(job.timeout.as_millis()).unwrap_or(i64::MAX / 4).min(i64::MAX / 4)
}

/// Replaces the payload, the priority and the time of a job with those of `job`, unless it is running.
/// Returns true if they were replaced.
pub fn replace(tx: &Tx<'_>, id: JobId, job: &NewJob, now: Timestamp) -> Result<bool, Error> {
    let run_at = job.run_at.unwrap_or(now).max(now);
    let changed = tx.exec(
        states!("UPDATE jobs SET payload = $2, priority = $3, run_at = $4, state = CASE WHEN state = {blocked} THEN {blocked} ELSE {scheduled} END
         WHERE id = $1 AND state IN ({ready}, {scheduled}, {blocked})"),
        params![id, job.payload, job.priority, run_at],
    )?;
    Ok(changed == 1)
}
