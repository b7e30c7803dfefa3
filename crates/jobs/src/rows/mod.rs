//! SQL of the job engine. `statements` holds the statements with a separate text for each database.

pub mod ended;
pub mod live;
pub mod queues;
pub mod schedules;
pub mod statements;
pub mod waits;
pub mod workers;

use std::time::Duration;

use kith_store::{Error, Row, Tx, params};

use crate::model::{Failure, JobRecord, JobState};
use crate::retry::Retry;

/// Reads a job from the columns `id, queue, kind, state, priority, run_at, payload, attempt, failures,
/// max_attempts, timeout_ms, retry, limit_key, started_at, finished_at, result, errors, source, created_at`.
pub fn read_record(row: &Row<'_>) -> Result<JobRecord, Error> {
    Ok(JobRecord {
        id: row.get(0)?,
        queue: row.get(1)?,
        kind: row.get(2)?,
        state: JobState::from_number(row.get(3)?)?,
        priority: row.get(4)?,
        run_at: row.get(5)?,
        payload: row.get(6)?,
        attempt: row.get(7)?,
        failures: row.get(8)?,
        retry: Retry::read(row.get(9)?, row.get::<Option<String>>(11)?.as_deref()),
        timeout: millis(row.get(10)?),
        limit_key: row.get(12)?,
        started_at: row.get(13)?,
        finished_at: row.get(14)?,
        result: row.get(15)?,
        errors: read_errors(row.get::<Option<String>>(16)?.as_deref()),
        source: row.get(17)?,
        created_at: row.get(18)?,
        progress: None,
        waiting_for: 0,
        cancel_asked_at: None,
    })
}

/// Sets the lock timeout of the following statements of the transaction (PostgreSQL). A statement that waits
/// longer fails with [`Error::DeadlinePassed`].
pub fn limit_lock_waits(tx: &Tx<'_>, wait: Duration) -> Result<(), Error> {
    let wait = format!("{}ms", wait.as_millis());
    tx.all_by(&statements::LIMIT_LOCK_WAITS, params![wait], &[], |_| Ok(())).map(drop)
}

pub fn millis(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

/// Parses stored failures. Returns none if the text cannot be parsed.
pub fn read_errors(text: Option<&str>) -> Vec<Failure> {
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}
