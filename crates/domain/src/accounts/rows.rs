//! All SQL about accounts, a function a statement. No decisions.

use kith_kernel::{Timestamp, UserId};
use kith_store::{Error, Query, Row, Tx, id_columns, params};

use super::model::{NewAccount, OpenSession, RefreshToken, SessionId, User};

id_columns!(SessionId);

/// Makes the account unless the address is taken, and says whether it did.
pub fn insert_user(tx: &Tx<'_>, user: &User, account: &NewAccount) -> Result<bool, Error> {
    let inserted = tx.exec(
        "INSERT INTO users (id, email, email_key, display_name, password_hash, created_at)
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (email_key) DO NOTHING",
        params![
            user.id,
            user.email,
            account.email.key,
            user.display_name,
            account.password_hash,
            user.created_at
        ],
    )?;
    Ok(inserted == 1)
}

pub fn find_user(q: &Query<'_>, id: UserId) -> Result<Option<User>, Error> {
    q.one("SELECT id, email, display_name, created_at FROM users WHERE id = $1", params![id], read_user)
}

/// The user with this address, and the hash of their password.
pub fn find_credentials(q: &Query<'_>, email_key: &str) -> Result<Option<(User, String)>, Error> {
    q.one(
        "SELECT id, email, display_name, created_at, password_hash FROM users WHERE email_key = $1",
        params![email_key],
        |row| Ok((read_user(row)?, row.get(4)?)),
    )
}

pub fn insert_session(
    tx: &Tx<'_>,
    session: &OpenSession,
    now: Timestamp,
    expires_at: Timestamp,
) -> Result<(), Error> {
    tx.exec(
        "INSERT INTO sessions (id, user_id, refresh_hash, created_at, refreshed_at, expires_at)
         VALUES ($1, $2, $3, $4, $4, $5)",
        params![session.id, session.user_id, session.refresh_token.hash(), now, expires_at],
    )?;
    Ok(())
}

/// Puts `next` in the place of `spent`, if that renews a session still: of two who try at once, one does.
pub fn rotate_refresh_token(
    tx: &Tx<'_>,
    spent: &RefreshToken,
    next: &RefreshToken,
    now: Timestamp,
    expires_at: Timestamp,
) -> Result<Option<(SessionId, UserId)>, Error> {
    tx.one(
        "UPDATE sessions SET refresh_hash = $2, refreshed_at = $3, expires_at = $4
         WHERE refresh_hash = $1 AND expires_at > $3
         RETURNING id, user_id",
        params![spent.hash(), next.hash(), now, expires_at],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

fn read_user(row: &Row<'_>) -> Result<User, Error> {
    Ok(User { id: row.get(0)?, email: row.get(1)?, display_name: row.get(2)?, created_at: row.get(3)? })
}
