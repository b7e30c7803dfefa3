//! Spaces: JSON items in named collections, kept by two partners together or by one person alone, and the dates among
//! them with their reminders. What an item means is the app's business, never Kith's.
//!
//! A bond's space is there while the bond is: it freezes with a breakup, is back with a restoration, and is archived with
//! the bond. Whoever writes or moves one holds the locks of all the people whose it is, as who ends the bond does.

mod archive;
mod commands;
mod dates;
mod declarations;
mod events;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzzing;
mod http;
mod leaving;
mod list;
mod model;
mod order;
mod queries;
mod reminders;
mod rows;
mod schema;

use kith_platform::Module;
use kith_store::Migration;

#[cfg(any(test, feature = "fuzzing"))]
pub use fuzzing::{documents, lists, schedules};

/// What the server mounts.
pub static MODULE: Module = Module {
    routes: http::routes,
    migrations: &[Migration { version: 1, name: "spaces", sql: include_str!("migrations/0001_spaces.sql") }],
    problems: http::PROBLEMS,
    events: events::KINDS,
    personal: Some(leaving::PERSONAL),
    upkeep: Some(|app| Box::pin(upkeep(app))),
    facts: archive::FACTS,
    ..Module::named("spaces")
};

async fn upkeep(app: kith_platform::App) -> Result<(), kith_platform::UpkeepError> {
    let ctx = app.system_ctx("upkeep");
    reminders::run_due(&app, &ctx).await?;
    declarations::run_due(&app, &ctx).await?;
    archive::run_due(&app, &ctx).await
}
