//! SQL statements for recurring callbacks.

use kith_jobs::JobId;
use kith_store::{Error, FromRow as _, Query, Tx, params, row_columns};

use super::super::model::{RecurringId, StoredRecurringCallback};

row_columns! {
    recurring_columns => StoredRecurringCallback {
        id = "id",
        endpoint_id = "endpoint_id",
        url = "url",
        method = "method",
        headers = "headers",
        body = "body",
        timeout_ms = "timeout_ms",
        created_at = "created_at"
    }
}

pub fn insert_recurring(tx: &Tx<'_>, new: &StoredRecurringCallback) -> Result<(), Error> {
    tx.exec_deferred(
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

pub fn find_recurring(q: &Query<'_>, id: RecurringId) -> Result<Option<StoredRecurringCallback>, Error> {
    q.one(
        concat!("SELECT ", recurring_columns!(), " FROM recurring_callbacks WHERE id = $1"),
        params![id],
        StoredRecurringCallback::read_row,
    )
}

/// Returns up to `limit` recurring callbacks with an ID below `before`, newest first.
pub fn list_recurring(
    q: &Query<'_>,
    before: RecurringId,
    limit: i64,
) -> Result<Vec<StoredRecurringCallback>, Error> {
    q.all(
        concat!(
            "SELECT ",
            recurring_columns!(),
            " FROM recurring_callbacks WHERE id < $1 ORDER BY id DESC LIMIT $2"
        ),
        params![before, limit],
        StoredRecurringCallback::read_row,
    )
}

pub fn delete_recurring(tx: &Tx<'_>, id: RecurringId) -> Result<(), Error> {
    tx.exec_deferred("DELETE FROM recurring_callbacks WHERE id = $1", params![id])?;
    Ok(())
}

/// Returns `true` if the job `job` has already created the callback of its run.
pub fn has_callback_for_run(q: &Query<'_>, id: RecurringId, job: JobId) -> Result<bool, Error> {
    let sql = "SELECT 1 FROM callbacks WHERE recurring_id = $1 AND run_job_id = $2";
    Ok(q.one(sql, params![id, job], |row| row.get::<i64>(0))?.is_some())
}
