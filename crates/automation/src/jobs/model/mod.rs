//! Types and errors of the jobs API.

mod job;
mod kind;
mod new_job;
mod queue;

use std::time::Duration;

use kith_jobs::{EnqueueError, Invalid, QueueError};
use kith_json_schema::NotValidated;
use kith_kernel::FieldError;
use kith_store::Error;
use thiserror::Error;

pub use job::{ClaimedJob, ClaimedJobs, Job, JobDependency, JobDetails, JobLogLine, JobStatus, read_json};
pub use kind::{JobKind, JobKindBody, RetryBody};
pub use new_job::{EnqueuedJob, EnqueuedJobs, NewJobBody, NewJobsBody, OnFailureBody, UniqueBody};
pub use queue::{
    Queue, QueueDepth, QueueDetails, QueueLimits, QueueLimitsBody, QueueMinute, QueueName, QueueSample,
    QueueThroughput, Queues,
};

/// Maximum of delays, periods and timeouts in milliseconds: ten years.
const MAX_MS: i64 = 10 * 366 * 86_400_000;

/// Error of an operation on jobs. If it is returned, nothing was changed.
#[derive(Debug, Error)]
pub enum JobsError {
    /// The input is invalid.
    #[error("invalid input")]
    Invalid(Vec<FieldError>),
    /// Some payloads have not been validated against the current schemas of their kinds.
    #[error(transparent)]
    Unvalidated(#[from] NotValidated),
    /// The job or job kind does not exist.
    #[error("job not found")]
    NotFound,
    /// The attempt has ended, or another worker has the lease of the job.
    #[error("stale attempt")]
    Stale,
    /// The job has ended, so the operation is not possible.
    #[error("the job has ended")]
    AlreadyEnded,
    /// The job is ready, running or blocked, so it cannot be retried.
    #[error("the job cannot be retried")]
    NotRetryable,
    /// The job with this ID already uses the unique key.
    #[error("job {0} holds the unique key")]
    UniqueKeyHeld(i64),
    /// The settings have changed since they were read.
    #[error("the settings have changed since they were read")]
    Changed,
    /// A module reserves this queue, job kind or schedule for its own work.
    #[error("the {resource} {name} is reserved")]
    Reserved {
        /// Type of the reserved resource: `queue`, `job kind` or `schedule`.
        resource: &'static str,
        /// Reserved name.
        name: String,
    },
    /// The database operation failed.
    #[error(transparent)]
    Store(#[from] Error),
}

impl From<FieldError> for JobsError {
    fn from(fault: FieldError) -> Self {
        Self::Invalid(vec![fault])
    }
}

impl From<Invalid> for JobsError {
    fn from(invalid: Invalid) -> Self {
        field_error("", &invalid).into()
    }
}

impl From<QueueError> for JobsError {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::Invalid(invalid) => invalid.into(),
            QueueError::Changed => Self::Changed,
            QueueError::Store(error) => Self::Store(error),
        }
    }
}

impl From<EnqueueError> for JobsError {
    fn from(error: EnqueueError) -> Self {
        match error {
            EnqueueError::Invalid(invalid) => invalid.into(),
            EnqueueError::Unknown(id) => {
                let detail = format!("No job has the ID {id}.");
                FieldError::new("/after", "unknown_job", detail).into()
            }
            EnqueueError::Store(error) => Self::Store(error),
        }
    }
}

/// Converts an error of the engine into a field error. `at` is the JSON Pointer of the object that has the
/// field.
pub fn field_error(at: &str, Invalid { field, why }: &Invalid) -> FieldError {
    FieldError::new(format!("{at}/{}", field.replace('.', "/")), "invalid", format!("The value {why}."))
}

/// Checks that a number of milliseconds is between 0 and ten years.
///
/// # Errors
/// Returns a [`FieldError`] with the code `out_of_range`. Its pointer is `at`.
pub fn check_ms(ms: Option<i64>, at: &str) -> Result<(), FieldError> {
    if ms.is_none_or(|ms| (0..=MAX_MS).contains(&ms)) {
        return Ok(());
    }
    Err(FieldError::new(at.to_owned(), "out_of_range", "Expected milliseconds from 0 to ten years."))
}

/// Converts a number of milliseconds, which was checked before, into a duration.
pub fn duration_ms(ms: i64) -> Duration {
    Duration::from_millis(ms.unsigned_abs())
}
