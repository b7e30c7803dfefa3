//! What may be asked for: a job to be enqueued, and what there may be only one of.

use std::time::Duration;

use kith_kernel::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::{
    Invalid, JobId, LEAST_PRIORITY, MOST_ATTEMPTS, PAYLOAD_BYTES, USUAL_PRIORITY, check_key, check_name,
};
use crate::retry::Retry;

/// What becomes of an enqueue whose unique key is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnConflict {
    /// The job that is there stays as it is, and is the answer.
    #[default]
    Keep,
    /// The job that is there takes the new payload, priority and time while it waits; where it runs already, it stays.
    Replace,
    /// The same, and its time is counted anew: what comes in quick succession is done once, after the last of it. Where the
    /// job runs already, a successor is enqueued, which holds the key from then on and runs once that has ended.
    Debounce,
}

/// What there may be only one of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unique {
    /// What is compared, within the job's kind; the payload itself where it is `None`.
    pub key: Option<String>,
    /// For how long from the enqueue the key stays taken although its job has ended: a throttle. Zero: while it lives.
    #[serde(default)]
    pub period: Duration,
    /// What becomes of the second.
    #[serde(default)]
    pub on_conflict: OnConflict,
}

impl Unique {
    /// One at a time with this key.
    pub fn key(key: impl Into<String>) -> Self {
        Self { key: Some(key.into()), period: Duration::ZERO, on_conflict: OnConflict::Keep }
    }

    /// One at a time with these arguments.
    pub const fn arguments() -> Self {
        Self { key: None, period: Duration::ZERO, on_conflict: OnConflict::Keep }
    }

    /// One in each period.
    #[must_use]
    pub const fn within(mut self, period: Duration) -> Self {
        self.period = period;
        self
    }

    /// What becomes of the second.
    #[must_use]
    pub const fn on_conflict(mut self, on_conflict: OnConflict) -> Self {
        self.on_conflict = on_conflict;
        self
    }
}

/// What becomes of a job when one that it awaits dies or is cancelled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// It dies too.
    #[default]
    Die,
    /// It runs all the same, and finds out by the results.
    Run,
}

/// A job to be enqueued.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// Which queue it stands in.
    pub queue: String,
    /// What is to be done.
    pub kind: String,
    /// With what: JSON.
    pub payload: String,
    /// 0 (first) to [`LEAST_PRIORITY`].
    pub priority: i64,
    /// Not before; at once if absent or past.
    pub run_at: Option<Timestamp>,
    /// How often it may fail, and when it is tried again.
    pub retry: Retry,
    /// An attempt that takes longer has failed. Zero: none does.
    pub timeout: Duration,
    /// What limits per key count by.
    pub limit_key: Option<String>,
    /// What there may be only one of.
    pub unique: Option<Unique>,
    /// Jobs that must have ended before.
    pub after: Vec<JobId>,
    /// What becomes of it if one of those fails.
    pub on_failure: OnFailure,
    /// Who or what asked for it, for people who look at it.
    pub source: Option<String>,
}

impl NewJob {
    /// A job at once, with the defaults of this crate.
    pub fn new(queue: impl Into<String>, kind: impl Into<String>, payload: impl Into<String>) -> Self {
        Self {
            queue: queue.into(),
            kind: kind.into(),
            payload: payload.into(),
            priority: USUAL_PRIORITY,
            run_at: None,
            retry: Retry::DEFAULT,
            timeout: Duration::ZERO,
            limit_key: None,
            unique: None,
            after: Vec::new(),
            on_failure: OnFailure::Die,
            source: None,
        }
    }

    /// Not before `at`.
    #[must_use]
    pub const fn at(mut self, at: Timestamp) -> Self {
        self.run_at = Some(at);
        self
    }

    /// Only one of these.
    #[must_use]
    pub fn unique(mut self, unique: Unique) -> Self {
        self.unique = Some(unique);
        self
    }

    /// Counted by limits per key under this one.
    #[must_use]
    pub fn limited_by(mut self, key: impl Into<String>) -> Self {
        self.limit_key = Some(key.into());
        self
    }

    /// 0 is first, [`LEAST_PRIORITY`] last.
    #[must_use]
    pub const fn priority(mut self, priority: i64) -> Self {
        self.priority = priority;
        self
    }

    /// Tried again as `retry` says.
    #[must_use]
    pub const fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Fails when an attempt takes longer.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Once all of `jobs` have ended.
    #[must_use]
    pub fn after(mut self, jobs: impl IntoIterator<Item = JobId>) -> Self {
        self.after.extend(jobs);
        self
    }

    /// Returns true if enqueuing it waits for no other transaction: it has no unique key and no dependencies.
    pub(crate) const fn is_plain(&self) -> bool {
        self.unique.is_none() && self.after.is_empty()
    }

    /// Whether it may be enqueued as it is.
    ///
    /// # Errors
    /// [`Invalid`] names the first field that is wrong.
    pub fn check(&self) -> Result<(), Invalid> {
        check_name("queue", &self.queue)?;
        check_name("kind", &self.kind)?;
        if self.payload.len() > PAYLOAD_BYTES {
            return Err(Invalid::new("payload", format!("is longer than {PAYLOAD_BYTES} bytes")));
        }
        if !(0..=LEAST_PRIORITY).contains(&self.priority) {
            return Err(Invalid::new("priority", format!("is not between 0 and {LEAST_PRIORITY}")));
        }
        if !(1..=MOST_ATTEMPTS).contains(&self.retry.max_attempts) {
            return Err(Invalid::new("retry.max_attempts", format!("is not between 1 and {MOST_ATTEMPTS}")));
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
