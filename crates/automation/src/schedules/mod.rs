//! What recurs, for administrators and programs to see and to change. The engine of `kith_jobs` keeps schedules and runs
//! them; nothing is kept here.

mod answers;
mod commands;
mod http;
mod terminal;

use kith_platform::Module;

pub use answers::{ScheduleAnswer, ScheduleRun, ScheduleState};
pub use terminal::{ScheduleOrder, ScheduleTold, carry_out};

/// What the server mounts.
pub static MODULE: Module =
    Module { routes: http::routes, problems: http::PROBLEMS, ..Module::named("schedules") };
