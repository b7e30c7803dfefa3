//! SQL statements for declared job kinds, one function per statement. Contains no business rules. The
//! statements for jobs are in the crate `kith_jobs`.

use kith_kernel::{StoredJson, Timestamp};
use kith_store::{Error, FromRow as _, Query, Tx, params, row_columns};

use super::model::{JobKind, RetryBody};

row_columns! {
    kind_columns => JobKind (
        max_attempts: Option<i64> = "max_attempts",
        base_ms: Option<i64> = "base_ms",
        cap_ms: Option<i64> = "cap_ms",
    ) {
        kind = "kind",
        queue = "queue",
        schema = "schema",
        priority = "priority",
        timeout_ms = "timeout_ms",
        updated_at = "updated_at";
        retry = max_attempts.map(|max_attempts| RetryBody { max_attempts, base_ms, cap_ms })
    }
}

pub fn find_kind(q: &Query<'_>, kind: &str) -> Result<Option<JobKind>, Error> {
    q.one(
        concat!("SELECT ", kind_columns!(), " FROM job_kinds WHERE kind = $1"),
        params![kind],
        JobKind::read_row,
    )
}

/// Returns up to `limit` job kinds with a name above `after`, ordered by name.
pub fn list_kinds(q: &Query<'_>, after: &str, limit: i64) -> Result<Vec<JobKind>, Error> {
    q.all(
        concat!("SELECT ", kind_columns!(), " FROM job_kinds WHERE kind > $1 ORDER BY kind LIMIT $2"),
        params![after, limit],
        JobKind::read_row,
    )
}

pub fn upsert_kind(tx: &Tx<'_>, kind: &JobKind, now: Timestamp) -> Result<(), Error> {
    let retry = kind.retry.as_ref();
    let schema = kind.schema.as_ref().map(StoredJson::as_str);
    tx.exec_deferred(
        "INSERT INTO job_kinds (kind, queue, schema, priority, max_attempts, base_ms, cap_ms, timeout_ms, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         ON CONFLICT (kind) DO UPDATE SET queue = excluded.queue, schema = excluded.schema,
             priority = excluded.priority, max_attempts = excluded.max_attempts, base_ms = excluded.base_ms,
             cap_ms = excluded.cap_ms, timeout_ms = excluded.timeout_ms, updated_at = excluded.updated_at",
        params![
            kind.kind,
            kind.queue,
            schema,
            kind.priority,
            retry.map(|retry| retry.max_attempts),
            retry.and_then(|retry| retry.base_ms),
            retry.and_then(|retry| retry.cap_ms),
            kind.timeout_ms,
            now
        ],
    )?;
    Ok(())
}

pub fn delete_kind(tx: &Tx<'_>, kind: &str) -> Result<bool, Error> {
    tx.exec("DELETE FROM job_kinds WHERE kind = $1", params![kind]).map(|rows| rows == 1)
}
