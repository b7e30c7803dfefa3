//! SQL statements for callbacks, one function per statement. Contains no business rules.

mod attempts;
mod endpoints;
mod recurring;

use kith_jobs::JobId;
use kith_kernel::Timestamp;
use kith_kernel::uuid::Uuid;
use kith_platform::{SealedColumn, sealed_column};
use kith_store::{Column, Error, FromRow as _, Query, Row, Tx, id_columns, params, row_columns};

use super::model::{
    Callback, CallbackFailureReason, CallbackId, CallbackState, EndpointId, RecurringId, StoredCallback,
};

pub use attempts::*;
pub use endpoints::*;
pub use recurring::*;

/// Columns with encrypted values. The prefixes must be those that `sealed.rs` and `recurring.rs` use.
pub const SEALED: &[SealedColumn] = &[
    sealed_column!("callback_endpoints", "secret", "callback_endpoint:"),
    sealed_column!("callback_endpoints", "previous_secret", "callback_endpoint:"),
    sealed_column!("callbacks", "headers", "callback:"),
    sealed_column!("recurring_callbacks", "headers", "recurring_callback:"),
];

id_columns!(CallbackId, EndpointId, RecurringId);

impl Column for CallbackState {
    fn from_row(row: &Row<'_>, at: usize) -> Result<Self, Error> {
        Ok(Self::parse(&row.get::<String>(at)?).expect("only states are written"))
    }
}

row_columns! {
    callback_columns => Callback (
        reason: Option<String> = "reason",
        recurring: Option<Uuid> = "recurring_id",
    ) {
        id = "id",
        endpoint_id = "endpoint_id",
        url = "url",
        method = "method",
        state = "state",
        due_at = "due_at",
        next_attempt_at = "next_attempt_at",
        attempts_made = "attempts",
        last_status = "last_status",
        created_at = "created_at",
        finished_at = "finished_at",
        job_id = "job_id";
        reason = reason.as_deref().and_then(CallbackFailureReason::parse);
        recurring_id = recurring.map(RecurringId)
    }
}

row_columns! {
    stored_columns => StoredCallback {
        callback = callback_columns!(),
        headers = "headers",
        body = "body",
        timeout_ms = "timeout_ms",
        retry_attempts = "retry_attempts"
    }
}

row_columns! {
    overdue_columns => OverdueCallback { next_attempt_at = "next_attempt_at", id = "id", job_id = "job_id" }
}

/// Inserts a callback. `run_job_id` is the job of the run; `None` unless a recurring callback creates the
/// callback.
pub fn insert(tx: &Tx<'_>, new: &StoredCallback, run_job_id: Option<JobId>) -> Result<(), Error> {
    let Callback { id, endpoint_id, url, method, state, due_at, created_at, job_id, .. } = &new.callback;
    tx.exec_deferred(
        "INSERT INTO callbacks (id, endpoint_id, url, method, headers, body, timeout_ms, state, reason, due_at,
             next_attempt_at, job_id, created_at, finished_at, recurring_id, run_job_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)",
        params![
            id,
            endpoint_id,
            url,
            method,
            new.headers,
            new.body,
            new.timeout_ms,
            state.as_str(),
            new.callback.reason.map(CallbackFailureReason::as_str),
            due_at,
            new.callback.next_attempt_at,
            job_id,
            created_at,
            new.callback.finished_at,
            new.callback.recurring_id,
            run_job_id,
        ],
    )?;
    Ok(())
}

/// Updates all columns of a callback that can change.
pub fn update(tx: &Tx<'_>, callback: &Callback, retry_attempts: i64) -> Result<(), Error> {
    tx.exec_deferred(
        "UPDATE callbacks SET state = $2, reason = $3, next_attempt_at = $4, attempts = $5, retry_attempts = $6,
             last_status = $7,
             job_id = $8, finished_at = $9
         WHERE id = $1",
        params![
            callback.id,
            callback.state.as_str(),
            callback.reason.map(CallbackFailureReason::as_str),
            callback.next_attempt_at,
            callback.attempts_made,
            retry_attempts,
            callback.last_status,
            callback.job_id,
            callback.finished_at,
        ],
    )?;
    Ok(())
}

/// Returns a callback with the request that it sends.
pub fn find(q: &Query<'_>, id: CallbackId) -> Result<Option<StoredCallback>, Error> {
    q.one(
        concat!("SELECT ", stored_columns!(), " FROM callbacks WHERE id = $1"),
        params![id],
        StoredCallback::read_row,
    )
}

macro_rules! list {
    ($($condition:literal),+) => {
        concat!(
            "SELECT ",
            callback_columns!(),
            " FROM callbacks WHERE ",
            $($condition),+
        )
    };
}

macro_rules! filtered_list {
    ($first:literal) => {
        list!(
            $first,
            " AND id < $1 AND (CAST($2 AS TEXT) IS NULL OR state = $2)
                 AND (CAST($3 AS TEXT) IS NULL OR endpoint_id = $3)
                 AND (CAST($4 AS TEXT) IS NULL OR recurring_id = $4)
             ORDER BY id DESC LIMIT $5"
        )
    };
}

/// Returns up to `limit` callbacks with an ID below `before`, newest first. An absent filter is passed as
/// NULL.
pub fn list(
    q: &Query<'_>,
    state: Option<CallbackState>,
    endpoint: Option<EndpointId>,
    recurring: Option<RecurringId>,
    before: CallbackId,
    limit: i64,
) -> Result<Vec<Callback>, Error> {
    // The first condition of each statement is one that an index supports.
    let sql = match (recurring, endpoint, state) {
        (Some(_), ..) => filtered_list!("recurring_id = $4"),
        (_, Some(_), _) => filtered_list!("endpoint_id = $3"),
        (_, _, Some(_)) => filtered_list!("state = $2"),
        (None, None, None) => {
            return q.all(
                list!("id < $1 ORDER BY id DESC LIMIT $2"),
                params![before, limit],
                Callback::read_row,
            );
        }
    };
    q.all(
        sql,
        params![before, state.map(CallbackState::as_str), endpoint, recurring, limit],
        Callback::read_row,
    )
}

/// Open callback whose next attempt is overdue.
#[derive(Clone, Copy, Debug)]
pub struct OverdueCallback {
    pub next_attempt_at: Timestamp,
    pub id: CallbackId,
    /// ID of the job that should deliver the callback.
    pub job_id: JobId,
}

/// Returns up to `limit` open callbacks whose next attempt was due before `before`, longest overdue first.
/// Begins after `after`.
pub fn list_overdue(
    q: &Query<'_>,
    before: Timestamp,
    after: Option<(Timestamp, CallbackId)>,
    limit: i64,
) -> Result<Vec<OverdueCallback>, Error> {
    let (at, id) = after.unwrap_or((Timestamp::EPOCH, CallbackId(Uuid::nil())));
    q.all(
        concat!(
            "SELECT ",
            overdue_columns!(),
            " FROM callbacks WHERE finished_at IS NULL AND next_attempt_at < $1 AND (next_attempt_at, id) > ($2, $3)
              ORDER BY next_attempt_at, id LIMIT $4"
        ),
        params![before, at, id, limit],
        OverdueCallback::read_row,
    )
}

/// Returns up to `limit` callbacks that ended before `before`.
pub fn list_finished(q: &Query<'_>, before: Timestamp, limit: i64) -> Result<Vec<CallbackId>, Error> {
    q.all(
        "SELECT id FROM callbacks WHERE finished_at IS NOT NULL AND finished_at < $1 ORDER BY finished_at LIMIT $2",
        params![before, limit],
        |row| row.get(0),
    )
}

/// Deletes a callback and its attempts.
pub fn delete(tx: &Tx<'_>, id: CallbackId) -> Result<(), Error> {
    tx.exec_deferred("DELETE FROM callback_attempts WHERE callback_id = $1", params![id])?;
    tx.exec_deferred("DELETE FROM callbacks WHERE id = $1", params![id])?;
    Ok(())
}
