//! SQL for workers and their heartbeats.

use std::time::Duration;

use kith_kernel::Timestamp;
use kith_store::{Error, Query, Tx, params};

pub fn insert(
    tx: &Tx<'_>,
    name: &str,
    is_remote: bool,
    lease: Duration,
    now: Timestamp,
) -> Result<i64, Error> {
    let lease_ms = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX / 4);
    let id = tx.one(
        "INSERT INTO job_workers (name, is_remote, heartbeat_at, lease_ms, started_at) VALUES ($1, $2, $3, $4, $3)
         RETURNING id",
        params![name, is_remote, now, lease_ms],
        |row| row.get(0),
    )?;
    id.ok_or_else(|| Error::fault("an insert returned nothing"))
}

/// Records a heartbeat. Returns false if the worker does not exist because it was evicted.
pub fn heartbeat(tx: &Tx<'_>, worker: i64, now: Timestamp) -> Result<bool, Error> {
    let sql =
        "UPDATE job_workers SET heartbeat_at = CASE WHEN heartbeat_at > $2 THEN heartbeat_at ELSE $2 END
         WHERE id = $1";
    Ok(tx.exec(sql, params![worker, now])? == 1)
}

/// Returns true if the worker is registered and was not evicted.
pub fn is_known(q: &Query<'_>, worker: i64) -> Result<bool, Error> {
    let sql = "SELECT 1 FROM job_workers WHERE id = $1";
    Ok(q.one(sql, params![worker], |_| Ok(()))?.is_some())
}

/// Records a heartbeat and sets the length of the lease. Returns false if the worker was evicted.
pub fn heartbeat_with_lease(
    tx: &Tx<'_>,
    worker: i64,
    now: Timestamp,
    lease: Duration,
) -> Result<bool, Error> {
    let lease_ms = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX / 4);
    let sql = "UPDATE job_workers SET heartbeat_at = $2, lease_ms = $3 WHERE id = $1";
    Ok(tx.exec(sql, params![worker, now, lease_ms])? == 1)
}

/// Returns up to `limit` workers whose lease has expired and is not longer than `contact`.
pub fn list_expired(q: &Query<'_>, now: Timestamp, contact: Duration, limit: i64) -> Result<Vec<i64>, Error> {
    let contact_ms = i64::try_from(contact.as_millis()).unwrap_or(i64::MAX);
    q.all(
        "SELECT id FROM job_workers WHERE heartbeat_at + lease_ms < $1 AND lease_ms <= $2 ORDER BY id LIMIT $3",
        params![now, contact_ms, limit],
        |row| row.get(0),
    )
}

/// Returns true if the worker exists and its lease has expired.
pub fn is_lease_expired(q: &Query<'_>, worker: i64, now: Timestamp) -> Result<bool, Error> {
    let sql = "SELECT 1 FROM job_workers WHERE id = $1 AND heartbeat_at + lease_ms < $2";
    Ok(q.one(sql, params![worker, now], |_| Ok(()))?.is_some())
}

pub fn delete(tx: &Tx<'_>, worker: i64) -> Result<(), Error> {
    tx.exec("DELETE FROM job_workers WHERE id = $1", params![worker])?;
    Ok(())
}

/// Returns the workers that are not external programs. Used on SQLite at the start, when all of them belong
/// to earlier processes.
pub fn list_local(q: &Query<'_>) -> Result<Vec<i64>, Error> {
    q.all("SELECT id FROM job_workers WHERE NOT is_remote ORDER BY id", &[], |row| row.get(0))
}

/// Deletes the worker of a leased claim if it has no running job.
pub fn delete_if_idle(tx: &Tx<'_>, worker: i64) -> Result<(), Error> {
    tx.exec(
        states!(
            "DELETE FROM job_workers WHERE id = $1 AND is_remote
           AND NOT EXISTS (SELECT 1 FROM jobs WHERE state = {running} AND worker = $1)"
        ),
        params![worker],
    )?;
    Ok(())
}
