//! Looking at schedules and their runs.

use kith_kernel::Timestamp;
use kith_store::{Error, Query};

use super::model::{Occurrence, Schedule};
use crate::model::JobRecord;
use crate::rows::schedules as rows;

/// Which schedules to list.
#[derive(Clone, Debug, Default)]
pub struct ScheduleFilter {
    /// Those behind this name.
    pub after: Option<String>,
    /// Of which queue.
    pub queue: Option<String>,
    /// Of which kind of job.
    pub kind: Option<String>,
    /// Paused ones, or those that are not.
    pub paused: Option<bool>,
    /// Whose.
    pub owner: Option<String>,
    /// Those that the code declares, or the others.
    pub is_declared: Option<bool>,
}

/// A schedule.
///
/// # Errors
/// The database's.
pub fn find_schedule(q: &Query<'_>, name: &str) -> Result<Option<Schedule>, Error> {
    rows::find(q, name)
}

/// At most `most` schedules, by name.
///
/// # Errors
/// The database's.
pub fn list_schedules(q: &Query<'_>, filter: &ScheduleFilter, most: i64) -> Result<Vec<Schedule>, Error> {
    rows::list(q, filter, most)
}

/// Occurrences of a schedule before `before`, the latest first, each with its job as far as that is still known.
///
/// # Errors
/// The database's.
pub fn list_runs(
    q: &Query<'_>,
    name: &str,
    before: Timestamp,
    most: i64,
) -> Result<Vec<(Occurrence, Option<JobRecord>)>, Error> {
    let occurrences = rows::list_occurrences(q, name, before, most)?;
    let with_job = |one: Occurrence| {
        let job = one.job.map(|job| crate::look::find_job(q, job)).transpose()?.flatten();
        Ok((one, job))
    };
    occurrences.into_iter().map(with_job).collect()
}
