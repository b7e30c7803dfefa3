//! What those do with jobs who have the machine itself: the same as over HTTP, told as lines of text.

use kith_jobs::{CancelOutcome, JobFilter, JobRecord, RetryOutcome};
use kith_kernel::Problem;
use kith_platform::App;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::commands::{self, DRAINED};
use super::model::{JobStatus, JobsError};
use super::queries;

/// Dead letters that are redriven in one transaction.
const REDRIVEN: i64 = 1_000;

/// What somebody wants done.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Jobs, newest first.
    List {
        /// Those that stand so; none: all that have not ended.
        state: Option<JobStatus>,
        /// Those of this queue.
        queue: Option<String>,
        /// Those of this kind.
        kind: Option<String>,
        /// So many at most.
        limit: u32,
    },
    /// All that is known of one.
    Show {
        /// Which.
        id: i64,
    },
    /// Run it now.
    Retry {
        /// Which.
        id: i64,
    },
    /// Take it back.
    Cancel {
        /// Which.
        id: i64,
    },
    /// How queues stand.
    Queues,
    /// Start nothing of it, or let it go on.
    Pause {
        /// Which.
        queue: String,
        /// Whether it is to pause.
        paused: bool,
    },
    /// Take back all that waits in it.
    Drain {
        /// Which.
        queue: String,
    },
    /// Bring dead letters back to life.
    Redrive {
        /// Those of this queue.
        queue: Option<String>,
        /// Those of this kind.
        kind: Option<String>,
    },
}

/// Does what is wanted, and says what came of it.
///
/// # Errors
/// What is in the way.
pub async fn carry_out(app: &App, order: Order) -> Result<Vec<String>, Problem> {
    let ctx = app.system_ctx("command_line");
    Ok(match order {
        Order::List { state, queue, kind, limit } => {
            let filter = JobFilter { state: state.map(JobStatus::into), queue, kind, ..JobFilter::default() };
            let list = app.db.read(move |q| kith_jobs::list_jobs(q, &filter, limit.into()));
            list.await.map_err(JobsError::Store)?.iter().map(line).collect()
        }
        Order::Show { id } => {
            let details = app.db.read(move |q| queries::get_details(q, id)).await?;
            let details = serde_json::to_value(details).unwrap_or_default();
            details.as_object().into_iter().flatten().map(|(name, value)| told(name, value)).collect()
        }
        Order::Retry { id } => {
            let retried = app.write(&ctx, move |tx, ctx| {
                let outcome = kith_jobs::retry(tx, ctx, id)?;
                tx.audit(ctx, "job.retried", id);
                Ok::<_, JobsError>(outcome)
            });
            vec![match retried.await? {
                RetryOutcome::Hurried | RetryOutcome::Revived => format!("job {id} runs now"),
                RetryOutcome::Anew(now) => format!("job {id} had ended; job {now} does it again"),
                RetryOutcome::Live => return Err(JobsError::UnderWay.into()),
                RetryOutcome::KeyHeld(holder) => return Err(JobsError::KeyHeld(holder).into()),
                RetryOutcome::Unknown => return Err(JobsError::NotFound.into()),
            }]
        }
        Order::Cancel { id } => {
            let cancelled = app.write(&ctx, move |tx, ctx| {
                let outcome = kith_jobs::cancel(tx, ctx, id, "somebody took it back")?;
                tx.audit(ctx, "job.cancelled", id);
                Ok::<_, JobsError>(outcome)
            });
            vec![match cancelled.await? {
                CancelOutcome::Cancelled => format!("job {id} is cancelled"),
                CancelOutcome::Asked => format!("job {id} runs and was asked to stop"),
                CancelOutcome::HadEnded => return Err(JobsError::HadEnded.into()),
                CancelOutcome::Unknown => return Err(JobsError::NotFound.into()),
            }]
        }
        Order::Queues => {
            let list = app.db.export(move |q| queries::list_queues(q, &ctx)).await?;
            list.lines()
        }
        Order::Pause { queue, paused } => {
            let name = queue.clone();
            app.write(&ctx, move |tx, ctx| commands::pause_queue(tx, ctx, &name, paused)).await?;
            vec![format!("queue {queue} {}", if paused { "is paused" } else { "goes on" })]
        }
        Order::Drain { queue } => {
            let mut all = 0;
            loop {
                let name = queue.clone();
                let drained = app.write(&ctx, move |tx, ctx| commands::drain_queue(tx, ctx, &name)).await?;
                all += drained;
                if drained < DRAINED {
                    break vec![format!("{all} jobs of queue {queue} are cancelled")];
                }
            }
        }
        Order::Redrive { queue, kind } => {
            let mut all = 0;
            loop {
                let (queue, kind) = (queue.clone(), kind.clone());
                let redriven = app.write(&ctx, move |tx, ctx| {
                    let jobs = kith_jobs::redrive(tx, ctx, queue.as_deref(), kind.as_deref(), REDRIVEN)?;
                    tx.audit(ctx, "jobs.redriven", queue.as_deref().unwrap_or("all"));
                    Ok::<_, JobsError>(jobs)
                });
                let redriven = redriven.await?;
                all += redriven;
                if redriven < REDRIVEN.unsigned_abs() {
                    break vec![format!("{all} dead letters live again")];
                }
            }
        }
    })
}

fn line(job: &JobRecord) -> String {
    let last = job.errors.last().map_or(String::new(), |failure| {
        let first = failure.error.lines().next().unwrap_or_default();
        format!(" {first:?}")
    });
    let JobRecord { id, queue, kind, state, attempt, run_at, .. } = job;
    format!("{id} {queue} {kind} {} attempt {attempt} run_at {run_at}{last}", state.as_str())
}

fn told(name: &str, value: &Value) -> String {
    match value {
        Value::String(text) => format!("{name}: {text}"),
        other => format!("{name}: {other}"),
    }
}
