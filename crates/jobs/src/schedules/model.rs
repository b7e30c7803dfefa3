//! What a schedule is: what it runs, when, and what becomes of runs that were missed or come too soon.

use std::time::Duration;

use kith_kernel::{Timestamp, days};
use kith_store::Error as StoreError;
use serde::{Deserialize, Serialize};

use super::spec::{Spec, SpecError};
use crate::NewJob;
use crate::model::{Invalid, JobId, USUAL_PRIORITY, check_name};
use crate::retry::Retry;

/// Most missed runs that can be made up for, and most runs of one backfill.
pub const MOST_AT_ONCE: i64 = 1_000;
/// Most schedules that one database has.
pub const MOST_SCHEDULES: i64 = 10_000;
/// Longest jitter.
pub const MAX_JITTER: Duration = days(1);

/// What becomes of occurrences whose time passed while nobody was there to run them. One that is late by less than a minute
/// is not missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missed {
    /// None is run.
    Skip,
    /// The latest is run, unless one that was not missed follows it at once.
    #[default]
    Latest,
    /// All are run, the latest so and so many at most.
    All,
}

/// What becomes of an occurrence while a run of the same schedule has not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// It runs beside it.
    #[default]
    Allow,
    /// It is left out.
    Skip,
    /// It runs after it; left out if a hundred wait already.
    Queue,
    /// The older one is cancelled, and it runs as soon as that has ended.
    Cancel,
}

/// Why an occurrence came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Its time came.
    Due,
    /// Its time had passed, and it was made up for.
    Missed,
    /// Somebody wanted a run at once.
    Now,
    /// Somebody wanted the runs of a past time.
    Backfill,
}

kith_kernel::scalar_schema! { Missed => "Missed", String }
kith_kernel::scalar_schema! { Overlap => "Overlap", String }
kith_kernel::scalar_schema! { Origin => "Origin", String }

/// What is run, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// In which queue.
    pub queue: String,
    /// What is to be done.
    pub kind: String,
    /// With what: JSON.
    pub payload: String,
    /// 0 is first.
    pub priority: i64,
    /// How often a run may fail, and when it is tried again.
    pub retry: Retry,
    /// A run that takes longer has failed. Zero: none does.
    pub timeout: Duration,
    /// When: see [`Spec`].
    pub schedule: String,
    /// The IANA time zone that it goes by.
    pub zone: String,
    /// What becomes of missed occurrences.
    pub missed: Missed,
    /// How many of them are run at most, where all are.
    pub missed_cap: i64,
    /// What becomes of an occurrence that comes too soon.
    pub overlap: Overlap,
    /// Each run starts later by a random part of this.
    pub jitter: Duration,
    /// No occurrence before.
    pub starts_at: Option<Timestamp>,
    /// No occurrence from then on.
    pub ends_at: Option<Timestamp>,
}

impl Plan {
    /// The defaults: UTC, the latest missed run, overlaps allowed, no jitter.
    pub fn new(queue: impl Into<String>, kind: impl Into<String>, schedule: impl Into<String>) -> Self {
        Self {
            queue: queue.into(),
            kind: kind.into(),
            payload: "{}".to_owned(),
            priority: USUAL_PRIORITY,
            retry: Retry::DEFAULT,
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

    /// A run of it.
    pub(super) fn job(&self) -> NewJob {
        NewJob::new(&self.queue, &self.kind, &self.payload)
            .priority(self.priority)
            .retry(self.retry)
            .timeout(self.timeout)
    }

    /// When, with intervals counted from `anchor`.
    ///
    /// # Errors
    /// If the plan is wrong.
    pub fn check(&self, anchor: Timestamp) -> Result<Spec, ScheduleError> {
        self.job().check()?;
        if !(1..=MOST_AT_ONCE).contains(&self.missed_cap) {
            return Err(Invalid::new("missed_cap", format!("is not between 1 and {MOST_AT_ONCE}")).into());
        }
        if self.jitter > MAX_JITTER {
            return Err(Invalid::new("jitter_ms", "is longer than a day").into());
        }
        if self.starts_at.zip(self.ends_at).is_some_and(|(starts, ends)| starts >= ends) {
            return Err(Invalid::new("ends_at", "is not after `starts_at`").into());
        }
        Ok(Spec::parse(&self.schedule, &self.zone, anchor)?)
    }

    /// The first occurrence after `after` within the plan's limits.
    pub fn next_after(&self, spec: &Spec, after: Timestamp) -> Option<Timestamp> {
        let first = self.starts_at.map_or(after, |starts| after.max(starts - Duration::from_millis(1)));
        spec.next_after(first).filter(|at| self.ends_at.is_none_or(|ends| *at < ends))
    }

    /// The next `count` occurrences after `after`.
    pub fn preview(&self, spec: &Spec, after: Timestamp, count: usize) -> Vec<Timestamp> {
        let next = |at: &Timestamp| self.next_after(spec, *at);
        std::iter::successors(next(&after), next).take(count).collect()
    }
}

/// A schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Its name, which no other has.
    pub name: String,
    /// Who made it: `module:…` where the code declares it, else whoever it was.
    pub owner: String,
    /// Whether the code declares it; then only the code changes it.
    pub is_declared: bool,
    /// What is run, and when.
    pub plan: Plan,
    /// What `@every` counts from.
    pub anchor_at: Timestamp,
    /// Whether nothing is run.
    pub paused: bool,
    /// The next occurrence; none if there is none any more.
    pub next_at: Option<Timestamp>,
    /// The latest occurrence that was run because its time came.
    pub last_at: Option<Timestamp>,
    /// Until when occurrences have been run, or are not to be.
    pub decided_until: Timestamp,
    /// Grows with each change.
    pub revision: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub changed_at: Timestamp,
}

/// An occurrence that was decided about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occurrence {
    /// When it was to be.
    pub at: Timestamp,
    /// Why it came to be.
    pub origin: Origin,
    /// What ran; none if it was left out because another run had not ended.
    pub job: Option<JobId>,
    /// When that was decided.
    pub decided_at: Timestamp,
}

/// A schedule that the code declares.
#[derive(Clone, Copy, Debug)]
pub struct DeclaredSchedule {
    /// Its name: that of the module, a dot, and what it does.
    pub name: &'static str,
    /// In which queue.
    pub queue: &'static str,
    /// What is to be done.
    pub kind: &'static str,
    /// With what: JSON.
    pub payload: &'static str,
    /// When.
    pub schedule: &'static str,
    /// The IANA time zone that it goes by.
    pub zone: &'static str,
    /// What becomes of missed occurrences; of all, the latest hundred are run.
    pub missed: Missed,
    /// What becomes of an occurrence that comes too soon.
    pub overlap: Overlap,
    /// How often a run may fail.
    pub retry: Retry,
    /// A run that takes longer has failed. Zero: none does.
    pub timeout: Duration,
    /// Each run starts later by a random part of this.
    pub jitter: Duration,
}

impl DeclaredSchedule {
    /// The defaults: UTC, no payload, the latest missed run, left out while another runs.
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
            retry: Retry::DEFAULT,
            timeout: Duration::ZERO,
            jitter: Duration::ZERO,
        }
    }

    /// What a module does again and again: a run that failed is tried again soon, and the next comes anyway.
    pub const fn upkeep(kind: &'static str, schedule: &'static str) -> Self {
        let retry = Retry::times(3).waiting(Duration::from_secs(2), Duration::from_secs(10));
        Self { retry, ..Self::new(kind, "upkeep", kind, schedule) }
    }

    /// What it says.
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

/// Why something about schedules is refused.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ScheduleError {
    /// A field is wrong.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The schedule or its zone is.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// It has no run from now on.
    #[error("it has no run from now on")]
    Over,
    /// Another one has the name.
    #[error("another schedule has this name")]
    Taken,
    /// There are as many as there may be.
    #[error("there are {MOST_SCHEDULES} schedules")]
    TooMany,
    /// Nobody knows it.
    #[error("there is no such schedule")]
    Unknown,
    /// The code declares it.
    #[error("the code declares it, and changes it")]
    Declared,
    /// Somebody else changed it since it was read.
    #[error("the schedule was changed since it was read")]
    Changed,
    /// A backfill of more runs than can be asked for at once, or of time to come.
    #[error("at most {MOST_AT_ONCE} past runs can be asked for at once")]
    TooWide,
    /// The database's.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Whether a schedule may be called so.
///
/// # Errors
/// [`Invalid`] if not.
pub fn check_schedule_name(name: &str) -> Result<(), Invalid> {
    check_name("name", name)
}
