//! HTTP callbacks: signed requests that the server sends for callers and retries, and the endpoints that
//! receive them. `kith_platform::outbound` decides which targets are allowed. The crate `kith_jobs` runs the
//! jobs.

mod commands;
mod delivery;
mod events;
mod http;
mod maintenance;
mod model;
mod queries;
mod recurring;
mod rows;
mod rules;
mod sealed;
mod transitions;

use kith_jobs::schedules::DeclaredSchedule;
use kith_jobs::{AttemptContext, JobError, JobOutput, JobType, MAX_ATTEMPTS, RetryPolicy};
use kith_platform::{App, Module, ModuleJob, Tag};
use kith_store::Migration;
use serde::{Deserialize, Serialize};

use model::{CallbackId, RecurringId};

/// Job that delivers a callback. Its retries follow the retry schedule of the callback.
const DELIVERY: JobType<Delivery> =
    JobType::new("callbacks.deliver", "callbacks").retry(RetryPolicy::times(MAX_ATTEMPTS));

/// Payload of the job that delivers a callback.
#[derive(Debug, Serialize, Deserialize)]
struct Delivery {
    callback_id: CallbackId,
}

async fn deliver(app: App, run: AttemptContext) -> Result<JobOutput, JobError> {
    let Delivery { callback_id } = serde_json::from_str(&run.payload).map_err(JobError::discard)?;
    delivery::deliver(&app, callback_id, run.id).await
}

/// Type of the job that performs one run of a recurring callback.
const RECURRING_RUN: JobType<RecurringRun> = JobType::new("callbacks.recur", "callbacks");

/// Payload of the job that performs one run of a recurring callback.
#[derive(Debug, Serialize, Deserialize)]
struct RecurringRun {
    recurring_id: RecurringId,
}

async fn run_recurring(app: App, run: AttemptContext) -> Result<JobOutput, JobError> {
    let RecurringRun { recurring_id } = serde_json::from_str(&run.payload).map_err(JobError::discard)?;
    recurring::run(&app, recurring_id, run.id).await
}

/// The module `callbacks`.
pub static MODULE: Module = Module {
    depends_on: &["accounts"],
    tags: &[Tag {
        name: "Callbacks",
        description: "Send signed HTTP requests to your servers, once or on a schedule, with retries.",
    }],
    routes: http::routes,
    migrations: &[Migration {
        version: 1,
        name: "callbacks",
        sql: include_str!("migrations/0001_callbacks.sql"),
    }],
    problems: http::PROBLEMS,
    events: events::KINDS,
    jobs: &[
        ModuleJob::new(DELIVERY.kind, DELIVERY.queue, |app, run| Box::pin(deliver(app, run))),
        ModuleJob::new(RECURRING_RUN.kind, RECURRING_RUN.queue, |app, run| Box::pin(run_recurring(app, run))),
        ModuleJob::maintenance("callbacks.delete-ended", |app| Box::pin(maintenance::delete_ended(app))),
        ModuleJob::maintenance("callbacks.enqueue-lost", |app| Box::pin(maintenance::enqueue_lost(app))),
    ],
    schedules: &[
        DeclaredSchedule::maintenance("callbacks.delete-ended", "@every 1h"),
        DeclaredSchedule::maintenance("callbacks.enqueue-lost", "@every 5m"),
    ],
    sealed: rows::SEALED,
    ..Module::named("callbacks")
};
