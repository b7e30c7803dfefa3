//! Command-line operations on jobs and queues. Results are lines of text.

use kith_jobs::{CancelOutcome, JobFilter, JobRecord, RetryOutcome};
use kith_kernel::Problem;
use kith_platform::App;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::commands::{self, MAX_DRAINED_JOBS};
use super::model::{JobStatus, JobsError};
use super::queries;

/// Maximum number of dead letters redriven in one transaction.
const REDRIVE_BATCH_SIZE: i64 = 1_000;

/// Operation requested at the command line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobOperation {
    /// Lists jobs, newest first.
    List {
        /// State of the jobs; `None` for all jobs that have not ended.
        state: Option<JobStatus>,
        /// Queue of the jobs.
        queue: Option<String>,
        /// Kind of the jobs.
        kind: Option<String>,
        /// Maximum number of jobs.
        limit: u32,
    },
    /// Shows a job in detail.
    Show {
        /// Job ID.
        id: i64,
    },
    /// Runs a job now.
    Retry {
        /// Job ID.
        id: i64,
    },
    /// Cancels a job.
    Cancel {
        /// Job ID.
        id: i64,
    },
    /// Lists queues.
    Queues,
    /// Pauses or resumes a queue.
    Pause {
        /// Name of the queue.
        queue: String,
        /// `true` to pause, `false` to resume.
        paused: bool,
    },
    /// Cancels all jobs of a queue that are not running.
    Drain {
        /// Name of the queue.
        queue: String,
    },
    /// Makes dead letters ready to run again.
    Redrive {
        /// Queue of the jobs.
        queue: Option<String>,
        /// Kind of the jobs.
        kind: Option<String>,
    },
}

/// Runs an operation and returns its result as lines of text.
///
/// # Errors
/// Returns a problem if the operation is rejected or the database operation fails.
pub async fn run_operation(app: &App, operation: JobOperation) -> Result<Vec<String>, Problem> {
    let ctx = app.system_ctx("command_line");
    Ok(match operation {
        JobOperation::List { state, queue, kind, limit } => {
            let filter = JobFilter { state: state.map(JobStatus::into), queue, kind, ..JobFilter::default() };
            let list = app.db.read(move |q| kith_jobs::list_jobs(q, &filter, limit.into()));
            list.await.map_err(JobsError::Store)?.iter().map(job_line).collect()
        }
        JobOperation::Show { id } => {
            let details = app.db.read(move |q| queries::get_details(q, id)).await?;
            let details = serde_json::to_value(details).unwrap_or_default();
            details.as_object().into_iter().flatten().map(|(name, value)| detail_line(name, value)).collect()
        }
        JobOperation::Retry { id } => {
            let retried = app.write(&ctx, move |tx, ctx| {
                let outcome = kith_jobs::retry(tx, ctx, id)?;
                tx.audit(ctx, "job.retried", id);
                Ok::<_, JobsError>(outcome)
            });
            vec![match retried.await? {
                RetryOutcome::MadeDue | RetryOutcome::Revived => format!("job {id} runs now"),
                RetryOutcome::Reenqueued(now) => {
                    format!("job {id} had ended; enqueued job {now} in its place")
                }
                RetryOutcome::Live => return Err(JobsError::NotRetryable.into()),
                RetryOutcome::KeyHeld(holder) => return Err(JobsError::UniqueKeyHeld(holder).into()),
                RetryOutcome::Unknown => return Err(JobsError::NotFound.into()),
            }]
        }
        JobOperation::Cancel { id } => {
            let cancelled = app.write(&ctx, move |tx, ctx| {
                let outcome = kith_jobs::cancel(tx, ctx, id, "cancelled on request")?;
                tx.audit(ctx, "job.cancelled", id);
                Ok::<_, JobsError>(outcome)
            });
            vec![match cancelled.await? {
                CancelOutcome::Cancelled => format!("job {id} cancelled"),
                CancelOutcome::Requested => format!("job {id} is running; cancellation requested"),
                CancelOutcome::AlreadyEnded => return Err(JobsError::AlreadyEnded.into()),
                CancelOutcome::Unknown => return Err(JobsError::NotFound.into()),
            }]
        }
        JobOperation::Queues => {
            let list = app.db.export(move |q| queries::list_queues(q, &ctx)).await?;
            list.lines()
        }
        JobOperation::Pause { queue, paused } => {
            let name = queue.clone();
            app.write(&ctx, move |tx, ctx| commands::pause_queue(tx, ctx, &name, paused)).await?;
            vec![format!("queue {queue} {}", if paused { "paused" } else { "resumed" })]
        }
        JobOperation::Drain { queue } => {
            let mut total = 0;
            loop {
                let name = queue.clone();
                let drained = app.write(&ctx, move |tx, ctx| commands::drain_queue(tx, ctx, &name)).await?;
                total += drained;
                if drained < MAX_DRAINED_JOBS {
                    break vec![format!("cancelled {total} jobs of queue {queue}")];
                }
            }
        }
        JobOperation::Redrive { queue, kind } => {
            let mut total = 0;
            loop {
                let (queue, kind) = (queue.clone(), kind.clone());
                let redriven = app.write(&ctx, move |tx, ctx| {
                    let jobs =
                        kith_jobs::redrive(tx, ctx, queue.as_deref(), kind.as_deref(), REDRIVE_BATCH_SIZE)?;
                    tx.audit(ctx, "jobs.redriven", queue.as_deref().unwrap_or("all"));
                    Ok::<_, JobsError>(jobs)
                });
                let redriven = redriven.await?;
                total += redriven;
                if redriven < REDRIVE_BATCH_SIZE.unsigned_abs() {
                    break vec![format!("redrove {total} dead letters")];
                }
            }
        }
    })
}

fn job_line(job: &JobRecord) -> String {
    let last = job.errors.last().map_or(String::new(), |failure| {
        let first = failure.error.lines().next().unwrap_or_default();
        format!(" {first:?}")
    });
    let JobRecord { id, queue, kind, state, attempt, run_at, .. } = job;
    format!("{id} {queue} {kind} {} attempt {attempt} run_at {run_at}{last}", state.as_str())
}

fn detail_line(name: &str, value: &Value) -> String {
    match value {
        Value::String(text) => format!("{name}: {text}"),
        other => format!("{name}: {other}"),
    }
}
