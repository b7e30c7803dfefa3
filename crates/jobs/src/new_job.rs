//! Jobs to be enqueued, with their options and unique keys.

use std::time::Duration;

use kith_kernel::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::{
    DEFAULT_PRIORITY, Invalid, JobId, MAX_ATTEMPTS, MAX_PAYLOAD_BYTES, MAX_PRIORITY, check_key, check_name,
};
use crate::retry::RetryPolicy;

/// Policy for enqueueing a job whose unique key is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnConflict {
    /// Keeps the existing job unchanged and returns it.
    #[default]
    Keep,
    /// Replaces the payload, the priority and the time of the existing job, unless that job is already
    /// running. Returns the existing job.
    Replace,
    /// Like [`Self::Replace`], and restarts the delay, so that a burst of requests runs the job once, after
    /// the last request. If the existing job is running, a new job is enqueued. It gets the key and runs
    /// after the existing job has ended.
    Debounce,
}

/// Uniqueness of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unique {
    /// Unique key within the job's kind. If `None`, the payload is the key.
    pub key: Option<String>,
    /// Time from enqueueing during which the key stays taken even if the job has ended (throttling). If zero,
    /// the key is taken until the job ends.
    #[serde(default)]
    pub period: Duration,
    /// Policy if the key is taken.
    #[serde(default)]
    pub on_conflict: OnConflict,
}

impl Unique {
    /// Allows only one unfinished job of the kind with this key at a time.
    pub fn key(key: impl Into<String>) -> Self {
        Self { key: Some(key.into()), period: Duration::ZERO, on_conflict: OnConflict::Keep }
    }

    /// Allows only one unfinished job of the kind with this payload at a time.
    pub const fn arguments() -> Self {
        Self { key: None, period: Duration::ZERO, on_conflict: OnConflict::Keep }
    }

    /// Keeps the key taken for `period` from enqueueing, even if the job ends earlier.
    #[must_use]
    pub const fn within(mut self, period: Duration) -> Self {
        self.period = period;
        self
    }

    /// Sets the policy if the key is taken.
    #[must_use]
    pub const fn on_conflict(mut self, on_conflict: OnConflict) -> Self {
        self.on_conflict = on_conflict;
        self
    }
}

/// Policy for a job if a job that it waits for fails permanently or is cancelled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// The job goes to the dead letters.
    #[default]
    Die,
    /// The job runs anyway. It can see the failure in the results.
    Run,
}

/// Job to be enqueued.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// Queue.
    pub queue: String,
    /// Kind.
    pub kind: String,
    /// Payload, a JSON text.
    pub payload: String,
    /// Priority, from 0 (most urgent) to [`MAX_PRIORITY`].
    pub priority: i64,
    /// Earliest time to run. The job runs immediately if the time is `None` or in the past.
    pub run_at: Option<Timestamp>,
    /// Retry policy.
    pub retry: RetryPolicy,
    /// Time limit of an attempt. An attempt that exceeds it fails. Zero means no limit.
    pub timeout: Duration,
    /// Key to which the limits per key of the queue apply.
    pub limit_key: Option<String>,
    /// Options of the job's unique key; `None` if the job has none.
    pub unique: Option<Unique>,
    /// Jobs that must end before this one runs.
    pub after: Vec<JobId>,
    /// Policy if a job in `after` fails or is cancelled.
    pub on_failure: OnFailure,
    /// Origin of the job, shown to operators.
    pub source: Option<String>,
}

impl NewJob {
    /// Creates a job that runs immediately, with default options.
    pub fn new(queue: impl Into<String>, kind: impl Into<String>, payload: impl Into<String>) -> Self {
        Self {
            queue: queue.into(),
            kind: kind.into(),
            payload: payload.into(),
            priority: DEFAULT_PRIORITY,
            run_at: None,
            retry: RetryPolicy::DEFAULT,
            timeout: Duration::ZERO,
            limit_key: None,
            unique: None,
            after: Vec::new(),
            on_failure: OnFailure::Die,
            source: None,
        }
    }

    /// Sets the earliest time to run.
    #[must_use]
    pub const fn at(mut self, at: Timestamp) -> Self {
        self.run_at = Some(at);
        self
    }

    /// Makes the job unique.
    #[must_use]
    pub fn unique(mut self, unique: Unique) -> Self {
        self.unique = Some(unique);
        self
    }

    /// Sets the key to which the limits per key of the queue apply.
    #[must_use]
    pub fn with_limit_key(mut self, key: impl Into<String>) -> Self {
        self.limit_key = Some(key.into());
        self
    }

    /// Sets the priority, from 0 (most urgent) to [`MAX_PRIORITY`].
    #[must_use]
    pub const fn priority(mut self, priority: i64) -> Self {
        self.priority = priority;
        self
    }

    /// Sets the retry policy.
    #[must_use]
    pub const fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// Sets the time limit of an attempt.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Adds jobs that must end before this one runs.
    #[must_use]
    pub fn after(mut self, jobs: impl IntoIterator<Item = JobId>) -> Self {
        self.after.extend(jobs);
        self
    }

    /// Returns true if enqueueing never waits for another transaction, because the job has no unique key and
    /// no dependencies.
    pub(crate) const fn enqueues_without_waiting(&self) -> bool {
        self.unique.is_none() && self.after.is_empty()
    }

    /// Validates the job.
    ///
    /// # Errors
    /// Returns [`Invalid`] for the first invalid field.
    pub fn check(&self) -> Result<(), Invalid> {
        check_name("queue", &self.queue)?;
        check_name("kind", &self.kind)?;
        if self.payload.len() > MAX_PAYLOAD_BYTES {
            return Err(Invalid::new("payload", format!("is longer than {MAX_PAYLOAD_BYTES} bytes")));
        }
        if !(0..=MAX_PRIORITY).contains(&self.priority) {
            return Err(Invalid::new("priority", format!("is not between 0 and {MAX_PRIORITY}")));
        }
        if !(1..=MAX_ATTEMPTS).contains(&self.retry.max_attempts) {
            return Err(Invalid::new("retry.max_attempts", format!("is not between 1 and {MAX_ATTEMPTS}")));
        }
        if let Some(key) = &self.limit_key {
            check_key("limit_key", key)?;
        }
        if let Some(key) = self.unique.as_ref().and_then(|unique| unique.key.as_ref()) {
            check_key("unique.key", key)?;
        }
        if self.after.len() > 1_000 {
            return Err(Invalid::new("after", "names more than 1000 jobs"));
        }
        Ok(())
    }
}
