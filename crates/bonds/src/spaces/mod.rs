//! Spaces: JSON items in named collections, with dates and reminders. A space belongs to one user, or to
//! both users of a bond. The app decides what the items contain.
//!
//! The space of a bond can be used while the bond is active. A breakup freezes it: it can only be exported.
//! A restoration makes it usable again. It is archived with the bond. Writers lock all users of the space.
//! Commands that end a bond take the same locks.

mod archive;
mod commands;
mod dates;
mod declaration;
mod declarations;
mod events;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzzing;
mod http;
mod list;
mod merge_patch;
mod model;
mod order;
mod personal_data;
mod queries;
mod reminders;
mod rows;
mod settings;

use kith_jobs::schedules::DeclaredSchedule;
use kith_platform::config::ConfigSection;
use kith_platform::{Module, ModuleJob, Tag};
use kith_store::Migration;

#[cfg(any(test, feature = "fuzzing"))]
pub use fuzzing::{documents, lists, schedules};
pub use settings::SpaceSettings;

/// The module `spaces`.
pub static MODULE: Module = Module {
    depends_on: &["bonds"],
    tags: &[Tag {
        name: "Spaces",
        description: "Store JSON items in collections, alone or together with a partner.",
    }],
    routes: http::routes,
    migrations: &[Migration { version: 1, name: "spaces", sql: include_str!("migrations/0001_spaces.sql") }],
    problems: http::PROBLEMS,
    events: events::KINDS,
    personal: Some(personal_data::PERSONAL),
    jobs: &[
        ModuleJob::maintenance("spaces.emit-reminders", |app| Box::pin(reminders::emit_due(app))),
        ModuleJob::maintenance("spaces.index-items", |app| Box::pin(declarations::index_stale(app))),
        ModuleJob::maintenance("spaces.purge-archives", |app| Box::pin(archive::archive_and_purge(app))),
    ],
    schedules: &[
        DeclaredSchedule::maintenance("spaces.emit-reminders", "@every 1m"),
        DeclaredSchedule::maintenance("spaces.index-items", "@every 1m"),
        DeclaredSchedule::maintenance("spaces.purge-archives", "@every 1m"),
    ],
    facts: archive::FACTS,
    config: &[ConfigSection::of::<SpaceSettings>()],
    ..Module::named("spaces")
};
