//! SQL statements for item lists. Each statement uses an index.

use kith_store::{AsParam as _, Error, Param, Query, params};

use super::super::list::{FieldCondition, ListPlan, SortDirection};
use super::super::model::{CollectionName, Item, ItemId, Space};
use super::read_with;

/// Maximum number of further conditions of a statement: the maximum number of declared fields.
const MAX_FURTHER_CONDITIONS: usize = 4;

/// Selects items. Further conditions begin at the parameters 5, 8, 11 and 14. Each has a field, or NULL for
/// no condition, and the two bounds of its value.
macro_rules! select_items {
    ($value:literal, $from:literal, $where:literal, $order:literal) => {
        concat!(
            "SELECT ",
            item_columns!(),
            ", ",
            $value,
            " FROM ",
            $from,
            " WHERE ",
            $where,
            select_items!(@other "$5", "$6", "$7"),
            select_items!(@other "$8", "$9", "$10"),
            select_items!(@other "$11", "$12", "$13"),
            select_items!(@other "$14", "$15", "$16"),
            " ORDER BY ",
            $order,
            " LIMIT $4"
        )
    };
    (@other $field:literal, $low:literal, $high:literal) => {
        concat!(
            " AND (CAST(", $field, " AS TEXT) IS NULL OR EXISTS (SELECT 1 FROM space_item_fields f WHERE f.item_id = i.id",
            " AND f.field = ", $field, " AND f.value >= ", $low, " AND f.value < ", $high, "))"
        )
    };
}

pub(super) const NEWEST: &str =
    select_items!("NULL", "space_items i", "i.space = $1 AND i.collection = $2 AND i.id < $3", "i.id DESC");
pub(super) const ASCENDING: &str = select_items!(
    "k.value",
    "space_item_fields k JOIN space_items i ON i.id = k.item_id",
    "k.space = $1 AND k.collection = $2 AND k.field = $17 AND k.value >= $18 AND k.value < $19
     AND (k.value, k.item_id) > ($20, $3)",
    "k.value, k.item_id"
);
pub(super) const DESCENDING: &str = select_items!(
    "k.value",
    "space_item_fields k JOIN space_items i ON i.id = k.item_id",
    "k.space = $1 AND k.collection = $2 AND k.field = $17 AND k.value >= $18 AND k.value < $19
     AND (k.value, k.item_id) < ($20, $3)",
    "k.value DESC, k.item_id DESC"
);

/// Returns up to `limit` items of a collection as planned. Each comes with the value of the field by which
/// the list is sorted.
pub fn list_items(
    q: &Query<'_>,
    space: Space,
    collection: &CollectionName,
    plan: &ListPlan,
    limit: i64,
) -> Result<Vec<(Item, Option<String>)>, Error> {
    let key = space.key();
    let (value, id) = &plan.after;
    let mut parameters: Vec<Param<'_>> =
        vec![key.as_param(), Param::Text(collection.as_str()), id.as_param(), limit.as_param()];
    plan.further_conditions.iter().for_each(|other| parameters.extend(condition(other)));
    parameters.resize(4 + 3 * MAX_FURTHER_CONDITIONS, Param::Null);
    let sql = match &plan.by {
        None => NEWEST,
        Some((sorting, direction)) => {
            parameters.extend(condition(sorting));
            parameters.push(value.as_param());
            if *direction == SortDirection::Ascending { ASCENDING } else { DESCENDING }
        }
    };
    q.all(sql, &parameters, read_with)
}

fn condition((field, range): &FieldCondition) -> [Param<'_>; 3] {
    [field.as_param(), range.low.as_param(), range.high.as_param()]
}

/// Returns `true` if an item of the collection, in any space, is indexed with an older revision than
/// `revision`.
pub fn has_stale(q: &Query<'_>, collection: &CollectionName, revision: i64) -> Result<bool, Error> {
    // An index contains the minimum as its first entry; a condition `indexed_revision < $2` would scan the
    // table.
    let sql = "SELECT MIN(indexed_revision) FROM space_items WHERE collection = $1";
    let oldest: Option<i64> = q.one(sql, params![collection.as_str()], |row| row.get(0))?.flatten();
    Ok(oldest.is_some_and(|oldest| oldest < revision))
}

pub fn insert_field(
    tx: &kith_store::Tx<'_>,
    space: Space,
    item: &Item,
    field: &str,
    value: &str,
) -> Result<(), Error> {
    tx.exec_deferred(
        "INSERT INTO space_item_fields (item_id, field, space, collection, value) VALUES ($1, $2, $3, $4, $5)",
        params![item.id, field, space.key(), item.collection.as_str(), value],
    )?;
    Ok(())
}

pub fn delete_fields(tx: &kith_store::Tx<'_>, id: ItemId) -> Result<(), Error> {
    tx.exec_deferred("DELETE FROM space_item_fields WHERE item_id = $1", params![id])?;
    Ok(())
}
