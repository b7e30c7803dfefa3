//! Commands on items. Each runs in one transaction: lock the users of the space, read, decide, write.

use std::borrow::Cow;

use kith_kernel::{Ctx, StoredJson};
use kith_platform::Preconditions;
use kith_store::{Error, Query, Tx};
use serde_json::Value;

use super::declarations::CollectionRules;
use super::merge_patch::merge;
use super::model::{
    CollectionName, Item, ItemId, Space, SpaceError, SpaceUsage, SpaceWithMembers, check_shape,
};
use super::queries::CollectionRequest;
use super::settings::SpaceSettings;
use super::{dates, events, queries, reminders, rows};
use kith_json_schema::ValidationCache;

/// Conditions under which an item may be written.
#[derive(Clone, Copy, Debug)]
pub struct WriteConditions<'t> {
    /// Values that were validated before the transaction.
    pub validated: &'t ValidationCache,
    /// Limits of a space, from the configuration.
    pub limits: &'t SpaceSettings,
}

/// Change of an item's data.
#[derive(Clone, Debug)]
pub enum ItemChange {
    /// Replaces the data.
    Replace(Value),
    /// Applies a JSON Merge Patch to the data.
    Merge(Value),
}

/// Creates an item.
///
/// # Errors
/// Returns the [`SpaceError`] that rejects the item: the user has no bond, the data is invalid or too large,
/// or the space is full.
pub fn create(
    tx: &Tx<'_>,
    ctx: &Ctx,
    request: &CollectionRequest,
    data: &Value,
    WriteConditions { validated, limits }: WriteConditions<'_>,
) -> Result<Item, SpaceError> {
    let shared = lock_space_to_store(tx, request)?;
    let rules = CollectionRules::of(tx, &request.collection)?;
    let data = check(tx, request, &rules, data, validated)?;
    let text = serialize_data(&data, limits)?;
    let bytes = text.bytes() as i64;
    let item = Item::new(ctx, request.user, request.collection.clone(), text);
    reserve_space(tx, shared.space, &item.collection, SpaceUsage { items: 1, bytes }, limits)?;
    rows::insert_item(tx, shared.space, &item, rules.revision)?;
    rules.index(tx, shared.space, &item, &data)?;
    reminders::update_reminders(tx, ctx.now, shared.space, None, &item)?;
    record_change(tx, ctx, events::ITEM_CREATED, &shared, &item);
    Ok(item)
}

/// Changes the data of an item. If the new data equals the old data, nothing changes.
///
/// # Errors
/// Returns the errors of [`create`], [`SpaceError::ItemNotFound`], or [`SpaceError::Changed`] if a
/// precondition fails.
pub fn update(
    tx: &Tx<'_>,
    ctx: &Ctx,
    request: &CollectionRequest,
    id: ItemId,
    change: &ItemChange,
    preconditions: &Preconditions,
    WriteConditions { validated, limits }: WriteConditions<'_>,
) -> Result<Item, SpaceError> {
    let shared = lock_space_to_store(tx, request)?;
    let (present, bytes_before) = find(tx, &shared, request, id, preconditions)?;
    let rules = CollectionRules::of(tx, &request.collection)?;
    let data = match change {
        ItemChange::Replace(data) => check(tx, request, &rules, data, validated)?,
        ItemChange::Merge(patch) => {
            let merged = merge(present.data.to_value(), patch.clone());
            Cow::Owned(check(tx, request, &rules, &merged, validated)?.into_owned())
        }
    };
    let text = serialize_data(&data, limits)?;
    if text == present.data {
        return Ok(present);
    }
    let more = SpaceUsage { items: 0, bytes: text.bytes() as i64 - bytes_before };
    let item = present.changed(ctx, request.user, text);
    reserve_space(tx, shared.space, &item.collection, more, limits)?;
    rows::update_item(tx, &item, rules.revision)?;
    rules.reindex(tx, shared.space, &item, &data)?;
    reminders::update_reminders(tx, ctx.now, shared.space, Some(&present), &item)?;
    record_change(tx, ctx, events::ITEM_UPDATED, &shared, &item);
    Ok(item)
}

/// Deletes an item.
///
/// # Errors
/// Returns [`SpaceError::NotBonded`], [`SpaceError::ItemNotFound`], or [`SpaceError::Changed`] if a
/// precondition fails.
pub fn delete(
    tx: &Tx<'_>,
    ctx: &Ctx,
    request: &CollectionRequest,
    id: ItemId,
    preconditions: &Preconditions,
) -> Result<(), SpaceError> {
    let shared = lock_space(tx, request)?;
    let (item, bytes) = find(tx, &shared, request, id, preconditions)?;
    rows::delete_item(tx, id)?;
    rows::delete_fields(tx, id)?;
    rows::delete_reminders(tx, id)?;
    rows::add_usage(tx, shared.space, &item.collection, SpaceUsage { items: -1, bytes: -bytes })?;
    record_change(tx, ctx, events::ITEM_DELETED, &shared, &item);
    Ok(())
}

/// Locks the users of a space, so that no other transaction writes into it or ends its bond.
fn lock_space(tx: &Tx<'_>, request: &CollectionRequest) -> Result<SpaceWithMembers, SpaceError> {
    lock_space_and(tx, request, |_| Ok(()))
}

/// Locks the users of a space, and announces the reads of a command that stores data.
fn lock_space_to_store(tx: &Tx<'_>, request: &CollectionRequest) -> Result<SpaceWithMembers, SpaceError> {
    lock_space_and(tx, request, |space| {
        rows::prefetch_usage(tx, space, &request.collection)?;
        CollectionRules::prefetch(tx, &request.collection)
    })
}

/// Locks the users of a space and calls `prefetch` with it, for reads that can be sent with the lock.
fn lock_space_and(
    tx: &Tx<'_>,
    request: &CollectionRequest,
    prefetch: impl Fn(Space) -> Result<(), Error>,
) -> Result<SpaceWithMembers, SpaceError> {
    let seen = queries::find_space(tx, request.user, request.space)?;
    tx.lock("user", &seen.members)?;
    prefetch(seen.space)?;
    // The bond may have ended before the lock was taken.
    let shared = queries::find_space(tx, request.user, request.space)?;
    if shared == seen { Ok(shared) } else { Err(SpaceError::NotBonded) }
}

fn find(
    q: &Query<'_>,
    shared: &SpaceWithMembers,
    request: &CollectionRequest,
    id: ItemId,
    preconditions: &Preconditions,
) -> Result<(Item, i64), SpaceError> {
    let found = rows::find_item(q, shared.space, &request.collection, id)?.ok_or(SpaceError::ItemNotFound)?;
    preconditions.check(&found.0)?;
    Ok(found)
}

/// Checks `data` against the rules of the collection. Returns the data to store, which may be normalized.
fn check<'d>(
    q: &Query<'_>,
    request: &CollectionRequest,
    rules: &CollectionRules,
    data: &'d Value,
    validated: &ValidationCache,
) -> Result<Cow<'d, Value>, SpaceError> {
    check_shape(data, "/data")?;
    if dates::is_dates(&request.collection) {
        let zone = rows::find_time_zone(q, request.user)?;
        let read = dates::read(data, zone.as_deref().unwrap_or(dates::UTC));
        return read.map(|(data, _)| Cow::Owned(data)).map_err(SpaceError::Invalid);
    }
    if let Some(schema) = &rules.schema {
        validated.require(schema, data, "/data")?;
    }
    Ok(Cow::Borrowed(data))
}

/// Serializes the data to store. Returns an error if it exceeds the size limit.
fn serialize_data(data: &Value, limits: &SpaceSettings) -> Result<StoredJson, SpaceError> {
    let (text, limit) = (StoredJson::of(data), limits.max_item_bytes);
    if text.bytes() as u64 > u64::from(limit) { Err(SpaceError::ItemTooLarge { limit }) } else { Ok(text) }
}

/// Adds `more` to the counters of a space if the limits allow it. A change that needs no additional space is
/// always allowed.
fn reserve_space(
    tx: &Tx<'_>,
    space: Space,
    collection: &CollectionName,
    more: SpaceUsage,
    limits: &SpaceSettings,
) -> Result<(), SpaceError> {
    let (usage, collections, is_new) = rows::find_usage(tx, space, collection)?;
    for (new, all, limit, unit) in [
        (more.items, usage.items, limits.max_items, "items"),
        (more.bytes, usage.bytes, limits.max_bytes, "bytes"),
        (i64::from(is_new), collections, limits.max_collections, "collections"),
    ] {
        if new > 0 && all + new > i64::from(limit) {
            return Err(SpaceError::SpaceFull { limit, unit });
        }
    }
    Ok(rows::add_usage(tx, space, collection, more)?)
}

fn record_change(tx: &Tx<'_>, ctx: &Ctx, kind: &'static str, shared: &SpaceWithMembers, item: &Item) {
    tx.audit(ctx, kind, item.id);
    tx.emit(ctx, events::item_event(kind, shared, item));
}
