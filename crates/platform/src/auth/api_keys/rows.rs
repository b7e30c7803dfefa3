//! SQL statements on API keys, one per function.

use kith_kernel::uuid::Uuid;
use kith_kernel::{ApiKeyId, Timestamp, UserId};
use kith_store::{Error, FromRow as _, Query, Row, Tx, params, row_columns};
use serde_json::{Value, json};

use super::known_key::CachedApiKey;
use super::model::{ApiKey, ApiKeyStatus};
use super::text::public_prefix;

row_columns! {
    key_columns => ApiKey (id: Uuid = "id", scopes: String = "scopes") {
        name = "name",
        created_by = "created_by",
        created_at = "created_at",
        expires_at = "expires_at",
        revoked_at = "revoked_at",
        last_used_at = "last_used_at";
        id = ApiKeyId(id);
        prefix = public_prefix(ApiKeyId(id));
        scopes = split_scopes(&scopes);
        status = ApiKeyStatus::Active
    }
}

pub(super) fn insert(tx: &Tx<'_>, key: &ApiKey, digest: &[u8; 32]) -> Result<(), Error> {
    tx.exec_deferred(
        "INSERT INTO api_keys (id, digest, name, scopes, created_by, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        params![
            key.id.0,
            digest,
            key.name,
            key.scopes.join(" "),
            key.created_by,
            key.created_at,
            key.expires_at
        ],
    )?;
    Ok(())
}

pub(super) fn find(q: &Query<'_>, id: ApiKeyId, now: Timestamp) -> Result<Option<ApiKey>, Error> {
    q.one(concat!("SELECT ", key_columns!(), " FROM api_keys WHERE id = $1"), params![id.0], |row| {
        read(row, now)
    })
}

/// Returns the data of a key that is needed to verify requests.
pub(super) fn find_known(q: &Query<'_>, id: ApiKeyId) -> Result<Option<CachedApiKey>, Error> {
    q.one(
        "SELECT digest, created_by, scopes, expires_at, revoked_at, last_used_at FROM api_keys WHERE id = $1",
        params![id.0],
        |row| {
            let scopes = split_scopes(&row.get::<String>(2)?);
            let last_used_at = row.get::<Option<Timestamp>>(5)?;
            Ok(CachedApiKey::new(
                id,
                row.get(0)?,
                row.get(1)?,
                scopes,
                row.get(3)?,
                row.get(4)?,
                last_used_at,
            ))
        },
    )
}

/// Returns up to `limit` keys with an id less than `before`, newest first.
pub(super) fn list(
    q: &Query<'_>,
    before: ApiKeyId,
    limit: i64,
    now: Timestamp,
) -> Result<Vec<ApiKey>, Error> {
    q.all(
        concat!("SELECT ", key_columns!(), " FROM api_keys WHERE id < $1 ORDER BY id DESC LIMIT $2"),
        params![before.0, limit],
        |row| read(row, now),
    )
}

/// Returns the keys that a user created, for the export of personal data.
pub(super) fn list_of(q: &Query<'_>, user: UserId) -> Result<Vec<Value>, Error> {
    q.all(
        "SELECT name, scopes, created_at, expires_at, revoked_at, last_used_at FROM api_keys
         WHERE created_by = $1 ORDER BY id",
        params![user],
        |row| {
            let at = |n| row.get::<Option<Timestamp>>(n);
            Ok(json!({
                "name": row.get::<String>(0)?,
                "scopes": row.get::<String>(1)?,
                "created_at": at(2)?,
                "expires_at": at(3)?,
                "revoked_at": at(4)?,
                "last_used_at": at(5)?,
            }))
        },
    )
}

pub(super) fn count_of(q: &Query<'_>, user: UserId) -> Result<i64, Error> {
    let sql = "SELECT COUNT(*) FROM api_keys WHERE created_by = $1";
    Ok(q.one(sql, params![user], |row| row.get(0))?.unwrap_or(0))
}

pub(super) fn delete_of(tx: &Tx<'_>, user: UserId) -> Result<(), Error> {
    tx.exec_deferred("DELETE FROM api_keys WHERE created_by = $1", params![user])?;
    Ok(())
}

/// Revokes a key. Returns false if the key was already revoked or does not exist.
pub(super) fn revoke(tx: &Tx<'_>, id: ApiKeyId, at: Timestamp) -> Result<bool, Error> {
    let sql = "UPDATE api_keys SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL";
    tx.exec(sql, params![id.0, at]).map(|rows| rows == 1)
}

/// Records a use at `at`, unless a use after `before` is already recorded, for example by another node.
pub(super) fn record_use(tx: &Tx<'_>, id: ApiKeyId, at: Timestamp, before: Timestamp) -> Result<(), Error> {
    tx.exec_deferred(
        "UPDATE api_keys SET last_used_at = $2 WHERE id = $1 AND (last_used_at IS NULL OR last_used_at <= $3)",
        params![id.0, at, before],
    )?;
    Ok(())
}

/// Returns the number of keys, and the number of those whose stored digest has the length of a SHA-256
/// digest.
pub(super) fn count(q: &Query<'_>) -> Result<(i64, i64), Error> {
    let sql =
        "SELECT COUNT(*), COALESCE(SUM(CASE WHEN LENGTH(digest) = 32 THEN 1 ELSE 0 END), 0) FROM api_keys";
    Ok(q.one(sql, &[], |row| Ok((row.get(0)?, row.get(1)?)))?.unwrap_or_default())
}

fn read(row: &Row<'_>, now: Timestamp) -> Result<ApiKey, Error> {
    let key = ApiKey::read_row(row)?;
    Ok(ApiKey { status: ApiKeyStatus::at(now, key.expires_at, key.revoked_at), ..key })
}

fn split_scopes(written: &str) -> Vec<String> {
    written.split(' ').map(str::to_owned).collect()
}
