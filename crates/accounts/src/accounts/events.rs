//! What accounts tell others. Never an address, a password or a token.

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

/// All of them.
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

/// Those after which somebody may do other things than before.
pub const ACCESS_CHANGED: &[&str] =
    &[ROLE_CHANGED, SUSPENDED, REINSTATED, DELETED, RESTORED, PURGED, SESSION_STARTED, SESSION_ENDED];

/// Somebody new is here.
pub fn registered(user: &User) -> NewEvent {
    about(REGISTERED, user.id)
}

/// Somebody's profile is another.
pub fn updated(user: UserId) -> NewEvent {
    about(UPDATED, user)
}

/// Somebody has another role.
pub fn role_changed(user: UserId, role: &str) -> NewEvent {
    NewEvent { payload: json!({ "user_id": user, "role": role }), ..about(ROLE_CHANGED, user) }
}

/// A user's address is verified.
pub fn email_verified(user: UserId) -> NewEvent {
    about(EMAIL_VERIFIED, user)
}

/// An unverified address is released from its account.
pub fn email_released(user: UserId) -> NewEvent {
    about(EMAIL_RELEASED, user)
}

/// Somebody is shut out.
pub fn suspended(user: UserId) -> NewEvent {
    about(SUSPENDED, user)
}

/// Somebody is no longer shut out.
pub fn reinstated(user: UserId) -> NewEvent {
    about(REINSTATED, user)
}

/// Somebody leaves; their account is held.
pub fn deleted(user: UserId) -> NewEvent {
    about(DELETED, user)
}

/// Somebody who was leaving stays.
pub fn restored(user: UserId) -> NewEvent {
    about(RESTORED, user)
}

/// Somebody has gone for good.
pub fn purged(user: UserId) -> NewEvent {
    about(PURGED, user)
}

/// Somebody has signed in.
pub fn session_started(user: UserId, session: SessionId) -> NewEvent {
    about_session(SESSION_STARTED, user, session)
}

/// A session is over before its time.
pub fn session_ended(user: UserId, session: SessionId) -> NewEvent {
    about_session(SESSION_ENDED, user, session)
}

fn about(kind: &'static str, user: UserId) -> NewEvent {
    NewEvent { kind, subject: user.0, recipients: vec![user], payload: json!({ "user_id": user }) }
}

fn about_session(kind: &'static str, user: UserId, session: SessionId) -> NewEvent {
    NewEvent { payload: json!({ "user_id": user, "session_id": session }), ..about(kind, user) }
}
