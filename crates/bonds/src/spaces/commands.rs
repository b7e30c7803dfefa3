//! Commands on items, one transaction each: lock the users of the space, read, decide, write.

use std::borrow::Cow;

use kith_kernel::{Ctx, StoredJson};
use kith_platform::Preconditions;
use kith_store::{Query, Tx};
use serde_json::Value;

use super::declarations::Rules;
use super::model::{
    Amount, CollectionName, Item, ItemId, SharedSpace, Space, SpaceError, check_shape, merge,
};
use super::queries::CollectionRequest;
use super::settings::SpaceSettings;
use super::{dates, events, queries, reminders, rows};
use kith_json_schema::ValidationCache;

/// Conditions for writing an item.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'t> {
    /// Values that were validated before the transaction.
    pub validated: &'t ValidationCache,
    /// Limits of a space.
    pub limits: &'t SpaceSettings,
}

/// Change of an item's data.
#[derive(Clone, Debug)]
pub enum Change {
    /// Replaces the data.
    Replace(Value),
    /// Applies a JSON Merge Patch to the data.
    Merge(Value),
}

/// Creates an item.
///
/// # Errors
/// Returns the [`SpaceError`] that rejects it: no bond, invalid data, an item that is too large, or a full
/// space.
pub fn create(
    tx: &Tx<'_>,
    ctx: &Ctx,
    asked: &CollectionRequest,
    data: &Value,
    Terms { validated, limits }: Terms<'_>,
) -> Result<Item, SpaceError> {
    let shared = open(tx, asked)?;
    let rules = Rules::of(tx, &asked.collection)?;
    let data = check(tx, asked, &rules, data, validated)?;
    let text = to_text(&data, limits)?;
    let bytes = text.bytes() as i64;
    let item = Item::new(ctx, asked.user, asked.collection.clone(), text);
    make_room(tx, shared.space, &item.collection, Amount { items: 1, bytes }, limits)?;
    rows::insert_item(tx, shared.space, &item, rules.revision)?;
    rules.index(tx, shared.space, &item, &data)?;
    reminders::schedule(tx, ctx.now, shared.space, None, &item)?;
    tell(tx, ctx, events::ITEM_CREATED, &shared, &item);
    Ok(item)
}

/// Changes the data of an item. Equal data changes nothing.
///
/// # Errors
/// Returns the errors of [`create`], [`SpaceError::ItemNotFound`], or [`SpaceError::Changed`] if a
/// precondition fails.
pub fn update(
    tx: &Tx<'_>,
    ctx: &Ctx,
    asked: &CollectionRequest,
    id: ItemId,
    change: &Change,
    preconditions: &Preconditions,
    Terms { validated, limits }: Terms<'_>,
) -> Result<Item, SpaceError> {
    let shared = open(tx, asked)?;
    let (present, bytes_before) = find(tx, &shared, asked, id, preconditions)?;
    let rules = Rules::of(tx, &asked.collection)?;
    let data = match change {
        Change::Replace(data) => check(tx, asked, &rules, data, validated)?,
        Change::Merge(patch) => {
            let merged = merge(present.data.to_value(), patch.clone());
            Cow::Owned(check(tx, asked, &rules, &merged, validated)?.into_owned())
        }
    };
    let text = to_text(&data, limits)?;
    if text == present.data {
        return Ok(present);
    }
    let more = Amount { items: 0, bytes: text.bytes() as i64 - bytes_before };
    let item = present.changed(ctx, asked.user, text);
    make_room(tx, shared.space, &item.collection, more, limits)?;
    rows::update_item(tx, &item, rules.revision)?;
    rules.index_again(tx, shared.space, &item, &data)?;
    reminders::schedule(tx, ctx.now, shared.space, Some(&present), &item)?;
    tell(tx, ctx, events::ITEM_UPDATED, &shared, &item);
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
    asked: &CollectionRequest,
    id: ItemId,
    preconditions: &Preconditions,
) -> Result<(), SpaceError> {
    let shared = open(tx, asked)?;
    let (item, bytes) = find(tx, &shared, asked, id, preconditions)?;
    rows::delete_item(tx, id)?;
    rows::delete_fields(tx, id)?;
    rows::delete_reminders(tx, id)?;
    rows::add_amount(tx, shared.space, &item.collection, Amount { items: -1, bytes: -bytes })?;
    tell(tx, ctx, events::ITEM_DELETED, &shared, &item);
    Ok(())
}

/// Locks the users of a space, so that no one else writes into it and its bond does not end.
fn open(tx: &Tx<'_>, asked: &CollectionRequest) -> Result<SharedSpace, SpaceError> {
    let seen = queries::find_space(tx, asked.user, asked.space)?;
    tx.lock("user", &seen.people)?;
    // The bond may have ended before the lock was taken.
    let shared = queries::find_space(tx, asked.user, asked.space)?;
    if shared == seen { Ok(shared) } else { Err(SpaceError::NotBonded) }
}

fn find(
    q: &Query<'_>,
    shared: &SharedSpace,
    asked: &CollectionRequest,
    id: ItemId,
    preconditions: &Preconditions,
) -> Result<(Item, i64), SpaceError> {
    let found = rows::find_item(q, shared.space, &asked.collection, id)?.ok_or(SpaceError::ItemNotFound)?;
    preconditions.check(&found.0)?;
    Ok(found)
}

/// Checks `data` against the rules of the collection. Returns the data to store.
fn check<'d>(
    q: &Query<'_>,
    asked: &CollectionRequest,
    rules: &Rules,
    data: &'d Value,
    validated: &ValidationCache,
) -> Result<Cow<'d, Value>, SpaceError> {
    check_shape(data, "/data")?;
    if dates::is_dates(&asked.collection) {
        let zone = rows::find_time_zone(q, asked.user)?;
        let read = dates::read(data, zone.as_deref().unwrap_or(dates::UTC));
        return read.map(|(data, _)| Cow::Owned(data)).map_err(SpaceError::Invalid);
    }
    if let Some(schema) = &rules.schema {
        validated.require(schema, data, "/data")?;
    }
    Ok(Cow::Borrowed(data))
}

/// Serializes the data to store, within the size limit.
fn to_text(data: &Value, limits: &SpaceSettings) -> Result<StoredJson, SpaceError> {
    let (text, most) = (StoredJson::of(data), limits.max_item_bytes);
    if text.bytes() as u64 > u64::from(most) { Err(SpaceError::ItemTooLarge { most }) } else { Ok(text) }
}

/// Adds `more` to the counters of a space if its limits allow it. A change that needs no more room is always
/// allowed.
fn make_room(
    tx: &Tx<'_>,
    space: Space,
    collection: &CollectionName,
    more: Amount,
    limits: &SpaceSettings,
) -> Result<(), SpaceError> {
    let (held, collections, is_new) = rows::find_amount(tx, space, collection)?;
    for (new, all, most, what) in [
        (more.items, held.items, limits.max_items, "items"),
        (more.bytes, held.bytes, limits.max_bytes, "bytes"),
        (i64::from(is_new), collections, limits.max_collections, "collections"),
    ] {
        if new > 0 && all + new > i64::from(most) {
            return Err(SpaceError::SpaceFull { most, what });
        }
    }
    Ok(rows::add_amount(tx, space, collection, more)?)
}

fn tell(tx: &Tx<'_>, ctx: &Ctx, kind: &'static str, shared: &SharedSpace, item: &Item) {
    tx.audit(ctx, kind, item.id);
    tx.emit(ctx, events::about_item(kind, shared, item));
}
