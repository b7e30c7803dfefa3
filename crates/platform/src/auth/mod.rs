//! Who is asking: access tokens, the extractors that read them, and the hashing of passwords.
//!
//! Accounts and sessions are not kept here; a token says only what it was issued for.

mod caller;
pub mod passwords;
mod tokens;

use kith_store::Migration;

pub use caller::{Caller, SignedIn};
pub(crate) use passwords::PasswordCounts;
pub use passwords::{PasswordError, Passwords};
pub use tokens::{Claims, Tokens};

/// The table of signing keys.
pub(crate) const MIGRATIONS: &[Migration] =
    &[Migration { version: 1, name: "platform", sql: include_str!("../migrations/0001_platform.sql") }];
