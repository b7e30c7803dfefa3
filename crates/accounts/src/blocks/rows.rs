//! SQL statements for user blocks, one function per statement. Contains no business rules.

use kith_kernel::UserId;
use kith_store::{Error, Query, Row, Tx, id_columns, params};

use super::model::{Block, BlockId};

id_columns!(BlockId);

pub fn find(q: &Query<'_>, blocker: UserId, blocked: UserId) -> Result<Option<Block>, Error> {
    q.one(
        "SELECT id, blocked, display_name, created_at FROM blocks WHERE blocker = $1 AND blocked = $2",
        params![blocker, blocked],
        read,
    )
}

/// Returns up to `limit` blocks with an ID below `before`, newest first.
pub fn list(q: &Query<'_>, blocker: UserId, before: BlockId, limit: i64) -> Result<Vec<Block>, Error> {
    q.all(
        "SELECT id, blocked, display_name, created_at FROM blocks
         WHERE blocker = $1 AND id < $2 ORDER BY id DESC LIMIT $3",
        params![blocker, before, limit],
        read,
    )
}

pub fn count(q: &Query<'_>, blocker: UserId) -> Result<i64, Error> {
    let sql = "SELECT COUNT(*) FROM blocks WHERE blocker = $1";
    Ok(q.one(sql, params![blocker], |row| row.get(0))?.unwrap_or(0))
}

/// Returns the display name of `other`, unless `other` is deleted or has blocked `viewer`.
pub fn find_visible_name(q: &Query<'_>, viewer: UserId, other: UserId) -> Result<Option<String>, Error> {
    q.one(
        "SELECT u.display_name FROM users u WHERE u.id = $2 AND u.deleted_at IS NULL
         AND NOT EXISTS (SELECT 1 FROM blocks b WHERE b.blocker = $2 AND b.blocked = $1)",
        params![viewer, other],
        |row| row.get(0),
    )
}

pub fn insert(tx: &Tx<'_>, blocker: UserId, block: &Block) -> Result<(), Error> {
    tx.exec_deferred(
        "INSERT INTO blocks (id, blocker, blocked, display_name, created_at) VALUES ($1, $2, $3, $4, $5)",
        params![block.id, blocker, block.user_id, block.display_name, block.blocked_at],
    )?;
    Ok(())
}

pub fn delete(tx: &Tx<'_>, blocker: UserId, blocked: UserId) -> Result<bool, Error> {
    let sql = "DELETE FROM blocks WHERE blocker = $1 AND blocked = $2";
    Ok(tx.exec(sql, params![blocker, blocked])? == 1)
}

/// Deletes the blocks of `user` and clears their name in the blocks of others.
pub fn purge(tx: &Tx<'_>, user: UserId) -> Result<(), Error> {
    tx.exec_deferred("DELETE FROM blocks WHERE blocker = $1", params![user])?;
    tx.exec_deferred("UPDATE blocks SET display_name = NULL WHERE blocked = $1", params![user])?;
    Ok(())
}

fn read(row: &Row<'_>) -> Result<Block, Error> {
    Ok(Block { id: row.get(0)?, user_id: row.get(1)?, display_name: row.get(2)?, blocked_at: row.get(3)? })
}
