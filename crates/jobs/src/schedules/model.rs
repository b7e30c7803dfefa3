//! Schedule model: plan, time, and policies for missed and overlapping runs.

use std::time::Duration;

use kith_kernel::{Timestamp, days};
use kith_store::Error as StoreError;
use serde::{Deserialize, Serialize};

use super::spec::{Spec, SpecError};
use crate::NewJob;
use crate::model::{DEFAULT_PRIORITY, Invalid, JobId, check_name};
use crate::retry::RetryPolicy;

pub(super) const LOCK: &str = "job schedule";
/// Maximum number of missed runs to catch up on, and of runs in one backfill.
pub const MAX_BACKFILL_RUNS: i64 = 1_000;
/// Maximum number of schedules in a database.
pub const MAX_SCHEDULES: i64 = 10_000;
/// Maximum jitter.
pub const MAX_JITTER: Duration = days(1);

/// Policy for missed occurrences: those that no node has run within a minute of their time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missed {
    /// Runs none of them.
    Skip,
    /// Runs the latest, unless an occurrence that was not missed is due as well.
    #[default]
    Latest,
    /// Runs all of them, up to `missed_cap` of the latest.
    All,
}

/// Policy for an occurrence while an earlier run of the same schedule has not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// Runs both at the same time.
    #[default]
    Allow,
    /// Skips the occurrence.
    Skip,
    /// Runs it after the earlier one; skips it if a hundred runs are waiting already.
    Queue,
    /// Cancels the earlier run, and runs the occurrence when that has ended.
    Cancel,
}

/// Reason for an occurrence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The occurrence was due.
    Due,
    /// The occurrence was missed and has been caught up on.
    Missed,
    /// A run was requested immediately.
    Now,
    /// A backfill was requested.
    Backfill,
}

kith_kernel::scalar_schema! { Missed => "Missed", String }
kith_kernel::scalar_schema! { Overlap => "Overlap", String }
kith_kernel::scalar_schema! { Origin => "Origin", String }

/// Job and times of a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Queue.
    pub queue: String,
    /// Kind.
    pub kind: String,
    /// Payload, a JSON text.
    pub payload: String,
    /// Priority; 0 is the most urgent.
    pub priority: i64,
    /// Retry policy of a run.
    pub retry: RetryPolicy,
    /// Time limit of a run; a run that exceeds it fails. Zero: no limit.
    pub timeout: Duration,
    /// Times, in the syntax of [`Spec`].
    pub schedule: String,
    /// IANA time zone.
    pub zone: String,
    /// Policy for missed occurrences.
    pub missed: Missed,
    /// Maximum number of missed occurrences to run with [`Missed::All`].
    pub missed_cap: i64,
    /// Policy for overlapping runs.
    pub overlap: Overlap,
    /// Maximum random delay of each run.
    pub jitter: Duration,
    /// Earliest time of an occurrence, inclusive.
    pub starts_at: Option<Timestamp>,
    /// Latest time of an occurrence, exclusive.
    pub ends_at: Option<Timestamp>,
}

impl Plan {
    /// Creates a plan with the defaults: UTC, the latest missed run, overlaps allowed, no jitter.
    pub fn new(queue: impl Into<String>, kind: impl Into<String>, schedule: impl Into<String>) -> Self {
        Self {
            queue: queue.into(),
            kind: kind.into(),
            payload: "{}".to_owned(),
            priority: DEFAULT_PRIORITY,
            retry: RetryPolicy::DEFAULT,
            timeout: Duration::ZERO,
            schedule: schedule.into(),
            zone: "UTC".to_owned(),
            missed: Missed::Latest,
            missed_cap: 100,
            overlap: Overlap::Allow,
            jitter: Duration::ZERO,
            starts_at: None,
            ends_at: None,
        }
    }

    /// Returns the job of a run.
    pub(super) fn job(&self) -> NewJob {
        NewJob::new(&self.queue, &self.kind, &self.payload)
            .priority(self.priority)
            .retry(self.retry)
            .timeout(self.timeout)
    }

    /// Validates the plan and returns its times. Intervals are counted from `anchor`.
    ///
    /// # Errors
    /// Returns [`ScheduleError::Invalid`] or [`ScheduleError::Spec`] if a field is invalid.
    pub fn check(&self, anchor: Timestamp) -> Result<Spec, ScheduleError> {
        self.job().check()?;
        if !(1..=MAX_BACKFILL_RUNS).contains(&self.missed_cap) {
            return Err(
                Invalid::new("missed_cap", format!("is not between 1 and {MAX_BACKFILL_RUNS}")).into()
            );
        }
        if self.jitter > MAX_JITTER {
            return Err(Invalid::new("jitter_ms", "is longer than a day").into());
        }
        if self.starts_at.zip(self.ends_at).is_some_and(|(starts, ends)| starts >= ends) {
            return Err(Invalid::new("ends_at", "is not after `starts_at`").into());
        }
        Ok(Spec::parse(&self.schedule, &self.zone, anchor)?)
    }

    /// Returns the first occurrence after `after` within `starts_at` and `ends_at`.
    pub fn next_after(&self, spec: &Spec, after: Timestamp) -> Option<Timestamp> {
        let first = self.starts_at.map_or(after, |starts| after.max(starts - Duration::from_millis(1)));
        spec.next_after(first).filter(|at| self.ends_at.is_none_or(|ends| *at < ends))
    }

    /// Returns the next `count` occurrences after `after`.
    pub fn preview(&self, spec: &Spec, after: Timestamp, count: usize) -> Vec<Timestamp> {
        let next = |at: &Timestamp| self.next_after(spec, *at);
        std::iter::successors(next(&after), next).take(count).collect()
    }
}

/// Schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Unique name.
    pub name: String,
    /// Owner: `module:…` if declared in code, `system:…` for a component of Kith, else `admin`.
    pub owner: String,
    /// True if the schedule is declared in code, and can only be changed there.
    pub is_declared: bool,
    /// Job and times.
    pub plan: Plan,
    /// Start of `@every` intervals.
    pub anchor_at: Timestamp,
    /// True if the schedule is paused.
    pub paused: bool,
    /// Next occurrence; `None` if there is no further one.
    pub next_run_at: Option<Timestamp>,
    /// Latest occurrence that was due or missed.
    pub last_run_at: Option<Timestamp>,
    /// Time up to which occurrences have been decided.
    pub decided_until: Timestamp,
    /// Revision number; it grows with each change.
    pub revision: i64,
    /// Time of creation.
    pub created_at: Timestamp,
    /// Time of the last change.
    pub updated_at: Timestamp,
}

/// Decided occurrence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occurrence {
    /// Time of the occurrence.
    pub at: Timestamp,
    /// Reason for the occurrence.
    pub origin: Origin,
    /// Job of the run; `None` if it was skipped because an earlier run had not ended.
    pub job: Option<JobId>,
    /// Time of the decision.
    pub decided_at: Timestamp,
}

/// Schedule declared in code.
#[derive(Clone, Copy, Debug)]
pub struct DeclaredSchedule {
    /// Name: that of the module, a dot, and a purpose.
    pub name: &'static str,
    /// Queue.
    pub queue: &'static str,
    /// Kind.
    pub kind: &'static str,
    /// Payload, a JSON text.
    pub payload: &'static str,
    /// Times, in the syntax of [`Spec`].
    pub schedule: &'static str,
    /// IANA time zone.
    pub zone: &'static str,
    /// Policy for missed occurrences; [`Missed::All`] runs the latest hundred.
    pub missed: Missed,
    /// Policy for overlapping runs.
    pub overlap: Overlap,
    /// Retry policy of a run.
    pub retry: RetryPolicy,
    /// Time limit of a run; a run that exceeds it fails. Zero: no limit.
    pub timeout: Duration,
    /// Maximum random delay of each run.
    pub jitter: Duration,
}

impl DeclaredSchedule {
    /// Creates a schedule with the defaults: UTC, an empty payload, the latest missed run, no overlapping
    /// runs.
    pub const fn new(
        name: &'static str,
        queue: &'static str,
        kind: &'static str,
        schedule: &'static str,
    ) -> Self {
        Self {
            name,
            queue,
            kind,
            payload: "{}",
            schedule,
            zone: "UTC",
            missed: Missed::Latest,
            overlap: Overlap::Skip,
            retry: RetryPolicy::DEFAULT,
            timeout: Duration::ZERO,
            jitter: Duration::ZERO,
        }
    }

    /// Creates a schedule for recurring maintenance in the queue `maintenance`, with three short attempts per
    /// run.
    pub const fn maintenance(kind: &'static str, schedule: &'static str) -> Self {
        let retry = RetryPolicy::times(3).waiting(Duration::from_secs(2), Duration::from_secs(10));
        Self { retry, ..Self::new(kind, "maintenance", kind, schedule) }
    }

    /// Returns the plan.
    pub fn plan(&self) -> Plan {
        Plan {
            payload: self.payload.to_owned(),
            zone: self.zone.to_owned(),
            missed: self.missed,
            overlap: self.overlap,
            retry: self.retry,
            timeout: self.timeout,
            jitter: self.jitter,
            ..Plan::new(self.queue, self.kind, self.schedule)
        }
    }
}

/// Reason why a request about a schedule was rejected.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ScheduleError {
    /// A field of the plan is invalid.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The times or the time zone are invalid.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The schedule has no future run.
    #[error("the schedule has no future run")]
    Over,
    /// The name is taken.
    #[error("a schedule with this name exists")]
    Taken,
    /// The database has the maximum number of schedules.
    #[error("the maximum of {MAX_SCHEDULES} schedules is reached")]
    TooMany,
    /// The schedule does not exist.
    #[error("the schedule does not exist")]
    Unknown,
    /// The schedule is declared in code.
    #[error("the schedule is declared in code and can only be changed there")]
    Declared,
    /// The schedule has changed since it was read.
    #[error("the schedule was changed since it was read")]
    Changed,
    /// The backfill has too many runs, or ends in the future.
    #[error("a backfill has at most {MAX_BACKFILL_RUNS} runs")]
    TooWide,
    /// The database returned an error.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Validates the name of a schedule.
///
/// # Errors
/// Returns [`Invalid`] if the name is invalid.
pub fn check_schedule_name(name: &str) -> Result<(), Invalid> {
    check_name("name", name)
}
