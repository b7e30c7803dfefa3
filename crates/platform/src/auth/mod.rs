//! Authentication and authorization: access tokens and their signing keys, API keys, roles, extractors, and
//! password hashing.
//!
//! Accounts and sessions belong to a module, which provides them through [`AccessSource`].

mod access;
pub mod api_keys;
mod caller;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod jwks;
mod keyring;
pub mod passwords;
mod reseal;
mod roles;
mod signing_keys;
mod tokens;

use kith_store::Migration;

use crate::consumers::{ModuleConsumer, NodeEvent};
use crate::http::tagged;

pub(crate) use access::AccessCache;
pub use access::{Access, AccessSource};
pub use caller::{Allowed, AllowedUser, Caller, Client, Principal, SignedIn};
pub use keyring::{Keyring, MacPurpose};
pub(crate) use passwords::PasswordCounts;
pub use passwords::{PasswordError, PasswordMatch, Passwords};
pub use reseal::{ResealedColumn, reseal};
pub use roles::{
    PERMISSIONS, Permission, ReadApiKeys, ReadAudit, ReadCallbacks, ReadFacts, ReadJobs, ReadSchedules,
    ReadUsers, Role, SetRoles, SuspendUsers, USER_ONLY_PERMISSIONS, VerifyUsers, WorkJobs, WriteApiKeys,
    WriteCallbacks, WriteCollections, WriteJobs, WriteLogs, WriteQueues, WriteSchedules,
};
pub use signing_keys::Rotation;
pub(crate) use signing_keys::{KEY_PUBLISHED, signing_key_ages};
pub use tokens::{Claims, Tokens};

/// Migrations of the platform module.
pub(crate) const MIGRATIONS: &[Migration] =
    &[Migration { version: 1, name: "platform", sql: include_str!("../migrations/0001_platform.sql") }];

/// Consumers that remove changed API keys from the cache and reload signing keys, on every node.
pub(crate) const CONSUMERS: &[ModuleConsumer] = &[
    ModuleConsumer::every_node("platform.api_keys", &[api_keys::CREATED, api_keys::REVOKED], |app, news| {
        Box::pin(async move {
            // If events are missed, all entries of the caches are invalidated anyway. Only committed events
            // matter here.
            if let NodeEvent::Committed(event) = news
                && let Ok(id) = event.subject.parse()
            {
                app.api_keys.forget(id);
            }
            Ok(())
        })
    }),
    ModuleConsumer::every_node("platform.signing_keys", &[KEY_PUBLISHED], |app, _| {
        Box::pin(app.tokens.reload(&app.db, &app.keyring, app.sources.clock.now()))
    }),
];

pub(crate) fn routes() -> crate::Routes {
    tagged("Authentication", jwks::routes()).merge(api_keys::routes())
}
