//! What spaces tell those whose they are. Never what an item holds: whoever shows it asks for it.

use kith_kernel::Timestamp;
use kith_store::NewEvent;
use serde_json::json;

use super::declarations::KeptDeclaration;
use super::model::{Item, ItemId, SharedSpace};

/// Something new is kept.
pub const ITEM_CREATED: &str = "space_item.created";
/// It holds something else.
pub const ITEM_UPDATED: &str = "space_item.updated";
/// It is gone.
pub const ITEM_DELETED: &str = "space_item.deleted";

const REMINDER_DUE: &str = "space_reminder.due";
const ARCHIVED: &str = "space.archived";
const PURGED: &str = "space.purged";
const COLLECTION_DECLARED: &str = "collection.declared";
const COLLECTION_WITHDRAWN: &str = "collection.withdrawn";

/// All of them.
pub const KINDS: &[&str] = &[
    ITEM_CREATED,
    ITEM_UPDATED,
    ITEM_DELETED,
    REMINDER_DUE,
    ARCHIVED,
    PURGED,
    COLLECTION_DECLARED,
    COLLECTION_WITHDRAWN,
];

/// An item was written or deleted; `kind` says which.
pub fn about_item(kind: &'static str, shared: &SharedSpace, item: &Item) -> NewEvent {
    let more = json!({ "item_id": item.id, "collection": item.collection, "version": item.version });
    about(kind, shared, more)
}

/// A date comes so many minutes from now.
pub fn reminder_due(shared: &SharedSpace, item: ItemId, minutes_before: i64, due_at: Timestamp) -> NewEvent {
    about(
        REMINDER_DUE,
        shared,
        json!({ "item_id": item, "minutes_before": minutes_before, "due_at": due_at }),
    )
}

/// A bond's space can no longer come back; each of the two can still export it.
pub fn archived(shared: &SharedSpace) -> NewEvent {
    about(ARCHIVED, shared, json!({}))
}

/// What was archived is gone.
pub fn purged(shared: &SharedSpace) -> NewEvent {
    about(PURGED, shared, json!({}))
}

/// A collection was declared anew, or no longer is.
pub fn declared(kept: &KeptDeclaration) -> NewEvent {
    NewEvent {
        kind: if kept.declared { COLLECTION_DECLARED } else { COLLECTION_WITHDRAWN },
        subject: kept.id,
        recipients: Vec::new(),
        payload: json!({ "collection": kept.declaration.name, "revision": kept.revision }),
    }
}

fn about(kind: &'static str, shared: &SharedSpace, mut payload: serde_json::Value) -> NewEvent {
    payload["space"] = shared.space.name().into();
    payload["space_id"] = shared.space.id().to_string().into();
    NewEvent { kind, subject: shared.space.id(), recipients: shared.people.clone(), payload }
}
