//! SQL statements for failed log-ins, rejected registrations and first-administrator links, one function per
//! statement. Contains no business rules.

use kith_kernel::Timestamp;
use kith_kernel::uuid::Uuid;
use kith_store::{Error, Query, Tx, params};

use super::super::rules::LogInFailures;

pub fn find_failures(q: &Query<'_>, subject: &[u8; 32]) -> Result<LogInFailures, Error> {
    let found = q.one(
        "SELECT failures, failed_at, locked_until FROM login_failures WHERE subject = $1",
        params![subject],
        |row| Ok(LogInFailures { count: row.get(0)?, failed_at: row.get(1)?, locked_until: row.get(2)? }),
    )?;
    Ok(found.unwrap_or(LogInFailures::NONE))
}

pub fn upsert_failures(tx: &Tx<'_>, subject: &[u8; 32], failures: LogInFailures) -> Result<(), Error> {
    tx.exec_deferred(
        "INSERT INTO login_failures (subject, failures, failed_at, locked_until) VALUES ($1, $2, $3, $4)
         ON CONFLICT (subject) DO UPDATE
         SET failures = excluded.failures, failed_at = excluded.failed_at, locked_until = excluded.locked_until",
        params![subject, failures.count, failures.failed_at, failures.locked_until],
    )?;
    Ok(())
}

pub fn delete_failures(tx: &Tx<'_>, subject: &[u8; 32]) -> Result<(), Error> {
    tx.exec_deferred("DELETE FROM login_failures WHERE subject = $1", params![subject])?;
    Ok(())
}

/// Returns the number of `email_taken` responses for an address since `since`, and the time of the first of
/// them.
pub fn find_refusals(
    q: &Query<'_>,
    address: &[u8; 32],
    since: Timestamp,
) -> Result<(i64, Option<Timestamp>), Error> {
    let found = q.one(
        "SELECT COUNT(*), MIN(refused_at) FROM registration_refusals WHERE address = $1 AND refused_at > $2",
        params![address, since],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    Ok(found.unwrap_or_default())
}

pub fn insert_refusal(tx: &Tx<'_>, id: Uuid, address: &[u8; 32], at: Timestamp) -> Result<(), Error> {
    let sql = "INSERT INTO registration_refusals (id, address, refused_at) VALUES ($1, $2, $3)";
    tx.exec_deferred(sql, params![id, address, at])?;
    Ok(())
}

pub fn insert_link(tx: &Tx<'_>, secret_hash: &[u8; 32], expires_at: Timestamp) -> Result<(), Error> {
    let sql = "INSERT INTO first_admin_links (secret_hash, expires_at) VALUES ($1, $2)";
    tx.exec_deferred(sql, params![secret_hash, expires_at])?;
    Ok(())
}

/// Deletes first-administrator links that have expired at `now`.
pub fn delete_expired_links(tx: &Tx<'_>, now: Timestamp) -> Result<(), Error> {
    tx.exec_deferred("DELETE FROM first_admin_links WHERE expires_at <= $1", params![now])?;
    Ok(())
}

pub fn has_link(q: &Query<'_>, secret_hash: &[u8; 32], now: Timestamp) -> Result<bool, Error> {
    let sql = "SELECT 1 FROM first_admin_links WHERE secret_hash = $1 AND expires_at > $2";
    Ok(q.one(sql, params![secret_hash, now], |_| Ok(()))?.is_some())
}

pub fn delete_links(tx: &Tx<'_>) -> Result<(), Error> {
    tx.exec_deferred("DELETE FROM first_admin_links", &[])?;
    Ok(())
}

/// Deletes sessions expired at `now`, registration refusals up to `refused_before` and log-in failures up to
/// `failed_before`.
pub fn delete_expired(
    tx: &Tx<'_>,
    now: Timestamp,
    refused_before: Timestamp,
    failed_before: Timestamp,
) -> Result<(), Error> {
    tx.exec_deferred("DELETE FROM sessions WHERE expires_at <= $1", params![now])?;
    tx.exec_deferred("DELETE FROM registration_refusals WHERE refused_at <= $1", params![refused_before])?;
    tx.exec_deferred("DELETE FROM login_failures WHERE failed_at <= $1", params![failed_before])?;
    Ok(())
}
