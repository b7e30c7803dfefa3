//! Command-line operations on schedules.

use kith_jobs::JobId;
use kith_jobs::schedules::{self, Schedule, ScheduleError, ScheduleFilter, find_schedule, list_runs};
use kith_kernel::{Ctx, FieldError, Problem, Timestamp};
use kith_platform::http::read_value;
use kith_platform::{App, Preconditions, store_problem};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::commands::{self, ScheduleCommandError};
use super::model::{ScheduleBody, ScheduleName, ScheduleResponse, ScheduleRun};

/// Maximum number of schedules in a list.
const MAX_LISTED_SCHEDULES: i64 = 10_000;
/// Number of runs shown with a schedule.
const SHOWN_RUNS: i64 = 20;

/// Operation requested at the command line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleOperation {
    /// Lists schedules.
    List {
        /// Queue of the schedules.
        queue: Option<String>,
        /// Job kind of the schedules.
        kind: Option<String>,
        /// `true` to list only paused schedules.
        paused: bool,
    },
    /// Creates or replaces a schedule.
    Set {
        /// Name of the schedule.
        name: String,
        /// Request body of `PUT /api/v1/schedules/{name}`.
        body: Value,
    },
    /// Deletes a schedule and the history of its runs.
    Delete(String),
    /// Shows a schedule with its last runs.
    Show(String),
    /// Pauses a schedule.
    Pause(String),
    /// Resumes a schedule.
    Resume(String),
    /// Runs a schedule now.
    Run(String),
    /// Enqueues the runs of a past period.
    Backfill {
        /// Name of the schedule.
        name: String,
        /// Start of the period, inclusive.
        from: Timestamp,
        /// End of the period, exclusive.
        to: Timestamp,
    },
}

/// Result of an operation.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleOperationResult {
    /// Schedules, ordered by name; empty after the deletion of a schedule.
    Schedules(Vec<ScheduleResponse>),
    /// Schedule with its last runs, latest first.
    Schedule(Box<ScheduleResponse>, Vec<ScheduleRun>),
    /// IDs of the enqueued jobs.
    Jobs(Vec<JobId>),
}

/// Runs an operation and returns its result.
///
/// # Errors
/// Returns a problem if the operation is rejected or the database operation fails.
pub async fn run_operation(
    app: &App,
    ctx: &Ctx,
    operation: ScheduleOperation,
) -> Result<ScheduleOperationResult, Problem> {
    match operation {
        ScheduleOperation::List { queue, kind, paused } => {
            let paused = paused.then_some(true);
            let filter = ScheduleFilter { queue, kind, paused, ..ScheduleFilter::default() };
            let list =
                move |q: &kith_store::Query<'_>| schedules::list_schedules(q, &filter, MAX_LISTED_SCHEDULES);
            let found = app.db.read(list).await.map_err(store_problem)?;
            Ok(ScheduleOperationResult::Schedules(found.into_iter().map(ScheduleResponse::from).collect()))
        }
        ScheduleOperation::Set { name, body } => set(app, ctx, name, body).await,
        ScheduleOperation::Delete(name) => {
            let reserved = app.reserved_jobs();
            app.write(ctx, move |tx, ctx| {
                commands::delete(tx, ctx, reserved, &name, &Preconditions::default())
            })
            .await?;
            Ok(ScheduleOperationResult::Schedules(Vec::new()))
        }
        ScheduleOperation::Show(name) => show(app, name).await,
        ScheduleOperation::Pause(name) => set_paused(app, ctx, name, true).await,
        ScheduleOperation::Resume(name) => set_paused(app, ctx, name, false).await,
        ScheduleOperation::Run(name) => {
            let run = app.write(ctx, move |tx, ctx| {
                schedules::run_now(tx, ctx, &name).map_err(ScheduleCommandError::Engine)
            });
            Ok(ScheduleOperationResult::Jobs(vec![run.await?]))
        }
        ScheduleOperation::Backfill { name, from, to } => {
            let done = app.write(ctx, move |tx, ctx| {
                schedules::backfill(tx, ctx, &name, from, to).map_err(ScheduleCommandError::Engine)
            });
            Ok(ScheduleOperationResult::Jobs(done.await?.jobs.into_iter().map(|(_, job)| job).collect()))
        }
    }
}

async fn set(app: &App, ctx: &Ctx, name: String, body: Value) -> Result<ScheduleOperationResult, Problem> {
    let fault = |fault| Problem::invalid(vec![fault]);
    let body: ScheduleBody = read_value(&body, "").map_err(fault)?;
    let plan = body.plan().map_err(Problem::invalid)?;
    let name: ScheduleName = name
        .parse()
        .map_err(|why: &str| fault(FieldError::new("/name", "invalid", format!("Expected {why}."))))?;
    let (reserved, shown) = (app.reserved_jobs(), name.0.clone());
    app.write(ctx, move |tx, ctx| {
        commands::set(tx, ctx, reserved, &name.0, &plan, &Preconditions::default()).map(drop)
    })
    .await?;
    show(app, shown).await
}

async fn show(app: &App, name: String) -> Result<ScheduleOperationResult, Problem> {
    let read = app.db.read(move |q| {
        let found: Schedule = find_schedule(q, &name)?.ok_or(ScheduleError::Unknown)?;
        let runs = list_runs(q, &name, Timestamp::from_millis(i64::MAX), SHOWN_RUNS)?;
        Ok::<_, ScheduleCommandError>((found, runs))
    });
    let (found, runs) = read.await?;
    Ok(ScheduleOperationResult::Schedule(
        Box::new(found.into()),
        runs.into_iter().map(ScheduleRun::from).collect(),
    ))
}

async fn set_paused(
    app: &App,
    ctx: &Ctx,
    name: String,
    paused: bool,
) -> Result<ScheduleOperationResult, Problem> {
    let shown = name.clone();
    app.write(ctx, move |tx, ctx| {
        schedules::set_paused(tx, ctx, &name, paused).map(drop).map_err(ScheduleCommandError::Engine)
    })
    .await?;
    show(app, shown).await
}
