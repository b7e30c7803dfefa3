//! Accounts: users, their credentials and their sessions. Relations between users belong to other modules.
//!
//! Other modules use [`Person`] to show a user, and may join `users (id, display_name, time_zone,
//! deleted_at)`. A user with `deleted_at` must be treated as absent.

pub mod administration;
mod commands;
mod events;
pub mod first_admin;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzzing;
mod http;
mod leaving;
mod listing;
mod model;
mod passwords;
mod profile;
mod queries;
mod rows;
mod rules;
mod secrets;
mod settings;
mod sign_in;

use kith_jobs::schedules::DeclaredSchedule;
use kith_platform::auth::AccessSource;
use kith_platform::config::ConfigSection;
use kith_platform::{Module, ModuleConsumer, ModuleJob, NodeEvent, Tag};
use kith_store::Migration;

#[cfg(any(test, feature = "fuzzing"))]
pub use fuzzing::accounts;
pub use leaving::GONE;
pub use model::{Email, Person, SessionId, User};
pub use rows::{AddressOwner, find_address_owner, find_by_email};
pub use settings::AccountSettings;

/// The module `accounts`.
pub static MODULE: Module = Module {
    tags: &[
        Tag {
            name: "Authentication",
            description: "Register, log in, and manage sessions. A log-in returns an access token.",
        },
        Tag { name: "Profile", description: "Read, update, export and delete the caller's account." },
    ],
    routes: http::routes,
    migrations: &[
        Migration { version: 1, name: "accounts", sql: include_str!("migrations/0001_accounts.sql") },
        Migration {
            version: 2,
            name: "observed_holds",
            sql: include_str!("migrations/0002_observed_holds.sql"),
        },
        Migration {
            version: 3,
            name: "proven_addresses",
            sql: include_str!("migrations/0003_proven_addresses.sql"),
        },
        Migration {
            version: 4,
            name: "taken_addresses",
            sql: include_str!("migrations/0004_taken_addresses.sql"),
        },
        Migration {
            version: 5,
            name: "ascii_domains",
            sql: include_str!("migrations/0005_ascii_domains.sql"),
        },
        Migration {
            version: 6,
            name: "expiry_indexes",
            sql: include_str!("migrations/0006_expiry_indexes.sql"),
        },
        Migration { version: 7, name: "pronouns", sql: include_str!("migrations/0007_pronouns.sql") },
    ],
    problems: http::PROBLEMS,
    events: events::KINDS,
    access: Some(AccessSource { read: rows::find_access, list_admins: rows::list_admins }),
    consumers: &[ModuleConsumer::every_node("accounts.access", events::ACCESS_CHANGED, |app, news| {
        Box::pin(async move {
            if let NodeEvent::Committed(event) = news {
                event.recipients.iter().for_each(|user| app.forget_access(*user));
            }
            Ok(())
        })
    })],
    personal: Some(leaving::PERSONAL),
    jobs: &[
        ModuleJob::maintenance("accounts.tidy-sessions", |app| Box::pin(leaving::tidy(app))),
        ModuleJob::maintenance("accounts.purge-deleted", |app| Box::pin(leaving::purge_due(app))),
    ],
    schedules: &[
        DeclaredSchedule::maintenance("accounts.tidy-sessions", "@every 1m"),
        DeclaredSchedule::maintenance("accounts.purge-deleted", "@every 1m"),
    ],
    facts: passwords::FACTS,
    config: &[ConfigSection::of::<AccountSettings>()],
    ..Module::named("accounts")
};

/// Routes that are served in development mode only.
pub static DEVELOPMENT: Module = Module {
    needs: &["accounts"],
    tags: kith_platform::DEVELOPMENT.tags,
    routes: http::development_routes,
    ..Module::named("accounts-development")
};
