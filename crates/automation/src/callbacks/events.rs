//! Events of callbacks for operators. Their payloads never contain a query, a header or a body, which may
//! contain secrets.

use kith_kernel::UserId;
use kith_store::NewEvent;
use serde_json::json;

use super::model::{Callback, CallbackId, EndpointId, RecurringId, StoredRecurringCallback};

pub const CREATED: &str = "callback.created";
pub const DELIVERED: &str = "callback.delivered";
pub const FAILED: &str = "callback.failed";
pub const CANCELLED: &str = "callback.cancelled";
pub const RETRIED: &str = "callback.retried";
pub const ENDPOINT_CREATED: &str = "callback_endpoint.created";
pub const SECRET_ROTATED: &str = "callback_endpoint.secret_rotated";
pub const DISABLED: &str = "callback_endpoint.disabled";
pub const ENABLED: &str = "callback_endpoint.enabled";
pub const RECURRING_CREATED: &str = "recurring_callback.created";
pub const RECURRING_DELETED: &str = "recurring_callback.deleted";

/// Kinds of events that this module emits.
pub const KINDS: &[&str] = &[
    CREATED,
    DELIVERED,
    FAILED,
    CANCELLED,
    RETRIED,
    ENDPOINT_CREATED,
    SECRET_ROTATED,
    DISABLED,
    ENABLED,
    RECURRING_CREATED,
    RECURRING_DELETED,
];

/// Builds an event about a callback.
pub fn callback_event(kind: &'static str, callback: &Callback) -> NewEvent {
    let CallbackId(subject) = callback.id;
    let payload = json!({
        "url": callback.url.split('?').next(),
        "method": callback.method,
        "endpoint_id": callback.endpoint_id,
        "due_at": callback.due_at,
        "reason": callback.reason,
    });
    NewEvent { kind, subject, recipients: vec![], payload }
}

/// Builds an event about an endpoint. The recipients are the administrators to notify.
pub fn endpoint_event(
    kind: &'static str,
    EndpointId(subject): EndpointId,
    url: &str,
    reason: Option<&str>,
    administrators: Vec<UserId>,
) -> NewEvent {
    NewEvent { kind, subject, recipients: administrators, payload: json!({ "url": url, "reason": reason }) }
}

/// Builds an event about a recurring callback.
pub fn recurring_callback_event(kind: &'static str, recurring: &StoredRecurringCallback) -> NewEvent {
    let RecurringId(subject) = recurring.id;
    let payload = json!({
        "url": recurring.url.split('?').next(),
        "method": recurring.method,
        "endpoint_id": recurring.endpoint_id,
    });
    NewEvent { kind, subject, recipients: vec![], payload }
}
