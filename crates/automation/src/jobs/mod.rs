//! HTTP API of the job engine. Other programs enqueue, watch and claim jobs, and report results.
//!
//! The engine itself is the crate `kith_jobs`. This module adds the HTTP API and the declarations of job
//! kinds.

mod commands;
mod http;
mod model;
mod operations;
mod queries;
mod rows;
mod rules;
mod settings;

use kith_platform::config::ConfigSection;
use kith_platform::{Module, Tag};
use kith_store::Migration;

pub use model::{JobStatus, JobsError, RetryBody};
pub use operations::{JobOperation, run_operation};
pub use rules::{reject_reserved, reject_reserved_for_api_key};
pub use settings::QueueSettings;

/// The module `job_queues`. It is not called `jobs`, because the engine's tables use that name.
pub static MODULE: Module = Module {
    depends_on: &["accounts"],
    tags: &[
        Tag { name: "Jobs", description: "Enqueue jobs, follow them, and manage queues and dead letters." },
        Tag { name: "Workers", description: "Claim jobs, renew their leases, and report their results." },
    ],
    routes: http::routes,
    rate_classes: &[http::WORKERS],
    config: &[ConfigSection::of::<QueueSettings>()],
    migrations: &[Migration {
        version: 1,
        name: "job_kinds",
        sql: include_str!("migrations/0001_job_kinds.sql"),
    }],
    problems: http::PROBLEMS,
    ..Module::named("job_queues")
};
