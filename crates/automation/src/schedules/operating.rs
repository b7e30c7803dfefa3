//! Schedules for whoever has the machine itself: what can be asked for on the command line, and what is told.

use kith_jobs::JobId;
use kith_jobs::schedules::{self, Schedule, ScheduleError, ScheduleFilter, find_schedule, list_runs};
use kith_kernel::{Ctx, FieldError, Problem, Timestamp};
use kith_platform::http::read_value;
use kith_platform::{App, Preconditions, store_problem};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::commands::{self, Refusal};
use super::model::{ScheduleAnswer, ScheduleBody, ScheduleName, ScheduleRun};

/// Schedules that a list shows at most.
const LISTED_MOST: i64 = 10_000;
/// Runs that are shown with a schedule.
const RUNS: i64 = 20;

/// What can be asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleOrder {
    /// All, or those of a queue, of a kind, or that are paused.
    List {
        /// Of this queue.
        queue: Option<String>,
        /// Of this kind.
        kind: Option<String>,
        /// Only those that are paused.
        paused: bool,
    },
    /// Makes one, or changes what it runs and when.
    Set {
        /// Its name.
        name: String,
        /// What `PUT /api/v1/schedules/{name}` takes.
        body: Value,
    },
    /// Removes one, and what is known of its runs.
    Delete(String),
    /// One, with its last runs.
    Show(String),
    /// Stop one until it is resumed.
    Pause(String),
    /// Go on with one.
    Resume(String),
    /// Run one at once.
    Run(String),
    /// Run what one would have run in a past time.
    Backfill {
        /// Which.
        name: String,
        /// From here.
        from: Timestamp,
        /// Until before here.
        to: Timestamp,
    },
}

/// What is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleTold {
    /// Those that were asked for, by name.
    Schedules(Vec<ScheduleAnswer>),
    /// The one that was asked for, with its last runs, the latest first.
    Schedule(Box<ScheduleAnswer>, Vec<ScheduleRun>),
    /// The jobs that were enqueued.
    Jobs(Vec<JobId>),
}

/// Does what is asked for.
///
/// # Errors
/// A problem, if it cannot be done.
pub async fn carry_out(app: &App, ctx: &Ctx, order: ScheduleOrder) -> Result<ScheduleTold, Problem> {
    match order {
        ScheduleOrder::List { queue, kind, paused } => {
            let paused = paused.then_some(true);
            let filter = ScheduleFilter { queue, kind, paused, ..ScheduleFilter::default() };
            let list = move |q: &kith_store::Query<'_>| schedules::list_schedules(q, &filter, LISTED_MOST);
            let found = app.db.read(list).await.map_err(store_problem)?;
            Ok(ScheduleTold::Schedules(found.into_iter().map(ScheduleAnswer::from).collect()))
        }
        ScheduleOrder::Set { name, body } => set(app, ctx, name, body).await,
        ScheduleOrder::Delete(name) => {
            let reserved = app.reserved_jobs();
            app.write(ctx, move |tx, ctx| {
                commands::delete(tx, ctx, reserved, &name, &Preconditions::default())
            })
            .await?;
            Ok(ScheduleTold::Schedules(Vec::new()))
        }
        ScheduleOrder::Show(name) => show(app, name).await,
        ScheduleOrder::Pause(name) => set_paused(app, ctx, name, true).await,
        ScheduleOrder::Resume(name) => set_paused(app, ctx, name, false).await,
        ScheduleOrder::Run(name) => {
            let run =
                app.write(ctx, move |tx, ctx| schedules::run_now(tx, ctx, &name).map_err(Refusal::Engine));
            Ok(ScheduleTold::Jobs(vec![run.await?]))
        }
        ScheduleOrder::Backfill { name, from, to } => {
            let done = app.write(ctx, move |tx, ctx| {
                schedules::backfill(tx, ctx, &name, from, to).map_err(Refusal::Engine)
            });
            Ok(ScheduleTold::Jobs(done.await?.jobs.into_iter().map(|(_, job)| job).collect()))
        }
    }
}

async fn set(app: &App, ctx: &Ctx, name: String, body: Value) -> Result<ScheduleTold, Problem> {
    let fault = |fault| Problem::invalid(vec![fault]);
    let body: ScheduleBody = read_value(&body, "").map_err(fault)?;
    let plan = body.plan().map_err(Problem::invalid)?;
    let name: ScheduleName = name
        .parse()
        .map_err(|why: &str| fault(FieldError::new("/name", "invalid", format!("Expected {why}."))))?;
    let (reserved, told) = (app.reserved_jobs(), name.0.clone());
    app.write(ctx, move |tx, ctx| {
        commands::set(tx, ctx, reserved, &name.0, &plan, &Preconditions::default()).map(drop)
    })
    .await?;
    show(app, told).await
}

async fn show(app: &App, name: String) -> Result<ScheduleTold, Problem> {
    let read = app.db.read(move |q| {
        let found: Schedule = find_schedule(q, &name)?.ok_or(ScheduleError::Unknown)?;
        let runs = list_runs(q, &name, Timestamp::from_millis(i64::MAX), RUNS)?;
        Ok::<_, Refusal>((found, runs))
    });
    let (found, runs) = read.await?;
    Ok(ScheduleTold::Schedule(Box::new(found.into()), runs.into_iter().map(ScheduleRun::from).collect()))
}

async fn set_paused(app: &App, ctx: &Ctx, name: String, paused: bool) -> Result<ScheduleTold, Problem> {
    let told = name.clone();
    app.write(ctx, move |tx, ctx| {
        schedules::set_paused(tx, ctx, &name, paused).map(drop).map_err(Refusal::Engine)
    })
    .await?;
    show(app, told).await
}
