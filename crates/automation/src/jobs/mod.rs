//! The job engine for other programs: they enqueue jobs, look at them, take them out of queues, and say what became of them.
//!
//! The engine itself is `kith_jobs`; here is what it is over HTTP, and what programs declare of their kinds of jobs.

mod commands;
mod http;
mod model;
mod operating;
mod queries;
mod rows;
mod rules;

use kith_platform::{Module, Tag};
use kith_store::Migration;

pub use model::{JobStatus, JobsError, RetryBody};
pub use operating::{Order, carry_out};
pub use rules::{check_operator, check_program};

/// What the server mounts. `jobs` is what the engine itself calls its tables.
pub static MODULE: Module = Module {
    needs: &["accounts"],
    tags: &[
        Tag { name: "Jobs", description: "Enqueue jobs, follow them, and manage queues and dead letters." },
        Tag {
            name: "Workers",
            description: "Claim jobs, keep their leases alive, and report how they ended.",
        },
    ],
    routes: http::routes,
    migrations: &[Migration {
        version: 1,
        name: "job_kinds",
        sql: include_str!("migrations/0001_job_kinds.sql"),
    }],
    problems: http::PROBLEMS,
    ..Module::named("job_queues")
};
