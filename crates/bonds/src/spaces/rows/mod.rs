//! SQL statements for spaces, one function per statement. Contains no business rules.

use kith_kernel::{Timestamp, UserId};
use kith_store::{Column, Columns, Error, FromRow, Query, Row, Tx, id_columns, params, row_columns};

use super::model::{CollectionName, Item, ItemId, Space, SpaceUsage, SpaceWithMembers};
use crate::bonds::BondId;

// The columns come from `space_items i` or `archived_space_items i`.
row_columns! {
    item_columns => Item {
        id = "i.id",
        collection = "i.collection",
        data = "i.data",
        version = "i.version",
        created_at = "i.created_at",
        created_by = "i.created_by",
        updated_at = "i.updated_at",
        updated_by = "i.updated_by"
    }
}

/// Columns of `bonds b` from which a [`SpaceWithMembers`] is read.
macro_rules! bond_space_columns {
    () => {
        "b.id, b.user_a, b.user_b"
    };
}

mod archives;
mod declarations;
mod lists;
mod reminders;

#[cfg(test)]
mod tests;

pub use archives::*;
pub use declarations::*;
pub use lists::*;
pub use reminders::*;

id_columns!(ItemId);

impl Column for Space {
    fn from_row(row: &Row<'_>, at: usize) -> Result<Self, Error> {
        Ok(Self::parse(&row.get::<String>(at)?).expect("only keys of spaces are written"))
    }
}

impl Column for CollectionName {
    fn from_row(row: &Row<'_>, at: usize) -> Result<Self, Error> {
        Ok(row.get::<String>(at)?.parse().expect("only names of collections are written"))
    }
}

impl FromRow for SpaceWithMembers {
    fn from_columns(columns: &mut Columns<'_, '_>) -> Result<Self, Error> {
        let bond = columns.read()?;
        Ok(Self { space: Space::Bond(bond), members: vec![columns.read()?, columns.read()?] })
    }
}

/// Returns the users of `space`, and `true` if the space is usable: its owner is not deleted, or its bond is
/// active.
pub fn find_members(q: &Query<'_>, space: Space) -> Result<Option<(SpaceWithMembers, bool)>, Error> {
    match space {
        Space::Me(user) => {
            q.one("SELECT deleted_at IS NULL FROM users WHERE id = $1", params![user], |row| {
                Ok((SpaceWithMembers { space, members: vec![user] }, row.get(0)?))
            })
        }
        Space::Bond(bond) => q.one(
            concat!("SELECT ", bond_space_columns!(), ", b.ended_at IS NULL FROM bonds b WHERE b.id = $1"),
            params![bond],
            |row| {
                let columns = &mut Columns::of(row);
                Ok((columns.read()?, columns.read()?))
            },
        ),
    }
}

/// Returns up to `limit` bonds of `user`, active or ended, whose spaces are not purged. Begins with ID
/// `first`, orders by ID, and includes the archive times.
pub fn list_bond_spaces(
    q: &Query<'_>,
    user: UserId,
    first: BondId,
    limit: i64,
) -> Result<Vec<(BondId, Option<Timestamp>)>, Error> {
    q.all(
        "SELECT b.id, b.archived_at FROM bonds b LEFT JOIN archived_spaces a ON a.bond_id = b.id
         WHERE (b.user_a = $1 OR b.user_b = $1) AND b.id >= $2 AND a.purged_at IS NULL
         ORDER BY b.id LIMIT $3",
        params![user, first, limit],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

/// Returns the time zone in the profile of `user`; `None` if it is not set.
pub fn find_time_zone(q: &Query<'_>, user: UserId) -> Result<Option<String>, Error> {
    let found = q.one("SELECT time_zone FROM users WHERE id = $1", params![user], |row| row.get(0))?;
    Ok(found.flatten())
}

/// Returns an item and the size of its data in bytes.
pub fn find_item(
    q: &Query<'_>,
    space: Space,
    collection: &CollectionName,
    id: ItemId,
) -> Result<Option<(Item, i64)>, Error> {
    q.one(
        concat!(
            "SELECT ",
            item_columns!(),
            ", bytes FROM space_items i WHERE id = $1 AND space = $2 AND collection = $3"
        ),
        params![id, space.key(), collection.as_str()],
        read_with,
    )
}

const ALL_ITEMS: &str = concat!(
    "SELECT ",
    item_columns!(),
    " FROM space_items i WHERE space = $1 AND (collection, id) > ($2, $3) UNION ALL SELECT ",
    item_columns!(),
    " FROM archived_space_items i WHERE space = $1 AND (collection, id) > ($2, $3) ORDER BY collection, id LIMIT $4"
);

/// Returns up to `limit` items of a space, live or archived, ordered by collection and ID. Begins after the
/// item `id` of `collection`.
pub fn list_all_items(
    q: &Query<'_>,
    space: Space,
    collection: &str,
    id: ItemId,
    limit: i64,
) -> Result<Vec<Item>, Error> {
    q.all(ALL_ITEMS, params![space.key(), collection, id, limit], Item::read_row)
}

pub fn insert_item(tx: &Tx<'_>, space: Space, item: &Item, indexed_revision: i64) -> Result<(), Error> {
    tx.exec_deferred(
        "INSERT INTO space_items (id, space, collection, data, bytes, version, created_at, created_by, updated_at,
                                  updated_by, indexed_revision)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        params![
            item.id,
            space.key(),
            item.collection.as_str(),
            item.data.as_str(),
            item.data.bytes() as i64,
            item.version,
            item.created_at,
            item.created_by,
            item.updated_at,
            item.updated_by,
            indexed_revision
        ],
    )?;
    Ok(())
}

pub fn update_item(tx: &Tx<'_>, item: &Item, indexed_revision: i64) -> Result<(), Error> {
    tx.exec_deferred(
        "UPDATE space_items SET data = $2, bytes = $3, version = $4, updated_at = $5, updated_by = $6,
             indexed_revision = $7
         WHERE id = $1",
        params![
            item.id,
            item.data.as_str(),
            item.data.bytes() as i64,
            item.version,
            item.updated_at,
            item.updated_by,
            indexed_revision
        ],
    )?;
    Ok(())
}

pub fn delete_item(tx: &Tx<'_>, id: ItemId) -> Result<(), Error> {
    tx.exec_deferred("DELETE FROM space_items WHERE id = $1", params![id])?;
    Ok(())
}

static USAGE: &str =
    "SELECT COALESCE(CAST(SUM(items) AS BIGINT), 0), COALESCE(CAST(SUM(bytes) AS BIGINT), 0), COUNT(*),
            COUNT(CASE WHEN collection = $2 THEN 1 END)
     FROM space_collections WHERE space = $1";

/// Prefetches the row that [`find_usage`] reads.
pub fn prefetch_usage(tx: &Tx<'_>, space: Space, collection: &CollectionName) -> Result<(), Error> {
    tx.prefetch(USAGE, params![space.key(), collection.as_str()])
}

/// Returns the number and size of the items in a space, its number of collections, and `true` if
/// `collection` would be a new one.
pub fn find_usage(
    q: &Query<'_>,
    space: Space,
    collection: &CollectionName,
) -> Result<(SpaceUsage, i64, bool), Error> {
    let found = q.one(USAGE, params![space.key(), collection.as_str()], |row| {
        let usage = SpaceUsage { items: row.get(0)?, bytes: row.get(1)? };
        Ok((usage, row.get(2)?, row.get::<i64>(3)? == 0))
    })?;
    Ok(found.unwrap_or((SpaceUsage::default(), 0, true)))
}

/// Adds `more` to the counters of a collection. Removes the row of the collection if it has no items left.
pub fn add_usage(
    tx: &Tx<'_>,
    space: Space,
    collection: &CollectionName,
    more: SpaceUsage,
) -> Result<(), Error> {
    let (space, collection) = (space.key(), collection.as_str());
    tx.exec_deferred(
        "INSERT INTO space_collections (space, collection, items, bytes) VALUES ($1, $2, $3, $4)
         ON CONFLICT (space, collection) DO UPDATE
         SET items = space_collections.items + excluded.items, bytes = space_collections.bytes + excluded.bytes",
        params![space, collection, more.items, more.bytes],
    )?;
    if more.items < 0 {
        let sql = "DELETE FROM space_collections WHERE space = $1 AND collection = $2 AND items = 0";
        tx.exec_deferred(sql, params![space, collection])?;
    }
    Ok(())
}

/// Counts the items of a space and the bytes of their data.
pub fn count_items(q: &Query<'_>, space: Space) -> Result<SpaceUsage, Error> {
    let found = q.one(
        "SELECT COUNT(*), COALESCE(CAST(SUM(bytes) AS BIGINT), 0) FROM space_items WHERE space = $1",
        params![space.key()],
        |row| Ok(SpaceUsage { items: row.get(0)?, bytes: row.get(1)? }),
    )?;
    Ok(found.unwrap_or_default())
}

/// Deletes a space from the live tables.
pub fn delete_space(tx: &Tx<'_>, space: Space) -> Result<(), Error> {
    let key = space.key();
    for sql in [
        "DELETE FROM space_reminders WHERE item_id IN (SELECT id FROM space_items WHERE space = $1)",
        "DELETE FROM space_items WHERE space = $1",
        // Deleted after the items, because a transaction that indexes one of these items has then finished.
        "DELETE FROM space_item_fields WHERE space = $1",
        "DELETE FROM space_collections WHERE space = $1",
    ] {
        tx.exec_deferred(sql, params![key])?;
    }
    Ok(())
}

/// Counts items in bond spaces that `user` created or last changed.
pub fn count_authored(q: &Query<'_>, user: UserId) -> Result<i64, Error> {
    let counted = q.one(
        "SELECT (SELECT COUNT(*) FROM space_items
                 WHERE (created_by = $1 OR updated_by = $1)
                   AND space IN (SELECT 'bond:' || id FROM bonds WHERE user_a = $1 OR user_b = $1))
              + (SELECT COUNT(*) FROM archived_space_items
                 WHERE (created_by = $1 OR updated_by = $1)
                   AND space IN (SELECT 'bond:' || id FROM bonds WHERE user_a = $1 OR user_b = $1))",
        params![user],
        |row| row.get(0),
    )?;
    Ok(counted.unwrap_or(0))
}

/// Removes the ID of `user` from items in bond spaces.
pub fn clear_author(tx: &Tx<'_>, user: UserId) -> Result<(), Error> {
    for sql in [
        "UPDATE space_items
         SET created_by = CASE WHEN created_by <> $1 THEN created_by END,
             updated_by = CASE WHEN updated_by <> $1 THEN updated_by END
         WHERE (created_by = $1 OR updated_by = $1)
           AND space IN (SELECT 'bond:' || id FROM bonds WHERE user_a = $1 OR user_b = $1)",
        "UPDATE archived_space_items
         SET created_by = CASE WHEN created_by <> $1 THEN created_by END,
             updated_by = CASE WHEN updated_by <> $1 THEN updated_by END
         WHERE (created_by = $1 OR updated_by = $1)
           AND space IN (SELECT 'bond:' || id FROM bonds WHERE user_a = $1 OR user_b = $1)",
    ] {
        tx.exec_deferred(sql, params![user])?;
    }
    Ok(())
}

/// Reads an item, and a value from the columns after it.
fn read_with<T: FromRow>(row: &Row<'_>) -> Result<(Item, T), Error> {
    let columns = &mut Columns::of(row);
    Ok((columns.read()?, columns.read()?))
}
