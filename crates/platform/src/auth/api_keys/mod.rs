//! API keys, which authenticate programs. Administrators create and revoke them. A key cannot have more
//! permissions than its creator. Only a digest of the secret is stored.
//!
//! A key is valid only while its creator may create keys. It is rejected while the creator is suspended,
//! deleted or not an administrator. If the creator may create keys again, the key is accepted again.

mod cache;
mod commands;
mod http;
mod known_key;
mod model;
mod rows;
mod text;

use serde_json::json;

use crate::ExportPart;
use crate::module::{Fact, PersonalData};

pub(crate) use cache::ApiKeyCache;
pub use commands::{create, create_from_command_line, list, revoke};
pub(crate) use http::routes;
pub use model::{ApiKey, ApiKeyError, ApiKeyStatus, NewApiKey};
#[cfg(any(test, feature = "fuzzing"))]
pub(super) use text::ApiKeyText;
pub(super) use text::is_api_key;

/// Event that an API key was created.
pub(crate) const CREATED: &str = "api_key.created";
/// Event that an API key was revoked.
pub(crate) const REVOKED: &str = "api_key.revoked";

/// Fact for administrators: the number of stored keys, and the number of valid digests among them.
pub(crate) const STORED_KEYS_FACT: Fact = Fact {
    name: "api_keys.stored",
    read: |q, _| {
        let (keys, digests) = rows::count(q)?;
        Ok(json!({ "keys": keys, "digests": digests }))
    },
};

/// Personal data: keys belong to the user who created them, and are deleted when that user is purged.
pub(crate) const PERSONAL: PersonalData = PersonalData {
    // The deletion of an account does not change its keys. They are rejected while the account is deleted,
    // and valid again if the account is restored.
    on_account_deletion: |_, _, _| Ok(()),
    export: &[ExportPart::Value(|q, user| Ok(json!({ "api_keys": rows::list_of(q, user)? })))],
    count: |q, user| Ok(vec![("api_keys", rows::count_of(q, user)?)]),
    purge: rows::delete_of,
};
