//! What accounts tell others. Never an address, a password or a token.

use kith_store::NewEvent;
use serde_json::json;

use super::model::User;

const REGISTERED: &str = "account.registered";

/// All of them.
pub const KINDS: &[&str] = &[REGISTERED];

/// Somebody new is here.
pub fn registered(user: &User) -> NewEvent {
    NewEvent {
        kind: REGISTERED,
        subject: user.id.0,
        recipients: vec![user.id],
        payload: json!({ "user_id": user.id }),
    }
}
