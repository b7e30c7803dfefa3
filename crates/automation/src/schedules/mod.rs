//! What recurs, for administrators and programs to see and to change. The engine of `kith_jobs` keeps schedules and runs
//! them; nothing is kept here.

mod commands;
mod http;
mod model;
mod operating;

use kith_platform::{Module, Tag};

pub use model::{ScheduleAnswer, ScheduleRun, ScheduleState};
pub use operating::{ScheduleOrder, ScheduleTold, carry_out};

/// What the server mounts.
pub static MODULE: Module = Module {
    needs: &["job_queues"],
    tags: &[Tag {
        name: "Schedules",
        description: "Enqueue jobs at times that a cron pattern or an interval names.",
    }],
    routes: http::routes,
    problems: http::PROBLEMS,
    ..Module::named("schedules")
};
