//! SQL of the job engine. The module `statements` contains the statements that differ between the databases.

/// Expands to SQL in which each name of a state in braces, such as `{running}`, is replaced by its number.
/// The numbers are not parameters, because the databases use a partial index only if the state in the
/// condition is constant.
macro_rules! states {
    ($sql:expr) => {
        kith_store::named_sql!(&$crate::model::JobState::NUMBERS, $sql)
    };
}
pub(crate) use states;

row_columns! {
    record_columns => JobRecord (errors: Option<String> = "errors") {
        id = "id",
        queue = "queue",
        kind = "kind",
        state = "state",
        priority = "priority",
        run_at = "run_at",
        attempt = "attempt",
        failures = "failures",
        retry = "max_attempts, retry",
        timeout = "timeout_ms",
        limit_key = "limit_key",
        started_at = "started_at",
        source = "source",
        created_at = "created_at";
        errors = read_errors(errors.as_deref());
        payload = String::new();
        finished_at = None;
        result = None;
        progress = None;
        pending_dependencies = 0;
        cancel_requested_at = None
    }
}

pub mod attempts;
pub mod claims;
pub mod dependencies;
pub mod ended;
pub mod inserts;
pub mod live;
pub mod queues;
pub mod releases;
pub mod schedules;
pub mod statements;
pub mod workers;

use std::time::Duration;

use kith_store::{Column, Columns, Error, FromRow, Row, Tx, params, row_columns};

use crate::model::{Failure, JobRecord, JobState};
use crate::retry::RetryPolicy;

/// Reads a job that has ended from the columns of `record_columns!` followed by `finished_at`.
pub fn read_ended(row: &Row<'_>) -> Result<JobRecord, Error> {
    read_ended_from(&mut Columns::of(row))
}

fn read_ended_from(columns: &mut Columns<'_, '_>) -> Result<JobRecord, Error> {
    let record: JobRecord = columns.read()?;
    Ok(JobRecord { finished_at: columns.read()?, ..record })
}

impl Column for JobState {
    fn from_row(row: &Row<'_>, at: usize) -> Result<Self, Error> {
        Self::from_number(row.get(at)?)
    }
}

impl FromRow for RetryPolicy {
    /// Reads the columns `max_attempts` and `retry`.
    fn from_columns(columns: &mut Columns<'_, '_>) -> Result<Self, Error> {
        let (max_attempts, written): (i64, Option<String>) = (columns.read()?, columns.read()?);
        Ok(Self::read(max_attempts, written.as_deref()))
    }
}

/// Sets the lock timeout for the following statements of the transaction (PostgreSQL only). A statement that
/// waits longer for a lock fails with [`Error::DeadlinePassed`].
pub fn set_lock_timeout(tx: &Tx<'_>, wait: Duration) -> Result<(), Error> {
    let wait = format!("{}ms", wait.as_millis());
    tx.all_for_engine(&statements::SET_LOCK_TIMEOUT, params![wait], &[], |_| Ok(())).map(drop)
}

/// Parses stored failures. Returns an empty list if there are none or the text cannot be parsed.
pub fn read_errors(text: Option<&str>) -> Vec<Failure> {
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}
