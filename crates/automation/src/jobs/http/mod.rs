//! HTTP endpoints for jobs, job kinds and queues, and the conversion of errors into problems.

mod claims;
mod events;
mod jobs;
mod kinds;
mod leases;
mod queues;

use kith_kernel::{Problem, ProblemCode, problems};
use kith_platform::http::{RateClass, rate_limited};
use kith_platform::{Routes, store_problem, tagged};

use super::model::JobsError;
use super::settings::QueueSettings;

static STALE_ATTEMPT: ProblemCode =
    ProblemCode { code: "stale_attempt", status: 409, title: "Stale attempt" };
static JOB_ENDED: ProblemCode = ProblemCode { code: "job_ended", status: 409, title: "Job ended" };
static JOB_NOT_RETRYABLE: ProblemCode =
    ProblemCode { code: "job_not_retryable", status: 409, title: "Job not retryable" };

static UNIQUE_KEY_HELD: ProblemCode =
    ProblemCode { code: "unique_key_held", status: 409, title: "Unique key held" };

/// Problem codes that these endpoints return, in addition to the general ones.
pub const PROBLEMS: &[&ProblemCode] = &[&STALE_ATTEMPT, &JOB_ENDED, &JOB_NOT_RETRYABLE, &UNIQUE_KEY_HELD];

/// Limit of the routes that workers call, many times per second: `job_queues.requests_per_minute`.
pub const WORKERS: RateClass =
    RateClass { name: "jobs", per_minute: |config| config.section::<QueueSettings>().requests_per_minute };

/// Returns the routes of jobs, job kinds and queues.
pub fn routes() -> Routes {
    let job_routes = Routes::new()
        .merge(jobs::routes())
        .merge(tagged("Workers", claims::routes().merge(leases::routes())))
        .merge(queues::routes())
        .merge(events::routes());
    rate_limited(WORKERS, &[], job_routes).merge(kinds::routes())
}

impl From<JobsError> for Problem {
    fn from(error: JobsError) -> Self {
        match error {
            JobsError::Invalid(faults) => Self::invalid(faults),
            JobsError::Unvalidated(error) => error.into(),
            JobsError::NotFound => Self::new(
                &problems::NOT_FOUND,
                "This job or job kind does not exist, or the job is no longer stored.",
            ),
            JobsError::Stale => {
                let detail = "The lease has expired, or the attempt was cancelled or has ended. Nothing was changed. Stop working on this job.";
                Self::new(&STALE_ATTEMPT, detail)
            }
            JobsError::AlreadyEnded => {
                Self::new(&JOB_ENDED, "The job has already ended, so it cannot be cancelled.")
            }
            JobsError::NotRetryable => Self::new(
                &JOB_NOT_RETRYABLE,
                "The job is ready, running or blocked. Only scheduled, dead and ended jobs can be retried.",
            ),
            JobsError::UniqueKeyHeld(holder) => {
                let detail =
                    format!("Job {holder} has the same unique key. Retry this job once that key is free.");
                Self::new(&UNIQUE_KEY_HELD, detail)
            }
            JobsError::Reserved { resource, name } => {
                let detail = format!("The {resource} {name} is reserved for the server. Use another name.");
                Self::new(&problems::RESERVED, detail)
            }
            JobsError::Changed => Self::new(
                &problems::CONFLICT,
                "The settings have changed since they were read. Read them again and retry.",
            ),
            JobsError::Store(error) => store_problem(error),
        }
    }
}
