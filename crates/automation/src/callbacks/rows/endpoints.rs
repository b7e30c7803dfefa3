//! SQL statements of endpoints. Secrets are sealed.

use kith_kernel::Timestamp;
use kith_store::{Error, Query, Row, Tx, params};

use super::super::model::{DisabledBecause, EndpointId, KeptEndpoint};
use super::super::rules::Breaker;

pub fn insert_endpoint(tx: &Tx<'_>, endpoint: &KeptEndpoint) -> Result<(), Error> {
    tx.exec(
        "INSERT INTO callback_endpoints (id, url, created_at, secret) VALUES ($1, $2, $3, $4)",
        params![endpoint.id, endpoint.url, endpoint.created_at, endpoint.secret],
    )?;
    Ok(())
}

/// Writes all columns of an endpoint that can change.
pub fn update_endpoint(tx: &Tx<'_>, endpoint: &KeptEndpoint) -> Result<(), Error> {
    let Breaker { failures, opened_at, openings, probe_until } = endpoint.breaker;
    tx.exec(
        "UPDATE callback_endpoints SET secret = $2, previous_secret = $3, previous_until = $4, disabled_at = $5,
             disabled_because = $6, failures = $7, opened_at = $8, openings = $9, probe_until = $10, failing_since = $11,
             last_success_at = $12, last_failure_at = $13, succeeded = $14, failed = $15
         WHERE id = $1",
        params![
            endpoint.id,
            endpoint.secret,
            endpoint.previous.as_ref().map(|(secret, _)| secret.as_slice()),
            endpoint.previous.as_ref().map(|(_, until)| *until),
            endpoint.disabled.map(|(at, _)| at),
            endpoint.disabled.map(|(_, because)| because.as_str()),
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

pub fn find_endpoint(q: &Query<'_>, id: EndpointId) -> Result<Option<KeptEndpoint>, Error> {
    q.one(
        "SELECT id, url, created_at, secret, previous_secret, previous_until, disabled_at, disabled_because, failures,
             opened_at, openings, probe_until, failing_since, last_success_at, last_failure_at, succeeded, failed
         FROM callback_endpoints WHERE id = $1",
        params![id],
        read,
    )
}

pub fn find_endpoint_by_url(q: &Query<'_>, url: &str) -> Result<Option<KeptEndpoint>, Error> {
    q.one(
        "SELECT id, url, created_at, secret, previous_secret, previous_until, disabled_at, disabled_because, failures,
             opened_at, openings, probe_until, failing_since, last_success_at, last_failure_at, succeeded, failed
         FROM callback_endpoints WHERE url = $1",
        params![url],
        read,
    )
}

/// Returns up to `limit` endpoints with an ID below `before`, newest first.
pub fn list_endpoints(q: &Query<'_>, before: EndpointId, limit: i64) -> Result<Vec<KeptEndpoint>, Error> {
    q.all(
        "SELECT id, url, created_at, secret, previous_secret, previous_until, disabled_at, disabled_because, failures,
             opened_at, openings, probe_until, failing_since, last_success_at, last_failure_at, succeeded, failed
         FROM callback_endpoints WHERE id < $1 ORDER BY id DESC LIMIT $2",
        params![before, limit],
        read,
    )
}

fn read(row: &Row<'_>) -> Result<KeptEndpoint, Error> {
    let because = row.get::<Option<String>>(7)?.as_deref().and_then(DisabledBecause::parse);
    Ok(KeptEndpoint {
        id: row.get(0)?,
        url: row.get(1)?,
        created_at: row.get(2)?,
        secret: row.get(3)?,
        previous: row.get::<Option<Vec<u8>>>(4)?.zip(row.get::<Option<Timestamp>>(5)?),
        disabled: row.get::<Option<Timestamp>>(6)?.zip(because),
        breaker: Breaker {
            failures: row.get(8)?,
            opened_at: row.get(9)?,
            openings: row.get(10)?,
            probe_until: row.get(11)?,
        },
        failing_since: row.get(12)?,
        last_success_at: row.get(13)?,
        last_failure_at: row.get(14)?,
        succeeded: row.get(15)?,
        failed: row.get(16)?,
    })
}
