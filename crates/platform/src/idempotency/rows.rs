//! SQL statements on idempotency keys.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use bytes::Bytes;
use http::StatusCode;
use kith_kernel::{Ctx, Timestamp};
use kith_store::{Error, Query, Tx, params};

use super::response::SerializedResponse;
use crate::auth::Keyring;

/// Stored response.
pub(super) struct StoredResponse {
    pub fingerprint: Vec<u8>,
    pub answer: SerializedResponse,
}

/// Returns the name with which a body is encrypted. Bodies are encrypted because they can contain secrets
/// that are returned only once.
fn seal_name(id: &[u8; 32]) -> String {
    format!("idempotency:{}", BASE64.encode(id))
}

/// Returns the response that was stored under `id` at or after `since`.
pub(super) fn find(
    q: &Query<'_>,
    keyring: &Keyring,
    id: &[u8; 32],
    since: Timestamp,
) -> Result<Option<StoredResponse>, Error> {
    q.one(
        "SELECT fingerprint, status, headers, body FROM idempotency_keys WHERE id = $1 AND created_at >= $2",
        params![id, since],
        |row| {
            let status =
                u16::try_from(row.get::<i64>(1)?).ok().and_then(|code| StatusCode::from_u16(code).ok());
            let status = status.expect("it was stored with a status");
            let headers = SerializedResponse::parse_headers(&row.get::<String>(2)?);
            let sealed = row.get::<Option<Vec<u8>>>(3)?;
            let open = |sealed: Vec<u8>| {
                keyring.open(&seal_name(id), &sealed).expect("it was encrypted under this key")
            };
            let body = sealed.map(open).map(Bytes::from);
            Ok(StoredResponse {
                fingerprint: row.get(0)?,
                answer: SerializedResponse { status, headers, body },
            })
        },
    )
}

/// Stores a response. Replaces an expired response with the same id.
pub(super) fn store_response(
    tx: &Tx<'_>,
    ctx: &Ctx,
    keyring: &Keyring,
    id: &[u8; 32],
    fingerprint: &[u8; 32],
    answer: &SerializedResponse,
) -> Result<(), Error> {
    let body = answer.body.as_deref();
    let sealed = body.map(|body| keyring.seal(ctx.randomness(), &seal_name(id), body));
    tx.exec_deferred(
        "INSERT INTO idempotency_keys (id, fingerprint, status, headers, body, created_at)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (id) DO UPDATE SET fingerprint = excluded.fingerprint, status = excluded.status,
             headers = excluded.headers, body = excluded.body, created_at = excluded.created_at",
        params![id, fingerprint, i64::from(answer.status.as_u16()), answer.header_lines(), sealed, ctx.now,],
    )?;
    Ok(())
}

/// Removes up to `limit` responses stored before `before`. Returns their number.
pub(super) fn remove(tx: &Tx<'_>, before: Timestamp, limit: i64) -> Result<u64, Error> {
    tx.exec(
        "DELETE FROM idempotency_keys WHERE id IN (
             SELECT id FROM idempotency_keys WHERE created_at < $1 ORDER BY created_at LIMIT $2)",
        params![before, limit],
    )
}
