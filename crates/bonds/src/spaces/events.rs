//! Events of spaces. Their payloads never contain the data of an item.

use kith_kernel::Timestamp;
use kith_store::NewEvent;
use serde_json::json;

use super::declaration::StoredDeclaration;
use super::model::{Item, ItemId, SpaceWithMembers};

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

/// Builds the event of a created, updated or deleted item. `kind` is the kind of the event.
pub fn item_event(kind: &'static str, shared: &SpaceWithMembers, item: &Item) -> NewEvent {
    let more = json!({ "item_id": item.id, "collection": item.collection, "version": item.version });
    space_event(kind, shared, more)
}

/// A reminder is due: its date begins in `minutes_before` minutes.
pub fn reminder_due(
    shared: &SpaceWithMembers,
    item: ItemId,
    minutes_before: i64,
    due_at: Timestamp,
) -> NewEvent {
    space_event(
        REMINDER_DUE,
        shared,
        json!({ "item_id": item, "minutes_before": minutes_before, "due_at": due_at }),
    )
}

/// The space of a bond was archived. Both users can still export the space.
pub fn archived(shared: &SpaceWithMembers) -> NewEvent {
    space_event(ARCHIVED, shared, json!({}))
}

/// An archived space was purged.
pub fn purged(shared: &SpaceWithMembers) -> NewEvent {
    space_event(PURGED, shared, json!({}))
}

/// A collection was declared, or its declaration was withdrawn.
pub fn declared(stored: &StoredDeclaration) -> NewEvent {
    NewEvent {
        kind: if stored.declared { COLLECTION_DECLARED } else { COLLECTION_WITHDRAWN },
        subject: stored.id,
        recipients: Vec::new(),
        payload: json!({ "collection": stored.declaration.name, "revision": stored.revision }),
    }
}

fn space_event(kind: &'static str, shared: &SpaceWithMembers, mut payload: serde_json::Value) -> NewEvent {
    payload["space"] = shared.space.name().into();
    payload["space_id"] = shared.space.id().to_string().into();
    NewEvent { kind, subject: shared.space.id(), recipients: shared.members.clone(), payload }
}
