//! SQL statements of nicknames, one function per statement. Contains no business rules.

use kith_kernel::UserId;
use kith_store::{Error, Query, Row, Tx, params};

use super::Nickname;

pub fn find(q: &Query<'_>, owner: UserId, user_id: UserId) -> Result<Option<Nickname>, Error> {
    q.one(
        "SELECT user_id, nickname, updated_at FROM nicknames WHERE owner = $1 AND user_id = $2",
        params![owner, user_id],
        read,
    )
}

/// Returns up to `limit` nicknames for users with an ID above `after`, ordered by user ID.
pub fn list(q: &Query<'_>, owner: UserId, after: UserId, limit: i64) -> Result<Vec<Nickname>, Error> {
    q.all(
        "SELECT user_id, nickname, updated_at FROM nicknames
         WHERE owner = $1 AND user_id > $2 ORDER BY user_id LIMIT $3",
        params![owner, after, limit],
        read,
    )
}

pub fn count(q: &Query<'_>, owner: UserId) -> Result<i64, Error> {
    let sql = "SELECT COUNT(*) FROM nicknames WHERE owner = $1";
    Ok(q.one(sql, params![owner], |row| row.get(0))?.unwrap_or(0))
}

pub fn upsert(tx: &Tx<'_>, owner: UserId, nickname: &Nickname) -> Result<(), Error> {
    tx.exec_deferred(
        "INSERT INTO nicknames (owner, user_id, nickname, updated_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (owner, user_id) DO UPDATE SET nickname = $3, updated_at = $4",
        params![owner, nickname.user_id, nickname.nickname, nickname.updated_at],
    )?;
    Ok(())
}

pub fn delete(tx: &Tx<'_>, owner: UserId, user_id: UserId) -> Result<bool, Error> {
    let sql = "DELETE FROM nicknames WHERE owner = $1 AND user_id = $2";
    Ok(tx.exec(sql, params![owner, user_id])? == 1)
}

/// Deletes the nicknames that `user` gave and those that others gave to `user`.
pub fn purge(tx: &Tx<'_>, user: UserId) -> Result<(), Error> {
    tx.exec_deferred("DELETE FROM nicknames WHERE owner = $1 OR user_id = $1", params![user])?;
    Ok(())
}

fn read(row: &Row<'_>) -> Result<Nickname, Error> {
    Ok(Nickname { user_id: row.get(0)?, nickname: row.get(1)?, updated_at: row.get(2)? })
}
