//! Chronizer, the durable job engine. Each job is a row in the database. A job enqueued in a transaction
//! exists if and only if the transaction commits, and it runs at least once.
//!
//! The engine depends on no feature module and not on HTTP. Callers with a transaction use [`enqueue()`] and
//! the other functions that have a `Tx` parameter. Callers without a transaction use [`Jobs`]. [`Workers`]
//! run handlers.

mod batch;
mod claim;
mod dependents;
mod enqueue;
mod enqueuer;
mod finish;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod history;
mod jobs;
mod leases;
mod maintenance;
mod model;
mod new_job;
mod queries;
mod queues;
mod retry;
mod revive;
mod rows;
pub mod schedules;
mod stats;
mod workers;

use kith_store::{Migration, ModuleMigrations};

pub use claim::Claim;
pub use enqueue::{EnqueueError, Flow, enqueue, enqueue_all, enqueue_flow};
pub use finish::{
    AttemptReport, CANCEL_CHANNEL, CancelOutcome, ReportOutcome, cancel, report, return_to_queue,
};
pub use history::Retention;
pub use jobs::{HeartbeatOutcome, Jobs};
pub use leases::{LeaseRenewal, LeasedClaim, append_log, heartbeat, report_leased, store_progress};
pub use maintenance::MaintenanceState;
pub use model::{
    Attempt, ClaimToken, ClaimedJob, DEFAULT_PRIORITY, DependencyResult, Enqueued, Failure, Invalid,
    JobError, JobId, JobOutput, JobRecord, JobState, LogLine, MAX_ATTEMPTS, MAX_CRASHES, MAX_KEY_BYTES,
    MAX_NAME_BYTES, MAX_PAYLOAD_BYTES, MAX_PRIORITY, check_key, check_name,
};
pub use new_job::{NewJob, OnConflict, OnFailure, Unique};
pub use queries::{JobFilter, find_job, is_idle, list_jobs, list_log, list_results};
pub use queues::{QueueError, QueueSettings, Rate, find_settings, list_settings, set as set_queue};
pub use retry::RetryPolicy;
pub use revive::{RetryOutcome, discard_dead, redrive, retry};
#[doc(hidden)] // Tests and benchmarks explain it.
pub use rows::statements::CLAIM;
pub use stats::{
    DURATION_BUCKETS_MS, JobCounts, JobTotals, KindSummary, Minute, QueueSample, list_kind_summaries,
    list_minutes, list_samples, sample_queues,
};
pub use workers::progress_channel;
pub use workers::{AttemptContext, Handler, JobType, QueueConcurrency, WorkerOptions, Workers};

/// Migrations of the engine's tables. They run before the migrations of the modules.
pub const JOBS_MIGRATIONS: ModuleMigrations = ModuleMigrations {
    module: "jobs",
    migrations: &[Migration { version: 1, name: "jobs", sql: include_str!("../migrations/0001_jobs.sql") }],
};

/// Returns the name of the channel that is notified when a queue may have a job to start.
pub fn queue_channel(queue: &str) -> String {
    format!("jobs/{queue}")
}
