//! Partner requests and the bonds that come of them: one partner at a time, and it always takes both.
//! Never who people are (`accounts`), whom they shut out (`blocks`), nor what two people keep together
//! (`spaces`).
//!
//! Other modules get [`find_living`] to learn whose bond it is now, and may join `bonds (id, user_a, user_b, ended_at,
//! archived_at)` in their own statements: from `archived_at` on a bond cannot come back.

mod commands;
mod due;
mod events;
mod facts;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzzing;
mod http;
mod leaving;
mod model;
mod queries;
mod rows;
mod rules;

use kith_jobs::schedules::DeclaredSchedule;
use kith_platform::{Module, ModuleJob, Tag};
use kith_store::Migration;

#[cfg(any(test, feature = "fuzzing"))]
pub use fuzzing::bonds;
pub use model::{BondId, Living};
pub use rows::find_living;

/// What the server mounts.
pub static MODULE: Module = Module {
    needs: &["accounts", "blocks"],
    tags: &[Tag {
        name: "Partners",
        description: "Find a partner by request or invite, and end the bond. A user has at most one partner.",
    }],
    routes: http::routes,
    migrations: &[Migration { version: 1, name: "bonds", sql: include_str!("migrations/0001_bonds.sql") }],
    problems: http::PROBLEMS,
    events: events::KINDS,
    personal: Some(leaving::PERSONAL),
    blocked: Some(commands::close_door),
    unblocked: Some(commands::open_door),
    jobs: &[
        ModuleJob::upkeep("bonds.expire-requests", |app| Box::pin(due::expire_requests(app))),
        ModuleJob::upkeep("bonds.archive-ended", |app| Box::pin(due::archive_ended(app))),
        ModuleJob::upkeep("bonds.tidy-invites", |app| Box::pin(due::tidy_invites(app))),
    ],
    schedules: &[
        DeclaredSchedule::upkeep("bonds.expire-requests", "@every 1m"),
        DeclaredSchedule::upkeep("bonds.archive-ended", "@every 1m"),
        DeclaredSchedule::upkeep("bonds.tidy-invites", "@every 1m"),
    ],
    facts: facts::FACTS,
    ..Module::named("bonds")
};
