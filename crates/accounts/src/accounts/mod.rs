//! Accounts: users, their credentials and their sessions. Relations between users belong to other modules.
//!
//! Other modules use [`UserSummary`] to show a user, and may join `users (id, display_name, time_zone,
//! deleted_at)`. A user with `deleted_at` must be treated as absent.

pub mod administration;
mod commands;
mod events;
pub mod first_admin;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzzing;
mod http;
mod listing;
mod log_in;
mod model;
mod passwords;
mod personal_data;
mod profile;
mod queries;
mod rows;
mod rules;
mod secrets;
mod settings;

use kith_jobs::schedules::DeclaredSchedule;
use kith_platform::auth::AccessSource;
use kith_platform::config::ConfigSection;
use kith_platform::{Module, ModuleConsumer, ModuleJob, NodeEvent, Tag};
use kith_store::Migration;

#[cfg(any(test, feature = "fuzzing"))]
pub use fuzzing::accounts;
pub use model::{Email, SessionId, User, UserSummary};
pub use personal_data::DELETED_ACCOUNT_NAME;
pub use rows::{EmailOwner, find_by_email, find_email_owner};
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
    migrations: &[Migration {
        version: 1,
        name: "accounts",
        sql: include_str!("migrations/0001_accounts.sql"),
    }],
    problems: http::PROBLEMS,
    events: events::KINDS,
    access: Some(AccessSource { read: rows::find_access, list_admins: rows::list_admins }),
    consumers: &[ModuleConsumer::every_node("accounts.access", events::ACCESS_CHANGED, |app, news| {
        Box::pin(async move {
            if let NodeEvent::Committed(event) = news {
                event.recipients.iter().for_each(|user| app.invalidate_access(*user));
            }
            Ok(())
        })
    })],
    personal: Some(personal_data::PERSONAL),
    jobs: &[
        ModuleJob::maintenance("accounts.delete-expired", |app| Box::pin(personal_data::delete_expired(app))),
        ModuleJob::maintenance("accounts.purge-deleted", |app| Box::pin(personal_data::purge_due(app))),
    ],
    schedules: &[
        DeclaredSchedule::maintenance("accounts.delete-expired", "@every 1m"),
        DeclaredSchedule::maintenance("accounts.purge-deleted", "@every 1m"),
    ],
    facts: passwords::FACTS,
    config: &[ConfigSection::of::<AccountSettings>()],
    ..Module::named("accounts")
};

/// Module with the routes that are available in development mode only.
pub static DEVELOPMENT: Module = Module {
    depends_on: &["accounts"],
    tags: kith_platform::DEVELOPMENT.tags,
    routes: http::development_routes,
    ..Module::named("accounts-development")
};
