//! Requests and answers about jobs and queues, and the problem that each refusal becomes.

mod events;
mod jobs;
mod kinds;
mod leases;
mod queues;

use kith_kernel::{Problem, ProblemCode, problems};
use kith_platform::http::{RateClass, rate_limited};
use kith_platform::{Routes, store_problem, tagged};

use super::model::JobsError;

static STALE_ATTEMPT: ProblemCode =
    ProblemCode { code: "stale_attempt", status: 409, title: "This attempt is no longer yours" };
static JOB_ENDED: ProblemCode = ProblemCode { code: "job_ended", status: 409, title: "The job has ended" };
static JOB_UNDER_WAY: ProblemCode =
    ProblemCode { code: "job_under_way", status: 409, title: "The job is under way" };

static UNIQUE_KEY_HELD: ProblemCode =
    ProblemCode { code: "unique_key_held", status: 409, title: "Unique key held" };

/// What these handlers answer with, beside the general problems.
pub const PROBLEMS: &[&ProblemCode] = &[&STALE_ATTEMPT, &JOB_ENDED, &JOB_UNDER_WAY, &UNIQUE_KEY_HELD];

/// The handlers.
pub fn routes() -> Routes {
    let of_workers = Routes::new()
        .merge(jobs::routes())
        .merge(tagged("Workers", leases::routes()))
        .merge(queues::routes())
        .merge(events::routes());
    rate_limited(RateClass::Jobs, &[], of_workers).merge(kinds::routes())
}

impl From<JobsError> for Problem {
    fn from(error: JobsError) -> Self {
        match error {
            JobsError::Faults(faults) => Self::invalid(faults),
            JobsError::Unvalidated(awaits) => awaits.into(),
            JobsError::NotFound => Self::new(&problems::NOT_FOUND, "There is no such job, or none any more."),
            JobsError::Stale => {
                let detail = "It took too long, was cancelled, or has been ended: nothing was changed. Stop working on it.";
                Self::new(&STALE_ATTEMPT, detail)
            }
            JobsError::HadEnded => Self::new(&JOB_ENDED, "It cannot be taken back any more."),
            JobsError::UnderWay => {
                Self::new(&JOB_UNDER_WAY, "It is ready, runs, or waits for others: nothing was changed.")
            }
            JobsError::KeyHeld(holder) => {
                let detail =
                    format!("Job {holder} has the same unique key. Retry this job once that key is free.");
                Self::new(&UNIQUE_KEY_HELD, detail)
            }
            JobsError::Reserved { what, name } => {
                let detail = format!("Kith uses the {what} {name} for its own work. Use a name of your own.");
                Self::new(&problems::RESERVED, detail)
            }
            JobsError::Changed => Self::new(&problems::CONFLICT, "Somebody else has just changed it."),
            JobsError::Store(error) => store_problem(error),
        }
    }
}
