//! SQL statements for attempts of callbacks. An attempt is inserted once and never changed.

use kith_store::{Error, FromRow as _, Query, Tx, params, row_columns};

use super::super::model::{CallbackAttempt, CallbackId, CapturedResponse};

row_columns! {
    attempt_columns => CallbackAttempt (
        headers: Option<String> = "response_headers",
        body: Option<String> = "response_body",
        is_complete: bool = "response_is_complete",
    ) {
        number = "number",
        at = "at",
        took_ms = "took_ms",
        status = "status",
        error = "error";
        response = headers.map(|headers| read_response(&headers, body.unwrap_or_default(), is_complete))
    }
}

fn read_response(headers: &str, body: String, is_complete: bool) -> CapturedResponse {
    CapturedResponse { headers: headers.lines().map(str::to_owned).collect(), body, is_complete }
}

pub fn insert_attempt(tx: &Tx<'_>, callback: CallbackId, attempt: &CallbackAttempt) -> Result<(), Error> {
    let response = attempt.response.as_ref();
    tx.exec_deferred(
        "INSERT INTO callback_attempts (callback_id, number, at, took_ms, status, error, response_headers, response_body,
             response_is_complete)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        params![
            callback,
            attempt.number,
            attempt.at,
            attempt.took_ms,
            attempt.status,
            attempt.error,
            response.map(|response| response.headers.join("\n")),
            response.map(|response| &*response.body),
            response.is_none_or(|response| response.is_complete),
        ],
    )?;
    Ok(())
}

/// Returns the last `limit` attempts of a callback, newest first.
pub fn list_attempts(q: &Query<'_>, callback: CallbackId, limit: i64) -> Result<Vec<CallbackAttempt>, Error> {
    q.all(
        concat!(
            "SELECT ",
            attempt_columns!(),
            " FROM callback_attempts WHERE callback_id = $1 ORDER BY number DESC LIMIT $2"
        ),
        params![callback, limit],
        CallbackAttempt::read_row,
    )
}
