//! Jobs, kinds and queues as the API shows and takes them, and the refusals. A file per subject.

mod job;
mod kind;
mod new_job;
mod queue;

use std::time::Duration;

use kith_jobs::{EnqueueError, Invalid, QueueError};
use kith_json_schema::AwaitsValidation;
use kith_kernel::FieldError;
use kith_store::Error;
use thiserror::Error;

pub use job::{AwaitedJob, ClaimedJob, ClaimedJobs, Job, JobDetails, JobLogLine, JobStatus, read_json};
pub use kind::{JobKind, JobKindBody, RetryBody};
pub use new_job::{EnqueuedJob, EnqueuedJobs, NewJobBody, NewJobsBody, OnFailureBody, UniqueBody};
pub use queue::{
    Queue, QueueDepth, QueueDetails, QueueLimits, QueueLimitsBody, QueueMinute, QueueMoment, QueueName,
    QueueTally, Queues,
};

/// The longest wait or period that makes sense: ten years.
const LONGEST_MS: i64 = 10 * 366 * 86_400_000;

/// Why nothing was done to jobs.
#[derive(Debug, Error)]
pub enum JobsError {
    /// The input has faults.
    #[error("the input has faults")]
    Faults(Vec<FieldError>),
    /// Payloads have not been validated against the schemas that hold.
    #[error(transparent)]
    Unvalidated(#[from] AwaitsValidation),
    /// There is no such thing.
    #[error("there is no such job")]
    NotFound,
    /// The attempt is somebody else's by now, or has ended.
    #[error("the attempt is no longer the caller's")]
    Stale,
    /// It has ended.
    #[error("the job has ended")]
    HadEnded,
    /// It is ready, runs or waits for others.
    #[error("the job is under way")]
    UnderWay,
    /// Another job holds its unique key.
    #[error("job {0} holds the unique key")]
    KeyHeld(i64),
    /// Somebody else changed it since it was read.
    #[error("it was changed since it was read")]
    Changed,
    /// A module declares this queue, job kind or schedule for its own work.
    #[error("the {what} {name} is reserved")]
    Reserved {
        /// `queue`, `job kind` or `schedule`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The database's.
    #[error(transparent)]
    Store(#[from] Error),
}

impl From<FieldError> for JobsError {
    fn from(fault: FieldError) -> Self {
        Self::Faults(vec![fault])
    }
}

impl From<Invalid> for JobsError {
    fn from(invalid: Invalid) -> Self {
        fault_at("", &invalid).into()
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
                let detail = format!("There is no job {id} to wait for.");
                FieldError::new("/after", "unknown_job", detail).into()
            }
            EnqueueError::Store(error) => Self::Store(error),
        }
    }
}

/// What the engine found wrong, as a fault of a field below `at`.
pub fn fault_at(at: &str, Invalid { field, why }: &Invalid) -> FieldError {
    FieldError::new(format!("{at}/{}", field.replace('.', "/")), "invalid", format!("It {why}."))
}

/// Whether a time in milliseconds is one.
///
/// # Errors
/// `out_of_range` at `at`.
pub fn check_ms(ms: Option<i64>, at: &str) -> Result<(), FieldError> {
    if ms.is_none_or(|ms| (0..=LONGEST_MS).contains(&ms)) {
        return Ok(());
    }
    Err(FieldError::new(at.to_owned(), "out_of_range", "Between 0 and ten years."))
}

/// Milliseconds that were checked.
pub fn ms(ms: i64) -> Duration {
    Duration::from_millis(ms.unsigned_abs())
}
