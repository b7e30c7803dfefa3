//! SQL statements of recurring callbacks.

use kith_jobs::JobId;
use kith_store::{Error, Query, Row, Tx, params};

use super::super::model::RecurringId;
use super::super::recurring::KeptRecurring;

pub fn insert_recurring(tx: &Tx<'_>, new: &KeptRecurring) -> Result<(), Error> {
    tx.exec(
        "INSERT INTO recurring_callbacks (id, endpoint_id, url, method, headers, body, timeout_ms, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        params![
            new.id,
            new.endpoint_id,
            new.url,
            new.method,
            new.headers,
            new.body,
            new.timeout_ms,
            new.created_at
        ],
    )?;
    Ok(())
}

pub fn find_recurring(q: &Query<'_>, id: RecurringId) -> Result<Option<KeptRecurring>, Error> {
    q.one(
        "SELECT id, endpoint_id, url, method, headers, body, timeout_ms, created_at FROM recurring_callbacks WHERE id = $1",
        params![id],
        read,
    )
}

/// Returns up to `limit` recurring callbacks with an ID below `before`, newest first.
pub fn list_recurring(q: &Query<'_>, before: RecurringId, limit: i64) -> Result<Vec<KeptRecurring>, Error> {
    q.all(
        "SELECT id, endpoint_id, url, method, headers, body, timeout_ms, created_at FROM recurring_callbacks
         WHERE id < $1 ORDER BY id DESC LIMIT $2",
        params![before, limit],
        read,
    )
}

fn read(row: &Row<'_>) -> Result<KeptRecurring, Error> {
    Ok(KeptRecurring {
        id: row.get(0)?,
        endpoint_id: row.get(1)?,
        url: row.get(2)?,
        method: row.get(3)?,
        headers: row.get(4)?,
        body: row.get(5)?,
        timeout_ms: row.get(6)?,
        created_at: row.get(7)?,
    })
}

pub fn delete_recurring(tx: &Tx<'_>, id: RecurringId) -> Result<(), Error> {
    tx.exec("DELETE FROM recurring_callbacks WHERE id = $1", params![id])?;
    Ok(())
}

/// Returns `true` if this job has created its callback.
pub fn has_occurred(q: &Query<'_>, id: RecurringId, job: JobId) -> Result<bool, Error> {
    let sql = "SELECT 1 FROM callbacks WHERE recurring_id = $1 AND occasion = $2";
    Ok(q.one(sql, params![id, job], |row| row.get::<i64>(0))?.is_some())
}
