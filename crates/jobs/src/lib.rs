//! Chronizer, the durable job engine. Jobs are rows. A job enqueued in a transaction exists if and only if
//! the transaction commits, and it runs at least once.
//!
//! The engine depends on no feature module and not on HTTP. Commands use [`enqueue()`] and the other
//! functions over a `Tx`. Callers without a transaction use [`Jobs`]. [`Workers`] run handlers.

mod batch;
mod claim;
mod enqueue;
mod enqueuer;
mod finish;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod history;
mod jobs;
mod leases;
mod look;
mod model;
mod new_job;
mod queues;
mod retry;
mod revive;
mod rows;
pub mod schedules;
mod settle;
mod stats;
mod upkeep;
mod workers;

use kith_store::{Migration, ModuleMigrations};

pub use claim::Claim;
pub use enqueue::{EnqueueError, Flow, enqueue, enqueue_all, enqueue_flow};
pub use finish::{CANCEL_CHANNEL, CancelOutcome, Report, ReportOutcome, cancel, give_back, report};
pub use history::Retention;
pub use jobs::{HeartbeatOutcome, Jobs};
pub use leases::{Kept, LeasedClaim, heartbeat, keep_log, keep_progress, report_leased};
pub use look::{JobFilter, find_job, is_idle, list_jobs, list_log, list_results};
pub use model::{
    Attempt, DependencyResult, ClaimToken, ClaimedJob, DEFAULT_PRIORITY, Done, Enqueued, Failure, Invalid, JobError,
    JobId, JobRecord, JobState, LogLine, MAX_ATTEMPTS, MAX_CRASHES, MAX_KEY_BYTES, MAX_NAME_BYTES,
    MAX_PAYLOAD_BYTES, MAX_PRIORITY, check_key, check_name,
};
pub use new_job::{NewJob, OnConflict, OnFailure, Unique};
pub use queues::{QueueError, QueueSettings, Rate, find_settings, list_settings, set as set_queue};
pub use retry::Retry;
pub use revive::{RetryOutcome, discard_dead, redrive, retry};
#[doc(hidden)] // Tests and benchmarks explain it.
pub use rows::statements::CLAIM;
pub use stats::{
    DURATION_BUCKETS_MS, Minute, KindSummary, QueueSample, JobCounts, JobTotals, list_minutes, list_records, list_samples, look,
};
pub use upkeep::MaintenanceState;
pub use workers::progress_bell;
pub use workers::{Handler, JobType, QueueConcurrency, AttemptContext, WorkerOptions, Workers};

/// Migrations of the engine's tables. They run before the migrations of all modules.
pub const JOBS_MIGRATIONS: ModuleMigrations = ModuleMigrations {
    module: "jobs",
    migrations: &[
        Migration { version: 1, name: "jobs", sql: include_str!("../migrations/0001_jobs.sql") },
        Migration { version: 2, name: "schedules", sql: include_str!("../migrations/0002_schedules.sql") },
        Migration {
            version: 3,
            name: "claim_tokens",
            sql: include_str!("../migrations/0003_claim_tokens.sql"),
        },
        Migration {
            version: 4,
            name: "settlements",
            sql: include_str!("../migrations/0004_settlements.sql"),
        },
        Migration { version: 5, name: "key_expiry", sql: include_str!("../migrations/0005_key_expiry.sql") },
    ],
};

/// Returns the name of the channel that is notified when a queue may have a job to start.
pub fn bell_of(queue: &str) -> String {
    format!("jobs/{queue}")
}
