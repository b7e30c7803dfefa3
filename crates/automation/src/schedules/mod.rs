//! Schedules over HTTP and at the command line. The crate `kith_jobs` stores the schedules and runs them.

mod commands;
mod http;
mod model;
mod operations;

use kith_platform::{Module, Tag};

pub use model::{ScheduleResponse, ScheduleRun, ScheduleState};
pub use operations::{ScheduleOperation, ScheduleOperationResult, run_operation};

/// The module `schedules`.
pub static MODULE: Module = Module {
    depends_on: &["job_queues"],
    tags: &[Tag {
        name: "Schedules",
        description: "Enqueue jobs at the times of a cron expression, or at a fixed interval.",
    }],
    routes: http::routes,
    problems: http::PROBLEMS,
    ..Module::named("schedules")
};
