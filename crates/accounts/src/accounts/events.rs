//! Events of accounts. Their payloads never contain an e-mail address, a password or a token.

use kith_kernel::UserId;
use kith_store::NewEvent;
use serde_json::json;

use super::model::{SessionId, User};

const REGISTERED: &str = "account.registered";
const UPDATED: &str = "account.updated";
const ROLE_CHANGED: &str = "account.role_changed";
const EMAIL_VERIFIED: &str = "account.email_verified";
const EMAIL_RELEASED: &str = "account.email_released";
const SUSPENDED: &str = "account.suspended";
const REINSTATED: &str = "account.reinstated";
const DELETED: &str = "account.deleted";
const RESTORED: &str = "account.restored";
const PURGED: &str = "account.purged";
const SESSION_STARTED: &str = "session.started";
const SESSION_ENDED: &str = "session.ended";

/// Kinds of events that this module emits.
pub const KINDS: &[&str] = &[
    REGISTERED,
    UPDATED,
    ROLE_CHANGED,
    EMAIL_VERIFIED,
    EMAIL_RELEASED,
    SUSPENDED,
    REINSTATED,
    DELETED,
    RESTORED,
    PURGED,
    SESSION_STARTED,
    SESSION_ENDED,
];

/// Kinds of events after which a user's role, sessions or permission to use the server may have changed.
pub const ACCESS_CHANGED: &[&str] =
    &[ROLE_CHANGED, SUSPENDED, REINSTATED, DELETED, RESTORED, PURGED, SESSION_STARTED, SESSION_ENDED];

/// An account was registered.
pub fn registered(user: &User) -> NewEvent {
    account_event(REGISTERED, user.id)
}

/// A profile was updated.
pub fn updated(user: UserId) -> NewEvent {
    account_event(UPDATED, user)
}

/// The role of an account changed.
pub fn role_changed(user: UserId, role: &str) -> NewEvent {
    NewEvent { payload: json!({ "user_id": user, "role": role }), ..account_event(ROLE_CHANGED, user) }
}

/// The e-mail address of an account was verified.
pub fn email_verified(user: UserId) -> NewEvent {
    account_event(EMAIL_VERIFIED, user)
}

/// An unverified e-mail address was released from its account.
pub fn email_released(user: UserId) -> NewEvent {
    account_event(EMAIL_RELEASED, user)
}

/// An account was suspended.
pub fn suspended(user: UserId) -> NewEvent {
    account_event(SUSPENDED, user)
}

/// An account was reinstated.
pub fn reinstated(user: UserId) -> NewEvent {
    account_event(REINSTATED, user)
}

/// An account was deleted by its owner. It is purged after the grace period.
pub fn deleted(user: UserId) -> NewEvent {
    account_event(DELETED, user)
}

/// A deleted account was restored by its owner.
pub fn restored(user: UserId) -> NewEvent {
    account_event(RESTORED, user)
}

/// An account was purged.
pub fn purged(user: UserId) -> NewEvent {
    account_event(PURGED, user)
}

/// A session was started.
pub fn session_started(user: UserId, session: SessionId) -> NewEvent {
    session_event(SESSION_STARTED, user, session)
}

/// A session ended before it expired.
pub fn session_ended(user: UserId, session: SessionId) -> NewEvent {
    session_event(SESSION_ENDED, user, session)
}

fn account_event(kind: &'static str, user: UserId) -> NewEvent {
    NewEvent { kind, subject: user.0, recipients: vec![user], payload: json!({ "user_id": user }) }
}

fn session_event(kind: &'static str, user: UserId, session: SessionId) -> NewEvent {
    NewEvent { payload: json!({ "user_id": user, "session_id": session }), ..account_event(kind, user) }
}
