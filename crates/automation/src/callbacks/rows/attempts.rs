//! SQL statements of attempts. Each attempt is written once.

use kith_store::{Error, Query, Tx, params};

use super::super::model::{Attempt, CallbackId, Captured};

pub fn insert_attempt(tx: &Tx<'_>, callback: CallbackId, attempt: &Attempt) -> Result<(), Error> {
    let response = attempt.response.as_ref();
    tx.exec(
        "INSERT INTO callback_attempts (callback_id, number, at, took_ms, status, error, response_headers, response_body,
             response_is_whole)
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
            response.is_none_or(|response| response.is_whole),
        ],
    )?;
    Ok(())
}

/// Returns the last `limit` attempts of a callback, newest first.
pub fn list_attempts(q: &Query<'_>, callback: CallbackId, limit: i64) -> Result<Vec<Attempt>, Error> {
    q.all(
        "SELECT number, at, took_ms, status, error, response_headers, response_body, response_is_whole
         FROM callback_attempts WHERE callback_id = $1 ORDER BY number DESC LIMIT $2",
        params![callback, limit],
        |row| {
            let headers = row.get::<Option<String>>(5)?;
            let body = row.get::<Option<String>>(6)?;
            let is_whole = row.get(7)?;
            let captured = |headers: String| Captured {
                headers: headers.lines().map(str::to_owned).collect(),
                body: body.clone().unwrap_or_default(),
                is_whole,
            };
            Ok(Attempt {
                number: row.get(0)?,
                at: row.get(1)?,
                took_ms: row.get(2)?,
                status: row.get(3)?,
                error: row.get(4)?,
                response: headers.map(captured),
            })
        },
    )
}
