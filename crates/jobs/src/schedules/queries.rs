//! Queries that read schedules and their runs.

use kith_kernel::Timestamp;
use kith_store::{Error, Query};

use super::model::{Occurrence, Schedule};
use crate::model::JobRecord;
use crate::rows::schedules as rows;

/// Conditions for a list of schedules. A condition that is `None` matches every schedule.
#[derive(Clone, Debug, Default)]
pub struct ScheduleFilter {
    /// Lower bound of the name, exclusive. It is used for paging.
    pub after: Option<String>,
    /// Queue.
    pub queue: Option<String>,
    /// Kind of the jobs.
    pub kind: Option<String>,
    /// True matches paused schedules, false matches schedules that are not paused.
    pub paused: Option<bool>,
    /// Owner.
    pub owner: Option<String>,
    /// True matches schedules that are declared in code, false matches other schedules.
    pub is_declared: Option<bool>,
}

/// Returns a schedule; `None` if there is none with this name.
///
/// # Errors
/// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
pub fn find_schedule(q: &Query<'_>, name: &str) -> Result<Option<Schedule>, Error> {
    rows::find(q, name)
}

/// Returns up to `limit` schedules that match the filter, ordered by name.
///
/// # Errors
/// Returns [`Error::Unavailable`] or [`Error::DeadlinePassed`] if the database cannot answer in time.
pub fn list_schedules(q: &Query<'_>, filter: &ScheduleFilter, limit: i64) -> Result<Vec<Schedule>, Error> {
    rows::list(q, filter, limit)
}

/// Returns up to `limit` occurrences of a schedule before `before`, latest first, each with its job if the
/// job still exists.
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
