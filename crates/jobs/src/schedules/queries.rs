//! Queries on schedules and their runs.

use kith_kernel::Timestamp;
use kith_store::{Error, Query};

use super::model::{Occurrence, Schedule};
use crate::model::JobRecord;
use crate::rows::schedules as rows;

/// Conditions on schedules. An absent condition matches every schedule.
#[derive(Clone, Debug, Default)]
pub struct ScheduleFilter {
    /// Lower bound of the name, exclusive, for paging.
    pub after: Option<String>,
    /// Queue.
    pub queue: Option<String>,
    /// Kind of the jobs.
    pub kind: Option<String>,
    /// Paused schedules if true, others if false.
    pub paused: Option<bool>,
    /// Owner.
    pub owner: Option<String>,
    /// Schedules declared in code if true, others if false.
    pub is_declared: Option<bool>,
}

/// Returns a schedule.
///
/// # Errors
/// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
pub fn find_schedule(q: &Query<'_>, name: &str) -> Result<Option<Schedule>, Error> {
    rows::find(q, name)
}

/// Returns up to `limit` schedules, by name.
///
/// # Errors
/// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
pub fn list_schedules(q: &Query<'_>, filter: &ScheduleFilter, limit: i64) -> Result<Vec<Schedule>, Error> {
    rows::list(q, filter, limit)
}

/// Returns occurrences of a schedule before `before`, latest first, each with its job if that still exists.
///
/// # Errors
/// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
pub fn list_runs(
    q: &Query<'_>,
    name: &str,
    before: Timestamp,
    limit: i64,
) -> Result<Vec<(Occurrence, Option<JobRecord>)>, Error> {
    let occurrences = rows::list_occurrences(q, name, before, limit)?;
    let with_job = |one: Occurrence| {
        let job = one.job.map(|job| crate::queries::find_job(q, job)).transpose()?.flatten();
        Ok((one, job))
    };
    occurrences.into_iter().map(with_job).collect()
}
