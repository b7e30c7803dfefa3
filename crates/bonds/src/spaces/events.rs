//! Events of spaces. Their payloads never contain the data of an item.

use kith_kernel::Timestamp;
use kith_store::NewEvent;
use serde_json::json;

use super::declaration::KeptDeclaration;
use super::model::{Item, ItemId, SharedSpace};

/// An item was created.
pub const ITEM_CREATED: &str = "space_item.created";
/// An item was updated.
pub const ITEM_UPDATED: &str = "space_item.updated";
/// An item was deleted.
pub const ITEM_DELETED: &str = "space_item.deleted";

const REMINDER_DUE: &str = "space_reminder.due";
const ARCHIVED: &str = "space.archived";
const PURGED: &str = "space.purged";
const COLLECTION_DECLARED: &str = "collection.declared";
const COLLECTION_WITHDRAWN: &str = "collection.withdrawn";

/// Kinds of events that this module emits.
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

/// An item was created, updated or deleted, as `kind` says.
pub fn about_item(kind: &'static str, shared: &SharedSpace, item: &Item) -> NewEvent {
    let more = json!({ "item_id": item.id, "collection": item.collection, "version": item.version });
    about(kind, shared, more)
}

/// A reminder is due: its date begins in `minutes_before` minutes.
pub fn reminder_due(shared: &SharedSpace, item: ItemId, minutes_before: i64, due_at: Timestamp) -> NewEvent {
    about(
        REMINDER_DUE,
        shared,
        json!({ "item_id": item, "minutes_before": minutes_before, "due_at": due_at }),
    )
}

/// The space of a bond was archived. Both users can still export it.
pub fn archived(shared: &SharedSpace) -> NewEvent {
    about(ARCHIVED, shared, json!({}))
}

/// An archived space was purged.
pub fn purged(shared: &SharedSpace) -> NewEvent {
    about(PURGED, shared, json!({}))
}

/// A collection was declared, or its declaration was withdrawn.
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
