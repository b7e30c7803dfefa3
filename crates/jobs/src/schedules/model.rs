//! Schedule model: plans, occurrences, and policies for missed and overlapping runs.

use std::time::Duration;

use kith_kernel::{Timestamp, days};
use kith_store::Error as StoreError;
use serde::{Deserialize, Serialize};

use super::spec::{Spec, SpecError};
use crate::NewJob;
use crate::model::{DEFAULT_PRIORITY, Invalid, JobId, check_name};
use crate::retry::RetryPolicy;

pub(super) const LOCK: &str = "job schedule";
/// Maximum number of missed runs that are caught up on, and maximum number of runs in one backfill.
pub const MAX_BACKFILL_RUNS: i64 = 1_000;
/// Maximum number of schedules in a database.
pub const MAX_SCHEDULES: i64 = 10_000;
/// Maximum random delay of a run.
pub const MAX_JITTER: Duration = days(1);

/// Policy for missed occurrences. An occurrence is missed if no node has run it within a minute of its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missed {
    /// Runs no missed occurrence.
    Skip,
    /// Runs the latest missed occurrence, unless an occurrence that was not missed is also due.
    #[default]
    Latest,
    /// Runs all missed occurrences, but at most the latest `missed_cap`.
    All,
}

/// Policy for an occurrence while an earlier run of the same schedule has not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// Runs both jobs at the same time.
    #[default]
    Allow,
    /// Skips the occurrence.
    Skip,
    /// Runs the occurrence after the earlier run. If 100 runs are already waiting, the occurrence is skipped.
    Queue,
    /// Cancels the earlier run, and runs the occurrence after the earlier run has ended.
    Cancel,
}

/// Reason why an occurrence was run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The occurrence was due.
    Due,
    /// The occurrence was missed and was caught up on.
    Missed,
    /// An immediate run was requested.
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
    /// Time limit of a run. A run that exceeds it fails. Zero means no limit.
    pub timeout: Duration,
    /// Times of the occurrences, in the syntax of [`Spec`].
    pub schedule: String,
    /// Name of the IANA time zone.
    pub zone: String,
    /// Policy for missed occurrences.
    pub missed: Missed,
    /// Maximum number of missed occurrences to run with [`Missed::All`].
    pub missed_cap: i64,
    /// Policy for overlapping runs.
    pub overlap: Overlap,
    /// Maximum random delay of each run.
    pub jitter: Duration,
    /// Lower bound of the times of occurrences, inclusive.
    pub starts_at: Option<Timestamp>,
    /// Upper bound of the times of occurrences, exclusive.
    pub ends_at: Option<Timestamp>,
}

impl Plan {
    /// Creates a plan with these defaults: UTC, the latest missed occurrence is run, runs may overlap, no
    /// jitter.
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

    /// Returns the job that a run enqueues.
    pub(super) fn job(&self) -> NewJob {
        NewJob::new(&self.queue, &self.kind, &self.payload)
            .priority(self.priority)
            .retry(self.retry)
            .timeout(self.timeout)
    }

    /// Validates the plan and returns its parsed times. `anchor` is the start of `@every` intervals.
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

    /// Returns the first occurrence after `after` that is within `starts_at` and `ends_at`; `None` if there
    /// is none.
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

/// Stored schedule with its progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Unique name.
    pub name: String,
    /// Owner: `module:…` if declared in code, `system:…` if created by a component of Kith, `admin`
    /// otherwise.
    pub owner: String,
    /// True if the schedule is declared in code, and can only be changed there.
    pub is_declared: bool,
    /// Job to enqueue, and the times at which it is enqueued.
    pub plan: Plan,
    /// Time from which `@every` intervals are counted.
    pub anchor_at: Timestamp,
    /// True if the schedule is paused.
    pub paused: bool,
    /// Time of the next occurrence; `None` if no occurrence follows.
    pub next_run_at: Option<Timestamp>,
    /// Time of the latest occurrence that was run as due or missed, or skipped by the overlap policy.
    pub last_run_at: Option<Timestamp>,
    /// Time up to which it was decided which occurrences run.
    pub decided_until: Timestamp,
    /// Revision number. It increases by one with each change.
    pub revision: i64,
    /// Time of creation.
    pub created_at: Timestamp,
    /// Time of the last change.
    pub updated_at: Timestamp,
}

/// Occurrence that was run or skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occurrence {
    /// Time of the occurrence.
    pub at: Timestamp,
    /// Reason for the occurrence.
    pub origin: Origin,
    /// Job of the occurrence; `None` if the occurrence was skipped because an earlier run had not ended.
    pub job: Option<JobId>,
    /// Time at which it was decided to run or skip the occurrence.
    pub decided_at: Timestamp,
}

/// Schedule declared in code.
#[derive(Clone, Copy, Debug)]
pub struct DeclaredSchedule {
    /// Name of the schedule: the name of the module, a dot, and a purpose.
    pub name: &'static str,
    /// Queue.
    pub queue: &'static str,
    /// Kind.
    pub kind: &'static str,
    /// Payload, a JSON text.
    pub payload: &'static str,
    /// Times of the occurrences, in the syntax of [`Spec`].
    pub schedule: &'static str,
    /// Name of the IANA time zone.
    pub zone: &'static str,
    /// Policy for missed occurrences. [`Missed::All`] runs at most the latest 100.
    pub missed: Missed,
    /// Policy for overlapping runs.
    pub overlap: Overlap,
    /// Retry policy of a run.
    pub retry: RetryPolicy,
    /// Time limit of a run. A run that exceeds it fails. Zero means no limit.
    pub timeout: Duration,
    /// Maximum random delay of each run.
    pub jitter: Duration,
}

impl DeclaredSchedule {
    /// Creates a schedule with these defaults: UTC, an empty payload, the latest missed occurrence is run,
    /// runs do not overlap.
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

    /// Creates a schedule for recurring maintenance in the queue `maintenance`. Each run has three attempts,
    /// with delays of at most 10 seconds.
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

/// Reason why a command on a schedule was rejected.
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
    /// A schedule with this name exists.
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
