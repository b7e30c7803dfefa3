//! SQL statements for sessions, one function per statement. Contains no business rules.

use kith_kernel::{Timestamp, UserId};
use kith_store::{Error, Query, Tx, id_columns, params};

use super::super::model::{ClientInfo, Session, SessionId};

id_columns!(SessionId);

/// Session with the columns needed to refresh or end it.
pub struct SessionRow {
    pub user_id: UserId,
    pub generation: i64,
    pub refreshed_at: Timestamp,
    pub expires_at: Timestamp,
}

pub fn insert_session(
    tx: &Tx<'_>,
    id: SessionId,
    user: UserId,
    client: &ClientInfo,
    now: Timestamp,
    expires_at: Timestamp,
) -> Result<(), Error> {
    tx.exec_deferred(
        "INSERT INTO sessions (id, user_id, generation, created_at, refreshed_at, expires_at, address, user_agent)
         VALUES ($1, $2, 0, $3, $3, $4, $5, $6)",
        params![id, user, now, expires_at, client.address, client.user_agent],
    )?;
    Ok(())
}

pub fn find_session(q: &Query<'_>, id: SessionId) -> Result<Option<SessionRow>, Error> {
    q.one(
        "SELECT user_id, generation, refreshed_at, expires_at FROM sessions WHERE id = $1",
        params![id],
        |row| {
            Ok(SessionRow {
                user_id: row.get(0)?,
                generation: row.get(1)?,
                refreshed_at: row.get(2)?,
                expires_at: row.get(3)?,
            })
        },
    )
}

/// Refreshes a session if its generation is `generation` and it has not expired. Returns its user, or `None`
/// if the session was not refreshed.
pub fn renew_session(
    tx: &Tx<'_>,
    id: SessionId,
    generation: i64,
    now: Timestamp,
    expires_at: Timestamp,
) -> Result<Option<UserId>, Error> {
    tx.one(
        "UPDATE sessions SET generation = generation + 1, refreshed_at = $3, expires_at = $4
         WHERE id = $1 AND generation = $2 AND expires_at > $3
         RETURNING user_id",
        params![id, generation, now, expires_at],
        |row| row.get(0),
    )
}

/// Returns the open sessions of `user`, most recently refreshed first.
pub fn list_sessions(
    q: &Query<'_>,
    user: UserId,
    current: SessionId,
    now: Timestamp,
) -> Result<Vec<Session>, Error> {
    // `+ 0` prevents SQLite from using the index on expiry: almost all sessions match that condition.
    q.all(
        "SELECT id, created_at, refreshed_at, expires_at, address, user_agent FROM sessions
         WHERE user_id = $1 AND expires_at + 0 > $2 ORDER BY refreshed_at DESC, id DESC",
        params![user, now],
        |row| {
            let id: SessionId = row.get(0)?;
            Ok(Session {
                id,
                current: id == current,
                created_at: row.get(1)?,
                refreshed_at: row.get(2)?,
                expires_at: row.get(3)?,
                address: row.get(4)?,
                user_agent: row.get(5)?,
            })
        },
    )
}

pub fn delete_session(tx: &Tx<'_>, user: UserId, id: SessionId) -> Result<bool, Error> {
    tx.exec("DELETE FROM sessions WHERE id = $1 AND user_id = $2", params![id, user]).map(|rows| rows == 1)
}

/// Deletes all sessions of `user` except `kept`. Returns the deleted sessions.
pub fn delete_sessions(tx: &Tx<'_>, user: UserId, kept: Option<SessionId>) -> Result<Vec<SessionId>, Error> {
    tx.all(
        "DELETE FROM sessions WHERE user_id = $1 AND (CAST($2 AS TEXT) IS NULL OR id <> $2) RETURNING id",
        params![user, kept],
        |row| row.get(0),
    )
}

/// Deletes all but the `keep` most recently refreshed sessions of `user`. Returns the deleted sessions.
pub fn delete_surplus_sessions(tx: &Tx<'_>, user: UserId, keep: i64) -> Result<Vec<SessionId>, Error> {
    tx.all(
        "DELETE FROM sessions WHERE id IN
            (SELECT id FROM sessions WHERE user_id = $1 ORDER BY refreshed_at DESC, id DESC LIMIT 1000 OFFSET $2)
         RETURNING id",
        params![user, keep],
        |row| row.get(0),
    )
}

pub fn count_sessions(q: &Query<'_>, user: UserId) -> Result<i64, Error> {
    let sql = "SELECT COUNT(*) FROM sessions WHERE user_id = $1";
    Ok(q.one(sql, params![user], |row| row.get(0))?.unwrap_or(0))
}
