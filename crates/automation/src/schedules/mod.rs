//! Schedules over HTTP and at the command line. `kith_jobs` stores and runs them.

mod commands;
mod http;
mod model;
mod operating;

use kith_platform::{Module, Tag};

pub use model::{ScheduleAnswer, ScheduleRun, ScheduleState};
pub use operating::{ScheduleOrder, ScheduleTold, carry_out};

/// The module `schedules`.
pub static MODULE: Module = Module {
    needs: &["job_queues"],
    tags: &[Tag {
        name: "Schedules",
        description: "Enqueue jobs at the times of a cron expression, or at a fixed interval.",
    }],
    routes: http::routes,
    problems: http::PROBLEMS,
    ..Module::named("schedules")
};
