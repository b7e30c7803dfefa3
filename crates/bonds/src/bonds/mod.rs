//! Partner requests, bonds and invites. A bond joins two users. Each user has one partner slot, and
//! therefore at most one active bond. Other modules contain accounts (`accounts`), blocks (`blocks`) and
//! shared content (`spaces`).
//!
//! Other modules use [`find_active_bond`] to find the active bond of a user, and may join `bonds (id, user_a,
//! user_b, ended_at, archived_at)`. A bond with `archived_at` cannot be restored.

mod commands;
mod events;
mod facts;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzzing;
mod http;
mod maintenance;
mod model;
mod personal_data;
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
pub use model::{ActiveBond, BondId};
pub use rows::find_active_bond;
pub use settings::BondSettings;

/// The module `bonds`.
pub static MODULE: Module = Module {
    depends_on: &["accounts", "blocks"],
    tags: &[Tag {
        name: "Partners",
        description: "Find a partner by request or invite, and end the bond. A user has at most one partner.",
    }],
    routes: http::routes,
    migrations: &[Migration { version: 1, name: "bonds", sql: include_str!("migrations/0001_bonds.sql") }],
    problems: http::PROBLEMS,
    events: events::KINDS,
    personal: Some(personal_data::PERSONAL),
    on_block: Some(commands::handle_block),
    on_unblock: Some(commands::handle_unblock),
    jobs: &[
        ModuleJob::maintenance("bonds.expire-requests", |app| Box::pin(maintenance::expire_requests(app))),
        ModuleJob::maintenance("bonds.archive-ended", |app| Box::pin(maintenance::archive_ended(app))),
        ModuleJob::maintenance("bonds.delete-old-invites", |app| {
            Box::pin(maintenance::delete_old_invites(app))
        }),
    ],
    schedules: &[
        DeclaredSchedule::maintenance("bonds.expire-requests", "@every 1m"),
        DeclaredSchedule::maintenance("bonds.archive-ended", "@every 1m"),
        DeclaredSchedule::maintenance("bonds.delete-old-invites", "@every 1m"),
    ],
    facts: facts::FACTS,
    rate_classes: &[http::LISTS],
    config: &[ConfigSection::of::<BondSettings>()],
    ..Module::named("bonds")
};
