//! SQL statements for callback endpoints. Secrets are stored encrypted.

use kith_kernel::Timestamp;
use kith_store::{Error, FromRow as _, Query, Tx, params, row_columns};

use super::super::model::{DisabledReason, EndpointId, StoredEndpoint};
use super::super::rules::CircuitBreaker;

row_columns! {
    breaker_columns => CircuitBreaker {
        failures = "failures",
        opened_at = "opened_at",
        openings = "openings",
        probe_until = "probe_until"
    }
}

row_columns! {
    endpoint_columns => StoredEndpoint (
        previous_secret: Option<Vec<u8>> = "previous_secret",
        previous_until: Option<Timestamp> = "previous_until",
        disabled_at: Option<Timestamp> = "disabled_at",
        reason: Option<String> = "disabled_reason",
    ) {
        id = "id",
        url = "url",
        created_at = "created_at",
        secret = "secret",
        breaker = breaker_columns!(),
        failing_since = "failing_since",
        last_success_at = "last_success_at",
        last_failure_at = "last_failure_at",
        succeeded = "succeeded",
        failed = "failed";
        previous = previous_secret.zip(previous_until);
        disabled = disabled_at.zip(reason.as_deref().and_then(DisabledReason::parse))
    }
}

pub fn insert_endpoint(tx: &Tx<'_>, endpoint: &StoredEndpoint) -> Result<(), Error> {
    tx.exec_deferred(
        "INSERT INTO callback_endpoints (id, url, created_at, secret) VALUES ($1, $2, $3, $4)",
        params![endpoint.id, endpoint.url, endpoint.created_at, endpoint.secret],
    )?;
    Ok(())
}

/// Updates all columns of an endpoint that can change.
pub fn update_endpoint(tx: &Tx<'_>, endpoint: &StoredEndpoint) -> Result<(), Error> {
    let CircuitBreaker { failures, opened_at, openings, probe_until } = endpoint.breaker;
    tx.exec_deferred(
        "UPDATE callback_endpoints SET secret = $2, previous_secret = $3, previous_until = $4, disabled_at = $5,
             disabled_reason = $6, failures = $7, opened_at = $8, openings = $9, probe_until = $10, failing_since = $11,
             last_success_at = $12, last_failure_at = $13, succeeded = $14, failed = $15
         WHERE id = $1",
        params![
            endpoint.id,
            endpoint.secret,
            endpoint.previous.as_ref().map(|(secret, _)| secret.as_slice()),
            endpoint.previous.as_ref().map(|(_, until)| *until),
            endpoint.disabled.map(|(at, _)| at),
            endpoint.disabled.map(|(_, reason)| reason.as_str()),
            failures,
            opened_at,
            openings,
            probe_until,
            endpoint.failing_since,
            endpoint.last_success_at,
            endpoint.last_failure_at,
            endpoint.succeeded,
            endpoint.failed,
        ],
    )?;
    Ok(())
}

pub fn find_endpoint(q: &Query<'_>, id: EndpointId) -> Result<Option<StoredEndpoint>, Error> {
    q.one(
        concat!("SELECT ", endpoint_columns!(), " FROM callback_endpoints WHERE id = $1"),
        params![id],
        StoredEndpoint::read_row,
    )
}

pub fn find_endpoint_by_url(q: &Query<'_>, url: &str) -> Result<Option<StoredEndpoint>, Error> {
    q.one(
        concat!("SELECT ", endpoint_columns!(), " FROM callback_endpoints WHERE url = $1"),
        params![url],
        StoredEndpoint::read_row,
    )
}

/// Returns up to `limit` endpoints with an ID below `before`, newest first.
pub fn list_endpoints(q: &Query<'_>, before: EndpointId, limit: i64) -> Result<Vec<StoredEndpoint>, Error> {
    q.all(
        concat!(
            "SELECT ",
            endpoint_columns!(),
            " FROM callback_endpoints WHERE id < $1 ORDER BY id DESC LIMIT $2"
        ),
        params![before, limit],
        StoredEndpoint::read_row,
    )
}
