//! Jobs as callers ask for them, and what enqueueing returns.

use kith_jobs::{Enqueued, OnConflict, Unique};
use kith_kernel::{FieldError, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{RetryBody, check_ms, ms};

/// What there may be only one of.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UniqueBody {
    /// What is compared within a kind; absent: the payload itself, as it was sent.
    #[serde(default)]
    pub key: Option<String>,
    /// How long the key stays taken, from the enqueue, although its job has ended; absent: only while the job lives.
    #[serde(default)]
    #[schema(minimum = 0)]
    pub period_ms: Option<i64>,
    /// What becomes of the second.
    #[serde(default)]
    #[schema(inline)]
    pub on_conflict: OnConflictBody,
}

/// What becomes of a job whose key is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnConflictBody {
    /// It is not made; the job that is there is the answer.
    #[default]
    Keep,
    /// The job that is there takes its payload, priority and time while it waits.
    Replace,
    /// The same, and it is done once, so long after the last of them.
    Debounce,
    /// It is not made, nor another one within the period, which has to be given.
    Throttle,
}

/// What becomes of a job when one that it waits for is dead or cancelled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFailureBody {
    /// It dies too.
    #[default]
    Die,
    /// It runs all the same, and finds out by their results.
    Run,
}

/// A job to be enqueued.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewJobBody {
    /// What is to be done: 1 to 64 letters, digits, dots, dashes or underscores.
    #[schema(example = "thumbnails.make")]
    pub kind: String,
    /// Where it stands; absent: where its kind is declared to stand, else `default`.
    #[serde(default)]
    pub queue: Option<String>,
    /// With what: any JSON, at most 256 KiB.
    #[serde(default)]
    pub payload: Value,
    /// 0 is first, 9 last; 5 unless its kind is declared otherwise.
    #[serde(default)]
    #[schema(minimum = 0)]
    pub priority: Option<i64>,
    /// Not before.
    #[serde(default)]
    pub run_at: Option<Timestamp>,
    /// Not before so many milliseconds from now. Either this or `run_at`.
    #[serde(default)]
    #[schema(minimum = 0)]
    pub delay_ms: Option<i64>,
    /// How often it may fail; 10 times over about eight hours unless its kind is declared otherwise.
    #[serde(default)]
    pub retry: Option<RetryBody>,
    /// An attempt that takes longer has failed; 0: none does.
    #[serde(default)]
    #[schema(minimum = 0)]
    pub timeout_ms: Option<i64>,
    /// What limits per key count by.
    #[serde(default)]
    pub limit_key: Option<String>,
    /// What there may be only one of.
    #[serde(default)]
    pub unique: Option<UniqueBody>,
    /// Jobs that must have ended before.
    #[serde(default)]
    pub after: Vec<i64>,
    /// Jobs that are enqueued with it and run before it; it learns their results.
    #[serde(default)]
    #[schema(no_recursion)]
    pub children: Vec<NewJobBody>,
    /// What becomes of it when one that it waits for fails.
    #[serde(default)]
    #[schema(inline)]
    pub on_failure: OnFailureBody,
}

/// Jobs to be enqueued, all or none.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewJobsBody {
    /// At most 1000, none with children.
    pub jobs: Vec<NewJobBody>,
}

/// What an enqueue came to.
#[derive(Debug, Serialize, ToSchema)]
pub struct EnqueuedJob {
    /// Of the job.
    pub id: i64,
    /// Whether it was there already, under its unique key.
    pub existing: bool,
    /// Of its children, in order.
    pub children: Vec<i64>,
}

/// What an enqueue of many came to, in their order.
#[derive(Debug, Serialize, ToSchema)]
pub struct EnqueuedJobs {
    /// Each.
    pub jobs: Vec<EnqueuedJob>,
}

impl EnqueuedJob {
    /// Of a job and its children.
    pub fn of(enqueued: Enqueued, children: &[Enqueued]) -> Self {
        let children = children.iter().map(|child| child.id).collect();
        Self { id: enqueued.id, existing: enqueued.existing, children }
    }
}

impl NewJobBody {
    /// What is wrong whatever its kind says.
    pub fn check(&self, at: &str) -> Result<(), FieldError> {
        check_ms(self.delay_ms, &format!("{at}/delay_ms"))?;
        check_ms(self.timeout_ms, &format!("{at}/timeout_ms"))?;
        if self.delay_ms.is_some() && self.run_at.is_some() {
            let detail = "Either this or `run_at`.";
            return Err(FieldError::new(format!("{at}/delay_ms"), "not_here", detail));
        }
        self.retry.as_ref().map_or(Ok(()), |retry| retry.check(&format!("{at}/retry")))?;
        let Some(unique) = &self.unique else { return Ok(()) };
        check_ms(unique.period_ms, &format!("{at}/unique/period_ms"))?;
        if unique.on_conflict == OnConflictBody::Throttle && unique.period_ms.is_none() {
            let detail = "Within which time there is only one.";
            return Err(FieldError::new(format!("{at}/unique/period_ms"), "missing", detail));
        }
        Ok(())
    }
}

impl UniqueBody {
    /// As the engine has it.
    pub fn policy(&self) -> Unique {
        let unique = self.key.as_ref().map_or_else(Unique::arguments, Unique::key);
        unique.within(ms(self.period_ms.unwrap_or(0))).on_conflict(match self.on_conflict {
            OnConflictBody::Keep | OnConflictBody::Throttle => OnConflict::Keep,
            OnConflictBody::Replace => OnConflict::Replace,
            OnConflictBody::Debounce => OnConflict::Debounce,
        })
    }
}
