//! Accounts: who is who, how they prove it, and the sessions that come of it. Never what people are to each other.
//!
//! Other modules get [`Person`] to show somebody by, and may join `users (id, display_name)` in their own statements.

mod commands;
mod events;
mod http;
mod model;
mod queries;
mod rows;

use kith_platform::Module;
use kith_store::Migration;

pub use model::{Person, SessionId, User};

/// What the server mounts.
pub static MODULE: Module = Module {
    name: "accounts",
    routes: http::routes,
    migrations: &[Migration {
        version: 1,
        name: "accounts",
        sql: include_str!("migrations/0001_accounts.sql"),
    }],
    problems: http::PROBLEMS,
    events: events::KINDS,
};
