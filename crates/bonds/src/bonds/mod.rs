//! Partner requests, bonds and invites. A user has at most one active bond, and forming it takes both users.
//! Other modules own accounts (`accounts`), blocks (`blocks`) and shared content (`spaces`).
//!
//! Other modules use [`find_living`] to find the active bond of a user, and may join `bonds (id, user_a,
//! user_b, ended_at, archived_at)`. A bond with `archived_at` cannot be restored.

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
mod settings;

use kith_jobs::schedules::DeclaredSchedule;
use kith_platform::config::ConfigSection;
use kith_platform::{Module, ModuleJob, Tag};
use kith_store::Migration;

#[cfg(any(test, feature = "fuzzing"))]
pub use fuzzing::bonds;
pub use model::{BondId, Living};
pub use rows::find_living;
use settings::PartnerSettings;

/// The module `bonds`.
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
        ModuleJob::maintenance("bonds.expire-requests", |app| Box::pin(due::expire_requests(app))),
        ModuleJob::maintenance("bonds.archive-ended", |app| Box::pin(due::archive_ended(app))),
        ModuleJob::maintenance("bonds.tidy-invites", |app| Box::pin(due::tidy_invites(app))),
    ],
    schedules: &[
        DeclaredSchedule::maintenance("bonds.expire-requests", "@every 1m"),
        DeclaredSchedule::maintenance("bonds.archive-ended", "@every 1m"),
        DeclaredSchedule::maintenance("bonds.tidy-invites", "@every 1m"),
    ],
    facts: facts::FACTS,
    config: &[ConfigSection::of::<PartnerSettings>()],
    ..Module::named("bonds")
};
