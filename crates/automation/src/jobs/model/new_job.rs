//! Types of jobs as callers enqueue them, and of the results.

use kith_jobs::{Enqueued, OnConflict, Unique};
use kith_kernel::{FieldError, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{RetryBody, check_ms, duration_ms};

/// Rule that only one job of a kind can have a certain key.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UniqueBody {
    /// Key that is unique among the jobs of the kind. If absent, the payload as sent is the key.
    #[serde(default)]
    pub key: Option<String>,
    /// Time in milliseconds, counted from enqueueing, during which no other job can use the key, even if
    /// this job has ended. If absent, other jobs can use the key as soon as this job has ended.
    #[serde(default)]
    #[schema(minimum = 0)]
    pub period_ms: Option<i64>,
    /// Action if another job already uses the key.
    #[serde(default)]
    #[schema(inline)]
    pub on_conflict: OnConflictBody,
}

/// Action if another job already uses the unique key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnConflictBody {
    /// Enqueue nothing and return the existing job.
    #[default]
    Keep,
    /// Replace the payload, priority and run time of the existing job if it is not running yet.
    Replace,
    /// Replace the payload, priority and run time of the existing job, which restarts its delay. Several
    /// requests in quick succession therefore lead to one run, after the last request. If the existing job
    /// is running, enqueue a new job that runs after it.
    Debounce,
    /// Enqueue nothing and return the existing job, even if it has ended, until `period_ms` has passed.
    /// Requires `period_ms`.
    Throttle,
}

/// Action if a job for which this job waits becomes a dead letter or is cancelled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFailureBody {
    /// Move this job to the dead letters too.
    #[default]
    Die,
    /// Run this job anyway. It can read the states and results of the jobs for which it waited.
    Run,
}

/// Job to enqueue.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewJobBody {
    /// Kind of the job: 1 to 64 letters, digits, dots, dashes or underscores.
    #[schema(example = "thumbnails.make")]
    pub kind: String,
    /// Queue. Default: the queue declared for the kind; if there is none, `default`.
    #[serde(default)]
    pub queue: Option<String>,
    /// Payload as any JSON value, at most 256 KiB.
    #[serde(default)]
    pub payload: Value,
    /// Priority, 0 (first) to 9 (last). Default: the priority declared for the kind; if there is none, 5.
    #[serde(default)]
    #[schema(minimum = 0)]
    pub priority: Option<i64>,
    /// Earliest time at which the job runs. Default: now.
    #[serde(default)]
    pub run_at: Option<Timestamp>,
    /// Delay in milliseconds before the job runs. Send either this or `run_at`.
    #[serde(default)]
    #[schema(minimum = 0)]
    pub delay_ms: Option<i64>,
    /// Retry policy. Default: the policy declared for the kind; if there is none, 10 attempts over about
    /// eight hours.
    #[serde(default)]
    pub retry: Option<RetryBody>,
    /// Maximum duration of an attempt in milliseconds; 0 for no limit. A longer attempt counts as failed.
    /// Default: the value declared for the kind; if there is none, 0.
    #[serde(default)]
    #[schema(minimum = 0)]
    pub timeout_ms: Option<i64>,
    /// Key for the per-key limits of the queue. Jobs with the same key share these limits.
    #[serde(default)]
    pub limit_key: Option<String>,
    /// Uniqueness of the job. Default: the job is not unique. A job with children cannot be unique.
    #[serde(default)]
    pub unique: Option<UniqueBody>,
    /// IDs of jobs that must end before this job runs.
    #[serde(default)]
    pub after: Vec<i64>,
    /// Jobs that are enqueued with this job and must end before it runs. This job can read their results.
    /// Children can be nested at most 10 levels deep, with at most 1,000 jobs in total.
    #[serde(default)]
    #[schema(no_recursion)]
    pub children: Vec<NewJobBody>,
    /// Action if a job for which this job waits becomes a dead letter or is cancelled.
    #[serde(default)]
    #[schema(inline)]
    pub on_failure: OnFailureBody,
}

/// Jobs to enqueue in one transaction.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewJobsBody {
    /// Jobs, 1 to 1,000, without children.
    pub jobs: Vec<NewJobBody>,
}

/// Result of enqueueing a job.
#[derive(Debug, Serialize, ToSchema)]
pub struct EnqueuedJob {
    /// Job ID.
    pub id: i64,
    /// `true` if no job was enqueued because an existing job uses the unique key.
    pub existing: bool,
    /// IDs of the children, in the order of the request.
    pub children: Vec<i64>,
}

/// Result of enqueueing jobs in bulk.
#[derive(Debug, Serialize, ToSchema)]
pub struct EnqueuedJobs {
    /// Results, in the order of the request.
    pub jobs: Vec<EnqueuedJob>,
}

impl EnqueuedJob {
    /// Creates the result from a job and its children.
    pub fn of(enqueued: Enqueued, children: &[Enqueued]) -> Self {
        let children = children.iter().map(|child| child.id).collect();
        Self { id: enqueued.id, existing: enqueued.is_existing, children }
    }
}

impl NewJobBody {
    /// Checks all fields that do not depend on the declaration of the kind. `at` is the JSON Pointer of the
    /// job.
    pub fn check(&self, at: &str) -> Result<(), FieldError> {
        check_ms(self.delay_ms, &format!("{at}/delay_ms"))?;
        check_ms(self.timeout_ms, &format!("{at}/timeout_ms"))?;
        if self.delay_ms.is_some() && self.run_at.is_some() {
            let detail = "Send either delay_ms or run_at.";
            return Err(FieldError::new(format!("{at}/delay_ms"), "not_here", detail));
        }
        self.retry.as_ref().map_or(Ok(()), |retry| retry.check(&format!("{at}/retry")))?;
        let Some(unique) = &self.unique else { return Ok(()) };
        check_ms(unique.period_ms, &format!("{at}/unique/period_ms"))?;
        if unique.on_conflict == OnConflictBody::Throttle && unique.period_ms.is_none() {
            let detail = "The action throttle requires period_ms.";
            return Err(FieldError::new(format!("{at}/unique/period_ms"), "missing", detail));
        }
        Ok(())
    }
}

impl UniqueBody {
    /// Converts the rule into the engine's type.
    pub fn policy(&self) -> Unique {
        let unique = self.key.as_ref().map_or_else(Unique::arguments, Unique::key);
        unique.within(duration_ms(self.period_ms.unwrap_or(0))).on_conflict(match self.on_conflict {
            OnConflictBody::Keep | OnConflictBody::Throttle => OnConflict::Keep,
            OnConflictBody::Replace => OnConflict::Replace,
            OnConflictBody::Debounce => OnConflict::Debounce,
        })
    }
}
