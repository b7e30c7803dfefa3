//! API keys: how other programs say who they are. Made and revoked by administrators, never more than these may do
//! themselves; of a key's secret only a digest is kept.
//!
//! A key counts only while whoever made it may make keys: it is refused as long as they are suspended, deleted or no
//! longer administrators, and counts again when they are back.

mod commands;
mod http;
mod known;
mod model;
mod rows;
mod text;

use serde_json::json;

use crate::ExportPart;
use crate::module::{Fact, PersonalData};

pub use commands::{create, create_for, list, revoke};
pub(crate) use http::routes;
pub(crate) use known::KnownKeys;
pub use model::{ApiKey, ApiKeyError, ApiKeyStatus, NewApiKey};
#[cfg(any(test, feature = "fuzzing"))]
pub(super) use text::ApiKeyText;
pub(super) use text::is_api_key;

/// There is a new key.
pub(crate) const CREATED: &str = "api_key.created";
/// A key no longer counts.
pub(crate) const REVOKED: &str = "api_key.revoked";

/// What administrators are told of how keys are kept.
pub(crate) const STORED: Fact = Fact {
    name: "api_keys.stored",
    read: |q, _| {
        let (keys, digests) = rows::count(q)?;
        Ok(json!({ "keys": keys, "digests": digests }))
    },
};

/// Keys belong to whoever made them, and go with them.
pub(crate) const PERSONAL: PersonalData = PersonalData {
    // Nobody may act by a key of somebody who has left; whoever comes back finds theirs as they were.
    leave: |_, _, _| Ok(()),
    export: &[ExportPart::Value(|q, user| Ok(json!({ "api_keys": rows::list_of(q, user)? })))],
    count: |q, user| Ok(vec![("api_keys", rows::count_of(q, user)?)]),
    purge: rows::delete_of,
};
